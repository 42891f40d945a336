"""Machines, drivers and workers lost at random, with nothing shared but a bucket: what is made in the end is what would have been made.

Every machine has its own address and its own disk, see `machines`. `make kills` runs all of it, a hundred kills, drawn from seeds.
"""

import functools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import pytest
from machines import Machines, can_have_machines
from store_helpers import Store

from neural_hamilton.platform.config import load_config
from neural_hamilton.platform.data.generation import generate
from neural_hamilton.platform.storage import locate
from neural_hamilton.serve.shipped import SHIPPED_MODELS
from neural_hamilton.tune.scaling.scale import scale

pytestmark = pytest.mark.skipif(not can_have_machines(), reason="machines need network namespaces and mounts: Linux, as root")

SMALL = {"architecture.name": "deeponet", "architecture.width": 8, "architecture.num_layers": 1, "architecture.num_channels": 4}
SIZES = {"data.train": 64, "data.val": 16, "data.test": 16, "data.sensors": 20, "data.times": 20}
_PATIENCE = 900.0  # seconds in which a command must get on
_OUTAGE_SECONDS = 30.0


@pytest.fixture(scope="module")
def machines():
    cluster = Machines(own_addresses=True)
    yield cluster
    cluster.close()


@pytest.fixture(scope="module")
def bucket(machines):
    """A store that all machines reach, with an empty bucket."""
    store = Store(machines.address)
    store.client.create_bucket(Bucket="kills")
    yield store
    store.close()


@pytest.fixture(scope="module")
def dataset(bucket):
    """A small dataset in the bucket."""
    folder = locate(bucket.url("kills/dataset"))
    generate(folder, load_config(None, SIZES).data, local=True)
    return folder


class Command:
    """A command as a user repeats it until it succeeds, in a process of its own. `progress` counts what the bucket holds of its work."""

    def __init__(self, words, machines, bucket, progress):
        self._words, self._machines, self._bucket, self._progress = [str(word) for word in words], machines, bucket, progress
        self.events: list[str] = []
        self._repeated = 0
        self.process = self.start()

    def start(self):
        command = [sys.executable, "-m", "neural_hamilton.platform", *self._words]
        environment = os.environ | self._machines.environment
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        return self.process

    def succeeded(self):
        """Whether it has ended well; one that gave up, with a sentence that asks for it, is repeated."""
        if self.process.poll() is None:
            return False
        output, errors = self.process.communicate()
        if self.process.returncode == 0:
            self._output = output
            return True
        assert self.process.returncode == 2 and "Traceback" not in errors, errors
        self._repeated += 1
        assert self._repeated < 30, errors
        self.start()
        return False

    def disturb(self, kinds, draw, more):
        """Do one thing of each of `kinds`, after up to `more` of progress; the number done before it ended."""
        for count, kind in enumerate(kinds):
            target, deadline = self._progress() + draw.randint(1, more), time.monotonic() + _PATIENCE
            while self._progress() < target:
                if self.succeeded():
                    return count
                assert time.monotonic() < deadline, f"no progress after {self.events}"
                time.sleep(0.1)
            self.events.append(kind)
            getattr(self, kind)(draw)
        return len(kinds)

    def finish(self):
        deadline = time.monotonic() + _PATIENCE
        while not self.succeeded():
            assert time.monotonic() < deadline, self.events
            time.sleep(0.2)
        return json.loads(self._output.splitlines()[-1])

    def driver(self, _):
        self.process.kill()
        self.process.communicate()
        self.start()

    def machine(self, _):
        self._machines.replace()

    def worker(self, draw):
        idle = ("DashboardAgent", "RuntimeEnvAgent", "IDLE")
        workers = [each for each in self._machines.processes("ray::") if not any(word in each.cmdline()[0] for word in idle)]
        if workers:
            os.kill(draw.choice(workers).pid, signal.SIGKILL)

    def outage(self, _):
        with self._bucket.failing("503"):
            time.sleep(_OUTAGE_SECONDS)

    def rival(self, _):
        """A second driver on the same destination, which is refused while the first works."""
        command = [sys.executable, "-m", "neural_hamilton.platform", *self._words]
        run = subprocess.run(command, env=os.environ | self._machines.environment, capture_output=True, text=True, check=False)
        if self.process.poll() is None:
            assert run.returncode == 2 and "is in use by" in run.stderr, run.stderr


def kinds(draw, kills):
    """What to do to a command: `kills` losses, and among them an outage of the bucket and a rival."""
    drawn = draw.choices(["driver", "machine", "worker"], weights=[2, 2, 3], k=kills)
    for extra in ("outage", "rival") if kills > 5 else ():
        drawn.insert(draw.randrange(len(drawn)), extra)
    return drawn


def keys(bucket, prefix):
    pages = bucket.client.get_paginator("list_objects_v2").paginate(Bucket="kills", Prefix=prefix)
    return [item["Key"] for page in pages for item in page.get("Contents", [])]


