"""`submit`, `ray job submit` and commands that join, on a real cluster of its own, started by `ray start --head` as the guide says."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from process_helpers import allow_interruption
from serving import free_port

from neural_hamilton.physics import InputError
from neural_hamilton.platform.cluster import jobs
from neural_hamilton.platform.cluster.jobs import Jobs, dashboard_address

BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A one-node cluster with token authentication, ended process by process: `dashboard`, `gcs` and the `environment` of its users."""
    home = tmp_path_factory.mktemp("home")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_") and k != "PYTHONPATH"}
    environment |= {
        "RAY_AUTH_MODE": "token",
        "HOME": str(home),
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    subprocess.run([BIN / "ray", "get-auth-token", "--generate"], env=environment, check=True, capture_output=True)
    dashboard, gcs = free_port(), free_port()
    command = [BIN / "ray", "start", "--head", "--block", "--port", gcs, "--dashboard-port", dashboard, "--num-cpus", 2]
    command += ["--include-dashboard", "true", "--ray-client-server-port", free_port(), "--dashboard-agent-listen-port", free_port()]
    # The driver of a job joins the newest cluster of its temporary folder, which another cluster on this machine may share; a short path.
    temporary = tempfile.mkdtemp(prefix="nh-", dir="/tmp")
    command += ["--temp-dir", temporary]
    log = (home / "head.log").open("w")
    head = subprocess.Popen([str(part) for part in command], env=environment, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{dashboard}"
    try:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            try:
                urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{address}/api/version", timeout=2)
                break
            except urllib.error.HTTPError:
                break  # it answers, and asks for the token
            except OSError:
                assert head.poll() is None, (home / "head.log").read_text()
                time.sleep(0.3)
        yield SimpleNamespace(dashboard=address, gcs=f"127.0.0.1:{gcs}", environment=environment)
    finally:
        for process in [*psutil.Process(head.pid).children(recursive=True), head]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        head.wait()
        shutil.rmtree(temporary, ignore_errors=True)


def ray_submit(cluster, repository, *arguments):
    command = [BIN / "ray", "job", "submit", "--address", cluster.dashboard, "--working-dir", "."]
    command += ["--", "python", "-m", "neural_hamilton.platform"]
    return subprocess.run(
        [str(part) for part in [*command, *arguments]],
        cwd=repository,
        env=cluster.environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


def submission(cluster, *arguments, address=None):
    """The command line of `submit`."""
    return [
        *(sys.executable, "-m", "neural_hamilton.platform", "submit", "--address", address or cluster.dashboard),
        *map(str, arguments),
    ]


def submit(cluster, repository, *arguments, address=None, **environment):
    return subprocess.run(
        submission(cluster, *arguments, address=address),
        cwd=repository,
        env=cluster.environment | environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


@pytest.mark.slow
def test_a_mistake_in_a_job_of_ray_fails_the_job(cluster, repository, tmp_path):
    failed = ray_submit(cluster, repository, "inspect", tmp_path / "nothing")
    assert failed.returncode == 1 and "does not exist" in failed.stdout


def test_training_runs_as_a_submitted_job_from_a_bare_checkout(cluster, repository, tiny_dataset, tmp_path):
    tiny = ["--set", "architecture.width=8", "--set", "training.epochs=2"]
    train = ["train", tiny_dataset, "--arch", "deeponet", "--workers", 1, "--out", tmp_path / "run", "--json", *tiny]
    done = submit(cluster, repository, "--json", "--", *train)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    *_, log, last = done.stdout.splitlines()
    assert json.loads(last)["status"] == "SUCCEEDED" and json.loads(last)["exit_code"] == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert json.loads(log) == result and result["epochs"] == 2
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()


def test_the_exit_code_of_a_job_that_fails_is_its_own(cluster, repository, tmp_path):
    failed = submit(cluster, repository, "--", "inspect", tmp_path / "nothing")
    assert failed.returncode == 2 and "does not exist" in failed.stdout and failed.stdout.endswith(": FAILED\n")


def waiting(marker, words):
    """A job that writes `words` a second apart, and ends when the file `marker` is there."""
    program = f"import os, time\nfor word in {words!r}: print(word, flush=True); time.sleep(1)\n"
    program += f"while not os.path.exists({str(marker)!r}): time.sleep(0.1)\nprint('the end')"
    return ["--", "python", "-c", program]


@pytest.mark.slow
def test_a_repeated_command_follows_the_job_that_runs_and_then_begins_another(cluster, repository, tmp_path):
    job = waiting(tmp_path / "marker", ["begun"])
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "preexec_fn": allow_interruption}
    first = subprocess.Popen(submission(cluster, *job), cwd=repository, env=cluster.environment, **pipes)
    assert any("begun" in line for line in first.stdout)  # reads as far as this line
    first.send_signal(signal.SIGINT)
    output, words = first.communicate(timeout=60)
    assert first.returncode == 130 and "Traceback" not in words
    name = words.split()[1]
    assert f"job {name} goes on" in words and f"ray job stop --address {cluster.dashboard} {name}" in words

    seen = submit(cluster, repository, "--no-wait", "--json", *job)
    about = json.loads(seen.stdout.splitlines()[-1])
    assert seen.returncode == 0 and about["attached"] and about["submission_id"] == name and about["status"] == "RUNNING"

    second = subprocess.Popen(submission(cluster, *job), cwd=repository, env=cluster.environment, stdout=subprocess.PIPE, text=True)
    assert any("begun" in line for line in second.stdout)
    (tmp_path / "marker").touch()
    output, _ = second.communicate(timeout=60)
    assert second.returncode == 0 and "the end" in output and f"job {name}: SUCCEEDED" in output

    again = submit(cluster, repository, *job)
    assert again.returncode == 0 and f"job {name}-2: SUCCEEDED" in again.stdout


@pytest.mark.slow
def test_an_identifier_stands_for_one_job(cluster, repository, tmp_path):
    job = ["--submission-id", "mine", "--", "python", "-c", f"open({str(tmp_path / 'log')!r}, 'a').write('x'); print('done'); exit(3)"]
    for _ in range(2):
        done = submit(cluster, repository, *job)
        assert done.returncode == 3 and done.stdout.count("done\n") == 1
    assert (tmp_path / "log").read_text() == "x"
    other = submit(cluster, repository, "--submission-id", "mine", "--", "python", "-c", "1")
    assert other.returncode == 2 and "--submission-id is 'mine'" in other.stderr


class Proxy:
    """Forwards connections to the dashboard, and can cut them off."""

    def __init__(self, target):
        self._target, self._open = target, []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._server.accept()
                far = socket.create_connection(self._target)
                self._open += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    @staticmethod
    def _pump(source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def cut(self):
        for end in self._open:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def close(self):
        self._server.close()
        self.cut()


def test_a_log_that_is_cut_off_is_followed_again_to_the_real_end(cluster, repository, tmp_path):
    words = [f"word-{number}" for number in range(6)]
    proxy = Proxy(("127.0.0.1", int(cluster.dashboard.rpartition(":")[2])))
    try:
        command = submission(cluster, *waiting(tmp_path / "marker", words), address=proxy.address)
        process = subprocess.Popen(command, cwd=repository, env=cluster.environment, stdout=subprocess.PIPE, text=True)
        begun = next(line for line in process.stdout if line == "word-1\n")
        proxy.cut()
        (tmp_path / "marker").touch()
        rest, _ = process.communicate(timeout=120)
    finally:
        proxy.close()
    assert process.returncode == 0 and begun
    assert [line for line in rest.splitlines() if line.startswith("word")] == words[2:]
    assert "the end" in rest and rest.endswith(": SUCCEEDED\n")


@pytest.mark.parametrize(
    ("address", "environment", "words"),
    [
        (f"http://127.0.0.1:{free_port()}", {}, "no dashboard can be reached"),
        (None, {"RAY_AUTH_TOKEN": "0" * 64}, "refuses the token"),
        (None, {"RAY_AUTH_TOKEN_PATH": "nothing"}, "token"),
        ("ftp://somewhere", {}, "it must be the dashboard's"),
    ],
    ids=["no dashboard", "wrong token", "no token", "no address"],
)
def test_a_job_that_cannot_be_submitted_is_one_sentence(cluster, repository, address, environment, words):
    refused = submit(cluster, repository, "--", "inspect", "/nothing", address=address, **environment)
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1, refused.stderr
    assert refused.stderr.startswith("error: --address is") and words in refused.stderr


@pytest.mark.slow
def test_code_that_is_too_large_is_one_sentence(cluster, repository, tmp_path):
    checkout = tmp_path / "checkout"
    ignored = shutil.ignore_patterns(".*", "__pycache__", "models", "benchmarks", "docs", "tests", "runs", "build")
    shutil.copytree(repository, checkout, ignore=ignored)
    (checkout / "large.bin").write_bytes(os.urandom(110 * 2**20))
    refused = submit(cluster, checkout, "--", "inspect", "/nothing")
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1, refused.stderr
    assert "100 MiB" in refused.stderr
    (checkout / ".gitignore").write_text("/large.bin\n")
    assert "does not exist" in submit(cluster, checkout, "--", "inspect", "/nothing").stdout


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["trian", "x"], "COMMAND is 'trian x'; it must begin with python or be one of compare, demo"),
        (["submit", "--", "train"], "COMMAND is 'submit"),
        (["neural-hamilton"], "it must begin with python"),
        (["train", "/data", "--out", "/run", "--epoch", "3"], "No such option '--epoch'"),
        (["train", "/data", "--out", "runs/x"], "train would write to 'runs/x'"),
        (["generate", "d", "--train", "3"], "generate would write to 'd'"),
    ],
)
def test_a_mistake_in_the_command_is_found_before_it_is_submitted(capfd, command, words):
    from neural_hamilton.platform.cli import main

    assert main(["submit", "--address", "http://127.0.0.1:1", "--", *command]) == 2
    assert words in capfd.readouterr().err


def test_a_dashboard_that_does_not_respond_is_one_sentence(monkeypatch):
    monkeypatch.setattr(jobs, "_REPLY_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(InputError, match=f"--address is '{address}'.*timed out"):
            Jobs(address)


@pytest.mark.parametrize("refusals", [2, 1000])
def test_a_head_without_an_agent_is_asked_again_and_then_named(monkeypatch, refusals):
    """As Ray's dashboard refuses in the first seconds of a head, and for good where another Ray has its agent's port."""
    monkeypatch.setattr(jobs, "_AGENT_SECONDS", 0.5)
    monkeypatch.setattr(jobs, "_POLL_SECONDS", 0.01)
    asked = []

    def submit_job(**job):
        asked.append(job["submission_id"])
        if len(asked) <= refusals:
            raise RuntimeError("Request failed with status code 500: No available agent to submit job, please try again later..")

    cluster = object.__new__(Jobs)
    cluster.address, cluster._client = "http://head:8265", SimpleNamespace(list_jobs=lambda: [], submit_job=submit_job)
    if refusals == 2:
        assert cluster.submit("true", None, "one") == ("one", False) and asked == ["one"] * 3
        return
    with pytest.raises(InputError, match=r"no node accepts jobs.*--dashboard-agent-listen-port` and a port that is free$"):
        cluster.submit("true", None, "one")
    assert len(asked) > 3


def test_the_address_is_that_of_the_option_then_of_the_environment(monkeypatch):
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_DASHBOARD_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    assert dashboard_address(None) == "http://127.0.0.1:8265"
    monkeypatch.setenv("RAY_DASHBOARD_ADDRESS", "http://second:1/")
    assert dashboard_address(None) == "http://second:1"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "first:1")
    assert dashboard_address(None) == "http://first:1"
    assert dashboard_address("https://given") == "https://given"


def join(cluster, repository, tmp_path, **environment):
    """A command that joins the cluster."""
    command = [sys.executable, "-m", "neural_hamilton.platform", "generate", str(tmp_path / "d"), "--train", "4"]
    environment = cluster.environment | {"RAY_ADDRESS": cluster.gcs} | environment
    return subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_a_command_joins_the_cluster_with_its_token(cluster, repository, tmp_path):
    assert join(cluster, repository, tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"RAY_AUTH_TOKEN": "0" * 64}, "refuses the token"),
        ({"RAY_AUTH_TOKEN_PATH": "nothing"}, "has no token"),
        ({"RAY_AUTH_MODE": "disabled"}, "refuses the token"),
    ],
    ids=["wrong token", "no token", "no authentication"],
)
def test_a_cluster_that_refuses_a_command_is_one_sentence(cluster, repository, tmp_path, environment, words):
    refused = join(cluster, repository, tmp_path, **environment)
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1, refused.stderr
    assert refused.stderr.startswith(f"error: RAY_ADDRESS is '{cluster.gcs}'") and words in refused.stderr


