"""Evaluation: metrics recomputed by hand, honest baselines, a report one can open."""

import html
import json
import re
import shlex
import shutil

import numpy as np
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
import torch

from neural_hamilton.architectures import build_operator, load_model, parse_architecture, read_card, save_model
from neural_hamilton.architectures.layers.orbit_quadrature import quadrature_orbit
from neural_hamilton.physics import InputError
from neural_hamilton.platform.cli import main
from neural_hamilton.platform.commands.tables import evaluation_table
from neural_hamilton.platform.config import DataConfig, load_config
from neural_hamilton.platform.data.datasets import read_split
from neural_hamilton.platform.data.generation import generate, read_manifest
from neural_hamilton.platform.data.shards import rows_config
from neural_hamilton.platform.evaluation import compare, evaluate
from neural_hamilton.platform.evaluation.figures import draw_losses
from neural_hamilton.platform.evaluation.metrics import summarise
from neural_hamilton.platform.evaluation.model_card import read_dataset_sizes
from neural_hamilton.platform.evaluation.problems import truth_floor
from neural_hamilton.platform.evaluation.report import verdict
from neural_hamilton.platform.evaluation.studies import study_names
from neural_hamilton.platform.provenance import hash_json
from neural_hamilton.platform.training.trained_for import trained_for

_FEW = {"bootstrap": 50, "solver_steps": [0.02, 0.005], "study_rows": 4, "work_batches": [1, 10], "windows": 2}
SETTINGS = load_config(None, {f"evaluation.{key}": value for key, value in _FEW.items()}).evaluation
QUICK = SETTINGS.model_copy(update={"studies": []})  # all studies run once in this module, each takes seconds


def only(*studies):
    return SETTINGS.model_copy(update={"studies": list(studies)})


def trained_on(ensemble, sensors=20):
    return trained_for(DataConfig.model_validate({"ensemble": ensemble, "sensors": sensors}))


def tiny(sensors=20):
    return build_operator(parse_architecture({"name": "deeponet", "width": 8}), trained_on("paper", sensors).task)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    save_model(tiny(), folder, trained_on("paper"), {})
    return folder


