"""How a checkpoint says that it drafts in parallel (PARD): by keys of its configuration.

Published checkpoints have ``pard_token``, the id that stands for every token that is not known (AMD-AGI/PARD). Those
of ``export.distill`` say beside it how many tokens they were trained to draft.

PARD-2 checkpoints have ``pard2_target_layers`` beside it: layers of the one target whose hidden rows a projection adds
to the embedded tokens. They were trained to do without as well, in target-independent use. The projection is published
pickled (``warp_model.bin``), which is never opened; where it lies in ``PROJECTION_FILE``, it is used (``heads.pard2``).
"""

from __future__ import annotations

from typing import Any

from export.manifest import ParallelDrafts
from export.sources.config_names import read_size
from export.sources.model_shape import ArchitectureError

MASK_KEY, LONGEST_KEY = "pard_token", "pard_longest"
LAYERS_KEY, PROJECTION_FILE = "pard2_target_layers", "warp_model.safetensors"
# What PARD's own code drafts with checkpoints that do not say.
_USUAL_LONGEST = 12
# The least is what one forward without masks drafts, the most what a manifest allows.
LEAST_DRAFTS, MOST_DRAFTS = 2, 64


def left_out(config: Any) -> str | None:
    """What of a checkpoint is not exported, for the user; None if it is whole."""
    if getattr(config, LAYERS_KEY, None) is None:
        return None
    return (
        "PARD-2, in its target-independent use: the projection of the target's hidden rows is left out (it would be"
        f" read from {PROJECTION_FILE}, for a target that is not enlarged)"
    )


def parallel_drafts(config: Any) -> ParallelDrafts | None:
    """How a model of ``config`` drafts in parallel, None if it does not; ArchitectureError for what is impossible."""
    mask = getattr(config, MASK_KEY, None)
    if mask is None:
        return None
    longest, vocab_size = getattr(config, LONGEST_KEY, None) or _USUAL_LONGEST, read_size(config, "vocab_size")
    if type(mask) is not int or not 0 <= mask < vocab_size:
        raise ArchitectureError(f"{config.model_type}: {MASK_KEY} {mask!r} is none of its {vocab_size} tokens")
    if type(longest) is not int or not LEAST_DRAFTS <= longest <= MOST_DRAFTS:
        raise ArchitectureError(
            f"{config.model_type}: {LONGEST_KEY} {longest!r} is no length of drafts; it is {LEAST_DRAFTS} to"
            f" {MOST_DRAFTS}"
        )
    return ParallelDrafts(mask, longest)
