"""A timing vehicle: a small trained model in the shapes of a large one. It costs as much, and its text is unchanged.

Without large trained weights, it times a whole speculative stack with real acceptance. Its numbers are labelled "timing
vehicle", because it is not a trained large model. How each part grows:

- Matrices are scattered into zeros: new entries of the residual stream, of the MLP and of heads stay zero.
- A norm's mean runs over more entries, so gains shrink by sqrt(old / new width) and epsilon by old / new width.
- A wider head has another attention scale, which larger query weights undo. A rotary pair moves to the index with the
  same frequency, so the new head size is a multiple of the old one.
- Query heads stay with their key heads. There are at least as many key heads as before, with groups at least as large.
- Added layers read the stream with random weights and write zeros back.
- Added tokens would have logit 0, which may be the largest. So one spare entry of the stream carries a constant that is
  too small to change any norm; the last norm multiplies it, and the embeddings of added tokens are -1 there. An added
  token then has a logit of about -100 and is never sampled; all old logits shift by the same amount, about 1e-5.

Covered: LlamaForCausalLM and BitNetForCausalLM with a tied head. BitNet's inner norms run over all heads, so its groups
keep their size; its weights are ternary, which int4 stores exactly.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from export.manifest import PocketspecError
from export.sources.config_names import find_size, read_size, spell_sizes
from export.sources.random_weights import RandomWeights
from export.sources.targets import load_config, resolve
from export.sources.tensor_source import FloatArray, TensorSource

Indices = npt.NDArray[np.int64]
# The constant in the stream, which float16 can just hold; and the logit of an added token if the stream did not grow.
# In the models tried it grows 2 to 8 times, so these logits are between -400 and -100.
CONSTANT, _LOWEST = 6e-8, -1000.0
# The spare entry must not share a block, hence a scale of int4 weights or int8 activations, with the old entries.
_SPARE = 256


class VehicleError(PocketspecError, ValueError):
    """A model that cannot be enlarged exactly, or sizes it does not fit into."""


@dataclass(frozen=True)
class DecoderSizes:
    """The sizes that determine the cost of a decoder. ``kv_heads`` changes if the small model's groups do not fit."""

    hidden: int
    mlp: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int


def sizes_of(config: Any) -> DecoderSizes:
    """The sizes in a transformers configuration."""
    hidden, heads = read_size(config, "hidden_size"), read_size(config, "heads")
    return DecoderSizes(
        hidden=hidden,
        mlp=read_size(config, "mlp_size"),
        layers=read_size(config, "layers"),
        heads=heads,
        kv_heads=find_size(config, "kv_heads") or heads,
        head_size=find_size(config, "head_size") or hidden // heads,
        vocabulary=read_size(config, "vocab_size"),
    )


class Vehicle:
    """A ``TensorSource``: ``small`` (described by ``small_config``) enlarged to the sizes ``like``.

    ``like`` is a known name or a mapping of fields of ``DecoderSizes``, those left out staying as they are.
    ``positions`` is the longest context (None: the small model's); beyond that the text degrades, while cost and memory
    are right. ``config`` is the enlarged configuration.
    """

    def __init__(
        self,
        small: TensorSource,
        small_config: Any,
        like: str | Mapping[str, int],
        positions: int | None = None,
    ) -> None:
        _check_model(small_config)
        self._small, self._old = small, sizes_of(small_config)
        wanted = wanted_sizes(like, self._old)
        self._new = fit_sizes(self._old, wanted, keep_groups=small_config.model_type == "bitnet")
        self.config = enlarged_config(small_config, self._old, self._new, positions)
        self._filler = RandomWeights(self.config)
        self._maps = axis_maps(self._old, self._new)

    def names(self) -> Collection[str]:
        """Every tensor of the enlarged model."""
        return self._filler.names()

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return self._filler.shape(name)

    def read(self, name: str, first: int = 0, last: int | None = None) -> FloatArray:
        """Rows ``first`` to ``last`` (exclusive, None: all), made when asked for."""
        shape = self.shape(name)
        last = shape[0] if last is None else last
        if self._is_added(name):
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                return np.zeros((last - first, *shape[1:]), np.float32)
            return self._filler.read(name, first, last)
        if len(shape) == 1:
            return self._norm(name)[first:last]
        rows = self._scattered(name, first, last)
        if name == "model.embed_tokens.weight" and self._adds_tokens:
            split = max(0, min(last, self._old.vocabulary) - first)
            rows[:split, -1], rows[split:, -1] = CONSTANT, -1
        return rows

    @property
    def _adds_tokens(self) -> bool:
        return self._new.vocabulary > self._old.vocabulary

    def _is_added(self, name: str) -> bool:
        parts = name.split(".")
        return parts[1] == "layers" and int(parts[2]) >= self._old.layers

    def _norm(self, name: str) -> FloatArray:
        """Gains for a mean over more entries: those of the old entries at their new places, zero elsewhere."""
        entries = self._maps[_norm_axis(name)]
        gains = wider_gains(self._small.read(name), entries, self.shape(name)[0])
        if name == "model.norm.weight" and self._adds_tokens:
            gains[-1] = -_LOWEST / CONSTANT * self._embedding_scale() * math.sqrt(len(entries) / len(gains))
        return gains

    def _embedding_scale(self) -> float:
        """Root mean square of the small model's embedding, with which the stream begins."""
        values = self._small.read("model.embed_tokens.weight")
        return float(np.sqrt(np.mean(np.square(values))))

    def _scattered(self, name: str, first: int, last: int) -> FloatArray:
        row_axis, column_axis = MATRIX_AXES[name.split(".")[-2]]
        rows, columns = self._maps[row_axis], self._maps[column_axis]
        out = scattered_rows(self._small, name, (rows, columns), (first, last), self.shape(name)[1])
        return out * query_scale(self._old, self._new) if row_axis == "query" else out


