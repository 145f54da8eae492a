"""Matchers on llguidance: what may follow hangs on the tokens before it, not on how one came there."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor

import jsonschema
import numpy as np
import pytest

from runtime.constraints.compiler import ConstraintCompiler
from runtime.constraints.matcher import Matcher
from runtime.constraints.request import AnyJsonObject, Constrained, Grammar, JsonSchema, Regex
from runtime.decoding.stop import Cut
from runtime.text.tokenizer import Tokenizer
from tests.runtime.constraints.vocabularies import KINDS, byte_fallback, byte_level

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "in": {"type": "array", "items": {"enum": ["the", "é", "日本", None]}, "minItems": 1, "maxItems": 3},
    },
    "required": ["name", "age", "in"],
    "additionalProperties": False,
}
CONSTRAINTS: dict[str, Constrained] = {
    "schema": JsonSchema(SCHEMA),
    "object": AnyJsonObject(),
    "regex": Regex(r"name: [a-z]{2,5}( and [a-z]{2,5})?(, é+)?\."),
    "grammar": Grammar('start: "in " (pair | "the" ", " start)\npair: /[a-z]+/ "=" /[0-9]{1,3}/'),
}
PADDING = 5
every_kind = pytest.mark.parametrize("kind", KINDS)
every_constraint = pytest.mark.parametrize("name", CONSTRAINTS)


def compiler_of(tokenizer: Tokenizer) -> tuple[ConstraintCompiler, int]:
    """A compiler for a model with some padding ids, and its end token."""
    end = next(token for text, token in tokenizer.special_tokens.items() if text in ("<|end|>", "</s>"))
    return ConstraintCompiler(tokenizer, tokenizer.entries + PADDING, [end]), end


def allowed(matcher: Matcher, path: list[int] | tuple[int, ...] = ()) -> list[int]:
    found: list[int] = np.flatnonzero(np.unpackbits(matcher.mask(path), bitorder="little")).tolist()
    return found


def walk(matcher: Matcher, seed: int, most: int = 40) -> list[int]:
    """Tokens drawn from what may follow, up to the end."""
    rng, tokens = np.random.default_rng(seed), list[int]()
    while len(tokens) < most and matcher.end(tokens) is None:
        tokens.append(int(rng.choice(allowed(matcher, tokens))))
    return tokens


def text_of(tokenizer: Tokenizer, tokens: list[int], end: int) -> str:
    spelled = b"".join(tokenizer.token_bytes(token) for token in tokens if token != end)
    return spelled.decode("utf-8", "surrogateescape")


@every_kind
def test_whatever_is_drawn_is_an_answer(kind: str) -> None:
    tokenizer = KINDS[kind]()
    compiler, end = compiler_of(tokenizer)
    schema, regex, complete = CONSTRAINTS["schema"], CONSTRAINTS["regex"], 0
    for seed in range(8):
        matcher = compiler.matcher(schema)
        tokens = walk(matcher, seed, 80)
        if matcher.end(tokens) is not None:
            jsonschema.validate(json.loads(text_of(tokenizer, tokens, end)), SCHEMA)
            complete += 1
        matcher = compiler.matcher(regex)
        tokens = walk(matcher, seed, 80)
        assert isinstance(regex, Regex)
        if matcher.end(tokens) is not None:
            assert re.fullmatch(regex.pattern, text_of(tokenizer, tokens, end))
            complete += 1
    assert complete > 4


@every_kind
@every_constraint
def test_a_mask_hangs_on_the_tokens_alone(kind: str, name: str) -> None:
    """Not on paths that were tried before, on the division into commits, or on what was asked."""
    compiler, _ = compiler_of(KINDS[kind]())
    rng = np.random.default_rng(0)
    for seed in range(3):
        tokens = walk(compiler.matcher(CONSTRAINTS[name]), seed, 25)
        wanted = [compiler.matcher(CONSTRAINTS[name]).mask(tokens[:place]).tobytes() for place in range(len(tokens))]
        strayed, place = compiler.matcher(CONSTRAINTS[name]), 0
        while place < len(tokens):
            strayed.forced()
            for _ in range(3):
                detour = [*tokens[place : place + int(rng.integers(4))], int(rng.integers(64))]
                strayed.count_allowed(detour)
                strayed.mask(detour)
                strayed.end(detour)
            ahead = int(rng.integers(len(tokens) - place))
            assert strayed.mask(tokens[place : place + ahead]).tobytes() == wanted[place + ahead]
            strayed.append(tokens[place : place + ahead + 1])
            place += ahead + 1
            back = int(rng.integers(2)) if place < len(tokens) else 0
            strayed.take_back(back)
            place -= back


@every_kind
@every_constraint
def test_one_token_is_allowed_if_the_mask_allows_it(kind: str, name: str) -> None:
    tokenizer = KINDS[kind]()
    compiler, end = compiler_of(tokenizer)
    tokens = walk(compiler.matcher(CONSTRAINTS[name]), 0, 16)
    for path in (*(tokens[:place] for place in range(len(tokens) + 1)), [*tokens, end], [*tokens[:2], 1, 2]):
        masked, asked = compiler.matcher(CONSTRAINTS[name]), compiler.matcher(CONSTRAINTS[name])
        wanted = {token for token in allowed(masked, path) if token < tokenizer.entries + PADDING}
        asked_for = range(tokenizer.entries + PADDING)
        assert {token for token in asked_for if asked.allows(path, token)} == wanted
        assert masked.allows(path, end) == (end in wanted)


@every_kind
@every_constraint
def test_forced_tokens_are_the_only_ones_allowed(kind: str, name: str) -> None:
    compiler, _ = compiler_of(KINDS[kind]())
    seen = 0
    for seed in range(4):
        tokens = walk(compiler.matcher(CONSTRAINTS[name]), seed, 25)
        matcher = compiler.matcher(CONSTRAINTS[name])
        for token in tokens:
            forced = list(matcher.forced())
            for place in range(len(forced)):
                assert allowed(matcher, forced[:place]) == [forced[place]]
            seen += len(forced)
            matcher.append([token])
    assert seen > 0 or name == "object"  # of which everything is open


@every_kind
def test_padding_and_special_tokens_never_follow(kind: str) -> None:
    tokenizer = KINDS[kind]()
    compiler, end = compiler_of(tokenizer)
    matcher = compiler.matcher(Regex("(?s:.)*x"))
    others = set(tokenizer.special_tokens.values()) | {tokenizer.entries + place for place in range(PADDING)}
    for _ in range(4):
        found = allowed(matcher)
        assert found
        assert not others & set(found)
        matcher.append(found[:1])
    assert end not in allowed(matcher)


def test_end_tokens_follow_where_the_grammar_is_complete_and_nothing_follows_them() -> None:
    tokenizer = byte_level()
    compiler, end = compiler_of(tokenizer)
    matcher = compiler.matcher(Regex("a(bc)?"))
    a, b, c = (tokenizer.encode(letter)[0] for letter in "abc")
    assert allowed(matcher, [a]) == sorted([b, end])
    assert allowed(matcher, [a, b]) == [c]
    assert matcher.count_allowed([a, end, end]) == 3
    assert matcher.count_allowed([a, end, b]) == 2
    assert matcher.count_allowed([a, b, end]) == 2
    assert matcher.count_allowed([a, 10**6]) == 1
    assert matcher.end([a, end]) == Cut(2, "eos")
    assert matcher.end([a, b, c]) == Cut(3, "stop")
    assert matcher.end([a, b]) is None
    assert allowed(matcher, [a, b, c]) == allowed(matcher, [a, end]) == allowed(matcher, [a, end, end]) == [end]
    matcher.append([a, end])
    assert not matcher.forced()
    assert allowed(matcher) == [end]
    matcher.take_back(1)
    assert allowed(matcher) == sorted([b, end])


def test_forks_go_on_by_themselves_in_any_thread() -> None:
    compiler, _ = compiler_of(byte_level())
    first = compiler.matcher(CONSTRAINTS["schema"])
    start = walk(first, 0, 10)
    first.append(start)
    expected = walk(first, 1)
    with ThreadPoolExecutor(2) as pool:
        found = [pool.submit(walk, fork, 1) for fork in (first.fork(), first.fork())]
        walk(first, 2)
        assert [job.result() for job in found] == [expected, expected]
    assert walk(first, 1) == expected


def test_a_fork_stays_where_it_is_when_the_other_goes_on() -> None:
    compiler, _ = compiler_of(byte_level())
    first = compiler.matcher(CONSTRAINTS["schema"])
    tokens = walk(first, 0, 3)
    masks = [first.mask(tokens[:place]).tobytes() for place in range(3)]
    fork = first.fork()
    for place in range(3):
        assert first.mask().tobytes() == masks[place]
        first.append([tokens[place]])
        assert [fork.mask(tokens[:each]).tobytes() for each in range(3)] == masks


def test_bytes_of_half_a_character_are_joined() -> None:
    tokenizer = byte_fallback()
    compiler, end = compiler_of(tokenizer)
    matcher = compiler.matcher(Regex("日本"))
    tokens = walk(matcher, 0)
    assert matcher.end(tokens) == Cut(6, "stop")
    assert text_of(tokenizer, tokens, end) == "日本"
