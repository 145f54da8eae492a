"""What cannot be compiled is refused in one line, and nothing takes long or much memory."""

from __future__ import annotations

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from runtime.constraints import compiler as compiler_module
from runtime.constraints.compiler import ConstraintCompiler
from runtime.constraints.request import AnyJsonObject, Constrained, ConstraintError, Grammar, JsonSchema, Regex
from runtime.text.token_ids import TokenIds
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
