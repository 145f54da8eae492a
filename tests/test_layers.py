"""Imports point one way: from package to package, from room to room, and never in a circle.

``export.manifest`` and what it is made of lie lowest, as does ``export.perplexity``; then ``memory``, ``runtime``,
``export``. Only ``export`` may load torch and its company. Imports for type checkers count like others; those inside
functions count, too, unless they are listed here with a reason.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from tests.places import ROOT

PACKAGES = ("android_demo", "export", "memory", "runtime")
HEAVY = {"torch", "transformers", "onnx", "onnx_ir", "onnxscript", "safetensors", "huggingface_hub", "optimum"}

# What a package may import of this project; everything else of it lies above.
LOW = ("export.manifest", "export.bundle_files", "export.records", "export.own_files", "export.untrusted")
# Lies as low, but needs NumPy.
NUMERIC = ("export.perplexity",)
ALLOWED = {
    "memory": ("memory", *LOW),
    "runtime": ("runtime", "memory", *LOW, *NUMERIC),
    "export": ("export", "memory"),
    "android_demo": ("android_demo", "export", "memory", "runtime"),
}
# These run what they wrote, or teach what will run: they import the runtime inside functions.
LAZY_RUNTIME = (
    "export/distill/",
    "export/graph/native/",
    "export/validation/agreement.py",
    "export/validation/isolated.py",
    "export/validation/kv_quality.py",
)

# The rooms of a package, lowest first; a room is a folder, or a file at the root. Those of one line do not import one
# another, and nothing imports from a line below its own.
ROOMS = {
    "export": (
        "untrusted own_files perplexity",
        "records",
        "manifest",
        "bundle_files",
        "sources",
        "heads",
        "graph quantization",
        "validation writer",
        "request",
        "estimate report",
        "tasks",
        "level",
        "bundle",
        "distill",
        "__main__",
    ),
    "runtime": (
        "errors arguments process hardware arrays",
        "bundle text",
        "decoding",
        "kernels constraints",
        "models",
        "drafters",
        "scheduler",
        "calibration",
        "speculation",
        "opening context_overflow memory_watcher turns",
        "open_models",
        "sessions",
        "engine",
        "conversation perplexity",
        "chat doctor bench",
        "server",
        "commands",
        "__init__",
        "__main__",
    ),
}
# Imports against the order, inside functions alone: (file, module imported), and why.
UPWARD = {
    ("runtime/bench/memory/empty_process.py", "runtime.__main__"): "it measures what every command loads",
}


@dataclass(frozen=True)
class Import:
    """One import: the module or name, the line, and whether it runs when the file is imported."""

    module: str
    line: int
    at_import: bool


def files_of(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@cache
def imports(path: Path) -> tuple[Import, ...]:
    """Every import of a file; ``from a import b`` counts as the module ``a.b``, which may be a name in ``a``."""
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[Import]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    lazy = {node for function in ast.walk(tree) if _is_function(function) for node in ast.walk(function)}
    typing = {node for branch in ast.walk(tree) if _is_typing_branch(branch) for node in ast.walk(branch)}
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            yield Import(name, node.lineno, node not in lazy and node not in typing)  # type: ignore[attr-defined]


def _is_function(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def _is_typing_branch(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def place_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def is_inside(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


@pytest.mark.parametrize("package", ALLOWED)
def test_packages_import_one_way(package: str) -> None:
    for path in files_of(package):
        place = place_of(path)
        for found in imports(path):
            if not is_inside(found.module, PACKAGES) or is_inside(found.module, ALLOWED[package]):
                continue
            places = LAZY_RUNTIME if not found.at_import and is_inside(found.module, ("runtime",)) else ()
            assert place.startswith(places), f"{place}:{found.line} imports {found.module}"


def room_of(module: str) -> str:
    """The room that a module of a package lies in; names that the package itself gives are its ``__init__``'s."""
    package, *rest = module.split(".")
    here = ROOT / package
    if rest and ((here / rest[0]).is_dir() or (here / f"{rest[0]}.py").is_file()):
        return rest[0]
    return "__init__"