@pytest.fixture(scope="module")
def evaluated(model, tiny_dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluation")
    return out, evaluate(model, tiny_dataset, out, settings=SETTINGS)


def test_metrics_are_those_anyone_computes_from_model_folder_and_rows(model, tiny_dataset, evaluated):
    table = pyarrow.dataset.dataset(tiny_dataset / "test", format="parquet").to_table().combine_chunks()
    columns = {name: table.column(name).combine_chunks().to_numpy_ndarray() for name in ("potential", "times", "q", "p")}
    initial = np.stack([table.column(name).to_numpy() for name in ("q0", "p0")], axis=1)
    with torch.no_grad():
        output = load_model(model)(
            torch.tensor(columns["potential"]), torch.tensor(columns["times"]), torch.tensor(initial, dtype=torch.float32)
        )
    loss = 0.5 * (((output.q.numpy() - columns["q"]) ** 2).mean(axis=1) + ((output.p.numpy() - columns["p"]) ** 2).mean(axis=1))
    reported = evaluated[1]["metrics"]["total_loss"]
    assert reported["median"] == pytest.approx(np.median(loss), rel=1e-5)
    assert reported["mean"] == pytest.approx(loss.mean(), rel=1e-5)
    assert reported["max"] == pytest.approx(loss.max(), rel=1e-5)
    assert evaluated[1]["metrics"]["loss_q"]["mean"] == pytest.approx(((output.q.numpy() - columns["q"]) ** 2).mean(), rel=1e-5)


def test_evaluation_json_follows_the_contract(evaluated):
    out, result = evaluated
    assert json.loads((out / "evaluation.json").read_text()) == result
    assert {"model", "dataset", "metrics", "baselines", "named", "timing", "truth_floor"} <= set(result)
    for figures in [result["metrics"], *result["baselines"].values()]:
        for metric in ("total_loss", "loss_q", "loss_p", "energy_drift"):
            assert {"median", "mean", "p95", "p99", "max"} <= set(figures[metric])
    assert {*study_names(), "calibration", "groups", "not_measured"} <= set(result)
    assert result["schema_version"] == 3 and result["not_measured"] == {}
    assert result["model"]["trained_for"]["ensemble"]["name"] == result["dataset"]["ensemble"]["name"] == "paper"
    assert all("seconds_per_trajectory" in figures for figures in result["baselines"].values())
    assert all(set(losses) == {"model", *result["baselines"]} for losses in result["named"].values())


def test_solvers_that_work_are_accurate_and_the_published_one_is_not(evaluated):
    baselines = evaluated[1]["baselines"]
    # At 20 query times the longer step is 0.0175, and the median over 1,000 rows 8e-9; these are 16. The loss falls as step^8.
    assert baselines["rk4-oracle-0.02"]["total_loss"]["median"] < 1e-7
    assert baselines["rk4-oracle-0.005"]["total_loss"]["median"] < 1e-10
    published = baselines["rk4-as-published"]["total_loss"]["median"]
    assert 1e-7 < published < 1e-2 and published > 100 * baselines["rk4-oracle-0.02"]["total_loss"]["median"]
    assert evaluated[1]["named"]["harmonic"]["rk4-oracle-0.02"] < 1e-12


def test_label_floor_is_what_rounding_alone_costs(tiny_dataset):
    split = read_split(tiny_dataset, "test")
    # Rounding to float32 is uniform in half a unit: a third of the worst case that the floor counts.
    unit = np.spacing(np.abs(split.p)).astype(np.float64) / 2
    assert (unit**2 / 3).mean() / 2 < truth_floor(split) < 1e-12


def test_report_is_one_self_contained_file_with_the_figures_beside_it(evaluated):
    out, result = evaluated
    page = (out / "report.html").read_text()
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)
    assert all(
        name in page for name in [*result["baselines"], *result["named"], result["model"]["weights_sha256"], "neural-hamilton evaluate"]
    )
    assert "the model was trained on a single initial state" in page
    for figure in ("losses", "groups", "median_case", "worst_case", "sensors", "work_precision", "calibration"):
        assert (out / f"{figure}.png").read_bytes().startswith(b"\x89PNG") and (out / f"{figure}.pdf").read_bytes().startswith(b"%PDF")


def test_every_trajectory_is_on_file_and_its_losses_are_those_summarised(evaluated):
    out, result = evaluated
    table = pq.read_table(out / "trajectories.parquet").to_pandas()
    assert len(table) == result["dataset"]["rows"] and table["trajectory_id"].is_unique
    assert table["total_loss"].median() == pytest.approx(result["metrics"]["total_loss"]["median"])
    assert table["total_loss_dop853-quintic"].mean() == pytest.approx(result["baselines"]["dop853-quintic"]["total_loss"]["mean"])


@pytest.mark.slow
def test_command_in_the_report_repeats_it(model, tiny_dataset, tmp_path):
    keys = {"bootstrap": 50, "study_rows": 4, "studies": ["non_smooth", "sensors"], "sensor_counts": [20], "noise_levels": []}
    out, settings = tmp_path / "first", load_config(None, {f"evaluation.{key}": value for key, value in keys.items()}).evaluation
    result = evaluate(model, tiny_dataset, out, settings=settings)
    page = html.unescape((out / "report.html").read_text())
    command = re.search(r"<p><code>neural-hamilton (evaluate .*?)</code></p>", page).group(1)
    arguments = [str(tmp_path / "again") if word == str(out) else word for word in shlex.split(command)]
    assert main(arguments) == 0
    again = json.loads((tmp_path / "again" / "evaluation.json").read_text())
    timed = ("timing", "baselines")
    assert {key: again[key] for key in again if key not in timed} == {key: result[key] for key in result if key not in timed}
    assert [b["total_loss"] for b in again["baselines"].values()] == [b["total_loss"] for b in result["baselines"].values()]


