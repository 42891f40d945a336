"""A forked child of a process that has predicted predicts too. A fork copies no threads, for which OpenMP would wait for ever."""

import subprocess
import sys

import pytest

_CODE = """
import os, sys, torch
from neural_hamilton.architectures import Task, build_operator, parse_architecture
from neural_hamilton.architectures.selective_scan import threads

torch.set_num_threads(2)
torch.manual_seed(0)
task = Task((100,), ((0.0, 1.0),), 2.0)
model = build_operator(parse_architecture({"name": NAME}), task).eval()
inputs = torch.rand(128, 100), torch.linspace(0, 2, 100), torch.zeros(2)

def predict():
    with torch.inference_mode():
        return model(*inputs).q.clone()

before = predict()
reader, writer = os.pipe()
child = os.fork()
if child == 0:
    started, run_on_threads = [], threads.run_on_threads
    threads.run_on_threads = lambda work, count: (started.append(count), run_on_threads(work, count))
    same = torch.allclose(predict(), before, atol=1e-5)
    os.write(writer, f"{same} {torch.get_num_threads()} {set(started)}".encode())
    os._exit(0)
_, status = os.waitpid(child, 0)
assert torch.equal(predict(), before) and torch.get_num_threads() == 2  # the parent goes on as before
print(status, os.read(reader, 100).decode())
"""


@pytest.mark.skipif(not hasattr(sys, "getswitchinterval") or sys.platform == "win32", reason="needs fork")
@pytest.mark.parametrize(("name", "kernel_threads"), [("deeponet", "set()"), ("mambonet", "{2}"), ("orbitnet", "{2}")])
def test_a_forked_child_predicts(name, kernel_threads):
    code = _CODE.replace("NAME", repr(name))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split(maxsplit=3) == ["0", "True", "1", f"{kernel_threads}\n"]
