"""Shapes of the demo family, of the Llama architecture with one tokenizer; its intermediate has layers of the target.

Head sizes are multiples of 16, as the attention operator needs, and widths multiples of 32, as int4 blocks need.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from transformers import LlamaConfig

from export.manifest import PocketspecError
from export.sources.config_names import spell_sizes

VOCABULARY = 4096
POSITIONS = 2048


def _config(hidden: int, mlp: int, layers: int, heads: int, kv_heads: int) -> LlamaConfig:
    sizes = spell_sizes(
        LlamaConfig.model_type,
        layers=layers,
        hidden_size=hidden,
        mlp_size=mlp,
        heads=heads,
        kv_heads=kv_heads,
        head_size=hidden // heads,
        vocab_size=VOCABULARY,
        positions=POSITIONS,
    )
    return LlamaConfig(
        **sizes,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
    )


FAMILY = {
    "target": _config(hidden=256, mlp=768, layers=10, heads=8, kv_heads=4),  # 8.9 M parameters
    "drafter": _config(hidden=96, mlp=192, layers=2, heads=3, kv_heads=3),  # 0.58 M
}


def from_layers(teacher: Any, layers: Sequence[int]) -> Any:
    """A student with these decoder layers of ``teacher``, copied.

    It agrees with the teacher before any training, because layers of a residual stream work without one another.
    """
    count = len(teacher.model.layers)
    if not layers or list(layers) != sorted(set(layers)) or not 0 <= layers[0] <= layers[-1] < count:
        raise PocketspecError(f"layers {list(layers)} are not increasing numbers from 0 to {count - 1}")
    config = copy.deepcopy(teacher.config)
    config.update(spell_sizes(config.model_type, layers=len(layers)))
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[layer] for layer in layers]
    student = type(teacher)(config).to(teacher.dtype)
    numbers = {f"model.layers.{layer}.": f"model.layers.{place}." for place, layer in enumerate(layers)}
    weights = {}
    for name, weight in teacher.state_dict().items():
        prefix = ".".join(name.split(".")[:3]) + "."
        if not name.startswith("model.layers."):
            weights[name] = weight
        elif prefix in numbers:
            weights[name.replace(prefix, numbers[prefix])] = weight
    student.load_state_dict(weights)
    return student
