"""The file that keeps what a user typed, for the arrow keys of the next conversation. Nobody else may read it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# A file of this size is cut to its latest half when it is opened.
_MOST_BYTES = 2 << 20
_NAME = "chat_history"


def history_path() -> Path | None:
    """The file's place in the user's folder for state, by the rules of the system; None for a user without a home."""
    try:
        return _state_folder() / _NAME
    except RuntimeError:
        return None


def _state_folder() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home()) / "pocketspec"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "pocketspec"
    named = Path(os.environ.get("XDG_STATE_HOME", ""))  # relative ones count as unset, says the standard
    return (named if named.is_absolute() else Path.home() / ".local" / "state") / "pocketspec"


def prepare(path: Path) -> None:
    """Makes the file and its folder if they are not there, for this user alone, and cuts a file that grew too long.

    OSError if that is impossible.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = os.open(path, os.O_CREAT | os.O_RDWR | os.O_APPEND, 0o600)
    try:
        if sys.platform != "win32":
            os.fchmod(file, 0o600)
        if os.fstat(file).st_size > _MOST_BYTES:
            _cut(path)
    finally:
        os.close(file)


def _cut(path: Path) -> None:
    """Keeps the latest entries; each begins with an empty line and a comment."""
    data = path.read_bytes()[-_MOST_BYTES // 2 :]
    entry = data.find(b"\n\n# ")
    path.write_bytes(data[entry + 1 :] if entry >= 0 else b"")
