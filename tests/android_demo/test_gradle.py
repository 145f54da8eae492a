"""What Gradle is told agrees with the Python side and with the check without Gradle; it cannot be run here."""

from __future__ import annotations

import re
import tomllib
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from android_demo.check.places import APP, DEMO
from android_demo.check.tools import KOTLIN_VERSION
from tests.places import ROOT

_ANDROID = "{http://schemas.android.com/apk/res/android}"
_RIGHT_AND_LEFT = re.compile(r"(?:Left|Right)$")


def _text(name: str) -> str:
    return (DEMO / name).read_text(encoding="utf-8")


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def test_onnx_runtime_is_one_that_the_python_package_allows() -> None:
    (pinned,) = re.findall(r'extra\["onnxRuntimeVersion"\] = "([\d.]+)"', _text("build.gradle.kts"))
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    (oldest, beyond) = next(re.findall(r"[\d.]+", each) for each in dependencies if each.startswith("onnxruntime"))
    assert _version(oldest) <= _version(pinned) < _version(beyond)
    assert 'onnxruntime-android:$onnxRuntimeVersion"' in _text("app/build.gradle.kts")
    assert _text("engine/build.gradle.kts").count("onnxruntime:$onnxRuntimeVersion") == 2


def test_kotlin_is_the_one_that_was_tried() -> None:
    found = re.findall(r'kotlin\("\w+"\) version "([\d.]+)"', _text("build.gradle.kts"))
    assert found == [KOTLIN_VERSION, KOTLIN_VERSION]


def test_versions_are_pinned() -> None:
    assert re.search(r'com\.android\.application"\) version "\d+\.\d+\.\d+"', _text("build.gradle.kts"))
    assert re.search(r"gradle-\d+\.\d+(\.\d+)?-bin\.zip", _text("gradle/wrapper/gradle-wrapper.properties"))
    for name in ("build.gradle.kts", "app/build.gradle.kts", "engine/build.gradle.kts"):
        assert not re.search(r"latest|SNAPSHOT|:\d[\w.]*\+", _text(name)), name


def test_the_app_is_for_the_phones_that_are_promised() -> None:
    text = _text("app/build.gradle.kts")
    assert "minSdk = 27" in text
    assert 'abiFilters += listOf("arm64-v8a", "x86_64")' in text
    levels = {
        name: int(found[1]) for name in ("compileSdk", "targetSdk") if (found := re.search(rf"{name} = (\d+)", text))
    }
    assert levels["compileSdk"] >= levels["targetSdk"] >= 35


def test_the_engine_is_compiled_for_what_phones_have() -> None:
    text = _text("engine/build.gradle.kts")
    assert "-Xjdk-release=8" in text
    assert "JvmTarget.JVM_1_8" in text


def test_the_app_asks_for_no_permission() -> None:
    root = ElementTree.parse(APP / "AndroidManifest.xml").getroot()
    assert root.findall("uses-permission") == []
    assert root.find("application").get(f"{_ANDROID}supportsRtl") == "true"  # type: ignore[union-attr]


def _layouts() -> list[Path]:
    return sorted((APP / "res" / "layout").glob("*.xml"))


@pytest.mark.parametrize("layout", _layouts(), ids=lambda path: path.stem)
def test_layouts_read_in_either_direction_and_aloud(layout: Path) -> None:
    for element in ElementTree.parse(layout).iter():
        names = [name.removeprefix(_ANDROID) for name in element.attrib]
        assert not [name for name in names if _RIGHT_AND_LEFT.search(name)], element.tag
        for name in ("text", "hint", "contentDescription"):
            value = element.get(_ANDROID + name)
            assert value is None or value.startswith("@string/"), f"{layout.name} says {value} itself"
        if element.tag == "ImageButton":
            assert element.get(f"{_ANDROID}contentDescription")


def _colors(folder: str) -> dict[str, str]:
    root = ElementTree.parse(APP / "res" / folder / "colors.xml").getroot()
    return {str(element.get("name")): str(element.text) for element in root}


@pytest.mark.parametrize("folder", ["values", "values-night"])
def test_text_can_be_read_on_every_colour(folder: str) -> None:
    """By WCAG 2.1: at least 4.5 to 1."""
    colors = _colors(folder)
    assert colors.keys() == _colors("values").keys()
    grounds = [colors[name] for name in colors if name not in ("text", "quiet_text", "accent")]
    for ground in grounds:
        assert _contrast(colors["text"], ground) >= 4.5
    assert _contrast(colors["quiet_text"], colors["window"]) >= 4.5
    assert _contrast(colors["accent"], colors["window"]) >= 4.5


def _contrast(one: str, other: str) -> float:
    dark, light = sorted(_luminance(color) for color in (one, other))
    return (light + 0.05) / (dark + 0.05)


def _luminance(color: str) -> float:
    channels = (int(color[place : place + 2], 16) / 255 for place in (1, 3, 5))
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_every_string_is_used() -> None:
    names = {element.get("name") for element in ElementTree.parse(APP / "res/values/strings.xml").getroot()}
    used = "".join(path.read_text(encoding="utf-8") for path in APP.rglob("*") if path.suffix in (".kt", ".xml"))
    assert {name for name in names if f"R.string.{name}" not in used and f"@string/{name}" not in used} == set()
