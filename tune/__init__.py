"""Hyperparameter sweeps and dataset-size studies on Ray Tune. Importing this package starts nothing and does not import Ray."""
