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

from export.manifest import DEVICE_FOLDER, Manifest, check_listed, dump_manifest, verify_files
from export.own_files import can_write, holds_link, identity, write_whole
from export.untrusted import MOST_JSON, UntrustedError, parse_own_json, read_bytes
from runtime.bundle.external_data import check_locations

# Where nothing can be made: stands in where a user has no folder of their own.
NO_FOLDER = Path(os.devnull) / "pocketspec"
_RULES = 1  # what is checked beside the hashes; files that passed other rules are checked again


def device_folder(bundle: Path) -> Path:
    """Where records of ``bundle`` are kept on this device; it may not exist yet. No link of a bundle leads there."""
    folder = bundle / DEVICE_FOLDER
    if os.access(bundle, os.W_OK) and not holds_link(bundle, folder):
        return folder
    return user_folder() / hashlib.sha256(str(bundle.resolve()).encode()).hexdigest()[:16]


def user_folder() -> Path:
    """Where this user's records on this device are kept; it may not exist yet.

    ``NO_FOLDER`` for a user without a home, or whose home is another's, as in containers with a user id of their own.
    """
    if named := os.environ.get("POCKETSPEC_CACHE"):
        return Path(named)
    try:
        folder = _usual_folder()
        folder.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return folder
    except (RuntimeError, OSError):
        return NO_FOLDER
    return folder


def _usual_folder() -> Path:
    """RuntimeError where there is no home."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home()) / "pocketspec"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "pocketspec"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pocketspec"


def can_keep(bundle: Path) -> bool:
    """Whether anything that is found out about ``bundle`` can be kept."""
    return can_write(device_folder(bundle))


def recall(
    folder: Path, name: str, key: Any, find: Callable[[], Any], is_valid: Callable[[Any], bool] = lambda value: True
) -> Any:
    """The value recorded in ``folder`` as ``name`` for ``key`` (both JSON data), or else what ``find`` gives it.

    A record may be a stranger's: one that is not ``is_valid`` is a damaged one.
    """
    value, _ = look_up(folder, name, key)
    if value is None or not is_valid(value):
        value = find()
        remember(folder, name, key, value)
    return value


def look_up(folder: Path, name: str, key: Any) -> tuple[Any, bool]:
    """The value recorded in ``folder`` as ``name`` for ``key``, else None; and whether there is a record of that name.

    A damaged record is one for another key.
    """
    path = folder / f"{name}.json"
    if os.path.islink(path) or not os.path.exists(path):  # which ask without raising, unlike those of pathlib
        return None, False
    try:
        entry = parse_own_json(read_bytes(path, MOST_JSON))
        return (entry["value"] if entry["key"] == json.loads(json.dumps(key)) else None), True
    except FileNotFoundError:
        return None, False
    except (UntrustedError, KeyError, TypeError):
        return None, True


def remember(folder: Path, name: str, key: Any, value: Any) -> None:
    """Records ``value`` (JSON data, not None) in ``folder`` as ``name`` for ``key``.

    A folder that cannot be written, or a full disk, costs the record only.
    """
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / f"{name}.json", json.dumps({"key": key, "value": value}).encode())


def forget(folder: Path, name: str) -> None:
    """Removes what is recorded in ``folder`` as ``name``, so that it is found out again."""
    with suppress(OSError):
        (folder / f"{name}.json").unlink(missing_ok=True)


def check_files(bundle: Path, manifest: Manifest, verify: bool = False) -> None:
    """ManifestError if a file of the bundle is not the one exported, or reads what is outside of the bundle.

    Full hashes are taken at the first open, and again when a file's size, time of change or inode is another than then,
    or to ``verify``.
    """
    check_listed(bundle, manifest)
    folder, files = device_folder(bundle), {name: identity(bundle / name) for name in manifest.files}
    key = [hashlib.sha256(dump_manifest(manifest).encode()).hexdigest(), files, _RULES]

    def find() -> bool:
        verify_files(bundle, manifest)
        for name in manifest.files:
            if name.endswith(".onnx"):
                check_locations(bundle, bundle / name)
        return True

    if verify:
        forget(folder, "files")
    recall(folder, "files", key, find, lambda value: value is True)


def device_key() -> list[str]:
    """What the numerics of kernels depend on besides the model: processor, its features, and ONNX Runtime."""
    import onnxruntime  # here, so that reading records stays light

    return [platform.machine(), _cpu_name(), onnxruntime.__version__]


def _cpu_name() -> str:
    """Model name and feature flags of the first processor, hashed where they are long."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    except (OSError, ValueError):
        return platform.processor()
    wanted = [line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))]
    return hashlib.sha256("\n".join(wanted).encode()).hexdigest()[:16]
