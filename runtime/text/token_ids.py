"""Replaces the tokenizer of a bundle that has none: texts are token ids, "1 15 27".

Bundles of random weights are made without a download, and some checkpoints lack ``tokenizer.json``. They still run and
can be timed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from runtime.text.tokenizer import Tokenizer, TokenizerError


def open_tokenizer(bundle: Path) -> Tokenizer:
    """The tokenizer of a bundle, or one that reads and writes token ids."""
    return Tokenizer.open(bundle) if has_tokenizer(bundle) else TokenIds(bundle)


def has_tokenizer(bundle: Path) -> bool:
    """Whether the bundle has a tokenizer for texts."""
    return (bundle / "tokenizer.json").is_file()


class TokenIds(Tokenizer):
    """A tokenizer whose texts are token ids with spaces between them."""

    reads_text = False

    def __init__(self, bundle: Path) -> None:
        self._bundle = bundle
        self.template, self.byte_tokens = None, {}

    @property
    def entries(self) -> int:
        """See ``Tokenizer``. There are none."""
        return 0

    @property
    def special_tokens(self) -> dict[str, int]:
        """See ``Tokenizer``."""
        return {}

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """The ids in ``text``; TokenizerError says what to do for any other text."""
        try:
            return [int(word) for word in text.split()]
        except ValueError:
            raise TokenizerError(
                f"{self._bundle} has no tokenizer.json and takes token ids alone, as in '1 15 27'; for texts, save its"
                " model's tokenizer there, with transformers: AutoTokenizer.from_pretrained(MODEL).save_pretrained"
                f"({str(self._bundle)!r})"
            ) from None

    def encode_rest(self, text: str, start: int, before: Sequence[int] = ()) -> list[int]:
        """See ``Tokenizer``."""
        return self.encode(text[start:])

    def encode_behind(self, text: str) -> list[int]:
        """See ``Tokenizer``."""
        return self.encode(text)

    def token(self, token: int) -> str:
        """See ``Tokenizer``."""
        return f"<{token}>"

    def token_bytes(self, token: int) -> bytes:
        """The id, in digits."""
        return str(token).encode()

    def decode_window(self, tokens: Sequence[int]) -> str:
        """The ids, separated by spaces."""
        return " ".join(map(str, tokens))
