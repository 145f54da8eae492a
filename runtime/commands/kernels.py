"""``python -m runtime kernels``: the kernels that run on this processor, why, and the cost of rows with them."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from export.manifest import PocketspecError
from memory.cores import read_cores
from memory.options import check_threads
from runtime.commands import options as shared

if TYPE_CHECKING:
    from runtime.kernels.library import LibraryVerdict
    from runtime.kernels.timing.rows import ProductShape, ProductTiming

_UNUSABLE = 1
_ROWS = "1,2,4,8,16"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("--build", action="store_true", help="compile the native kernels first")
    parser.add_argument("--rows", default=_ROWS, metavar="COUNTS", help=f"rows to time (default: {_ROWS}); 0: none")
    parser.add_argument(
        "--shape",
        action="append",
        metavar="KxN",
        help="a product of K inputs and N outputs; can be repeated (default: those of Qwen2-1.5B)",
    )
    parser.add_argument("--block-size", type=int, choices=(32, 64, 128), default=128, help="of the int4 weights")
    parser.add_argument(
        "--threads", type=int, metavar="N", help="threads per operator (default: one for every usable core)"
    )
    parser.add_argument(
        "--compare-sets", action="store_true", help="time every instruction set that works here on the same work"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(options: argparse.Namespace) -> int:
    """Tests and times the library; exit code 1 if the native kernels cannot be used."""
    from runtime.kernels.library import library_path

    rows, shapes = _rows(options.rows), _shapes(options.shape)
    threads = check_threads(options.threads) or read_cores().usable
    path = library_path()
    if options.build:
        from runtime.kernels.build import build

        shared.say(f"built {path} with {', '.join(build(path))}")
    report = _describe(threads, options.block_size)
    if not options.json:
        print("\n".join(_lines(report)))
    if options.compare_sets and report["fault"] is None:
        report["sets"] = _compare(threads, options)
    elif report["fault"] is None and rows:
        report["curve"] = _measure(rows, shapes, threads, options)
    if options.json:
        print(json.dumps(report, indent=2))
    return 0 if report["fault"] is None else _UNUSABLE


def _describe(threads: int, block_size: int) -> dict[str, Any]:
    """Everything but times, as JSON data. The self-test runs now, even if the result of an earlier one is stored."""
    import onnxruntime

    from runtime.kernels.library import library_path, verdict_on

    path = library_path()
    verdict = verdict_on(path, fresh=True)
    return {
        "library": str(path),
        "fault": verdict.fault,
        "about": verdict.about if verdict.fault is not None else None,
        "note": verdict.note,
        "isa": verdict.isa if verdict.fault is None else None,
        "version": verdict.version,
        "layout": verdict.layout,
        "instruction_sets": dict(_reasons(verdict)) if verdict.compiled else {},
        "onnxruntime": onnxruntime.__version__,
        "threads": threads,
        "block_size": block_size,
    }


def _reasons(verdict: LibraryVerdict) -> Iterator[tuple[str, str]]:
    """Every instruction set of the kernels, and whether it is used here."""
    from runtime.hardware import processor_features
    from runtime.kernels.build import INSTRUCTION_SETS

    features = processor_features()
    for isa in INSTRUCTION_SETS:
        lacking = [name for name in isa.features if name not in features]
        if isa.name == verdict.isa and verdict.fault is None:
            yield isa.name, "used"
        elif isa.name in verdict.usable:
            yield isa.name, "usable, and there is a better one"
        elif isa.name in verdict.compiled:
            yield isa.name, f"this processor lacks {', '.join(lacking)}" if lacking else "this processor lacks it"
        else:
            yield isa.name, "not in this library"


def _lines(report: dict[str, Any]) -> Iterator[str]:
    described = f" (version {report['version']}, layout {report['layout']})" if report["instruction_sets"] else ""
    yield f"library: {report['library']}{described}"
    yield from (f"  {name:11} {reason}" for name, reason in report["instruction_sets"].items())
    if report["fault"] is None:
        yield f"self-test with ONNX Runtime {report['onnxruntime']}: passed"
        if report["note"]:
            yield f"  {report['note']}"
        yield f"kernels in use: native ({report['isa']})"
    else:
        yield f"kernels in use: portable (ONNX Runtime {report['onnxruntime']}), since {report['fault']}"


def _measure(
    rows: list[int], shapes: list[ProductShape], threads: int, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Times every shape, and prints each as soon as it is measured, unless JSON is wanted."""
    from runtime.kernels.library import open_library
    from runtime.kernels.timing.rows import measure

    library = open_library()
    if not options.json:
        print(f"\nint4 in blocks of {options.block_size}, threads {threads}; medians, both kernels in turns\n")
        print("| K x N | rows | MatMulPanel ms | x 1 row | GB/s | MatMulNBits ms | x 1 row | GB/s | MatMulPanel is |")
        print("| --- |" + " --- |" * 8)
    curve = []
    for shape in shapes:
        timings = measure(library, shape, rows, options.block_size, threads)
        for timing in timings:
            if not options.json:
                print(_row(shape, timing, timings[0]), flush=True)
            curve.append(_entry(shape, timing))
    return curve