def epochs(bucket, prefix):
    """The lines of all histories below a prefix."""
    histories = [key for key in keys(bucket, prefix) if key.endswith("/history.jsonl")]
    return sum(bucket.client.get_object(Bucket="kills", Key=key)["Body"].read().count(b"\n") for key in histories)


def options(values):
    return [word for key, value in values.items() for word in ("--set", f"{key}={json.dumps(value)}")]


def keep_killing(disturbed, kills, seed):
    """Repeat `disturbed(kills, seed)` with other seeds, until `kills` losses came before the ends of the commands."""
    done = 0
    while done < kills:
        done += disturbed(kills - done, seed)
        seed += 1000


def disturbed_generation(machines, bucket, tmp_path, kills, seed):
    return disturb_generation(machines, bucket, tmp_path, kinds(random.Random(seed), kills), seed, train=60_000)


def disturb_generation(machines, bucket, tmp_path, events, seed, train):
    sizes = SIZES | {"data.train": train, "data.shard_rows": 400, "data.seed": seed}
    out, draw = locate(bucket.url(f"kills/generated-{seed}")), random.Random(seed)
    progress = lambda: len(keys(bucket, f"generated-{seed}/train"))  # noqa: E731
    command = Command(["generate", out, *options(sizes), "--json"], machines, bucket, progress)
    done = command.disturb(events, draw, 4)
    command.finish()
    generate(tmp_path / f"{seed}", load_config(None, sizes).data, local=True)
    expected = {path.relative_to(tmp_path / f"{seed}").as_posix(): path.read_bytes() for path in (tmp_path / f"{seed}").rglob("*.*")}
    assert bucket.objects("kills", f"generated-{seed}/") == expected, command.events
    return done


def disturbed_training(machines, bucket, dataset, kills, seed):
    settings = SMALL | {"training.epochs": 5 * kills + 3, "training.batch_size": 16, "training.seed": seed}
    weights = []
    for name, events in ((f"whole-{seed}", 0), (f"run-{seed}", kills)):
        out, draw = locate(bucket.url(f"kills/{name}")), random.Random(seed)
        words = ["train", dataset, "--out", out, "--workers", 2, "--resume", *options(settings), "--json"]
        command = Command(words, machines, bucket, functools.partial(epochs, bucket, f"{name}/"))
        done = command.disturb(kinds(draw, events), draw, 2)
        assert command.finish()["epochs"] == settings["training.epochs"] == epochs(bucket, f"{name}/"), command.events
        weights.append((out / "model" / "model.safetensors").read_bytes())
    assert weights[0] == weights[1], command.events
    return done


