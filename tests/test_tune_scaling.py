"""Dataset-size studies: the fit against laws known exactly, then real cells on Ray Tune."""

import csv
import json
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb
from scipy import stats

from neural_hamilton.architectures import load_model
from neural_hamilton.physics import InputError
from neural_hamilton.platform.cli import main
from neural_hamilton.platform.config import Config, DataConfig, load_config
from neural_hamilton.platform.data.datasets import read_split
from neural_hamilton.platform.data.generation import generate
from neural_hamilton.platform.evaluation import predict_split
from neural_hamilton.platform.training.loop import train
from neural_hamilton.platform.training.run_folder import prepare_run
from neural_hamilton.tune.fits import confidence_band, fit_power_law, fit_scaling_law
from neural_hamilton.tune.scaling import conclusions, laws
from neural_hamilton.tune.scaling import scale as scaling_module
from neural_hamilton.tune.scaling.cells import Cell
from neural_hamilton.tune.scaling.conclusions import study_tables
from neural_hamilton.tune.scaling.contestants import Contestant, read_contestants
from neural_hamilton.tune.scaling.law_figure import draw_scaling
from neural_hamilton.tune.scaling.laws import by_size, fit_losses, fit_text
from neural_hamilton.tune.scaling.planning import plan_scale
from neural_hamilton.tune.scaling.retuning import with_spaces
from neural_hamilton.tune.scaling.scale import scale
from neural_hamilton.tune.scores import CELL_FILE, FIGURES, LOSSES_FILE, compare_pairs
from neural_hamilton.tune.sweeps import sweep as sweep_module
from neural_hamilton.tune.trials import read_history

TINY = {
    "architecture.name": "deeponet",
    "architecture.width": 8,
    "architecture.num_layers": 1,
    "architecture.num_channels": 4,
    "training.epochs": 3,
    "training.batch_size": 16,
}


def tiny(**overrides: Any) -> Config:
    return load_config(overrides=TINY | {key.replace("__", "."): value for key, value in overrides.items()})


def test_the_fit_recovers_an_exact_law() -> None:
    sizes = [100, 300, 1000, 3000]
    fit = fit_power_law(sizes, [2.5 * n**-0.7 for n in sizes], 0.95)
    assert fit["a"] == pytest.approx(2.5)
    assert fit["b"] == pytest.approx(0.7)
    assert fit["b_interval"] == pytest.approx([0.7, 0.7])
    assert fit["note"] is None


def test_the_interval_is_that_of_linear_regression() -> None:
    rng = np.random.default_rng(0)
    sizes = [100, 100, 300, 300, 1000, 1000, 3000]
    losses = [n**-0.5 * np.exp(0.2 * rng.standard_normal()) for n in sizes]
    fit = fit_power_law(sizes, losses, 0.9)
    line = stats.linregress(np.log(sizes), np.log(losses))
    half = stats.t.ppf(0.95, len(sizes) - 2) * line.stderr
    assert fit["b"] == pytest.approx(-line.slope)
    assert fit["b_interval"] == pytest.approx([-line.slope - half, -line.slope + half])


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    sizes = [100, 100, 300, 300, 1000, 1000]
    covered = 0
    for _ in range(1000):
        low, high = fit_power_law(sizes, [n**-0.5 * np.exp(0.3 * rng.standard_normal()) for n in sizes], 0.8)["b_interval"]
        covered += low <= 0.5 <= high
    assert covered == pytest.approx(800, abs=4 * np.sqrt(1000 * 0.8 * 0.2))


@pytest.mark.parametrize(
    ("sizes", "losses", "known", "words"),
    [
        ([], [], [], "2 different sizes, there are 0"),
        ([10, 10, 10], [1.0, 2.0, 3.0], [], "2 different sizes, there are 1"),
        ([10, 100], [1.0, 0.1], ["a", "b"], "at least 3 points, there are 2"),
        ([10, 100, 1000], [1.0, 0.1, float("nan")], ["a", "b"], "at least 3 points"),
    ],
)
def test_what_the_points_do_not_determine_is_none(sizes: list[int], losses: list[float], known: list[str], words: str) -> None:
    fit = fit_power_law(sizes, losses, 0.95)
    assert [key for key in ("a", "b", "b_interval") if fit[key] is not None] == known
    assert words in fit["note"]


