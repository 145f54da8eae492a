"""What a session file says beside its arrays, and the names of those; every field is checked before it is used."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

from export.manifest import PocketspecError
from export.records import build_record
from export.untrusted import UntrustedError, Within, parse_own_json, shown
from runtime.decoding.sampling import SamplingParams
from runtime.sessions.identity import Identity

FORMAT = "pocketspec-session"
# The one version there is. A reader refuses newer ones; it must go on reading older ones.
VERSION = 1
TOKENS = "tokens"

Count = Annotated[int, Within(0, 1 << 31)]


@dataclass(frozen=True)
class LevelRecord:
    """The state of one level: of the ``kind`` "kv", ``rows`` rows of ``arrays`` arrays. Other kinds may follow.

    The last of the arrays are states of layers without rows, if the level has any; ``behind`` rows follow their bases.
    """

    name: str
    kind: Literal["kv"]
    rows: Count
    arrays: Annotated[int, Within(1, 1 << 16)]
    identity: Identity
    behind: Count = 0

    @property
    def tokens_name(self) -> str:
        """The array of the tokens whose rows are held, int32 ``[rows]``."""
        return f"{self.name}/tokens"

    def array_name(self, number: int) -> str:
        """A key or a value, ``[kv_heads, rows, head_size]``, or a state, by its place in the graph's order."""
        return f"{self.name}/kv.{number}"


@dataclass(frozen=True)
class CalibrationRecord:
    """What was learnt of a drafter's confidence; see ``drafters.confidence.ConfidenceCalibration``."""

    weights: tuple[Annotated[float, Within(0, 1e4)], ...]
    errors: tuple[Annotated[float, Within(-1e4, 1e4)], ...]


@dataclass(frozen=True)
class SessionRecord:
    """A session: ``tokens`` committed ones of the target's ``vocabulary`` (its hash), and the state of every level.

    ``left_out`` tokens of the conversation came before. ``sampling`` was in force last. ``versions`` are for people.
    """

    tokens: Count
    vocabulary: str
    left_out: Annotated[int, Within(0, 1 << 53)]
    sampling: SamplingParams
    levels: tuple[LevelRecord, ...]
    calibrations: Mapping[str, CalibrationRecord] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


def dump_metadata(record: SessionRecord, conversation: Mapping[str, Any] | None) -> dict[str, str]:
    """The texts of a file; ``conversation`` is JSON data."""
    texts = {"format": FORMAT, "version": str(VERSION), "session": json.dumps(asdict(record))}
    return texts if conversation is None else {**texts, "conversation": json.dumps(conversation)}


def parse_metadata(metadata: Mapping[str, str]) -> tuple[SessionRecord, Any]:
    """The session and the conversation (JSON data, None if there is none); UntrustedError if they are malformed."""
    if metadata.get("format") != FORMAT:
        raise UntrustedError("is no session of pocketspec")
    version = metadata.get("version", "")
    if version != str(VERSION):
        is_newer = version.isdecimal() and len(version) < 10 and int(version) > VERSION
        advice = "; update pocketspec" if is_newer else ""
        raise UntrustedError(f"has version {shown(version)} of the format, and this program reads {VERSION}{advice}")
    try:
        record: SessionRecord = build_record(
            SessionRecord, parse_own_json(metadata.get("session", "")), "is malformed in its session"
        )
    except PocketspecError as error:
        raise UntrustedError(f"has settings that mean nothing: {error}") from None
    if len({level.name for level in record.levels}) < len(record.levels):
        raise UntrustedError("has two levels of one name")
    return record, parse_own_json(metadata["conversation"]) if "conversation" in metadata else None
