"""The packages that pyproject.toml allows, oldest and newest, decode the same answer; so does every onnxruntime."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.kernels.build import LIBRARY
from tests.environments import Environment, Requirement, make_environment, requirements

pytestmark = pytest.mark.slow

PROMPT = "Tell me a story."
KERNELS = ("native", "portable")


def onnxruntime_minors() -> range:
    """The minor versions of onnxruntime 1 that are allowed."""
    allowed = next(each for each in requirements() if each.name == "onnxruntime")
    assert allowed.end is not None
    return range(int(allowed.oldest.split(".")[1]), int(allowed.end.split(".")[1]))


def answers(environment: Environment, bundle: Path) -> dict[str, str]:
    """Greedy answers of ``bundle``, by kernels."""
    command = ("-m", "runtime", "generate", str(bundle), "--max-new-tokens", "24", PROMPT, "--kernels")
    done = {kernels: environment.python(*command, kernels) for kernels in KERNELS}
    assert {each.returncode for each in done.values()} == {0}, [each.stderr for each in done.values()]
    return {kernels: each.stdout for kernels, each in done.items()}


def export(environment: Environment, bundle: Path) -> Path:
    """The demo models as ``environment`` exports them."""
    done = environment.python("-m", "export", "--target", "demo", "--output", str(bundle))
    assert done.returncode == 0, done.stderr
    return bundle


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with the packages of this one."""
    return make_environment(tmp_path_factory.mktemp("here") / "venv", "pip")


@pytest.fixture(scope="module")
def demo(here: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of the demo models."""
    return export(here, tmp_path_factory.mktemp("bundles") / "demo")


@pytest.fixture(scope="module")
def expected(here: Environment, demo: Path) -> dict[str, str]:
    """The answers with the packages of this environment, by kernels."""
    if not LIBRARY.is_file():
        pytest.skip("the native kernels are not built here")
    return answers(here, demo)


@pytest.mark.parametrize("minor", onnxruntime_minors())
def test_every_allowed_onnxruntime_gives_the_same_answer(
    minor: int, demo: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    environment = make_environment(tmp_path / "venv", f"onnxruntime==1.{minor}.*")
    assert environment.version("onnxruntime").startswith(f"1.{minor}.")
    assert answers(environment, demo) == expected


@pytest.mark.parametrize("age", ["oldest", "newest"])
def test_the_oldest_and_the_newest_packages_give_the_same_answer(
    age: str, demo: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    assert answers(_environment_of(age, requirements(), tmp_path), demo) == expected


@pytest.mark.parametrize("age", ["oldest", "newest"])
def test_the_oldest_and_the_newest_packages_export_the_same_models(
    age: str, expected: dict[str, str], tmp_path: Path
) -> None:
    # Other versions of torch take gigabytes. What both need has the narrower range of the two.
    needed = {each.name: each for each in (*requirements(), *requirements("export")) if each.name != "torch"}
    environment = _environment_of(age, list(needed.values()), tmp_path)
    assert answers(environment, export(environment, tmp_path / "bundle")) == expected


def _environment_of(age: str, wanted: list[Requirement], folder: Path) -> Environment:
    texts = [f"{each.name}=={each.oldest}" if age == "oldest" else str(each) for each in wanted]
    return make_environment(folder / "venv", "--upgrade", *texts)
