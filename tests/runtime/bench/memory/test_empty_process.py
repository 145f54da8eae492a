"""The process without a model loads the libraries of a conversation, and no others."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from memory.meter import read_memory
from tests.places import ROOT

pytestmark = pytest.mark.skipif(
    read_memory() is None, reason="this system does not tell anonymous from file-backed memory"
)

MEASURING = "from runtime.bench.memory.empty_process import measure_process; measure_process({kernels!r})"
SHOW = "import sys, json; print(json.dumps(sorted(sys.modules)))"


def modules_after(program: str) -> set[str]:
    command = [sys.executable, "-c", f"{program}; {SHOW}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


@pytest.mark.parametrize("kernels", ["native", "portable"])
def test_it_loads_no_libraries_that_conversations_lack(kernels: str) -> None:
    loaded = modules_after(MEASURING.format(kernels=kernels))
    assert {"numpy", "onnxruntime", "tokenizers", "jinja2"} <= loaded
    assert not [name for name in loaded if name.startswith("numpy.random")]
