"""Every configuration key has an effect: changed alone, it changes what its command makes. Without effect, it is refused by name."""

import ast
import hashlib
import inspect
import json
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
import torch
from pydantic import BaseModel

from neural_hamilton.architectures import (
    Task,
    available_architectures,
    build_operator,
    get_architecture,
    parse_architecture,
    save_model,
)
from neural_hamilton.architectures.testing import ONE_COORDINATE
from neural_hamilton.physics import InputError
from neural_hamilton.physics.systems import get_system
from neural_hamilton.platform import ray_runtime
from neural_hamilton.platform.config import Config, EvaluationConfig, load_config
from neural_hamilton.platform.config.conditions import CONDITIONS
from neural_hamilton.platform.data.generation import generate
from neural_hamilton.platform.training.loop import train
from neural_hamilton.platform.training.run_folder import prepare_run
from neural_hamilton.platform.training.trained_for import task_of, trained_for
from neural_hamilton.tune import scores
from neural_hamilton.tune.scaling import scale as scaling_module
from neural_hamilton.tune.sweeps import sweep as sweep_module

DEEPONET = {"architecture.name": "deeponet", "architecture.width": 8, "architecture.num_layers": 1, "architecture.num_channels": 4}
VARONET = {
    "architecture.name": "varonet", "architecture.hidden_size": 4, "architecture.num_encoder_layers": 1,
    "architecture.num_decoder_layers": 1, "architecture.latent_size": 2,
}  # fmt: skip
WSD = {"training.schedule": "warmup-stable-decay"}

# Key -> another value, or (another value, what else the configuration needs for the key to have an effect).
DATA = {
    "data.ensemble": "phase-space", "data.train": 5, "data.val": 1, "data.test": 1, "data.sensors": 13, "data.times": 10, "data.seed": 1,
    "data.noise": 0.1, "data.dtype": "float64", "data.integrator": "rk4", "data.tolerance": 1e-13, "data.shard_rows": 2,
}  # fmt: skip
TRAINING = {
    "training.epochs": 3, "training.batch_size": 20, "training.train_rows": 30, "training.val_rows": 3, "training.endless": True,
    "training.train_start": 8, "training.val_start": 4, "training.passes": 2,
    "training.resident_gib": 1e-5,
    "training.mixed_fraction": (
        0.8, {"training.endless": True, "training.mixed_fraction": 0.2, "training.mixed_ensemble": {"depth": [1.0, 2.0]}},
    ),
    "training.mixed_ensemble": ({"depth": [1.0, 2.0]}, {"training.endless": True, "training.mixed_fraction": 0.5}),
    "training.seed": 1, "training.optimizer": "soap", "training.learning_rate": 2e-3, "training.final_learning_rate": 1e-4,
    "training.schedule": "constant", "training.warmup_epochs": 1.0, "training.decay_fraction": (0.5, WSD),
    "training.weight_decay": 0.5, "training.gradient_clip": 1e-3, "training.ema_decay": 0.5, "training.loss": "log-cosh",
    "training.loss_scale": (1.0, {"training.loss": "cauchy"}),
    "training.energy_weight": 1.0, "training.sobolev_weight": 1.0, "training.kl_warmup_epochs": (2.0, VARONET),
    "training.rollouts": (True, {"architecture.window": 0.5}),
    "training.patience": (1, {"training.epochs": 6, "training.learning_rate": 1.0, "training.schedule": "constant"}),
    "training.precision": "bf16", "training.float32_epochs": (1, {"training.precision": "bf16"}), "training.compile": True,
    "training.keep_checkpoints": 1, "training.trackers": [],
}  # fmt: skip
SWEEP = {
    "sweep.epochs": 3, "sweep.sampler": ("grid", {"sweep.space": {"architecture.width": {"low": 4, "high": 40}}}),
    "sweep.stopper": "median", "sweep.grace_fraction": 0.9, "sweep.grace_epochs": 1,
    "sweep.max_concurrent": 1, "sweep.seed": 1, "sweep.space": {"training.seed": {"choices": [0, 1]}},
    "sweep.objectives": ["validation_loss", "num_parameters"], "sweep.workers": 2, "sweep.cpus_per_worker": 3, "sweep.gpus_per_worker": 0.5,
}  # fmt: skip
CONVERGENCE = {"scaling.protocol": "to-convergence", "scaling.steps": 16, "training.schedule": "constant"}
SCALING = {
    "scaling.steps": 1, "scaling.max_concurrent": 1, "scaling.confidence": 0.5,
    "scaling.protocol": ("equal-steps", CONVERGENCE), "scaling.patience": (1, CONVERGENCE), "scaling.retune": 2,
}  # fmt: skip
SERVING = {
    "serving.solver_threshold": 0.1, "serving.num_replicas": 2, "serving.max_replicas": 3, "serving.max_queued_requests": 5,
    "serving.request_timeout_seconds": 5.0, "serving.max_queue_seconds": 1.0,
    "serving.max_body_mb": 1.0, "serving.api_key_file": "key", "serving.cors_origins": ["http://a"],
}  # fmt: skip
ADDRESS = {"serving.host", "serving.port", "serving.route"}
# In test_project_systems.py, which takes a second system through every command; test_platform_devices.py; test_platform_training.py;
# test_tune_sweep.py; test_tune_cells.py, on rows that share potentials
ELSEWHERE = {"data.system", "training.cuda_graph", "training.initial_model", "training.trajectories_per_potential"} | {
    f"sweep.{key}" for key in ("seeds", "start_from", "finalists", "final_seeds", "confidence")
}