_OTHER_VERSION = """
import json, sys
from ray._common.usage.usage_constants import CLUSTER_METADATA_KEY
from ray._private.ray_constants import KV_NAMESPACE_CLUSTER
from ray._raylet import GcsClient
client = GcsClient(address=sys.argv[1])
metadata = json.loads(client.internal_kv_get(CLUSTER_METADATA_KEY, namespace=KV_NAMESPACE_CLUSTER))
print(metadata[sys.argv[2]])
metadata[sys.argv[2]] = sys.argv[3]
client.internal_kv_put(CLUSTER_METADATA_KEY, json.dumps(metadata).encode(), True, namespace=KV_NAMESPACE_CLUSTER)
"""


@pytest.mark.parametrize(("key", "version"), [("ray_version", "2.9.3"), ("python_version", "3.9.18")])
@pytest.mark.slow
def test_a_cluster_of_other_versions_is_one_sentence(cluster, repository, tmp_path, key, version):
    def pretend(version):
        command = [sys.executable, "-c", _OTHER_VERSION, cluster.gcs, key, version]
        return subprocess.run(command, env=cluster.environment, capture_output=True, text=True, check=True).stdout.strip()

    actual = pretend(version)
    try:
        refused = join(cluster, repository, tmp_path)
    finally:
        pretend(actual)
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1, refused.stderr
    assert version in refused.stderr and actual in refused.stderr


@pytest.mark.slow
def test_relative_output_in_a_submitted_job_fails_the_job(cluster, repository):
    failed = ray_submit(cluster, repository, "generate", "runs/lost", "--train", 4, "--local")
    assert failed.returncode == 1 and "DEST is 'runs/lost', which lies in the copy of the code that Ray deletes" in failed.stdout
