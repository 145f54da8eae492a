"""Limits on the results of operators, methods and filters, checked before they are computed.

Each check raises LimitError, or charges the meter for the work to come.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from runtime.text.template_meter import LimitError, Meter

_MOST_COUNT = 100_000  # widths and counts that filters take; jinja2 has the same bound for ``range``
_MOST_BITS = 10_000  # of integers
_MOST_INDENT = 32  # of JSON
_MOST_DEPTH = 100
_REMOVED_METHODS = frozenset(("translate", "maketrans", "striptags"))
# Widths in formats that have many digits or come from an argument.
_WIDE_FORMAT = re.compile(r"\d{5}|\*|[:!][^{}]*\{")
_SEQUENCES = (str, bytes, list, tuple)


def check_operator(meter: Meter, operator: str, left: Any, right: Any) -> None:
    """Checks ``left operator right``."""
    meter.charge(1)
    if operator == "+" and isinstance(left, _SEQUENCES) and isinstance(right, _SEQUENCES):
        meter.text(len(left) + len(right))
    elif operator == "*":
        _check_product(meter, left, right)
    elif operator == "**" and isinstance(left, int) and isinstance(right, int):
        _check_bits(left.bit_length() * right)
    elif operator == "%" and isinstance(left, str):
        check_format(meter, left, right)


def check_format(meter: Meter, form: str, values: Any) -> None:
    """Checks a format of ``values``: every field may be as long as all values together."""
    if _WIDE_FORMAT.search(form):
        raise LimitError("it formats to a width of more than 9,999, or one that it computes")
    fields = form.count("%") + form.count("{")
    meter.text(len(form) + fields * (meter.deep(values) + 10_000))


def check_call(meter: Meter, run: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    """Checks a call of ``run``, a method of a text, number or list; returns the ``args`` to call it with."""
    owner, name = getattr(run, "__self__", None), getattr(run, "__name__", "")
    if not isinstance(owner, str | bytes | int | list | tuple):
        return args
    if name in _REMOVED_METHODS:
        raise LimitError(f"it calls {name!r}, which is not allowed")
    args = tuple(list(meter.counted(value, deep=True)) if isinstance(value, Iterator) else value for value in args)
    meter.deep(owner)
    width = max((value for value in (*args, *kwargs.values()) if isinstance(value, int)), default=0)
    meter.text(width)
    if isinstance(owner, str):
        _check_text_method(meter, owner, name, args, width)
    return args


def _check_text_method(meter: Meter, text: str, name: str, args: tuple[Any, ...], width: int) -> None:
    if name in ("split", "rsplit", "splitlines"):
        meter.charge(len(text) // 4)
    elif name == "expandtabs":
        meter.text(len(text) + text.count("\t") * max(width, 8))
    elif name == "replace" and len(args) > 1:
        _check_replace(meter, text, *args)
    elif name == "join" and args and isinstance(args[0], _SEQUENCES):
        meter.text(meter.deep(args[0]) + len(text) * len(args[0]))


def check_filter(meter: Meter, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Checks filter ``name`` for ``args[0]``."""
    for value in (*args[1:], *kwargs.values()):
        if isinstance(value, int) and value > _MOST_COUNT:
            raise LimitError(f"it gives the filter {name!r} {value:,}, at most {_MOST_COUNT:,} are allowed")
    if check := _FILTERS.get(name):
        check(meter, *args, **kwargs)


def _check_indent(meter: Meter, value: Any, width: Any = 4, *_: Any, **__: Any) -> None:
    text = str(value)
    meter.text(len(text) + (text.count("\n") + 1) * (len(width) if isinstance(width, str) else int(width)))


def _check_wordwrap(
    meter: Meter, value: Any, width: Any = 79, long: Any = True, wrapstring: Any = None, *_: Any, **__: Any
) -> None:
    meter.text(len(str(value)) * (1 + len(str(wrapstring or ""))))


def _check_replace(meter: Meter, value: Any, old: Any, new: Any, *_: Any, **__: Any) -> None:
    text, gone = str(value), str(old)
    meter.text(len(text) + text.count(gone) * len(str(new)))


def _check_join(meter: Meter, value: Any, d: Any = "", *_: Any, **__: Any) -> None:
    size = len(value) if isinstance(value, (*_SEQUENCES, dict, range)) else _MOST_COUNT if d else 0
    meter.text(size * len(str(d)))


def _check_start(meter: Meter, value: Any, attribute: Any = None, start: Any = 0, *_: Any, **__: Any) -> None:
    """Refuses a list as the start of a sum, which would be copied for every item."""
    if not isinstance(start, int | float):
        raise LimitError("it sums other things than numbers")


def _check_format_filter(meter: Meter, value: Any, *args: Any, **kwargs: Any) -> None:
    check_format(meter, str(value), [args, kwargs])


def _check_json(meter: Meter, value: Any, *_: Any, **options: Any) -> None:
    indent = options.get("indent")
    width = len(indent) if isinstance(indent, str) else indent if isinstance(indent, int) else 0
    if width > _MOST_INDENT:
        raise LimitError(f"it indents JSON by {width:,}, at most {_MOST_INDENT} are allowed")
    items, depth = _extent(value, 1)
    meter.text(items * depth * width)


def _extent(value: Any, depth: int) -> tuple[int, int]:
    """The number of values in ``value``, and the depth of their nesting."""
    if depth > _MOST_DEPTH:
        raise LimitError(f"it writes JSON that is nested more than {_MOST_DEPTH} deep")
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    found = [_extent(item, depth + 1) for item in inner]
    return 1 + sum(items for items, _ in found), max((deep for _, deep in found), default=depth)


def _check_product(meter: Meter, left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        _check_bits(left.bit_length() + right.bit_length())
    for one, other in ((left, right), (right, left)):
        if isinstance(one, _SEQUENCES) and isinstance(other, int):
            meter.text(len(one) * max(other, 0))


def _check_bits(bits: int) -> None:
    if bits > _MOST_BITS:
        raise LimitError(f"it makes a number of {bits:,} bits, allowed are {_MOST_BITS:,}")


_FILTERS = {
    "format": _check_format_filter,
    "indent": _check_indent,
    "join": _check_join,
    "replace": _check_replace,
    "sum": _check_start,
    "tojson": _check_json,
    "wordwrap": _check_wordwrap,
}