def leaves(section: str, model: type[BaseModel]) -> set[str]:
    return {f"{section}.{key}" for key in model.model_fields}


def test_these_tests_cover_every_key():
    sections = {name: field.annotation for name, field in Config.model_fields.items() if name != "architecture"}
    every = set().union(*(leaves(name, model) for name, model in sections.items()))
    evaluation = leaves("evaluation", EvaluationConfig)
    assert every == {*DATA, *TRAINING, *SWEEP, *SCALING, *SERVING, *ADDRESS, *ELSEWHERE, *evaluation}


def both(table, key, base):
    """The configurations without and with the key."""
    value, needs = table[key] if isinstance(table[key], tuple) else (table[key], {})
    usual = load_config(None, base).override(needs)
    return usual, usual.override({key: value})


def digest(*contents):
    return hashlib.sha256(b"".join(contents)).hexdigest()


def files_of(folder):
    return {path.relative_to(folder).as_posix(): digest(path.read_bytes()) for path in sorted(folder.rglob("*.parquet"))}


@pytest.mark.parametrize("key", DATA)
def test_a_key_of_data_changes_the_rows_or_their_files(tmp_path, key):
    made = []
    for index, config in enumerate(both(DATA, key, {"data.train": 4, "data.sensors": 12, "data.times": 9, "data.tolerance": 1e-9})):
        generate(tmp_path / str(index), config.data, local=True)
        made.append(files_of(tmp_path / str(index)))
    assert made[0] != made[1]


ENSEMBLE_KEYS = [
    (name, key) for name, ensemble in get_system("well").ensembles.items() for key, field in ensemble.__dataclass_fields__.items()
    if "ClassVar" not in str(field.type)
]  # fmt: skip


@pytest.mark.parametrize(("ensemble", "key"), ENSEMBLE_KEYS)
def test_a_key_of_an_ensemble_changes_the_rows(tmp_path, ensemble, key):
    sizes = {"data.ensemble.name": ensemble, "data.train": 4, "data.sensors": 12, "data.times": 9}
    usual = load_config(None, sizes)
    limits = usual.dump()["data"]["ensemble"][key]
    changed = usual.override({f"data.ensemble.{key}": [limit + 1 if isinstance(limit, int) else 1.5 * limit for limit in limits]})
    for config, name in ((usual, "usual"), (changed, "changed")):
        generate(tmp_path / name, config.data, local=True)
    assert files_of(tmp_path / "usual") != files_of(tmp_path / "changed")


