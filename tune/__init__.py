"""Hyperparameter sweeps and dataset-size studies on Ray Tune. Importing this room starts nothing and imports no Ray."""
