"""Kotlin's rooms import one way, as Python's do; the engine knows nothing of Android; files stay small."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.android_demo.kotlin_files import APP_SOURCES, MAIN, TESTS, KotlinFile, read

# Lowest first; those of one line do not import one another. ``chat`` has the interface that ``Engine`` implements.
ROOMS = ("json", "bundle", "text", "plan", "decoding", "models", "drafters", "scheduler", "chat", "Engine")
_ORDER = {room: number for number, line in enumerate(ROOMS) for room in line.split()}
_MOST_LINES, _MOST_COLUMNS = 300, 160
_FORBIDDEN = re.compile(r"\b(?:android|androidx|java\.lang\.foreign|java\.awt|sun)\.\w+")


def _room(file: KotlinFile) -> str:
    inner = file.path.relative_to(MAIN / "dev" / "pocketspec")
    return inner.parts[0] if len(inner.parts) > 1 else "Engine"


def test_every_room_has_its_place() -> None:
    assert {_room(file) for file in read(MAIN)} <= set(_ORDER)


@pytest.mark.parametrize("file", read(MAIN), ids=lambda file: file.path.stem)
def test_rooms_import_one_way(file: KotlinFile) -> None:
    room = _room(file)
    for other in file.named() - {room}:
        place = other if other in _ORDER else "Engine"
        assert _ORDER[place] < _ORDER[room] or place == room, f"{room} names {other}"


@pytest.mark.parametrize("file", read(MAIN) + read(TESTS), ids=lambda file: file.path.stem)
def test_the_engine_knows_nothing_of_android(file: KotlinFile) -> None:
    assert _FORBIDDEN.findall(file.code) == []


@pytest.mark.parametrize("file", read(APP_SOURCES), ids=lambda file: file.path.stem)
def test_the_app_needs_the_platform_alone(file: KotlinFile) -> None:
    assert "androidx" not in file.code
    assert file.package == "dev.pocketspec.app"


@pytest.mark.parametrize("folder", [MAIN, TESTS, APP_SOURCES], ids=["engine", "tests", "app"])
def test_files_are_small_and_lie_in_their_packages(folder: Path) -> None:
    wide = []
    for file in read(folder):
        lines = file.text.splitlines()
        assert len(lines) <= _MOST_LINES or lines[0].startswith("// Written by"), file.path
        assert ".".join(file.path.relative_to(folder).parent.parts) == file.package, file.path
        wide += [f"{file.path.name}:{number}" for number, line in enumerate(lines, 1) if len(line) > _MOST_COLUMNS]
    assert wide == []


def test_comments_and_texts_are_no_code() -> None:
    text = 'package a.b\n// dev.pocketspec.chat.A\nval x = "dev.pocketspec.text" /* dev.pocketspec.plan */\n'
    file = KotlinFile(MAIN, text + "import dev.pocketspec.json.Json\n")
    assert file.named() == {"json"}
