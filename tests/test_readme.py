"""What the pages say is so: their commands are commands, their links lead somewhere, and their examples run."""

from __future__ import annotations

import io
import pkgutil
import re
from pathlib import Path

import pytest

from runtime.drafters import registry
from tests.pages import HISTORY, Command, Page, read_pages
from tests.places import ROOT

PAGES = read_pages()
CURRENT = [page for page in PAGES if page.name != HISTORY]
COMMANDS = [command for page in CURRENT for command in page.commands()]
# Run here with a small bundle: whatever needs neither the demo's drafters nor minutes.
QUICK = ("chat", "compare", "doctor", "generate", "inspect", "plan")
EXPECTED_PAGES = {
    "README.md",
    "ARCHITECTURE.md",
    "android_demo/README.md",
    "CONTRIBUTING.md",
    HISTORY,
    "export/README.md",
    "memory/README.md",
    "runtime/README.md",
    "runtime/bench/RESULTS.md",
    "runtime/bundle/README.md",
    "runtime/chat/README.md",
    "runtime/decoding/README.md",
    "runtime/drafters/README.md",
    "runtime/kernels/README.md",
    "runtime/models/README.md",
    "runtime/scheduler/README.md",
    "runtime/server/README.md",
    "runtime/sessions/README.md",
}


def _of(*programs: str) -> list[Command]:
    return [command for command in COMMANDS if command.words[: len(programs)] == programs]


def parse(program: str, words: list[str]) -> object:
    """The options of ``python -m program words``, by the program's own parser; SystemExit or an error if it refuses."""
    if program == "export":
        from export.__main__ import _TRAINING, _parse

        if words[0] in _TRAINING:
            from export.distill.commands import parse as parse_training

            return parse_training(words)
        return _parse(words)
    if program == "android_demo.check":
        from android_demo.check.__main__ import parse as parse_check

        return parse_check(words)
    if program == "memory":
        from memory.__main__ import parse as parse_memory

        return parse_memory(words)
    from runtime.__main__ import parse as parse_runtime

    return parse_runtime(words)


def test_every_page_is_known() -> None:
    assert {page.name for page in PAGES} >= EXPECTED_PAGES


@pytest.mark.parametrize("command", _of("python", "-m"), ids=str)
def test_commands_are_understood(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    program, *words = command.words[2:]
    assert program in ("android_demo.check", "export", "memory", "runtime")
    if command.mentioned and all(word.isalpha() and word.islower() for word in words):
        with pytest.raises(SystemExit) as end:
            parse(program, [*words, "--help"])
        assert end.value.code == 0, capsys.readouterr().err
    else:
        parse(program, words)


def test_the_commands_of_the_export_can_be_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from export.__main__ import _parse, _request

    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-checkpoint").mkdir()
    wanted = [
        list(each.words[3:])
        for each in _of("python", "-m", "export")
        if "--target" in each.words and "distill" not in each.words
    ]
    assert wanted
    for words in wanted:
        assert _request(_parse(words)).target == words[words.index("--target") + 1]


@pytest.mark.parametrize("command", _of("make"), ids=str)
def test_make_targets_exist(command: Command) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = [word for word in command.words[1:] if "=" not in word]
    assert targets
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


@pytest.mark.parametrize("command", _of("pytest"), ids=str)
def test_files_of_tests_exist(command: Command) -> None:
    files = [word for word in command.words if word.startswith("tests")]
    assert all((ROOT / file).exists() for file in files)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Page) -> None:
    anchors = {ROOT / each.name: each.anchors() for each in PAGES}
    for link in page.links():
        place, _, anchor = link.partition("#")
        file = (ROOT / page.name).parent / place if place else ROOT / page.name
        assert file.exists(), f"{page.name} links {link}"
        assert not anchor or anchor in anchors[file.resolve()], f"{page.name} links {link}"


@pytest.mark.parametrize("page", CURRENT, ids=lambda page: page.name)
def test_paths_and_modules_that_are_named_exist(page: Page) -> None:
    for path in page.paths():
        assert (ROOT / path).exists(), f"{page.name} names {path}"
    for module in page.modules():
        assert pkgutil.resolve_name(module), f"{page.name} names {module}"


def test_the_architecture_names_every_room() -> None:
    (page,) = (page for page in PAGES if page.name == "ARCHITECTURE.md")
    rooms = {file.parent.relative_to(ROOT).as_posix() for file in ROOT.glob("*/*/__init__.py")}
    assert {room for room in rooms if not room.startswith("tests/")} <= set(page.paths())


def _quick() -> list[Command]:
    return [
        command
        for command in COMMANDS
        if command.words[:3] in (("python", "-m", "runtime"), ("python", "-m", "memory"))
        and command.words[3] in QUICK
        and any(word.startswith("bundles/demo-int4") for word in command.words)
        and "--drafter" not in command.words
    ]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current folder is an empty one: some commands and examples write files."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize("command", _quick(), ids=str)
def test_quick_commands_run(
    command: Command, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from memory.__main__ import main as run_memory
    from runtime.__main__ import main as run_runtime

    monkeypatch.setattr("sys.stdin", io.StringIO("Hello\n"))
    replaced = {"bundles/demo-int4": str(tiny_bundle), "2048": "256", "up to 2048": "up to 256", "200": "8"}
    words = [replaced.get(word, word) for word in command.words[3:]]
    if words[0] in ("chat", "generate"):
        words[1:1] = ["--max-new-tokens", "8"]
    main = run_memory if command.words[2] == "memory" else run_runtime
    assert main(words) == 0, capsys.readouterr().err
    assert capsys.readouterr().out


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize(
    "example", [pytest.param(code, id=page.name) for page in CURRENT for code in page.blocks("python")]
)
def test_python_examples_print_text(
    example: str, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(registry, "_registered", dict(registry.registered()))
    exec(example.replace("bundles/demo-int4", str(tiny_bundle)), {})
    assert capsys.readouterr().out
