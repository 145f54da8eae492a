"""One model on ONNX Runtime: a session, its KV cache, and the forwards through both.

All buffers are allocated when the model is opened or resized; afterwards nothing larger than a step's few integers.
Past and present share their memory, so the graph copies nothing, and rollback only changes a length.

Graphs written by ``export`` have the inputs ``tree_bias`` and ``logits_from``. Graphs of other builders, which lack
them, work as well: their drafts are chains, and every row has logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from export.manifest import Level
from memory.footprint import hot_weight_bytes
from memory.layer_states import held_rows, num_snapshots
from memory.plan import LevelPlan, Placement
from runtime.arrays import TokenArray
from runtime.bundle.draft_vocabulary import LogitTokens, read_logit_tokens
from runtime.decoding.protocols import HiddenInput, ModelOutput
from runtime.errors import UnsupportedModelError
from runtime.kernels.backends import PORTABLE, Kernels
from runtime.kernels.threads import NativeCrew
from runtime.models.borrowed_cache import BorrowedCache
from runtime.models.exact_widths import SafeWidths, even_widths
from runtime.models.hidden_rows import HiddenRows
from runtime.models.io_binding import Binding, Buffers, ForwardKind, SharedBindings, Signature, read_signature
from runtime.models.kv_cache import KVCache
from runtime.models.layer_states import StateSizes, make_states
from runtime.models.placement import CPU, on_cores
from runtime.models.single_thread_session import SessionCrew
from runtime.models.thread_choice import WorkerChoice
from runtime.process.allocator import map_large_blocks
from runtime.process.forks import outlive_forks

# A second session is opened during an answer if the first one took no longer than this to open.
_SOON_OPEN_SECONDS = 0.5
# Weights that one thread reads in less time than two threads need to meet. With the demo's 5.9 MB, two threads are 5 to
# 9 % slower on two idle cores of a Zen 4, and beside a busy program a short answer ends before one has been tried.
_SMALL_BYTES = 8 << 20
# Seen to fail with 1.25 and 1.26, and to be right with 1.27, 1.28 and 1.32.
_SHARED_CACHES_SINCE = (1, 27)


class OrtModel:
    """A session with its cache and buffers; ``open`` is the usual way to make one.

    ``crew`` allows to use fewer threads where that is faster; a ``small`` model begins with one. With ``fixed_width``
    every forward runs the same number of rows: the largest of the ``widths`` within ``max_rows``. ``states`` says how
    much of the states of layers is kept, if the graph has any, and ``hidden_rows`` how many of the rows at its taps.
    ``logit_tokens``: the tokens that its logits are of, if they are not of all that it reads.
    ``logits_rows`` None: as many as ``max_rows``. With a ``lender`` it has no cache of its own, but that model's, whose
    layers it shares by the names of their caches.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        capacity: int,
        max_rows: int,
        prefill_chunk: int,
        widths: SafeWidths | None = None,
        kv_shape: tuple[int, int] | None = None,
        kernels: Kernels = PORTABLE,
        first_rows: int | None = None,
        growth: int = 0,
        cores: Sequence[int] = (),
        crew: NativeCrew | SessionCrew | None = None,
        small: bool = False,
        states: StateSizes | None = None,
        hidden_rows: int = 0,
        logit_tokens: LogitTokens | None = None,
        logits_rows: int | None = None,
        lender: OrtModel | None = None,
    ) -> None:
        self._session, self.cores = session, tuple(cores)
        self.kernels = kernels
        self._signature = read_signature(session, kv_shape)
        self.widths = even_widths(max_rows) if widths is None else widths
        self.fixed_width = False
        self.max_rows, self.logits_rows = max_rows, logits_rows or max_rows
        self.logit_tokens = None if logit_tokens is None else logit_tokens.ids
        self.vocab_size = self._signature.logits_width if logit_tokens is None else logit_tokens.vocab_size
        if self.logit_tokens is not None and len(self.logit_tokens) != self._signature.logits_width:
            raise UnsupportedModelError(
                f"this graph has {self._signature.logits_width} logits for {len(self.logit_tokens)} tokens; export it"
                " again"
            )
        self.takes_trees = self._signature.takes_trees
        self.cache: KVCache | BorrowedCache
        if lender is None:
            self.cache = KVCache(
                self._signature.kv_shapes,
                self._signature.kv_types,
                capacity,
                first_rows,
                growth,
                make_states(self._signature.states, states),
            )
        else:
            self.cache = lender.lend(self._signature)
        self._keep_hidden(hidden_rows)
        self._make_buffers(prefill_chunk)
        self._workers: WorkerChoice | None = None
        self._sessions = crew if isinstance(crew, SessionCrew) else None
        if crew is not None and crew.workers > 1:
            self._workers = WorkerChoice(crew, eager=self._sessions is None, alone_first=small)
        # Seconds spent inside ONNX Runtime so far; the rest of a step is our own code.
        self.session_seconds = 0.0
        # Called before every forward. It may raise, to give up a prompt between two chunks.
        self.before_forward: Callable[[], None] = _nothing

    @classmethod
    def open(
        cls,
        bundle: Path,
        level: Level,
        plan: LevelPlan,
        threads: int | None,
        prefill_chunk: int,
        widths: SafeWidths | None = None,
        kernels: Kernels = PORTABLE,
        first_rows: int | None = None,
        growth: int = 0,
        lender: OrtModel | None = None,
    ) -> OrtModel:
        """Opens the graph of ``level`` for the planned KV type; UnsupportedModelError says why it cannot.

        ``threads`` work on one operator; None: one for every usable core, or fewer where that is faster. ``widths``
        None: the even ones. ``first_rows``, ``growth``: those of the ``KVCache``. ``lender``: the model whose cache
        it shares, of which ``level`` is a part.
        """
        graph = kernels.graph(bundle / level.folder, level, plan.kv_type)
        _check_version(level, kernels)
        start = perf_counter()
        session = open_session(graph, threads, kernels, plan.placement)
        crew: NativeCrew | SessionCrew | None = kernels.crew(session) if threads is None else None
        if threads is None and kernels.residence == "prepacked" and perf_counter() - start < _SOON_OPEN_SECONDS:
            crew = SessionCrew(session, lambda: open_session(graph, 1, kernels, plan.placement))
        return cls(
            session,
            plan.capacity,
            plan.max_rows,
            prefill_chunk,
            widths,
            (level.shape.kv_heads, level.shape.head_size),
            kernels,
            first_rows,
            growth,
            plan.placement.cores,
            crew,
            isinstance(crew, NativeCrew) and hot_weight_bytes(level, kernels.residence) < _SMALL_BYTES,
            state_sizes(level, plan.max_rows),
            plan.hidden_rows,
            read_logit_tokens(bundle / level.folder, level),
            plan.logits_rows,
            lender,
        )

    @property
    def own_width(self) -> int:
        """Numbers of a hidden row of its own, of a prediction head; 0 for other models."""
        return self._signature.own_hidden

    @property
    def borrows(self) -> bool:
        """Whether its KV cache is another model's."""
        return isinstance(self.cache, BorrowedCache)

    def lend(self, signature: Signature) -> BorrowedCache:
        """Its cache for a model with ``signature``; UnsupportedModelError if that has caches which this one lacks."""
        own = self._signature
        kinds = dict(zip(own.kv_inputs, zip(own.kv_shapes, own.kv_types, strict=True), strict=True))
        wanted = dict(zip(signature.kv_inputs, zip(signature.kv_shapes, signature.kv_types, strict=True), strict=True))
        if not isinstance(self.cache, KVCache) or self.cache.states or not wanted.items() <= kinds.items():
            raise UnsupportedModelError("its KV cache is not part of the target's; export the bundle again")
        return BorrowedCache(self.cache, [own.kv_inputs.index(name) for name in signature.kv_inputs])

    def resize(
        self,
        capacity: int,
        max_rows: int,
        prefill_chunk: int,
        hidden_rows: int = 0,
        logits_rows: int | None = None,
    ) -> None:
        """Changes the sizes and keeps session and cached rows; ContextFullError if those do not fit.

        The old buffers are freed before new ones are allocated. ``widths`` stay, and no more rows are run than they
        have.
        """
        self.cache.resize(capacity)
        if self.cache.states is not None:
            self.cache.states.hold(max_rows)
        self.max_rows, self.logits_rows = max_rows, logits_rows or max_rows
        self._bindings.clear()
        del self._shared, self._buffers
        self._keep_hidden(hidden_rows)
        self._make_buffers(prefill_chunk)

    def _keep_hidden(self, rows: int) -> None:
        """Keeps the last ``rows`` hidden rows from now on; of another number than before, those before are gone."""
        width, hidden = sum(width for _, width in self._signature.taps), self.cache.hidden
        if hidden is not None and hidden.capacity == rows:
            return
        self.cache.hidden = HiddenRows(width, rows) if rows and width else None
        if self.cache.hidden is not None:
            self.cache.hidden.claim(self.cache.length)

    def _make_buffers(self, prefill_chunk: int) -> None:
        # Without logits_from every row of a chunk has logits, and the plan has room for max_rows of them.
        self._chunk = prefill_chunk if self._signature.limits_logits else min(prefill_chunk, self.max_rows)
        self._buffers = Buffers(self._signature, self.cache, max(self._chunk, self.max_rows), self.max_rows)
        self._forget_bindings()

    def _forget_bindings(self) -> None:
        self._bindings: dict[ForwardKind, Binding] = {}
        self._shared = SharedBindings(self._session, self._signature, self._buffers)

    @property
    def arrays(self) -> dict[str, tuple[npt.NDArray[Any], ...]]:
        """The arrays it holds, under the names of the memory plan's parts."""
        buffers = self._buffers
        inputs = (buffers.ids, buffers.positions, buffers.offsets, buffers.mask, buffers.bias)
        arrays: dict[str, tuple[npt.NDArray[Any], ...]]
        own_rows = () if self.borrows else self.cache.arrays
        arrays = {"KV cache": own_rows, "logits": (buffers.logits,), "inputs": inputs}
        if self.cache.states is not None:
            arrays["states"] = self.cache.states.arrays
        kept = () if self.cache.hidden is None else self.cache.hidden.arrays
        if hidden := [array for array in (*kept, *buffers.hidden_arrays) if array.size]:
            arrays["hidden rows"] = tuple(hidden)
        return arrays

    def padded(self, rows: int) -> int:
        """See ``Model``."""
        return self.widths.pad(max(rows, self.widths.largest(self.max_rows)) if self.fixed_width else rows)

    def forward(
        self,
        tokens: Sequence[int] | TokenArray,
        parents: Sequence[int] | None = None,
        logits_from: int = 0,
        hidden: HiddenInput | None = None,
    ) -> ModelOutput:
        """See ``Model`` and ``HeadModel``. ContextFullError if the cache has no room for the rows, padding included."""
        self.before_forward()
        rows, width = len(tokens), self.padded(len(tokens))
        assert 0 <= logits_from < rows <= width <= self.max_rows, (logits_from, rows, width, self.max_rows)
        assert parents is None or self.takes_trees
        self.cache.require(width)
        first = logits_from if self._signature.limits_logits else 0
        self._buffers.give(hidden, width)
        binding = self._run_rows((width, width - first, parents is not None), tokens, parents)
        self._append(tokens, binding)
        wanted = slice(logits_from - first, rows - first)
        logits = binding.logits[wanted].astype(np.float32, copy=False)
        return ModelOutput(logits, None if binding.hidden is None else binding.hidden[wanted])

    def _append(self, tokens: Sequence[int] | TokenArray, binding: Binding) -> None:
        """Adds the rows that ``binding`` has just run to the cache, and keeps their hidden rows."""
        if self.cache.hidden is not None:
            self.cache.hidden.write(self.cache.length, [tap[: len(tokens)] for tap in binding.taps])
        self.cache.append(tokens)

    def prefill(self, tokens: Sequence[int] | TokenArray, hidden: HiddenInput | None = None) -> None:
        """See ``Model`` and ``HeadModel``. In chunks as planned, without logits if the graph can leave them out."""
        self.cache.require(len(tokens))
        for start in range(0, len(tokens), self._chunk):
            self.before_forward()
            chunk = tokens[start : start + self._chunk]
            part = None if hidden is None else HiddenInput(hidden.rows[start : start + self._chunk], hidden.own)
            self._buffers.give(part, len(chunk))
            kind = (len(chunk), 0 if self._signature.limits_logits else len(chunk), False)
            self._append(chunk, self._run_rows(kind, chunk, None))
        self.cache.settle()

    def close(self) -> None:
        """Ends the session and frees its memory; the model cannot be used afterwards."""
        self.before_forward = _refuse
        self._bindings.clear()
        self._workers = self._sessions = None
        del self._shared, self._buffers, self._session
        self.cache.close()

    @contextmanager
    def same_workers(self) -> Iterator[None]:
        """A context in which the number of threads does not change; for timing forwards."""
        workers, self._workers = self._workers, None
        try:
            yield
        finally:
            self._workers = workers

    def _run_rows(
        self, kind: ForwardKind, tokens: Sequence[int] | TokenArray, parents: Sequence[int] | None
    ) -> Binding:
        """Runs ``tokens`` after the cache, without adding them to it, and lets the number of threads adapt."""
        if self.cache.hidden is not None:
            self.cache.hidden.make_room(len(tokens))
        binding, before = self._filled(kind, tokens, parents), self.session_seconds
        self._run(binding)
        if self._workers is not None:
            self._workers.after(kind, self.session_seconds - before)
            sessions, has_logits = self._sessions, kind[1] > 0  # without logits two sessions cannot be compared
            if sessions is not None and sessions.wanted is not self._session and has_logits:
                self._change_session(binding, sessions, tokens, parents)
        return binding

    def _change_session(
        self, last: Binding, sessions: SessionCrew, tokens: Sequence[int] | TokenArray, parents: Sequence[int] | None
    ) -> None:
        """Changes to the wanted session, if it gives the same bits for the ``last`` forward."""
        logits, before = last.logits.copy(), self._session
        for session in (sessions.wanted, before):
            self._session = session
            self._forget_bindings()
            self._run(self._filled(last.kind, tokens, parents))
            if np.array_equal(logits.view(np.uint8), last.logits.view(np.uint8)):
                return
            sessions.refuse()

    def _filled(self, kind: ForwardKind, tokens: Sequence[int] | TokenArray, parents: Sequence[int] | None) -> Binding:
        binding = self._binding(kind)
        binding.fill(tokens, parents, self.cache.length)
        if self.cache.states is not None:
            self._buffers.replay[:] = self.cache.states.replay(self.cache.length, kind[0])
        return binding

    def _run(self, binding: Binding) -> None:
        start, states = perf_counter(), self.cache.states
        try:
            with on_cores(self.cores):
                self._session.run_with_iobinding(binding.io)
        except BaseException:
            if states is not None:
                states.lose()
            raise
        self.session_seconds += perf_counter() - start
        if states is not None:
            states.advance(self.cache.length, binding.kind[0])

    def _binding(self, kind: ForwardKind) -> Binding:
        binding = self._bindings.get(kind)
        if binding is None:
            binding = Binding(self._shared, *kind)
            # The last chunks of prompts have many different sizes: their bindings are not kept.
            if kind[0] <= self.max_rows or kind[0] == self._chunk:
                self._bindings[kind] = binding
        return binding


