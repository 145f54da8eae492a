"""Known models: names, partners and shapes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from export.estimate import count_parameters
from export.request import ExportRequest, default_output
from export.sources.targets import (
    TARGETS,
    ConfigError,
    FamilyError,
    Target,
    UnknownTargetError,
    check_family,
    load_config,
    resolve,
)
from tests.places import ROOT

# As published: the safetensors metadata or the model card of each id (tied heads counted once).
PUBLISHED = {
    "qwen2-0.5b": 0.494e9,
    "qwen2-1.5b": 1.54e9,
    "qwen2-7b": 7.62e9,
    "qwen2.5-0.5b": 0.494e9,
    "qwen2.5-1.5b": 1.54e9,
    "qwen2.5-3b": 3.09e9,
    "qwen2.5-7b": 7.62e9,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1.72e9,
    "qwen3-4b": 4.02e9,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "smollm2-135m": 134_515_008,
    "smollm2-360m": 361_821_120,
    "smollm2-1.7b": 1_711_376_384,
    "smollm3-3b": 3_075_098_624,
    "gemma-3-1b": 999_885_952,
    "phi-3.5-mini": 3_821_079_552,
    "tinyllama-1.1b": 1_100_048_384,
    "phi-4-mini": 3_836_021_760,
    "exaone-4-1.2b": 1.28e9,
    "olmo-3-7b": 7.3e9,
    "lfm2-350m": 354_483_968,
    "lfm2-1.2b": 1_170_340_608,
    "lfm2-2.6b": 2_569_272_320,
    "granite-4.0-h-350m": 340e6,
    "granite-4.0-h-tiny": 6_939_037_248,
    "lfm2-8b-a1b": 8_339_929_856,
    "gpt-oss-20b": 20_910_000_000,
}
# Published to a digit or two, some with parts beside the text: the most that the text may be off.
ROUGHLY_PUBLISHED = {
    "ministral-3-3b": (3.4e9, 0.02),
    "ministral-3-8b": (8.4e9, 0.02),
    "hunyuan-1.8b": (1.8e9, 0.03),
    "hunyuan-4b": (4e9, 0.06),
    "hunyuan-7b": (7e9, 0.08),
    "qwen3.5-0.8b": (0.8e9, 0.07),
    "qwen3.5-4b": (4e9, 0.06),
    "qwen3.5-9b": (9e9, 0.01),
    "gemma-4-e2b": (5.1e9 - 0.45e9, 0.01),
    "gemma-4-e4b": (8e9 - 0.45e9, 0.02),
    "gemma-3n-e2b": (4.5e9, 0.02),
    "gemma-3n-e4b": (6.9e9, 0.02),
}
# An intermediate pays where the target costs at least so many times as much.
INTERMEDIATE_RATIO = 15
HUB_NAMES = [name for name, target in TARGETS.items() if target.hub_id]


@pytest.fixture(scope="module")
def parameters() -> dict[str, int]:
    """Parameters of every known model whose configuration is at hand."""
    sizes = {}
    for name, target in TARGETS.items():
        path = target.config_path
        if path is not None and path.is_file():
            sizes[name] = count_parameters(load_config(path))
    return sizes


def test_every_known_model_of_the_hub_ships_its_configuration() -> None:
    folder = ROOT / "export" / "configs"
    assert {path.stem for path in folder.glob("*.json")} == set(HUB_NAMES)
    assert set(HUB_NAMES) == PUBLISHED.keys() | ROUGHLY_PUBLISHED.keys()


@pytest.mark.parametrize("name", HUB_NAMES)
def test_parameters_match_the_published_size(name: str, parameters: dict[str, int]) -> None:
    published, off = ROUGHLY_PUBLISHED.get(name) or (PUBLISHED[name], 0.005)
    assert parameters[name] == pytest.approx(published, rel=off)


@pytest.mark.parametrize("name", HUB_NAMES)
def test_revisions_are_commits_and_licences_are_known(name: str) -> None:
    target = TARGETS[name]
    assert target.revision is None or re.fullmatch("[0-9a-f]{40}", target.revision)
    assert target.licence
    assert target.gated == (target.licence in ("llama3.2", "gemma"))


@pytest.mark.parametrize("name", TARGETS)
def test_partners_are_smaller_models_of_the_same_family(name: str, parameters: dict[str, int]) -> None:
    target = TARGETS[name]
    partners = [*target.drafters, *([target.intermediate] if target.intermediate else [])]
    for partner in partners:
        assert TARGETS[partner].family == target.family is not None
        if name in parameters and partner in parameters:
            assert parameters[partner] < parameters[name]
            assert load_config(TARGETS[partner].config_path).vocab_size <= load_config(target.config_path).vocab_size


@pytest.mark.parametrize("name", HUB_NAMES)
def test_an_intermediate_is_suggested_exactly_where_it_can_pay(name: str, parameters: dict[str, int]) -> None:
    target = TARGETS[name]
    cheapest = min((parameters[drafter] for drafter in target.drafters), default=0)
    candidates = [
        other
        for other, size in parameters.items()
        if TARGETS[other].family == target.family and cheapest < size <= parameters[name] / INTERMEDIATE_RATIO
    ]
    assert target.drafters == () or (target.intermediate in candidates if candidates else target.intermediate is None)


def test_resolve_finds_known_names_ids_and_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve("Qwen2-1.5B") is TARGETS["qwen2-1.5b"]
    assert resolve("qwen/qwen2-1.5b-instruct") is TARGETS["qwen2-1.5b"]
    stranger = resolve("owner/Some-Model")
    assert (stranger.name, stranger.hub_id, stranger.revision) == ("Some-Model", "owner/Some-Model", None)
    assert (stranger.drafters, stranger.config_path) == ((), None)
    (tmp_path / "owner" / "Some-Model").mkdir(parents=True)
    (tmp_path / "qwen2-1.5b").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve("owner/Some-Model").folder == Path("owner/Some-Model")
    assert resolve("qwen2-1.5b").folder is None
    assert resolve("./qwen2-1.5b").folder == Path("qwen2-1.5b")
    assert resolve(str(tmp_path)).name == tmp_path.name


def test_unknown_names_list_near_ones() -> None:
    with pytest.raises(UnknownTargetError, match=r"unknown target 'qwen2-1\.5'; near: .*qwen2-1\.5b") as caught:
        resolve("qwen2-1.5")
    assert "\n" not in str(caught.value)
    with pytest.raises(UnknownTargetError, match="known: demo, "):
        resolve("xyzzy")
    with pytest.raises(UnknownTargetError, match=r"no folder '\./absent'"):
        resolve("./absent")
    with pytest.raises(UnknownTargetError, match="no folder '/absent/model'"):
        resolve("/absent/model")


def test_a_partner_of_another_family_is_refused_by_name() -> None:
    target = TARGETS["qwen2-7b"]
    for partner in (TARGETS["qwen2-0.5b"], resolve("owner/model")):
        check_family(target, partner)
    with pytest.raises(
        FamilyError, match=r"^qwen2\.5-0\.5b .* tokenizer of qwen2-7b \(qwen2\); choose one of qwen2-0\.5b"
    ):
        check_family(target, TARGETS["qwen2.5-0.5b"])
    with pytest.raises(FamilyError, match="no other known model does, or none"):
        check_family(TARGETS["smollm3-3b"], TARGETS["smollm2-135m"])


@pytest.mark.parametrize("text", ['{"model_type": "mystery"}', "{}", '{"model_type": "llama", "hidden_size": "wide"}'])
def test_a_configuration_nobody_understands_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match="transformers cannot read the configuration in") as caught:
        load_config(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_of_the_hubs_cache_has_the_name_of_its_model(tmp_path: Path) -> None:
    folder = tmp_path / "models--Qwen--Qwen2-1.5B-Instruct" / "snapshots" / ("0123456789" * 4)
    folder.mkdir(parents=True)
    target = resolve(str(folder))
    assert (target.name, target.hub_id, target.folder) == ("Qwen2-1.5B-Instruct", "Qwen/Qwen2-1.5B-Instruct", folder)
    request = ExportRequest(str(folder), Path())
    assert default_output(request) == Path("bundles/qwen2-1.5b-instruct-int4")
    elsewhere = tmp_path / "snapshots" / "mine"
    elsewhere.mkdir(parents=True)
    assert resolve(str(elsewhere)) == Target("mine", folder=elsewhere)