@pytest.mark.parametrize("package", ROOMS)
def test_rooms_import_one_way(package: str) -> None:
    order = {room: number for number, line in enumerate(ROOMS[package]) for room in line.split()}
    used = set()
    for path in files_of(package):
        place, inner = place_of(path), path.relative_to(ROOT / package)
        room = inner.parts[0].removesuffix(".py")
        if room == "__init__" and room not in order:
            continue
        assert room in order, f"{place} lies in no room that has a place in the order"
        for found in imports(path):
            other = room_of(found.module)
            if found.module.split(".")[0] != package or other == room or order[other] < order[room]:
                continue
            exceptions = {key for key in UPWARD if key[0] == place and is_inside(found.module, (key[1],))}
            assert exceptions, f"{place}:{found.line}: {room} imports {found.module} of {other}"
            assert not found.at_import, f"{place}:{found.line}: exceptions are for imports inside functions"
            used |= exceptions
    assert used == {key for key in UPWARD if key[0].startswith(f"{package}/")}, "an exception is no longer needed"


def test_no_files_import_one_another_in_a_circle() -> None:
    files = {module_of(path): path for package in PACKAGES for path in files_of(package)}
    graph = {
        name: {file_of(found.module, files) for found in imports(path)} - {name, ""} for name, path in files.items()
    }
    for circle in circles(graph):
        raise AssertionError(f"these import one another: {', '.join(sorted(circle))}")


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def file_of(module: str, files: dict[str, Path]) -> str:
    """The module of this project that an import reads; empty for others."""
    while module and module not in files:
        module = module.rpartition(".")[0]
    return module


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """The sets of modules that import one another, directly or through others."""
    reached = {name: reachable(graph, name) for name in graph}
    found = list[set[str]]()
    for name in graph:
        circle = {other for other in reached[name] if name in reached[other]}
        if circle and circle not in found:
            found.append(circle)
    return found


def reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    reached, waiting = set[str](), [start]
    while waiting:
        for other in graph[waiting.pop()] - reached:
            reached.add(other)
            waiting.append(other)
    return reached


def test_a_circle_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [{"b", "c"}]


@pytest.mark.parametrize("package", ["memory", "runtime"])
def test_the_lower_layers_do_not_name_torch(package: str) -> None:
    for path in files_of(package):
        for found in imports(path):
            assert found.module.split(".")[0] not in HEAVY, f"{place_of(path)}:{found.line} imports {found.module}"


@pytest.mark.parametrize(
    "place", [*files_of("memory"), *(ROOT / f"{name.replace('.', '/')}.py" for name in LOW)], ids=lambda path: path.name
)
def test_the_memory_layer_needs_the_standard_library_alone(place: Path) -> None:
    """But for what is shown, inside functions: a picture, a progress bar."""
    own = {"export", "memory"}
    shown = {"curve.py": {"matplotlib"}, "progress_bars.py": {"rich"}}.get(place.name, set())
    for found in imports(place):
        allowed = own | sys.stdlib_module_names | (set() if found.at_import else shown)
        assert found.module.split(".")[0] in allowed, f"{place.name} imports {found.module}"


def test_every_module_of_the_runtime_loads_without_torch() -> None:
    """In a fresh process in which importing any of the heavy packages fails."""
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files_of("runtime")]
    wanted = [module.removesuffix(".__init__") for module in modules]
    program = (
        f"import sys\nfor name in {sorted(HEAVY)!r}: sys.modules[name] = None\n"
        f"import importlib\nfor name in {wanted!r}: importlib.import_module(name)\n"
        "from runtime import Engine, GenerationStats, SamplingParams, TextChunk\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_help_and_refusals_do_not_load_onnx_runtime() -> None:
    program = (
        "import sys\nfrom runtime.__main__ import main\n"
        "try:\n    main(['generate', '--help'])\nexcept SystemExit:\n    pass\n"
        "assert not {'onnxruntime', 'numpy', 'tokenizers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