@pytest.mark.parametrize("key", TRAINING)
def test_a_key_of_training_changes_the_run(tiny_dataset, tmp_path, monkeypatch, key):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda module, **_: compiled.append(module) or module)
    made = []
    for index, config in enumerate(both(TRAINING, key, DEEPONET | {"training.epochs": 4, "training.batch_size": 10})):
        run = tmp_path / str(index)
        train(prepare_run(run, tiny_dataset, config, False), tiny_dataset, run)
        timed = {"seconds", "rows_per_second", "memory_bytes"}
        history = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
        figures = [{name: value for name, value in line.items() if name not in timed} for line in history]
        folders = sorted(path.name for path in run.iterdir())
        checkpoints = {path.name: digest(path.read_bytes()) for path in (run / "checkpoints").iterdir()}
        made.append((figures, folders, checkpoints, len(compiled)))
        compiled.clear()
    assert made[0] != made[1]


SMALL = {
    "d_model": 8, "num_heads": 2, "num_mamba_layers": 1, "num_encoder_layers": 1, "num_decoder_layers": 1, "d_feedforward": 8,
    "d_state": 4, "width": 8, "num_layers": 1, "num_channels": 4, "hidden_size": 4, "latent_size": 2, "num_modes": 3,
    "num_fourier_layers": 1, "num_frequencies": 2, "num_shapes": 4, "kl_weight": 0.1, "num_steps": 20,
}  # fmt: skip
NEEDS = {"published_layers": {"num_frequencies": 0}, "local_sensors": {"window": 0.5}, "sensor_noise": {"rim": 5.0}}
ACCEPTED = {"rim": [5.0]}  # above all values of V
ARCHITECTURE_KEYS = [
    (name, key) for name in available_architectures() for key in get_architecture(name).Config.model_fields if key != "name"
]


@pytest.mark.parametrize(("name", "key"), ARCHITECTURE_KEYS)
def test_a_key_of_an_architecture_changes_the_network(name, key):
    fields = get_architecture(name).Config.model_fields
    sizes = {field: value for field, value in (SMALL | NEEDS.get(key, {})).items() if field in fields}
    usual = parse_architecture({"name": name, **sizes})
    before, changed = getattr(usual, key), None
    for value in ACCEPTED.get(key) or other_values(before, fields[key].annotation):
        try:
            changed = load_config(None, {f"architecture.{field}": v for field, v in ({"name": name} | sizes | {key: value}).items()})
            break
        except InputError as error:
            assert key in str(error)
    assert changed is not None, "no other value is accepted"
    assert describe(usual) != describe(changed.architecture)


def other_values(value, annotation):
    if value is None:
        return [0.2]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, list):
        return [[2 * one for one in value]]
    if isinstance(value, str):
        return [choice for choice in get_args(annotation) if choice != value]
    return [other for other in (2 * value, value + 1) if other != value]


def describe(config):
    """Shapes of the weights, prediction and auxiliary loss of a network."""
    torch.manual_seed(0)
    if get_architecture(config.name).why_not(config, ONE_COORDINATE):
        return describe_in_a_plane(config)
    network = build_operator(config, Task((20,), ((0.0, 1.0),), 2.0)).train()
    for parameter in network.parameters():  # heads may start at zero, where nothing before them shows
        torch.nn.init.normal_(parameter, std=0.1)
    q = torch.linspace(0, 1, 20)
    potential = torch.stack([8 * (q - 0.5) ** 2, 2 * (2 * q - 1) ** 4]) + 0.01 * torch.sin(9 * q)
    output = network(potential, torch.linspace(0, 2, 7), torch.tensor([[0.3, 0.2]]))
    return {key: tuple(value.shape) for key, value in network.state_dict().items()}, *(part.tolist() for part in output)


def describe_in_a_plane(config):
    task = Task((9, 9), ((0.0, 1.0),) * 2, 2.0)
    network = build_operator(config, task).train()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    x, y = torch.meshgrid(torch.linspace(0, 1, 9), torch.linspace(0, 1, 9), indexing="ij")
    potential = 2 - 16 * x * (1 - x) * y * (1 - y) * (1 + 0.3 * torch.sin(7 * x + 3 * y))
    output = network(potential.expand(2, 1, 9, 9), torch.linspace(0, 2, 7), torch.tensor([[0.3, 0.6, 0.2, 0.1]]))
    return {key: tuple(value.shape) for key, value in network.state_dict().items()}, *(part.tolist() for part in output)


