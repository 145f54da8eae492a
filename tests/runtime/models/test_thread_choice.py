"""How many workers are chosen, in worlds where it is known how long steps take; and that tokens do not depend on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from runtime.models.thread_choice import WorkerChoice

# Seconds of a step with some workers, and the share of them in which threads wait for one another.
World = Callable[[int], tuple[float, float]]


@dataclass
class SimulatedCrew:
    """Threads whose waiting is told by the world they are in."""

    workers: int
    held_up_seconds: float = 0.0


class Machine:
    """A model's forwards in a world that may change."""

    def __init__(self, threads: int, world: World, alone_first: bool = False) -> None:
        self.crew, self.world, self.seconds = SimulatedCrew(threads), world, 0.0
        self.choice = WorkerChoice(self.crew, alone_first=alone_first)

    def run(self, seconds: float, kinds: tuple[tuple[str, float], ...] = (("one row", 1.0),)) -> float:
        """Steps for so long, of every kind in turn with its factor; returns how many rounds a second were done."""
        start, rounds = self.seconds, 0
        while self.seconds - start < seconds:
            rounds += 1
            for kind, factor in kinds:
                took, share = self.world(self.crew.workers)
                self.crew.held_up_seconds += took * factor * share
                self.seconds += took * factor
                self.choice.after(kind, took * factor)
        return rounds / (self.seconds - start)


def alone(step: float, spoilt: float = 0.03) -> World:
    return lambda workers: (step / workers**0.7, spoilt if workers > 1 else 0.0)


def beside_others(step: float, free: int, waiting: float = 0.3) -> World:
    """Only ``free`` cores are left: one thread more makes every step twice as slow as with them."""
    return lambda workers: (
        (step / workers**0.7, 0.03) if workers <= free else (2 * step / free**0.7, waiting if workers > 1 else 0.0)
    )


@pytest.mark.parametrize("step", [0.00025, 0.003, 0.03, 0.4])
def test_alone_all_threads_work_and_trials_cost_little(step: float) -> None:
    machine = Machine(2, alone(step))
    speed = machine.run(100 * step + 20)
    assert machine.choice.workers == 2
    assert speed > 0.98 / alone(step)(2)[0]


@pytest.mark.parametrize("waiting", [0.3, 0.0])
@pytest.mark.parametrize("step", [0.00025, 0.003, 0.03])
def test_beside_a_busy_process_one_thread_works_from_the_start(step: float, waiting: float) -> None:
    machine = Machine(2, beside_others(step, 1, waiting))
    machine.run(0.1 + 20 * step)
    assert machine.choice.workers == 1
    assert machine.run(20.0) > 0.95 / step


@pytest.mark.parametrize("waiting", [0.3, 0.0])
def test_a_process_that_comes_and_goes_is_followed(waiting: float) -> None:
    machine = Machine(2, alone(0.003))
    machine.run(20.0)
    machine.world = beside_others(0.003, 1, waiting)
    machine.run(9.0)
    assert machine.choice.workers == 1
    machine.world = alone(0.003)
    machine.run(9.0)
    assert machine.choice.workers == 2


@pytest.mark.parametrize(("threads", "free"), [(4, 3), (8, 6), (16, 12), (64, 16)])
def test_of_many_cores_those_that_are_free_are_used(threads: int, free: int) -> None:
    machine = Machine(threads, beside_others(0.003, free))
    machine.run(30.0)
    best = 1 / beside_others(0.003, free)(free)[0]
    assert machine.run(30.0) > 0.8 * best


def test_threads_that_always_wait_a_little_are_given_back_when_a_process_has_gone() -> None:
    machine = Machine(16, beside_others(0.003, 12))
    machine.run(10.0)
    assert machine.choice.workers < 16
    machine.world = alone(0.003, spoilt=0.1)
    machine.run(60.0)
    assert machine.choice.workers == 16


def test_a_model_too_small_for_two_threads_has_one() -> None:
    machine = Machine(2, lambda workers: (0.00025 * (1.1 if workers == 2 else 1.0), 0.0))
    machine.run(0.2)
    assert machine.choice.workers == 1
    assert machine.run(20.0) > 0.99 / 0.00025


def test_a_small_model_gives_a_short_answer_with_one_thread_whatever_else_runs() -> None:
    for world in (alone(0.00025), beside_others(0.00025, 1)):
        machine = Machine(2, world, alone_first=True)
        assert machine.run(0.3) > 0.999 / world(1)[0]


def test_a_model_that_was_taken_for_small_gets_all_threads_where_they_pay() -> None:
    machine = Machine(2, alone(0.003), alone_first=True)
    machine.run(2.0)
    assert machine.choice.workers == 2


def test_steps_are_compared_with_those_of_their_kind() -> None:
    machine = Machine(2, beside_others(0.002, 1))
    machine.run(1.0, kinds=(("one row", 1.0), ("eight rows", 3.0), ("prompt", 40.0)))
    assert machine.choice.workers == 1
    # Longer steps of a kind that nobody has seen yet are no reason for anything.
    before = machine.choice.workers
    machine.run(0.4, kinds=(("longer prompt", 100.0),))
    assert machine.choice.workers == before


def test_workers_never_leave_their_bounds() -> None:
    times = iter([0.001 * (1 + (7919 * i) % 13) for i in range(100_000)])
    machine = Machine(3, lambda workers: (next(times), 0.2))
    for _ in range(1_000):
        machine.run(0.05)
        assert 1 <= machine.choice.workers <= 3
