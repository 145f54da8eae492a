"""Names of sizes in configurations: optimum's where it knows a family, the ordinary ones elsewhere."""

from __future__ import annotations

import pytest
from transformers import CONFIG_MAPPING

from export.sources.config_names import config_names, find_size, read_size, spell_sizes

FAMILIES = ["llama", "qwen2", "qwen3", "smollm3", "gemma2", "gemma3_text", "phi3", "mistral", "olmo2", "bitnet"]
SIZES = {"layers": 3, "hidden_size": 64, "heads": 4, "kv_heads": 2, "mlp_size": 96, "vocab_size": 300, "positions": 128}


@pytest.mark.parametrize("model_type", FAMILIES)
def test_sizes_that_are_spelled_for_a_family_are_read_from_its_configuration(model_type: str) -> None:
    config = CONFIG_MAPPING[model_type](**spell_sizes(model_type, **SIZES))
    assert {size: read_size(config, size) for size in SIZES} == SIZES
    assert find_size(config, "kv_heads") == 2


def test_a_family_with_names_of_its_own_has_them_from_optimum() -> None:
    config = CONFIG_MAPPING["gpt_bigcode"](n_layer=3, n_embd=64, n_head=4)
    assert [read_size(config, size) for size in ("layers", "hidden_size", "heads")] == [3, 64, 4]


def test_what_nobody_knows_has_the_ordinary_names() -> None:
    assert config_names("a-model-of-tomorrow") == config_names("llama")
    assert config_names("vit")["layers"] == "num_hidden_layers"


def test_a_size_that_is_missing_or_left_open_has_no_value() -> None:
    vision = CONFIG_MAPPING["vit"]()
    assert find_size(vision, "vocab_size") is None
    with pytest.raises(AttributeError, match="vocab_size"):
        read_size(vision, "vocab_size")
    config = CONFIG_MAPPING["llama"]()
    config.head_dim = None
    assert find_size(config, "head_size") is None
