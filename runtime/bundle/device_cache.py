"""The device cache: results about a bundle on this device, stored so that they are found out once.

Records are small JSON files in ``.device`` inside the bundle, or in the user's cache if the bundle cannot be written.
The user's cache also has results that concern no bundle; ``POCKETSPEC_CACHE`` names another folder for it. Records are
not part of the bundle's hashes, and losing them costs only time.
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

from export.bundle_files import check_listed, verify_files
from export.manifest import DEVICE_FOLDER, Manifest, dump_manifest
from export.own_files import can_write, holds_link, identity, write_whole
from export.untrusted import MOST_JSON, UntrustedError, parse_own_json, read_bytes
from runtime.bundle.external_data import check_locations

# A folder that cannot exist, for users without a folder of their own.
NO_FOLDER = Path(os.devnull) / "pocketspec"
_RULES = 1  # version of the checks beside the hashes; files that passed another version are checked again


def device_folder(bundle: Path) -> Path:
    """The folder for records of ``bundle`` on this device; it may not exist yet. It is never reached through a link."""
    folder = bundle / DEVICE_FOLDER
    if os.access(bundle, os.W_OK) and not holds_link(bundle, folder):
        return folder
    return user_folder() / hashlib.sha256(str(bundle.resolve()).encode()).hexdigest()[:16]


def user_folder() -> Path:
    """The folder for this user's records on this device; it may not exist yet.

    ``NO_FOLDER`` for a user without a home, or with another user's home, as in containers with a user id of their own.
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
    """The user's cache folder by the rules of the system; RuntimeError if there is no home."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home()) / "pocketspec"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "pocketspec"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pocketspec"


def can_keep(bundle: Path) -> bool:
    """Whether results about ``bundle`` can be stored."""
    return can_write(device_folder(bundle))


def recall(
    folder: Path, name: str, key: Any, find: Callable[[], Any], is_valid: Callable[[Any], bool] = lambda value: True
) -> Any:
    """The value stored in ``folder`` as ``name`` for ``key`` (both JSON data); else that of ``find`` is stored.

    Records may come from a stranger: one that is not ``is_valid`` counts as damaged.
    """
    value, _ = look_up(folder, name, key)
    if value is None or not is_valid(value):
        value = find()
        remember(folder, name, key, value)
    return value


def look_up(folder: Path, name: str, key: Any) -> tuple[Any, bool]:
    """The value stored in ``folder`` as ``name`` for ``key``, else None; and whether there is a record of that name.

    A damaged record counts as one for another key.
    """
    path = folder / f"{name}.json"
    if os.path.islink(path) or not os.path.exists(path):  # these functions do not raise, unlike those of pathlib
        return None, False
    try:
        entry = parse_own_json(read_bytes(path, MOST_JSON))
        return (entry["value"] if entry["key"] == json.loads(json.dumps(key)) else None), True
    except FileNotFoundError:
        return None, False
    except (UntrustedError, KeyError, TypeError):
        return None, True


def remember(folder: Path, name: str, key: Any, value: Any) -> None:
    """Stores ``value`` (JSON data, not None) in ``folder`` as ``name`` for ``key``.

    If the folder cannot be written or the disk is full, nothing is stored.
    """
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / f"{name}.json", json.dumps({"key": key, "value": value}).encode())


def forget(folder: Path, name: str) -> None:
    """Removes the record ``name`` from ``folder``, so that its value is found out again."""
    with suppress(OSError):
        (folder / f"{name}.json").unlink(missing_ok=True)


def check_files(bundle: Path, manifest: Manifest, verify: bool = False) -> None:
    """ManifestError if a file of the bundle is not the exported one, or refers to files outside the bundle.

    Files are hashed at the first open, and again if a file's size, modification time or inode has changed, or to
    ``verify``.
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
    """What results of kernels depend on besides the model: the processor, its features, and ONNX Runtime."""
    import onnxruntime  # imported here, so that reading records stays light

    return [platform.machine(), _cpu_name(), onnxruntime.__version__]


def _cpu_name() -> str:
    """Model name and feature flags of the first processor, as a hash."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    except (OSError, ValueError):
        return platform.processor()
    wanted = [line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))]
    return hashlib.sha256("\n".join(wanted).encode()).hexdigest()[:16]
