"""The engine: plans, opens what is planned, decodes, and turns tokens into text. The one place where parts meet.

>>> with Engine.open(Path("bundles/demo-int4")) as engine:
...     for chunk in engine.generate("Write a bedtime story.", max_new_tokens=100):
...         print(chunk.text, end="")

An answer is a generator: closing it cancels, and the engine can be used on. Of every prompt, the part that the KV cache
still holds from the last answer is not computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Any, Literal

from export.manifest import Level, Manifest, PocketspecError, verify_files
from memory.meter import read_memory
from memory.plan import Plan, Request, make_plan
from runtime.cache import ContextFullError
from runtime.context import Context, shared_prefix
from runtime.decode import Step, StopRule, decode
from runtime.devices import SafeWidths, any_width, find_safe_widths
from runtime.drafters import Drafter
from runtime.foreign import is_foreign, read_bundle
from runtime.kernels.choice import Chooser, Kernels, Wanted
from runtime.kernels.packed import Progress, no_progress
from runtime.kernels.warming import Warmer
from runtime.model import OrtModel
from runtime.outgrow import Refit, go_on, sliding_text
from runtime.record import check_files, device_folder, device_key, recall
from runtime.sampling import SamplingParams
from runtime.speculation import NONE, Speculation, Speculator
from runtime.stats import GenerationStats
from runtime.stop import StopRule as TextStopRule
from runtime.stop import StopText
from runtime.template import Message
from runtime.text import TextStream, Tokenizer

Prompt = str | Sequence[Message] | Sequence[int]


@dataclass(frozen=True)
class TextChunk:
    """What one step brought: ``text`` that may be shown now (possibly none), the step, and the statistics so far."""

    text: str
    step: Step
    stats: GenerationStats


class Engine:
    """An open bundle. ``Engine.open`` makes one; everything in ``plan`` is open, and nothing else."""

    def __init__(
        self, manifest: Manifest, plan: Plan, tokenizer: Tokenizer, target: OrtModel, drafters: Mapping[str, OrtModel]
    ) -> None:
        self.manifest, self.plan, self.tokenizer = manifest, plan, tokenizer
        self.target, self.drafters = target, dict(drafters)
        self._speculator = Speculator(target, drafters, plan.max_draft)
        self._context = Context(plan.context, SamplingParams())
        self._answer: Generator[Step, None, None] | None = None
        self._warmer: Warmer | None = None

    @classmethod
    def open(
        cls,
        bundle: Path | str,
        request: Request | None = None,
        *,
        plan: Plan | None = None,
        verify: bool = False,
        warm: bool = False,
        kernels: Wanted = "auto",
        notify: Callable[[str], None] = lambda line: None,
        progress: Progress = no_progress,
    ) -> Engine:
        """Opens ``bundle`` within ``request``, or as an own ``plan`` says.

        ``verify`` hashes all files even if they seem unchanged since the last open. ``kernels``: "native" ones or an
        error, ONNX Runtime's "portable" ones, or "auto": the native ones where they can be used. ``notify`` is told,
        one line each, what a user should know: what the plan gave up, why kernels are not native, and whether output is
        exact; ``progress`` shows the packing of weights. Weights that are mapped and not in memory are read ahead while
        the first step runs; with ``warm``, before ``open`` returns. Errors are PocketspecError.
        """
        bundle = Path(bundle)
        manifest = read_bundle(bundle)
        if verify:
            verify_files(bundle, manifest)
        elif not is_foreign(bundle):
            check_files(bundle, manifest)
        request = request or Request()
        plan = plan or make_plan(manifest, request)
        for line in plan.given_up:
            notify(f"to fit {plan.budget_bytes} bytes: {line}")
        tokenizer = Tokenizer.open(bundle)
        levels = _Levels(bundle, manifest, plan, Chooser(kernels, notify, progress))
        engine = cls(manifest, plan, tokenizer, levels.open_target(notify), levels.open_drafters())
        engine._warmer = Warmer(engine.mapped_files())
        if warm:
            engine._warmer.wait()
        return engine

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends a running answer. Memory goes with the last reference to the engine."""
        if self._answer is not None:
            self._answer.close()
            self._answer = None
        if self._warmer is not None:
            self._warmer.close()
            self._warmer = None

    def mapped_files(self) -> list[Path]:
        """The files of weights that steps read, the target's first; none of levels whose weights were copied."""
        models = {self.manifest.target.name: self.target, **self.drafters}
        return [
            file for name, model in models.items() for file in model.kernels.mapped_files(self.manifest.level(name))
        ]

    def add_drafter(self, drafter: Drafter) -> None:
        """Makes a drafter of the caller's own known by its name, for ``Speculation(drafter=NAME)``."""
        self._speculator.add(drafter)

    @property
    def capacity(self) -> int:
        """The most tokens of prompt and answer together."""
        return self._context.capacity

    def is_exact(self, speculation: Speculation) -> bool:
        """Whether answers equal those of plain decoding bit for bit on this device, and not only up to near ties."""
        widths = self.target.widths
        return widths.exact and (widths.tree or speculation.shape == "chain" or speculation.drafter == NONE)

    def encode(self, prompt: Prompt, *, raw: bool = False) -> list[int]:
        """The tokens of ``prompt``: a text (in the chat template if there is one, unless ``raw``), messages, or ids."""
        if isinstance(prompt, str):
            if raw or self.tokenizer.template is None:
                return self.tokenizer.encode(prompt)
            return self.tokenizer.encode_chat([{"role": "user", "content": prompt}])
        ids = [item for item in prompt if isinstance(item, int)]
        if len(ids) == len(prompt):
            return ids
        return self.tokenizer.encode_chat([item for item in prompt if not isinstance(item, int)])

    def generate(
        self,
        prompt: Prompt,
        *,
        sampling: SamplingParams | None = None,
        max_new_tokens: int | None = None,
        stop: Sequence[str] = (),
        raw: bool = False,
        ignore_eos: bool = False,
        speculation: Speculation | None = None,
        when_full: Literal["stop", "slide"] | Refit = "stop",
    ) -> Generator[TextChunk, None, None]:
        """Answers ``prompt`` chunk by chunk; the chunks' texts put together are the answer.

        Without ``max_new_tokens`` an answer may fill the context. Then it ends, or goes on with the first four tokens
        and the latest ("slide"), or with what a function of the caller's own keeps (``outgrow.Refit``). A text that is
        not answered but continued (``raw``, or no chat template) keeps its spacing at the seam. A running answer ends
        when another begins.
        """
        tokens = self.encode(prompt, raw=raw)
        refit = _make_refit(when_full)
        if refit is not None and len(tokens) >= self.capacity:
            tokens = refit(tokens, self.capacity) or tokens
        chat = not raw and self.tokenizer.template is not None
        before = () if chat else tokens
        eos = () if ignore_eos else self.manifest.target.vocabulary.eos_token_ids
        rule = TextStopRule(
            eos=eos,
            strings=stop,
            max_new_tokens=max_new_tokens,
            stream=TextStream(self.tokenizer, before) if stop else None,
        )
        steps = self.steps(tokens, stop=rule, sampling=sampling, speculation=speculation, refit=refit)
        stats = GenerationStats(len(tokens), shared_prefix(self.target.cache.tokens, tokens[:-1]))
        return self._chunks(steps, stats, TextStream(self.tokenizer, before), StopText(stop))

    def steps(
        self,
        tokens: Sequence[int],
        *,
        stop: StopRule,
        sampling: SamplingParams | None = None,
        speculation: Speculation | None = None,
        refit: Refit | None = None,
    ) -> Generator[Step, None, None]:
        """Continues ``tokens`` step by step: the loop without text. A running answer ends when another begins.

        ``refit`` says what of them is kept when the context is full; None: the answer ends.
        """
        self.close()
        sampling = sampling or SamplingParams()
        strategy = self._speculator.strategy(speculation or Speculation(), sampling)
        _refuse_long(len(tokens), self._context.capacity)
        context = self._context
        context.sampling = sampling

        def start(tokens: Sequence[int], stop: StopRule) -> Generator[Step, None, None]:
            context.truncate(0)
            context.append(tokens)
            return decode(self.target, context, strategy.drafters, strategy.scheduler, strategy.verifier, stop)

        self._answer = start(tokens, stop) if refit is None else go_on(start, tokens, stop, context, refit)
        return self._answer

    @staticmethod
    def _chunks(
        steps: Generator[Step, None, None], stats: GenerationStats, stream: TextStream, shown: StopText
    ) -> Generator[TextChunk, None, None]:
        start = perf_counter()
        with closing(steps):
            for step in steps:
                stats = stats.after(step, perf_counter() - start)
                text = shown.feed(stream.feed(step.tokens[:-1] if step.finish == "eos" else step.tokens))
                if step.finish is not None:
                    text += shown.feed(stream.flush()) + shown.flush()
                    stats = replace(stats, memory=read_memory())
                yield TextChunk(text, step, stats)


