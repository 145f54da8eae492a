"""The Kotlin sources of the demo as text: packages, what they name of the project, and their tests."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from android_demo.check.places import DEMO, ENGINE

_COMMENT = re.compile(r'"""(?:.|\n)*?"""|"(?:\\.|[^"\\\n])*"|//[^\n]*|/\*(?:.|\n)*?\*/')
_NAMED = re.compile(r"\bdev\.pocketspec\.(\w+)")
_TEST = re.compile(r"@Test\b[^\n]*\n(?:\s*@[^\n]*\n)*\s*(?:internal |public )?fun (?:`([^`]+)`|(\w+))")
_CLASS = re.compile(r"^(?:open |internal )*class (\w+Test)\b", re.MULTILINE)


@dataclass(frozen=True)
class KotlinFile:
    """One source file."""

    path: Path
    text: str

    @property
    def code(self) -> str:
        """The text without comments and literals."""
        return _COMMENT.sub(" ", self.text)

    @property
    def package(self) -> str:
        """The package it says it lies in."""
        return self.code.split("package ", 1)[1].split(None, 1)[0]

    def named(self) -> set[str]:
        """The rooms, or names at the root, that it names."""
        return set(_NAMED.findall(self.code.replace(f"package {self.package}", "")))

    def tests(self) -> list[str]:
        """Its tests, as "Class.method"."""
        found = _CLASS.search(self.code)
        return [f"{found[1]}.{quoted or plain}" for quoted, plain in _TEST.findall(self.text)] if found else []


def read(folder: Path) -> list[KotlinFile]:
    """The sources below a folder."""
    return [KotlinFile(path, path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("*.kt"))]


MAIN = ENGINE / "main" / "kotlin"
TESTS = ENGINE / "test" / "kotlin"
APP_SOURCES = DEMO / "app" / "src" / "main" / "kotlin"
