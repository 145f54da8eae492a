"""Writes what the engine's tests of plans and models compare with: ``python -m tests.android_demo.model_fixtures``.

- ``choices.json``, ``plans.json``: requests with the plans that ``memory`` makes for them, and the table to choose from
- ``demo/``: the demo bundle with a table of plans with trees of 15 nodes, if the bundle is there
- ``forwards.json``: logits of forwards of its target, as hashes
- ``decoder.onnx`` and others: graphs with the inputs of a decoder, and of architectures that the app does not run
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import onnx_ir as ir

from android_demo.check.places import BUILD
from export.manifest import FILE_NAME
from memory.__main__ import main as memory
from memory.choices import Request
from memory.plan import OverBudgetError
from memory.plan_table import dump_table, make_columns, needed_bytes, table_device
from memory.planner import make_plan
from memory.process import ProcessBytes
from tests.android_demo.forward_fixtures import forwards
from tests.memory.manifests import STACK
from tests.places import ROOT

FOLDER = BUILD / "fixtures" / "models"
DEMO = ROOT / "bundles" / "demo-int4"
# Random requests in the gate, and in the long form.
FEW, MANY = 100, 1000
_REQUEST = Request(threads=2)
_STATES = {f"past_key_values.{layer}.{kind}": (1, 2, 8, 4) for layer in (0, 1) for kind in ("key", "value")}
_INPUTS = ("input_ids", "attention_mask", "position_ids", "tree_bias", "logits_from")
_DECODER: dict[str, tuple[int, ...] | None] = {**dict.fromkeys(_INPUTS, (1, 1)), **_STATES}
# What differs from a decoder: None, an input is missing.
_GRAPHS: dict[str, dict[str, tuple[int, ...] | None]] = {
    "decoder": {},
    "recurrent": {"ssm_state.0": (1, 16)},
    "encoder": {"attention_mask": None},
    "no-cache": dict.fromkeys(_STATES),
    "mixed-heads": {"past_key_values.1.key": (1, 4, 8, 4), "past_key_values.1.value": (1, 4, 8, 4)},
}


def choices(count: int) -> Iterator[dict[str, Any]]:
    """Random requests, and what the planner makes of each."""
    random = Random(count)
    columns = list(make_columns(STACK, _REQUEST))
    for _ in range(count):
        column = random.choice(columns)
        own = ProcessBytes(random.randrange(200_000_000), 0, random.randrange(100_000_000))
        edges = [needed_bytes(plan.anonymous_bytes, plan.hot_bytes, own) for plan in column.plans]
        budget = random.choice(edges) + random.choice((-1_000_000, -1, 0, 1, 1_000_000))
        session = column.plans[0].process.part("first session").anonymous
        device = table_device(STACK, column.kernels, replace(own, session=session), 2)
        request = replace(_REQUEST, context=column.context, kv_type=column.kv_type, budget_bytes=budget)
        asked = {"context": column.context, "kernels": column.kernels, "kv_type": column.kv_type, "budget": budget}
        asked |= {"modules": own.modules, "files": own.files}
        try:
            plan = make_plan(STACK, device, request)
        except OverBudgetError as error:
            yield {**asked, "smallest": error.smallest_bytes}
            continue
        yield {
            **asked,
            "needed": plan.needed_bytes,
            "nodes": plan.draft.nodes,
            "shape": plan.draft.shape,
            "prefill_chunk": plan.prefill_chunk,
            "levels": [[level.name, level.kv_type, level.capacity, level.max_rows] for level in plan.levels],
            "given_up": [[entry.step, entry.change, entry.saved_bytes] for entry in plan.given_up],
        }


def write(folder: Path, count: int) -> None:
    """Writes everything to ``folder``, with ``count`` requests."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "plans.json").write_text(dump_table(STACK, _REQUEST), encoding="utf-8")
    (folder / "choices.json").write_text(json.dumps({"choices": list(choices(count))}), encoding="utf-8")
    for name, changes in _GRAPHS.items():
        ir.save(_graph({**_DECODER, **changes}), folder / f"{name}.onnx")
    if (DEMO / FILE_NAME).is_file():
        _write_demo(folder)


def _graph(inputs: Mapping[str, tuple[int, ...] | None]) -> ir.Model:
    """Hands inputs on; its outputs are those of a decoder."""
    given = {name: _value(name, shape) for name, shape in inputs.items() if shape is not None}
    handed_on = {name: name.replace("past_key_values", "present") for name in given if name in _STATES}
    handed_on["input_ids"] = "logits"
    nodes = [
        ir.Node("", "Identity", [given[name]], outputs=[_value(output, inputs[name])])
        for name, output in handed_on.items()
    ]
    outputs = [node.outputs[0] for node in nodes]
    graph = ir.Graph(list(given.values()), outputs, nodes=nodes, opset_imports={"": 21}, name="decoder")
    return ir.Model(graph, ir_version=10)


def _value(name: str, shape: tuple[int, ...] | None) -> ir.Value:
    return ir.Value(name=name, shape=ir.Shape(shape or ()), type=ir.TensorType(ir.DataType.FLOAT))


def _write_demo(folder: Path) -> None:
    """The demo bundle, whose weights are the same files if they can be, and what its forwards give."""
    copy = folder / "demo"
    shutil.copytree(DEMO, copy, copy_function=_link, ignore=shutil.ignore_patterns(".device"))
    (copy / FILE_NAME).unlink()  # it is written anew, and the original is read only
    shutil.copyfile(DEMO / FILE_NAME, copy / FILE_NAME)
    if memory(["plans", str(copy), "--shape", "tree", "--draft-size", "15"]):
        raise RuntimeError("the demo bundle's plans cannot be written")
    (folder / "forwards.json").write_text(json.dumps(forwards(copy)), encoding="utf-8")


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def main(words: Sequence[str] | None = None) -> int:
    """Writes the fixtures to where the tests look for them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=FEW, help=f"random requests; {MANY:,} in the long form")
    write(FOLDER, parser.parse_args(words).count)
    return 0


if __name__ == "__main__":
    sys.exit(main())