def _compare(threads: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Times every instruction set, and prints each piece of work as soon as it is measured, unless JSON is wanted."""
    from runtime.kernels.library import PLAIN, open_library
    from runtime.kernels.timing.instruction_sets import compare_sets

    library = open_library()
    others = [name for name in library.verdict.usable if name != PLAIN][1:]
    found = []
    for number, each in enumerate(compare_sets(library, threads)):
        if not options.json:
            first, *_ = each.seconds.items()
            if number == 0:
                print(f"\nthreads {threads}; medians, instruction sets in turns; below 1 is faster than {first[0]}\n")
                print(f"| work | {first[0]} ms |" + "".join(f" {name} |" for name in others))
                print("| --- | --- |" + " --- |" * len(others))
            ratios = "".join(f" {each.ratios[name]:.2f} |" for name in others)
            print(f"| {each.work} | {first[1] * 1e3:.3f} |{ratios}", flush=True)
        found.append({"work": each.work, "ms": {name: value * 1e3 for name, value in each.seconds.items()}})
    return found


def _row(shape: ProductShape, timing: ProductTiming, first: ProductTiming) -> str:
    name = f" ({shape.name})" if shape.name else ""
    cells = [
        f"{shape.k} x {shape.n}{name}",
        str(timing.rows),
        f"{timing.native_seconds * 1e3:.3f}",
        f"{timing.native_seconds / first.native_seconds:.2f}",
        f"{timing.native_rate / 1e9:.1f}",
        f"{timing.portable_seconds * 1e3:.3f}",
        f"{timing.portable_seconds / first.portable_seconds:.2f}",
        f"{timing.portable_rate / 1e9:.1f}",
        f"{timing.portable_seconds / timing.native_seconds:.2f} x as fast",
    ]
    return f"| {' | '.join(cells)} |"


def _entry(shape: ProductShape, timing: ProductTiming) -> dict[str, Any]:
    return {
        "k": shape.k,
        "n": shape.n,
        "name": shape.name,
        "rows": timing.rows,
        "native_ms": timing.native_seconds * 1e3,
        "native_gb_per_second": timing.native_rate / 1e9,
        "portable_ms": timing.portable_seconds * 1e3,
        "portable_gb_per_second": timing.portable_rate / 1e9,
    }


def _rows(text: str) -> list[int]:
    return [] if text == "0" else shared.parse_counts("--rows", text)


def _shapes(texts: list[str] | None) -> list[ProductShape]:
    from runtime.kernels.timing.rows import QWEN2_SHAPES, ProductShape

    if texts is None:
        return list(QWEN2_SHAPES)
    shapes = []
    for text in texts:
        match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
        if not match:
            raise PocketspecError(f"--shape {text}: write inputs and outputs as KxN, as in 1536x8960")
        shapes.append(ProductShape(int(match[1]), int(match[2])))
    return shapes
