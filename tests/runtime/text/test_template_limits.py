"""Templates that take too much are refused before they take it; all others render as in jinja2's own sandbox."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from runtime.text.chat_template import ChatTemplate
from runtime.text.template_data import ChatTemplateError
from runtime.text.template_limits import MeteredEnvironment, render_metered
from tests.guard import guarded

MESSAGES = [{"role": "user", "content": "Hi"}]
# Each takes hours or gigabytes where nothing stops it.
_DOUBLED = "{% set n = namespace(s=START, t=START) %}{% for i in range(60) %}{% set n.s = NEXT %}{% endfor %}"
_PAIRS = _DOUBLED.replace("START", "(1,)").replace("NEXT", "(n.s, n.s)")
# A second each: of what is alike, one or two stand for all.
SLOW = partial(pytest.param, marks=pytest.mark.slow)
_BIG = "{% set big = 'x' * 900000 %}"


def _loop(body: str, turns: int = 100_000) -> str:
    return f"{{% for i in range({turns}) %}}{body}{{% endfor %}}"


GREEDY = [
    "{{ 'x' * 10**9 }}",
    "{{ 10**9 * 'x' }}",
    "{{ [1] * 10**9 }}",
    "{{ 10**10000 ** 2 }}",
    _DOUBLED.replace("START", "10").replace("NEXT", "n.s * n.s"),
    _loop(_loop("")),
    _loop("{% for j in range(100000) if false %}{% endfor %}"),
    "{% for i in [1] recursive %}{{ loop(range(100000)) }}{% endfor %}",
    _DOUBLED.replace("START", "'xx'").replace("NEXT", "n.s + n.s"),
    _DOUBLED.replace("START", "'xx'").replace("NEXT", "n.s ~ n.s"),
    _DOUBLED.replace("START", "'xx'").replace("NEXT", "n.s|replace('x', n.s)"),
    _DOUBLED.replace("START", "[1]").replace("NEXT", "n.s + n.s"),
    _DOUBLED.replace("START", "1").replace("NEXT", "namespace(a=n.s, b=n.s)") + "{{ n.s }}",
    "{% set n = namespace() %}{% set n.a = n %}{{ n }}",
    _PAIRS + "{{ n.s }}",
    SLOW(_PAIRS + "{{ n.s ~ '' }}"),
    SLOW(_PAIRS + "{{ n.s|string }}"),
    _PAIRS + "{{ n.s|tojson }}",
    SLOW(_PAIRS + "{{ n.s|join }}"),
    SLOW(_PAIRS + "{{ '%s' % (n.s,) }}"),
    SLOW(_PAIRS + "{{ '{}'.format(n.s) }}"),
    _PAIRS + "{{ n.s == 1 }}",
    SLOW(_PAIRS + "{{ 1 is eq(n.s) }}"),
    SLOW(_PAIRS + "{{ {n.s: 1}|length }}"),
    SLOW(_PAIRS + "{{ {}[n.s] }}"),
    _PAIRS + "{{ {}.get(n.s) }}",
    SLOW(_PAIRS + "{{ [n.s]|unique|list|length }}"),
    "{{ 'x'|center(10**9) }}",
    "{{ 'x'.center(10**9) }}",
    "{{ ('x'|safe).center(10**9) }}",
    "{{ ('x'|attr('center'))(10**9) }}",
    "{% set f = 'x'.ljust %}{{ f(10**9) }}",
    "{% filter center(10**9) %}x{% endfilter %}",
    "{{ 'x'.zfill(10**9) }}",
    "{{ ('\\t' * 100000).expandtabs(100000) }}",
    "{{ 5 .to_bytes(10**9, 'big') }}",
    "{{ 'a'.translate({97: 'x' * 900000}) }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '%*d' % (10**9, 1) }}",
    "{{ '%1000000000d'|format(1) }}",
    "{{ '{:1000000000}'.format(1) }}",
    "{{ '{:{w}}'.format(1, w=10**9) }}",
    "{{ '{x:{w}}'.format_map({'x': 1, 'w': 10**9}) }}",
    "{{ ('%s' * 50000) % (('x' * 50000,) * 50000) }}",
    "{{ ('a' * 100000).replace('a', 'b' * 100000) }}",
    "{{ ('b' * 100000).join(['a'] * 100000) }}",
    "{{ ('b' * 100000).join(range(100000)|map('string')) }}",
    "{{ ['a'] * 100000|join('b' * 100000) }}",
    "{{ range(100000)|map('center', 99999)|list }}",
    "{{ range(100000)|map('string')|join('b' * 100000) }}",
    "{{ range(100000)|map(attribute='z', default='x' * 900000)|join }}",
    "{{ ['a']|batch(100000, 'x' * 900000)|list }}",
    "{{ {}.fromkeys(range(100000), 'x' * 900000) }}",
    "{{ ('\\n' * 100000)|indent(100000) }}",
    "{{ ('\\n' * 100000)|indent('x' * 100000) }}",
    "{{ ('x' * 100000)|wordwrap(1, wrapstring='x' * 100000) }}",
    "{{ [1]|tojson(indent=10**9) }}",
    "{{ [[1] * 1000] * 1000|sum(start=[]) }}",
    "{{ 1.5|round(10**9, 'ceil') }}",
    "{% set x %}" + _loop(_loop("x" * 100)) + "{% endset %}{{ x|length }}",
    SLOW("{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}"),
    "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
    "{% block b %}{{ self.b() }}{{ self.b() }}{% endblock %}",
    _BIG + _loop("{{ big }}"),
    _BIG + "{% set x %}" + _loop("{{ big }}") + "{% endset %}",
    _BIG + _loop("{% if 'y' in big %}{% endif %}"),
    _BIG + _loop("{% set y = big.find('y') %}"),
    _BIG + _loop("{% set y = big[1:] %}"),
    _loop("{% set y = range(100000)|sum %}"),
    SLOW(_loop("{% set y = range(100000)|map(attribute='real')|sum %}")),
    _loop("{% set y = range(100000)|select('odd')|list %}"),
    "{{ lipsum(10**6) }}",
    "x" * 300_000,
]


@pytest.mark.parametrize("source", GREEDY, ids=lambda source: source[-60:])
def test_a_template_that_takes_too_much_is_refused_in_one_line(source: str) -> None:
    with guarded(), pytest.raises(ChatTemplateError) as caught:
        ChatTemplate(source, {}, "test").render(MESSAGES)
    assert "\n" not in str(caught.value)
    assert "use --raw" in str(caught.value)
    assert "MemoryError" not in str(caught.value)


UNCOMPILED = [
    "{{ " + "(" * 5000,
    "{{ " + "-" * 5000 + "1 }}",
    "{{ " + "9" * 10_000 + " }}",
    "{{ 1" + "+1" * 20_000 + " }}",
    "{% for i in [1] %}" * 200 + "{% endfor %}" * 200,
    "{% include 'x' %}",
]


@pytest.mark.parametrize("source", UNCOMPILED, ids=lambda source: source[:20])
def test_a_source_that_cannot_be_compiled_is_refused_in_one_line(source: str) -> None:
    with guarded(), pytest.raises(ChatTemplateError, match=r"^[^\n]*use --raw$"):
        ChatTemplate(source, {}, "test").render(MESSAGES)


# What templates of public checkpoints do, and what our own compiling must leave as it is.
ORDINARY = [
    "{{ messages[0].content ~ 1 ~ none ~ [1, 'a'] ~ {'b': 2} }}",
    "{{ messages[1:]|length }}{{ messages[::-1][0].content }}{{ 'abc'[1:] }}",
    "{% for m in messages if m.role != 'system' %}{{ loop.index }}{{ loop.last }}{{ m }}{% else %}none{% endfor %}",
    "{% for m in [[1, [2]], [3]] recursive %}{{ m if m is number else loop(m) }}{% endfor %}",
    "{% set n = namespace(a=[]) %}{% for m in messages %}{% set n.a = n.a + [m] %}{% endfor %}{{ n.a|tojson(4) }}",
    "{% macro f(x, y=2) %}{{ x }}{{ y }}{{ caller() if caller }}{% endmacro %}{{ f(1) }}{% call f(3) %}c{% endcall %}",
    "{{ {'a': 1, ('b', 2): [3]}.items()|list }}{{ {}.get('x', 'y') }}{{ {'a': {'b': 1}}['a']['b'] }}",
    "{{ 1 < 2 <= 3 }}{{ 'a' in ['a'] }}{{ 'a' not in 'abc' }}{{ none == none }}{{ 2 ** 10 % 7 // 2 - 1 / 4 }}",
    "{{ '%s-%05d' % ('a', 5) }}{{ '{} {x:>5}'.format(1, x=2) }}{{ '%s'|format('b') }}{{ 'a,b'.split(',') }}",
    "{{ messages|map(attribute='role')|join(', ') }}{{ messages|selectattr('role', 'equalto', 'user')|list }}",
    "{{ range(5)|batch(2)|list }}{{ [3, 1]|sort }}{{ [1, 2]|sum }}{{ 'a\nb'|indent(2) }}{{ 'x'|center(9) }}",
    "{{ undefined_name }}{{ undefined_name is defined }}{{ messages[9] is defined }}{{ true }}{{ 1.5 }}",
    "{% set x %}a{{ 1 }}{% endset %}{{ x|upper|replace('A', 'b')|trim }}",
    "{% autoescape true %}{{ '<' ~ 'a' }}{% endautoescape %}{{ '<' ~ 'a' }}",
    "{% if 'a' is string and 1 is number and messages is iterable and messages[0] is mapping %}yes{% endif %}",
    "{{ ' a '.strip().startswith('a') }}{{ 'aXb'.partition('X') }}{{ '-'.join('ab') }}{{ 'a'.replace('a', 'b') }}",
    "{% for a, b in [(1, 2), (3, 4)] %}{{ a }}{{ b }}{{ loop.cycle('x', 'y') }}{% endfor %}{{ (1,) }}{{ () }}",
]


@pytest.mark.parametrize("source", ORDINARY)
def test_all_others_render_as_in_the_sandbox_itself(source: str) -> None:
    values: dict[str, Any] = {"messages": [*MESSAGES, {"role": "assistant", "content": 'Hé "you"'}]}
    plain, metered = ImmutableSandboxedEnvironment(), MeteredEnvironment()
    expected = plain.from_string(source).render(values)
    assert render_metered(metered.from_string(source), values) == expected


def test_long_conversations_are_no_offence() -> None:
    """Two thousand turns through a template that looks at each from each tenth, and gathers them in a list."""
    source = (
        "{% set n = namespace(all=[], text='') %}{% for m in messages %}{% set n.all = n.all + [m] %}{{ m.content }}"
        "{% if loop.index % 10 == 0 %}{% for o in messages %}{% if o.role == 'tool' %}x{% endif %}{% endfor %}"
        "{% set n.text = n.text ~ m.content %}{% endif %}{% endfor %}{{ n.all|length }}{{ n.text|length }}"
    )
    messages = [{"role": "user", "content": "Some words of a turn, as they are. " * 4} for _ in range(2000)]
    text = ChatTemplate(source, {}, "test").render(messages)
    assert text.endswith("200028000")
