"""The division of a cluster among the trials of a sweep."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neural_hamilton.physics import InputError
from neural_hamilton.platform.config import SweepConfig
from neural_hamilton.tune.sweeps.resources import Share, share_cluster


@pytest.mark.parametrize(
    ("nodes", "settings", "trials", "share"),
    [
        ([{"CPU": 2.0}], {}, 20, Share(2, 1, 1, 0)),
        ([{"CPU": 6.0}], {}, 20, Share(6, 1, 1, 0)),
        ([{"CPU": 6.0}], {"max_concurrent": 2}, 20, Share(2, 1, 3, 0)),
        ([{"CPU": 8.0}], {}, 3, Share(3, 1, 2, 0)),
        ([{"CPU": 4.0}, {"CPU": 2.0}], {"cpus_per_worker": 2}, 20, Share(3, 1, 2, 0)),
        ([{"CPU": 5.0}, {"CPU": 3.0}], {"max_concurrent": 2}, 20, Share(2, 1, 3, 0)),
        ([{"CPU": 16.0, "GPU": 4.0}], {}, 20, Share(4, 1, 4, 1.0)),
        ([{"CPU": 16.0, "GPU": 2.0}], {"max_concurrent": 8}, 20, Share(8, 1, 2, 0.25)),
        ([{"CPU": 16.0, "GPU": 2.0}], {"gpus_per_worker": 0.5}, 20, Share(4, 1, 4, 0.5)),
        ([{"CPU": 16.0, "GPU": 2.0}], {"gpus_per_worker": 0.4}, 20, Share(4, 1, 4, 0.4)),
        ([{"CPU": 16.0, "GPU": 2.0}], {"gpus_per_worker": 0}, 20, Share(16, 1, 1, 0)),
        ([{"CPU": 8.0, "GPU": 4.0}] * 2, {"workers": 4}, 20, Share(2, 4, 2, 1.0)),
        ([{"CPU": 8.0}], {"workers": 2, "max_concurrent": 2}, 20, Share(2, 2, 2, 0)),
    ],
)
def test_a_cluster_is_divided(nodes: list, settings: dict, trials: int, share: Share) -> None:
    assert share_cluster(nodes, SweepConfig(**settings), trials) == share


@pytest.mark.parametrize(
    ("nodes", "settings", "words"),
    [
        ([{"CPU": 2.0}], {"max_concurrent": 3}, ["sweep.max_concurrent is 3", "1 worker of 1 CPU", "2 CPUs, 0 GPUs", "room for 2"]),
        ([{"CPU": 2.0}] * 2, {"cpus_per_worker": 3}, ["a trial needs 1 worker of 3 CPUs", "2 CPUs, 0 GPUs; 2 CPUs", "room for 0"]),
        ([{"CPU": 2.0}], {"workers": 3}, ["3 workers of 1 CPU", "room for 0"]),
        ([{"CPU": 2.0}], {"gpus_per_worker": 1}, ["1 CPU and 1 GPUs", "room for 0"]),
        ([{"CPU": 8.0, "GPU": 1.0}], {"gpus_per_worker": 0.5, "max_concurrent": 3}, ["0.5 GPUs", "1 GPUs, room for 2"]),
        ([{"CPU": 8.0, "GPU": 4.0}], {"gpus_per_worker": 1.5}, ["sweep.gpus_per_worker is 1.5", "whole number"]),
        ([{"CPU": 8.0, "GPU": 4.0}], {"gpus_per_worker": 0.5, "workers": 2}, ["0.5", "sweep.workers is 2", "cannot share a GPU"]),
    ],
)
def test_what_does_not_fit_is_refused_with_the_numbers(nodes: list, settings: dict, words: list[str]) -> None:
    with pytest.raises(InputError) as refusal:
        share_cluster(nodes, SweepConfig(**settings), 20)
    for word in words:
        assert word in str(refusal.value)


@given(
    nodes=st.lists(
        st.fixed_dictionaries({"CPU": st.integers(1, 16).map(float), "GPU": st.integers(0, 4).map(float)}), min_size=1, max_size=4
    ),
    trials=st.integers(1, 40),
    workers=st.integers(1, 3),
    limit=st.none() | st.integers(1, 8),
)
def test_what_is_granted_fits(nodes: list, trials: int, workers: int, limit: int | None) -> None:
    try:
        share = share_cluster(nodes, SweepConfig(workers=workers, max_concurrent=limit), trials)
    except InputError:
        return
    assert 1 <= share.concurrent <= min(trials, limit or trials)
    places = 0
    for node in nodes:  # one worker after another
        cpus, gpus = node["CPU"], [1.0] * int(node["GPU"])
        while cpus >= share.cpus:
            if share.gpus:
                free = [index for index, left in enumerate(gpus) if left >= share.gpus - 1e-9]
                if not free:
                    break
                gpus[free[0]] -= share.gpus
            cpus -= share.cpus
            places += 1
    assert places >= share.concurrent * share.workers
