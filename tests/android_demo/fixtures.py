"""Writes what the engine's tests of texts compare with: ``python -m tests.android_demo.fixtures``.

The gate has few texts and conversations; the long form has 2,000 texts of each tokenizer.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from android_demo.check import text_fixtures
from tests.android_demo import expression_fixtures, history_fixtures, template_fixtures


def write(texts: int, conversations: int, templates: Path | None = None) -> tuple[int, int]:
    """Writes the files to where the tests look for them; returns the numbers of tokenizers and templates."""
    expression_fixtures.write(expression_fixtures.FOLDER, 20 * conversations)
    history_fixtures.write(history_fixtures.FOLDER, conversations)
    tokenizers = text_fixtures.write(text_fixtures.FOLDER, texts)
    return tokenizers, template_fixtures.write(template_fixtures.FOLDER, conversations, templates)


def main(words: Sequence[str] | None = None) -> int:
    """Writes as many as the gate has, or as are asked for."""
    parser = argparse.ArgumentParser("python -m tests.android_demo.fixtures", description=__doc__)
    parser.add_argument("--texts", type=int, default=text_fixtures.FEW, help="texts of each tokenizer")
    parser.add_argument("--conversations", type=int, default=3, help="drawn conversations of each template")
    parser.add_argument("--templates", type=Path, help="a folder with further templates, *.jinja")
    chosen = parser.parse_args(words)
    tokenizers, templates = write(chosen.texts, chosen.conversations, chosen.templates)
    sys.stdout.write(f"{tokenizers} tokenizers and {templates} templates\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
