"""Datasets: generated, written, read and inspected."""
