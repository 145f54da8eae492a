"""An EAGLE-3 head learns from the hidden rows of its quantized target (arXiv 2503.01840).

It is trained as it drafts: over several steps of its own (*training-time test*). In the first step every row has hidden
rows of the target. In each later one a row has the head's own hidden row of the position before, and sees the target's
rows up to where a draft would begin and the own rows behind that. All rows of all positions are learned at once.

The target's weights are rounded as they will run, since that is what the head reads; its activations are not.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional
from transformers import DynamicCache

from export.distill.devices import tensors_for
from export.distill.lessons import Lessons
from export.distill.running_agreement import RunningAgreement
from export.graph.taps import tapped
from export.heads.eagle3 import EagleHead, eagle3_head
from export.manifest import PocketspecError, Tap
from export.quantization.blocks import dequantize
from export.quantization.quantize import QUANTIZERS

# Each step of its own counts this much of the one before; EAGLE-3's own.
_DECAY = 0.8
_FAMILIES = ("llama", "qwen2", "qwen3")
_READING = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_BITS, _BLOCK = 4, 32


def eagle_config(target: Any) -> Any:
    """The configuration of a head for a target of that configuration, as SpecForge writes it: a layer as the target's.

    PocketspecError for targets whose layers are other ones. It reads the rows in front of the target's third layer, of
    the one in the middle and of the third last.
    """
    if target.model_type not in _FAMILIES:
        raise PocketspecError(
            f"an EAGLE-3 head is trained for targets of {', '.join(_FAMILIES)}, and this is {target.model_type}"
        )
    config, layers = copy.deepcopy(target), target.num_hidden_layers
    taps = (min(2, layers), layers // 2, max(layers - 3, 0))
    config.num_hidden_layers = 1
    config.architectures = ["LlamaForCausalLMEagle3"]
    config.tie_word_embeddings = False
    config.draft_vocab_size, config.target_hidden_size = config.vocab_size, config.hidden_size
    config.eagle_config = {"eagle_aux_hidden_state_layer_ids": [tap - 1 for tap in sorted(set(taps) - {0})]}
    return config


class EagleStudent(nn.Module):
    """A head in training: its embedding is the target's and stays; all else begins as what the target has for it.

    Its layer begins as the target's last one, reading the last tap: what the target makes of that stream, it nearly
    knows. What its attention reads of the embedding begins as what the first layer reads.
    """

    def __init__(self, target: Any) -> None:
        super().__init__()
        self.config = eagle_config(target.config)
        described = eagle3_head(self.config, target.config)
        self.reads: tuple[Tap, ...] = described.reads
        self.head: EagleHead = described.build("sdpa")
        self._begin_as(target)
        self.head.model.embed_tokens.weight.requires_grad = False

    @torch.no_grad()
    def _begin_as(self, target: Any) -> None:
        head, size = self.head, self.config.hidden_size
        head.lm_head.weight.copy_(target.get_output_embeddings().weight)
        head.model.embed_tokens.weight.copy_(target.get_input_embeddings().weight)
        head.final_norm.load_state_dict(target.model.norm.state_dict())
        head.fc.weight.zero_()
        head.fc.weight[:, -size:].copy_(torch.eye(size))
        first, last, layer = target.model.layers[0], target.model.layers[-1], head.model.layers[0]
        own = {name: value for name, value in last.state_dict().items() if not name.startswith(_READING)}
        layer.load_state_dict({**layer.state_dict(), **own, "hidden_norm.weight": last.input_layernorm.weight})
        layer.input_layernorm.load_state_dict(first.input_layernorm.state_dict())
        for name in ("q_proj", "k_proj", "v_proj"):
            parts = (getattr(each.self_attn, name).weight for each in (first, last))
            getattr(layer.self_attn, name).weight.copy_(torch.cat(tuple(parts), 1))

    def save_pretrained(self, folder: Path) -> None:
        """Writes a checkpoint in SpecForge's format, without the embedding, which is the target's."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {}
        for name, value in self.head.state_dict().items():
            if name != "model.embed_tokens.weight":
                name = name.replace("model.layers.0.", "midlayer.").replace("final_norm.", "norm.")
                tensors[name] = value.contiguous()
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text(json.dumps(self.config.to_dict(), indent=2) + "\n")


