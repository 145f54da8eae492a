"""Writes random templates with what Python renders of them; the engine's tests render them again."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from android_demo.check.places import BUILD
from runtime.text.chat_template import ChatTemplate
from runtime.text.template_data import ChatTemplateError

FOLDER = BUILD / "fixtures" / "expression"
MESSAGES = [
    {"role": "system", "content": " Sé brief\n", "n": 3},
    {"role": "user", "content": "a,b ,c\n\n日本 😀x", "tags": ["x", "Y", "é"], "args": {"b": 1.5, "a": [None, True]}},
    {"role": "assistant", "content": "", "n": -2},
]
_TEXTS = (
    "''",
    "'a'",
    "'b,a'",
    "' x y '",
    "'Aé日😀'",
    "'it\\'s \\\"q\\\"\\n'",
    "'12'",
    "'-3.5'",
    "'user'",
    "'\\t\\u200b'",
    "'aXbXc'",
)
_NUMBERS = ("0", "1", "-1", "2", "7", "-4", "10", "0.5", "2.0", "-1.25", "1e3", "true", "false")
_LISTS = (
    "[]",
    "[1, 2, 3]",
    "['b', 'A', 'a']",
    "[[1], [0, 2]]",
    "(1, 'x')",
    "range(4)",
    "messages",
    "'abc'",
    "[3, 1, 2, 1]",
)
_MAPS = ("{}", "{'a': 1, 'b': [2]}", "{'k': none, 'items': 3}", "messages[1]", "messages[1].args", "dict(z=1, y='w')")
_OTHERS = ("none", "missing", "messages[0].nothing", "messages[-1]['content']", "bos_token", "ns", "loop")
_OPERATORS = ("+", "-", "*", "/", "//", "%", "~", "==", "!=", "<", "<=", ">", ">=", "in", "not in", "and", "or", "**")
_TESTS = (
    *(
        "defined",
        "undefined",
        "none",
        "string",
        "mapping",
        "iterable",
        "sequence",
        "number",
        "integer",
        "float",
        "boolean",
    ),
    *(
        "true",
        "false",
        "odd",
        "even",
        "divisibleby(3)",
        "eq(1)",
        "in [1, 'a']",
        "sameas true",
        "lower",
        "upper",
        "callable",
    ),
)
_FILTERS = (
    *(
        "trim",
        "length",
        "upper",
        "lower",
        "title",
        "capitalize",
        "string",
        "list",
        "first",
        "last",
        "reverse",
        "join",
        "int",
    ),
    *(
        "float",
        "abs",
        "round",
        "tojson",
        "default('d')",
        "default('d', true)",
        "join('-')",
        "replace('a', 'bb')",
        "items",
    ),
    *(
        "sort",
        "sort(reverse=true)",
        "unique",
        "sum",
        "min",
        "max",
        "dictsort",
        "indent",
        "indent(2, true)",
        "trim('ax')",
    ),
    *(
        "map('upper')",
        "map('string')",
        "map(attribute='role')",
        "selectattr('role', 'equalto', 'user')",
        "select",
        "reject",
    ),
    *(
        "rejectattr('n')",
        "selectattr('n', 'defined')",
        "tojson(indent=2)",
        "tojson(sort_keys=true)",
        "map('trim')",
        "batch(2)",
    ),
    *(
        "select('string')",
        "reject('in', [1, 2])",
        "count",
        "sort(attribute='role')",
        "join(', ', attribute='role')",
        "d(3)",
    ),
    *(
        "tojson(separators=(',', ':'))",
        "tojson(ensure_ascii=true)",
        "replace('X', '', 1)",
        "center(9)",
        "safe",
        "format(1)",
    ),
)
_METHODS = (
    *(
        "strip()",
        "lstrip(' a')",
        "rstrip('c')",
        "split()",
        "split(',')",
        "split('X', 1)",
        "rsplit(',', 1)",
        "splitlines()",
    ),
    *("startswith('a')", "endswith(('c', ' '))", "upper()", "lower()", "title()", "capitalize()", "replace('a', 'é')"),
    *(
        "find('b')",
        "count('a')",
        "join(['p', 'q'])",
        "items()",
        "keys()",
        "values()",
        "get('a')",
        "get('zz', 4)",
        "isdigit()",
    ),
    *(
        "isalpha()",
        "isspace()",
        "index(1)",
        "count(1)",
        "partition(',')",
        "rpartition(',')",
        "removeprefix('a')",
        "zfill(4)",
    ),
    *(
        "ljust(4)",
        "rjust(5, '*')",
        "center(6)",
        "rfind('X')",
        "format(1, a=2)",
        "append(1)",
        "split(none, 1)",
        "rsplit(none, 1)",
    ),
)
_PARTS = (
    "[0]",
    "[-1]",
    "['a']",
    ".role",
    ".a",
    "[1:]",
    "[:-1]",
    "[::-1]",
    "[::2]",
    "[5]",
    "[-2:2]",
    "[2:0:-1]",
    ".items",
    "[1:99]",
)


def _value(draw: random.Random) -> str:
    return draw.choice(draw.choice((_TEXTS, _NUMBERS, _LISTS, _MAPS, _OTHERS)))


def _expression(draw: random.Random, depth: int) -> str:
    if depth == 0:
        return _value(draw)

    def inner() -> str:
        return _expression(draw, depth - 1)

    forms: tuple[Callable[[], str], ...] = (
        lambda: f"({inner()} {draw.choice(_OPERATORS)} {inner()})",
        lambda: f"({inner()} | {draw.choice(_FILTERS)})",
        lambda: f"({inner()} | {draw.choice(_FILTERS)} | {draw.choice(_FILTERS)})",
        lambda: f"({inner()}).{draw.choice(_METHODS)}",
        lambda: f"({inner()}){draw.choice(_PARTS)}",
        lambda: f"({inner()} is {draw.choice(('', 'not '))}{draw.choice(_TESTS)})",
        lambda: f"({inner()} if {inner()} else {inner()})",
        lambda: f"[{inner()}, {inner()}]",
        lambda: f"{{'k': {inner()}}}",
        lambda: f"(not {inner()})",
        lambda: f"({inner()} < {inner()} < {inner()})",
        lambda: f"('%s|%s' % ({inner()}, {inner()}))",
    )
    return draw.choice(forms)()


def _statements(draw: random.Random, depth: int) -> str:
    def inner() -> str:
        return _statements(draw, depth - 1) if depth else _text(draw)

    def value() -> str:
        return _expression(draw, draw.randint(0, 1))

    def tag(code: str) -> str:
        return "{%" + draw.choice(("", "", "-", "+")) + f" {code} " + draw.choice(("", "", "-", "+")) + "%}"

    forms: tuple[Callable[[], str], ...] = (
        lambda: _text(draw),
        lambda: "{{" + draw.choice(("", "-")) + f" {value()} " + draw.choice(("", "-")) + "}}",
        lambda: (
            tag(f"if {value()}") + inner() + tag(f"elif {value()}") + inner() + tag("else") + inner() + tag("endif")
        ),
        lambda: tag(f"for x in {value()}") + "{{ loop.index }}" + inner() + tag("else") + inner() + tag("endfor"),
        lambda: tag(f"for x in {value()} if x") + "{{ x }}{{ loop.last }}" + tag("break") + tag("endfor"),
        lambda: tag(f"set y = {value()}") + inner() + "{{ y }}",
        lambda: tag("set y") + inner() + tag("endset") + "{{ y | length }}",
        lambda: tag(f"set ns.v = {value()}") + inner() + "{{ ns.v }}",
        lambda: tag("macro m(p, q=2)") + inner() + "{{ p }}{{ q }}" + tag("endmacro") + f"{{{{ m({value()}) }}}}",
        lambda: tag(f"with z = {value()}") + "{{ z }}" + inner() + tag("endwith"),
        lambda: "{# a comment " + draw.choice(("#}", "-#}", "+#}\n")) + inner(),
        lambda: "{% raw %}" + _text(draw) + "{{ x }}" + draw.choice(("{% endraw %}", "{%- endraw -%}")),
        lambda: tag("filter upper") + inner() + tag("endfilter"),
        lambda: tag("generation") + inner() + tag("endgeneration"),
    )
    return "".join(draw.choice(forms)() for _ in range(draw.randint(1, 3)))


def _text(draw: random.Random) -> str:
    return "".join(
        draw.choice(("a", " ", "\n", "  ", "\t", "é", "}", "{", "\r\n", "\u00a0")) for _ in range(draw.randint(0, 4))
    )


def case(source: str) -> dict[str, Any]:
    """What Python makes of the template ``source``: text, or that it is refused."""
    try:
        template = ChatTemplate("{% set ns = namespace(v=0) %}" + source, {"bos_token": "<s>"}, "the template")
        return {"source": "{% set ns = namespace(v=0) %}" + source, "text": template.render(MESSAGES)}
    except ChatTemplateError as error:
        return {"source": "{% set ns = namespace(v=0) %}" + source, "error": str(error)}


def _shows_objects(made: dict[str, Any]) -> bool:
    """Whether the text has what Python writes for functions and generators: their addresses."""
    return " at 0x" in made.get("text", "") or "<built-in" in made.get("text", "") or "jinja2." in made.get("text", "")


def write(folder: Path, count: int, seed: int = 0) -> None:
    """Writes ``count`` templates, half of them one expression."""
    draw = random.Random(seed)
    sources = [f"{{{{ {_expression(draw, draw.randint(1, 3))} }}}}" for _ in range(count // 2)]
    sources += [_statements(draw, draw.randint(0, 2)) for _ in range(count - count // 2)]
    cases = [case(source) for source in sources]
    lines = [json.dumps({"messages": MESSAGES}), *(json.dumps(each) for each in cases if not _shows_objects(each))]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "expressions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
