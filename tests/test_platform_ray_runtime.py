"""What joining Ray leaves in the environment of its workers."""

import os

import pytest

from neural_hamilton.platform.ray_runtime import connect


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)],
    ids=["default", "count", "policy"],
)
def test_workers_wait_for_each_other_briefly_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], spins: str | None
) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: True)  # the environment is set before Ray starts its workers
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, given.get(name, ""))  # restored afterwards, whatever `connect` sets
        if name not in given:
            monkeypatch.delenv(name)
    connect()
    assert os.environ.get("GOMP_SPINCOUNT") == spins
