"""The three ways to run a level: native, portable with mapped weights, portable with copied weights.

They have the same inputs and outputs. They differ in the graph file, the session options and the place of the weights
in memory; the rest of the runtime knows nothing else about kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import onnxruntime as ort

from export.manifest import Level, Manifest
from memory.cores import read_cores
from memory.device import Residence
from runtime.errors import UnsupportedModelError
from runtime.kernels.library import Library
from runtime.kernels.session_options import session_options
from runtime.kernels.threads import NativeCrew, crew_of
from runtime.kernels.weights.packed import Progress
from runtime.kernels.weights.prepacked import place_of, prepacked_data, prepacked_graph
from runtime.kernels.weights.shared import SharedWeights

# The first ONNX Runtime whose CPU attention takes integer KV caches. Found by trying 1.23 to 1.31: up to 1.24 the
# graphs do not load, 1.25 and 1.26 fail in the first step.
_KV_TYPES_SINCE = (1, 27)


class Kernels(Protocol):
    """One way to run a level. ``description`` is shown to users; results depend bit for bit on what is in ``key``."""

    @property
    def name(self) -> Literal["native", "portable"]: ...

    @property
    def description(self) -> str: ...

    @property
    def key(self) -> tuple[str, ...]: ...

    @property
    def residence(self) -> Residence:
        """Where the weights are in memory; the plan depends on it."""
        ...

    def graph(self, folder: Path, level: Level, kv_type: str) -> Path:
        """The graph file of ``level`` for one of its KV types."""
        ...

    def mapped_files(self, level: Level) -> tuple[Path, ...]:
        """The files whose pages a session of ``level`` reads in every step."""
        ...

    def session_options(self, threads: int | None, cores: Sequence[int] = ()) -> ort.SessionOptions:
        """Options for a session of such a graph; ``threads`` None: one for every usable core.

        ``cores`` are those that threads stay on, as in ``session_options.session_options``.
        """
        ...

    def crew(self, session: ort.InferenceSession) -> NativeCrew | None:
        """Controls how many threads the operators of ``session`` use; None if that is fixed."""
        ...


@dataclass(frozen=True)
class Portable:
    """ONNX Runtime's own operators on copied weights."""

    name: Literal["portable"] = "portable"
    description: str = "portable (ONNX Runtime's own)"
    key: tuple[str, ...] = ("portable",)
    residence: Residence = "copied"

    def graph(self, folder: Path, level: Level, kv_type: str) -> Path:
        """See ``Kernels``. UnsupportedModelError where this ONNX Runtime is too old for the KV type."""
        if kv_type in ("int8", "int4") and _ort_version() < _KV_TYPES_SINCE:
            since = ".".join(map(str, _KV_TYPES_SINCE))
            raise UnsupportedModelError(
                f"{level.name} cannot have a KV cache in {kv_type} with ONNX Runtime {ort.__version__}, which needs"
                f" {since} for that; install it or take fp16"
            )
        return folder / _graph_name(level.graphs, level.name, kv_type)

    def mapped_files(self, level: Level) -> tuple[Path, ...]:
        """See ``Kernels``. Empty: ONNX Runtime copies the weights when it opens a session."""
        return ()

    def session_options(self, threads: int | None, cores: Sequence[int] = ()) -> ort.SessionOptions:
        """See ``Kernels``."""
        return session_options(threads, cores)

    def crew(self, session: ort.InferenceSession) -> NativeCrew | None:
        """See ``Kernels``. ONNX Runtime's own operators always use all threads."""
        return None


PORTABLE = Portable()


@dataclass(frozen=True)
class Prepacked:
    """ONNX Runtime's own operators on mapped weights; results equal those of ``PORTABLE`` bit for bit.

    ``graph`` makes the mapped file where it is missing.
    """

    bundle: Path
    manifest: Manifest
    progress: Progress
    notify: Callable[[str], None]
    verify: bool = False
    name: Literal["portable"] = "portable"
    residence: Residence = "prepacked"
    description: str = PORTABLE.description
    key: tuple[str, ...] = PORTABLE.key

    def graph(self, folder: Path, level: Level, kv_type: str) -> Path:
        """See ``Kernels``. PackingError says why the weights cannot be mapped."""
        graph = PORTABLE.graph(folder, level, kv_type).name
        place = place_of(self.bundle, self.manifest, level, graph)
        return prepacked_graph(place, self.progress, self.notify, self.verify)

    def mapped_files(self, level: Level) -> tuple[Path, ...]:
        """See ``Kernels``."""
        return prepacked_data(self.bundle, self.manifest, level)

    def session_options(self, threads: int | None, cores: Sequence[int] = ()) -> ort.SessionOptions:
        """See ``Kernels``."""
        return session_options(threads, cores)

    def crew(self, session: ort.InferenceSession) -> NativeCrew | None:
        """See ``Kernels``. ONNX Runtime's own operators always use all threads."""
        return None


@dataclass(frozen=True)
class Native:
    """Our own operators on packed weights; ``graphs`` is the folder of the native graphs.

    ``shared`` has the weights if several sessions read them.
    """

    library: Library
    graphs: Path
    shared: SharedWeights | None = None
    name: Literal["native"] = "native"

    @property
    def description(self) -> str:
        """See ``Kernels``."""
        return f"native ({self.library.verdict.isa})"

    @property
    def residence(self) -> Residence:
        """See ``Kernels``."""
        return "native"

    @property
    def key(self) -> tuple[str, ...]:
        """See ``Kernels``."""
        return ("native", self.library.verdict.version, self.library.verdict.isa, self.library.digest)

    def graph(self, folder: Path, level: Level, kv_type: str) -> Path:
        """See ``Kernels``."""
        assert level.native is not None
        return self.graphs / _graph_name(level.native.graphs, level.name, kv_type)

    def mapped_files(self, level: Level) -> tuple[Path, ...]:
        """See ``Kernels``."""
        assert level.native is not None
        return (self.graphs / level.native.data,)

    def session_options(self, threads: int | None, cores: Sequence[int] = ()) -> ort.SessionOptions:
        """See ``Kernels``."""
        options = session_options(threads, cores)
        self.library.register(options, threads or read_cores().usable)
        if self.shared is not None:
            self.shared.add_to(options)
        return options

    def crew(self, session: ort.InferenceSession) -> NativeCrew | None:
        """See ``Kernels``."""
        return crew_of(session, self.library.path)


def _ort_version() -> tuple[int, ...]:
    return tuple(int(number) for number in ort.__version__.split(".")[:2])


def _graph_name(graphs: Mapping[str, str], name: str, kv_type: str) -> str:
    if kv_type not in graphs:
        raise UnsupportedModelError(f"{name} has no graph for a {kv_type} KV cache; it has: {', '.join(graphs)}")
    return graphs[kv_type]
