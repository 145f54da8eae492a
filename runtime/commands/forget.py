"""``python -m runtime forget``: erases a suffix store."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("store", type=Path, metavar="FILE", help="the file that --suffix-store named")


def run(options: argparse.Namespace) -> int:
    """Deletes the store with its damaged copies and its lock. What may be something else is left, and named."""
    from runtime.drafters.store_file import erase

    erased = erase(options.store)
    if erased.files or not erased.left:
        print(f"erased {options.store}" if erased.files else f"there is nothing at {options.store}")
    for path in erased.left:
        print(f"{path} stays: it does not begin as a store does; delete it yourself if it was one")
    return 0
