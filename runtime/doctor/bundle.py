"""Examines a bundle: whether it is complete, opens here, answers exactly, and with which kernels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from export.manifest import Level, Manifest, PocketspecError
from memory.choices import Request
from runtime.bundle.foreign import is_foreign, read_bundle
from runtime.doctor.finding import Finding, Section
from runtime.engine import Engine
from runtime.speculation.request import PLAIN

_CONTEXT, _NODES = 512, 15
_PROMPT_TOKENS, _ANSWER_TOKENS = 3, 4
# The note that every bundle gives at its first open.
_USUAL = "testing which row counts agree"


def bundle_section(bundle: Path) -> Section:
    """Opens ``bundle`` for a short context, which shows what works, and lets it answer with a few tokens."""
    try:
        manifest = read_bundle(bundle)
    except PocketspecError as error:
        return Section("bundle", (Finding("manifest", "cannot be read", str(error)),))
    return Section("bundle", (*_described(bundle, manifest), *_tried(bundle, manifest)))


def _described(bundle: Path, manifest: Manifest) -> Iterator[Finding]:
    origin = "written by another builder" if is_foreign(bundle) else f"schema {manifest.schema}"
    made = ", ".join(f"{name} {version}" for name, version in manifest.versions.items() if name != "request")
    yield Finding("name", f"{manifest.name} ({origin}{'; ' + made if made else ''})")
    for level in manifest.levels:
        yield Finding(level.role, f"{level.name}: {_stored(level)}")


def _stored(level: Level) -> str:
    weights = level.quantization
    block = f" in blocks of {weights.block_size}" if weights.block_size else ""
    kind = "" if level.source.kind == "trained" else f", {level.source.kind}"
    return f"{level.architecture}, {weights.weights}{block}, {level.weight_bytes:,} bytes{kind}"


def _tried(bundle: Path, manifest: Manifest) -> Iterator[Finding]:
    notes: list[str] = []
    try:
        with Engine.open(bundle, _request(manifest), verify=True, notify=notes.append) as engine:
            yield Finding(
                "files", "hashed: all are those that were exported" if manifest.files else "no hashes to check"
            )
            yield from _opened(engine)
            yield Finding("answers", _say(engine))
    except PocketspecError as error:
        yield Finding("opening", "fails", str(error))
    except Exception as error:  # anything but our own errors is a fault of ours, or of a library
        what = " ".join(str(error).split()) or type(error).__name__
        advice = f"{manifest.name} fails with {type(error).__name__}: report it with --report FILE"
        yield Finding("opening", f"fails: {what}", advice)
    for note in (note for note in notes if not note.startswith(_USUAL)):
        yield Finding("note", note)


def _request(manifest: Manifest) -> Request:
    """A short context, and drafts large enough to test everything."""
    context = min(_CONTEXT, manifest.target.shape.positions)
    return Request(
        context=context, shape="tree" if manifest.target.tree else "chain", nodes=min(_NODES, max(context // 8, 1))
    )


def _opened(engine: Engine) -> Iterator[Finding]:
    models = {engine.manifest.target.name: engine.target, **engine.drafters}
    for name, model in models.items():
        yield Finding("kernels", f"{name}: {model.kernels.description}")
    widths = engine.target.widths
    if widths.exact:
        trees = "those of trees as well" if widths.tree else "those of trees do not, so that drafts are chains"
        yield Finding("rows", f"agree bit for bit at widths {_spans(widths.widths)}; {trees}")
    else:
        yield Finding("rows", "no two widths agree bit for bit: speculation is exact up to near ties")
    plan = engine.plan
    yield Finding("plan", f"{plan.needed_bytes:,} bytes for a context of {plan.context:,}")


def _spans(widths: tuple[int, ...]) -> str:
    """``2, 4, 6`` as they are; ``1, 2, 3, 4`` as ``1 to 4``."""
    if widths == tuple(range(widths[0], widths[-1] + 1)) and len(widths) > 1:
        return f"{widths[0]} to {widths[-1]}"
    return ", ".join(map(str, widths))


def _say(engine: Engine) -> str:
    chunks = list(
        engine.generate([0] * _PROMPT_TOKENS, max_new_tokens=_ANSWER_TOKENS, ignore_eos=True, speculation=PLAIN)
    )
    return f"{chunks[-1].stats.tokens} tokens, as they should"