@pytest.mark.slow
def test_noisy_sensors_throw_solvers_out_and_the_report_is_made_all_the_same(model, tmp_path):
    sizes = {"train": 4, "val": 4, "test": 16, "sensors": 20, "times": 20, "noise": 0.05}
    generate(tmp_path / "noisy", load_config(None, {f"data.{key}": value for key, value in sizes.items()}).data, local=True)
    result = evaluate(model, tmp_path / "noisy", tmp_path / "report", settings=only("work_precision"))
    assert result["dataset"]["noise"] == 0.05 and result["work_precision"]["solvers"]
    assert (tmp_path / "report" / "report.html").exists()
    figure = draw_losses({"model": np.array([1e-3, 1e-2]), "rk4": np.array([1e-3, 1e300])}, ["rk4"], 1e-15)
    figure.canvas.draw()  # an axis that reached for 1e300 would raise


def test_baselines_that_need_more_sensors_are_left_out_with_the_reason(tmp_path):
    sizes = {"train": 4, "val": 4, "test": 4, "sensors": 4, "times": 10}
    generate(tmp_path / "few", load_config(None, {f"data.{key}": value for key, value in sizes.items()}).data, local=True)
    save_model(tiny(4), tmp_path / "model", trained_on("paper", 4), {})
    result = evaluate(tmp_path / "model", tmp_path / "few", tmp_path / "report", settings=QUICK)
    assert result["not_measured"] == {"dop853-quintic": "it needs 6 sensors along each axis, and the problems have 4"}
    assert "dop853-quintic" not in result["baselines"] and "dop853-cubic" in result["baselines"]
    assert all("dop853-quintic" not in losses for losses in result["named"].values())
    assert "dop853-quintic is not measured: it needs 6 sensors" in (tmp_path / "report" / "report.html").read_text()


def test_a_model_of_another_system_is_refused(model, tiny_dataset, tmp_path):
    other = shutil.copytree(model, tmp_path / "model")
    card = json.loads((other / "model.json").read_text())
    card["trained_for"]["system"] = "pendula"
    (other / "model.json").write_text(json.dumps(card))
    with pytest.raises(InputError, match="trained for system 'pendula'.*has system 'well'"):
        evaluate(other, tiny_dataset, tmp_path / "out", settings=QUICK)
    with pytest.raises(InputError, match="trained for system 'pendula'.*has system 'well'"):
        compare([other, model], tiny_dataset, tmp_path / "out", settings=QUICK)