@dataclass(frozen=True)
class _Levels:
    """Opens what is planned of a bundle."""

    bundle: Path
    manifest: Manifest
    plan: Plan
    chooser: Chooser

    def open_target(self, notify: Callable[[str], None]) -> OrtModel:
        """The target, at the widths that agree bit for bit on this device; those are found out once."""
        model = self._open(self.manifest.target)

        def find() -> dict[str, Any]:
            notify("testing which row counts agree bit for bit (once for this model on this device)")
            return asdict(find_safe_widths(model))

        hashes = {name: entry.sha256 for name, entry in self.manifest.files.items() if ".onnx" in name}
        key = [device_key(), hashes, self.plan.threads, model.max_rows, model.kernels.key]
        name = f"widths-{model.kernels.name}-{self.plan.threads or 'all'}-{model.max_rows}"
        found = find() if is_foreign(self.bundle) else recall(device_folder(self.bundle), name, key, find)
        model.widths = SafeWidths(tuple(found["widths"]), found["exact"], found["tree"])
        if not model.widths.exact:
            notify("no two row counts agree bit for bit here: speculation is exact up to near ties")
        return model

    def open_drafters(self) -> dict[str, OrtModel]:
        """Every planned drafter by its name."""
        planned = (self.manifest.level(level.name) for level in self.plan.levels)
        return {level.name: self._open(level) for level in planned if level.role == "drafter"}

    def _open(self, level: Level) -> OrtModel:
        planned = self.plan.level(level.name)
        assert planned is not None, level.name
        threads, chunk, widths = self.plan.threads, self.plan.prefill_chunk, any_width(planned.max_rows)

        def make(kernels: Kernels) -> OrtModel:
            return OrtModel.open(self.bundle, level, planned, threads, chunk, widths, kernels)

        return self.chooser.open(self.bundle, self.manifest, level, make)


def _make_refit(when_full: str | Refit) -> Refit | None:
    if callable(when_full):
        return when_full
    if when_full not in ("stop", "slide"):
        raise PocketspecError(f"no policy {when_full!r} for a text that fills its context; there are: stop, slide")
    return sliding_text(lambda line: None) if when_full == "slide" else None


def _refuse_long(num_tokens: int, capacity: int) -> None:
    """Before anything is computed, and not at the first step."""
    if not 1 <= num_tokens < capacity:
        raise ContextFullError(
            f"a prompt of {num_tokens} tokens; allowed are 1 to {capacity - 1} in a context of {capacity}:"
            " shorten the text or open the bundle with a larger context"
        )
