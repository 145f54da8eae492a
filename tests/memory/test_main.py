"""``python -m memory``, as a user calls it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from export.manifest import write_manifest
from memory.__main__ import main
from memory.plan import parse_plan
from memory.process import REFERENCE
from tests.memory.manifests import PAIR
from tests.places import ROOT


@pytest.fixture(autouse=True)
def _nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memory.commands.plan.find_process", REFERENCE.__getitem__)


@pytest.fixture
def bundle(tmp_path: Path) -> str:
    """A manifest without a single file beside it: planning reads no weight."""
    write_manifest(tmp_path, PAIR)
    return str(tmp_path)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(arguments)
    return (code, *capsys.readouterr())


def test_plan_prints_every_part(capsys: pytest.CaptureFixture[str], bundle: str) -> None:
    code, out, err = run(capsys, "plan", bundle, "--max-memory", "1500MB", "--context", "4096", "--turns", "20")
    assert (code, err) == (0, "")
    assert "of 1,500.0 MB allowed" in out
    assert "big: KV cache" in out
    assert "smallest budget for this context without: " in out


def test_plan_as_json_is_a_plan(capsys: pytest.CaptureFixture[str], bundle: str) -> None:
    code, out, _ = run(
        capsys, "plan", bundle, "--context", "up to 8192", "--max-memory", "1.1GB", "--json", "--drafter", "small"
    )
    plan = parse_plan(out)
    assert code == 0
    assert plan.budget_bytes == 1_100_000_000
    assert plan.needed_bytes <= plan.budget_bytes
    assert plan.context <= 8192


def test_options_reach_the_plan(capsys: pytest.CaptureFixture[str], bundle: str) -> None:
    options = (
        "--context 1000 --kv-type int8 --prefill-chunk 32 --draft-size 5 --shape tree --threads 3 --kernels portable"
    )
    _, out, _ = run(capsys, "plan", bundle, "--json", *options.split())
    data = json.loads(out)
    target = data["levels"][0]
    assert (data["context"], data["prefill_chunk"], data["threads"]) == (1000, 32, 3)
    assert data["draft"] == {"shape": "tree", "nodes": 5}
    assert (target["kv_type"], target["residence"]) == ("int8", "prepacked")


def test_curve_is_a_table_and_a_picture(capsys: pytest.CaptureFixture[str], bundle: str, tmp_path: Path) -> None:
    picture = tmp_path / "curve.png"
    code, out, _ = run(capsys, "curve", bundle, "--output", str(picture))
    assert code == 0
    budgets = [float(line.split(" MB")[0].replace(",", "")) for line in out.splitlines() if " MB" in line]
    assert budgets == sorted(budgets)
    assert len(budgets) > 5
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "BUNDLE", "--max-memory", "60x"], "'60x' is no size; write a number of bytes, one with a unit"),
        (["plan", "BUNDLE", "--max-memory", "0"], "a budget of 0 allows nothing; allow more than 0"),
        (["plan", "BUNDLE", "--max-memory", "10MB"], "bytes are "),
        (
            ["plan", "BUNDLE", "--context", "lots"],
            "--context 'lots' is no number of tokens; write 4096, or 'up to 4096'",
        ),
        (["plan", "BUNDLE", "--context", "40000"], "a context of 40000 tokens is outside 2..32768"),
        (["plan", "BUNDLE", "--turns", "0"], "0 turns do not fit"),
        (["plan", "BUNDLE", "--threads", "0"], "--threads 0: it must be at least 1"),
        (["plan", "BUNDLE", "--prefill-chunk", "0"], "--prefill-chunk 0: it must be at least 1"),
        (["plan", "BUNDLE", "--drafter", "who"], "'who' is no drafter of this bundle; it has: small"),
        (["plan", "BUNDLE", "--kv-type", "fp8"], "'fp8' is no KV type of big"),
        (["plan", "nowhere"], "no bundle at nowhere: no such folder"),
        (["curve", "BUNDLE", "--output", "picture.gif"], "--output picture.gif: the name must end in .png"),
        (["curve", "BUNDLE", "--output", "/nowhere/at/all.png"], "cannot write /nowhere/at/all.png"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refusals_are_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], bundle: str, arguments: list[str], message: str
) -> None:
    code, _, err = run(capsys, *(bundle if argument == "BUNDLE" else argument for argument in arguments))
    assert code == 2
    assert len(err.splitlines()) == 1
    assert message in err


def test_planning_imports_neither_onnx_runtime_nor_numpy(bundle: str) -> None:
    program = (
        f"import sys\nfrom memory.__main__ import main\nmain(['plan', {bundle!r}])\n"
        "assert not {'onnxruntime', 'numpy', 'torch', 'runtime'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
