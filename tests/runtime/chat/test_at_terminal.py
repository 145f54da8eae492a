"""``python -m runtime chat`` at a terminal: keys in, text out, Ctrl-C, and the history of the next conversation."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from export.manifest import FILE_NAME, dump_manifest, read_manifest
from runtime.__main__ import main
from runtime.chat.history_file import history_path
from runtime.chat.line_reader import LineReader, PlainReader
from tests.runtime.chat.terminal import ALT_ENTER, CTRL_C, CTRL_D, CTRL_J, ENTER, UP, Terminal


@pytest.fixture
def endless_bundle(random_bundle: Path, tmp_path: Path) -> Path:
    """The random bundle without an end token: an answer goes on until somebody stops it."""
    folder = shutil.copytree(random_bundle, tmp_path / "bundle")
    manifest = read_manifest(folder)
    levels = tuple(replace(level, vocabulary=replace(level.vocabulary, eos_token_ids=())) for level in manifest.levels)
    (folder / FILE_NAME).write_text(dump_manifest(replace(manifest, levels=levels)), encoding="utf-8")
    return folder


@pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals are POSIX's")
def test_a_conversation_at_a_terminal(endless_bundle: Path, tmp_path: Path) -> None:
    words = ["runtime", "chat", str(endless_bundle), "--threads", "1", "--when-full", "slide", "--no-speculation"]
    environment = {"XDG_STATE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    with Terminal(words, environment) as terminal:
        terminal.wait_for("Ctrl-D ends")
        terminal.wait_for("context 0 of 512")
        terminal.type("Hello" + ENTER)
        terminal.wait_for("outgrew its context")
        terminal.type(CTRL_C)
        terminal.wait_for("note: stopped; the conversation keeps the answer")
        terminal.wait_for("tokens/s · context ")
        terminal.type("/undo" + ENTER)
        terminal.wait_for("taken back: Hello\n")
        terminal.wait_for("tokens/s · context ")
        terminal.paste("one\ntwo")
        terminal.type(CTRL_J + "three" + ALT_ENTER + "four" + ENTER)
        terminal.wait_for("outgrew its context")
        terminal.type(CTRL_C)
        terminal.wait_for("note: stopped")
        terminal.wait_for("tokens/s · context ")
        terminal.type("/frobnicate" + ENTER)
        terminal.wait_for("error: no command /frobnicate; /help lists them")
        terminal.wait_for("tokens/s · context ")
        terminal.type("dropped" + CTRL_C + "/undo" + ENTER)
        terminal.wait_for("taken back: one two three four\n")
        terminal.wait_for("tokens/s · context ")
        terminal.type(UP + CTRL_C + CTRL_D)
        assert terminal.wait_for_end() == 0
        assert "what else runs in it is not in the plan" not in terminal.text
    kept = next(tmp_path.rglob("chat_history")).read_text(encoding="utf-8")
    assert "+one\n+two\n+three\n+four\n" in kept
    assert "dropped" not in kept


@pytest.mark.parametrize("is_kept", [True, False])
def test_a_history_is_kept_unless_none_is_wanted(
    random_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_kept: bool
) -> None:
    places: list[Path | None] = []

    def note(history: Path | None, note: Callable[[str], None]) -> LineReader:
        places.append(history)
        return PlainReader()

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr("runtime.chat.readers.open_reader", note)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert main(["chat", str(random_bundle), "--threads", "1", *([] if is_kept else ["--no-history"])]) == 0
    assert places == [history_path() if is_kept else None]
