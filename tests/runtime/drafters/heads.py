"""A tiny prediction head beside its torch module, targets whose hidden rows are made up, and a head without weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from runtime.arrays import FloatArray
from runtime.decoding.context import shared_prefix
from runtime.decoding.protocols import HiddenInput, ModelOutput
from runtime.models.exact_widths import even_widths
from runtime.models.hidden_rows import HiddenRows
from runtime.models.ort_model import OrtModel
from tests.runtime.table_model import TableModel

WIDTH = 64


def head_and_module(lower: Any, head: Any = None, capacity: int = 80, rows: int = 8) -> tuple[OrtModel, Any]:
    """An fp32 head of random weights, of even widths, and the torch module that it is exported from.

    None: that of a hybrid.
    """
    import onnx_ir as ir
    import onnxruntime
    import torch

    from export.graph.trace import GraphOptions
    from export.heads.mtp import mtp_head
    from tests.export.filled import fill
    from tests.export.heads.tiny_mtp import mtp_config

    head = head or mtp_head(mtp_config())
    graph = lower(head.config, GraphOptions("fp32"), (), head)
    torch.manual_seed(1)
    module: Any = head.build("eager").eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    fill(graph, {name: value.numpy() for name, value in module.state_dict().items()})
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    session = onnxruntime.InferenceSession(ir.to_proto(graph.model).SerializeToString(), options)
    return OrtModel(session, capacity, rows, 16, even_widths(rows)), module


@dataclass
class MadeUpTarget:
    """A ``TappedCache`` of a text whose hidden row at a position depends on the tokens up to there alone."""

    kept: int = 64
    capacity: int = 1000
    hidden: HiddenRows | None = field(init=False)
    tokens: Any = field(default_factory=lambda: np.zeros(0, np.int32))

    def __post_init__(self) -> None:
        self.hidden = HiddenRows(WIDTH, self.kept)

    @property
    def length(self) -> int:
        """See ``Cache``."""
        return len(self.tokens)

    def require(self, rows: int) -> None:
        """See ``Cache``."""

    def run(self, tokens: list[int]) -> None:
        """A forward that adds ``tokens``."""
        assert self.hidden is not None
        self.hidden.make_room(len(tokens))
        whole = [*self.tokens.tolist(), *tokens]
        start = len(self.tokens)
        rows = [hidden_row(whole[: place + 1]) for place in range(start, len(whole))]
        self.hidden.write(start, [np.array(rows, np.float32)])
        self.tokens = np.array(whole, np.int32)

    def rollback(self, length: int, kept: Any = ()) -> None:
        """See ``Cache``."""
        assert self.hidden is not None
        assert not kept
        self.hidden.rollback(length)
        self.tokens = self.tokens[:length]


def hidden_row(tokens: list[int]) -> FloatArray:
    """The hidden row at the last of ``tokens``."""
    row: FloatArray = np.random.default_rng(tokens).standard_normal(WIDTH, np.float32)
    return row


class TableHead(TableModel):
    """A head whose own hidden row is its row of the cache: it sees to it that every row is given its parent's."""

    def forward(self, tokens, parents=None, logits_from=0, hidden: HiddenInput | None = None) -> ModelOutput:
        past = self.cache.length
        logits = super().forward(tokens, parents, logits_from).logits
        rows = self.cache.arrays[0][0, 0]
        if hidden is not None:
            behind = range(-1, len(tokens) - 1) if parents is None else parents
            assert hidden.own
            assert np.array_equal(hidden.rows, rows[[past + parent for parent in behind]])
        return ModelOutput(logits, rows[past + logits_from : past + len(tokens)].copy())


class TableReader:
    """Keeps the cache of a ``TableHead`` with the text, as ``HeadReader`` does."""

    def __init__(self, head: TableHead) -> None:
        self.model = head

    def read(self, tokens: Any) -> tuple[ModelOutput, int]:
        """See ``HeadReader``."""
        kept = min(shared_prefix(self.model.cache.tokens, tokens), len(tokens) - 1)
        self.model.cache.rollback(kept)
        return self.model.forward(tokens[kept:], None, len(tokens) - 1 - kept), len(tokens) - 1 - kept
