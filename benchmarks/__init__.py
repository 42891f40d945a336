"""Side-by-side measurements: every figure is a ratio of two timings taken in turns in one run."""
