"""What cannot be compiled is refused in one line, and nothing takes long or much memory."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from memory.footprint import _CONSTRAINTS, _DEAREST_CONSTRAINT
from runtime.constraints import compiler as compiler_module
from runtime.constraints.compiler import ConstraintCompiler
from runtime.constraints.matcher import Compiled
from runtime.constraints.request import AnyJsonObject, Constrained, ConstraintError, Grammar, JsonSchema, Regex
from runtime.text.token_ids import TokenIds
from tests.places import ROOT
from tests.runtime.constraints.test_matcher import compiler_of, walk
from tests.runtime.constraints.vocabularies import KINDS, byte_level, word_pieces


def refusal(constraint: Constrained) -> str:
    compiler, _ = compiler_of(byte_level())
    with pytest.raises(ConstraintError) as caught:
        walk(compiler.matcher(constraint), 0, 400)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    return message


def nested(part: object) -> JsonSchema:
    """A schema with ``part`` deep inside."""
    items = {"anyOf": [{"type": "integer"}, {"type": "object", "properties": {"b/c": part}}]}
    return JsonSchema({"type": "object", "properties": {"ok": {"type": "string"}, "a": {"items": items}}})


@pytest.mark.parametrize(
    ("part", "why"),
    [
        ({"type": "objekt"}, "objekt"),
        ({"not": {"type": "string"}}, "not"),
        ({"type": "string", "pattern": "(?=x)"}, "look-around"),
        ({"$ref": "#/$defs/none"}, "/$defs/none"),
        ({"$ref": "https://example.org/schema"}, "example.org"),
    ],
)
def test_a_schema_that_cannot_be_compiled_is_refused_with_its_part(part: dict[str, object], why: str) -> None:
    message = refusal(nested(part))
    assert "at #/properties/a/items/anyOf/1/properties/b~1c:" in message
    assert why in message


@pytest.mark.parametrize("schema", ["{", "[1]", "7", {"a": {1, 2}}, float("nan"), "x" * (1 << 21), '"\ud800"'])
def test_what_is_no_schema_is_refused(schema: object) -> None:
    with pytest.raises(ConstraintError):
        JsonSchema(schema)  # type: ignore[arg-type]


def test_an_endless_schema_is_refused() -> None:
    schema: dict[str, object] = {"type": "string"}
    for _ in range(300):
        schema = {"type": "array", "items": schema}
    assert "recursion" in refusal(JsonSchema(schema))


@pytest.mark.parametrize("pattern", ["[", "(a", "(?=x)y", r"(\w)\1", r"\bfoo"])
def test_a_regular_expression_that_cannot_be_followed_is_refused(pattern: str) -> None:
    assert refusal(Regex(pattern))


@pytest.mark.parametrize(
    "pattern", ["(a{1,1000}){1,1000}", "((a?){50}){50}a{50}", "(x+x+)+y", ".*a.{1000}", "(?:.*a.{50}){3}b"]
)
def test_a_regular_expression_that_explodes_is_bounded(pattern: str) -> None:
    compiler, _ = compiler_of(byte_level())
    with suppress(ConstraintError):
        assert walk(compiler.matcher(Regex(pattern)), 0, 30)


# Of four kinds what takes most: states of the lexer, twice; text; alternatives that are all followed at once.
DEAREST = {
    "states": 'Regex("((a.{1,60}b)|(b.{2,50}c)|(.{3,40}d)){2000}")',
    "long strings": 'Regex(".{60000}")',
    "enumeration": 'JsonSchema({"enum": [f"value number {i * 7919 % 100003} of many" for i in range(8500)]})',
    "alternatives": 'Regex("|".join(f"(.*x{i}.*){{3}}" for i in range(300)))',
}
_PEAK = """
import numpy as np
from memory.meter import PeakMeter, read_memory
from runtime.constraints.request import ConstraintError, JsonSchema, Regex
from runtime.process.allocator import give_back
from tests.places import ROOT
from tests.runtime.constraints.test_matcher import compiler_of
from tests.runtime.constraints.vocabularies import byte_level

compiler, tokenizer = compiler_of(byte_level())
compiler.matcher(Regex("[a-z]+"))
give_back()
before, refused = read_memory().anonymous_bytes, ""
with PeakMeter() as meter, meter.phase("answers"):
    try:
        for seed in range(2):
            matcher, rng = compiler.matcher({constraint}), np.random.default_rng(seed)
            for _ in range(20_000):
                allowed = np.flatnonzero(np.unpackbits(matcher.mask(), bitorder="little"))
                token = int(rng.choice(allowed))
                if matcher.end([token]) is not None:
                    break
                matcher.append([token])
    except ConstraintError as error:
        refused = str(error)
print(max(phase.peak.anonymous_bytes for phase in meter.phases) - before, refused)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="anonymous bytes are read from /proc")
@pytest.mark.parametrize("name", ["states", *(pytest.param(name, marks=pytest.mark.slow) for name in [*DEAREST][1:])])
def test_the_dearest_constraints_take_no_more_than_is_planned(name: str) -> None:
    """In a process of its own, beside what the trie of this small vocabulary takes."""
    code = _PEAK.replace("{constraint}", DEAREST[name])
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    peak, _, refused = found.stdout.strip().partition(" ")
    assert int(peak) < _CONSTRAINTS + _DEAREST_CONSTRAINT
    if name in ("states", "long strings"):
        assert "cannot be followed any further (lexer error: too many states" in refused
        assert refused.endswith("make it simpler: smaller counts in {m,n} and maxLength, fewer alternatives")