@torch.no_grad()
def quantized(target: Any) -> Any:
    """A copy of ``target`` whose matrices are rounded as an int4 export rounds them; nothing of it is trained.

    A tied embedding is rounded with the output matrix.
    """
    target = copy.deepcopy(target).eval().requires_grad_(False)
    for module in target.modules():
        if isinstance(module, nn.Linear):
            rounded = QUANTIZERS["search"].quantize(module.weight.float().cpu().numpy(), _BITS, _BLOCK, True, None)
            rows = dequantize(rounded.codes, rounded.scales, rounded.zero_points, _BITS)
            module.weight.copy_(torch.from_numpy(rows[:, : module.in_features]))
    return target


@dataclass
class EagleObjective:
    """The distributions of ``target``, which is quantized, over ``depth`` steps of the head.

    ``agreement`` has running means, by step: how often the first choice is the target's.
    """

    lessons: Lessons
    target: Any
    depth: int
    agreement: RunningAgreement = field(init=False)

    def __post_init__(self) -> None:
        self.agreement = RunningAgreement(self.depth)

    def loss(self, model: EagleStudent, rng: np.random.Generator, rows: int, length: int) -> torch.Tensor:
        """Cross entropy with the teacher's distributions, over all steps."""
        tokens, ids, probs = tensors_for(model, *self.lessons.windows(rng, rows, length))
        ids, probs, total, weights = ids[:, 1:], probs[:, 1:], tokens.new_zeros((), dtype=torch.float32), 0.0
        shares: list[float] = []
        for step, logits in enumerate(self.steps(model, tokens)):
            given = functional.log_softmax(logits.float(), -1)[:, step:]
            loss = -(given.gather(-1, ids[:, step:]) * probs[:, step:]).sum(-1).mean()
            total, weights = total + _DECAY**step * loss, weights + _DECAY**step
            shares.append(float((given.argmax(-1) == ids[:, step:, 0]).float().mean()))
        self.agreement.note(shares)
        return total / weights

    def steps(self, model: EagleStudent, tokens: torch.Tensor) -> Iterator[torch.Tensor]:
        """The logits of each step for texts ``tokens`` ``[texts, n]``: ``[texts, n - 1, vocab]``.

        Those of row i are behind token i + 1; in step k the rows before k have too little text before them.
        """
        with torch.no_grad(), tapped(self.target, model.reads) as found:
            self.target(input_ids=tokens, use_cache=False)
        hidden = torch.cat([found[tap] for tap in model.reads], -1)[:, :-1].float()
        tokens, cache, own = tokens[:, 1:], DynamicCache(), hidden[:, :0, : model.config.hidden_size]
        texts, count = tokens.shape
        places = torch.arange(count, device=tokens.device)[None].expand(texts, -1)
        for step in range(self.depth):
            seen = visible(count, step).to(tokens.device)
            out = model.head(tokens, hidden, own, places, past_key_values=cache, attention_mask=seen, use_cache=True)
            yield out.logits
            own, hidden = functional.pad(out.hidden, (0, 0, 1, 0))[:, :-1], hidden[:, :0]


def visible(count: int, step: int) -> torch.Tensor:
    """Which rows of all steps so far a row of ``step`` sees: bool ``[1, 1, count, (step + 1) * count]``.

    Row i has ``step`` own rows up to itself, one of each step before it: those at i - step + 1 to i. Before these it
    sees the rows of step 0, which are the target's, up to i - step.
    """
    behind = torch.arange(count)[:, None] - torch.arange(count)[None]
    parts = [behind >= step, *(behind == step - own for own in range(1, step + 1))]
    return torch.cat(parts, 1)[None, None]
