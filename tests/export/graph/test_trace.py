"""The graph's contract, how weights are stored in it, what is refused, and that nothing is left behind."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import nn
from torch.onnx._internal.exporter._registration import ONNXRegistry
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.cohere import modeling_cohere
from transformers.models.llama import modeling_llama

from export.graph import torch_exporter
from export.graph.lowering.attention import (
    IMPLEMENTATION,
    CausalMask,
    StepCache,
    TracedAttention,
    TracedStep,
    check_layers,
)
from export.graph.lowering.norm import NormFormula, find_formula
from export.graph.lowering.rotary import RotaryMismatchError, find_layout, make_table
from export.graph.recipe import AliasRecipe, ConstantRecipe, LoweredGraph, MatrixRecipe
from export.graph.trace import GraphOptions, lower
from export.manifest import ModelShape
from export.sources.model_shape import ArchitectureError, shape_of
from runtime.models.io_binding import KeptBinding
from tests.export.filled import CAPACITY, Case, relative
from tests.export.graph.test_families import FAMILIES, SMALL, TEXT, make_case

SIZES = {**SMALL, "num_hidden_layers": 1}


def llama(**fields: Any) -> transformers.LlamaConfig:
    return transformers.LlamaConfig(**{**SIZES, **fields})


def test_inputs_and_outputs_are_those_of_the_contract() -> None:
    session = make_case("llama").runner.session
    inputs = {value.name: (value.type, value.shape) for value in session.get_inputs()}
    cache = ("tensor(float)", [1, 2, "capacity", 16])
    assert inputs == {
        "input_ids": ("tensor(int64)", [1, "rows"]),
        "attention_mask": ("tensor(int64)", [1, "total"]),
        "position_ids": ("tensor(int64)", [1, "rows"]),
        **{f"past_key_values.{layer}.{kind}": cache for layer in (0, 1) for kind in ("key", "value")},
    }
    optional = {value.name: value.type for value in session.get_overridable_initializers()}
    assert optional == {"tree_bias": "tensor(float)", "logits_from": "tensor(int64)"}
    outputs = [(value.name, value.shape) for value in session.get_outputs()]
    assert outputs[0] == ("logits", [1, "wanted_rows", 300])
    assert [name for name, _ in outputs[1:]] == [f"present.{i}.{kind}" for i in (0, 1) for kind in ("key", "value")]


def test_present_may_be_the_buffer_of_past() -> None:
    case = make_case("qwen2")
    binding = KeptBinding(case.runner.session)
    for kind in ("key", "value"):
        buffer = np.zeros((1, 2, CAPACITY, 16), np.float32)
        binding.bind_input(f"past_key_values.0.{kind}", buffer)
        binding.bind_output(f"present.0.{kind}", buffer)
    wanted, length = case.reference(TEXT), 0
    for part in (TEXT[:7], TEXT[7:8], TEXT[8:]):
        positions = np.arange(length, length + len(part), dtype=np.int64)[None]
        logits = np.zeros((1, len(part), 300), np.float32)
        binding.bind_input("input_ids", np.array([part], np.int64))
        binding.bind_input("position_ids", positions)
        binding.bind_input("attention_mask", np.ones((1, length + len(part)), np.int64))
        binding.bind_output("logits", logits)
        case.runner.session.run_with_iobinding(binding.io)
        assert relative(logits[0], wanted[length : length + len(part)]) < 1e-5
        length += len(part)


STORED: dict[str, tuple[GraphOptions, dict[str, Any]]] = {
    "int4-tied-ragged": (
        GraphOptions("int4", 16),
        {"tie_word_embeddings": True, "hidden_size": 72, "head_dim": 16},
    ),
    "int4-zero-points-bias": (GraphOptions("int4", 32, symmetric=False), {"attention_bias": True}),
    "int8-zero-points-tied-wide": (GraphOptions("int8", 128, symmetric=False), {"tie_word_embeddings": True}),
    "fp16-tied-bias": (GraphOptions("fp16"), {"tie_word_embeddings": True, "mlp_bias": True}),
}


@cache
def make_stored(name: str) -> Case:
    options, fields = STORED[name]
    return Case.make(llama(**fields), options)


@pytest.mark.parametrize("name", STORED)
def test_stored_weights_give_the_logits_of_those_weights(name: str) -> None:
    case = make_stored(name)
    case.runner.length = 0
    assert relative(case.runner.step(TEXT), case.reference(TEXT)) < 1e-5
    assert any(isinstance(recipe, AliasRecipe) for recipe in case.graph.recipes) == (
        name[:3] == "int" and "tied" in name
    )


def test_an_embedding_of_its_own_has_eight_bits() -> None:
    recipes = make_stored("int4-zero-points-bias").graph.recipes
    bits = {recipe.sources: recipe.bits for recipe in recipes if isinstance(recipe, MatrixRecipe)}
    assert bits["model.embed_tokens.weight",] == 8
    assert bits["lm_head.weight",] == 4


def test_products_of_one_input_are_packed_and_few_operators_are_left() -> None:
    graph = make_stored("int4-tied-ragged").graph
    packed = {recipe.sources for recipe in graph.recipes if isinstance(recipe, MatrixRecipe)}
    layer = "model.layers.0."
    assert packed == {
        tuple(f"{layer}self_attn.{name}_proj.weight" for name in "qkv"),
        (f"{layer}self_attn.o_proj.weight",),
        tuple(f"{layer}mlp.{name}_proj.weight" for name in ("gate", "up")),
        (f"{layer}mlp.down_proj.weight",),
        ("model.embed_tokens.weight",),
    }
    once = ("GatherBlockQuantized", "SimplifiedLayerNormalization", "Sub", "Cast", "Concat", "Expand")
    assert Counter(node.op_type for node in graph.model.graph) == {
        "MatMulNBits": 5,
        "Split": 2,
        "RotaryEmbedding": 2,
        "GroupQueryAttention": 1,
        "SkipSimplifiedLayerNormalization": 2,
        "QuickGelu": 1,
        "Mul": 1,
        "Shape": 2,
        "Slice": 2,  # the padding of the embedding's last block, and the rows whose logits are wanted
        **dict.fromkeys(once, 1),
    }


def test_initializers_without_recipes_are_small_and_inline() -> None:
    graph = make_case("gemma3").graph
    filled = {name for recipe in graph.recipes if not isinstance(recipe, MatrixRecipe) for name in [recipe.name]}
    rest = {name: value for name, value in graph.model.graph.initializers.items() if name not in filled}
    assert rest
    assert all(value.const_value.nbytes <= 64 for value in rest.values())


def test_rotary_tables_are_the_models_own() -> None:
    tables = {r.name: r.value for r in make_case("llama").graph.recipes if isinstance(r, ConstantRecipe)}
    rotary = modeling_llama.LlamaRotaryEmbedding(transformers.LlamaConfig(**{**SMALL, **FAMILIES["llama"][1]}))
    cos, sin = rotary(torch.zeros(1), torch.arange(64)[None])
    np.testing.assert_array_equal(tables["model.rotary_emb.cos"], cos[0, :, :8])
    np.testing.assert_array_equal(tables["model.rotary_emb.sin"], sin[0, :, :8])


def test_shape_of_a_config() -> None:
    shape = shape_of(llama(num_hidden_layers=3), 40)
    wanted = {"layers": 3, "hidden_size": 64, "mlp_size": 96, "heads": 4, "kv_heads": 2}
    assert shape == ModelShape(**wanted, head_size=16, vocab_size=300, positions=40)


def test_positions_end_where_a_rotary_embedding_would_change() -> None:
    kind, fields = FAMILIES["phi3"]
    config = transformers.CONFIG_MAPPING[kind](**{**SMALL, **fields})
    assert shape_of(config).positions == 32
    with pytest.raises(ArchitectureError, match="phi3: 33 positions asked, allowed are 1 to 32"):
        shape_of(config, 33)


GLM = {"num_experts_per_tok": 2, "first_k_dense_replace": 0}
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    (
        "gpt2",
        {"n_embd": 64, "n_layer": 1, "n_head": 4, "num_key_value_heads": 4},
        r"it looks transformer.wpe.weight \[64, 64\] up beside its token embedding",
    ),
    ("bloom", {"n_head": 4}, "bloom: "),
    ("mamba", {}, "mamba: "),
    (
        "lfm2",
        {"layer_types": ["conv", "moe"], "num_hidden_layers": 2},
        "layers of the kind 'conv' and 'moe'; known are",
    ),
    ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 5}, "a row uses 5 of 4 experts .* allowed are 1 to 4"),
    ("qwen3_moe", {"num_experts": 4, "num_experts_per_tok": 0}, "a row uses 0 of 4 experts"),
    ("glm4_moe", {**GLM, "n_routed_experts": 6, "n_group": 4}, "4 groups, which do not divide 6"),
    (
        "glm4_moe",
        {**GLM, "n_routed_experts": 8, "n_group": 2},
        "groups of experts are not supported",
    ),
    ("t5", {"num_heads": 4}, "not a decoder of text alone"),
    ("llama", {"head_dim": 12}, "head size 12 is not a multiple of 8"),
    ("llama", {"hidden_size": 48, "num_attention_heads": 3}, "3 heads cannot share 2 key-value heads"),
    (
        "llama",
        {"quantization_config": {"quant_method": "gptq", "bits": 4}},
        "quantized already; start from the unquantized one",
    ),
    ("falcon", {}, "its code in transformers has kinds of attention of its own"),
    ("llama", {"is_causal": False}, "attends in both directions"),
]


@pytest.mark.parametrize(("kind", "fields", "reason"), REFUSED, ids=[f"{row[0]}-{i}" for i, row in enumerate(REFUSED)])
def test_what_would_be_wrong_is_refused(kind: str, fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(ArchitectureError, match=reason) as refusal:
        lower(transformers.CONFIG_MAPPING[kind](**{**SIZES, **fields}), GraphOptions("fp32"))
    assert str(refusal.value).startswith(f"{kind}: ")
    assert "\n" not in str(refusal.value)


def test_a_block_size_that_kernels_lack_is_refused() -> None:
    with pytest.raises(ArchitectureError, match="block size 48 is not allowed; use 16, 32, 64, 128 or 256"):
        GraphOptions("int4", 48)


def test_nothing_is_left_behind_even_after_a_refusal() -> None:
    before = dict(vars(modeling_llama))
    make_case("llama")
    with pytest.raises(ArchitectureError):
        lower(llama(is_causal=False), GraphOptions("fp32"))
    assert IMPLEMENTATION not in ALL_ATTENTION_FUNCTIONS
    assert dict(vars(modeling_llama)) == before


def test_the_table_that_exports_share_stays_what_torch_makes() -> None:
    make_case("llama")
    with torch_exporter.quick_export():
        kept = ONNXRegistry().from_torchlib(opset_version=21)
        assert ONNXRegistry().from_torchlib(opset_version=21) is kept
    made = ONNXRegistry().from_torchlib(opset_version=21)
    assert made is not kept
    shared, fresh = (
        {name: [each.onnx_function for each in functions] for name, functions in table.functions.items()}
        for table in (kept, made)
    )
    assert shared == fresh


def test_graphs_are_those_of_torchs_decompositions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where these change nothing, and so are left out: the same operators, with as many uses of what they make."""

    def shape_of_graph(graph: LoweredGraph) -> Counter[Any]:
        nodes = graph.model.graph
        return Counter((node.op_type, tuple(len(made.uses()) for made in node.outputs)) for node in nodes)

    quick = shape_of_graph(lower(llama(num_hidden_layers=2), GraphOptions("fp32")))
    asked = []
    monkeypatch.setattr(torch_exporter, "is_known", lambda *_: asked.append(1))
    assert shape_of_graph(lower(llama(num_hidden_layers=2), GraphOptions("fp32"))) == quick
    assert asked


