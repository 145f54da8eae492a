"""How many of the target's hidden rows are kept for drafters that read them, and what they take."""

from __future__ import annotations

from export.manifest import Level

# Rows kept beside those of a chunk of a prompt. Drafters read what they lack before it is overwritten, so many steps
# without them cost one forward of about as many rows. A choice: a row of Qwen3.5-0.8B takes 4 KiB.
_KEPT = 128


def kept_rows(prefill_chunk: int) -> int:
    """The last rows that are kept, if prompts are read in chunks of ``prefill_chunk``."""
    return prefill_chunk + _KEPT


def hidden_bytes(level: Level, width: int, kept: int, rows: int, draft_rows: int) -> int:
    """Bytes of the float32 rows of ``width`` numbers that a target gives, or that a drafter reads.

    ``kept``: see above; ``rows``: most rows of a forward; ``draft_rows``: most rows of one with logits. A drafter has
    rows of its own beside, given and taken.
    """
    own = 2 * draft_rows * level.own_hidden if level.reads else 0
    return 4 * ((kept + rows) * width + own)
