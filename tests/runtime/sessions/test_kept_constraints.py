"""A conversation remembers what its answers must be; what a file of strangers says of that is checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from export.untrusted import UntrustedError
from memory.choices import Request
from runtime.constraints.request import AnyJsonObject, Constrained, Grammar, JsonSchema, Regex
from runtime.conversation import Conversation
from runtime.engine import Engine
from runtime.sessions.conversation_record import ConversationRecord, Overflow, keep_settings, parse_conversation
from runtime.text.template_data import make_inputs

KINDS: list[Constrained | None] = [
    None,
    AnyJsonObject(),
    JsonSchema({"type": "string", "maxLength": 3}),
    Regex("é+"),
    Grammar('start: "a" | start "b"'),
]


def record_of(constraint: Constrained | None) -> dict[str, Any]:
    """What a file keeps of a conversation with ``constraint``, as it is read."""
    settings = keep_settings({"constraint": constraint, "when_full": "stop"})
    record = ConversationRecord((), (), Overflow("stop", 0, 0), settings, make_inputs(None, None, None))
    found: dict[str, Any] = json.loads(json.dumps(record.dump()))
    return found


@pytest.mark.parametrize("constraint", KINDS, ids=lambda kind: type(kind).__name__)
def test_every_kind_of_constraint_comes_back(constraint: Constrained | None) -> None:
    record = parse_conversation(record_of(constraint))
    assert record.settings.constraint == constraint
    assert record.arguments.get("constraint") == constraint


NO_CONSTRAINTS: list[object] = [
    *("regex", 7, [], {"regex": "a"}, ["regex"], ["regex", 3], ["regex", "a", "b"], ["regex", ""]),
    *(["regex", "a" * (1 << 19)], ["JsonSchema", "{}"], ["json_schema", "{"]),
]


@pytest.mark.parametrize("data", NO_CONSTRAINTS, ids=lambda data: str(data)[:20])
def test_what_is_no_constraint_is_refused(data: object) -> None:
    record = record_of(None)
    record["settings"]["constraint"] = data
    with pytest.raises(UntrustedError, match="settings that mean nothing"):
        parse_conversation(record)


def test_a_restored_conversation_keeps_its_answers_to_the_constraint(random_bundle: Path, tmp_path: Path) -> None:
    file, digits = tmp_path / "session", Regex("[0-9]{3}")
    with Engine.open(random_bundle, Request(threads=1)) as engine:
        first = Conversation(engine, constraint=digits, max_new_tokens=8)
        "".join(chunk.text for chunk in first.say("One"))
        first.save(file)
        again = Conversation.restore(engine, file)
        assert "".join(chunk.text for chunk in again.say("Two")).isdigit()
        free = Conversation.restore(engine, file, constraint=None)
        assert not "".join(chunk.text for chunk in free.say("Two")).isdigit()
