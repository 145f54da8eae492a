"""``python -m runtime doctor``: examines this device and a bundle, and says what to do about problems."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from export.manifest import PocketspecError
from runtime.commands import options as shared

if TYPE_CHECKING:
    from runtime.doctor.finding import Section

_SOMETHING_TO_DO = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.epilog = "exit code: 0 all is well, 1 there is something to do, 2 the command was given wrongly"
    parser.add_argument(
        "bundle", nargs="?", type=Path, metavar="BUNDLE", help="also open this bundle and let it answer"
    )
    parser.add_argument(
        "--report", type=Path, metavar="FILE", help="also write it to FILE, without names of folders, user and machine"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(options: argparse.Namespace) -> int:
    """Examines, prints and, if asked to, writes a report; exit code 1 if there is something to do."""
    from runtime.doctor.finding import advice_in, section_lines
    from runtime.doctor.privacy import without_names

    if options.report is not None and not options.report.absolute().parent.is_dir():
        raise PocketspecError(f"--report {options.report}: there is no folder {options.report.parent}; make it first")
    sections = examine(options.bundle)
    text = "\n".join(section_lines(sections))
    if options.json:
        print(json.dumps({"sections": [asdict(each) for each in sections], "advice": advice_in(sections)}, indent=2))
    else:
        print(text)
    if options.report is not None:
        shared.write_report(options.report, without_names(text, options.bundle))
        shared.say(f"wrote {options.report}: look through it before you send it to anyone")
    return _SOMETHING_TO_DO if advice_in(sections) else 0


def examine(bundle: Path | None) -> Sequence[Section]:
    """All sections, the bundle's last."""
    from runtime.doctor.caches import caches_section
    from runtime.doctor.machine import machine_section, memory_section
    from runtime.doctor.software import kernels_section, versions_section

    sections = [machine_section(), memory_section(), versions_section(), kernels_section(), caches_section(bundle)]
    if bundle is not None:
        from runtime.doctor.bundle import bundle_section

        sections.append(bundle_section(bundle))
    return sections
