"""``python -m runtime forget``: erases a suffix store."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("store", type=Path, metavar="FILE", help="the file that --suffix-store named")


def run(options: argparse.Namespace) -> int:
    """Deletes the store with its damaged copies and its lock. What is no suffix store is left as it is."""
    from runtime.drafters.store_file import erase

    count = erase(options.store)
    print(f"erased {options.store}" if count else f"there is nothing at {options.store}")
    return 0
