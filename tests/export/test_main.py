"""The command line: options and aliases, one line for errors, exit codes, and what is printed where."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from export import __main__ as command
from export.__main__ import main
from export.manifest import PocketspecError, read_manifest
from export.request import ExportRequest, default_output, make_jobs
from tests.conftest import TinyModels
from tests.places import ROOT


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[ExportRequest]:
    """The requests that command lines lead to, instead of exports."""
    from export import bundle

    requests: list[ExportRequest] = []
    monkeypatch.setattr(bundle, "export_bundle", lambda request, reporter: requests.append(request))
    return requests


def test_options_become_a_request(asked: list[ExportRequest], tmp_path: Path) -> None:
    words = ["--target", "qwen2-1.5b", "--quant", "int8", "--drafter", "a/b", "--drafter", "c/d", "--drafter-quant"]
    words += ["int4", "--intermediate", "none", "--block-size", "64", "--quant-method", "rtn", "--random-weights"]
    words += ["--draft-vocab", "32768", "--text", "a.txt", "--text", "b.txt"]
    assert main([*words, "--positions", "4096", "--output", str(tmp_path), "--revision", "main"]) == 0
    (request,) = asked
    assert request == ExportRequest(
        target="qwen2-1.5b",
        output=tmp_path,
        weights="int8",
        drafters=("a/b", "c/d"),
        intermediates=(),
        drafter_weights="int4",
        block_size=64,
        method="rtn",
        random_weights=True,
        positions=4096,
        revision="main",
        draft_vocab=32768,
        texts=(Path("a.txt"), Path("b.txt")),
    )


def test_the_aliases_of_the_genai_builder(asked: list[ExportRequest], tmp_path: Path) -> None:
    assert main(["-m", "owner/model", "-o", str(tmp_path), "-p", "fp16", "-e", "cpu", "-c", "cache"]) == 0
    assert (
        main(["-i", "owner/model", "--precision", "fp16", "--execution_provider", "cpu", "--cache_dir", "cache"]) == 0
    )
    first, second = asked
    assert first == ExportRequest("owner/model", tmp_path, "fp16", cache_dir=Path("cache"))
    assert second == ExportRequest("owner/model", Path("bundles/model-fp16"), "fp16", cache_dir=Path("cache"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--target", "x", "--magic"], "unrecognized arguments: --magic; see python -m export --help"),
        ([], "the following arguments are required: --target"),
        (["--target", "x", "--quant", "int3"], "invalid choice: 'int3' (choose from int4, int8, fp16, fp32)"),
        (["--target", "x", "--quan", "int4"], "unrecognized arguments: --quan int4"),
        (["--target", "x", "-e", "cuda"], "execution provider 'cuda' is not supported; allowed is cpu"),
        (["--target", "x", "--drafter", "none", "--drafter", "y"], "--drafter none excludes other values, got none, y"),
        (["--target", "x", "--positions", "many"], "invalid int value: 'many'"),
    ],
)
def test_what_cannot_be_understood_is_one_line(words: list[str], message: str, capsys: Any) -> None:
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert message.replace("'", "") in captured.err.replace("'", "")


def test_errors_of_any_part_are_one_line(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def fail(arguments: object) -> int:
        raise PocketspecError("two\nlines")

    monkeypatch.setattr(command, "_export", fail)
    assert main(["--target", "x"]) == 2
    assert capsys.readouterr().err == "error: two lines\n"


def test_an_interruption_says_that_the_same_command_goes_on(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def interrupt(arguments: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "_export", interrupt)
    assert main(["--target", "x"]) == 130
    assert "nothing half-written" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["train", "lessons", "distill"])
def test_training_commands_go_to_the_distillation_tool(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from export.distill import commands

    seen: list[list[str]] = []
    monkeypatch.setattr(commands, "main", lambda words: seen.append(words) or 7)  # type: ignore[func-returns-value]
    assert main([word, "--text", "x"]) == 7
    assert seen == [[word, "--text", "x"]]


def test_known_targets_bring_their_partners_and_none_leaves_them_out() -> None:
    suggested = make_jobs(ExportRequest("qwen2-1.5b", Path()))
    assert [(job.role, job.name) for job in suggested] == [("target", "qwen2-1.5b"), ("drafter", "qwen2-0.5b")]
    assert [job.folder for job in suggested] == [".", "drafters/qwen2-0.5b"]
    assert len(make_jobs(ExportRequest("qwen2-1.5b", Path(), drafters=(), intermediates=()))) == 1


def test_stand_ins_say_so_in_the_default_output() -> None:
    request = ExportRequest("qwen2-1.5b", Path(), random_weights=True)
    assert default_output(request) == Path("bundles/qwen2-1.5b-random-int4")
    enlarged = ExportRequest("owner/Small_Model", Path(), enlarge_like="qwen2-7b")
    assert default_output(enlarged) == Path("bundles/small-model-like-qwen2-7b-int4")


def test_plan_and_report_go_to_standard_output(
    lowered_once: None, tiny_models: TinyModels, tmp_path: Path, capsys: Any
) -> None:
    words = ["--target", str(tiny_models.target), "--quant", "fp32", "--output", str(tmp_path / "out")]
    assert main([*words, "--drafter", str(tiny_models.drafter)]) == 0
    printed = capsys.readouterr().out
    plan, report = printed.index("Plan:"), printed.index("Bundle:")
    assert plan < report
    for part in ("tiny-target", "tiny-drafter", "free", "same argmax", "peak memory", "100.0%"):
        assert part in printed, part
    assert main([*words, "--drafter", str(tiny_models.drafter)]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert [level.name for level in read_manifest(tmp_path / "out").levels] == ["tiny-target", "tiny-drafter"]


@pytest.mark.skipif(sys.platform == "win32", reason="signals are a matter of POSIX")
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.slow
def test_a_signal_leaves_nothing_behind(tiny_models: TinyModels, tmp_path: Path, kind: signal.Signals) -> None:
    words = ["--target", str(tiny_models.target), "--output", str(tmp_path / "made" / "out")]
    root = ROOT
    environment = {**os.environ, "PYTHONPATH": str(root)}
    process = subprocess.Popen([sys.executable, "-m", "export", *words], cwd=tmp_path, env=environment)
    try:
        while not list(tmp_path.glob("made/*.part")):
            time.sleep(0.02)
            assert process.poll() is None
        process.send_signal(kind)
        assert process.wait(60) == 130
    finally:
        process.kill()
    assert not list(tmp_path.glob("made/*"))
