"""Predictions for many requests at once: the same bits as alone, in turns, and no more than may wait."""

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import FROM_REST, HARMONIC, save_plane, save_tiny

from neural_hamilton.architectures import Task, TrainedFor, available_architectures, build_operator, parse_architecture, save_model
from neural_hamilton.physics import InputError
from neural_hamilton.physics.systems import get_system
from neural_hamilton.serve.batching import Busy, Pass, PredictionQueue
from neural_hamilton.serve.model import Model
from neural_hamilton.serve.motion import MotionProblem, predict_all
from neural_hamilton.serve.passes import POINTS_PER_PASS
from neural_hamilton.serve.problems import Problem

MORE = "8*(q-0.5)**2 + 0.1*sin(2*pi*q)"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model(save_tiny(tmp_path_factory.mktemp("tiny"), FROM_REST))


def bits(orbit: Any) -> tuple[bytes, bytes]:
    return orbit.q.tobytes(), orbit.p.tobytes()


def problems(*sizes: int) -> list[Problem]:
    return [Problem(HARMONIC if k % 2 else MORE, times=np.linspace(0.0, 2.0 - 0.01 * (k % 100), size)) for k, size in enumerate(sizes)]


@settings(max_examples=15)
@given(requests=st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=6), min_size=1, max_size=6))
def test_what_is_asked_beside_it_changes_no_bit(model: Model, requests: list[list[int]]) -> None:
    queue = PredictionQueue(100)

    async def ask() -> list[Any]:
        return await asyncio.gather(*(queue.predict(model, problems(*sizes), "energy") for sizes in requests))

    for sizes, together in zip(requests, asyncio.run(ask()), strict=True):
        alone = [model.predict([problem])[0] for problem in problems(*sizes)]
        assert [bits(orbit) for orbit in together] == [bits(orbit) for orbit in alone]
        assert [orbit.trust for orbit in together] == [orbit.trust for orbit in alone]


@pytest.mark.parametrize("name", sorted(available_architectures()))
def test_no_architecture_lets_rows_change_each_other(name: str, tmp_path: Path) -> None:
    """Some have networks in which the rows of a pass do; their passes are then all alike."""
    if name == "fieldnet":
        system, sensors = get_system("surface"), (12, 12)
    else:
        system, sensors = get_system("well"), (40,)
    task = Task(sensors, system.domain, system.horizon)
    trained_for = TrainedFor.of(task, system=system.name, ensemble={"name": next(iter(system.ensembles))}, initial_state=None)
    save_model(build_operator(parse_architecture({"name": name}), task), tmp_path, trained_for, {})
    network = Model(tmp_path)._network
    rng = np.random.default_rng(0)
    bowl = np.ones(())
    for size in sensors:
        bowl = np.multiply.outer(bowl, np.sin(np.pi * np.linspace(0, 1, size)))
    fields = (2 - rng.uniform(1, 1.8, (21, *(1,) * (len(sensors) if len(sensors) > 1 else 0), *(1,) * len(sensors))) * bowl).reshape(
        21, *task.field_shape
    )
    times = np.sort(rng.uniform(0, 2, (21, 7)), axis=1)
    initial = np.concatenate([rng.uniform(0.3, 0.7, (21, len(sensors))), rng.normal(0, 0.1, (21, len(sensors)))], axis=1)
    alone = [network(fields[[row]], times[[row]], initial[[row]]) for row in range(21)]
    for size in (2, 5, 21):
        rows = rng.permutation(21)[:size]
        for state in (0, 1):
            together = network(fields[rows], times[rows], initial[rows])[state]
            np.testing.assert_array_equal(together, np.concatenate([alone[row][state] for row in rows]))


def test_requests_that_fit_are_predicted_together_and_a_bad_one_fails_alone(model: Model) -> None:
    passes: list[Pass] = []
    held, queue = hold(model, passes)

    async def ask() -> list[Any]:
        tasks = [asyncio.create_task(queue.predict(model, [problem], "energy")) for problem in problems(*[100] * 5)]
        bad = asyncio.create_task(queue.predict(model, [Problem("q/0")], "energy"))
        await asyncio.sleep(0.05)
        held.set()
        return await asyncio.gather(*tasks, bad, return_exceptions=True)

    *good, bad = asyncio.run(ask())
    assert [len(orbits) for orbits in good] == [1] * 5
    assert isinstance(bad, InputError)
    wait_for(lambda: len(passes) == 2)
    assert passes[1].num_requests == 6


