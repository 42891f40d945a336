"""What this process takes of its machine."""

import resource
import sys

import torch


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory held so far: of the GPU where the work is there, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB
