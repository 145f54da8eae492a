"""Compiles constraints for one vocabulary: once each, within bounds of time and memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any

from runtime.constraints.library import load_library
from runtime.constraints.matcher import Compiled, Matcher, one_line
from runtime.constraints.request import AnyJsonObject, Constrained, ConstraintError, Grammar, JsonSchema, Regex
from runtime.constraints.schema_errors import failing_part
from runtime.constraints.vocabulary import make_trie
from runtime.process.allocator import give_back
from runtime.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import llguidance

# One space after each colon and comma, as most JSON in texts has it. A model that may put any white space anywhere may
# never stop doing so, and nothing between two values would be forced.
JSON_SPACING = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False}
# What parsing may take. The lexer's states took up to 0.65 KB each, so they take some 10 MB, which the plan counts
# (memory/footprint.py); the others are llguidance's own, some 20 to 50 ms of work at once.
_LIMITS = {"max_lexer_states": 16_000}


class ConstraintCompiler:
    """Makes matchers for a model with ``size`` logits, whose answers end with one of ``ends``.

    The trie of the vocabulary is built at the first constraint and kept, like the constraint compiled last, whose lexer
    keeps the states that answers have led to. (Another one takes milliseconds.)
    ``before_trie`` is called before that, and can prevent it by raising an error.
    """

    def __init__(
        self, tokenizer: Tokenizer, size: int, ends: Sequence[int], before_trie: Callable[[], None] = lambda: None
    ) -> None:
        self._tokenizer, self._size, self._ends = tokenizer, size, tuple(ends)
        self._before_trie = before_trie
        self._trie: llguidance.LLTokenizer | None = None
        self._latest: tuple[Constrained, Compiled] | None = None
        self._lock = Lock()

    def matcher(self, constraint: Constrained) -> Matcher:
        """A matcher at the beginning of an answer, for any thread. ConstraintError says why there is none."""
        if not isinstance(constraint, Constrained):
            raise ConstraintError(
                f"{constraint!r} is no constraint; there are JsonSchema, AnyJsonObject, Regex and Grammar"
            )
        with self._lock:
            if self._latest is None or self._latest[0] != constraint:
                self._latest = None  # before another takes as much
                self._latest = constraint, self._compile(constraint)
            return self._matcher(constraint, self._latest[1])

    def _matcher(self, constraint: Constrained, compiled: Compiled) -> Matcher:
        return Matcher(compiled, frozenset(self._ends), self._size, _name(constraint))

    def _compile(self, constraint: Constrained) -> Compiled:
        library = load_library()
        grammar = _grammar_of(library, constraint)
        if self._trie is None:
            self._before_trie()
            self._trie = make_trie(self._tokenizer, self._size, self._ends)
            give_back()  # building it leaves as much free memory behind as it keeps
        trie, limits = self._trie, library.LLParserLimits(**_LIMITS)
        compiled = Compiled(lambda: library.LLMatcher(trie, grammar, log_level=0, limits=limits))
        error = compiled.begin().get_error()
        if error:
            raise ConstraintError(f"{_name(constraint)} cannot be compiled: {one_line(error)}")
        try:
            is_empty = self._matcher(constraint, compiled).is_complete
        except ConstraintError:
            raise ConstraintError(f"{_name(constraint)} allows no answer: no text is complete in it") from None
        if is_empty:
            raise ConstraintError(f"{_name(constraint)} allows no answer but the empty one")
        return compiled


def _grammar_of(library: Any, constraint: Constrained) -> str:
    """The grammar in the library's form; ConstraintError says what is wrong with it, and where."""
    match constraint:
        case JsonSchema():
            grammar = _from_schema(library, constraint.text)
        case AnyJsonObject():
            grammar = _from_schema(library, '{"type": "object"}')
        case Regex(pattern):
            grammar = library.LLMatcher.grammar_from_regex(pattern)
        case Grammar(lark):
            grammar = library.LLMatcher.grammar_from_lark(lark)
    error = library.LLMatcher.validate_grammar(grammar)
    if error:
        part = ""
        if isinstance(constraint, JsonSchema):
            part = failing_part(constraint.text, lambda text: _schema_error(library, text))
        raise ConstraintError(f"{_name(constraint)} cannot be compiled{part}: {one_line(error)}")
    return grammar


def _from_schema(library: Any, text: str) -> str:
    try:
        return str(library.LLMatcher.grammar_from_json_schema(text, defaults=JSON_SPACING))
    except ValueError as error:
        raise ConstraintError(f"the JSON schema cannot be compiled: {one_line(str(error))}") from None


def _schema_error(library: Any, text: str) -> str:
    return str(library.LLMatcher.validate_grammar(_from_schema(library, text)))


def _name(constraint: Constrained) -> str:
    return {JsonSchema: "the JSON schema", Regex: "the regular expression", Grammar: "the grammar"}.get(
        type(constraint), "the constraint"
    )
