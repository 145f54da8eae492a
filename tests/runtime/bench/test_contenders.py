"""Contenders are what their names say, and what cannot be is refused by its name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from export.manifest import Manifest, PocketspecError
from runtime.bench.contenders import Contender, all_drafters, default_names, parse_contender
from runtime.bench.setting import choose_contenders, request_fields
from runtime.bundle.foreign import read_bundle
from runtime.decoding.draft import DraftLimit, chain_limit, tree_limit
from runtime.speculation.request import PLAIN, Speculation


@pytest.fixture(scope="module")
def manifest(random_bundle: Path) -> Manifest:
    return read_bundle(random_bundle)


@pytest.fixture(scope="module")
def stacked(manifest: Manifest) -> Manifest:
    """The same with "near" between target and drafter."""
    levels = [replace(level, role="intermediate") if level.name == "near" else level for level in manifest.levels]
    return replace(manifest, levels=tuple(levels))


@pytest.mark.parametrize(
    ("name", "drafter", "limit"),
    [
        ("suffix-chain7", "suffix", chain_limit(7)),
        ("my-0.5b-tree12", "my-0.5b", tree_limit(12)),
        ("near-tree8x3", "near", DraftLimit(8, 3, "tree")),
        ("far>near-chain6", "far>near", chain_limit(6)),
        ("far>near-chain6/chain3", "far>near", chain_limit(6, chain_limit(3))),
        ("far>near-tree9x4/tree8x3", "far>near", DraftLimit(9, 4, "tree", inner=DraftLimit(8, 3, "tree"))),
        ("suffix+far>near-chain5/chain2", "suffix+far>near", chain_limit(5, chain_limit(2))),
        ("a>b>c-chain6/chain3/chain2", "a>b>c", chain_limit(6, chain_limit(3, chain_limit(2)))),
        ("ahead:near-chain4", "ahead:near", chain_limit(4)),
    ],
)
def test_exact_drafts_are_read_from_their_names(name: str, drafter: str, limit: DraftLimit) -> None:
    contender = parse_contender(name)
    assert contender == Contender(name, Speculation(drafter, limit=limit))
    assert parse_contender(f"native:{name}") == replace(contender, name=f"native:{name}", kernels="native")
    # What the scheduler calls it is again a name of the same contender.
    assert contender.pick_name is not None
    assert parse_contender(contender.pick_name).speculation == contender.speculation


def test_ways_without_a_size_leave_it_to_the_scheduler() -> None:
    assert parse_contender("plain") == Contender("plain", PLAIN, single_rows=True)
    assert parse_contender("plain-safe") == Contender("plain-safe", PLAIN)
    assert parse_contender("auto").speculation == Speculation()
    for family in ("chain", "tree", "hierarchy", "ahead"):
        assert parse_contender(family).speculation == Speculation(only=family)
        assert parse_contender(family).pick_name is None
    assert parse_contender("suffix").speculation == Speculation("suffix")
    assert parse_contender("plain-safe").pick_name == "plain"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("near", "no contender 'near'; write plain, plain-safe"),
        ("near-chain", "no contender 'near-chain'"),
        ("near-chain0", "chain0 is no draft; it has 1 node or more"),
        ("near-tree3x4", "tree3x4 is no draft; it has 1 node or more, and no more depth"),
        ("near-tree3x0", "tree3x0 is no draft"),
        ("near-chain3x2", "chain3x2 is no draft; write chain6, tree8 or tree8x3"),
        ("far>near-chain6/3", "3 is no draft"),
        ("near-chain6/chain3", "has 2 sizes for 1 levels that draft"),
        ("far>near-chain6/chain3/chain2", "has 3 sizes for 2 levels that draft"),
    ],
)
def test_names_that_say_nothing_are_refused(name: str, message: str) -> None:
    with pytest.raises(PocketspecError) as refused:
        parse_contender(name)
    assert message in str(refused.value)
    assert name in str(refused.value)


def test_by_default_everything_that_the_bundle_can_have_is_compared(manifest: Manifest, stacked: Manifest) -> None:
    plain = ["plain", "plain-safe"]
    assert default_names(manifest) == [*plain, "suffix", "chain", "tree", "auto"]
    assert default_names(stacked) == [*plain, "suffix", "chain", "tree", "hierarchy", "auto"]
    alone = replace(manifest, levels=manifest.levels[:1])
    assert default_names(alone) == [*plain, "suffix", "auto"]
    flat = replace(manifest, levels=(replace(manifest.levels[0], tree=False), *manifest.levels[1:]))
    assert default_names(flat) == [*plain, "suffix", "chain", "auto"]
    for each in (manifest, stacked, alone, flat):
        assert [contender.name for contender in choose_contenders(None, each, "here")] == default_names(each)


def test_what_the_bundle_lacks_is_refused(manifest: Manifest) -> None:
    alone = replace(manifest, levels=manifest.levels[:1])
    flat = replace(manifest, levels=(replace(manifest.levels[0], tree=False), *manifest.levels[1:]))
    for names, bundle, message in (
        ("nobody-chain3", manifest, "no drafter 'nobody' here; there are: near, far"),
        ("ahead:nobody-chain3", manifest, "no drafter 'nobody' here"),
        ("hierarchy", manifest, "contender hierarchy: no intermediate level here; compare chain or tree"),
        ("chain", alone, "contender chain: no drafter here; compare suffix"),
        ("near-tree4", flat, "contender near-tree4: the target here cannot verify trees"),
        ("tree", flat, "contender tree: the target here cannot verify trees"),
        ("plain,auto,plain", manifest, "contender 'plain' is named twice"),
    ):
        with pytest.raises(PocketspecError, match=message):
            choose_contenders(names, bundle, "here")


def test_the_engine_has_room_for_every_contender(stacked: Manifest) -> None:
    def fields(names: str, *rows: int) -> dict[str, object]:
        return request_fields(choose_contenders(names, stacked, "here"), rows, stacked)

    assert fields("plain") == {"drafters": (), "shape": "chain", "nodes": 1}
    assert fields("plain,far-chain5", 1, 4) == {"drafters": ("far",), "shape": "chain", "nodes": 5}
    assert fields("far-chain5", 1, 16)["nodes"] == 15
    assert fields("far>near-chain3/tree9x2") == {"drafters": ("far", "near"), "shape": "tree", "nodes": 9}
    assert fields("plain,auto") == {}
    assert fields("auto", 1, 2) == {"drafters": ("far", "near"), "shape": "tree", "nodes": 15}
    assert fields("plain,chain")["nodes"] == 15
    assert fields("suffix,far-chain20")["nodes"] == 20
    with pytest.raises(PocketspecError, match="rows of 99 are too many; at most 63"):
        fields("plain", 100)


def test_all_drafters_are_every_drafter_alone_and_the_choice_among_them(stacked: Manifest) -> None:
    names = [each.name for each in choose_contenders("all-drafters", stacked, "in B")]
    assert names == all_drafters(stacked) == ["plain", "suffix", "far", "near", "far>near", "auto"]
    assert [each.name for each in choose_contenders("near,all-drafters,plain", stacked, "in B")] == [
        "near",
        *(name for name in names if name not in ("near", "plain")),
        "plain",
    ]


def test_a_drafter_without_a_size_leaves_it_to_the_scheduler_and_is_planned(stacked: Manifest) -> None:
    (contender,) = choose_contenders("far", stacked, "in B")
    assert contender.speculation == Speculation("far")
    assert request_fields([contender], [], stacked)["drafters"] == ("far",)