def disturbed_sweep(machines, bucket, dataset, kills, seed):
    trials = max(3, kills)
    space = {"training.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}
    settings = SMALL | {"training.epochs": 12, "training.batch_size": 16, "sweep.space": space, "sweep.seed": seed}
    out, draw = locate(bucket.url(f"kills/sweep-{seed}")), random.Random(seed)
    words = ["sweep", dataset, "--out", out, "--trials", trials, *options(settings), "--json"]
    command = Command(words, machines, bucket, functools.partial(epochs, bucket, f"sweep-{seed}/"))
    done = command.disturb(kinds(draw, kills), draw, 8)
    result = command.finish()
    rows = json.loads((out / "leaderboard.json").read_text())
    numbers = [f"{number:05d}" for number in range(trials)]
    assert result["trials"] == trials and sorted(row["trial"] for row in rows) == numbers, command.events
    assert sorted({key.split("/")[2] for key in keys(bucket, f"sweep-{seed}/trials/")}) == numbers
    for row in rows:  # what the record says is what the run did
        history = [json.loads(line) for line in (out / "trials" / row["trial"] / "history.jsonl").read_text().splitlines()]
        losses = [line["validation_loss"] for line in history]
        assert [line["epoch"] for line in history] == list(range(1, len(history) + 1))
        assert row["state"] in ("finished", "stopped early") and row["validation_loss"] == min(losses[: row["epochs"]]), (
            row,
            command.events,
        )
    return done


def disturbed_study(machines, bucket, dataset, tmp_path, kills, seed):
    settings = SMALL | {"training.epochs": 12, "training.batch_size": 16, "evaluation.max_rows": 8, "evaluation.bootstrap": 10}
    repetitions = max(2, kills // 2)
    out, draw = locate(bucket.url(f"kills/study-{seed}")), random.Random(seed)
    words = ["scale", dataset, "--out", out, "--arch", "deeponet", "--sizes", "16,32", "--seeds", repetitions, *options(settings), "--json"]
    command = Command(words, machines, bucket, functools.partial(epochs, bucket, f"study-{seed}/"))
    done = command.disturb(kinds(draw, kills), draw, 8)
    cells = command.finish()["cells"]
    undisturbed = scale(load_config(None, settings), dataset, tmp_path / f"{seed}", ["deeponet"], [16, 32], repetitions, local=True)[
        "cells"
    ]
    keys_of = ("name", "size", "draw", "seed", "state", "median", "mean", "p99", "validation_loss", "epochs")
    assert [[cell[key] for key in keys_of] for cell in cells] == [[cell[key] for key in keys_of] for cell in undisturbed], command.events
    return done


def disturbed_service(machines, bucket, kills, seed):
    """An endpoint with two replicas and a client that never stops: every prediction is right, and after each loss it is back in time."""
    draw, port = random.Random(seed), 18_000 + os.getpid() % 10_000
    for name in ("model.json", "model.safetensors"):
        shipped = SHIPPED_MODELS / "orbitnet-13-sensors" / name
        bucket.client.put_object(Bucket="kills", Key=f"served/{name}", Body=shipped.read_bytes())
    words = ["serve", f"kept={bucket.url('kills/served')}", "--port", port, "--set", "serving.num_replicas=2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "neural_hamilton.platform", *map(str, words)],
        env=os.environ | machines.environment,
        stderr=subprocess.DEVNULL,
    )
    client = Client(f"http://127.0.0.1:{port}")
    try:
        client.wait_for_success(_PATIENCE)
        client.begin()
        for _ in range(kills):
            time.sleep(draw.uniform(0.5, 3.0))
            kind = draw.choice(["ServeReplica", "ServeReplica", "ProxyActor", "machine"])
            if kind == "machine":
                machines.replace()
            else:
                victims = machines.processes(kind)
                os.kill(draw.choice(victims).pid, signal.SIGKILL)
            client.wait_for_success(60.0)
        client.end()
    finally:
        process.terminate()
        process.wait(timeout=60)
    assert client.wrong == 0 and client.right > kills, (client.right, client.statuses)
    assert set(client.statuses) <= {200, 503}, client.statuses
    return kills


class Client:
    """Asks for one trajectory after another, and compares each with what came first."""

    def __init__(self, url):
        self._url, self._expected, self._ended = f"{url}/v1/trajectories", {}, threading.Event()
        self.right, self.wrong, self.statuses, self._last = 0, 0, {}, 0.0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def begin(self):
        self._thread.start()

    def end(self):
        self._ended.set()
        self._thread.join()

    def wait_for_success(self, seconds):
        """Until a request that begins from now on succeeds."""
        deadline, asked = time.monotonic() + seconds, time.monotonic()
        while self._last < asked:
            assert time.monotonic() < deadline and set(self.statuses) <= {200, 503}, self.statuses
            if not self._thread.is_alive():
                self._ask(0)
            time.sleep(0.1)

    def _run(self):
        turn = 0
        while not self._ended.is_set():
            turn += 1
            self._ask(turn % 5)

    def _ask(self, which):
        body = json.dumps({"trajectories": [{"expression": f"2 - {4 + which}*q*(1-q)"}]}).encode()
        begun = time.monotonic()
        try:
            with urllib.request.urlopen(
                urllib.request.Request(self._url, body, {"Content-Type": "application/json"}), timeout=30
            ) as response:
                content = json.load(response)["trajectories"]
        except urllib.error.HTTPError as error:
            self.statuses[error.code] = self.statuses.get(error.code, 0) + 1
            time.sleep(0.1)
            return
        except (OSError, ValueError):  # refused, or broken off: lost with the process that worked on it
            time.sleep(0.1)
            return
        self.statuses[200] = self.statuses.get(200, 0) + 1
        self._last = begun
        known = self._expected.setdefault(which, content)
        self.right, self.wrong = self.right + (content == known), self.wrong + (content != known)


@pytest.mark.slow
def test_a_lost_driver_and_a_lost_machine_leave_no_trace(tmp_path):
    """The short version. Without addresses of their own: other tests have connections on the network of this machine."""
    machines, store = Machines(own_addresses=False), Store()
    try:
        store.client.create_bucket(Bucket="kills")
        assert disturb_generation(machines, store, tmp_path, ["driver", "machine"], 1, train=16_000) == 2
    finally:
        machines.close()
        store.close()


@pytest.mark.kills
def test_generation_is_byte_identical_after_25_kills(machines, bucket, tmp_path):
    keep_killing(functools.partial(disturbed_generation, machines, bucket, tmp_path), 25, 1)


@pytest.mark.kills
def test_training_with_two_workers_is_bitwise_identical_after_20_kills(machines, bucket, dataset):
    keep_killing(functools.partial(disturbed_training, machines, bucket, dataset), 20, 2)


@pytest.mark.kills
def test_a_sweep_has_every_trial_once_after_20_kills(machines, bucket, dataset):
    keep_killing(functools.partial(disturbed_sweep, machines, bucket, dataset), 20, 3)


@pytest.mark.kills
def test_a_study_has_every_cell_and_the_losses_of_an_undisturbed_one_after_20_kills(machines, bucket, dataset, tmp_path):
    keep_killing(functools.partial(disturbed_study, machines, bucket, dataset, tmp_path), 20, 4)


@pytest.mark.kills
def test_no_wrong_prediction_is_served_during_15_kills(machines, bucket):
    assert disturbed_service(machines, bucket, 15, 5) == 15
