"""Figures of merit by hand."""

import numpy as np
import pytest

from neural_hamilton.physics.diagnostics import energy_drift, total_loss


def test_total_loss_by_hand():
    q, p = np.array([1.0, 2.0]), np.array([0.0, 4.0])
    assert total_loss(q, p, np.array([1.0, 0.0]), np.array([1.0, 1.0])) == pytest.approx(0.5 * (4 / 2 + (1 + 9) / 2))


def test_total_loss_is_batched_and_zero_for_the_truth():
    q = np.random.default_rng(0).normal(size=(3, 2, 5))
    assert total_loss(q, q, q, q).shape == (3, 2)
    assert not total_loss(q, q, q, q).any()


def test_energy_drift_by_hand():
    value, p = np.array([[2.0, 1.0], [0.0, 0.0]]), np.array([[0.0, 2.0], [1.0, 2.0]])
    # H = [[2, 3], [0.5, 2]], H0 = [2, 0.5], depths 4 and 3
    np.testing.assert_allclose(energy_drift(value, p, np.array([2.0, 0.5]), np.array([-2.0, -1.0])), [1 / 4, 1.5 / 3])
    assert energy_drift(value[0], p[0], 2.0, -2.0) == pytest.approx(0.25)