class Stop(Exception):
    """Ends a command where its trials would begin."""


@pytest.mark.parametrize("key", SWEEP)
@pytest.mark.slow
def test_a_key_of_the_sweep_changes_how_trials_run(tiny_dataset, tmp_path, monkeypatch, key):
    seen = []
    node = {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 4.0}}
    monkeypatch.setattr(ray_runtime, "connect", lambda: SimpleNamespace(nodes=lambda: [node]))
    monkeypatch.setattr(sweep_module.Outputs, "write", lambda *_, **__: [])

    def run_trials(
        work, scratch, progress, max_concurrent, on_end, resources, reuse_actors, *, dataset, search_alg, scheduler, num_samples
    ):
        trials = [SimpleNamespace(config=search_alg.suggest(str(number))) for number in range(num_samples)]
        for rank, trial in enumerate(trials):
            trial.ends = []
            for epoch in range(1, 10):
                objectives = [1.0 + rank / epoch, -float(rank)][: len(config.sweep.objectives)]
                report = {"values": [(epoch, objectives)], "seconds": 1.0}
                trial.ends.append(scheduler.on_trial_result(None, trial, report))
        seen.append((max_concurrent, resources, reuse_actors, [(trial.config["overrides"], trial.ends) for trial in trials]))
        raise Stop

    monkeypatch.setattr(sweep_module, "run_trials", run_trials)
    for index, config in enumerate(both(SWEEP, key, DEEPONET | {"training.epochs": 9, "sweep.epochs": 9})):
        with pytest.raises(Stop):
            sweep_module.sweep(config, tiny_dataset, tmp_path / str(index), 8)
    assert seen[0] != seen[1]


@pytest.mark.parametrize("key", SCALING)
def test_a_key_of_scaling_changes_the_study(tiny_dataset, tmp_path, monkeypatch, key):
    """Cells that are there already are not trained again: the fit is made from them."""
    monkeypatch.setattr(ray_runtime, "connect", lambda: SimpleNamespace(cluster_resources=lambda: {"CPU": 5.0}, nodes=lambda: [node]))
    seen, node = [], {"Alive": True, "Resources": {"CPU": 5.0}}

    def run_trials(work, scratch, progress, max_concurrent, *, dataset, param_space):
        seen.append(max_concurrent)
        for run in param_space["run"]["grid_search"]:
            size = int(run.split("-")[-2])
            training = load_config(Path(run) / "config.yaml").training
            epochs = training.epochs * (training.patience or 1)
            cell = {key: 1.0 for key in (*scores.FIGURES, "validation_loss", "seconds", "steps", "num_parameters")}
            loss = 1 / size + epochs * (size == 20) + training.learning_rate
            cell |= {"architecture": "deeponet", "epochs": epochs, "median": loss, "stopped_early": True}
            (Path(run) / scores.CELL_FILE).write_text(json.dumps(cell))
            np.save(Path(run) / scores.LOSSES_FILE, np.ones(3))

    found = {
        "name": "deeponet",
        "size": 20,
        "trials": 2,
        "wall_seconds": 1.0,
        "at_edges": [],
        "parameters": {"training.learning_rate": 0.5},
    }
    done: list[object] = []
    monkeypatch.setattr(scaling_module, "retune", lambda *_: done.append(found))
    monkeypatch.setattr(scaling_module, "read_retuning", lambda _: done)
    monkeypatch.setattr(scaling_module, "run_trials", run_trials)
    for index, config in enumerate(both(SCALING, key, DEEPONET)):
        result = scaling_module.scale(config, tiny_dataset, tmp_path / str(index), ["deeponet"], [10, 20, 40], 1)
        seen.append(result["fits"]["deeponet"]["median"]["b_interval"])
    assert seen[:2] != seen[2:]


def save_tiny_model(folder, data):
    save_model(build_operator(parse_architecture({"name": "deeponet", "width": 4}), task_of(data)), folder, trained_for(data), {})


