"""Clusters of Ray: whether one can be joined, what its nodes have, and jobs on it."""
