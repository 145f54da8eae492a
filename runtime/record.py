"""What was found out about a bundle on this device, kept so that it is found out once.

Records are small JSON files in ``.device`` inside the bundle, or in the user's cache where the bundle cannot be
written; what concerns no bundle is there as well. ``POCKETSPEC_CACHE`` names another folder for that cache. Records are
no part of the bundle's hashes, and losing them costs time only.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from export.manifest import Manifest, dump_manifest, verify_files


def device_folder(bundle: Path) -> Path:
    """Where records of ``bundle`` are kept on this device; it may not exist yet."""
    if os.access(bundle, os.W_OK):
        return bundle / ".device"
    return user_folder() / hashlib.sha256(str(bundle.resolve()).encode()).hexdigest()[:16]


def user_folder() -> Path:
    """Where this user's records on this device are kept; it may not exist yet."""
    if named := os.environ.get("POCKETSPEC_CACHE"):
        return Path(named)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "pocketspec"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "pocketspec"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "pocketspec"


def recall(folder: Path, name: str, key: Any, find: Callable[[], Any]) -> Any:
    """The value recorded in ``folder`` as ``name`` for ``key`` (both JSON data), or else what ``find`` gives it."""
    value, _ = look_up(folder, name, key)
    if value is None:
        value = find()
        remember(folder, name, key, value)
    return value


def look_up(folder: Path, name: str, key: Any) -> tuple[Any, bool]:
    """The value recorded in ``folder`` as ``name`` for ``key``, else None; and whether there is a record of that name.

    A damaged record is one for another key.
    """
    try:
        text = (folder / f"{name}.json").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None, False
    try:
        entry = json.loads(text)
        return (entry["value"] if entry["key"] == json.loads(json.dumps(key)) else None), True
    except (ValueError, KeyError, TypeError, RecursionError):
        return None, True


def remember(folder: Path, name: str, key: Any, value: Any) -> None:
    """Records ``value`` (JSON data, not None) in ``folder`` as ``name`` for ``key``, if that can be written."""
    _write(folder / f"{name}.json", json.dumps({"key": key, "value": value}))


def forget(folder: Path, name: str) -> None:
    """Removes what is recorded in ``folder`` as ``name``, so that it is found out again."""
    with suppress(OSError):
        (folder / f"{name}.json").unlink(missing_ok=True)


def check_files(bundle: Path, manifest: Manifest) -> None:
    """ManifestError if a file of the bundle is not the one exported. Full hashes are taken at the first open, and again
    when a file's size, time of change or inode is another than then."""
    files = {name: _identity(bundle / name) for name in manifest.files}

    def find() -> bool:
        verify_files(bundle, manifest)
        return True

    recall(device_folder(bundle), "files", [hashlib.sha256(dump_manifest(manifest).encode()).hexdigest(), files], find)


def device_key() -> list[str]:
    """What the numerics of kernels depend on besides the model: processor, its features, and ONNX Runtime."""
    import onnxruntime  # here, so that reading records stays light

    return [platform.machine(), _cpu_name(), onnxruntime.__version__]


def _identity(path: Path) -> list[int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def _cpu_name() -> str:
    """Model name and feature flags of the first processor, hashed where they are long."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor()
    wanted = [line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))]
    return hashlib.sha256("\n".join(wanted).encode()).hexdigest()[:16]


def _write(path: Path, text: str) -> None:
    """Writes a record; a folder that cannot be written, or a full disk, costs the record only."""
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    except OSError:
        with suppress(OSError):
            part.unlink()
