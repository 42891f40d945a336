"""MambONet with our Mamba block and with mambapy's in its place: same weights, same batch, same everything else.

Our scan is the readable reference: a loop over the sequence. mambapy's is a parallel scan in PyTorch, which
pads the sequence to a power of two.
"""

import copy
from typing import Any, cast

import torch
from mambapy.mamba import MambaBlock, MambaConfig
from torch import nn

from neural_hamilton.architectures import Operator, build_operator, parse_architecture

from .timing import compare, time_in_turns

_CONFIG = {"name": "mambonet", "d_model": 64, "num_mamba_layers": 2, "num_sensors": 100}
_BATCH, _TIMES = 50, 100
_REPEATS = 3
_THREADS = 1  # a second thread measures the neighbours on a busy machine


def measure() -> dict[str, Any]:
    """Compare a training step and a forward pass, both networks checked to give the same answer."""
    torch.set_num_threads(_THREADS)
    torch.manual_seed(0)
    ours = build_operator(parse_architecture(_CONFIG))
    theirs = _with_mambapy(ours)
    batch = (torch.randn(_BATCH, 100), torch.linspace(0, 2, _TIMES).repeat(_BATCH, 1), torch.zeros(_BATCH, 2))
    with torch.no_grad():
        difference = max(float((a - b).abs().max()) for a, b in zip(ours(*batch)[:2], theirs(*batch)[:2], strict=True))
    assert difference < 1e-4, f"the two networks differ by {difference:.1e}"
    seconds = time_in_turns(
        {
            "training step, our scan": _training_step(ours, batch),
            "training step, mambapy's": _training_step(theirs, batch),
            "forward, our scan": _forward(ours, batch),
            "forward, mambapy's": _forward(theirs, batch),
        },
        _REPEATS,
    )
    return {
        "what": f"MambONet, d_model 64, 2 Mamba layers, batch {_BATCH}, 100 sensors and times, float32 on the CPU",
        "comparisons": [compare(seconds, f"{work}, our scan", f"{work}, mambapy's") for work in ("training step", "forward")],
        "largest_difference_of_answers": difference,
        "threads": torch.get_num_threads(),
    }


def _with_mambapy(model: Operator) -> Operator:
    swapped = copy.deepcopy(model)
    for layer in cast(nn.ModuleList, swapped.encoder):
        block = MambaBlock(MambaConfig(d_model=_CONFIG["d_model"], n_layers=1))
        block.load_state_dict(cast(nn.Module, layer.mixer).state_dict())
        layer.mixer = block
    return swapped


def _training_step(model: Operator, batch: tuple[torch.Tensor, ...]) -> Any:
    model = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> None:
        output = model(*batch)
        optimizer.zero_grad(set_to_none=True)
        (output.q.square().mean() + output.p.square().mean()).backward()
        optimizer.step()

    return step


def _forward(model: Operator, batch: tuple[torch.Tensor, ...]) -> Any:
    model = copy.deepcopy(model).eval()

    def forward() -> None:
        with torch.inference_mode():
            model(*batch)

    return forward
