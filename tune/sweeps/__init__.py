"""Hyperparameter sweeps: `sweep.sweep` is the command, `study` its record, `sweep.html` what it shows."""
