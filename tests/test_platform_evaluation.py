"""Evaluation: metrics recomputed by hand, honest baselines, a report one can open."""

import json
import re
import shutil

import numpy as np
import pyarrow.dataset
import pytest
import torch

from neural_hamilton.architectures import build_operator, load_model, parse_architecture, save_model
from neural_hamilton.physics import InputError
from neural_hamilton.platform.config import load_config
from neural_hamilton.platform.datasets import read_split
from neural_hamilton.platform.evaluation import evaluate
from neural_hamilton.platform.measurement import summarise, truth_floor

SETTINGS = load_config(None, {"evaluation.bootstrap": 50, "evaluation.solver_steps": [0.02, 0.005]}).evaluation


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    save_model(build_operator(parse_architecture({"name": "deeponet", "num_sensors": 20, "width": 8})), folder, {"preset": "paper"})
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
    for figure in ("losses", "median_case", "worst_case"):
        assert (out / f"{figure}.png").read_bytes().startswith(b"\x89PNG") and (out / f"{figure}.pdf").read_bytes().startswith(b"%PDF")


def test_summary_gives_quantiles_and_intervals_that_hold_them():
    values = np.random.default_rng(0).lognormal(size=500)
    summary = summarise(values, resamples=200, seed=0)
    assert summary["p95"] == np.quantile(values, 0.95) and summary["max"] == values.max()
    for name in ("median", "mean"):
        low, high = summary[f"{name}_interval"]
        assert low < summary[name] < high
    assert summarise(np.array([1.0, np.nan]), 10, 0)["median"] is None


def test_model_that_answers_nan_is_said_so_in_json_and_report(model, tiny_dataset, tmp_path):
    broken = load_model(model)
    with torch.no_grad():
        broken.bias.fill_(torch.nan)
    save_model(broken, tmp_path / "model", {"preset": "phase-space"})
    result = evaluate(tmp_path / "model", tiny_dataset, tmp_path / "out", settings=SETTINGS)
    assert result["metrics"]["total_loss"]["median"] is None
    assert any("not finite on 16 of 16" in warning for warning in result["warnings"])
    assert any("phase-space" in warning for warning in result["warnings"])
    page = (tmp_path / "out" / "report.html").read_text()
    assert "not finite" in page and "phase-space" in page


def test_wrong_number_of_sensors_and_empty_split_are_refused(model, tiny_dataset, tmp_path):
    save_model(build_operator(parse_architecture({"name": "deeponet", "num_sensors": 30, "width": 8})), tmp_path / "other", {})
    with pytest.raises(InputError, match="reads 30 sensors.*has 20"):
        evaluate(tmp_path / "other", tiny_dataset, tmp_path / "out")
    empty = shutil.copytree(tiny_dataset, tmp_path / "empty")
    manifest = json.loads((empty / "manifest.json").read_text())
    manifest["counts"]["test"] = 0
    (empty / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="'test'.*no rows"):
        evaluate(model, empty, tmp_path / "out")
