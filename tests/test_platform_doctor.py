"""What `doctor` says about the scan, in this process and when the environment asks for what cannot be had."""

import json

import torch

from neural_hamilton.architectures.selective_scan import BACKENDS, choose_backend, use_backend
from neural_hamilton.platform.commands.doctor import examine


def test_names_the_backend_that_runs_and_why_others_do_not():
    report = examine()
    assert report["scan_backend"] == choose_backend("cuda" if torch.cuda.is_available() else "cpu")
    assert report["scan_backends"].keys() == set(BACKENDS)
    assert report["scan_backends"]["reference"].startswith("runs on ")
    if not torch.cuda.is_available():
        assert report["scan_backends"]["mamba_ssm"] == "it runs on cuda tensors, not on cpu"
    with use_backend("reference"):
        assert examine()["scan_backend"] == "reference"


def test_a_backend_that_cannot_run_is_advice(run_cli):
    done = run_cli("doctor", "--json", env={"NEURAL_HAMILTON_SCAN": "magic"})
    report = json.loads(done.stdout.strip().splitlines()[-1])
    assert report["scan_backend"] is None
    assert any("'magic'" in line and "NEURAL_HAMILTON_SCAN" in line for line in report["advice"])
