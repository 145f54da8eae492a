"""What the configurations of a family call their sizes, so that no other module spells these names out.

optimum's ``NormalizedConfigManager`` knows the names of many families. What it lacks (2.3) stands here: the families
that it does not know (gemma2, gemma3, bitnet and others) have the ordinary names, and so have sizes that it has for no
family (MLP, head, positions) or for some alone (KV heads, which it lacks for qwen2, qwen3 and smollm3).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from optimum.utils.normalized_config import NormalizedConfigManager, NormalizedTextConfigWithGQA

# optimum's words for the sizes of a ModelShape, which it keeps as attributes in capitals.
_WORDS = {
    "layers": "num_layers",
    "hidden_size": "hidden_size",
    "mlp_size": "intermediate_size",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_size": "head_dim",
    "vocab_size": "vocab_size",
    "positions": "max_position_embeddings",
}
# The ordinary names, of llama for example; where optimum has none, they are its words.
_ORDINARY = {word: str(getattr(NormalizedTextConfigWithGQA, word.upper(), word)) for word in _WORDS.values()}


@cache
def config_names(model_type: str) -> Mapping[str, str]:
    """The name that configurations of ``model_type`` have for each size of a ``ModelShape``.

    Those of llama begin with ``{"layers": "num_hidden_layers", "hidden_size": "hidden_size", ...}``.
    """
    try:
        family = NormalizedConfigManager.get_normalized_config_class(model_type)(None)
    except KeyError:
        return {size: _ORDINARY[word] for size, word in _WORDS.items()}
    return {size: str(getattr(family, word.upper(), _ORDINARY[word])) for size, word in _WORDS.items()}


def read_size(config: Any, size: str) -> int:
    """A size of a configuration of transformers; AttributeError or TypeError where it has none, or no number."""
    return int(getattr(config, config_names(config.model_type)[size]))


def find_size(config: Any, size: str) -> int | None:
    """A size of a configuration of transformers; None where it has none or leaves it open."""
    value = getattr(config, config_names(config.model_type)[size], None)
    return None if not value else int(value)


def spell_sizes(model_type: str, **sizes: int) -> dict[str, int]:
    """``sizes`` under the names that configurations of ``model_type`` have for them."""
    names = config_names(model_type)
    return {names[size]: value for size, value in sizes.items()}
