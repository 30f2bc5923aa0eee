"""The C++ engine without Python: its own test (tests/native), and that it compiles for a processor that is not x86.

`make sanitize` runs the same test under sanitizers.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CROSS = "aarch64-linux-gnu-g++"

pytestmark = pytest.mark.slow


def run(*command):
    command = [str(part) for part in command]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_the_engine_alone(tmp_path):
    # The cmake of the dev extra lies beside the interpreter.
    cmake = shutil.which("cmake") or shutil.which("cmake", path=Path(sys.executable).parent)
    if cmake is None:
        pytest.skip("needs cmake")
    if not (os.environ.get("CXX") or any(map(shutil.which, ("c++", "g++", "clang++")))):
        pytest.skip("needs a C++ compiler")
    generator = [] if shutil.which("make") else ["-G", "Ninja"]
    options = ["-DLSP_FAST_ENGINE_TEST=ON", "-DCMAKE_CXX_FLAGS_RELEASE=-O1"]
    run(cmake, *generator, "-S", ROOT, "-B", tmp_path, *options)
    run(cmake, "--build", tmp_path)
    assert "FAILED" not in run(tmp_path / "engine_test")


@pytest.mark.skipif(shutil.which(CROSS) is None, reason=f"needs {CROSS}")
def test_the_engine_compiles_for_aarch64(tmp_path):
    paths = [path for folder in ("csrc", "csrc/ops") for path in sorted((ROOT / folder).glob("*.cpp"))]
    sources = [path for path in paths if path.name != "bindings.cpp" and "_avx" not in path.name]
    assert len(sources) >= 6
    for source in sources:
        command = [CROSS, "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-I", ROOT / "csrc"]
        run(*command, "-c", source, "-o", tmp_path / f"{source.stem}.o")
