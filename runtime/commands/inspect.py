"""``python -m runtime inspect``: the content of a bundle, and whether its files are the exported ones."""

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
    from memory.device import read_device
    from memory.planner import make_plan
    from runtime.bundle.foreign import check_bundle, is_foreign, read_bundle
    from runtime.commands.bundle_summary import describe, describe_lines
    from runtime.kernels.selection import Chooser
    from runtime.kernels.weights.verification import refuse_damage

    manifest = read_bundle(options.bundle)
    check_bundle(options.bundle, manifest, options.verify)
    if is_foreign(options.bundle):
        verified = "written by another builder, which lists no hashes"
    elif options.verify:
        refuse_damage(options.bundle, manifest)
        verified = "all hashes are right"
    else:
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
