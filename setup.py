"""Compiles the native kernels when the package is installed; everything else is in pyproject.toml.

An installation never fails for them: where they cannot be compiled, ONNX Runtime's own kernels are used, and the
runtime says so.
"""

from __future__ import annotations

import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

# Installers run this file in a place of their own, where the packages beside it are not found.
sys.path.insert(0, str(Path(__file__).parent))

from runtime.kernels.build import LIBRARY_NAME, BuildError, build


class BuildKernels(build_ext):
    """Builds the library in the way of ``runtime.kernels.build``, and lets it be missing."""

    def get_ext_filename(self, fullname: str) -> str:
        """The library's own name: it is opened by ONNX Runtime, not imported."""
        return str(Path(*fullname.split(".")[:-1], LIBRARY_NAME))

    def build_extension(self, ext: Extension) -> None:
        """Compiles, or says why not."""
        try:
            found = build(Path(self.get_ext_fullpath(ext.name)))
        except (BuildError, OSError) as error:
            self.warn(f"without native kernels: {error}")
        else:
            self.announce(f"native kernels for {', '.join(found)}", level=3)

    def get_outputs(self) -> list[str]:
        """The library, if there is one."""
        return [name for name in super().get_outputs() if Path(name).is_file()]


class PlatformWheel(bdist_wheel):
    """A wheel for one platform and every Python: the library knows nothing of Python."""

    def get_tag(self) -> tuple[str, str, str]:
        """See bdist_wheel."""
        return "py3", "none", super().get_tag()[2]


setup(
    cmdclass={"build_ext": BuildKernels, "bdist_wheel": PlatformWheel},
    ext_modules=[Extension("runtime.kernels.native", sources=[], optional=True)],
)
