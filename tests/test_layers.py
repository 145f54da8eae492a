"""Imports point one way: export.manifest, memory, runtime. Only export may load torch and its company."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.places import ROOT

HEAVY = {"torch", "transformers", "onnx", "onnx_ir", "onnxscript", "safetensors", "huggingface_hub", "optimum"}

# What a layer may import of this project; everything else of it lies above.
LOW = ("export.manifest", "export.own_files", "export.untrusted")
ALLOWED = {
    "memory": ("memory", *LOW),
    "runtime": ("runtime", "memory", *LOW),
    "export": ("export",),
}
# These run what they wrote, or teach what will run: they import the runtime inside functions.
LAZY_RUNTIME = (
    "export/__main__.py",
    "export/validation/agreement.py",
    "export/distill/",
    "export/validation/kv_quality.py",
    "export/estimate.py",
    "export/validation/isolated.py",
    "export/graph/native/",
    "export/validation/peak_memory.py",
)


def files_of(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Every module that a file imports, and whether at import time; imports for type checkers do not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    lazy = {node for function in ast.walk(tree) if _is_function(function) for node in ast.walk(function)}
    typing_only = {node for branch in ast.walk(tree) if _is_typing_branch(branch) for node in ast.walk(branch)}
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node not in lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (
                (name if node.module in {"export", "memory", "runtime"} else str(node.module), node not in lazy)
                for name in names
            )


def _is_function(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def _is_typing_branch(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def is_inside(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_point_one_way(package: str) -> None:
    for path in files_of(package):
        place = str(path.relative_to(ROOT))
        for module, at_import in imports(path):
            if not is_inside(module, ("export", "memory", "runtime")):
                continue
            lazy_runtime = not at_import and place.startswith(LAZY_RUNTIME) and is_inside(module, ("runtime", "memory"))
            assert is_inside(module, ALLOWED[package]) or lazy_runtime, f"{place} imports {module}"


@pytest.mark.parametrize("package", ["memory", "runtime"])
def test_the_lower_layers_do_not_name_torch(package: str) -> None:
    for path in files_of(package):
        for module, _ in imports(path):
            assert module.split(".")[0] not in HEAVY, f"{path.relative_to(ROOT)} imports {module}"


@pytest.mark.parametrize(
    "place", [*files_of("memory"), *(ROOT / f"{name.replace('.', '/')}.py" for name in LOW)], ids=lambda path: path.name
)
def test_the_memory_layer_needs_the_standard_library_alone(place: Path) -> None:
    """But for drawing, when somebody asks for a picture."""
    own = {"export", "memory"}
    for module, at_import in imports(place):
        if module.startswith("matplotlib.") and place.name == "curve.py" and not at_import:
            continue
        assert module.split(".")[0] in sys.stdlib_module_names | own, f"{place.name} imports {module}"


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
