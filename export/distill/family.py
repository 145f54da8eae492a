"""Shapes of the demo family: one tokenizer, three sizes, ordinary Llama architecture.

Head sizes are multiples of 16, as the attention operator wants, and widths multiples of 32, as int4 blocks want.
"""

from __future__ import annotations

from transformers import LlamaConfig

VOCABULARY = 4096
POSITIONS = 2048


def _config(hidden: int, mlp: int, layers: int, heads: int, kv_heads: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=hidden // heads,
        max_position_embeddings=POSITIONS,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
    )


FAMILY = {
    "target": _config(hidden=256, mlp=768, layers=10, heads=8, kv_heads=4),  # 8.9 M parameters
    "intermediate": _config(hidden=192, mlp=512, layers=4, heads=6, kv_heads=3),  # 2.4 M
    "drafter": _config(hidden=96, mlp=192, layers=2, heads=3, kv_heads=3),  # 0.58 M
}
