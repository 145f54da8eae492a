"""A terminal for a program: a pseudo-terminal with a keyboard and what was shown, as people at one have it."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
from collections.abc import Mapping, Sequence
from time import monotonic

from tests.places import ROOT

CTRL_C, CTRL_D, CTRL_J, ENTER, ALT_ENTER, UP = "\x03", "\x04", "\x0a", "\r", "\x1b\r", "\x1b[A"
# A hang ends here; nothing that works takes so long.
_SECONDS = 120
_ROWS, _COLUMNS = 40, 120
# Makes the terminal that of the process, so that Ctrl-C is a signal to it, and becomes the program.
_LOGIN = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
# Programs ask where the cursor is; the answer is always the top left.
_WHERE, _TOP = b"\x1b[6n", "\x1b[1;1R"
_SEQUENCE = re.compile(r"\x1b(?:\[[0-9;?]*[a-zA-Z]|\][^\x07]*\x07|[=>])")


class Terminal:
    """Runs ``python -m`` with ``words`` in a terminal of its own; ``shown`` is all that it wrote, with sequences."""

    def __init__(self, words: Sequence[str], environment: Mapping[str, str]) -> None:
        import pty
        import termios

        self._master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (_ROWS, _COLUMNS))
        command = [sys.executable, "-c", _LOGIN, sys.executable, "-m", *words]
        env = {**os.environ, "TERM": "xterm", **environment}
        env.pop("NO_COLOR", None)
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=env, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
        )
        os.close(slave)
        self.shown, self._seen = "", 0

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)

    def type(self, text: str) -> None:
        """Presses keys."""
        os.write(self._master, text.encode())

    def paste(self, text: str) -> None:
        """Pastes text as terminals do for programs that asked for it ("bracketed paste")."""
        self.type(f"\x1b[200~{text}\x1b[201~")

    def wait_for(self, text: str) -> str:
        """Waits until ``text`` appears behind what was waited for before; returns what appeared up to it, as text."""
        deadline = monotonic() + _SECONDS
        while (place := self._new.find(text)) < 0:
            assert monotonic() < deadline, f"{text!r} did not appear behind {self._new!r}"
            assert self._read(), f"it ended without {text!r}: {self._new!r}"
        found = self._new[: place + len(text)]
        self._seen += len(found)
        return found

    def wait_for_end(self) -> int:
        """The exit code, once the program has ended."""
        while self._read():
            pass
        return self.process.wait(_SECONDS)

    @property
    def text(self) -> str:
        """What was shown, without escape sequences, and with plain line breaks."""
        return _SEQUENCE.sub("", self.shown).replace("\r\n", "\n")

    @property
    def _new(self) -> str:
        return self.text[self._seen :]

    def _read(self) -> bool:
        """Reads more of what is shown; False at the end."""
        ready, _, _ = select.select([self._master], [], [], 1)
        if not ready:
            return self.process.poll() is None
        try:
            data = os.read(self._master, 1 << 16)
        except OSError:  # Linux's way to say that nobody has the terminal open any more
            return False
        self.shown += data.decode(errors="replace")
        for _ in range(data.count(_WHERE)):
            self.type(_TOP)
        return bool(data)
