"""The README's commands are commands, and its Python example runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.places import ROOT

PAGES = (
    "README.md",
    "export/README.md",
    "memory/README.md",
    "runtime/README.md",
    "runtime/scheduler/README.md",
    "runtime/decoding/README.md",
    "runtime/kernels/README.md",
    "runtime/bundle/README.md",
    "runtime/bench/RESULTS.md",
)
README = "\n".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)
SHELL = [
    shlex.split(line, comments=True)
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.strip()
]


def _commands(program: str) -> list[list[str]]:
    return [words[3:] for words in SHELL if words[:3] == ["python", "-m", program]]


@pytest.mark.parametrize("words", _commands("export"), ids=" ".join)
def test_export_commands_are_understood(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from export.__main__ import _parse, _request

    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-checkpoint").mkdir()
    request = _request(_parse(words))
    assert request.target == words[words.index("--target") + 1]


@pytest.mark.parametrize("words", _commands("memory"), ids=" ".join)
def test_memory_commands_are_understood(words: list[str]) -> None:
    from memory.__main__ import parse

    assert parse(words).command == words[0]


@pytest.mark.parametrize("words", _commands("runtime"), ids=" ".join)
def test_runtime_commands_are_understood(words: list[str]) -> None:
    from runtime.__main__ import parse

    options = parse(words)
    assert options.command == words[0]
    assert getattr(options, "prompt", words[-1]) == words[-1]


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = [words[1] for words in SHELL if words[0] == "make"]
    assert targets
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


def test_the_python_example_prints_text(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(example.replace("bundles/demo-int4", str(tiny_bundle)), {})
    assert capsys.readouterr().out