def test_what_was_not_asked_for_is_not_measured(model, tiny_dataset, tmp_path):
    result = evaluate(model, tiny_dataset, tmp_path, settings=QUICK)
    assert all(result[study] is None for study in study_names())
    assert "Work and precision" not in (tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_the_quadrature_that_orbitnet_has_built_in_is_a_baseline(model, tiny_dataset, tmp_path):
    task = trained_on("paper").task
    network = build_operator(parse_architecture({"name": "orbitnet", "d_model": 8, "num_mamba_layers": 1}), task)
    torch.nn.init.constant_(network.between_sensors.say[-1].bias, 5.0)
    save_model(network, tmp_path / "model", trained_on("paper"), {})
    result = evaluate(tmp_path / "model", tiny_dataset, tmp_path, settings=QUICK)
    split = read_split(tiny_dataset, "test")
    states = quadrature_orbit(*(torch.tensor(a, dtype=torch.float32) for a in (split.potential, split.times, split.initial)), task)
    q, p = states.numpy().transpose(2, 0, 1)
    losses = 0.5 * ((q - split.q) ** 2 + (p - split.p) ** 2).mean(axis=1)
    entry = result["baselines"]["quadrature"]
    assert entry["total_loss"]["median"] == pytest.approx(np.median(losses), rel=1e-4) and entry["track"] == "sensors"
    table = pq.read_table(tmp_path / "trajectories.parquet")
    assert table["total_loss_quadrature"].to_numpy() == pytest.approx(losses, rel=1e-3, abs=1e-12)
    assert losses.mean() < 1e-2 < result["metrics"]["total_loss"]["mean"], "a network that was not trained only makes it worse"
    page = (tmp_path / "report.html").read_text()
    assert "quadrature baseline" in page and "What the network has learnt does not reduce the median" in page
    assert "quadrature" in evaluation_table(result)
    direct = evaluate(model, tiny_dataset, tmp_path / "direct", settings=QUICK)
    assert "quadrature" not in direct["baselines"] and "quadrature baseline" not in (tmp_path / "direct" / "report.html").read_text()


VALIDATION_LOSS = {"first": 0.5, "best": 1e-9}
BUILT_IN = {
    "mambonet": {"name": "mambonet"},
    "fno": {"name": "fno"},
    "orbitnet": {"name": "orbitnet"},
    "with phase angle": {"name": "mambonet", "phase_angle": True},
}


def _result(model, baselines, floor, built_in=None):
    """What `verdict` reads: one loss for the median and the mean of the model and of each baseline on the sensors."""
    entries = {name: {"total_loss": {"median": loss, "mean": loss}, "track": "sensors"} for name, loss in baselines.items()}
    losses = {"total_loss": {"median": model, "mean": model}}
    return {
        "metrics": losses,
        "truth_floor": floor,
        "baselines": entries,
        "model": {"built_in": built_in, "validation_loss": VALIDATION_LOSS},
    }


def test_nothing_is_claimed_below_the_floor():
    sentences = verdict(_result(1e-9, {"rk4": 1e-8}, 1e-12))
    assert any("more accurate than 1 of 1 baselines that see the same sensors (rk4)" in sentence for sentence in sentences)
    assert not any("(rk4)" in sentence for sentence in verdict(_result(1e-13, {"rk4": 5e-13}, 1e-12)))


def test_what_is_built_in_is_told_apart_from_what_is_learnt():
    sentences = verdict(_result(1e-10, {"quadrature": 4e-9}, 1e-15, built_in="the orbit"))
    assert "This network has built in the orbit." in sentences
    assert any("alone has median 4.0e-09" in sentence and "by a factor of 40" in sentence for sentence in sentences)
    direct = verdict(_result(1e-10, {}, 1e-15))
    assert any(
        "Nothing of mechanics is built" in sentence and "from 5.0e-01 after the first epoch to 1.0e-09" in sentence for sentence in direct
    )
    described = {name: parse_architecture(values).built_in for name, values in BUILT_IN.items()}
    assert described["mambonet"] is described["fno"] is None
    assert "quadrature" in described["orbitnet"] and "phase angle" in described["with phase angle"]


def test_summary_gives_quantiles_and_intervals_that_hold_them():
    values = np.random.default_rng(0).lognormal(size=500)
    summary = summarise(values, resamples=200, seed=0)
    assert summary["p95"] == np.quantile(values, 0.95) and summary["max"] == values.max()
    for name in ("median", "mean"):
        low, high = summary[f"{name}_interval"]
        assert low < summary[name] < high
    broken = summarise(np.array([3.0, 1.0, np.nan]), 10, 0)
    assert broken["median"] == 3.0 and broken["mean"] is broken["max"] is broken["mean_interval"] is None
    assert summarise(np.array([1.0, np.nan, np.nan]), 10, 0)["median"] is None


def test_model_that_answers_nan_is_said_so_in_json_and_report(model, tiny_dataset, tmp_path):
    broken = load_model(model)
    with torch.no_grad():
        broken.bias.fill_(torch.nan)
    save_model(broken, tmp_path / "model", trained_on("phase-space"), {})
    result = evaluate(tmp_path / "model", tiny_dataset, tmp_path / "out", settings=only("rollouts", "symplecticity"))
    assert result["calibration"]["scores"]["energy_drift"] | {"curve": []} == {
        "rank_correlation": None, "threshold": None, "coverage": 0.0, "curve": []
    }  # fmt: skip
    assert result["rollouts"]["solvers"]["model"]["not_finite"] == result["rollouts"]["rows"]
    assert result["metrics"]["total_loss"]["median"] is None
    assert any("not finite on 16 of 16" in warning for warning in result["warnings"])
    assert any("phase-space" in warning for warning in result["warnings"])
    page = (tmp_path / "out" / "report.html").read_text()
    assert "not finite" in page and "phase-space" in page


def test_rows_that_a_model_was_trained_on_are_no_test(model, tiny_dataset, tmp_path):
    rows = hash_json(rows_config(DataConfig(**read_manifest(tiny_dataset)["config"])))
    save_model(load_model(model), tmp_path / "model", trained_on("paper"), {"rows_config_hash": rows})
    for split, said in (("val", True), ("test", False)):
        result = evaluate(tmp_path / "model", tiny_dataset, tmp_path / split, split, QUICK)
        assert any(f"rows of split {split!r}" in warning for warning in result["warnings"]) is said
        assert ("only &#39;test&#39; shows" in (tmp_path / split / "report.html").read_text()) is said


def test_wrong_number_of_sensors_and_empty_split_are_refused(model, tiny_dataset, tmp_path):
    save_model(tiny(30), tmp_path / "other", trained_on("paper", 30), {})
    with pytest.raises(InputError, match="reads 30 sensors.*has 20"):
        evaluate(tmp_path / "other", tiny_dataset, tmp_path / "out")
    empty = shutil.copytree(tiny_dataset, tmp_path / "empty")
    manifest = json.loads((empty / "manifest.json").read_text())
    manifest["counts"]["test"] = 0
    (empty / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="'test'.*no rows"):
        evaluate(model, empty, tmp_path / "out")


class TestCompare:
    def test_models_of_any_sensors_in_one_table(self, model, tiny_dataset, evaluated, tmp_path):
        save_model(tiny(30), tmp_path / "run" / "model", trained_on("phase-space", 30), {})
        settings = SETTINGS.model_copy(update={"sensor_counts": [30, 20], "noise_levels": [0.01]})
        result = compare([model, tmp_path / "run" / "model"], tiny_dataset, tmp_path / "out", settings=settings)
        assert json.loads((tmp_path / "out" / "comparison.json").read_text()) == result
        # The same model has the same losses here as in its own evaluation.
        assert result["entries"][model.name]["total_loss"] == evaluated[1]["metrics"]["total_loss"]
        assert result["entries"]["dop853-cubic"]["total_loss"] == evaluated[1]["baselines"]["dop853-cubic"]["total_loss"]
        assert result["entries"]["run"]["sensors"] == [30]
        assert [set(entry["total_loss"]) & {"run", model.name} for entry in result["sensors"]] == [{"run"}] * 2 + [{model.name}] * 2
        page = (tmp_path / "out" / "comparison.html").read_text()
        assert "phase-space" in page and "reads 30 sensors" in page and not re.search(r"""(src|href)=["'](?!data:)""", page)

    def test_one_model_is_no_comparison(self, model, tiny_dataset, tmp_path):
        with pytest.raises(InputError, match="at least 2"):
            compare([model], tiny_dataset, tmp_path / "out")

    def test_command(self, model, tiny_dataset, tmp_path, capsys):
        few = [f"--set=evaluation.{key}={value}" for key, value in {"bootstrap": 10, "study_rows": 2, "sensor_counts": [20]}.items()]
        assert main(["compare", str(model), str(model), "--dataset", str(tiny_dataset), "--out", str(tmp_path), "--json", *few]) == 0
        assert len(json.loads(capsys.readouterr().out.splitlines()[-1])["entries"]) == 1 + 5


class TestRecord:
    def test_model_folder_learns_what_was_found(self, tiny_dataset, tmp_path):
        config = load_config(None, {}).dump()
        cost = {"seconds": 120.0, "rows_drawn": 64, "dataset_hash": "0" * 64, "torch_version": "2"}
        metrics = {"epoch": 1, "device": "cpu", "precision": "float32", "validation_loss": 1.0}
        save_model(tiny(), tmp_path / "model", trained_on("paper"), {"config": config, "metrics": metrics} | cost)
        weights = (tmp_path / "model" / "model.safetensors").read_bytes()
        result = evaluate(tmp_path / "model", tiny_dataset, tmp_path / "out", settings=QUICK, record=True)
        assert read_card(tmp_path / "model")["calibration"]["scores"] == result["calibration"]["scores"]
        assert (tmp_path / "model" / "model.safetensors").read_bytes() == weights
        page = (tmp_path / "model" / "README.md").read_text()
        assert f"{result['metrics']['total_loss']['median']:.3g}"[:4] in page and "dop853-prior-fit" in page and "2 minutes" in page

    def test_the_card_shows_what_more_steps_and_more_rows_bring(self, tiny_dataset, tmp_path):
        config = load_config(None, {"training": {"endless": True}}).dump()
        metrics = {"epoch": 3, "device": "cpu", "precision": "float32", "validation_loss": 0.03}
        stages = [
            {"epochs": 2, "steps": 20, "device": "cuda", "seconds": 1.0, "validation_losses": [0.5, 0.25]},
            {"epochs": 1, "steps": 40, "device": "cpu", "seconds": 2.0, "validation_losses": [0.03]},
        ]
        cost = {"seconds": 3.0, "rows_drawn": 3000, "dataset_hash": "0" * 64, "torch_version": "2", "stages": stages}
        network = tiny()
        name = network.config.name
        save_model(network, tmp_path / "model", trained_on("paper"), {"config": config, "metrics": metrics} | cost)
        cell = {"median": 3e-6, "median_range": [2e-6, 4e-6], "mean": 5e-5, "mean_range": [4e-5, 6e-5], "seeds": 2}
        study = {
            "budget": "60 steps",
            "cells": [{"name": "ours", "architecture": name}, {"name": "other", "architecture": "another"}, {"name": "failed"}],
            "summaries": [{"name": "ours", "size": 8000} | cell, {"name": "other", "size": 9999} | cell],
        }
        (tmp_path / "study").mkdir()
        (tmp_path / "study" / "scaling.json").write_text(json.dumps(study))
        evaluate(tmp_path / "model", tiny_dataset, tmp_path / "out", settings=QUICK, record=True, scaling=tmp_path / "study")
        page = (tmp_path / "model" / "README.md").read_text()
        for row in (
            "| 10 | 1,000 | 0.5 |",
            "| 20 | 2,000 | 0.25 |",
            "| 60 | 3,000 | 0.03 |",
            "| ours | 8,000 | 3.00e-06 (2.00e-06 to 4.00e-06) |",
        ):
            assert row in page
        assert "60 steps" in page and "9,999" not in page
        assert "3 seconds on cpu" in page and "in 1 seconds;" in page and " 0 minutes" not in page

    def test_a_study_for_the_card_is_a_finished_one_with_this_architecture(self, model, tiny_dataset, tmp_path):
        def reason(folder, **how):
            with pytest.raises(InputError) as error:
                evaluate(model, tiny_dataset, tmp_path / "out", settings=QUICK, scaling=folder, **how)
            return str(error.value)

        assert "add --record" in reason(tmp_path)
        with pytest.raises(InputError, match="not a finished study"):
            read_dataset_sizes(tmp_path, "fno")
        cell, summary = {"name": "x", "architecture": "fno"}, {"name": "x", "size": 8}
        for damaged in ("[]", '{"cells": []}', "{", json.dumps({"budget": "1 step", "cells": [cell], "summaries": [summary]})):
            (tmp_path / "scaling.json").write_text(damaged)
            with pytest.raises(InputError, match="not a finished study"):
                read_dataset_sizes(tmp_path, "fno")
        (tmp_path / "scaling.json").write_text(json.dumps({"budget": "1 step", "cells": [], "summaries": []}))
        with pytest.raises(InputError, match="no finished cell of architecture 'fno'"):
            read_dataset_sizes(tmp_path, "fno")

    def test_a_model_of_unknown_origin_is_refused(self, model, tiny_dataset, tmp_path):
        with pytest.raises(InputError, match="does not record how it was trained"):
            evaluate(model, tiny_dataset, tmp_path / "out", settings=QUICK, record=True)
