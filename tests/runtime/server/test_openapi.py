"""The OpenAPI document is true: what fits it is answered as it says, and what does not is refused.

The long form sends ``POCKETSPEC_FUZZ_EXAMPLES`` requests to each operation (default: 100, two minutes).
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.places import ROOT
from tests.runtime.server.conftest import Post
from tests.runtime.server.serving import Server

# What fits the document may be refused: it cannot say that a model has no template, or that a prompt is too long.
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
)


def examine(server: Server, examples: int, phases: str) -> None:
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.root}/openapi.json", "--checks"]
    options = ["--phases", phases, "--max-examples", str(examples), "--suppress-health-check", "all"]
    done = subprocess.run(
        [*command, ",".join(CHECKS), *options, "--generation-database", "none", "--no-color"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-1000:]


def test_the_document_is_true(server: Server) -> None:
    examine(server, 1, "fuzzing")


@pytest.mark.slow
def test_the_document_is_true_of_many_requests(server: Server) -> None:
    examine(server, int(os.environ.get("POCKETSPEC_FUZZ_EXAMPLES", "100")), "coverage,fuzzing,stateful")


@pytest.mark.parametrize(
    "change", [{"n": True}, {"echo": 0}, {"logprobs": False}, {"best_of": 1.5}, {"presence_penalty": False}], ids=str
)
def test_truth_values_are_no_numbers(post: Post, change: dict[str, object]) -> None:
    status, reply = post("/completions", {"prompt": "x", "max_tokens": 1, **change})
    assert (status, reply["error"]["param"]) == (400, next(iter(change)))
