"""Holds one conversation in several settings, each in a process of its own, and measures time and memory.

- ``planned`` follows the plan for the request.
- ``unplanned`` does what is usual elsewhere, with the same engine: KV caches for all positions of the models, filled
  with zeros (as Medusa does); logits for every row of a prompt, which is read in chunks of 512; drafts of 15 nodes.
  ``unplanned-chain3`` has other drafts.
- ``plain`` has no drafters.

All settings have the same KV type, kernels and prompts, and so the same text.

*Generation memory* is what SpecMemo (arXiv 2506.01986) plans: the peak of anonymous bytes during the conversation,
without the bare process, the tokenizer, the weights (mapped ones are not anonymous) and the KV rows of committed
tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from export.manifest import PocketspecError
from memory.meter import Memory, PeakMeter, Phase, read_mapped_files, read_memory, resident_bytes
from memory.plan import Plan
from runtime.bench.conversation.unplanned import UnplannedLevels, allocate_all
from runtime.conversation import Conversation
from runtime.engine import Engine, TextChunk
from runtime.kernels.selection import Wanted
from runtime.models.loader import Levels
from runtime.models.ort_model import OrtModel
from runtime.process.allocator import give_back
from runtime.speculation.request import Speculation
from runtime.text.token_ids import open_tokenizer

# Seconds between samples of memory. The peaks that matter last as long as a forward of a prompt; each sample takes
# Python's lock.
_SAMPLE_SECONDS = 0.005


@dataclass(frozen=True)
class ConversationSetting:
    """A setting to hold the conversation in; ``planned`` False: everything is allocated and computed at once."""

    name: str
    plan: Plan
    speculation: Speculation
    planned: bool = True


@dataclass(frozen=True)
class ConversationTask:
    """A conversation to hold: one prompt a turn, cut to ``prompt_tokens``, and ``max_new_tokens`` for every answer.

    ``raw``: no chat template; every prompt continues the text, and end tokens do not end an answer.
    """

    bundle: Path
    prompts: tuple[str, ...]
    prompt_tokens: int | None
    max_new_tokens: int
    raw: bool
    kernels: Wanted


@dataclass(frozen=True)
class ConversationResult:
    """The measurements of one conversation. Bytes are anonymous unless another kind is named.

    - ``answers``: the token ids of each; ``tokens`` counts those of the whole conversation, prompts included.
    - ``reread_tokens``: tokens of the history that were computed again.
    - ``step_seconds``: the time of the steps; ``seconds``: that of the whole conversation.
    - ``bare_bytes``: the process with its libraries.
    - ``weight_bytes``: the anonymous weights; ``mapped_bytes``: resident bytes of the mapped ones.
    - ``cache_bytes``: what the KV caches occupy at the end; ``committed_bytes``: the rows of committed tokens in them.
    - ``loading`` and ``running``: the peaks before and during the conversation.
    """

    answers: tuple[tuple[int, ...], ...]
    tokens: int
    steps: int
    reread_tokens: int
    step_seconds: float
    seconds: float
    bare_bytes: int
    tokenizer_bytes: int
    weight_bytes: int
    mapped_bytes: int
    cache_bytes: int
    committed_bytes: int
    running: Memory
    loading: Memory

    @property
    def running_bytes(self) -> int:
        """The peak of anonymous bytes during the conversation."""
        return self.running.anonymous_bytes

    @property
    def loading_bytes(self) -> int:
        """The peak of anonymous bytes while loading."""
        return self.loading.anonymous_bytes

    @property
    def tokens_per_second(self) -> float:
        """Speed of the steps; reading prompts does not count."""
        return sum(map(len, self.answers)) / self.step_seconds

    @property
    def generation_bytes(self) -> int:
        """Generation memory, see the module."""
        known = self.bare_bytes + self.tokenizer_bytes + self.weight_bytes + self.committed_bytes
        return self.running_bytes - known

    @property
    def generation_bytes_in_use(self) -> int:
        """Generation memory without KV rows that hold no committed token."""
        return self.generation_bytes - max(self.cache_bytes - self.committed_bytes, 0)


def converse(task: ConversationTask, setting: ConversationSetting, notify: Callable[[str], None]) -> ConversationResult:
    """Holds the conversation of ``task`` in ``setting``. This process is measured, so it should do nothing else.

    PocketspecError where the system does not report a process's memory.
    """
    bare = read_memory()
    if bare is None:
        raise PocketspecError("this system does not tell what memory a process uses; only Linux does: measure there")
    give_back()
    with PeakMeter(interval_seconds=_SAMPLE_SECONDS) as meter:
        with meter.phase("tokenizer"):
            tokenizer = open_tokenizer(task.bundle)
        tokenizer_end = meter.phases[-1].after.anonymous_bytes
        del tokenizer
        give_back()
        with meter.phase("open"):
            engine = Engine.open(
                task.bundle,
                plan=setting.plan,
                warm=True,
                kernels=task.kernels,
                notify=notify,
                make_levels=Levels if setting.planned else UnplannedLevels,
            )
        with engine:
            with meter.phase("talk"):
                if not setting.planned:
                    allocate_all(engine)
                start = perf_counter()
                turns = list(_turns(engine, task, setting.speculation))
                seconds = perf_counter() - start
            return _read_result(engine, turns, seconds, bare, tokenizer_end, meter.phases)


@dataclass(frozen=True)
class _MeasuredTurn:
    """One turn. ``reread`` tokens of the history were no longer in the cache; ``length`` counts all tokens so far."""

    answer: tuple[int, ...]
    steps: int
    step_seconds: float
    reread: int
    length: int


def _turns(engine: Engine, task: ConversationTask, speculation: Speculation) -> Iterator[_MeasuredTurn]:
    length = 0
    for chunks in (_ask_raw if task.raw else _ask_in_chat)(engine, task, speculation):
        said = list(chunks)
        steps, stats = [chunk.step for chunk in said], said[-1].stats
        answer = tuple(token for step in steps for token in step.tokens)
        # The last token's row is never in the cache after an answer: the next forward begins with it.
        reread = max(length - 1 - stats.cached_tokens, 0)
        length = stats.prompt_tokens + len(answer)
        yield _MeasuredTurn(answer, len(steps), stats.step_seconds, reread, length)


def _ask_raw(engine: Engine, task: ConversationTask, speculation: Speculation) -> Iterator[Iterable[TextChunk]]:
    """Answers where every prompt continues one text."""
    text: list[int] = []
    for prompt in task.prompts:
        encode = engine.tokenizer.encode_behind if text else engine.tokenizer.encode
        text += encode(prompt)[: task.prompt_tokens]
        said = list(
            engine.generate(
                text, max_new_tokens=task.max_new_tokens, raw=True, ignore_eos=True, speculation=speculation
            )
        )
        text += [token for chunk in said for token in chunk.step.tokens]
        yield said


def _ask_in_chat(engine: Engine, task: ConversationTask, speculation: Speculation) -> Iterator[Iterable[TextChunk]]:
    """Answers of a conversation in the chat template."""
    conversation = Conversation(engine, max_new_tokens=task.max_new_tokens, speculation=speculation)
    tokenizer = engine.tokenizer
    for prompt in task.prompts:
        tokens = tokenizer.encode(prompt, add_special_tokens=False)[: task.prompt_tokens]
        yield conversation.say(tokenizer.decode(tokens))


def _read_result(
    engine: Engine,
    turns: Sequence[_MeasuredTurn],
    seconds: float,
    bare: Memory,
    tokenizer_end: int,
    phases: Sequence[Phase],
) -> ConversationResult:
    """Reads the measurements before the engine closes."""
    models = {engine.manifest.target.name: engine.target, **engine.drafters}
    *loading, talk = (phase.peak for phase in phases)
    return ConversationResult(
        answers=tuple(turn.answer for turn in turns),
        tokens=turns[-1].length,
        steps=sum(turn.steps for turn in turns),
        reread_tokens=sum(turn.reread for turn in turns),
        step_seconds=sum(turn.step_seconds for turn in turns),
        seconds=seconds,
        bare_bytes=bare.anonymous_bytes,
        tokenizer_bytes=tokenizer_end - bare.anonymous_bytes,
        weight_bytes=sum(level.footprint.part("weights").anonymous for level in engine.plan.levels),
        mapped_bytes=_mapped_bytes(engine),
        cache_bytes=sum(_resident(model) for model in models.values()),
        committed_bytes=sum(model.cache.length * model.cache.nbytes // model.cache.rows for model in models.values()),
        running=talk,
        loading=Memory(max(peak.anonymous_bytes for peak in loading), max(peak.file_bytes for peak in loading)),
    )


def _mapped_bytes(engine: Engine) -> int:
    files = read_mapped_files() or {}
    return sum(files.get(str(file.resolve()), 0) for file in engine.mapped_files())


def _resident(model: OrtModel) -> int:
    return resident_bytes((array.ctypes.data, array.nbytes) for array in model.cache.arrays) or 0