def test_the_band_is_narrowest_in_the_middle() -> None:
    sizes = [100, 300, 1000, 3000]
    fit = fit_power_law(sizes, [1.0, 0.7, 0.3, 0.2], 0.95)
    low, high = confidence_band(sizes, fit, 0.95, np.geomspace(100, 3000, 21))
    width = np.log(high / low)
    assert np.argmin(width) in range(9, 12)
    assert np.all(low < high)


def concluded(
    out: Path, sizes: list[int], seeds: int, monkeypatch: pytest.MonkeyPatch, draws: int = 1, spread: float = 0.0, **overrides: Any
) -> dict[str, Any]:
    """What a study concludes from cells whose losses obey laws: `good` has a floor, `bad` has none and falls faster.

    Losses vary by 3% from seed to seed, and by `spread` from draw to draw.
    """
    monkeypatch.setattr(conclusions, "read_manifest", lambda _: {"dataset_hash": "0" * 64})
    monkeypatch.setattr(laws, "fit_scaling_law", partial(fit_scaling_law, resamples=300))
    rng = np.random.default_rng(1)
    cells = [Cell(name, size, seed, draw) for name in ("good", "bad") for size in sizes for draw in range(draws) for seed in range(seeds)]
    of_draw = {(cell.contestant, cell.size, cell.draw): np.exp(spread * rng.standard_normal()) for cell in cells} if spread else {}
    for cell in cells:
        run = out / "runs" / cell.name
        run.mkdir(parents=True)
        law = 1e-6 + 1e-4 * cell.size**-0.4 if cell.name.startswith("good") else 0.1 * cell.size**-0.8
        loss = law * np.exp(0.03 * rng.standard_normal()) * of_draw.get((cell.contestant, cell.size, cell.draw), 1.0)
        values: dict[str, Any] = dict.fromkeys((*FIGURES, "validation_loss", "seconds"), 1.0)
        values |= {"epochs": 1, "steps": 500, "num_parameters": 7, "rows": 8, "stopped_early": cell.seed == 0}
        (run / CELL_FILE).write_text(json.dumps(values | {"architecture": "fno", "median": loss, "mean": 2 * loss, "p99": 9 * loss}))
        np.save(run / LOSSES_FILE, np.full(8, loss))
    return conclusions.conclude(tiny(**overrides), out, out, cells, "test", {"new_cells": 0, "retuning": []})


