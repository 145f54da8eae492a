"""A stack of heads learns from the hidden rows of its quantized target: Medusa's heads, and Hydra's grounded ones.

Head i learns the distribution of the token i + 2 places behind the one whose hidden row it reads, as it will guess it,
from the last layer of the target as it will run (``eagle.quantized``). Grounded heads read the embeddings of the tokens
in between, the text's own: where drafted ones differ, a draft ends before this head's guess counts.

Medusa's heads share the target's output matrix (version 2 of its format), so that only their blocks are learned and
stored: with one of its own each, five heads of the demo target would be 5.2 M weights beside 8.9 M. Hydra's format has
one for each head.
"""

from __future__ import annotations

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

from export.distill.devices import tensors_for
from export.distill.lessons import Lessons
from export.distill.running_agreement import RunningAgreement
from export.graph.taps import tapped
from export.heads.stack import HeadStack
from export.heads.stack_formats import StackConfig, head_stack

# Each head counts this much of the one before: Medusa's own.
_DECAY = 0.8


class StackStudent(nn.Module):
    """``heads`` heads in training, of one layer each; ``grounded``: they are Hydra's. Embedding and final norm stay.

    They begin as published ones do: each as the target's own output matrix over its hidden row.
    """

    def __init__(self, target: Any, heads: int, grounded: bool = False) -> None:
        super().__init__()
        self.kind = "hydra" if grounded else "medusa"
        self.fields: dict[str, Any] = {f"{self.kind}_num_heads": heads, f"{self.kind}_num_layers": 1}
        self.fields |= {"grounded_heads": True, "hydra_head_arch": "mlp"} if grounded else {"version": "2"}
        described = head_stack(StackConfig(self.kind.capitalize(), self.fields), target.config)
        if described.fit is not None and not grounded:
            described = described.fit([f"{head}.0.linear.weight" for head in range(heads)])
        self.reads = described.reads[0]
        self.stack: HeadStack = described.build("sdpa")
        self._begin_as(target)

    @torch.no_grad()
    def _begin_as(self, target: Any) -> None:
        stack, size = self.stack, target.config.hidden_size
        stack.target_norm.load_state_dict(target.model.norm.state_dict())
        kept = [stack.target_norm]
        for blocks in stack.layers:
            first = blocks[0]
            first.linear.weight.zero_()
            first.linear.bias.zero_()
            if isinstance(first.res_connection, nn.Linear):
                first.res_connection.bias.zero_()
                first.res_connection.weight.zero_()
                first.res_connection.weight[:, :size].copy_(torch.eye(size))
        output = target.get_output_embeddings().weight
        if stack.shape.shared:
            stack.lm_head.weight.copy_(output)
            kept.append(stack.lm_head)
        else:
            for own in stack.outputs:
                own.weight.copy_(output)
                own.bias.zero_()
        if stack.shape.grounded:
            stack.model.embed_tokens.weight.copy_(target.get_input_embeddings().weight)
            kept.append(stack.model.embed_tokens)
        for module in kept:
            module.requires_grad_(False)

    def save_pretrained(self, folder: Path) -> None:
        """Writes a checkpoint in Medusa's or Hydra's format, without what is the target's."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {}
        for name, value in self.stack.state_dict().items():
            if (published := self._published(name)) is not None:
                tensors[published] = value.contiguous()
        save_file(tensors, folder / f"{self.kind}_lm_head.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text(json.dumps(self.fields, indent=2) + "\n")

    def _published(self, name: str) -> str | None:
        part, _, rest = name.partition(".")
        if part == "layers":
            return rest if self.kind == "medusa" else f"hydra_mlp.{rest}"
        return f"hydra_lm_head.{rest}" if part == "outputs" else None


@dataclass
class StackObjective:
    """The distributions of ``target``, which is quantized, for all heads of a stack.

    ``agreement`` has running means, by head: how often the first choice is the target's.
    """

    lessons: Lessons
    target: Any
    heads: int
    agreement: RunningAgreement = field(init=False)

    def __post_init__(self) -> None:
        self.agreement = RunningAgreement(self.heads)

    def loss(self, model: StackStudent, rng: np.random.Generator, rows: int, length: int) -> torch.Tensor:
        """Cross entropy with the teacher's distributions, over all heads."""
        tokens, ids, probs = tensors_for(model, *self.lessons.windows(rng, rows, length))
        total, weights = tokens.new_zeros((), dtype=torch.float32), 0.0
        shares: list[float] = []
        for head, logits in enumerate(self.steps(model, tokens)):
            given = functional.log_softmax(logits.float(), -1)
            behind = slice(head + 1, None)
            loss = -(given.gather(-1, ids[:, behind]) * probs[:, behind]).sum(-1).mean()
            total, weights = total + _DECAY**head * loss, weights + _DECAY**head
            shares.append(float((given.argmax(-1) == ids[:, behind, 0]).float().mean()))
        self.agreement.note(shares)
        return total / weights

    def steps(self, model: StackStudent, tokens: torch.Tensor) -> Iterator[torch.Tensor]:
        """The logits of each head for texts ``tokens`` ``[texts, n]``: see ``HeadStack.logits_of``."""
        with torch.no_grad(), tapped(self.target, (model.reads,)) as found:
            self.target(input_ids=tokens, use_cache=False)
        hidden = found[model.reads].float()
        for head in range(self.heads):
            yield model.stack.logits_of(head, tokens, hidden)
