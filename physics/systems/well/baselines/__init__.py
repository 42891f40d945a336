"""The baselines of the well, one file for each family of solvers: every module with a function `baselines(steps)` is found."""