class Call:
    """One attention call of layer 0, as a model would make it."""

    layer_idx = 0

    def __init__(self) -> None:
        ids = torch.ones(1, 3, dtype=torch.int64)
        past = {0: (torch.zeros(1, 2, 8, 16), torch.zeros(1, 2, 8, 16))}
        cache = StepCache(1)
        rest = (ids, torch.zeros(1, 1, 3, 3), torch.zeros(1, dtype=torch.int64), cache)
        self.attention = TracedAttention()
        self.attention.step = TracedStep(past, ids, ids, *rest)
        self.key, self.value = cache.update(torch.zeros(1, 2, 3, 16), torch.zeros(1, 2, 3, 16), 0)

    def attend(self, mask: object = None, key: torch.Tensor | None = None, **others: object) -> Any:
        key = self.key if key is None else key
        return self.attention(self, torch.zeros(1, 4, 3, 16), key, self.value, mask, **others)


def test_an_attention_call_as_expected_passes() -> None:
    assert Call().attend(CausalMask())[0].shape == (1, 3, 4, 16)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"mask": None}, "with a mask of its own making"),
        ({"mask": torch.zeros(1, 1, 3, 3)}, "with a mask of its own making"),
        ({"position_bias": torch.zeros(4)}, "attends with position_bias"),
        ({"dropout": 0.1}, "dropout"),
        ({"key": torch.zeros(1, 2, 3, 16)}, "attends to other keys than it puts in its cache"),
    ],
)
def test_an_attention_call_of_another_kind_is_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(ArchitectureError, match=reason):
        Call().attend(**{"mask": CausalMask(), **change})


