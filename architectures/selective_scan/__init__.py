"""The selective state-space scan of Mamba (Gu & Dao, arXiv 2312.00752), fast wherever it runs.

| backend     | runs on                       | what it is                                                                  |
|-------------|-------------------------------|-----------------------------------------------------------------------------|
| `mamba_ssm` | CUDA                          | the kernel of the package mamba-ssm, where that is installed                |
| `cpu`       | CPUs, float32 and float64     | a fused, multithreaded kernel, compiled by Numba                            |
| `triton`    | CUDA                          | a fused kernel that needs only the Triton that comes with PyTorch           |
| `reference` | everything                    | a loop over the sequence in PyTorch: slow, readable, the definition of right|

The first of these that can run is used. To choose by name: the argument `backend`, `use_backend(name)`, or the
environment variable NEURAL_HAMILTON_SCAN; a backend that is named and cannot run is an InputError, never replaced.
"""

from .backends import BACKENDS, VARIABLE, choose_backend, use_backend, why_not
from .convolution import causal_convolution
from .scan import selective_scan

__all__ = ["BACKENDS", "VARIABLE", "causal_convolution", "choose_backend", "selective_scan", "use_backend", "why_not"]
