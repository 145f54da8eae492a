"""Who proposed which characters of an answer: the extension ``token_sources``."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from typing_extensions import TypedDict

from runtime.decoding.text_chunks import TextPiece


class TokenSource(TypedDict):
    """A piece of text and who proposed it: "target" or the name of a drafter."""

    text: str
    source: str


class TokenSources:
    """The pieces of one answer, from which the parts of it take theirs."""

    def __init__(self) -> None:
        self._pieces: deque[TextPiece] = deque()

    def add(self, pieces: Iterable[TextPiece]) -> None:
        """Adds pieces that follow those before."""
        self._pieces.extend(pieces)

    def take(self, length: int) -> list[TokenSource]:
        """The sources of the next ``length`` characters, neighbours of one source together."""
        found: list[TokenSource] = []
        while length > 0:
            text, source = self._pieces.popleft()
            if len(text) > length:
                self._pieces.appendleft(TextPiece(text[length:], source))
                text = text[:length]
            length -= len(text)
            if found and found[-1]["source"] == source:
                found[-1]["text"] += text
            else:
                found.append({"text": text, "source": source})
        return found