def rows_of(result: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [row for row in result["cells"] if row["name"] == name]


def test_a_study_of_many_sizes_has_laws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [100, 250, 600, 1500, 4000, 10000]
    result = concluded(tmp_path, sizes, 3, monkeypatch, scaling__steps=500)
    assert json.loads((tmp_path / "scaling.json").read_text()) == result
    assert (result["protocol"], result["budget"]) == ("equal-steps", "500 steps")
    good, bad = (result["fits"][name]["median"] for name in ("good", "bad"))
    assert good["law"]["alpha_interval"][0] < 0.4 < good["law"]["alpha_interval"][1]
    assert bad["law"]["alpha_interval"][0] < 0.8 < bad["law"]["alpha_interval"][1]
    assert (bad["law"]["preferred"], bad["law"]["holds"], bad["law_note"]) == ("power law", True, None)
    assert bad["b"] == bad["law"]["power_law_alpha"]
    measured = [row["median"] for row in result["cells"] if (row["name"], row["size"]) == ("bad", 10000)]
    assert bad["held_out"]["measured"] == pytest.approx(stats.gmean(measured))
    assert (bad["held_out"]["size"], bad["held_out"]["model"], bad["held_out"]["inside"]) == (10000, "floor", True)
    assert bad["held_out"]["interval"][0] < 0.1 * 10000**-0.8 < bad["held_out"]["interval"][1]
    (pair,) = result["law_pairs"]["median"]
    assert (pair["better"], pair["worse"]) == ("good", "bad") and pair["alpha_interval"][0] > 0
    text = (tmp_path / "scaling.md").read_text()
    assert text == study_tables(result)
    assert "protocol equal-steps: every cell trains 500 steps" in text
    assert "- bad, median: loss = E + A * size^(-alpha), alpha = 0.8" in text
    assert "E = 0 is not excluded, and a power law without E has alpha" in text
    assert "held out, 10,000 rows" in text and "predicted by the law of the smaller sizes" in text
    assert "- median: alpha of `bad` minus that of `good` is +0." in text
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")
    svg = (tmp_path / "scaling.svg").read_text()
    assert svg.startswith("<?xml") and svg.count("<!-- good: $") == svg.count("<!-- bad: $") == 1
    assert "<!-- protocol equal-steps: 500 steps at every size -->" in svg
    figure = draw_scaling(result, {name: fit_losses(by_size(rows_of(result, name), "median"), 0.95)[1] for name in ("good", "bad")})
    handles = figure.legends[0].legend_handles[:2]
    for look in ("get_color", "get_marker", "get_linestyle"):  # legible without colours too
        assert len({getattr(handle, look)() for handle in handles}) == 2
    (axes,) = figure.axes
    inside = 0
    bands = [each for each in axes.collections if isinstance(each, PolyCollection)]
    for name, handle, band in zip(("good", "bad"), handles, bands, strict=True):
        assert band.get_facecolor()[0][:3] == pytest.approx(to_rgb(handle.get_color()))
        points = [(size, stats.gmean(losses)) for size, losses in by_size(rows_of(result, name), "median").items()]
        points[0], points[-1] = (1.001 * sizes[0], points[0][1]), (0.999 * sizes[-1], points[-1][1])  # not on the band's edge
        inside += sum(band.get_paths()[0].contains_points(points, radius=0.0))
    assert inside >= 11, "bands hold about 95% of the 12 points"


def test_four_sizes_hold_out_by_a_power_law_and_three_have_no_floor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    four = concluded(tmp_path / "four", [100, 400, 1600, 6400], 2, monkeypatch)
    assert four["protocol"] == "equal-epochs" and "protocol equal-epochs" in four["note"] and "optimisation as well as data" in four["note"]
    bad = four["fits"]["bad"]["mean"]
    assert bad["law"]["repetitions"] == [2, 2, 2, 2] and bad["held_out"]["model"] == "power law"
    assert bad["held_out"]["interval"][0] < 0.2 * 6400**-0.8 < bad["held_out"]["interval"][1]
    assert "the power law of the smaller sizes" in fit_text(bad, 0.95)
    three = concluded(tmp_path / "three", [100, 400, 1600], 2, monkeypatch)
    assert three["fits"]["bad"]["mean"]["law"] is None and three["law_pairs"] == {"median": [], "mean": [], "p99": []}
    text = fit_text(three["fits"]["bad"]["mean"], 0.95)
    assert text.startswith("loss = ") and "no floor: a law with one needs at least 4 sizes, there are 3" in text
    assert "protocol equal-epochs: 3 epochs at every size" in (tmp_path / "three" / "scaling.svg").read_text()


def test_the_summary_says_what_the_losses_leave_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = concluded(tmp_path / "alone", [100, 400, 1600, 6400], 1, monkeypatch)
    text = fit_text(alone["fits"]["good"]["median"], 0.95)
    assert "neither alpha nor E is identified" in text and "no test of whether the law holds" in text
    law = concluded(tmp_path / "three", [100, 250, 600, 1500], 3, monkeypatch)["fits"]["good"]["median"]
    bent = law | {"law": law["law"] | {"holds": False, "lack_of_fit": {"statistic": 9.0, "freedom": [3, 12], "p_value": 0.002}}}
    assert "the law does not hold: its lack of fit exceeds the scatter of the runs (F test, p = 0.002)" in fit_text(bent, 0.95)


def test_draws_are_the_repetitions_where_there_are_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws that differ by 20% make an interval wide that 3% from seed to seed would make narrow, for laws and for comparisons alike."""
    sizes = [100, 250, 600, 1500, 4000, 10000]
    result = concluded(tmp_path / "draws", sizes, 3, monkeypatch, draws=3, spread=0.2, scaling__steps=500)
    assert result["repetitions"] == "draws" and "intervals cover draws of the dataset and seeds" in result["note"]
    law = result["fits"]["bad"]["median"]["law"]
    assert law["repetitions"] == [3] * 6 and 0.1 < law["residual_sd"] < 0.35
    assert law["alpha_interval"][0] < 0.8 < law["alpha_interval"][1]
    of_size = [row for row in result["cells"] if (row["name"], row["size"]) == ("bad", 10000)]
    assert [(row["draw"], row["seed"]) for row in of_size] == [(draw, seed) for draw in range(3) for seed in range(3)]
    assert result["fits"]["bad"]["median"]["held_out"]["measured"] == pytest.approx(stats.gmean([row["median"] for row in of_size]))
    alone = concluded(tmp_path / "seeds", sizes, 3, monkeypatch, scaling__steps=500)
    assert alone["repetitions"] == "seeds" and "one draw of the dataset, so intervals cover training seeds alone" in alone["note"]
    assert alone["fits"]["bad"]["median"]["law"]["residual_sd"] < 0.06
    logs = {
        name: [np.log(stats.gmean([row["median"] for row in result["cells"] if (row["name"], row["size"], row["draw"]) == (name, 100, d)]))
               for d in range(3)] for name in ("good", "bad")
    }  # fmt: skip
    difference = np.subtract(logs["bad"], logs["good"])
    (pair,) = [pair for pair in result["pairs"] if pair["size"] == 100]
    assert pair["interval"] == pytest.approx(np.exp(stats.t.interval(0.95, 2, difference.mean(), stats.sem(difference))))


def test_every_table_names_the_protocol_and_holds_every_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = concluded(
        tmp_path, [100, 400], 2, monkeypatch, draws=2, spread=0.1, training__schedule="constant",
        scaling__protocol="to-convergence", scaling__steps=500, scaling__patience=90,
    )  # fmt: skip
    assert result["budget"] == "until 90 steps bring no smaller validation loss, at most 500"
    assert "8 of 16 cells reached the most steps before that, so their losses are upper limits" in result["note"]
    table = pq.read_table(tmp_path / "scaling.parquet")
    assert table.to_pylist() == result["cells"]
    assert (table.schema.field("reason").type, table.schema.field("draw").type) == (pa.string(), pa.int64())
    assert set(table.column("protocol").to_pylist()) == {"to-convergence"}
    rows = list(csv.DictReader((tmp_path / "scaling.csv").open()))
    assert {(row["protocol"], row["converged"]) for row in rows} == {("to-convergence", "True"), ("to-convergence", "False")}
    for name in ("scaling.md", "scaling.svg"):
        assert "protocol to-convergence" in (tmp_path / name).read_text()


def test_a_smaller_grid_leaves_what_is_there_in_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [100, 250, 600, 1500]
    large = concluded(tmp_path, sizes, 2, monkeypatch)
    run = tmp_path / "runs" / "good-9000-0"
    run.mkdir()
    (run / "config.yaml").write_text("begun, and not ended")
    small = conclusions.conclude(tiny(), tmp_path, tmp_path, [Cell("bad", 250, 1)], "test", {"new_cells": 0, "retuning": []})
    assert {row["name"] for row in small["cells"]} == {"good", "bad"} and small["fits"] == large["fits"]
    key = lambda row: (row["name"], row["size"], row["seed"])  # noqa: E731
    assert sorted(small["cells"], key=key) == sorted(large["cells"], key=key)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scale") / "dataset"
    generate(folder, DataConfig(train=64, val=8, test=8, sensors=20, times=20), local=True)
    return folder


class _StopError(Exception):
    pass


def _begin(config: Config, dataset: Path, run: Path) -> None:
    """Leave a cell as a killed driver does after its first epoch."""

    def stop(_: dict[str, float]) -> None:
        raise _StopError

    with pytest.raises(_StopError):
        train(prepare_run(run, dataset, config, resume=False), dataset, run, stop)


@pytest.fixture(scope="module")
def studied(ray_session: Any, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A study of which one cell was half done when it began."""
    out = tmp_path_factory.mktemp("scale") / "study"
    with scaling_module.claimed(out, scaling_module.identity(tiny(), dataset)):
        pass
    _begin(tiny(training__train_rows=16, training__val_rows=2, training__seed=0), dataset, out / "runs" / "deeponet-16-0")
    begun = read_history(out / "runs" / "deeponet-16-0")
    assert len(begun) == 1
    result = scale(tiny(), dataset, out, ["deeponet"], [16, 64], 2)
    return out, result | {"begun": begun}


def test_every_cell_is_trained_and_measured(studied: tuple[Path, dict[str, Any]]) -> None:
    _, result = studied
    assert [(row["size"], row["seed"], row["epochs"]) for row in result["cells"]] == [(16, 0, 3), (16, 1, 3), (64, 0, 3), (64, 1, 3)]
    assert all(row["state"] == "finished" and row["rows"] == 8 and 0 < row["median"] < np.inf for row in result["cells"])
    assert len({row["median"] for row in result["cells"]}) == 4
    assert result["dataset"]["split"] == "test"
    assert result["fits"]["deeponet"]["median"]["points"] == 4
    assert result["fits"]["deeponet"]["mean"]["b_interval"] is not None
    assert "3 epochs whatever its size" in result["note"]


def test_a_cell_begun_is_continued(studied: tuple[Path, dict[str, Any]]) -> None:
    out, result = studied
    history = read_history(out / "runs" / "deeponet-16-0")
    assert history[:1] == result["begun"]
    assert len(history) == 3


def test_the_files_hold_the_result(studied: tuple[Path, dict[str, Any]]) -> None:
    out, result = studied
    assert json.loads((out / "scaling.json").read_text()) == {key: value for key, value in result.items() if key != "begun"}
    rows = list(csv.DictReader((out / "scaling.csv").open()))
    assert [float(row["median"]) for row in rows] == [row["median"] for row in result["cells"]]
    assert (out / "scaling.png").read_bytes().startswith(b"\x89PNG")


def test_a_second_call_does_nothing(studied: tuple[Path, dict[str, Any]], dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, result = studied
    monkeypatch.setattr(scaling_module, "run_trials", lambda *_, **__: pytest.fail("cells ran"))
    before = {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*")}
    again = scale(tiny(), dataset, out, ["deeponet"], [16, 64], 2)
    assert again | {"begun": result["begun"]} == result | {"new_cells": 0}
    assert {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*")} == before


def test_the_command_prints_one_json_line(studied: tuple[Path, dict[str, Any]], dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, result = studied
    arguments = ["scale", str(dataset), "--arch", "deeponet", "--sizes", "16,64", "--seeds", "2", "--out", str(out)]
    for key, value in TINY.items():
        arguments += ["--set", f"{key}={value}"]
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["fits"] == result["fits"]
    assert main(arguments) == 0
    assert "loss = " in capsys.readouterr().out
    assert main([*arguments, "--sizes", "16,6x"]) == 2
    assert "'16,6x'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("architectures", "sizes", "seeds", "words"),
    [
        (["deeponet"], [16, 65], 1, "--sizes has 65; the dataset has 64"),
        (["deeponet"], [0], 1, "--sizes has 0"),
        (["deeponet"], [], 1, "--sizes is ''"),
        (["deeponet"], [16, 16], 1, "different"),
        (["deeponet"], [16], 0, "--seeds is 0"),
        (["perceptron"], [16], 1, "perceptron"),
        ([], [16], 1, "--arch is ''"),
    ],
)
def test_a_bad_grid_is_refused_before_anything_runs(
    dataset: Path, tmp_path: Path, architectures: list[str], sizes: list[int], seeds: int, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        scale(tiny(), dataset, tmp_path / "out", architectures, sizes, seeds)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"training__epochs": 4}, "training.epochs 3 (asked for 4)"),
        ({"architecture__width": 9}, "architecture.width 8 (asked for 9)"),
    ],
)
def test_another_study_is_refused(studied: tuple[Path, dict[str, Any]], dataset: Path, overrides: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match="already holds") as refusal:
        scale(tiny(**overrides), dataset, studied[0], ["deeponet"], [16, 64], 2)
    assert words in str(refusal.value)


def test_a_study_of_a_version_with_fewer_settings_goes_on(studied: tuple[Path, dict[str, Any]], dataset: Path, tmp_path: Path) -> None:
    shutil.copytree(studied[0], tmp_path / "out")
    record = tmp_path / "out" / "study.json"
    values = json.loads(record.read_text())
    del values["training"]["rollouts"], values["training"]["cuda_graph"]
    record.write_text(json.dumps(values))
    assert scale(tiny(), dataset, tmp_path / "out", ["deeponet"], [16, 64], 2)["new_cells"] == 0
    values["training"]["gradient_clip"] = 7.0
    record.write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"training\.gradient_clip 7\.0 \(asked for 1\.0\)"):
        scale(tiny(), dataset, tmp_path / "out", ["deeponet"], [16, 64], 2)


