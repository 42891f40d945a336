"""Makes a bare checkout importable: `neural_hamilton.physics` is the folder ./physics."""

import pathlib

__path__ = [str(pathlib.Path(__file__).resolve().parent)]
