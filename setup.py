"""Builds `lsp_fast._native` from csrc/ with CMake. Everything that is not about the extension stands in pyproject.toml.

The package works without the extension, so an install never fails for want of a compiler: it warns, and leaves what
the tools said in `lsp_fast/_native_build.log`, which `lsp_fast.backends.cpp` quotes when the extension is asked for.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
LOG_NAME = "_native_build.log"
SOURCES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob("*.cpp"))
HEADERS = sorted(str(path.relative_to(ROOT)) for kind in ("*.hpp", "*.inl") for path in (ROOT / "csrc").rglob(kind))


def find_compiler():
    """The C++ compiler that CMake would take, or None."""
    if os.environ.get("CXX"):
        return os.environ["CXX"]
    return next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)


def build_tools():
    """Tools that the build needs and the machine lacks; pip fetches them into the isolated build environment."""
    if find_compiler() is None:
        return []
    tools = []
    if shutil.which("cmake") is None:
        tools.append("cmake>=3.18")
    if shutil.which("ninja") is None and shutil.which("make") is None:
        tools.append("ninja")
    return tools


class BuildFailed(Exception):
    """The extension cannot be built here."""


class CMakeBuild(build_ext):
    """Builds the extension with CMake; on failure warns, keeps the log and lets the install go on."""

    def build_extension(self, ext):
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        # A module or a log of an earlier build in the same folder would speak for this one.
        target.unlink(missing_ok=True)
        log_path = target.parent / LOG_NAME
        log_path.unlink(missing_ok=True)
        log = []
        try:
            self._cmake(target, log)
        except (BuildFailed, OSError) as error:
            log.append(f"{error}\n")
            log_path.write_text("".join(log), encoding="utf-8")
            self._warn(str(error))

    def _cmake(self, target, log):
        if find_compiler() is None:
            raise BuildFailed("no C++ compiler: CXX is not set, and there is no c++, g++ or clang++ on the PATH")
        cmake = shutil.which("cmake")
        if cmake is None:
            raise BuildFailed("no cmake on the PATH")
        try:
            import pybind11
        except ImportError as error:
            raise BuildFailed(f"pybind11 cannot be imported: {error}") from error

        # A fresh folder: CMake's cache holds on to the compiler and the Python of an earlier run.
        build = Path(self.build_temp).resolve() / "native"
        shutil.rmtree(build, ignore_errors=True)
        build.mkdir(parents=True)
        generator = [] if shutil.which("make") else ["-G", "Ninja"]
        configure = [
            cmake,
            *generator,
            *("-S", str(ROOT), "-B", str(build)),
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DCMAKE_BUILD_TYPE={'Debug' if self.debug else 'Release'}",
        ]
        self._run(configure, log)
        self._run([cmake, "--build", str(build), "--parallel", "2"], log)
        built = [path for path in build.glob("_native*") if path.suffix in (".so", ".pyd", ".dylib")]
        if len(built) != 1:
            raise BuildFailed(f"expected one extension, found {[path.name for path in built]}")
        shutil.copyfile(built[0], target)

    def _run(self, command, log):
        log.append(f"$ {' '.join(command)}\n")
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        log.append(done.stdout)
        print(done.stdout, end="", file=sys.stderr)
        if done.returncode:
            raise BuildFailed(f"{Path(command[0]).name} {command[1]} ended with status {done.returncode}")

    def _warn(self, reason):
        line = "*" * 100
        print(
            f"\n{line}\nWARNING: lsp_fast's native extension was not built: {reason}.\n"
            "The install goes on without it: `--backend reference` and `auto` work, `--backend cpp` does not.\n"
            "To have it, install a C++17 compiler and Python's headers (Debian: g++ python3-dev) and install again.\n"
            f"What the tools said is kept in the installed package, lsp_fast/{LOG_NAME}.\n{line}\n",
            file=sys.stderr,
        )

    def copy_extensions_to_source(self):
        # Editable installs: what the build left, module or log, replaces what an earlier one left in the tree.
        build_py = self.get_finalized_command("build_py")
        for ext in self.extensions:
            inplace_file, regular_file = self._get_inplace_equivalent(build_py, ext)
            for source, destination in (
                (Path(regular_file), Path(inplace_file)),
                (Path(regular_file).with_name(LOG_NAME), Path(inplace_file).with_name(LOG_NAME)),
            ):
                # Not overwritten in place: a running program may have the old module mapped.
                destination.unlink(missing_ok=True)
                if source.exists():
                    shutil.copyfile(source, destination)


# optional: wheels and editable installs accept that the file is missing.
setup(
    ext_modules=[Extension("lsp_fast._native", sources=SOURCES, depends=[*HEADERS, "CMakeLists.txt"], optional=True)],
    cmdclass={"build_ext": CMakeBuild},
    setup_requires=build_tools(),
)
