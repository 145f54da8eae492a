"""The project's pages of text, and what they claim: commands, links, and paths of modules."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.places import ROOT

# The changelog tells of commands as they were.
HISTORY = "CHANGELOG.md"
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_CODE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_LINK = re.compile(r"\]\(([^)\s]+)\)|\b(?:src|srcset|href)=\"([^\"]+)\"")
_PATH = re.compile(r"(?:android_demo|export|memory|runtime|tests|docs)/[\w./-]*")
_MODULE = re.compile(r"(?:android_demo|export|memory|runtime)(?:\.\w+)+")


@dataclass(frozen=True)
class Command:
    """One command of a page. ``mentioned``: it stands in a sentence, perhaps without its arguments."""

    page: str
    words: tuple[str, ...]
    mentioned: bool

    def __str__(self) -> str:
        return f"{self.page}: {shlex.join(self.words)}"


@dataclass(frozen=True)
class Page:
    """A Markdown file; ``name`` is its path inside the project."""

    name: str
    text: str

    def blocks(self, language: str) -> list[str]:
        """The code blocks in a language."""
        return [code for found, code in _FENCE.findall(self.text) if found == language]

    def commands(self) -> Iterator[Command]:
        """Everything that a shell would run, of code blocks and of sentences."""
        for block in self.blocks("sh"):
            for line in block.replace("\\\n", "").splitlines():
                if words := shlex.split(line, comments=True):
                    yield Command(self.name, tuple(words), mentioned=False)
        for code in self._spans():
            if code.startswith(("python -m ", "make ", "pytest ")):
                yield Command(self.name, tuple(shlex.split(code)), mentioned=True)

    def links(self) -> list[str]:
        """Targets of links and pictures inside the project."""
        found = [link or picture for link, picture in _LINK.findall(self._prose())]
        return [target for target in found if "://" not in target]

    def paths(self) -> list[str]:
        """Files and folders that are named in backticks."""
        return [code for code in self._spans() if _PATH.fullmatch(code)]

    def modules(self) -> list[str]:
        """Modules, or what is in them, that are named in backticks with dots."""
        return [code for code in self._spans() if _MODULE.fullmatch(code)]

    def anchors(self) -> set[str]:
        """What links may point at: its headings, as GitHub names them."""
        headings = re.findall(r"^#+ (.+)$", self._prose(), re.MULTILINE)
        names = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
        return {f"{name}-{names[:place].count(name)}".removesuffix("-0") for place, name in enumerate(names)}

    def _prose(self) -> str:
        return _FENCE.sub("", self.text)

    def _spans(self) -> list[str]:
        return [" ".join(code.split()) for code in _CODE.findall(self._prose())]


def read_pages() -> list[Page]:
    """All pages: those at the root, and those beside packages."""
    files = [*ROOT.glob("*.md"), *ROOT.glob("android_demo/*.md")]
    files += (file for place in ("docs", "export", "memory", "runtime") for file in _below(place))
    return [Page(file.relative_to(ROOT).as_posix(), file.read_text(encoding="utf-8")) for file in sorted(files)]


def _below(place: str) -> Iterator[Path]:
    return (ROOT / place).rglob("*.md")
