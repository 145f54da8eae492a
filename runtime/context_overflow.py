"""What happens when a text outgrows its context: it stops, its oldest turns are dropped, or a window slides over it.

Nothing is lost before the context is full, at the next prompt or within an answer. Then the text that is kept is read
again from position 0, so the answer continues like that of a fresh conversation with the kept text. At least a quarter
of the context is free afterwards, which bounds how often a token is read. Only the random numbers continue
(``left_out``): they depend on a token's position in the whole conversation, and from position 0 the same ones would be
drawn again.

Windows that keep the first tokens are those of StreamingLLM (Xiao et al. 2024). It moves positions instead of reading
the kept text again, which is faster but no longer gives the model's exact distribution.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Literal, Protocol

from export.manifest import PocketspecError
from runtime.decoding.context import Context, shared_prefix
from runtime.decoding.draft import Step
from runtime.decoding.protocols import StoppingCriterion
from runtime.decoding.stop import Cut
from runtime.errors import ContextFullError
from runtime.text.template_data import NO_INPUTS, Message, TemplateInputs
from runtime.text.token_history import History
from runtime.text.tokenizer import Tokenizer

WhenFull = Literal["stop", "drop", "slide"]
Notify = Callable[[str], None]
# Called with all tokens of prompt and answer and the capacity; returns the tokens to continue with, None to end.
Refit = Callable[[Sequence[int], int], list[int] | None]

# The first tokens, which attention needs; of a chat, everything up to the user's first words is kept.
KEPT_FIRST = 4
# A text that users hardly write: it shows where a template puts the user's words.
_WORDS = "<<the user's words>>"


class Policy(Protocol):
    """The policy of one conversation. A new policy is one class and one entry in ``POLICIES``.

    ``left_out`` tokens of the conversation are missing from the latest prompt, or were dropped since; a window
    keeps the ``first`` tokens.
    """

    left_out: int
    first: int

    def prompt(self, messages: list[Message], capacity: int) -> list[int]:
        """The tokens to answer: fewer than ``capacity``, or ContextFullError. Dropped messages leave ``messages``."""
        ...

    def shown(self, tokens: list[int]) -> list[int]:
        """Those of the ``tokens`` in the conversation's history that the model sees."""
        ...

    def refit(self, tokens: Sequence[int], capacity: int) -> list[int] | None:
        """See ``Refit``; ``prompt`` made the prompt of the last answer."""
        ...


class Stop:
    """The conversation ends."""

    left_out = first = 0

    def __init__(
        self, tokenizer: Tokenizer, history: History, notify: Notify, inputs: TemplateInputs = NO_INPUTS
    ) -> None:
        self._tokenizer, self._history, self._notify, self._inputs = tokenizer, history, notify, inputs

    def prompt(self, messages: list[Message], capacity: int) -> list[int]:
        """See ``Policy``."""
        tokens = self._history.encode(self._tokenizer.render_chat(messages, self._inputs))
        _refuse_full(len(tokens), capacity, "choose --when-full drop or slide")
        return tokens

    def shown(self, tokens: list[int]) -> list[int]:
        """See ``Policy``."""
        return tokens

    def refit(self, tokens: Sequence[int], capacity: int) -> None:
        """See ``Policy``."""
        self._notify(
            f"the context of {capacity} tokens is full, so the answer ends here: begin a new conversation, open the"
            " bundle with a larger context, or choose --when-full drop or slide"
        )


