"""``python -m memory plans``: every plan of a bundle, for programs that choose one without a planner."""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import replace
from pathlib import Path

from export.manifest import FileEntry, Manifest, PocketspecError, read_manifest, write_manifest
from export.own_files import write_whole
from memory.choices import Request
from memory.plan_table import DEFAULT_THREADS, FILE_NAME, dump_table
from memory.size import show_bytes

_MOST_THREADS = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder written by python -m export")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE.json",
        help=f"write the table here (default: {FILE_NAME} in the bundle, listed in its manifest)",
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=DEFAULT_THREADS,
        metavar="N",
        help="most threads of an engine that obeys the plans (default: %(default)s)",
    )
    parser.add_argument("--drafter", action="append", metavar="NAME", help="plan with this one; 'none': no drafter")
    parser.add_argument("--shape", choices=("chain", "tree"), help="of drafts (default: the faster one)")
    parser.add_argument("--draft-size", type=int, metavar="N", help="most nodes of a draft (default: planned)")


def run(options: argparse.Namespace) -> int:
    """Writes the table."""
    if not 1 <= options.threads <= _MOST_THREADS:
        raise PocketspecError(f"--threads {options.threads}: allowed are 1 to {_MOST_THREADS}")
    manifest = read_manifest(options.bundle)
    drafters = None if options.drafter is None else tuple(name for name in options.drafter if name != "none")
    request = Request(threads=options.threads, drafters=drafters, shape=options.shape, nodes=options.draft_size)
    table = dump_table(manifest, request).encode()
    path = options.output or options.bundle / FILE_NAME
    try:
        write_whole(path, table)
        if options.output is None:
            write_manifest(options.bundle, _listing(manifest, table))
    except OSError as error:
        raise PocketspecError(f"cannot write {path}: {error.strerror}; name another file with --output") from None
    print(f"plans of {manifest.name}: {path}, {show_bytes(len(table))}")
    return 0


def _listing(manifest: Manifest, table: bytes) -> Manifest:
    """``manifest``, which lists the table: so it is hashed with the bundle's other files."""
    entry = FileEntry(len(table), hashlib.sha256(table).hexdigest())
    return replace(manifest, files={**manifest.files, FILE_NAME: entry})
