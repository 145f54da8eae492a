"""``--draft-vocab``: a bundle whose drafter has the logits of some tokens alone, from export to text."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from export.bundle import export_bundle
from export.manifest import DRAFT_VOCABULARY_NAME, ManifestError, PocketspecError, read_manifest
from export.request import ExportRequest, RequestError, make_jobs
from memory.choices import Request
from memory.plan import Shape
from runtime import Engine
from runtime.decoding.sampling import SamplingParams
from runtime.speculation.request import Speculation
from tests.conftest import TinyModels

pytestmark = pytest.mark.usefixtures("lowered_once")

# All but one of the tokens that the tiny tokenizer has: single bytes, and three that a chat template writes or not.
KEPT = 258


def _request(models: TinyModels, output: Path, **more: object) -> ExportRequest:
    drafters = (str(models.drafter),)
    return ExportRequest(str(models.target), output, weights="int4", drafters=drafters, **more)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def bundle(tiny_models: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cut")
    (folder / "text.txt").write_text("A lantern that was afraid of the dark. " * 9)
    request = _request(tiny_models, folder / "bundle", draft_vocab=KEPT, texts=(folder / "text.txt",))
    return export_bundle(request)


@pytest.fixture(scope="module")
def engine(bundle: Path) -> Iterator[Engine]:
    with Engine.open(bundle, Request(context=128, shape="tree", nodes=7)) as engine:
        yield engine


def test_a_bundle_says_what_was_cut(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    (drafter,) = manifest.drafters()
    cut = drafter.draft_vocabulary
    assert cut is not None
    assert (manifest.schema, cut.tokens, cut.text, cut.covered) == (8, KEPT, "text.txt", 1.0)
    assert manifest.target.draft_vocabulary is None
    assert f"{drafter.folder}/{DRAFT_VOCABULARY_NAME}" in manifest.files
    assert drafter.check is not None
    assert drafter.check.perplexity == pytest.approx(drafter.check.reference_perplexity, rel=0.2)
    assert drafter.agreement is not None


def test_the_plan_counts_the_logits_that_there_are(engine: Engine) -> None:
    (name, model), *_ = engine.drafters.items()
    planned = engine.plan.level(name)
    assert planned is not None
    (logits,) = model.arrays["logits"]
    assert logits.nbytes == planned.footprint.part("logits").anonymous == planned.logits_rows * KEPT * 4


@pytest.mark.parametrize(
    "sampling", [SamplingParams(), SamplingParams(temperature=0.8, seed=4)], ids=["greedy", "sampled"]
)
@pytest.mark.parametrize("shape", ["chain", "tree"])
def test_text_equals_plain_text(engine: Engine, sampling: SamplingParams, shape: Shape) -> None:
    def text(drafter: str) -> tuple[list[int], int]:
        speculation = Speculation(drafter, 4, None if drafter == "none" else shape)
        steps = [
            chunk.step
            for chunk in engine.generate(
                "Once", sampling=sampling, max_new_tokens=40, ignore_eos=True, speculation=speculation
            )
        ]
        return [token for step in steps for token in step.tokens], sum(step.num_drafted for step in steps)

    (plain, _), (drafted, count) = text("none"), text(next(iter(engine.drafters)))
    assert drafted == plain
    assert count > 40


def test_a_cut_drafter_cannot_judge(engine: Engine) -> None:
    name = next(iter(engine.drafters))
    with pytest.raises(PocketspecError, match=f"{name} cannot judge .* since its head was cut to a part"):
        engine.generate("Once", speculation=Speculation(f"suffix>{name}"))


def test_another_map_is_refused_before_anything_runs(bundle: Path, tmp_path: Path) -> None:
    changed = shutil.copytree(bundle, tmp_path / "changed")
    (path,) = changed.glob(f"drafters/*/{DRAFT_VOCABULARY_NAME}")
    path.write_bytes(np.arange(KEPT, dtype="<i4").tobytes())
    with pytest.raises(ManifestError, match="was changed"):
        Engine.open(changed)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"draft_vocab": 1}, "--draft-vocab 1 is too few; at least 2"),
        ({"texts": (Path("a.txt"),)}, "--text is counted for --draft-vocab alone"),
        ({"draft_vocab": 9, "texts": (Path("nowhere.txt"),)}, "--text nowhere.txt: no such file"),
    ],
)
def test_requests_that_make_no_sense_are_refused(
    tiny_models: TinyModels, more: dict[str, object], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        make_jobs(_request(tiny_models, Path("out"), **more))


def test_a_cut_without_drafters_is_refused(tiny_models: TinyModels) -> None:
    with pytest.raises(RequestError, match="--draft-vocab cuts the heads of drafters, and there is none"):
        make_jobs(ExportRequest(str(tiny_models.target), Path("out"), drafters=(), draft_vocab=9))
