"""Surfaces drawn given V at the sensors: they agree with the sensors, spread about the fit, and cover the truth."""

import numpy as np
import pytest

from neural_hamilton.physics.systems import draw_rows, get_system
from neural_hamilton.physics.systems.surface.ensembles import RandomSurface
from neural_hamilton.physics.systems.surface.prior_fit import fit_surfaces, sample_surfaces

SURFACE = get_system("surface")
SENSORS = (8, 8)
NUM_SAMPLES = 40


@pytest.fixture(scope="module")
def truth():
    return draw_rows(SURFACE, RandomSurface(), 5, "test", np.arange(0, 96, 4))[0].hamiltonians  # each surface once


@pytest.fixture(scope="module")
def values(truth):
    return truth.sense(SENSORS)["potential"]


def test_samples_agree_with_exact_sensors(values):
    for sample in sample_surfaces(values, 0.0, (0.15, 0.5), 3, seed=0):
        assert np.abs(sample.sense(SENSORS)["potential"] - values).max() < 1e-5


def test_samples_scatter_by_the_noise_of_noisy_sensors(values):
    noise = 0.05
    noisy = values + noise * np.random.default_rng(0).standard_normal(values.shape)
    inside = (slice(None), slice(1, -1), slice(1, -1))
    samples = sample_surfaces(noisy, noise, (0.15, 0.5), NUM_SAMPLES, seed=0)
    spread = np.std([s.sense(SENSORS)["potential"][inside] for s in samples], axis=0)
    assert 0.2 * noise < np.median(spread) < noise


def test_the_truth_is_one_of_them(truth, values):
    """Calibration (Talts et al., arXiv 1804.06788): the rank of the truth among draws is uniform."""
    place = np.full((len(truth), 1, 2), [0.21, 0.79])
    draws = np.array([s.energy(place, 0 * place)[:, 0] for s in sample_surfaces(values, 0.0, (0.15, 0.5), NUM_SAMPLES, seed=1)])
    ranks = (draws < truth.energy(place, 0 * place)[:, 0]).mean(axis=0)
    assert 0.3 < ranks.mean() < 0.7  # 0.5 with a deviation of 0.06
    assert ranks.std() > 0.15  # 0.29; truth that always lies outside would give 0.5 or 0
    assert ((ranks > 0.1) & (ranks < 0.9)).mean() > 0.5


def test_the_mean_of_many_is_the_fit(values):
    place = np.full((len(values), 1, 2), [0.42, 0.35])
    draws = np.array([s.energy(place, 0 * place)[:, 0] for s in sample_surfaces(values, 0.0, (0.15, 0.5), NUM_SAMPLES, seed=2)])
    fitted = fit_surfaces(values, 0.0).energy(place, 0 * place)[:, 0]
    assert np.median(np.abs(draws.mean(axis=0) - fitted) / draws.std(axis=0)) < 0.5


def test_draws_are_those_of_their_seed(values):
    packed = [sample_surfaces(values[:3], 0.0, (0.15, 0.5), 2, seed=seed)[1].packed for seed in (3, 3, 4)]
    assert np.array_equal(packed[0], packed[1], equal_nan=True)
    assert not np.array_equal(packed[0], packed[2], equal_nan=True)
