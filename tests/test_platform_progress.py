"""The lines of progress where nobody watches, by a clock that the test turns."""

import pytest

from neural_hamilton.platform import progress
from neural_hamilton.platform.progress import Progress


def test_the_estimate_leaves_out_start_up_and_what_was_done_before(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    bar = Progress("work", 10, done=4)
    for seconds, note in ((60.0, "the first"), (5.0, "too soon"), (15.0, "the third")):
        clock[0] += seconds
        bar.advance(note=note)
    assert capsys.readouterr().err == "work: 5/10 the first\nwork: 7/10, 30 s left the third\n"
