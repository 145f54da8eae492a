"""Writes steps of a bundle for the Kotlin engine to repeat: ``python -m tests.android_demo.golden BUNDLE``.

Prompts are continued greedily and sampled with a seed, with drafts of one shape: a chain, a tree, repetition, and a
hierarchy. The file also has the table of plans from which both engines take the same one. ``GoldenStepsTest.kt`` reads
all files in ``android_demo/build/fixtures/golden``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from android_demo.check.places import BUILD
from android_demo.check.speed import PROMPTS
from export.manifest import FILE_NAME, Level, Manifest, read_manifest
from memory.choices import Request
from memory.plan import LevelPlan, Plan
from memory.plan_table import OWN_MEASURED, dump_table, table_device
from memory.planner import make_plan
from memory.process import KernelKind
from runtime.decoding.draft import Pick, chain_limit, tree_limit
from runtime.decoding.sampling import SamplingParams
from runtime.kernels.backends import PORTABLE, Kernels
from runtime.kernels.selection import Chooser
from runtime.models.loader import Levels
from runtime.text.tokenizer import Tokenizer
from tests.android_demo.golden_steps import GoldenDecoder, Question
from tests.runtime.tiny_bundle import write_tiny_bundle

_Opened = TypeVar("_Opened")
FOLDER = BUILD / "fixtures" / "golden"
# As ``model_fixtures`` copied it.
DEMO = BUILD / "fixtures" / "models" / "demo"
SAMPLINGS = (SamplingParams(), SamplingParams(0.8, seed=20261129))
_CONTEXT, _TOKENS = 512, 40


def prompts(tokenizer: Tokenizer, count: int) -> list[list[int]]:
    """The first ``count`` of twenty prompts."""
    return [tokenizer.encode(text) for text in PROMPTS[:count]]


def picks(levels: Sequence[LevelPlan]) -> Iterator[Pick]:
    """One pick for every kind of draft. Without an intermediate, repetition drafts for the drafter."""
    yield Pick("suffix", chain_limit(7))
    lower = next((level.name for level in levels if level.role == "drafter"), None)
    middle = next((level.name for level in levels if level.role == "intermediate"), None)
    if lower is not None:
        yield Pick(lower, chain_limit(4))
        yield Pick(lower, tree_limit(7))
        name = f"suffix>{lower}" if middle is None else f"{lower}>{middle}"
        yield Pick(name, chain_limit(6, chain_limit(3)))


def golden(bundle: Path, count: int, tokens: int = _TOKENS) -> dict[str, Any]:
    """What the file holds."""
    manifest = read_manifest(bundle)
    kernels: KernelKind = "native" if manifest.target.native is not None else "portable"
    # An intermediate, too, which a plan leaves out where it does not pay.
    request = Request(drafters=tuple(level.name for level in manifest.levels[1:]), threads=1, shape="tree", nodes=15)
    request = replace(request, context=min(_CONTEXT, manifest.target.shape.positions))
    plan = make_plan(manifest, table_device(manifest, kernels, OWN_MEASURED, 1), request)
    return {
        "bundle": str(bundle.resolve()),
        "kernels": kernels,
        "context": plan.context,
        "plans": dump_table(manifest, request),
        "levels": [[level.name, level.kv_type, level.capacity, level.max_rows] for level in plan.levels],
        "answers": list(_answers(bundle, manifest, kernels, plan, count, tokens)),
    }


def _answers(
    bundle: Path, manifest: Manifest, kernels: KernelKind, plan: Plan, count: int, tokens: int
) -> Iterator[Mapping[str, Any]]:
    chooser = Chooser("native") if kernels == "native" else _Copied("portable")
    levels = Levels(bundle, manifest, chooser, print)
    target = levels.open_target(plan)
    drafters = levels.open_drafters(plan, target)
    decoder = GoldenDecoder(target, drafters, plan.context)
    try:
        for pick in picks(plan.levels):
            for sampling in SAMPLINGS:
                for prompt in prompts(Tokenizer.open(bundle), count):
                    yield decoder.answer(Question(prompt, sampling, pick, tokens))
    finally:
        for model in (target, *drafters.values()):
            model.close()


class _Copied(Chooser):
    """ONNX Runtime's kernels with weights that it copies, as phones have them."""

    def _open_portable(
        self, bundle: Path, manifest: Manifest, level: Level, make: Callable[[Kernels], _Opened]
    ) -> _Opened:
        return make(PORTABLE)


def write(bundle: Path, output: Path, count: int) -> None:
    """Writes the steps of ``count`` prompts for every kind of draft."""
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(golden(bundle, count), separators=(",", ":")), encoding="utf-8")


def write_tiny() -> None:
    """Writes the steps of a bundle of tiny random models, which is made here."""
    folder = FOLDER.with_name("golden-bundles") / "tiny"
    shutil.rmtree(folder, ignore_errors=True)
    write_tiny_bundle(folder)
    write(folder, FOLDER / "tiny.json", 2)


def main(words: Sequence[str] | None = None) -> int:
    """Writes a file where the tests look for it."""
    parser = argparse.ArgumentParser("python -m tests.android_demo.golden", description=__doc__.partition(":")[0])
    parser.add_argument("bundle", type=Path, nargs="?", help="without one, tiny models are made")
    parser.add_argument("--output", type=Path, help="the file; in the tests' folder by default")
    parser.add_argument("--demo", action="store_true", help="tiny models, and the demo bundle if it is there")
    parser.add_argument("--prompts", type=int, default=20, help="how many, at most 20")
    options = parser.parse_args(words)
    if options.bundle is None:
        write_tiny()
        if options.demo and (DEMO / FILE_NAME).is_file():
            write(DEMO, FOLDER / "demo.json", options.prompts)
        return 0
    write(options.bundle, options.output or FOLDER / f"{options.bundle.name}.json", options.prompts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