class Drop:
    """Drops the oldest turns until a quarter of the context is free; messages before the first turn stay."""

    first = 0

    def __init__(
        self, tokenizer: Tokenizer, history: History, notify: Notify, inputs: TemplateInputs = NO_INPUTS
    ) -> None:
        self._tokenizer, self._history, self._notify, self._inputs = tokenizer, history, notify, inputs
        self._messages: list[Message] = []
        self._prompt_length = self.left_out = 0

    def prompt(self, messages: list[Message], capacity: int) -> list[int]:
        """See ``Policy``."""
        self._messages = messages
        tokens = self._history.encode(self._tokenizer.render_chat(messages, self._inputs))
        if len(tokens) >= capacity:
            kept = self._shortened(0, capacity) or tokens
            _refuse_full(len(kept), capacity, "no turn is left to drop; say less at a time")
            self.left_out, tokens = self.left_out + len(tokens) - len(kept), kept
        self._prompt_length = len(tokens)
        return tokens

    def shown(self, tokens: list[int]) -> list[int]:
        """See ``Policy``; dropped turns are in no history."""
        return tokens

    def refit(self, tokens: Sequence[int], capacity: int) -> list[int] | None:
        """See ``Policy``."""
        answer = tokens[self._prompt_length :]
        prompt = self._shortened(len(answer), capacity)
        if prompt is None or len(prompt) + len(answer) >= capacity:
            self._notify(f"the context of {capacity} tokens is full and no turn is left to drop: the answer ends here")
            return None
        self.left_out += self._prompt_length - len(prompt)
        self._prompt_length = len(prompt)
        return [*prompt, *answer]

    def _shortened(self, more: int, capacity: int) -> list[int] | None:
        """The prompt without the oldest turns, with room for ``more`` tokens and the reserve; None: none is left."""
        dropped, tokens = 0, None
        while (tokens is None or len(tokens) + more > capacity - capacity // 4) and self._drop_oldest():
            dropped += 1
            tokens = self._history.encode(self._tokenizer.render_chat(self._messages, self._inputs))
        if tokens is not None:
            turns = "the oldest turn" if dropped == 1 else f"the oldest {dropped} turns"
            self._notify(_notice(capacity, turns, len(tokens) + more))
        return tokens

    def _drop_oldest(self) -> bool:
        """Drops the first user's message and everything before the second one; the last user's message stays."""
        turns = [place for place, message in enumerate(self._messages) if message["role"] == "user"]
        if len(turns) < 2:
            return False
        del self._messages[turns[0] : turns[1]]
        return True


class Slide:
    """Keeps everything up to the first user's words and the latest tokens, together half of the context."""

    def __init__(
        self, tokenizer: Tokenizer, history: History, notify: Notify, inputs: TemplateInputs = NO_INPUTS
    ) -> None:
        self._tokenizer, self._history, self._notify, self._inputs = tokenizer, history, notify, inputs
        self.first, self.left_out = KEPT_FIRST, 0

    def prompt(self, messages: list[Message], capacity: int) -> list[int]:
        """See ``Policy``."""
        tokens = self._history.encode(self._tokenizer.render_chat(messages, self._inputs))
        if not self.left_out:
            self.first = head_length(self._tokenizer, messages, tokens, self._inputs)
        if self.first + self.left_out >= len(tokens):  # the messages were changed: it is another conversation
            self.left_out = 0
        shown = self.shown(tokens)
        return shown if len(shown) < capacity else self.refit(shown, capacity)

    def shown(self, tokens: list[int]) -> list[int]:
        """See ``Policy``."""
        return [*tokens[: self.first], *tokens[self.first + self.left_out :]]

    def refit(self, tokens: Sequence[int], capacity: int) -> list[int]:
        """See ``Policy``."""
        self.first = self.first if self.left_out else _bounded(self.first, capacity)
        kept = slide(tokens, capacity, self.first)
        self.left_out += len(tokens) - len(kept)
        self._notify(_notice(capacity, f"{len(tokens) - len(kept)} tokens behind the first {self.first}", len(kept)))
        return kept


POLICIES: dict[str, Callable[[Tokenizer, History, Notify, TemplateInputs], Policy]] = {
    "stop": Stop,
    "drop": Drop,
    "slide": Slide,
}


def make_policy(
    name: str, tokenizer: Tokenizer, history: History, notify: Notify, inputs: TemplateInputs = NO_INPUTS
) -> Policy:
    """The policy called ``name``; PocketspecError lists the names."""
    if name not in POLICIES:
        raise PocketspecError(f"no policy {name!r} for a full context; there are: {', '.join(POLICIES)}")
    return POLICIES[name](tokenizer, history, notify, inputs)


def slide(tokens: Sequence[int], capacity: int, first: int = KEPT_FIRST) -> list[int]:
    """Half of ``capacity``: the ``first`` tokens and the latest. With 8 and 1, 0 to 9 become 0, 7, 8, 9."""
    latest = max(1, capacity // 2 - first)
    return [*tokens[:first], *tokens[-latest:]]


def sliding_text(notify: Notify, first: int = KEPT_FIRST) -> Refit:
    """The window of a single prompt and its answer: keeps the ``first`` tokens and the latest."""

    def refit(tokens: Sequence[int], capacity: int) -> list[int]:
        still = _bounded(first, capacity)
        kept = slide(tokens, capacity, still)
        notify(_notice(capacity, f"{len(tokens) - len(kept)} tokens behind the first {still}", len(kept)))
        return kept

    return refit


def make_refit(when_full: str | Refit) -> Refit | None:
    """What happens when one answer fills its context, by name or as a function; None: it ends."""
    if callable(when_full):
        return when_full
    if when_full not in ("stop", "slide"):
        raise PocketspecError(f"no policy {when_full!r} for a text that fills its context; there are: stop, slide")
    return sliding_text(lambda line: None) if when_full == "slide" else None


def head_length(
    tokenizer: Tokenizer, messages: Sequence[Message], tokens: Sequence[int], inputs: TemplateInputs = NO_INPUTS
) -> int:
    """How many of ``tokens`` the template and its system message have before the first user's words; at least 4."""
    system = [message for message in messages[:1] if message["role"] == "system"]
    text = tokenizer.render_chat([*system, {"role": "user", "content": _WORDS}], inputs)
    head, _, _ = text.partition(_WORDS)
    return max(KEPT_FIRST, shared_prefix(tokenizer.encode(head, add_special_tokens=False), tokens))


def steps_with_refit(
    start: Callable[[Sequence[int], StoppingCriterion, int], Generator[Step, None, None]],
    tokens: Sequence[int],
    stop: StoppingCriterion,
    context: Context,
    refit: Refit,
    left_out: int = 0,
) -> Generator[Step, None, None]:
    """The steps of ``start(tokens, stop, left_out)``; when the context is full, those of the tokens ``refit`` keeps.

    ``left_out`` is the number of the conversation's tokens that are missing before ``tokens``.
    """
    rule = _Resumed(stop)
    kept: Sequence[int] | None = tokens
    while kept is not None:
        with closing(start(kept, rule, left_out)) as steps:
            kept = None
            for step in steps:
                if step.finish == "context":
                    kept = refit(context.tokens.tolist(), len(context))
                    left_out = context.position - len(kept or ())
                yield step if kept is None else replace(step, finish=None)


class _Resumed:
    """A stop rule for an answer of several loops, each of which has only its own tokens."""

    def __init__(self, rule: StoppingCriterion) -> None:
        self._rule = rule
        self._tokens: list[int] = []

    def cut(self, generated: Sequence[int], fresh: int) -> Cut:
        """See ``StoppingCriterion``."""
        self._tokens += generated[len(generated) - fresh :]
        return self._rule.cut(self._tokens, fresh)


def _bounded(first: int, capacity: int) -> int:
    """``first`` tokens to keep, but at most a quarter of the context, so that the latest tokens have room."""
    return min(first, capacity // 4)


def _refuse_full(num_tokens: int, capacity: int, remedy: str) -> None:
    if num_tokens >= capacity:
        raise ContextFullError(
            f"the conversation of {num_tokens} tokens has outgrown its context of {capacity}: begin a new one, open the"
            f" bundle with a larger context, or {remedy}"
        )


def _notice(capacity: int, gone: str, left: int) -> str:
    return f"the conversation outgrew its context of {capacity} tokens: dropped {gone}; {left} are read again"
