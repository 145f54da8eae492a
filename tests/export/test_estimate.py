"""Memory of an export: what is estimated, what is measured, and a refusal before anything is killed."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from export import estimate, level
from export.__main__ import main
from export.bundle import export_bundle
from export.estimate import PROCESS_BYTES, TooLittleMemoryError, count_parameters, estimate_job, require_memory
from export.manifest import ModelShape, read_manifest
from export.report import LevelTiming, SilentReporter
from export.request import ExportJob, ExportRequest
from export.sources.targets import load_config, resolve
from export.validation.limits import LEAN_TOKENS
from export.validation.peak_memory import PeakWatch, held_bytes
from memory import device
from memory.device import Device
from tests.conftest import TinyModels
from tests.places import ROOT

QWEN = ModelShape(28, 1536, 8960, 12, 2, 128, 151_936, 32_768)
PARAMETERS = 1_543_714_304
JOB = ExportJob("target", "qwen2-1.5b", ".", resolve("qwen2-1.5b"), "int4")


class Recorder(SilentReporter):
    """Keeps notes and timings."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.timings: list[LevelTiming] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def timing(self, level: str, timing: LevelTiming) -> None:
        self.timings.append(timing)


def test_a_model_of_a_billion_and_a_half_stays_below_its_bound() -> None:
    found = estimate_job(JOB, QWEN, PARAMETERS, 32)
    assert 1.0e9 < found.peak_bytes < 1.5 * 2**30
    assert found.lean_bytes < found.peak_bytes


def test_memory_grows_with_every_size() -> None:
    small = estimate_job(JOB, QWEN, PARAMETERS, 32)
    for change in ({"layers": 60}, {"vocab_size": 300_000}):
        assert estimate_job(JOB, replace(QWEN, **change), PARAMETERS, 32).lean_bytes > small.lean_bytes  # type: ignore[arg-type]


def test_what_does_not_fit_is_refused_with_both_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "held_bytes", lambda: 100_000_000)
    monkeypatch.setattr(device, "read_device", lambda: Device(500_000_000, 200_000_000))
    require_memory("it", 300_000_000)
    with pytest.raises(TooLittleMemoryError, match="about 301 MB of memory, 300 MB can be had here"):
        require_memory("it", 301_000_000)


def test_too_little_for_anything_is_one_line_before_torch_is_loaded() -> None:
    code = (
        "import sys; from memory import device; from memory.device import Device\n"
        "device.read_device = lambda: Device(300_000_000, 250_000_000)\n"
        "from export.__main__ import main\n"
        "code = main(['--target', 'demo']); assert 'torch' not in sys.modules; sys.exit(code)"
    )
    root = ROOT
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: exporting any model takes about {PROCESS_BYTES / 1e6:,.0f} MB of memory, ")


def test_an_export_that_does_not_fit_leaves_nothing(
    tiny_models: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(estimate, "LAYER_BYTES", 1 << 60)
    words = ["--target", str(tiny_models.target), "--drafter", "none", "--output", str(tmp_path / "new" / "out")]
    assert main(words) == 2
    assert "exporting tiny-target takes about" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("lowered_once")
def test_where_memory_is_short_the_check_takes_fewer_tokens(
    tiny_models: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(level, "attainable_bytes", lambda: 0)
    recorder = Recorder()
    request = ExportRequest(str(tiny_models.target), tmp_path / "out", weights="fp32", drafters=())
    found = read_manifest(export_bundle(request, recorder)).target
    assert found.check is not None
    assert found.check.tokens == LEAN_TOKENS
    assert any(f"the check runs over {LEAN_TOKENS} tokens alone" in note for note in recorder.notes)
    (timing,) = recorder.timings
    assert timing.export_peak_bytes is not None
    assert timing.check_peak_bytes is not None
    assert timing.check_peak_bytes >= timing.export_peak_bytes > 0


@pytest.mark.skipif(sys.platform != "linux", reason="anonymous memory is told by Linux alone")
def test_a_peak_counts_processes_that_were_started() -> None:
    code = "import sys; held = bytearray(b'1' * 200_000_000); print('held', flush=True); sys.stdin.read()"
    with PeakWatch() as peak:
        before = held_bytes()
        with subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert process.stdin is not None
            process.stdout.readline()
            together = held_bytes()
            process.stdin.close()
        assert together - before > 190_000_000
        assert held_bytes() < together - 190_000_000
    assert peak.bytes is not None
    assert peak.bytes >= together - 20_000_000


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="anonymous memory is told by Linux alone")
def test_the_estimate_is_near_the_measured_peak(tiny_models: TinyModels, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from export.bundle import export_bundle\n"
        "from export.request import ExportRequest; from export.validation.peak_memory import PeakWatch\n"
        "with PeakWatch() as peak:\n"
        "    export_bundle(ExportRequest(sys.argv[1], Path(sys.argv[2]), drafters=()))\n"
        "print(peak.bytes)"
    )
    words = [sys.executable, "-c", code, str(tiny_models.target), str(tmp_path / "out")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    target = read_manifest(tmp_path / "out").target
    job = ExportJob("target", "tiny", ".", resolve(str(tiny_models.target)), "int4")
    wanted = estimate_job(job, target.shape, count_parameters(load_config(tiny_models.target)), 32)
    assert int(done.stdout.split()[-1]) == pytest.approx(wanted.peak_bytes, rel=0.15)