def scattered_rows(
    small: TensorSource, name: str, places: tuple[Indices, Indices], wanted: tuple[int, int], width: int
) -> FloatArray:
    """Rows ``wanted`` (first, last) of a matrix ``width`` wide: zeros with the entries of ``small`` at their places.

    ``places`` are the new rows and the new columns of the old ones.
    """
    (rows, columns), (first, last) = places, wanted
    out = np.zeros((last - first, width), np.float32)
    old_rows = np.flatnonzero((rows >= first) & (rows < last))
    if len(old_rows):
        low, high = int(old_rows.min()), int(old_rows.max()) + 1
        out[np.ix_(rows[old_rows] - first, columns)] = small.read(name, low, high)[old_rows - low]
    return out


def query_scale(old: DecoderSizes, new: DecoderSizes) -> np.float32:
    """What undoes the attention scale of wider heads, in query weights."""
    return np.float32(math.sqrt(new.head_size / old.head_size))


def wider_gains(gains: FloatArray, entries: Indices, width: int) -> FloatArray:
    """``gains`` of a norm at ``entries`` of ``width``, for a mean over that many; zero elsewhere."""
    wide = np.zeros(width, np.float32)
    wide[entries] = gains * math.sqrt(len(entries) / width)
    return wide


# By module: what the rows and the columns of its matrix are.
MATRIX_AXES = {
    "embed_tokens": ("vocabulary", "hidden"),
    "q_proj": ("query", "hidden"),
    "k_proj": ("key", "hidden"),
    "v_proj": ("value", "hidden"),
    "o_proj": ("hidden", "heads"),
    "gate_proj": ("mlp", "hidden"),
    "up_proj": ("mlp", "hidden"),
    "down_proj": ("hidden", "mlp"),
}


def _norm_axis(name: str) -> str:
    return {"attn_sub_norm": "heads", "ffn_sub_norm": "mlp"}.get(name.split(".")[-2], "hidden")


