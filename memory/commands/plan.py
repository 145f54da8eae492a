"""``python -m memory plan``: decides every size for a bundle and a budget, without loading a weight."""

from __future__ import annotations

import argparse
from dataclasses import replace

from export.manifest import Manifest, read_manifest
from memory.choices import Request
from memory.device import Device, read_device
from memory.options import add_constrained, add_request, make_request
from memory.plan import dump_plan
from memory.planner import make_plan
from memory.process import KernelKind, find_process
from memory.report import plan_lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    add_plan(parser)
    parser.add_argument("--json", action="store_true", help="the plan as JSON, which engines and apps obey")


def add_plan(parser: argparse.ArgumentParser) -> None:
    """Declares the options that a plan is made from."""
    add_request(parser)
    parser.add_argument("--drafter", action="append", metavar="NAME", help="load this one; 'none': no drafter model")
    add_constrained(parser)
    parser.add_argument("--shape", choices=("chain", "tree"), help="of drafts (default: the faster one)")
    parser.add_argument("--draft-size", type=int, metavar="N", help="most nodes of a draft; 0: plain decoding")
    parser.add_argument(
        "--kernels",
        choices=("native", "portable"),
        default="native",
        help="which kernels the plan is for (default: native, where the bundle has a form for them)",
    )


def read_inputs(options: argparse.Namespace, *, both_kernels: bool = False) -> tuple[Manifest, Device, Request]:
    """The bundle, the device and the request in the options; ``both_kernels``: plans will be made for both kinds."""
    manifest = read_manifest(options.bundle)
    kinds: tuple[KernelKind, ...] = ("native", "portable") if both_kernels else (options.kernels,)
    device = replace(
        read_device(), kernels=options.kernels, processes={kernels: find_process(kernels) for kernels in kinds}
    )
    drafters = None if options.drafter is None else tuple(name for name in options.drafter if name != "none")
    request = make_request(
        options,
        device,
        drafters=drafters,
        shape=options.shape,
        nodes=options.draft_size,
        constrained=options.constrained,
    )
    return manifest, device, request


def run(options: argparse.Namespace) -> int:
    """Prints the plan."""
    plan = make_plan(*read_inputs(options))
    print(dump_plan(plan) if options.json else "\n".join(plan_lines(plan)), end="" if options.json else "\n")
    return 0