def test_a_layer_that_does_not_attend_is_refused() -> None:
    with pytest.raises(ArchitectureError, match=r"layers \[0\] do not attend through transformers' attention"):
        check_layers(Call().attention.current)


def test_a_layer_attends_and_updates_once() -> None:
    call = Call()
    call.attend(CausalMask())
    with pytest.raises(ArchitectureError, match="layer 0 attends twice"):
        call.attend(CausalMask())
    with pytest.raises(ArchitectureError, match="updates its cache twice"):
        call.attention.current.cache.update(call.key, call.value, 0)


def test_state_beyond_keys_and_values_is_refused() -> None:
    with pytest.raises(ArchitectureError, match="uses 'conv_states' of its cache"):
        _ = StepCache(1).conv_states


class Norm(nn.Module):
    """A norm by any other name."""

    def __init__(self, offset: float, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.weight, self.offset, self.tiny = nn.Parameter(torch.ones(12)), offset, epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return NormFormula(self.tiny, self.offset)(x, self.weight)


@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("epsilon", [1e-14, 1e-6, 1e-2])
def test_norms_are_known_by_what_they_compute(offset: float, epsilon: float) -> None:
    assert find_formula(Norm(offset, epsilon)) == NormFormula(epsilon, offset)


@pytest.mark.parametrize(
    "module", [nn.LayerNorm(12), nn.LayerNorm(12, bias=False), Norm(0.5), nn.Linear(12, 12, False)]
)
def test_what_is_no_such_norm_stays(module: nn.Module) -> None:
    assert find_formula(module) is None


def test_layouts_of_rotary_pairs_are_known_by_what_they_compute() -> None:
    rotary = modeling_llama.LlamaRotaryEmbedding(llama())
    table = make_table(rotary, 64, (), {})
    assert find_layout(table, modeling_llama.apply_rotary_pos_emb, 16) is False
    config = transformers.CohereConfig(**SIZES)
    pairs = make_table(modeling_cohere.CohereRotaryEmbedding(config), 64, (), {})
    assert (table.repeat, pairs.repeat) == ("halves", "pairs")
    assert find_layout(pairs, modeling_cohere.apply_rotary_pos_emb, 16) is True
    with pytest.raises(RotaryMismatchError):
        find_layout(table, lambda q, k, cos, sin: (q, k), 16)


@pytest.mark.slow
def test_a_large_model_is_lowered_without_its_weights() -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sizes = {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "vocab_size": 151936}
    heads = {"num_attention_heads": 12, "num_key_value_heads": 2, "tie_word_embeddings": True}
    lower(transformers.Qwen2Config(**sizes, **heads), GraphOptions("int4"))
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 500_000_000
