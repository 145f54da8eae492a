"""Runs chat templates within limits: in jinja2's immutable sandbox, with every operation charged before it runs.

Templates are programs of strangers. The sandbox protects our objects and bounds ``range``, but nothing else: two nested
loops run for hours, and ``"x" * 10**9``, or a text doubled thirty times, takes a gigabyte. So here loop iterations,
calls, filters and operators are charged, each with a share of the characters and items that it goes through, and
results that would be too long are refused before they are computed.

jinja2 has no hooks for loops, ``~``, comparisons, slices and keys, so its compiler is extended to call ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import wraps
from typing import Any, cast

import jinja2
from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame, operators
from jinja2.runtime import BlockReference, Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment

from runtime.text.template_checks import check_call, check_filter, check_format, check_operator
from runtime.text.template_meter import CHARACTERS, CURRENT, LimitError, Meter, size_of

# Templates of public checkpoints have up to 30,000 characters.
_MOST_SOURCE = 250_000
_CALL = 4  # operations
# Functions that take or return items without looking at what is in them.
_SHALLOW = frozenset(
    ("attr", "batch", "count", "d", "default", "first", "items", "last", "length", "list", "map")
).union(("random", "reject", "rejectattr", "reverse", "select", "selectattr", "slice"))
_COMPARING = frozenset(
    ("in", "eq", "equalto", "==", "ne", "!=", "lt", "lessthan", "<", "le", "<=", "gt", "greaterthan", ">", "ge", ">=")
)
# Chat templates do not need these, and each can be made to take very long.
_REMOVED_FILTERS = ("pprint", "striptags", "urlize", "xmlattr")
_REMOVED_GLOBALS = ("lipsum",)


def compile_metered(environment: MeteredEnvironment, source: str) -> jinja2.Template:
    """Compiles the template ``source``. It is compiled to a program, so any error is possible."""
    if len(source) > _MOST_SOURCE:
        raise LimitError(f"it has {len(source):,} characters, at most {_MOST_SOURCE:,} are allowed")
    return environment.from_string(source)


def render_metered(template: jinja2.Template, variables: Mapping[str, Any]) -> str:
    """The text of a ``template`` of a ``MeteredEnvironment``; LimitError if it exceeds its limits."""
    meter = Meter(size_of(variables))
    token = CURRENT.set(meter)
    try:
        pieces, length = [], 0
        for piece in template.generate(variables):
            length += len(piece)
            meter.check(length)
            pieces.append(piece)
        return "".join(pieces)
    finally:
        CURRENT.reset(token)


class MeteredCode(CodeGenerator):
    """Compiles templates into code that asks the environment before it works."""

    _turn_cost = 0

    def visit_For(self, node: nodes.For, frame: Frame) -> None:  # noqa: N802  (jinja2 finds visitors by such names)
        text = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
        self._turn_cost = 1 + text // CHARACTERS
        if node.test is not None:  # the body does not see iterations that the test filters out
            node.iter = nodes.Call(nodes.EnvironmentAttribute("counted"), [node.iter], [], None, None)
        super().visit_For(node, frame)

    def blockvisit(self, nodes: Iterable[nodes.Node], frame: Frame) -> None:
        cost, self._turn_cost = self._turn_cost, 0
        if cost:  # the first block of a loop is its body
            self.writeline(f"environment.charge({cost})")
        super().blockvisit(nodes, frame)

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802
        context = frame.eval_ctx
        plain = "markup_join" if context.autoescape else "str_join"
        self.write("environment.joined(")
        self.write("markup_join if context.eval_ctx.autoescape else str_join" if context.volatile else plain)
        self.write(", ")
        self.visit_Tuple(nodes.Tuple(node.nodes, "load"), frame)
        self.write(")")

    def visit_Compare(self, node: nodes.Compare, frame: Frame) -> None:  # noqa: N802
        self.write("(")
        self._visit_within("looked_into", node.expr, frame)
        for operand in node.ops:
            self.visit(operand, frame)
        self.write(")")

    def visit_Operand(self, node: nodes.Operand, frame: Frame) -> None:  # noqa: N802
        self.write(f" {operators[node.op]} ")
        self._visit_within("looked_into", node.expr, frame)

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:  # noqa: N802
        self.write("{")
        for pair in node.items:
            self._visit_within("looked_into", pair.key, frame)
            self.write(": ")
            self.visit(pair.value, frame)
            self.write(", ")
        self.write("}")

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:  # noqa: N802
        if isinstance(node.arg, nodes.Slice):
            self._visit_within("gone_through", node.node, frame)
            self.write("[")
            self.visit(node.arg, frame)
            self.write("]")
        else:
            super().visit_Getitem(node, frame)

    def _visit_within(self, method: str, node: nodes.Node, frame: Frame) -> None:
        self.write(f"environment.{method}(")
        self.visit(node, frame)
        self.write(")")


class MeteredEnvironment(ImmutableSandboxedEnvironment):
    """The sandbox with limits; ``render_metered`` renders its templates.

    Nothing is computed while a template is compiled: without a meter every check fails, and jinja2 then leaves the
    computation to the rendering.
    """

    code_generator_class = MeteredCode
    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "%", "**"))

    def __init__(self, **options: Any) -> None:
        super().__init__(optimized=False, **options)
        self.finalize = self.looked_into
        for name in _REMOVED_GLOBALS:
            del self.globals[name]
        for name in _REMOVED_FILTERS:
            del self.filters[name]
        self.filters = {name: _metered_filter(name, run) for name, run in self.filters.items()}
        for name in _COMPARING & self.tests.keys():
            self.tests[name] = _metered_test(cast(Callable[..., Any], self.tests[name]))

    def add_filter(self, name: str, run: Callable[..., Any]) -> None:
        """Adds a filter of ours."""
        self.filters[name] = _metered_filter(name, run)

    def charge(self, operations: int) -> None:
        """Charges one iteration of a loop."""
        CURRENT.get().charge(operations)

    def counted(self, items: Iterable[Any]) -> Iterable[Any]:
        """The same items, each charged when it is taken."""
        return CURRENT.get().counted(items, deep=False)

    def looked_into(self, value: Any) -> Any:
        """The same value, charged for being shown, compared or hashed with everything in it."""
        CURRENT.get().deep(value)
        return value

    def gone_through(self, value: Any) -> Any:
        """The same value, charged for a part of it being copied."""
        CURRENT.get().shallow(value)
        return value

    def joined(self, join: Callable[[Iterable[Any]], str], parts: tuple[Any, ...]) -> str:
        """``parts`` joined to one text."""
        meter = CURRENT.get()
        meter.text(sum(map(meter.deep, parts)))
        return join(parts)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """See ``SandboxedEnvironment``."""
        if isinstance(argument, tuple):  # it will be hashed
            CURRENT.get().deep(argument)
        return super().getitem(obj, argument)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """See ``SandboxedEnvironment``."""
        check_operator(CURRENT.get(), operator, left, right)
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """See ``SandboxedEnvironment``."""
        meter = CURRENT.get()
        meter.charge(_CALL)
        own = isinstance(obj, Macro | LoopContext | BlockReference)
        for value in (*args, *kwargs.values()):
            (meter.shallow if own else meter.deep)(value)
        if not own:
            args = check_call(meter, obj, args, kwargs)
        result = super().call(context, obj, *args, **kwargs)
        meter.shallow(result)
        return result

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """See ``SandboxedEnvironment``."""
        run = super().wrap_str_format(value)
        if run is None:
            return None

        @wraps(run)
        def metered(*args: Any, **kwargs: Any) -> str:
            check_format(CURRENT.get(), value.__self__, [*args, kwargs])
            return run(*args, **kwargs)

        return metered


def _metered_filter(name: str, run: Callable[..., Any]) -> Callable[..., Any]:
    """The filter with its arguments charged and checked, and its result charged."""
    first = 1 if hasattr(run, "jinja_pass_arg") else 0
    is_deep = name not in _SHALLOW

    @wraps(run)  # keeps jinja2's mark of the context that the filter wants
    def metered(*args: Any, **kwargs: Any) -> Any:
        meter = CURRENT.get()
        meter.charge(_CALL)
        for value in (*args[first:], *kwargs.values()):
            (meter.deep if is_deep else meter.shallow)(value)
        given = [meter.counted(value, is_deep) if isinstance(value, Iterator) else value for value in args[first:]]
        check_filter(meter, name, given, kwargs)
        result = run(*args[:first], *given, **kwargs)
        meter.shallow(result)
        return result

    return metered


def _metered_test(run: Callable[..., Any]) -> Callable[..., Any]:
    """The test with its operands charged."""

    @wraps(run)
    def metered(*args: Any) -> Any:
        for value in args:
            CURRENT.get().deep(value)
        return run(*args)

    return metered