def axis_maps(old: DecoderSizes, new: DecoderSizes) -> dict[str, Indices]:
    """For each axis of a matrix, the new index of every old one."""
    group, new_group = old.heads // old.kv_heads, new.heads // new.kv_heads
    query_heads = np.array([(head // group) * new_group + head % group for head in range(old.heads)])
    plain = np.arange(old.head_size)
    # Pair (i, i + half) turns at theta ** (-2 i / size), so in a head ``step`` times as wide its index is i * step.
    half, step = old.head_size // 2, new.head_size // old.head_size
    rotary = np.concatenate([np.arange(half) * step, new.head_size // 2 + np.arange(half) * step])
    kv_heads = np.arange(old.kv_heads)

    def places(heads: Indices, dimensions: Indices) -> Indices:
        return (heads[:, None] * new.head_size + dimensions).reshape(-1)

    return {
        "vocabulary": np.arange(old.vocabulary),
        "hidden": np.arange(old.hidden),
        "mlp": np.arange(old.mlp),
        "query": places(query_heads, rotary),
        "key": places(kv_heads, rotary),
        "value": places(kv_heads, plain),
        "heads": places(query_heads, plain),
    }


def _check_model(config: Any) -> None:
    if config.model_type not in ("llama", "bitnet"):
        raise VehicleError(f"a {config.model_type} model cannot be enlarged exactly; expected llama or bitnet")
    check_rotary(config)
    biased = [name for name in ("attention_bias", "mlp_bias") if getattr(config, name, False)]
    if biased or not config.tie_word_embeddings:
        reason = f"{biased[0]} is set" if biased else "its head is not tied to its embedding"
        raise VehicleError(f"this {config.model_type} model cannot be enlarged: {reason}; choose a tied one, no biases")


def check_rotary(config: Any) -> None:
    """VehicleError for a rotary embedding whose angles would be others in a wider head."""
    rope = config.rope_parameters["rope_type"]
    if rope not in ("default", "linear", "llama3"):
        raise VehicleError(f"a {rope} rotary embedding depends on the head size; expected default, linear or llama3")


def wanted_sizes(like: str | Mapping[str, int], old: DecoderSizes) -> DecoderSizes:
    """See ``Vehicle``: the sizes ``like``, those that it leaves out being the ``old`` ones."""
    names = [field.name for field in fields(DecoderSizes)]
    if not isinstance(like, str):
        if unknown := set(like) - set(names):
            raise VehicleError(f"no size {min(unknown)!r}; the sizes are: {', '.join(names)}")
        return DecoderSizes(**{name: int(like.get(name, getattr(old, name))) for name in names})
    target = resolve(like)
    if target.config_path is None:
        raise VehicleError(f"the sizes of {like!r} are not at hand; give a known name or the folder of a checkpoint")
    return sizes_of(load_config(target.config_path))


def fit_sizes(old: DecoderSizes, wanted: DecoderSizes, keep_groups: bool) -> DecoderSizes:
    """``wanted`` with key heads that hold those of ``old``; VehicleError where the small model does not fit."""
    for name in ("hidden", "mlp", "layers", "heads", "head_size", "vocabulary"):
        have, need = getattr(wanted, name), getattr(old, name)
        if have < need:
            raise VehicleError(
                f"{name} can only grow: {have} is less than the small model's {need}; choose a larger one"
            )
    if wanted.head_size % old.head_size:
        raise VehicleError(f"head_size {wanted.head_size} is not a multiple of {old.head_size}; choose one that is")
    if wanted.vocabulary > old.vocabulary and wanted.hidden < old.hidden + _SPARE:
        raise VehicleError(
            f"a larger vocabulary needs room: hidden {wanted.hidden} must be {old.hidden + _SPARE} or more"
        )
    if keep_groups and wanted.heads * wanted.head_size != wanted.hidden:
        raise VehicleError(f"heads * head_size must be hidden for BitNet: {wanted.heads} * {wanted.head_size}")
    return DecoderSizes(**{**vars(wanted), "kv_heads": _kv_heads(old, wanted, keep_groups)})


def _kv_heads(old: DecoderSizes, wanted: DecoderSizes, keep_groups: bool) -> int:
    """The number of key heads nearest to the wanted one that holds the old heads in their groups."""
    group = old.heads // old.kv_heads
    counts = [
        count
        for count in range(old.kv_heads, wanted.heads // group + 1)
        if wanted.heads % count == 0 and (not keep_groups or wanted.heads == count * group)
    ]
    if not counts:
        raise VehicleError(
            f"{wanted.heads} heads cannot hold {old.heads} heads in {old.kv_heads} groups; choose a multiple of {group}"
        )
    return min(counts, key=lambda count: (abs(count - wanted.kv_heads), count))


def enlarged_config(config: Any, old: DecoderSizes, new: DecoderSizes, positions: int | None) -> Any:
    """``config`` with the sizes ``new`` and the longest context ``positions`` (None: its own)."""
    data = config.to_dict()
    data.pop("layer_types", None)
    data |= spell_sizes(
        config.model_type,
        hidden_size=new.hidden,
        mlp_size=new.mlp,
        layers=new.layers,
        heads=new.heads,
        kv_heads=new.kv_heads,
        head_size=new.head_size,
        vocab_size=new.vocabulary,
        positions=positions or read_size(config, "positions"),
    )
    data["rms_norm_eps"] = config.rms_norm_eps * old.hidden / new.hidden
    return type(config).from_dict(data)
