"""Chooses the kernels of a level: native ones where library, self-test and bundle allow it, else ONNX Runtime's own.

Portable kernels read mapped weights where the mapped file can be made, else ONNX Runtime copies the weights.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal, TypeVar, get_args
from weakref import WeakValueDictionary

from export.manifest import Level, Manifest, PocketspecError
from memory.device import Residence
from runtime.kernels.backends import PORTABLE, Kernels, Native, Prepacked
from runtime.kernels.library import KernelsError, Library, open_library
from runtime.kernels.weights.disk import NowhereError
from runtime.kernels.weights.layout import BLOCK_SIZES
from runtime.kernels.weights.packed import Progress, no_progress, packed_graphs
from runtime.kernels.weights.shared import SharedWeights
from runtime.process.allocator import give_back

Wanted = Literal["auto", "native", "portable"]
WANTED: tuple[Wanted, ...] = get_args(Wanted)

_WEIGHTS = ("int4", "int8")
# Measured in turns at the Qwen2-1.5B shape, two cores with AVX2: 1.6 times as long with 1 row, 2.3 to 2.5 times with 4
# to 16 rows.
_COST = "plain steps take about 1.6 times as long, steps that verify drafts about 2.4 times"

_WITHOUT_PLACE = (
    f"until then ONNX Runtime's own kernels run on weights that are copied into memory ({_COST}), and what rows cost is"
    " measured at every start"
)

_Opened = TypeVar("_Opened")


class Chooser:
    """Opens levels with the kernels ``wanted``; ``notify`` gets one line for each reason why they are not native.

    ``verify``: packed weights are hashed when a level is first opened, even if they seem unchanged.
    """

    def __init__(
        self,
        wanted: Wanted = "auto",
        notify: Callable[[str], None] = lambda line: None,
        progress: Progress = no_progress,
        verify: bool = False,
    ) -> None:
        if wanted not in WANTED:
            raise PocketspecError(f"no kernels {wanted!r}; there are: {', '.join(WANTED)}")
        self._wanted, self._notify, self._progress = wanted, notify, progress
        self._verify, self._verified = verify, set[str]()
        self._reported: set[str] = set()
        self._failed: dict[tuple[str, Residence], PocketspecError] = {}
        # While a model is open that reads them.
        self._shared: WeakValueDictionary[Path, SharedWeights] = WeakValueDictionary()

    def open(self, bundle: Path, manifest: Manifest, level: Level, make: Callable[[Kernels], _Opened]) -> _Opened:
        """The result of ``make`` with the best kernels that work for ``level``.

        "native" raises if the target cannot have them. A drafter may fall back: its kernels do not affect the text.
        """
        opened = self._open(bundle, manifest, level, make)
        self._verified.add(level.name)
        give_back()  # opening a session leaves tens of megabytes of free heap behind
        return opened

    def _open(self, bundle: Path, manifest: Manifest, level: Level, make: Callable[[Kernels], _Opened]) -> _Opened:
        if self._wanted == "portable":
            return self._open_portable(bundle, manifest, level, make)
        try:
            return self._attempt("native", level, lambda: make(self._native(bundle, manifest, level)))
        except PocketspecError as error:
            if self._wanted == "native" and level.role == "target":
                raise
            reason = _without_trace(error)
        opened = self._open_portable(bundle, manifest, level, make)
        self._notify_once(f"ONNX Runtime's own kernels run {level.name}, so that {_COST}", reason)
        return opened

    def _open_portable(
        self, bundle: Path, manifest: Manifest, level: Level, make: Callable[[Kernels], _Opened]
    ) -> _Opened:
        """Opens with mapped weights if that works, else with copied ones."""
        if not _can_prepack(manifest):
            return make(PORTABLE)
        prepacked = Prepacked(bundle, manifest, self._progress, self._notify, self._is_verifying(level))
        try:
            return self._attempt("prepacked", level, lambda: make(prepacked))
        except PocketspecError as error:
            reason = _without_trace(error)
        # Said before opening, because a plan may have no room for copied weights.
        self._notify_once(f"the weights of {level.name} are copied into memory", reason)
        return make(PORTABLE)

    def _attempt(self, residence: Residence, level: Level, attempt: Callable[[], _Opened]) -> _Opened:
        """Runs ``attempt``, unless it failed before: planning again after a failure must get another answer."""
        if (level.name, residence) in self._failed:
            failed = self._failed[level.name, residence]
            raise type(failed)(str(failed))
        try:
            return attempt()
        except PocketspecError as error:
            self._failed[level.name, residence] = _without_trace(error)
            raise

    def _notify_once(self, what: str, reason: PocketspecError) -> None:
        """Reports each reason once, even if several levels have it; one that concerns all kernels is one line."""
        if str(reason) not in self._reported:
            self._notify(f"{reason}; {_WITHOUT_PLACE}" if isinstance(reason, NowhereError) else f"{what}: {reason}")
            self._reported.add(str(reason))

    def expect(self, level: Level) -> str:
        """Describes the kernels that would run ``level``, and why; packs nothing."""
        if self._wanted == "portable":
            return PORTABLE.description
        try:
            return Native(self._library_for(level), Path()).description
        except PocketspecError as error:
            return f"{PORTABLE.description}, since {error}"

    def expected_residence(self, manifest: Manifest, level: Level) -> Residence:
        """Where the weights of ``level`` will be if nothing fails; packs nothing."""
        if self._wanted != "portable" and (level.name, "native") not in self._failed:
            with suppress(PocketspecError):
                self._library_for(level)
                return "native"
        if _can_prepack(manifest) and (level.name, "prepacked") not in self._failed:
            return "prepacked"
        return "copied"

    def _native(self, bundle: Path, manifest: Manifest, level: Level) -> Native:
        """The native kernels for ``level``, with its weights packed; PocketspecError says why not."""
        library = self._library_for(level)
        verify = self._is_verifying(level)
        place = packed_graphs(bundle, manifest, level, self._progress, self._notify, verify)
        return Native(library, place, self._shared_weights(place, bundle, manifest, level))

    def _shared_weights(self, place: Path, bundle: Path, manifest: Manifest, level: Level) -> SharedWeights | None:
        """The weights in folder ``place`` for all who read them, if a drafter is part of the target."""
        if not any(other.self_draft and other.folder == level.folder for other in manifest.levels):
            return None
        if (shared := self._shared.get(place)) is None:
            shared = self._shared[place] = SharedWeights(place, bundle / level.folder)
        return shared

    def _is_verifying(self, level: Level) -> bool:
        return self._verify and level.name not in self._verified

    def _library_for(self, level: Level) -> Library:
        """The library, if ``level`` has a native form; KernelsError says what is missing."""
        if level.native is None:
            raise KernelsError(_no_native_form(level))
        library = open_library()
        if self._wanted == "auto" and not library.is_fast:
            raise KernelsError("native kernels have nothing faster than plain C++ for this processor")
        return library


def _without_trace(error: PocketspecError) -> PocketspecError:
    """A copy of the message alone: a stored exception would keep everything alive that its traceback refers to."""
    return NowhereError(str(error)) if isinstance(error, NowhereError) else KernelsError(str(error))


def _can_prepack(manifest: Manifest) -> bool:
    """Whether files are hashed, so that packed weights can be matched to them; other builders do not hash theirs."""
    return bool(manifest.files)


def _no_native_form(level: Level) -> str:
    weights = level.quantization
    if weights.weights in _WEIGHTS and weights.block_size in BLOCK_SIZES:
        return f"{level.name} was exported without a native graph; export it again"
    block = f" in blocks of {weights.block_size}" if weights.block_size else ""
    sizes = ", ".join(map(str, BLOCK_SIZES))
    return (
        f"{level.name} has {weights.weights} weights{block}, and native kernels need int4 or int8 in blocks of {sizes}"
    )
