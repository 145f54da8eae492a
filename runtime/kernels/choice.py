"""Which kernels run a level: the native ones where library, self-test and bundle allow, else ONNX Runtime's own.

The two forms of a level take and give the same; they differ in the graph file and in the session's options, and that is
all the rest of the runtime knows of kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeVar, get_args

import onnxruntime as ort

from export.manifest import Level, Manifest, PocketspecError
from runtime.binding import UnsupportedModelError
from runtime.devices import physical_cores
from runtime.kernels.layout import BLOCK_SIZES
from runtime.kernels.library import KernelsError, Library, open_library
from runtime.kernels.packed import Progress, no_progress, packed_graphs

Wanted = Literal["auto", "native", "portable"]
WANTED: tuple[Wanted, ...] = get_args(Wanted)

_ERRORS_ONLY = 3
_WEIGHTS = ("int4", "int8")
# Measured with both in turns at the Qwen2-1.5B shape on two cores with AVX2: 1 row 1.6 times the time, 4 to 16 rows 2.3
# to 2.5 times.
_COST = "plain steps take about 1.6 times as long, steps that verify drafts about 2.4 times"

_Opened = TypeVar("_Opened")


class Kernels(Protocol):
    """One way to run a level: its ``name``, what people are told, and as ``key`` what the bits of results depend on."""

    @property
    def name(self) -> Literal["native", "portable"]: ...

    @property
    def description(self) -> str: ...

    @property
    def key(self) -> tuple[str, ...]: ...

    def graph(self, folder: Path, level: Level, kv_type: str) -> Path:
        """The graph file of ``level`` for one of its KV types."""
        ...

    def mapped_files(self, level: Level) -> tuple[Path, ...]:
        """The files whose pages a session of ``level`` reads in every step."""
        ...

    def session_options(self, threads: int | None) -> ort.SessionOptions:
        """Options for a session of such a graph; ``threads`` None: as many as there are cores."""
        ...


@dataclass(frozen=True)
class Portable:
    """ONNX Runtime's own operators."""

    name: Literal["portable"] = "portable"
    description: str = "portable (ONNX Runtime's own)"
    key: tuple[str, ...] = ("portable",)

    def graph(self, folder: Path, level: Level, kv_type: str) -> Path:
        """See ``Kernels``."""
        return folder / _graph_name(level.graphs, level.name, kv_type)

    def mapped_files(self, level: Level) -> tuple[Path, ...]:
        """See ``Kernels``. None: ONNX Runtime copies the weights when it opens a session."""
        return ()

    def session_options(self, threads: int | None) -> ort.SessionOptions:
        """See ``Kernels``."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = _ERRORS_ONLY
        # A pattern would be kept for every length of the mask. It saves nothing here: within 1 MB of 35 with and
        # without, as is the arena, after 1,200 rows of prefill and 300 steps of a four-layer int4 graph.
        options.enable_mem_pattern = False
        # Threads wait for work in a loop, which is fast, but they go on for 40 ms after a forward: those of a drafter
        # would take the cores from the target's next step. Now they stop with the forward.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        return options


PORTABLE = Portable()


@dataclass(frozen=True)
class Native:
    """Our own operators, on weights that are packed into ``graphs``, the folder of the native graphs."""

    library: Library
    graphs: Path
    name: Literal["native"] = "native"

    @property
    def description(self) -> str:
        """See ``Kernels``."""
        return f"native ({self.library.verdict.isa})"

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

    def session_options(self, threads: int | None) -> ort.SessionOptions:
        """See ``Kernels``."""
        options = PORTABLE.session_options(threads)
        self.library.register(options, threads or physical_cores())
        return options


class Chooser:
    """Opens levels with the kernels ``wanted``; ``notify`` is told, once each, why they are not native."""

    def __init__(
        self,
        wanted: Wanted = "auto",
        notify: Callable[[str], None] = lambda line: None,
        progress: Progress = no_progress,
    ) -> None:
        if wanted not in WANTED:
            raise PocketspecError(f"no kernels {wanted!r}; there are: {', '.join(WANTED)}")
        self._wanted, self._notify, self._progress = wanted, notify, progress
        self._told: set[str] = set()

    def open(self, bundle: Path, manifest: Manifest, level: Level, make: Callable[[Kernels], _Opened]) -> _Opened:
        """What ``make`` makes with the best kernels that work for ``level``.

        "native" refuses where the target cannot have them: a drafter's kernels are no part of the answer.
        """
        if self._wanted == "portable":
            return make(PORTABLE)
        try:
            return make(self._native(bundle, manifest, level))
        except PocketspecError as error:
            if self._wanted == "native" and level.role == "target":
                raise
            reason = str(error)
        opened = make(PORTABLE)
        if reason not in self._told:
            self._notify(f"ONNX Runtime's own kernels run {level.name}, so that {_COST}: {reason}")
            self._told.add(reason)
        return opened

    def expect(self, level: Level) -> str:
        """Which kernels would run ``level``, and why; its weights are not packed for it."""
        if self._wanted == "portable":
            return PORTABLE.description
        try:
            return Native(self._library_for(level), Path()).description
        except PocketspecError as error:
            return f"{PORTABLE.description}, since {error}"

    def _native(self, bundle: Path, manifest: Manifest, level: Level) -> Native:
        """The native kernels for ``level``, its weights packed; PocketspecError says why not."""
        library = self._library_for(level)
        return Native(library, packed_graphs(bundle, manifest, level, self._progress, self._notify))

    def _library_for(self, level: Level) -> Library:
        """The library, if ``level`` has a form for it; KernelsError says what is missing."""
        if level.native is None:
            raise KernelsError(_no_native_form(level))
        library = open_library()
        if self._wanted == "auto" and not library.is_fast:
            raise KernelsError("native kernels have nothing faster than plain C++ for this processor")
        return library


def _graph_name(graphs: Mapping[str, str], name: str, kv_type: str) -> str:
    if kv_type not in graphs:
        raise UnsupportedModelError(f"{name} has no graph for a {kv_type} KV cache; it has: {', '.join(graphs)}")
    return graphs[kv_type]


def _no_native_form(level: Level) -> str:
    weights = level.quantization
    if weights.weights in _WEIGHTS and weights.block_size in BLOCK_SIZES:
        return f"{level.name} was exported without a native graph; export it again"
    block = f" in blocks of {weights.block_size}" if weights.block_size else ""
    sizes = ", ".join(map(str, BLOCK_SIZES))
    return (
        f"{level.name} has {weights.weights} weights{block}, and native kernels need int4 or int8 in blocks of {sizes}"
    )
