"""Bundles of all kinds to be changed, with a neighbourhood that must stay as it is."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from export.manifest import PocketspecError, read_manifest, write_manifest
from memory.costs import MeasuredCosts, dump_costs, make_row_costs
from runtime.bundle.device_cache import remember
from runtime.kernels.selftest.onnx_bytes import encode_model
from runtime.kernels.weights.packed import packed_graphs
from runtime.kernels.weights.prepacked import place_of, prepacked_graph
from tests.fuzz.targets import Target, entry_of
from tests.runtime.kernels.weights.packable import write_bundle
from tests.runtime.kernels.weights.weighty import write_weighty_bundle
from tests.runtime.tiny_bundle import write_foreign_bundle, write_tiny_bundle

_CONFIG = {"bos_token": {"content": "<|end|>"}, "eos_token": "<|end|>", "chat_template": "{{ messages[0].content }}"}


@dataclass(frozen=True)
class World:
    """``root`` holds the bundles by kind, the user's folder, and what belongs to others."""

    root: Path

    def bundle(self, kind: str) -> Path:
        """The bundle of a kind."""
        return self.root / "bundles" / kind

    def run(self, target: Target, seed: int) -> str:
        """Changes the file of ``target``, asks, and puts it back; what came of it, in a word.

        Fails where anything but an answer or one line of ours came of it, or anything of others was touched.
        """
        bundle = self.bundle(target.kind)
        (path,) = bundle.glob(target.file)
        others = {each: each.read_bytes() for each in (path, bundle / "pocketspec.json") if each.is_file()}
        before = self._others()
        path.write_bytes(target.mutate(others[path], Random(f"{target.name} {seed}")))
        outcome, line = "answered", ""
        try:
            target.ask(bundle)
        except PocketspecError as error:
            outcome, line = type(error).__name__, str(error)
        except BaseException as error:
            error.add_note(f"case {seed} of {target.name}")
            raise
        finally:
            for each, data in others.items():
                each.write_bytes(data)
        assert line.isprintable(), f"case {seed} of {target.name} says {line!r}"  # one line, that steers no terminal
        assert self._others() == before, f"case {seed} of {target.name} touched what is not the bundle's"
        return outcome

    def _others(self) -> dict[str, int]:
        """All that is not a bundle's or the user's cache, and when it was changed."""
        found = {}
        for folder in (self.root, self.root / "home", self.root / "bundles"):
            for entry in os.scandir(folder):
                found[entry.path] = 0 if entry.is_dir() else entry.stat().st_mtime_ns
        return found


def make_world(root: Path) -> World:
    """A world in ``root``, which is also the home of whoever runs it."""
    world = World(root)
    (root / "home").mkdir()
    (root / "bundles").mkdir()
    for name in (root / "home/.bashrc", root / ".bashrc", root / "bundles/.bashrc"):
        name.write_text("of the user")
    tiny = write_tiny_bundle(world.bundle("tiny"))
    (tiny / "tokenizer_config.json").write_text(json.dumps(_CONFIG))
    (tiny / "costs.json").write_text(dump_costs(_costs()))
    remember(tiny, "record", ["key"], 2)
    write_foreign_bundle(world.bundle("foreign"))
    _write_packed(world.bundle("packable"))
    _write_pair(world.bundle("external"))
    return world


def _costs() -> MeasuredCosts:
    level = make_row_costs({16: {1: 0.01, 4: 0.02}, 64: {1: 0.011, 4: 0.021}})
    return MeasuredCosts({"tiny": level}, 1e-4, {"chain": 1e-5, "tree": 1e-5}, 1e-5, 1e10, None, "portable", False)


def _write_packed(bundle: Path) -> None:
    """A bundle with weights that were packed for native graphs, in which there is nothing else."""
    manifest = write_bundle(bundle)
    for name in ("model.onnx", "native.onnx"):
        (bundle / name).write_bytes(encode_model([], {}, {}, {}))
        manifest = replace(manifest, files={**manifest.files, name: entry_of(bundle / name)})
    write_manifest(bundle, manifest)
    packed_graphs(bundle, manifest, manifest.target)


def _write_pair(bundle: Path) -> None:
    """A bundle with its weights in a file of their own, and the pair of it."""
    write_weighty_bundle(bundle)
    manifest = read_manifest(bundle)
    prepacked_graph(place_of(bundle, manifest, manifest.target, "model.onnx"))
