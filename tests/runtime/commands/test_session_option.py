"""``--session``: the next command reads what is new, and says the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runtime.__main__ import main
from runtime.conversation import Conversation
from runtime.engine import Engine

ARGUMENTS = ("--threads", "1", "--max-new-tokens", "12", "--no-speculation")


def generate(capsys: pytest.CaptureFixture[str], bundle: Path, prompt: str, *more: str) -> tuple[int, str, str]:
    code = main(["generate", str(bundle), prompt, *ARGUMENTS, *more])
    out, err = capsys.readouterr()
    return code, out, err


def test_a_saved_prompt_is_not_read_again(
    capsys: pytest.CaptureFixture[str], plain_bundle: Path, tmp_path: Path
) -> None:
    start, option = "A long beginning that every prompt has. ", ("--session", str(tmp_path / "kept"))
    alone = json.loads(generate(capsys, plain_bundle, start + "Second", "--json")[1])
    assert generate(capsys, plain_bundle, start + "First", *option)[0] == 0
    again = json.loads(generate(capsys, plain_bundle, start + "Second", "--json", *option)[1])
    assert again["text"] == alone["text"]
    assert (alone["stats"]["cached_tokens"], again["stats"]["cached_tokens"]) == (0, len(start))
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_what_is_no_session_is_refused_and_stays(
    capsys: pytest.CaptureFixture[str], plain_bundle: Path, tmp_path: Path
) -> None:
    path = tmp_path / "kept"
    path.write_bytes(b"something else")
    for option in (("--session", str(path)), ("--reread",), ("--session", str(tmp_path / "none" / "kept"))):
        code, out, err = generate(capsys, plain_bundle, "Once", *option)
        assert (code, out) == (2, "")
        assert [line[:7] for line in err.splitlines() if not line.startswith("note: ")] == ["error: "]
    assert path.read_bytes() == b"something else"


def test_another_kind_of_kernels_reads_again_when_asked(
    capsys: pytest.CaptureFixture[str], plain_bundle: Path, tmp_path: Path
) -> None:
    path = tmp_path / "kept"
    generate(capsys, plain_bundle, "Once upon", "--session", str(path))
    threads = ("--threads", "2", "--session", str(path))
    code, _, err = generate(capsys, plain_bundle, "Once upon", *threads)
    assert code == 2
    assert "other kernels" in err
    assert "--reread" in err
    code, out, err = generate(capsys, plain_bundle, "Once upon", *threads, "--reread")
    assert code == 0
    assert "read again and replaced" in err
    assert generate(capsys, plain_bundle, "Once upon", *threads)[:2] == (0, out)


def test_a_conversation_stays_in_its_file(
    capsys: pytest.CaptureFixture[str], random_bundle: Path, engine: Engine, tmp_path: Path
) -> None:
    path = tmp_path / "kept"
    conversation = Conversation(engine, "Be brief.", max_new_tokens=4)
    list(conversation.say("Hello"))
    conversation.save(path)
    assert generate(capsys, random_bundle, "Hello", "--session", str(path), "--reread")[0] == 0
    assert Conversation.restore(engine, path, reread=True).messages == conversation.messages