SPACE = {"training.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}, "architecture.width": {"low": 4, "high": 8}}


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_sweep_for_each_size_chooses_the_settings_of_its_cells(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, out = tiny(scaling__retune=3, scaling__steps=8, sweep__space=SPACE, sweep__stopper="none"), tmp_path / "out"
    plan = plan_scale(config, dataset, ["deeponet"], [16, 64], 2, out=out)
    assert 0 < plan["retuning_seconds"] < plan["seconds"]
    result = scale(config, dataset, out, ["deeponet"], [16, 64], 2)
    assert [(row["name"], row["size"], row["trials"]) for row in result["retuning"]] == [("deeponet", 16, 3), ("deeponet", 64, 3)]
    for row in result["retuning"]:
        best = load_config(out / "sweeps" / f"deeponet-{row['size']}" / "best.yaml").dump()
        for seed in range(2):
            cell = load_config(out / "runs" / f"deeponet-{row['size']}-{seed}" / "config.yaml").dump()
            assert cell["architecture"] == best["architecture"]
            assert cell["training"] | {"seed": 0} == best["training"]  # as many steps, on the same rows
        assert row["parameters"].keys() == SPACE.keys()
    assert "a sweep of 3 trials" in result["note"]
    assert "deeponet, 64 rows, 3 trials in" in (out / "scaling.md").read_text()
    assert result["cost"]["calls"][0]["seconds"] > sum(row["wall_seconds"] for row in result["retuning"])
    monkeypatch.setattr(scaling_module, "run_trials", lambda *_, **__: pytest.fail("cells ran"))
    monkeypatch.setattr(sweep_module, "run_trials", lambda *_, **__: pytest.fail("trials ran"))
    assert scale(config, dataset, out, ["deeponet"], [64], 2) == result | {"new_cells": 0}
    assert plan_scale(config, dataset, ["deeponet"], [16, 64], 2, out=out)["retuning_seconds"] == 0
    with pytest.raises(InputError, match=r"retune 3 \(asked for None\)"):
        scale(tiny(scaling__steps=8), dataset, out, ["deeponet"], [16, 64], 2)
    other = config.override({"sweep.space": {"training.learning_rate": {"low": 1e-6, "high": 1e-5, "log": True}}})
    with pytest.raises(InputError, match=r"already holds sweeps of deeponet with .*space\.training\.learning_rate\.high 0\.01"):
        scale(other, dataset, out, ["deeponet"], [32], 2)
    (out / "sweeps" / "deeponet-16" / "sweep.json").write_text("{}")
    with pytest.raises(InputError, match="sweep.json holds no result of a sweep; delete it"):
        scale(config, dataset, out, ["deeponet"], [64], 2)


@pytest.mark.parametrize(
    ("overrides", "local", "words"),
    [
        ({}, True, "needs Ray: leave out --local"),
        ({"sweep__space": {"training.batch_size": {"choices": [8, 16]}}}, False, "training.batch_size, which a dataset-size study sets"),
        ({"sweep__space": {"data.sensors": {"choices": [10, 20]}}}, False, "data.sensors, which a dataset-size study sets"),
        (
            {"sweep__space": {"training.schedule": {"choices": ["cosine"]}}, "scaling__protocol": "to-convergence"},
            False,
            "training.schedule, which a dataset-size study sets",
        ),
        ({"sweep__space": {"training.endless": {"choices": [True]}}}, False, "training.endless, which a dataset-size study sets"),
        ({"sweep__epochs": 2}, False, "sweep.epochs is 2; with scaling.retune trials train as long as the cells"),
        ({"sweep__objectives": ["num_parameters"]}, False, "the validation loss alone judges trials"),
        (
            {"sweep__space": {"training.learning_rate": {"choices": [0.1]}}, "sweep__sampler": "grid"},
            False,
            "the sweeps of deeponet for scaling.retune cannot begin: 2 trials are more than the 1 combinations",
        ),
        ({"sweep__space": {"architecture.d_model": {"choices": [8]}}}, False, "the sweeps of deeponet .* architecture.d_model"),
    ],
)
def test_a_sweep_that_would_break_the_protocol_is_refused(
    dataset: Path, tmp_path: Path, overrides: dict[str, Any], local: bool, words: str
) -> None:
    config, out = tiny(scaling__retune=2, scaling__steps=8, **overrides), tmp_path / "out"
    with pytest.raises(InputError, match=words):
        scale(config, dataset, out, ["deeponet"], [16], 1, local=local)
    with pytest.raises(InputError, match=words):
        plan_scale(config, dataset, ["deeponet"], [16], 1, out=out, local=local)
    assert not out.exists()


def test_the_shipped_spaces_leave_out_what_a_study_sets() -> None:
    config = load_config(overrides={"architecture.name": "fno", "scaling.retune": 2})
    (contestant,) = with_spaces(config, [Contestant("fno", config)], local=False)
    space = contestant.config.sweep.space
    assert "training.learning_rate" in space and "architecture.num_modes" in space and "training.batch_size" not in space


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells run one after another, without Ray's workers."""

    def run_here(work: Any, *_: Any, param_space: dict[str, Any], **__: Any) -> None:
        for run in param_space["run"]["grid_search"]:
            work({"run": run})

    cluster = SimpleNamespace(cluster_resources=lambda: {"CPU": 2.0})
    monkeypatch.setattr("neural_hamilton.platform.ray_runtime.connect", lambda: cluster)
    monkeypatch.setattr(scaling_module, "run_trials", run_here)
    monkeypatch.setattr("ray.tune.report", lambda _: None)


@pytest.mark.usefixtures("in_this_process")
def test_without_test_rows_the_val_split_measures(dataset: Path, tmp_path: Path) -> None:
    generate(tmp_path / "data", DataConfig(train=8, val=4, sensors=20, times=20), local=True)
    result = scale(tiny(), tmp_path / "data", tmp_path / "out", ["deeponet", "mambonet"], [8], 1)
    assert result["dataset"]["split"] == "val"
    assert [(row["name"], row["rows"]) for row in result["cells"]] == [("deeponet", 4), ("mambonet", 4)]
    assert "2 different sizes" in result["fits"]["mambonet"]["median"]["note"]
    assert (tmp_path / "out" / "scaling.png").exists()


@pytest.mark.usefixtures("in_this_process")
def test_a_failed_cell_is_a_line_and_is_tried_again(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="all 2 cells .* failed; .* not finite"):
        scale(tiny(training__learning_rate=1e30), dataset, tmp_path / "all", ["deeponet"], [16, 32], 1)
    real = scaling_module.train
    refuse = lambda config, *rest: real(config, *rest) if config.training.train_rows == 16 else 1 / 0  # noqa: E731
    monkeypatch.setattr(scaling_module, "train", refuse)
    result = scale(tiny(), dataset, tmp_path / "out", ["deeponet"], [16, 32], 1)
    assert [row["state"] for row in result["cells"]] == ["finished", "failed"]
    assert result["cells"][1]["reason"] == "ZeroDivisionError: division by zero"
    monkeypatch.setattr(scaling_module, "train", real)
    result = scale(tiny(), dataset, tmp_path / "out", ["deeponet"], [16, 32], 1)
    assert (result["new_cells"], result["failed_cells"]) == (1, 0)


def test_contestants_are_architectures_and_configurations(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "architecture: {name: fno, d_model: 16, num_heads: 2}\ntraining: {epochs: 8, warmup_epochs: 2, optimizer: soap, seed: 5}\n"
        "sweep: {space: {training.gradient_clip: {choices: [1, 2]}}}\n"
    )
    config = tiny(training__weight_decay=0.5, training__seed=3)
    first, second, third = read_contestants(config, ["deeponet", "varonet", str(file)])
    assert [first.name, second.name, third.name] == ["deeponet", "varonet", "mine"]
    assert (first.config.architecture.name, first.config.dump()["architecture"]["width"]) == ("deeponet", 8)
    assert second.config.architecture == load_config(None, {"architecture.name": "varonet"}).architecture
    assert third.config.dump()["architecture"]["d_model"] == 16
    settings = third.config.training  # its own, where it says so; the study's elsewhere, and its epochs
    assert (settings.optimizer, settings.weight_decay, settings.epochs, settings.warmup_epochs) == ("soap", 0.5, 3, 0.75)
    assert {contestant.config.training.seed for contestant in (first, second, third)} == {0}
    assert [list(each.config.sweep.space) for each in (first, third)] == [[], ["training.gradient_clip"]]
    (shipped,) = read_contestants(config, ["study-mambonet"])
    assert shipped.config.training.batch_size == 32
    for names in ([], ["deeponet", "deeponet"], [str(file), str(file)], ["deepnet"], [str(tmp_path / "none.yaml")]):
        with pytest.raises(InputError, match="--arch ") as refusal:
            read_contestants(config, names)
        assert "--config" not in str(refusal.value)
    file.write_text("training: {endless: true}")
    for given, name in ((config, str(file)), (tiny(training__endless=True), "fno")):
        with pytest.raises(InputError, match="training.endless of .* is true, so its rows never repeat"):
            read_contestants(given, [name])


def test_a_difference_needs_more_than_the_spread_of_seeds() -> None:
    rng = np.random.default_rng(0)
    difficulty = np.exp(3.0 * rng.standard_normal(400))  # of a row, for everybody: in a pair it cancels
    good, bad, close = (
        [factor * wobble * difficulty * np.exp(0.1 * rng.standard_normal(400)) for wobble in (0.95, 1.0, 1.05)]
        for factor in (1.0, 3.0, 3.01)
    )
    first, second = compare_pairs({"bad": bad, "good": good, "close": close[::-1]}, 0.95)
    assert (first["better"], first["distinguishable"]) == ("good", True)
    assert first["interval"][0] < 3.0 < first["interval"][1]
    assert {second["better"], second["worse"]} == {"bad", "close"} and not second["distinguishable"]
    logs = [np.mean(np.log(b) - np.log(a)) for a, b in zip(good, bad, strict=True)]
    interval = stats.t.interval(0.95, 2, np.mean(logs), stats.sem(logs))
    pair = compare_pairs({"bad": bad, "good": good}, 0.95)[0]
    assert pair["interval"] == pytest.approx(np.exp(interval))
    (single,) = compare_pairs({"bad": bad[:1], "good": good[:1]}, 0.95)
    assert single["interval"] is None and not single["distinguishable"]


def test_a_study_in_this_process(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two contestants at two sizes, without Ray; a killed study goes on, and the plan of it has a row for each."""
    file = tmp_path / "linear.yaml"
    file.write_text("architecture: {name: deeponet, width: 2, num_layers: 1, num_channels: 1}")
    names = ["deeponet", str(file)]
    arguments = [str(dataset), "--arch", ",".join(names), "--sizes", "16,64", "--seeds", "2", "--out", str(tmp_path / "out"), "--local"]
    for key, value in (TINY | {"scaling.steps": 8}).items():
        arguments += ["--set", f"{key}={value}"]
    monkeypatch.setattr("neural_hamilton.platform.ray_runtime.connect", lambda: pytest.fail("Ray was started"))
    assert main(["plan", "scale", *arguments, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [(row["name"], row["runs"], row["steps"]) for row in plan["contestants"]] == [("deeponet", 4, 32), ("linear", 4, 32)]
    work = sum(row["seconds"] for row in plan["contestants"])
    assert plan["seconds"] == pytest.approx(plan["startup_seconds"] + work)
    assert main(["scale", *arguments, "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert len(result["cells"]) == 8 and all(row["steps"] == 8 for row in result["cells"])
    assert [(row["name"], row["size"], row["seeds"]) for row in result["summaries"]] == [
        ("deeponet", 16, 2), ("deeponet", 64, 2), ("linear", 16, 2), ("linear", 64, 2)
    ]  # fmt: skip
    split = read_split(dataset, "test")
    for row, summary in ((result["cells"][0], result["summaries"][0]), (result["cells"][-1], result["summaries"][-1])):
        folder = tmp_path / "out" / "runs" / f"{row['name']}-{row['size']}-{row['seed']}"
        q, p = predict_split(load_model(folder / "model"), split, 8)
        losses = 0.5 * (np.mean((q - split.q) ** 2, axis=1) + np.mean((p - split.p) ** 2, axis=1))
        np.testing.assert_allclose(np.load(folder / "losses.npy"), losses, rtol=1e-6)
        assert (row["median"], row["mean"], row["p99"]) == pytest.approx((np.median(losses), losses.mean(), np.quantile(losses, 0.99)))
        assert summary["median_range"][0] <= row["median"] <= summary["median_range"][1]
    text = (tmp_path / "out" / "scaling.md").read_text()
    assert text.count("| `linear` |") == 2 and text.count("- 16 rows: ") == text.count("- 64 rows: ") == 1


def test_a_study_goes_on_with_other_trackers_and_checkpoints(tiny_dataset: Path, tmp_path: Path) -> None:
    scale(tiny(), tiny_dataset, tmp_path / "study", ["deeponet"], [8], 1, local=True)
    others = tiny(training__trackers=["tensorboard"], training__keep_checkpoints=1)
    again = scale(others, tiny_dataset, tmp_path / "study", ["deeponet"], [8, 16], 1, local=True)
    assert again["new_cells"] == 1 and len(again["cells"]) == 2
    with pytest.raises(InputError, match=r"training\.weight_decay"):
        scale(tiny(training__weight_decay=0.5), tiny_dataset, tmp_path / "study", ["deeponet"], [8], 1, local=True)
