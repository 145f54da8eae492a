"""The engine: plans, opens what is planned, decodes, and turns tokens into text. All parts meet here.

    with Engine.open("bundles/demo-int4") as engine:
        for chunk in engine.generate("Write a bedtime story.", max_new_tokens=100):
            print(chunk.text, end="")

An answer is a generator. Closing it cancels the answer, and the engine remains usable. The beginning of a prompt that
is still in the KV cache from the last answer is not computed again.

Threads: an engine gives one answer at a time. In one thread, a new answer ends the one before. While an answer of
another thread is not over, requests are refused (``turns.BusyError``) and that answer continues. To wait instead, put a
lock around each answer. Any thread may close an answer or the engine, or set a budget, at any time.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from export.manifest import Manifest
from memory.choices import Request
from memory.device import Device, read_device
from memory.footprint import SUFFIX_STORE
from memory.meter import read_memory
from memory.plan import Plan
from memory.planner import request_of
from runtime.bundle.foreign import check_bundle, read_bundle
from runtime.calibration.stored import costs_of
from runtime.constraints.request import Constrained
from runtime.context_overflow import Refit, make_refit
from runtime.decoding.constraint import Constraint
from runtime.decoding.context import Context, require_room, shared_prefix
from runtime.decoding.draft import Step
from runtime.decoding.logprobs import TokenLogprob, check_alternatives
from runtime.decoding.protocols import Drafter, StoppingCriterion
from runtime.decoding.sampling import SamplingParams
from runtime.decoding.scoring import check_scored
from runtime.decoding.suggested_sampling import read_suggestion
from runtime.decoding.text_chunks import TextChunk
from runtime.drafters.suffix_store import STORE_BYTES, SuffixStore
from runtime.engine.answer_text import AnswerText
from runtime.engine.answering import Answering
from runtime.kernels.selection import Chooser, Wanted
from runtime.kernels.weights.packed import Progress, no_progress
from runtime.kernels.weights.readahead import Warmer
from runtime.memory_watcher import Reading, Watcher
from runtime.models.loader import Levels
from runtime.models.ort_model import OrtModel
from runtime.open_models import PlannedModels
from runtime.opening import device_now, open_as_planned, open_within
from runtime.scheduler.learned_state import Prospect
from runtime.scheduler.methods import DecodingMethod
from runtime.sessions.engine_rows import EngineRows
from runtime.sessions.kept import KeptConversations
from runtime.sessions.restoring import Session
from runtime.sessions.snapshot import Snapshot
from runtime.speculation.decoding_settings import DecodingSettings
from runtime.speculation.request import Speculation
from runtime.text.prompt import Prompt, encode_prompt
from runtime.text.template_data import NO_INPUTS, TemplateInputs, make_inputs
from runtime.text.token_ids import open_tokenizer
from runtime.text.tokenizer import Tokenizer
from runtime.turns import Answer, Turns


class Engine:
    """An open bundle, made by ``Engine.open``; what ``plan`` has is open, and nothing else.

    It gives one answer at a time. Methods raise BusyError while an answer of another thread is not over, and
    ClosedError after ``close`` and in a forked process.
    """

    def __init__(
        self,
        levels: Levels,
        plan: Plan,
        request: Request,
        tokenizer: Tokenizer,
        suffix_store: Path | None = None,
    ) -> None:
        self.bundle, self.manifest, self.tokenizer = levels.bundle, levels.manifest, tokenizer
        self._turns = Turns()
        engine = weakref.proxy(self)  # the parts must not keep the engine alive
        self._kept = KeptConversations(plan.kept_conversations)
        vocabulary, room = levels.manifest.target.vocabulary, plan.process.part(SUFFIX_STORE).anonymous
        self._store = None if suffix_store is None else SuffixStore(suffix_store, vocabulary, room, levels.notify)
        try:
            self._models = PlannedModels(
                levels,
                plan,
                request,
                lambda: costs_of(engine, levels.notify),
                self._turns.check_cancelled,
                lambda plan: engine._make_room(plan),
            )
        except BaseException:
            if self._store is not None:
                self._store.close()
            raise
        self._models.speculator.suffix_store = self._store
        self._context = Context(plan.context, SamplingParams())
        ends = levels.manifest.target.vocabulary.eos_token_ids
        self._rows = EngineRows(self._models, self._context, self._kept, levels.bundle, levels.manifest)
        store = None if self._store is None else self._store.remember
        self._answering = Answering(self._models, self._context, self._rows, tokenizer, ends, levels.notify, store)
        self._warmer: Warmer | None = None
        self._watcher = Watcher(self, lambda: Reading(read_memory(), read_device()), levels.notify)

    @property
    def plan(self) -> Plan:
        """The plan that is in effect now."""
        return self._models.plan

    @property
    def _open(self) -> PlannedModels:
        """The open models; ClosedError if the engine is closed."""
        self._turns.check()
        return self._models

    @property
    def target(self) -> OrtModel:
        """The model whose output is reproduced."""
        return self._models.target

    @property
    def drafters(self) -> Mapping[str, OrtModel]:
        """The open drafter models, by name."""
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
        suffix_store: Path | str | None = None,
    ) -> Engine:
        """Opens ``bundle`` with a plan made for ``request``, or with the caller's own ``plan``.

        - ``device``: what to plan for; None: this device as it is now.
        - ``verify``: hash all files, even if they seem unchanged since the last open.
        - ``warm``: read all mapped weights into memory before ``open`` returns; otherwise they are read ahead during
          the first step.
        - ``kernels``: "native" (or an error), ONNX Runtime's "portable", or "auto" for native ones where they can be
          used.
        - ``notify``: gets lines that users should read: what the plan gave up, why kernels are not native, whether
          output is exact.
        - ``progress``: shows the packing of weights.
        - ``make_levels``: opens levels in another way.
        - ``suffix_store``: a file that keeps the tokens of all prompts and answers, so that the suffix drafter finds
          repetition of earlier conversations as well; of ``Request.suffix_store_bytes`` at most, or 4 MiB. StoreError
          if another process uses it, or if it is of another tokenizer.

        Errors are PocketspecError. If it is an OverBudgetError, nothing has been loaded.
        """
        bundle = Path(bundle)
        manifest = read_bundle(bundle)
        check_bundle(bundle, manifest, verify)
        levels = make_levels(bundle, manifest, Chooser(kernels, notify, progress, verify), notify)
        device = device or device_now(levels)
        asked = request or (Request() if plan is None else request_of(plan))
        if suffix_store is not None and plan is None and not asked.suffix_store_bytes:
            asked = replace(asked, suffix_store_bytes=STORE_BYTES)
        store = None if suffix_store is None else Path(suffix_store)

        def make(plan: Plan) -> Engine:
            return cls(levels, plan, asked, open_tokenizer(bundle), store)

        if plan is None:
            engine = open_within(levels, asked, device, make)
        else:
            engine = open_as_planned(levels, plan, device, make)
        engine._watcher.start()
        engine._warmer = Warmer(engine.mapped_files())
        if warm:
            engine._warmer.wait()
        return engine

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancels a running answer, ends all threads and frees all memory before it returns. From any thread."""
        self._turns.close(self._release)

    def _release(self) -> None:
        if self._warmer is not None:
            self._warmer.close()
        self._watcher.close()
        self._kept.allow(0)
        self._models.close()
        if self._store is not None:
            self._store.close()

    def _make_room(self, plan: Plan) -> None:
        """Keeps what is held beside the models within another ``plan``."""
        self._kept.allow(plan.kept_conversations)
        if self._store is not None:
            self._store.allow(plan.process.part(SUFFIX_STORE).anonymous)

    def end_answer(self) -> None:
        """Ends this thread's running answer, if there is one; BusyError while another thread's is not over."""
        with self._turns.alone():
            pass

    @contextmanager
    def alone(self) -> Iterator[None]:
        """A context for callers that use the models themselves: no answer runs, and the plan does not change."""
        with self._turns.alone(), self._models.still(), self._watcher.tolerant():
            yield

    def snapshot(self) -> Snapshot:
        """A copy of the KV rows of every open level and of the tokens they are of, for ``resume``.

        It ends this thread's answer; BusyError while another thread's is not over. It takes ``Snapshot.nbytes`` of
        memory beside the plan.
        """
        with self.alone():
            return self._rows.snapshot()

    def resume(self, snapshot: Snapshot) -> None:
        """Puts back what ``snapshot`` took: a prompt that begins with its tokens is read from where they end.

        Answers continue bit for bit as if there had been no others in between; ``Snapshot.left_out`` is to be given to
        ``generate``. A drafter that was closed since, or has too few rows now, reads its text again.
        OtherSessionError if the snapshot is of another bundle, KV type or kernels, or larger than the plan; then
        nothing changes. BusyError as for ``snapshot``.
        """
        with self.alone():
            self._rows.resume(snapshot)

    def save(
        self,
        path: Path | str,
        conversation: Mapping[str, Any] | None = None,
        *,
        tokens: Sequence[int] | None = None,
    ) -> None:
        """Saves rows, tokens and what drafters have learnt to ``path``, for ``restore`` in any process.

        ``conversation`` is JSON data kept beside them (see ``Conversation.save``). With ``tokens``, those of one
        conversation, nothing is saved of another that the engine holds instead; None: all that it holds. Whatever
        happens, the file is the old one or the new one; SessionError if it cannot be written. This thread's answer
        ends; BusyError while another thread's is not over.
        """
        with self.alone():
            self._rows.save(Path(path), conversation, tokens)

    def restore(self, path: Path | str, *, reread: bool = False) -> Session:
        """Takes up a saved session: a prompt that begins with its tokens is read from where they end, bit for bit.

        SessionError if the file is missing, damaged, or of a newer version. OtherSessionError if its rows cannot be
        used here: another model, KV type or kernels, or a smaller plan; with ``reread`` the next answer reads its
        tokens again instead. A drafter that is not open here, or has too few rows, reads its text again anyway. This
        thread's answer ends; BusyError while another thread's is not over.
        """
        with self.alone():
            return self._rows.restore(Path(path), reread)

    def mapped_files(self) -> list[Path]:
        """The files of mapped weights that steps read, the target's first."""
        return self._models.mapped_files()

    def add_drafter(self, drafter: Drafter) -> None:
        """Adds a drafter of the caller's, to be used by its name: ``Speculation(drafter=NAME)``."""
        self._open.speculator.add(drafter)

    @property
    def capacity(self) -> int:
        """The most tokens of prompt and answer together."""
        return self._context.capacity

    @property
    def suggested_sampling(self) -> SamplingParams | None:
        """The sampling that the checkpoint's makers suggest (``generation_config.json``); None: greedy decoding."""
        suggestion = read_suggestion(self.bundle)
        return None if suggestion is None or suggestion.sampling == SamplingParams() else suggestion.sampling

    def is_exact(self, speculation: Speculation) -> bool:
        """Whether answers equal those of plain decoding on this device; False: only up to near ties of logits."""
        return self._answering.is_exact(speculation)

    def decoding_methods(self) -> list[DecodingMethod]:
        """The decoding methods that the scheduler chooses among, with nothing learned yet."""
        return self._open.speculator.methods()

    def explain(self) -> list[Prospect]:
        """Forecast and result of each decoding method in the latest answer, best first; empty without a choice."""
        return self._open.speculator.prospects()

    def simulate_acceptance(self, target: Sequence[float], intermediate: Sequence[float] | None = None) -> None:
        """Simulates acceptance from now on, for random weights: costs are real, the text is not.

        ``target`` has the chance of acceptance at each depth, the last one for all deeper tokens. ``intermediate`` has
        the same for an intermediate; None: it verifies as usual.
        """
        self._open.speculator.simulate(target, intermediate)

    def set_budget(self, budget_bytes: int) -> None:
        """Uses at most ``budget_bytes`` from the next step on, even of a running answer, whose text does not change.

        A smaller budget gives up drafts, draft models and prefill chunks; a larger one brings them back. Context, KV
        type and kernels stay. OverBudgetError if no such plan fits; then nothing changes. From any thread.
        """
        self.replan(budget_bytes)
        self._watcher.want(budget_bytes)

    def replan(self, budget_bytes: int) -> None:
        """Like ``set_budget``, but temporary: the watcher returns to the budget that was set."""
        self._open.replan(budget_bytes)

    def encode(self, prompt: Prompt, *, raw: bool = False, inputs: TemplateInputs = NO_INPUTS) -> list[int]:
        """The token ids of ``prompt``: a text, messages of a chat, or token ids.

        A text goes through the chat template, if there is one and not ``raw``. ``inputs`` are further inputs of the
        template; ChatTemplateError if none is used. TokenizerError for anything that is not a prompt, and for a token
        without an embedding in the target.
        """
        return self._answering.check(encode_prompt(self.tokenizer, prompt, raw, inputs))

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
        logprobs: int | None = None,
        visible_tokens: Sequence[str] = (),
        constraint: Constrained | None = None,
    ) -> Answer[TextChunk]:
        """Answers ``prompt`` (see ``encode``) chunk by chunk; the texts of the chunks together are the answer.

        - ``sampling``: how tokens are chosen; None: greedy.
        - ``max_new_tokens``: None: the answer may fill the context.
        - ``stop``: one string or several; a string that is written like a special token is that token.
        - ``raw``: the text is continued as it is, without the chat template, and its spacing is kept.
        - ``ignore_eos``: end tokens do not end the answer.
        - ``speculation``: None: the scheduler chooses.
        - ``when_full``: what happens when the context is full. "stop": the answer ends. "slide": it continues with the
          first four tokens and the latest ones. A ``context_overflow.Refit``: with the tokens that it keeps.
        - ``template_arguments`` (``{"enable_thinking": False}``), ``tools`` (JSON schemas) and ``documents``: for the
          chat template, as in transformers' ``apply_chat_template``.
        - ``left_out``: the number of the conversation's tokens that are missing before the prompt. Random numbers
          depend on a token's position in the whole conversation.
        - ``logprobs``: chunks get the log probability of every token, and so many of the most probable tokens at its
          place (``TokenLogprob``). They are the model's own, whatever the sampling is, from logits that a step has
          anyway. None: chunks get none.
        - ``visible_tokens``: special tokens whose names are part of the text, such as those around tool calls. Others
          have no text.
        - ``constraint``: what the answer must be, one of ``runtime.constraints.request``. It ends where nothing may
          follow any more; an answer that "length" or "context" ends is cut off.

        Ends this thread's running answer; BusyError while another thread's is not over. ContextFullError if the prompt
        leaves no room for an answer. ConstraintError for a constraint that cannot be compiled, PocketspecError for
        arguments that make no sense here.
        """
        tokens = self.encode(prompt, raw=raw, inputs=make_inputs(template_arguments, tools, documents))
        refit = make_refit(when_full)
        if refit is not None and len(tokens) >= self.capacity:
            kept = self._answering.check(refit(tokens, self.capacity) or tokens)
            left_out, tokens = left_out + len(tokens) - len(kept), kept
        settings = DecodingSettings(sampling or SamplingParams(), speculation or Speculation(), left_out, logprobs)
        matcher = self._matcher(constraint)
        chat = not raw and self.tokenizer.template is not None
        before = () if chat and matcher is None else tokens  # a constraint says itself whether a space comes first
        eos = () if ignore_eos else self.manifest.target.vocabulary.eos_token_ids
        text = AnswerText(self.tokenizer, before, eos, stop, max_new_tokens, visible_tokens)
        require_room(len(tokens), self.capacity)

        def make() -> Generator[TextChunk, None, None]:
            steps = self._answering.steps(tokens, text.rule, settings, refit, matcher)
            return text.chunks(steps, len(tokens), shared_prefix(self.target.cache.tokens, tokens[:-1]))

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
        logprobs: int | None = None,
        constraint: Constrained | None = None,
    ) -> Answer[Step]:
        """Continues the token ids ``tokens`` step by step; like ``generate``, but without text.

        When the context is full, ``refit`` decides which tokens are kept; None: the answer ends.
        """
        tokens = self._answering.check(tokens)
        require_room(len(tokens), self.capacity)
        settings = DecodingSettings(sampling or SamplingParams(), speculation or Speculation(), left_out, logprobs)
        matcher = self._matcher(constraint)
        return self._turns.begin(lambda: self._answering.steps(tokens, stop, settings, refit, matcher))

    def check_constraint(self, constraint: Constrained) -> None:
        """ConstraintError unless answers can be kept to ``constraint``; from any thread, also during an answer."""
        self._matcher(constraint)

    def _matcher(self, constraint: Constrained | None) -> Constraint | None:
        """What keeps one answer to ``constraint``."""
        if constraint is None:
            return None
        self._turns.check()  # first: in a forked process, the compiler's lock may be held for ever
        return self._answering.matcher(constraint)

    def score(self, prompt: Prompt, *, first: int = 1, logprobs: int = 0) -> Answer[TokenLogprob]:
        """The log probability of each token of a given text, after those before it, from the token at ``first`` on.

        A text is taken as it is, outside the chat template. Its first token has nothing before it, so it has no value:
        ``list(engine.score(text))`` has one for each of ``engine.encode(text, raw=True)[1:]``. ``logprobs`` is the
        number of most probable tokens that are listed for each place. A text may fill the context.

        Like an answer it is computed while it is read, may be closed at any time, and ends this thread's running one.
        """
        tokens = self.encode(prompt, raw=True)
        top = check_alternatives(logprobs, self.target.vocab_size)
        check_scored(len(tokens), first, self.capacity)
        return self._turns.begin(lambda: self._models.score(tokens, first, top))
