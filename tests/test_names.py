"""A name means one thing: a class shares its name with no other class or alias, leading underscores aside."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from tests.test_layers import PACKAGES, files_of, place_of


def _types(path: Path) -> Iterator[tuple[str, int, bool]]:
    """Name, line, and whether it is a class: every class of a file, and every capitalized name that it assigns."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield node.name, node.lineno, True
    for node in tree.body:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name) and _is_type(target.id.lstrip("_")):
                    yield target.id, node.lineno, False


def _is_type(name: str) -> bool:
    return name[:1].isupper() and not name.isupper()


def test_no_class_shares_its_name() -> None:
    places, classes = defaultdict[str, list[str]](list), set[str]()
    for package in PACKAGES:
        for path in files_of(package):
            for name, line, is_class in _types(path):
                places[name.lstrip("_")].append(f"{place_of(path)}:{line}")
                classes |= {name.lstrip("_")} if is_class else set()
    assert len(classes) > 300
    assert {name: places[name] for name in classes if len(places[name]) > 1} == {}
