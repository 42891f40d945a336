"""The script for SLURM runs here, with stand-ins for SLURM's programs."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "deploy" / "slurm.sh"

# It drops srun's own options and runs the rest here, as one task of the step.
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
[ "$1" = hostname ] && { echo 127.0.0.1; exit; }
exec "$@"
"""


@pytest.fixture
def allocation(tmp_path):
    """The environment of an allocation of one node."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in {"srun": SRUN, "scontrol": "#!/bin/sh\necho this-node\n"}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
    number = str(os.getpid() % 20000)
    slurm = {"SLURM_JOB_ID": number, "SLURM_JOB_NODELIST": "this-node", "SLURM_CPUS_PER_TASK": "2"}
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | slurm | {"PATH": path}


def run(allocation, *arguments, timeout=400):
    command = ["bash", str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=allocation, capture_output=True, text=True, timeout=timeout, check=False)


def test_the_script_is_sound():
    assert subprocess.run(["bash", "-n", SCRIPT], check=False).returncode == 0
    assert os.access(SCRIPT, os.X_OK)
    if checker := shutil.which("shellcheck"):
        subprocess.run([checker, SCRIPT], check=True)


def test_without_a_command_it_is_refused(allocation):
    refused = run(allocation)
    assert refused.returncode == 2 and refused.stderr.startswith("error: no command")


@pytest.mark.slow
def test_it_starts_ray_runs_the_command_and_leaves_nothing(allocation, tmp_path):
    done = run(allocation, "generate", tmp_path / "data", "--train", 4)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert (tmp_path / "data" / "manifest.json").exists()
    folder = f"nh-{allocation['SLURM_JOB_ID']}"
    assert not (Path("/tmp") / folder).exists()
    deadline = time.monotonic() + 30
    while (left := [p.pid for p in psutil.process_iter(["cmdline"]) if folder in " ".join(p.info["cmdline"] or [])]) and (
        time.monotonic() < deadline
    ):
        time.sleep(0.5)
    assert not left
