"""The long form of the comparison of texts: 2,000 of each tokenizer, and many more conversations and templates."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from android_demo.check.junit import prepare_tests, run_tests
from android_demo.check.lock import one_build
from android_demo.check.places import tool_folders
from android_demo.check.text_fixtures import FEW, MANY
from android_demo.check.tools import MissingToolError, Toolbox
from tests.android_demo.fixtures import write

_CLASSES = [
    f"dev.pocketspec.text.{name}"
    for name in (
        "TokenizerParityTest",
        "TokenHistoryTest",
        "template.TemplateParityTest",
        "template.ExpressionParityTest",
    )
]


@pytest.fixture
def many_texts() -> Iterator[None]:
    """The fixtures in the long form; afterwards they are those of the gate again."""
    write(MANY, 100)
    yield
    write(FEW, 3)


@pytest.mark.slow
def test_texts_and_conversations_are_pythons(many_texts: None) -> None:
    try:
        with one_build():
            compiled = prepare_tests(Toolbox(tool_folders(), may_compile=False))
            results = run_tests(compiled, "all", _CLASSES)
    except MissingToolError as missing:
        pytest.skip(f"ANDROID TESTS SKIPPED: {missing}")
    assert [result.message for result in results if result.outcome != "passed"] == []
    assert {result.class_name for result in results} == set(_CLASSES)
