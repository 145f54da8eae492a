"""Removes personal data from reports: the names of the user and the machine, and paths of files."""

from __future__ import annotations

import getpass
import os
import platform
import re
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from runtime.bundle.device_cache import user_folder

_ROOT = Path(__file__).parents[2]
# Paths that are the same on all machines may stay.
_PUBLIC = ("/sys/", "/proc/")
# An absolute path with a folder in it, in the form of Unix or Windows.
_PATH = re.compile(r"(?<![\w.~>/])(?:[A-Za-z]:[\\/]|/)(?:[^\s\\/:;,'\"()]+[\\/])+[^\s\\/:;,'\"()]*")
_IDENTIFIER = re.compile(r"[0-9a-fA-F]{32,}")
_WORTH_HIDING = 3


def without_names(text: str, bundle: Path | None = None) -> str:
    """``text`` with placeholders for folders, the user and the machine."""
    for folder, placeholder in _folders(bundle):
        for written in (str(folder), os.path.realpath(folder)):
            if len(written) > _WORTH_HIDING:
                text = text.replace(written, placeholder)
    text = _PATH.sub(_hide_path, text)
    text = _IDENTIFIER.sub("ID", text)
    for name, placeholder in _names():
        text = re.sub(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])", placeholder, text, flags=re.IGNORECASE)
    return text


def _folders(bundle: Path | None) -> Iterator[tuple[Path, str]]:
    """Known folders, the innermost first."""
    if bundle is not None:
        yield bundle.absolute(), "BUNDLE"
        if len(bundle.parts) > 1:
            yield bundle, "BUNDLE"
    yield user_folder(), "CACHE"
    yield _ROOT, "PROJECT"
    yield Path(sys.prefix), "PYTHON"
    with suppress(OSError):
        yield Path.cwd(), "HERE"
    yield Path(tempfile.gettempdir()), "TEMPORARY"
    with suppress(RuntimeError):
        yield Path.home(), "HOME"


def _hide_path(match: re.Match[str]) -> str:
    path = match[0]
    return path if path.startswith(_PUBLIC) else "PATH/" + re.split(r"[/\\]", path)[-1]


def _names() -> Iterator[tuple[str, str]]:
    users, hosts = set[str](), {platform.node(), socket.gethostname()}
    with suppress(OSError, KeyError, ImportError):
        users.add(getpass.getuser())
    users |= {os.environ.get(name, "") for name in ("USER", "USERNAME", "LOGNAME", "SUDO_USER")}
    with suppress(RuntimeError):
        users.add(Path.home().name)
    hosts |= {host.partition(".")[0] for host in hosts}
    yield from ((name, "USER") for name in sorted(users) if name)
    yield from ((name, "HOST") for name in sorted(hosts) if name and name != "localhost")
