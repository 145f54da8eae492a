"""The engine: plans, opens what is planned, decodes, and turns tokens into text. The one place where parts meet.

>>> with Engine.open(Path("bundles/demo-int4")) as engine:
...     for chunk in engine.generate("Write a bedtime story.", max_new_tokens=100):
...         print(chunk.text, end="")

An answer is a generator: closing it cancels, and the engine can be used on. Of every prompt, the part that the KV cache
still holds from the last answer is not computed again.

Threads: an engine gives one answer at a time. In one thread a new answer ends the one before; while another thread's
answer is not over, whoever asks is refused at once (``turns.BusyError``), at first use too, and that answer goes on
untouched. Who would rather wait puts a lock around each answer. Closing an answer, closing the engine and setting a
budget are for any thread at any time.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from export.manifest import Manifest, PocketspecError
from memory.choices import Request
from memory.device import Device, read_device
from memory.meter import read_memory
from memory.plan import Plan, PlanError, check_plan
from memory.planner import make_plan, request_of, require_available
from memory.report import given_up_lines
from runtime.arguments import as_whole
from runtime.bundle.foreign import check_bundle, read_bundle
from runtime.calibration.process_baseline import known_processes
from runtime.calibration.stored import costs_of, planning_costs
from runtime.context_overflow import Refit, go_on, make_refit
from runtime.decoding.context import Context, shared_prefix
from runtime.decoding.draft import Step
from runtime.decoding.loop import decode
from runtime.decoding.protocols import Drafter, StoppingCriterion
from runtime.decoding.sampling import SamplingParams
from runtime.decoding.stats import GenerationStats
from runtime.decoding.stop import StopRule, Stops
from runtime.decoding.suggested_sampling import read_suggestion
from runtime.decoding.text_chunks import TextChunk as TextChunk
from runtime.decoding.text_chunks import text_chunks
from runtime.errors import ContextFullError
from runtime.kernels.selection import Chooser, Wanted
from runtime.kernels.weights.packed import Progress, no_progress
from runtime.kernels.weights.readahead import Warmer
from runtime.memory_watcher import Reading, Watcher
from runtime.models.loader import Levels, OtherResidenceError
from runtime.models.ort_model import OrtModel
from runtime.open_models import PlannedModels
from runtime.scheduler.learned_state import Prospect
from runtime.scheduler.methods import DecodingMethod
from runtime.speculation.request import NONE, Speculation
from runtime.text.prompt import Prompt, check_ids, encode_prompt
from runtime.text.template_data import NO_INPUTS, TemplateInputs, make_inputs
from runtime.text.token_ids import open_tokenizer
from runtime.text.tokenizer import Tokenizer
from runtime.turns import Answer, Turns


class Engine:
    """An open bundle. ``Engine.open`` makes one; everything in ``plan`` is open, and nothing else.

    One answer at a time, from any thread: BusyError while another thread's is not over. ClosedError behind ``close``,
    and in a process that was forked off.
    """

    def __init__(self, levels: Levels, plan: Plan, request: Request, tokenizer: Tokenizer) -> None:
        self.bundle, self.manifest, self.tokenizer = levels.bundle, levels.manifest, tokenizer
        self._turns = Turns()
        engine = weakref.proxy(self)  # so that nothing in here keeps the engine
        self._models = PlannedModels(levels, plan, request, lambda: costs_of(engine, levels.notify), self._turns.go_on)
        self._context = Context(plan.context, SamplingParams())
        self._notify, self._told_near_ties = levels.notify, False
        self._warmer: Warmer | None = None
        self._watcher = Watcher(self, lambda: Reading(read_memory(), read_device()), levels.notify)

    @property
    def plan(self) -> Plan:
        """What is open now."""
        return self._models.plan

    @property
    def _open(self) -> PlannedModels:
        """What is open; ClosedError if nothing is."""
        self._turns.check()
        return self._models

    @property
    def target(self) -> OrtModel:
        """The model whose output is reproduced."""
        return self._models.target

    @property
    def drafters(self) -> Mapping[str, OrtModel]:
        """The drafter models that are open, by name."""
        return self._models.drafters

    @classmethod
    def open(
        cls,
        bundle: Path | str,
        request: Request | None = None,
        *,
        plan: Plan | None = None,
        device: Device | None = None,
        verify: bool = False,
        warm: bool = False,
        kernels: Wanted = "auto",
        notify: Callable[[str], None] = lambda line: None,
        progress: Progress = no_progress,
        make_levels: Callable[[Path, Manifest, Chooser, Callable[[str], None]], Levels] = Levels,
    ) -> Engine:
        """Opens ``bundle`` within ``request``, or as an own ``plan`` says.

        ``device`` None: this one as it is now. ``verify`` hashes all files even if they seem unchanged since the last
        open. ``kernels``: "native" ones or an error, ONNX Runtime's "portable" ones, or "auto": the native ones where
        they can be used. ``notify`` is told, one line each, what a user should know: what the plan gave up, why kernels
        are not native, and whether output is exact; ``progress`` shows the packing of weights. Weights that are mapped
        and not in memory are read ahead while the first step runs; with ``warm``, before ``open`` returns.
        ``make_levels`` may open levels in a way of its own. Errors are PocketspecError; nothing was loaded if it is an
        OverBudgetError.
        """
        bundle = Path(bundle)
        manifest = read_bundle(bundle)
        check_bundle(bundle, manifest, verify)
        levels = make_levels(bundle, manifest, Chooser(kernels, notify, progress, verify), notify)
        if device is None:
            device = read_device()
            residence = levels.expected_residences()[manifest.target.name]
            device = replace(device, processes=known_processes(device, residence))
        if plan is None:
            engine = cls._open_within(levels, request or Request(), device)
        else:
            check_plan(plan, manifest)
            require_available(plan, device)
            try:
                engine = cls(levels, plan, request or request_of(plan), open_tokenizer(bundle))
            except OtherResidenceError as error:
                raise PlanError(f"{error}; make the plan again for this device") from None
        engine._watcher.start()
        engine._warmer = Warmer(engine.mapped_files())
        if warm:
            engine._warmer.wait()
        return engine

    @classmethod
    def _open_within(cls, levels: Levels, request: Request, device: Device) -> Engine:
        """Plans and opens; plans again if a level's weights turn out to sit otherwise than was expected."""
        residences = levels.expected_residences()
        while True:
            costs = planning_costs(levels.bundle, levels.manifest, request, residences)
            plan = make_plan(levels.manifest, replace(device, residences=residences), request, costs)
            require_available(plan, device)
            try:
                engine = cls(levels, plan, request, open_tokenizer(levels.bundle))
            except OtherResidenceError as error:
                residences = {**residences, error.level: error.residence}
                continue
            for line in (*given_up_lines(plan), *plan.warnings):
                levels.notify(line)
            return engine

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Cancels a running answer, ends all threads and gives all memory back, then returns; from any thread."""
        self._turns.close(self._release)

    def _release(self) -> None:
        if self._warmer is not None:
            self._warmer.close()
        self._watcher.close()
        self._models.close()

    def end_answer(self) -> None:
        """Ends this thread's running answer, if there is one; BusyError while another thread's is not over."""
        with self._turns.alone():
            pass

    @contextmanager
    def alone(self) -> Iterator[None]:
        """A context in which no answer runs and another plan waits: for those who use the models themselves."""
        with self._turns.alone(), self._models.still(), self._watcher.tolerant():
            yield

    def mapped_files(self) -> list[Path]:
        """The files of weights that steps read, the target's first; none of levels whose weights were copied."""
        models = {self.manifest.target.name: self.target, **self.drafters}
        return [
            file for name, model in models.items() for file in model.kernels.mapped_files(self.manifest.level(name))
        ]

    def add_drafter(self, drafter: Drafter) -> None:
        """Makes a drafter of the caller's own known by its name, for ``Speculation(drafter=NAME)``."""
        self._open.speculator.add(drafter)

    @property
    def capacity(self) -> int:
        """The most tokens of prompt and answer together."""
        return self._context.capacity

    @property
    def suggested_sampling(self) -> SamplingParams | None:
        """What the checkpoint's makers suggest (its ``generation_config.json``); None: greedy decoding."""
        suggestion = read_suggestion(self.bundle)
        return None if suggestion is None or suggestion.sampling == SamplingParams() else suggestion.sampling

    def is_exact(self, speculation: Speculation) -> bool:
        """Whether answers equal those of plain decoding bit for bit on this device, and not only up to near ties."""
        widths = self.target.widths
        return widths.exact and (widths.tree or speculation.drafter == NONE or not speculation.asks_for_trees)

    def decoding_methods(self, sampled: bool) -> list[DecodingMethod]:
        """The ways to decode that the scheduler chooses among, as nobody has seen them yet."""
        return self._open.speculator.methods(sampled)

    def explain(self) -> list[Prospect]:
        """What was expected of each way to decode in the latest answer, and what it delivered, the best first.

        Empty where the way was given and there was nothing to choose.
        """
        return self._open.speculator.prospects()

    def simulate_acceptance(self, target: Sequence[float], intermediate: Sequence[float] | None = None) -> None:
        """From now on drafts are accepted with these chances, depth by depth: for weights that mean nothing.

        ``intermediate``: what it accepts of the drafter below it; None: it judges. Costs are real, text is not.
        """
        self._open.speculator.simulate(target, intermediate)

    def set_budget(self, budget_bytes: int) -> None:
        """Uses at most ``budget_bytes`` from the next step on: of a running answer, too, whose text stays the same.

        Smaller budgets cost drafts, drafters and the size of prefill chunks, larger ones bring them back. The context,
        the KV type and the kernels stay. OverBudgetError if that cannot be; nothing is changed then. May be called from
        any thread.
        """
        self.replan(budget_bytes)
        self._watcher.want(budget_bytes)

    def replan(self, budget_bytes: int) -> None:
        """As ``set_budget``, for the moment: the watcher grows back to the budget that was set."""
        self._open.replan(budget_bytes)

    def encode(self, prompt: Prompt, *, raw: bool = False, inputs: TemplateInputs = NO_INPUTS) -> list[int]:
        """The tokens of ``prompt``: a text (in the chat template if there is one, unless ``raw``), messages, or ids.

        ``inputs`` are the chat template's; ChatTemplateError if there are some and no template is used. TokenizerError
        for what is no prompt, and for a token that the target has no embedding of.
        """
        return self._checked(encode_prompt(self.tokenizer, prompt, raw, inputs))

    def generate(
        self,
        prompt: Prompt,
        *,
        sampling: SamplingParams | None = None,
        max_new_tokens: int | None = None,
        stop: str | Sequence[str] | None = None,
        raw: bool = False,
        ignore_eos: bool = False,
        speculation: Speculation | None = None,
        when_full: Literal["stop", "slide"] | Refit = "stop",
        template_arguments: Mapping[str, Any] | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        left_out: int = 0,
    ) -> Answer[TextChunk]:
        """Answers ``prompt`` chunk by chunk; the chunks' texts put together are the answer.

        The chat template gets ``template_arguments`` (``{"enable_thinking": False}``), ``tools`` (JSON schemas) and
        ``documents``, as transformers' ``apply_chat_template`` passes them.

        Without ``max_new_tokens`` an answer may fill the context. Then it ends, or goes on with the first four tokens
        and the latest ("slide"), or with what a function of the caller's own keeps (``outgrow.Refit``). A text that is
        not answered but continued (``raw``, or no chat template) keeps its spacing at the seam. ``stop`` is one string
        or several; one that is written as a special token is that token. ``left_out`` tokens of the conversation came
        before the prompt and are not in it; random numbers hang on where a token stands in the whole.

        This thread's running answer ends when another begins; BusyError while another thread's is not over.
        """
        tokens = self.encode(prompt, raw=raw, inputs=make_inputs(template_arguments, tools, documents))
        refit = make_refit(when_full)
        if refit is not None and len(tokens) >= self.capacity:
            kept = self._checked(refit(tokens, self.capacity) or tokens)
            left_out, tokens = left_out + len(tokens) - len(kept), kept
        chat = not raw and self.tokenizer.template is not None
        before = () if chat else tokens
        eos = () if ignore_eos else self.manifest.target.vocabulary.eos_token_ids
        stops = Stops(self.tokenizer, stop)
        rule = StopRule(
            eos=eos,
            strings=stops.strings,
            max_new_tokens=max_new_tokens,
            stream=stops.stream(before) if stops.strings else None,
        )
        _refuse_long(len(tokens), self.capacity)

        def make() -> Generator[TextChunk, None, None]:
            steps = self._decode(tokens, rule, sampling, speculation, refit, left_out)
            stats = GenerationStats(len(tokens), shared_prefix(self.target.cache.tokens, tokens[:-1]))
            return text_chunks(steps, stats, stops.stream(before), stops.text())

        return self._turns.begin(make)

    def steps(
        self,
        tokens: Sequence[int],
        *,
        stop: StoppingCriterion,
        sampling: SamplingParams | None = None,
        speculation: Speculation | None = None,
        refit: Refit | None = None,
        left_out: int = 0,
    ) -> Answer[Step]:
        """Continues ``tokens`` step by step: the loop without text. Everything else is as ``generate`` says.

        ``refit`` says what of them is kept when the context is full; None: the answer ends.
        """
        tokens = self._checked(tokens)
        _refuse_long(len(tokens), self.capacity)
        return self._turns.begin(lambda: self._decode(tokens, stop, sampling, speculation, refit, left_out))

    def _checked(self, tokens: Sequence[int]) -> list[int]:
        """``tokens`` as whole numbers; TokenizerError for an id that the target has no embedding of."""
        return check_ids(tokens, self.target.vocab_size, self.tokenizer)

    def _decode(
        self,
        tokens: Sequence[int],
        stop: StoppingCriterion,
        sampling: SamplingParams | None,
        speculation: Speculation | None,
        refit: Refit | None,
        left_out: int,
    ) -> Generator[Step, None, None]:
        sampling, speculation, context = sampling or SamplingParams(), speculation or Speculation(), self._context
        for given, kind in ((sampling, SamplingParams), (speculation, Speculation)):
            if not isinstance(given, kind):
                raise PocketspecError(f"{given!r} is given where a {kind.__name__} belongs")
        if as_whole(left_out) is None or left_out < 0:
            raise PocketspecError(f"left_out is {left_out!r}; it is a number of tokens")
        strategy = self._models.speculator.strategy(speculation, sampling, context)
        self._tell_near_ties(speculation)
        context.sampling = sampling

        def start(tokens: Sequence[int], stop: StoppingCriterion, left_out: int) -> Generator[Step, None, None]:
            context.truncate(0)
            context.append(tokens)
            context.first = left_out
            return decode(
                self.target, context, strategy.drafters, strategy.scheduler, strategy.verifier, stop, strategy.drop
            )

        def keep(tokens: Sequence[int], capacity: int) -> list[int] | None:
            assert refit is not None
            kept = refit(tokens, capacity)
            return None if kept is None else self._checked(kept)

        if refit is None:
            return self._models.within_plan(start(tokens, stop, left_out))
        return self._models.within_plan(go_on(start, tokens, stop, context, keep, left_out))

    def _tell_near_ties(self, speculation: Speculation) -> None:
        """Before the first token, once; where nothing is exact, that was said when the bundle was opened."""
        if self.target.widths.exact and not self._told_near_ties and not self.is_exact(speculation):
            self._told_near_ties = True
            self._notify("rows of a tree do not agree bit for bit with those of a chain here: exact up to near ties")


def _refuse_long(num_tokens: int, capacity: int) -> None:
    """Before anything is computed, and not at the first step."""
    if not 1 <= num_tokens < capacity:
        raise ContextFullError(
            f"a prompt of {num_tokens} tokens; allowed are 1 to {capacity - 1} in a context of {capacity}:"
            " shorten the text or open the bundle with a larger context"
        )
