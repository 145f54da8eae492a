"""Modules of this project in processes of their own: what crashes or takes memory there does so there alone."""

from __future__ import annotations

import subprocess

from memory.child import command, environment


def run_module(module: str, *arguments: str, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
    """Runs ``python -m module`` to its end, apart from the current folder. An interruption ends it, too.

    Raises what ``subprocess.run`` does if it cannot be started or takes longer than ``timeout`` seconds.
    """
    words = command(module, *arguments)
    return subprocess.run(words, capture_output=True, text=True, check=False, env=environment(), timeout=timeout)


def crash_of(done: subprocess.CompletedProcess[str]) -> str | None:
    """How a process ended that should have ended with 0; None if it did."""
    if done.returncode == 0:
        return None
    if done.returncode < 0:
        return f"it crashed with signal {-done.returncode}"
    lines = done.stderr.strip().splitlines()
    return f"it ended with code {done.returncode}: {lines[-1] if lines else 'no message'}"