def test_every_key_of_evaluation_is_read(repository):
    """By a study or by the evaluation itself; what each changes is tested where it is read."""
    nodes = [node for path in (repository / "platform/evaluation").rglob("*.py") for node in ast.walk(ast.parse(path.read_text()))]
    reads = [node for node in nodes if isinstance(node, ast.Attribute) and ast.unparse(node.value).endswith("settings")]
    assert {node.attr for node in reads} >= set(EvaluationConfig.model_fields)


@pytest.mark.parametrize("key", SERVING)
def test_a_key_of_serving_changes_the_application(key):
    from neural_hamilton.serve.application import ModelSettings, ServeOptions, _bind

    applications = []
    for config in both(SERVING, key, {}):
        options = {name: value for name, value in config.serving.model_dump().items() if f"serving.{name}" in SERVING}
        models = ModelSettings(models={"a": "mambonet"}, solver_threshold=options.pop("solver_threshold"))
        deployment = _bind(ServeOptions(**options), models)._bound_deployment
        applications.append((deployment.num_replicas, deployment.user_config, deployment.init_args, str(deployment._deployment_config)))
    assert applications[0] != applications[1]


def test_the_address_of_serving_is_what_it_listens_on(tmp_path):
    from neural_hamilton.serve import application
    from neural_hamilton.serve.address import check_address

    assert {f"serving.{name}" for name in inspect.signature(application.start).parameters} >= ADDRESS
    with pytest.raises(InputError, match=r"'203\.0\.113\.1' and 4242"):
        check_address("203.0.113.1", 4242)


WITHOUT_EFFECT = {
    "training.mixed_fraction": {},
    "training.mixed_ensemble": {"training.endless": True},
    "training.decay_fraction": {"training.schedule": "cosine"},
    "training.final_learning_rate": {"training.schedule": "constant"},
    "training.loss_scale": {"training.loss": "mse"},
    "training.resident_gib": {"training.endless": True},
    "training.float32_epochs": {"training.precision": "float32"},
    "training.kl_warmup_epochs": {"architecture.name": "fno"},
    **{f"training.{key}": {"training.endless": True} for key in ("train_start", "trajectories_per_potential", "passes")},
    "scaling.steps": {"scaling.protocol": "equal-epochs"},
    "scaling.patience": {"scaling.protocol": "equal-epochs"},
    "sweep.grace_epochs": {"sweep.stopper": "none"},
    "sweep.grace_fraction": {"sweep.grace_epochs": 1},
    "sweep.final_seeds": {},
    "sweep.confidence": {},
} | {condition.key: {"evaluation.studies": []} for condition in CONDITIONS if condition.key.startswith("evaluation.")}


@pytest.mark.parametrize("condition", CONDITIONS, ids=lambda condition: condition.key)
def test_a_key_without_effect_is_refused_by_name_and_not_saved(tmp_path, condition):
    circumstances = WITHOUT_EFFECT[condition.key]
    with pytest.raises(InputError, match=f"{condition.key} is .*which has no effect here") as refusal:
        load_config(None, circumstances | {condition.key: condition.value(load_config())})
    assert condition.requirement in str(refusal.value)
    config = load_config(None, circumstances)
    section, name = condition.key.split(".")
    assert name not in config.dump()[section]
    config.save(tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config


def test_an_override_drops_what_it_deprives_of_its_effect(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("training: {schedule: cosine, final_learning_rate: 1.0e-5}")
    constant = {"training.schedule": "constant"}
    for config in (load_config(file, constant), load_config(file).override(constant)):
        assert config.given() == {"training": {"schedule": "constant"}}
    with pytest.raises(InputError, match=r"training\.final_learning_rate is 0\.1, which has no effect"):
        load_config(file, constant | {"training.final_learning_rate": 0.1})
    file.write_text("training: {schedule: constant, final_learning_rate: 1.0e-5}")
    with pytest.raises(InputError, match=r"training\.final_learning_rate is 1e-05, which has no effect"):
        load_config(file)
    assert load_config(file, {"training.schedule": "cosine"}).training.final_learning_rate == 1e-5