def test_a_small_request_does_not_wait_for_a_large_one(model: Model) -> None:
    """Each pass takes from all that wait."""
    passes: list[Pass] = []
    held, queue = hold(model, passes)
    done: list[str] = []

    async def one(name: str, count: int) -> None:
        await queue.predict(model, problems(*[100] * count), "none")
        done.append(name)

    async def ask() -> None:
        large = [asyncio.create_task(one("large", 200)) for _ in range(3)]
        await asyncio.sleep(0.05)
        small = asyncio.create_task(one("small", 1))
        await asyncio.sleep(0.05)
        held.set()
        await asyncio.gather(*large, small)

    asyncio.run(ask())
    assert done[0] == "small"
    assert len(passes) > 10
    assert all(part.num_problems <= POINTS_PER_PASS // 100 for part in passes)


def test_no_more_requests_bytes_or_points_than_may_wait(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = PredictionQueue(2)
    with queue.admit(10), queue.admit(10), pytest.raises(Busy), queue.admit(10):
        pass
    assert queue.num_requests == 0
    monkeypatch.setattr("neural_hamilton.serve.batching._MAX_BYTES_AT_ONCE", 15)
    with queue.admit(10), pytest.raises(Busy), queue.admit(10):
        pass
    with queue.admit(1000):  # a single request may be as large as it likes; other limits bound it
        pass
    monkeypatch.setattr("neural_hamilton.serve.batching._MAX_POINTS_AT_ONCE", 150)
    passes: list[Pass] = []
    held, queue = hold(model, passes)

    async def ask() -> None:
        first = asyncio.create_task(queue.predict(model, problems(100), "none"))
        await asyncio.sleep(0.05)
        with pytest.raises(Busy):
            await queue.predict(model, problems(*[100] * 51), "none")  # a smaller one, of a single pass, is always taken
        held.set()
        await first
        await queue.predict(model, problems(100), "none")

    asyncio.run(ask())


def test_no_longer_than_requests_may_wait(model: Model) -> None:
    """A large request would wait for the large ones before it; a small one takes its turn among them."""
    queue = PredictionQueue(100, max_seconds=0.05)

    async def ask() -> None:
        await queue.predict(model, problems(100), "none")  # now the queue has a speed
        large = [asyncio.create_task(queue.predict(model, problems(*[100] * 400), "none")) for _ in range(4)]
        await asyncio.sleep(0)
        assert len(await queue.predict(model, problems(100), "none")) == 1
        done = await asyncio.gather(*large, return_exceptions=True)
        assert Busy in map(type, done)
        assert [len(one) for one in done if isinstance(one, list)]

    asyncio.run(ask())


def test_one_pass_that_was_held_up_refuses_nobody(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as by a busy machine: the speed is that of several."""
    queue = PredictionQueue(100, max_seconds=0.5)
    slow = iter([0.0, 0.0, 0.0, 0.8])

    def predict(*parts: Any) -> Any:
        time.sleep(next(slow, 0.0))
        return predict_all(*parts)

    monkeypatch.setattr("neural_hamilton.serve.batching.predict_all", predict)

    async def ask() -> None:
        for _ in range(4):
            await queue.predict(model, problems(100), "none")
        assert len(await asyncio.gather(*(queue.predict(model, problems(100), "none") for _ in range(64)))) == 64

    asyncio.run(ask())


def test_work_that_nobody_waits_for_is_dropped(model: Model) -> None:
    passes: list[Pass] = []
    held, queue = hold(model, passes)

    async def ask() -> None:
        large = asyncio.create_task(queue.predict(model, problems(*[100] * 500), "none"))
        await asyncio.sleep(0.05)
        large.cancel()
        with pytest.raises(asyncio.CancelledError):
            await large
        held.set()
        await queue.predict(model, problems(10), "none")

    asyncio.run(ask())
    wait_for(lambda: len(passes) == 2)
    assert [done.num_problems for done in passes] == [1, 1]


def test_units_of_ones_own_and_the_models_may_share_a_request(model: Model) -> None:
    own = MotionProblem("q**2/2", 0.5, domain=(-1.0, 1.0))
    orbit, motion = asyncio.run(PredictionQueue(10).predict(model, [Problem(HARMONIC), own], "solver"))
    assert motion.period == pytest.approx(2 * np.pi, rel=1e-6)
    np.testing.assert_array_equal(bits(orbit), bits(model.predict([Problem(HARMONIC)], "solver")[0]))


def test_a_plane_shares_passes_too(tmp_path: Path) -> None:
    plane = Model(save_plane(tmp_path))
    asked = [Problem("2 - 48*q1*(1-q1)*q2*(1-q2)", (0.3, 0.1 * k), (0.1, 0.0)) for k in range(2, 6)]
    queue = PredictionQueue(10)

    async def ask() -> list[Any]:
        return await asyncio.gather(*(queue.predict(plane, [problem], "none") for problem in asked))

    for together, problem in zip(asyncio.run(ask()), asked, strict=True):
        assert bits(together[0]) == bits(plane.predict([problem], "none")[0])


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def hold(model: Model, passes: list[Pass]) -> tuple[threading.Event, PredictionQueue]:
    """A queue whose thread waits, after one pass, until the event is set; what it does is noted in `passes`."""
    held = threading.Event()

    def observe(done: Pass) -> None:
        passes.append(done)
        held.wait(30)

    queue = PredictionQueue(100, observe=observe)
    asyncio.run(queue.predict(model, problems(2), "none"))
    return held, queue


def test_a_fault_while_counting_does_not_end_the_thread(model: Model) -> None:
    observe: Callable[[Pass], None] = lambda _: 1 / 0  # noqa: E731
    queue = PredictionQueue(10, observe=observe)
    for _ in range(2):
        assert len(asyncio.run(queue.predict(model, problems(5), "none"))) == 1
