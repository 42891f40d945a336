"""What a GPU run leaves: records merged, tables filled, damage named."""

import re

import pytest

from benchmarks.gpu import tables
from benchmarks.gpu.networks import DIRECT
from benchmarks.gpu.record import Record, describe


@pytest.mark.slow
def test_the_tables_of_the_documents_are_those_of_the_record():
    parts, texts = Record(tables.RESULTS).read()["parts"], [document.read_text() for document in tables.DOCUMENTS]
    assert [tables.fill(text, parts) for text in texts] == texts, "run python -m benchmarks.gpu.tables"
    assert set(re.findall(r"<!-- begin (\w+) -->", "".join(texts))) == set(tables.TABLES)


def test_a_measurement_gets_its_place_in_the_tables():
    cell = {"scan": "triton", "batch": 1024, "length": 1024, "width": 128, "direction": "forward"}
    rows = [{"cell": cell, "figures": {"seconds": 1.23e-3, "bytes_per_second": 1.42e12}}]
    card = [{"cell": {"what": "copy"}, "figures": {"bytes_per_second": 2e12}}]
    rows.append({"cell": cell | {"width": 256}, "skipped": "out of memory"})
    first, _, second, *_ = tables._scan({"scan": rows, "card": card})
    assert first[6:8] == ["1.23 ms", "71%"] and second[6:8] == ["out of memory"] * 2
    assert first[8] == tables.NOT_YET
    step = {"network": DIRECT, "batch": 1024, "precision": "float32", "mode": "eager"}
    card.append({"cell": {"what": "matrix product, float32"}, "figures": {"operations_per_second": 50e12}})
    lines = tables._train({"train": [{"cell": step, "figures": {"steps_per_second": 40.0, "busy": 0.52}}], "card": card})
    (line,) = (line for line in lines if line[:2] == [f"`{DIRECT}`", "1,024"])
    assert line[5:] == ["40.0", tables.NOT_YET, tables.NOT_YET, "52%", "15%"]  # of 189 GFLOP a step
    figures = {"trajectory_error": 2e-3, "trajectory_error_of_cpu": 1e-6, "gradient_error": 2e-5, "gradient_error_of_cpu": 1e-5}
    checks = [{"cell": {"check": "network", "network": DIRECT}, "figures": figures | {"passed": False}}]
    lines = {line[0]: line[1:] for line in tables._parity({"parity": checks})}
    assert lines["`mambonet-direct`, q and p"] == ["10 times the CPU's", "2.0e-03, 1 of 1 failed", "1.0e-06"]
    assert lines["`mambonet-direct`, gradient"] == ["10 times the CPU's", "2.0e-05", "1.0e-05"]
    solver = {"cell": {"solver": "rk4", "accuracy_of": "orbitnet", "trajectories": 16384}}
    solver["figures"] = {"seconds_each": 3.4e-6, "times_the_networks_loss": 23.4}
    asked = {"model": "orbitnet", "trajectories": 16384, "precision": "float32"}
    rows = [{"cell": asked, "figures": {"seconds_each": 2e-6, "seconds_each_from_host_to_host": 4e-6}}, solver]
    (line,) = (line for line in tables._infer({"infer": rows}) if line[:2] == ["`orbitnet`", "16,384"])
    assert line[3:] == ["2.00 µs", "4.00 µs", "3.40 µs, at 23 times the loss"]
    with pytest.raises(ValueError, match="table is 'cards'; choose one of card"):
        tables.fill("<!-- begin cards -->\n<!-- end cards -->", {})


def record_of(folder, *parts, tiny=False, loss=1.0):
    record = Record(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for part in parts:
        record.begin(part, tiny=tiny)
        record.add(part, {"cell": {"network": DIRECT}, "figures": {"validation_loss": loss}})
        record.end(part, "done")


def test_what_a_run_left_is_kept_beside_what_others_left(tmp_path):
    results = tmp_path / "results"
    record_of(tmp_path / "first", "card", "learn", loss=1.0)
    record_of(tmp_path / "second", "learn", loss=0.5)
    for number, folder in enumerate(("first", "second"), start=1):
        checkpoint = tmp_path / folder / "learn" / "checkpoints" / f"epoch-{number:05d}.safetensors"
        checkpoint.parent.mkdir(parents=True)
        checkpoint.write_bytes(b"")
        tables.keep(tmp_path / folder, results)
    parts = Record(results).read()["parts"]
    assert list(parts) == ["card", "learn"] and parts["learn"]["rows"][0]["figures"]["validation_loss"] == 0.5
    assert [path.name for path in results.rglob("*.safetensors")] == ["epoch-00002.safetensors"]
    Record(tmp_path / "second").begin("card", tiny=False)  # begun and killed: what is there already is worth more
    tables.keep(tmp_path / "second", results)
    assert Record(results).read()["parts"]["card"]["rows"]
    record_of(tmp_path / "rehearsal", "card", tiny=True)
    with pytest.raises(ValueError, match="holds a rehearsal"):
        tables.keep(tmp_path / "rehearsal", results)
    with pytest.raises(ValueError, match=r"holds no gpu\.json"):
        tables.keep(tmp_path / "nothing", results)


@pytest.mark.parametrize("content", ["", '{"parts": ', "[]", '{"parts": {"card": 3}}', '{"parts": {"card": {}}}', "[" * 100_000])
def test_a_damaged_record_is_one_sentence(tmp_path, content):
    (tmp_path / "gpu.json").write_text(content)
    with pytest.raises(ValueError, match=r"gpu\.json is damaged; delete it, or give another folder"):
        tables.keep(tmp_path, tmp_path / "results")
    with pytest.raises(SystemExit, match="2"):
        tables.main([str(tmp_path)])


def test_lines_have_units():
    figures = {"seconds": 2.29e-6, "bytes_per_second": 2.1e12, "passed": True, "busy": 0.25}
    row = {"cell": {"scan": "triton", "batch": 100}, "figures": figures}
    assert describe(row) == "triton, batch 100: seconds 2.29 µs, bytes per second 2.1 T, passed True, busy 0.25"
    assert describe({"cell": {"what": "copy"}, "failed": "why"}) == "copy: failed: why"
