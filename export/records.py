"""Records: frozen dataclasses from the JSON that stands for them, with types and bounds as their annotations say.

Fields are numbers, texts, booleans, words (``Literal``), tuples, mappings and other dataclasses, and those with bounds
of ``export.untrusted`` (``Annotated``). Everyone reads with it, so it needs the standard library alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from export.untrusted import UntrustedError, shown, text_fault


def build_record(kind: Any, data: Any, where: str) -> Any:
    """``data`` (parsed JSON) as an instance of the dataclass ``kind``.

    UntrustedError names ``where`` and the field: one that is unknown or missing, of another type, or out of bounds.
    """
    return _build(kind, data, where, "")


def _build(kind: Any, value: Any, where: str, path: str) -> Any:
    """``value`` (parsed JSON) as an instance of the annotation ``kind``."""
    origin, arguments = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        return _build_dataclass(kind, value, where, path)
    if origin is Annotated:
        return _build_bounded(kind, value, where, path)
    if origin in (Union, UnionType):
        return _build_option(arguments, value, where, path)
    if origin is tuple and isinstance(value, list):
        return tuple(_build(arguments[0], item, where, f"{path}[{i}]") for i, item in enumerate(value))
    if origin is Mapping and isinstance(value, dict):
        return {
            _build(arguments[0], key, where, path): _build(arguments[1], item, where, f"{path}.{key}")
            for key, item in value.items()
        }
    if _is_scalar(kind, origin, arguments, value):
        return float(value) if kind is float else value
    raise UntrustedError(f"{where}: field {_field(path)} has the value {shown(value)}, expected {_expected(kind)}")


def _is_scalar(kind: Any, origin: Any, arguments: tuple[Any, ...], value: Any) -> bool:
    if origin is Literal:
        return isinstance(value, str) and value in arguments
    if kind is float:
        return type(value) is float or (type(value) is int and abs(value) < 1 << 53)
    return kind in (str, int, bool) and type(value) is kind and (kind is not str or text_fault(value) is None)


def _build_bounded(kind: Any, value: Any, where: str, path: str) -> Any:
    """A value within the bounds that its annotation has."""
    plain, *bounds = get_args(kind)
    built = _build(plain, value, where, path)
    for bound in bounds:
        if fault := bound.fault(built):
            raise UntrustedError(f"{where}: field {_field(path)} has the value {shown(built)}, which {fault}")
    return built


def _build_option(options: tuple[Any, ...], value: Any, where: str, path: str) -> Any:
    """One of several kinds: none, one of some words, or the last."""
    if value is None and NoneType in options:
        return None
    for option in options:
        if get_origin(option) is Literal and isinstance(value, str) and value in get_args(option):
            return value
    return _build([option for option in options if option is not NoneType][-1], value, where, path)


def _field(path: str) -> str:
    return shown(path.lstrip("."))[1:-1]


def _expected(kind: Any) -> str:
    return str(getattr(kind, "__name__", kind)).replace("typing.", "")


def _build_dataclass(kind: Any, value: Any, where: str, path: str) -> Any:
    if not isinstance(value, dict):
        raise UntrustedError(f"{where}: field {_field(path)} must be an object")
    hints = get_type_hints(kind, include_extras=True)
    if unknown := set(value) - set(hints):
        raise UntrustedError(f"{where}: unknown field {_field(f'{path}.{min(unknown)}')}")
    built = {name: _build(hints[name], item, where, f"{path}.{name}") for name, item in value.items()}
    try:
        return kind(**built)
    except TypeError:
        missing = [f.name for f in fields(kind) if f.name not in built and f.default is f.default_factory is MISSING]
        name = path.lstrip(".") or kind.__name__.lower()
        raise UntrustedError(f"{where}: {name} lacks {', '.join(missing)}") from None
