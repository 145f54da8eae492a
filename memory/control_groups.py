"""Control groups of Linux: the folders with the limits of this process, for both versions of their interface."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def group_folders(root: Path, controller: str) -> Iterator[tuple[int, Path]]:
    """Every group that this process is in, the outer ones included, as (version of the interface, folder).

    Only folders in which ``controller`` ("memory" or "cpu") may have limits; they need not exist. ``root`` is the
    folder of ``proc`` and ``sys``. Inside a container the path of its group may be missing; the group then lies where
    the groups are mounted.
    """
    for version, base, group in _places(root, controller):
        # Seen from inside a namespace, a group outside of it is called "/../name".
        inner = Path(group.strip("/"))
        if ".." not in inner.parts:
            yield from ((version, base / folder) for folder in (inner, *inner.parents) if folder != Path())
        yield version, base


def _places(root: Path, controller: str) -> Iterator[tuple[int, Path, str]]:
    """Version, folder where groups are mounted, and our group in it. A system may have both versions at once."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return
    base = root / "sys/fs/cgroup"
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if controllers == "":
            yield 2, base, group
            yield 2, base / "unified", group
        elif controller in controllers.split(","):
            # Mounted by itself or with others that share its groups ("cpu,cpuacct").
            yield from ((1, base / name, group) for name in dict.fromkeys((controller, controllers)))
