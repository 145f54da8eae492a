"""Downloads what the chain may download: kotlinc from npm, Android's resources from Debian. Each is named first."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from android_demo.check.steps import run
from android_demo.check.tools import KOTLIN_VERSION, MissingToolError

_KOTLIN_SHA256 = "3729934ce8eb82fc952020c5bfabcfa651ebcee826c45ca56d4390b68d5745f7"
_RESOURCES_PACKAGE = "android-framework-res"


def fetch_kotlin(tools: Path) -> None:
    """kotlinc's jars into ``tools/kotlinc-VERSION/lib``."""
    npm = shutil.which("npm")
    if npm is None:
        raise MissingToolError("npm", "install Node.js: kotlinc comes from npm, as the package kotlin-compiler")
    package = f"kotlin-compiler@{KOTLIN_VERSION}"
    print(f"fetching {package} from npm, 86 MB", flush=True)
    with _workspace(tools) as work:
        run([npm, "pack", package, "--silent"], cwd=work)
        (archive,) = work.glob("*.tgz")
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
        if found != _KOTLIN_SHA256:
            raise MissingToolError(package, f"what npm sent has the hash {found}, not {_KOTLIN_SHA256}")
        with tarfile.open(archive) as packed:
            packed.extractall(work, filter="data")
        (work / "package").rename(_emptied(tools / f"kotlinc-{KOTLIN_VERSION}"))


def fetch_resources(tools: Path) -> None:
    """The framework's resources of the Debian release at hand into ``tools/framework-res.apk``."""
    apt, dpkg = shutil.which("apt-get"), shutil.which("dpkg-deb")
    if apt is None or dpkg is None:
        raise MissingToolError("framework-res.apk", f"it is in the Debian package {_RESOURCES_PACKAGE}")
    print(f"fetching {_RESOURCES_PACKAGE} with apt-get, 14 to 19 MB", flush=True)
    with _workspace(tools) as work:
        run([apt, "download", "--quiet", _RESOURCES_PACKAGE], cwd=work)
        (package,) = work.glob("*.deb")
        run([dpkg, "-x", str(package), str(work / "root")])
        (found,) = (work / "root").rglob("framework-res.apk")
        found.replace(tools / "framework-res.apk")


@contextmanager
def _workspace(tools: Path) -> Iterator[Path]:
    """A folder for the download, on the same disk as ``tools``, that is gone afterwards."""
    tools.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=tools, prefix=".fetch-") as work:
        yield Path(work)


def _emptied(place: Path) -> Path:
    shutil.rmtree(place, ignore_errors=True)
    return place
