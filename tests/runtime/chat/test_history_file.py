"""What a user typed is kept in the user's own folder, for the user alone, and does not grow for ever."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from prompt_toolkit.history import FileHistory

from runtime.chat import history_file
from runtime.chat.history_file import history_path, prepare


def test_the_place_follows_the_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert history_path() == tmp_path / "home/.local/state/pocketspec/chat_history"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert history_path() == tmp_path / "pocketspec/chat_history"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert history_path() == tmp_path / "home/.local/state/pocketspec/chat_history"
    monkeypatch.setattr("sys.platform", "darwin")
    assert history_path() == tmp_path / "home/Library/Application Support/pocketspec/chat_history"
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert history_path() == tmp_path / "local/pocketspec/chat_history"


def test_a_user_without_a_home_keeps_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", fail)
    assert history_path() is None


@pytest.mark.skipif(os.name != "posix", reason="rights of files are POSIX's")
def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    file = tmp_path / "made" / "chat_history"
    prepare(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    file.chmod(0o644)
    prepare(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_long_history_keeps_its_latest_entries(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(history_file, "_MOST_BYTES", 1000)
    file = tmp_path / "chat_history"
    prepare(file)
    history = FileHistory(str(file))
    for number in range(40):
        history.store_string(f"entry {number}\nof two lines")
    prepare(file)
    assert file.stat().st_size <= 500
    kept = list(FileHistory(str(file)).load_history_strings())
    assert kept == [f"entry {number}\nof two lines" for number in range(39, 39 - len(kept), -1)]
    assert len(kept) > 5
