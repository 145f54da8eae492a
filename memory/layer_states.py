"""How much is kept of the states of layers without a KV cache: rows that can be taken back, and copies.

The target takes back rows of its last step alone. Other levels run several forwards before anyone judges them: a
drafter as many as it drafts tokens, twice as many if it drafts ahead, an intermediate as many as it has inner steps.
"""

from __future__ import annotations

from export.manifest import Level

# Rows that levels other than the target can take back, for each row of their longest forward. A longer way back leads
# to the last copy; it is rare, and costs time alone.
_HELD_FORWARDS = 4
# Copies of the states: of the target at the ends of its last prompts, to answer again or to go on without what was
# thought meanwhile; of others at the end of the last one.
_TARGET_SNAPSHOTS, _OTHER_SNAPSHOTS = 2, 1


def held_rows(level: Level, max_rows: int) -> int:
    """Rows that can be taken back, if a forward has at most ``max_rows``."""
    return max_rows if level.role == "target" else _HELD_FORWARDS * max_rows


def num_snapshots(level: Level) -> int:
    """Copies of all states that are kept."""
    return _TARGET_SNAPSHOTS if level.role == "target" else _OTHER_SNAPSHOTS


def state_bytes(level: Level, max_rows: int) -> int:
    """Bytes of the states of ``level`` and their copies; 0 if it has none."""
    return (1 + num_snapshots(level)) * level.shape.state_bytes(held_rows(level, max_rows))


def why_no_trees(level: Level) -> str | None:
    """Why drafts for ``level`` are chains, never trees; None if nothing of its layers forbids trees."""
    if not level.shape.has_states:
        return None
    return f"layers of {level.name} have states, which take rows one after another, so drafts are chains"
