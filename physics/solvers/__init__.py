"""Solvers of Hamilton's equations, one file for each family of methods."""
