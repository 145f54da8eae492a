"""Kinds of drafters that ``distill --target`` makes: one file each, and one line in this table."""

from __future__ import annotations

from export.distill.kinds.eagle import FeatureHead
from export.distill.kinds.kind import StudentKind
from export.distill.kinds.pard import ParallelModel
from export.distill.kinds.small import SmallModel
from export.distill.kinds.stack import StackedHeads

_ALL = (SmallModel(), ParallelModel(), FeatureHead(), StackedHeads(grounded=False), StackedHeads(grounded=True))
KINDS: dict[str, StudentKind] = {kind.name: kind for kind in _ALL}
# Kinds that were weighed and are not made, and why.
REFUSED = {
    "early-exit": (
        "without training, a target's own layers as its drafter reach 1.05 x plain decoding at best (export/README.md),"
        " so there is no such drafter; --kind small --from-layers 0 1 trains a model that begins as two of its layers"
    )
}
