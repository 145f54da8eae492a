"""Whatever the files of a bundle hold, what reads them ends with an answer or one line, and touches nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from tests.fuzz.targets import TARGETS, Target
from tests.fuzz.world import World, make_world
from tests.guard import guarded

_SHORT = 30  # cases of every target, in every run of the suite
_LONG = 20_000 // len(TARGETS) + 1


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POCKETSPEC_CACHE", str(root / "user"))
        patch.setenv("HOME", str(root / "home"))
        (root / "user").mkdir()
        yield make_world(root)


def _run(world: World, target: Target, seeds: range) -> Counter[str]:
    with guarded():
        return Counter(world.run(target, seed) for seed in seeds)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_few_changes_of_every_file(world: World, target: Target) -> None:
    assert _run(world, target, range(_SHORT)).total() == _SHORT


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_many_changes_of_every_file(world: World, target: Target) -> None:
    """Prints what came of them; in pieces, each of which must end in time."""
    found = sum((_run(world, target, range(first, first + 100)) for first in range(_SHORT, _LONG, 100)), Counter())
    print(f"\n{target.name}: {dict(found.most_common())}")
    assert found.total() >= _LONG - _SHORT
