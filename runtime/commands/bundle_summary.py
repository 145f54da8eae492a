"""The content of a bundle, as text and as JSON data. Only the manifest is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from export.manifest import DraftVocabulary, KvEffect, Level, LogitCheck, Manifest, Quantization, Source, Tap
from memory.footprint import kv_bytes_per_token
from memory.plan import Plan
from memory.report import plan_lines
from runtime.speculation.request import known_drafters, levels_below


def describe(manifest: Manifest, plan: Plan, verified: str, kernels: Mapping[str, str]) -> dict[str, Any]:
    """Everything in ``describe_lines``, as JSON data.

    ``verified`` says how the files were checked, ``kernels`` which kernels would run every level.
    """
    return {
        "name": manifest.name,
        "schema": manifest.schema,
        "versions": dict(manifest.versions),
        "verified": verified,
        "files": {name: asdict(entry) for name, entry in manifest.files.items()},
        "levels": [
            {
                **asdict(level),
                "kernels": kernels[level.name],
                "kv_bytes_per_token": {kind: kv_bytes_per_token(level.shape, kind, "copied") for kind in level.graphs},
            }
            for level in manifest.levels
        ],
        "drafters": list(_drafters(manifest)),
        "plan": asdict(plan),
    }


def describe_lines(manifest: Manifest, plan: Plan, verified: str, kernels: Mapping[str, str]) -> Iterator[str]:
    """The bundle as text: levels, drafters, files, plan."""
    versions = ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
    yield f"{manifest.name} (manifest schema {manifest.schema}{'; ' + versions if versions else ''})"
    for level in manifest.levels:
        yield ""
        yield from level_lines(level)
        yield f"  kernels: {kernels[level.name]}"
    yield ""
    yield f"drafters: {', '.join(_drafters(manifest))}"
    total = sum(entry.bytes for entry in manifest.files.values())
    yield f"files: {len(manifest.files)} with {total:,} bytes; {verified}"
    width = max((len(name) for name in manifest.files), default=0)
    for name, entry in manifest.files.items():
        yield f"  {name:{width}}  {entry.bytes:>14,}  sha256 {entry.sha256[:16]}"
    yield ""
    yield from plan_lines(plan)


def level_lines(level: Level) -> Iterator[str]:
    """One level: what it is, how it is stored, and how well it was checked."""
    shape = level.shape
    yield f"{level.role} {level.name}: {level.architecture}, {_source(level.source)}"
    yield (
        f"  {shape.layers} layers, hidden {shape.hidden_size}, MLP {shape.mlp_size}, {shape.heads} heads of"
        f" {shape.head_size} over {shape.kv_heads} KV heads, {shape.positions:,} positions"
    )
    if (experts := shape.experts) is not None:
        yield (
            f"  {experts.count} experts of width {experts.mlp_size} in {experts.layers} layers, of which a row uses"
            f" {experts.used}; router {experts.router}"
        )
    end = ", ".join(map(str, level.vocabulary.eos_token_ids))
    yield f"  vocabulary of {level.vocabulary.entries:,} in {level.logits_width:,} logits, end tokens {end}"
    if level.draft_vocabulary is not None:
        yield f"  {_draft_vocabulary(level.draft_vocabulary)}"
    yield f"  weights {_quantization(level.quantization)}, {_weight_bytes(level)}; drafts: {_shapes(level)}"
    for kind, graph in level.graphs.items():
        per_token = kv_bytes_per_token(shape, kind, "copied")
        yield f"  KV cache {kind}: {per_token:,} bytes per token, graph {graph}"
    for kind, effect in level.kv_effects.items():
        yield f"  KV cache {kind} against fp32: {_effect(effect)}"
    if level.native is not None:
        yield f"  native form: weights packed into {level.native.data}, {level.native.data_bytes:,} bytes"
    yield f"  check: {_check(level.check)}"
    if level.agreement is not None:
        yield f"  it would have said {level.agreement:.1%} of the tokens of the target's greedy answers"


def _drafters(manifest: Manifest) -> tuple[str, ...]:
    return known_drafters(levels_below(manifest), manifest.files)


def _source(source: Source) -> str:
    revision = f" at {source.revision}" if source.revision else ""
    licence = f", licence {source.licence}" if source.licence else ""
    kind = "" if source.kind == "trained" else f" [{source.kind}: for timing only]"
    return f"from {source.id}{revision}{licence}{kind}"


def _quantization(quantization: Quantization) -> str:
    block = f" in blocks of {quantization.block_size}" if quantization.block_size else ""
    method = f" by {quantization.method}" if quantization.method else ""
    error = "" if quantization.error is None else f", relative error {quantization.error:.4f}"
    kept = "".join(f", {kind} {stored}" for kind, stored in quantization.kept.items())
    return f"{quantization.weights}{block}{method}{error}{kept}"


def _weight_bytes(level: Level) -> str:
    tables = f", {level.sparse_bytes:,} of them read a few rows at a time" if level.sparse_bytes else ""
    return f"{level.weight_bytes:,} bytes{tables}"


def _effect(effect: KvEffect) -> str:
    perplexity = "" if effect.perplexity is None else f"perplexity x {effect.perplexity:.4f}, "
    return f"{perplexity}steps x {effect.speed:.2f} a second behind {effect.rows:,} rows ({effect.kernels} kernels)"


def _shapes(level: Level) -> str:
    if level.parallel is not None:
        return f"chains of up to {level.parallel.longest} tokens, drafted with one forward"
    shapes = "chains and trees" if level.drafts_trees else "chains"
    if level.heads is not None:
        how = "with one forward" if level.heads.together else "token by token"
        return f"{shapes} of up to {level.heads.count} tokens {how}, from hidden rows after {_layers(level.reads)}"
    return f"{shapes}, from hidden rows of the target after {_layers(level.reads)}" if level.reads else shapes


def _layers(taps: Sequence[Tap]) -> str:
    return f"{' and '.join(map(str, taps))} layers"


def _draft_vocabulary(cut: DraftVocabulary) -> str:
    if cut.text is None or cut.covered is None:
        return "its logits are of the first tokens of the tokenizer"
    return f"its logits are of the most frequent tokens of {cut.text}, {cut.covered:.1%} of that text"


def _check(check: LogitCheck | None) -> str:
    if check is None:
        return "none"
    return (
        f"{check.tokens} tokens of {check.text}: logits differ by {check.mean_difference:.4f} (most"
        f" {check.max_difference:.4f}), same argmax {check.argmax_agreement:.1%}, perplexity"
        f" {check.perplexity:.3f} (reference {check.reference_perplexity:.3f})"
    )