def state_sizes(level: Level, max_rows: int) -> StateSizes | None:
    """How much of the states of ``level`` is kept, if it has any: what the plan counts."""
    convolutions = level.shape.convolutions
    if convolutions is None:
        return None
    held, snapshots = held_rows(level, max_rows), num_snapshots(level)
    return StateSizes(convolutions.width, held, snapshots, deep=level.role != "target")


def _nothing() -> None:
    """The default of ``before_forward``."""


def _refuse() -> None:
    raise UnsupportedModelError("this model is closed; open the bundle again")


def _check_version(level: Level, kernels: Kernels) -> None:
    """UnsupportedModelError if ONNX Runtime's attention cannot read a cache to which its layer adds no rows."""
    version = tuple(int(part) for part in ort.__version__.split(".")[:2])
    if level.shape.shares_caches and kernels.residence != "native" and version < _SHARED_CACHES_SINCE:
        since = ".".join(map(str, _SHARED_CACHES_SINCE))
        raise UnsupportedModelError(
            f"layers of {level.name} share KV caches, which ONNX Runtime reads from {since} on, not {ort.__version__}:"
            " update onnxruntime, or use native kernels"
        )


def open_session(
    path: Path, threads: int | None, kernels: Kernels = PORTABLE, placement: Placement = CPU
) -> ort.InferenceSession:
    """A session that writes nothing to standard error. ``threads`` None: one for every usable core.

    It runs where ``placement`` says; operators that the provider lacks run on the CPU.
    """
    if not path.is_file():
        raise UnsupportedModelError(f"{path} is missing; export the bundle again")
    try:
        options = kernels.session_options(threads, placement.cores)
        map_large_blocks()
        providers = list(dict.fromkeys((placement.provider, CPU.provider)))
        session = ort.InferenceSession(path, options, providers=providers, enable_fallback=False)
    except Exception as error:  # ONNX Runtime's errors share no other base
        reason = str(error).strip().splitlines()[0]
        raise UnsupportedModelError(f"ONNX Runtime {ort.__version__} cannot open {path}: {reason}") from None
    outlive_forks(session)
    return session