@pytest.mark.parametrize(("pattern", "count"), [(".{6000}", 120), ("([a-z]{1,9} [a-z]{2,30} [0-9]{3,20}){400}", 250)])
def test_states_of_the_past_do_not_end_an_answer(pattern: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library counts the states of all answers; only those that the answer's end needs count for us."""
    answers, begins = dict[int, list[list[int]]](), dict[int, int]()
    for states in (450, 1 << 20):
        monkeypatch.setitem(compiler_module._LIMITS, "max_lexer_states", states)
        compiler, _ = compiler_of(byte_level())
        begun = count_calls(monkeypatch, Compiled, "begin")
        answers[states] = [walk(compiler.matcher(Regex(pattern)), seed, count) for seed in range(3)]
        begins[states] = len(begun)
    assert answers[450] == answers[1 << 20]
    assert begins[450] > begins[1 << 20]


def count_calls(monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> list[None]:
    """Grows with every call of a method."""
    calls, method = list[None](), getattr(owner, name)

    def counted(self: object) -> Any:
        calls.append(None)
        return method(self)

    monkeypatch.setattr(owner, name, counted)
    return calls


def test_an_answer_that_explodes_ends_itself_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(compiler_module._LIMITS, "max_lexer_states", 900)
    compiler, _ = compiler_of(byte_level())
    constraint = Regex(".{6000}")
    for _ in range(2):
        with pytest.raises(ConstraintError, match="the regular expression cannot be followed any further"):
            walk(compiler.matcher(constraint), 0, 2000)
    assert len(walk(compiler.matcher(constraint), 0, 100)) == 100


@pytest.mark.parametrize("lark", ["start: start", "start:", "foo: /x/", "start: nowhere", 'start: "a" <|end|>'])
def test_a_grammar_without_an_answer_is_refused(lark: str) -> None:
    assert "the grammar" in refusal(Grammar(lark))


@pytest.mark.parametrize("text", ["", "  \n"])
def test_an_empty_constraint_is_refused(text: str) -> None:
    for kind in (Regex, Grammar):
        with pytest.raises(ConstraintError, match="is empty"):
            kind(text)


def test_other_values_are_refused() -> None:
    compiler, _ = compiler_of(byte_level())
    with pytest.raises(ConstraintError, match="JsonSchema, AnyJsonObject, Regex and Grammar"):
        compiler.matcher({"type": "object"})  # type: ignore[arg-type]
    with pytest.raises(ConstraintError, match="must be a text"):
        Regex(3)  # type: ignore[arg-type]


def test_vocabularies_that_cannot_be_constrained_are_refused(tmp_path: Path) -> None:
    for tokenizer, ends, why in (
        (TokenIds(tmp_path), [1], "no tokenizer.json"),
        (byte_level(), [], "no end token"),
        (word_pieces(), [0], "do not add up"),
    ):
        with pytest.raises(ConstraintError, match=why):
            ConstraintCompiler(tokenizer, 400, ends).matcher(AnyJsonObject())


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    assert "pip install 'pocketspec[structured]'" in refusal(AnyJsonObject())


@pytest.mark.parametrize("kind", KINDS)
def test_the_trie_has_the_bytes_that_tokens_add_to_a_text(kind: str) -> None:
    tokenizer = KINDS[kind]()
    compiler, _ = compiler_of(tokenizer)
    compiler.matcher(AnyJsonObject())
    trie = compiler._trie
    assert trie is not None
    special = set(tokenizer.special_tokens.values())
    for token in range(tokenizer.entries):
        if token not in special and tokenizer.token_bytes(token) != b"\xff":  # which is in no text
            assert trie.decode_bytes([token]) == tokenizer.token_bytes(token)
    for text in ('{"name": "é"}', "日本 in", "naïve 😀"):
        tokens = tokenizer.encode_behind(text)
        assert trie.decode_bytes(tokens) == text.encode()
        assert trie.tokenize_str(text) == tokens


def test_threads_compile_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trie of a large vocabulary takes a second, and as much memory for every thread that builds one."""
    compiler, _ = compiler_of(byte_level())
    begun, make = list[int](), compiler_module.make_trie

    def make_slowly(*arguments: Any) -> Any:
        begun.append(threading.get_ident())
        time.sleep(0.05)
        return make(*arguments)

    monkeypatch.setattr(compiler_module, "make_trie", make_slowly)
    with ThreadPoolExecutor(4) as pool:
        matchers = list(pool.map(compiler.matcher, [Regex(f"a{{{number}}}b") for number in range(1, 9)]))
    assert len(begun) == 1
    assert [len(walk(matcher, 0)) for matcher in matchers] == list(range(2, 10))


def test_a_constraint_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler, _ = compiler_of(byte_level())
    first = compiler.matcher(JsonSchema({"type": "integer"}))
    monkeypatch.setattr(ConstraintCompiler, "_compile", lambda self, constraint: pytest.fail("compiled again"))
    second = compiler.matcher(JsonSchema('{"type": "integer"}'))
    first.append(walk(first, 0, 1))
    assert first is not second
    assert second.count_allowed(byte_level().encode("1")) == 1
