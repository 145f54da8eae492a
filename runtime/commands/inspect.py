"""``python -m runtime inspect``: what is in a bundle, and whether its files are those exported."""

from __future__ import annotations

import argparse
import json

from memory.options import make_request
from runtime.commands import options as shared


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    shared.add_bundle(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(options: argparse.Namespace) -> int:
    """Verifies, then shows."""
    from export.manifest import verify_files
    from memory.device import read_device
    from memory.planner import make_plan
    from runtime.foreign import is_foreign, read_bundle
    from runtime.inspect import describe, describe_lines
    from runtime.kernels.choice import Chooser
    from runtime.record import check_files

    manifest = read_bundle(options.bundle)
    if is_foreign(options.bundle):
        verified = "written by another builder, which lists no hashes"
    elif options.verify:
        verify_files(options.bundle, manifest)
        verified = "all hashes are right"
    else:
        check_files(options.bundle, manifest)
        verified = "hashes were right when first opened, and nothing has changed since"
    device = read_device()
    plan = make_plan(manifest, device, make_request(options, device))
    chooser = Chooser(options.kernels)
    kernels = {level.name: chooser.expect(level) for level in manifest.levels}
    if options.json:
        print(json.dumps(describe(manifest, plan, verified, kernels), indent=2))
    else:
        print("\n".join(describe_lines(manifest, plan, verified, kernels)))
    return 0
