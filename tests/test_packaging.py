"""What pip and make do with the tree: wheels, the source archive, an install without a compiler, repeated runs."""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = ("CMakeLists.txt", "LICENSE", "MANIFEST.in", "Makefile", "constraints.txt", "pyproject.toml", "setup.py")
FOLDERS = ("csrc", "kernels", "lsp_fast")
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
# Without isolation, so that no index is needed; the dev extra brings the build requirements.
PIP_BUILD = ("--no-deps", "--no-build-isolation")


@pytest.fixture
def tree(tmp_path):
    """A copy of what the package is built from, without anything built."""
    copy = tmp_path / "tree"
    copy.mkdir()
    for name in (*FILES, "README.md", "CHANGELOG.md", "CITATION.cff"):
        if name in FILES or (ROOT / name).exists():
            shutil.copy2(ROOT / name, copy)
    ignore = shutil.ignore_patterns("__pycache__", "*.so", "_native_build.log")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=ignore)
    return copy


def run(*command, cwd, **environment):
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def python(code, site, cwd):
    """Run code against the package installed in `site`, from a folder that has nothing to do with the tree."""
    cwd.mkdir()
    # An editable install's finder would serve from the working tree what the installed package lacks.
    drop = "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'Editable' not in getattr(f, '__name__', '')]\n"
    return run(sys.executable, "-c", drop + code, cwd=cwd, PYTHONPATH=str(site)).split()


@pytest.mark.slow
def test_a_wheel_made_from_the_source_archive_trains_from_another_folder(tree, tmp_path):
    site, wheels = tmp_path / "site", tmp_path / "wheels"
    run(sys.executable, "-c", "from setuptools import build_meta; build_meta.build_sdist('dist')", cwd=tree)
    (archive,) = (tree / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    (source,) = (tmp_path / "unpacked").iterdir()
    run(*PIP, "wheel", *PIP_BUILD, "-w", tmp_path / "built", ".", cwd=source)
    (built,) = (tmp_path / "built").glob("lsp_fast-*.whl")
    if sys.platform == "linux":  # as `make wheel` does
        tools = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        run(sys.executable, "-m", "auditwheel", "repair", "-w", wheels, built, cwd=tmp_path, PATH=tools)
    else:
        shutil.copytree(tmp_path / "built", wheels)
    (wheel,) = wheels.glob("lsp_fast-*.whl")
    assert sys.platform != "linux" or "-manylinux_" in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    for kernel in (ROOT / "kernels").glob("*.py"):
        assert f"lsp_fast/kernels/{kernel.name}" in names
    for weights in (ROOT / "lsp_fast/pretrained").glob("*"):
        assert f"lsp_fast/pretrained/{weights.name}" in names
    assert {"lsp_fast/reports/report/page.html.j2", "lsp_fast/reports/report/page.css"} <= set(names)
    assert any(re.fullmatch(r"lsp_fast/_native\..*(so|pyd)", name) for name in names)
    assert not any(name.startswith(("tests", "kernels", "csrc")) or name.endswith(".log") for name in names)

    run(*PIP, "install", "--no-deps", "--target", site, wheel, cwd=tmp_path)
    code = (
        "import numpy as np, lsp_fast.kernels; from lsp_fast.backends import cpp; m = cpp.load();"
        "m.select_elites(np.zeros((1, 2)), np.zeros((1, 2, 1, 1)), 1, np.zeros((1, 1, 1)), np.zeros((1, 1, 1)));"
        "print(m.__file__, lsp_fast.kernels.__file__)"
    )
    extension, kernels = map(Path, python(code, site, tmp_path / "elsewhere"))
    assert extension.parent == site / "lsp_fast"
    assert kernels == site / "lsp_fast/kernels/__init__.py" and not kernels.parent.is_symlink()
    assert (site / "bin" / "lsp-fast").exists()
    code = (
        "from lsp_fast import cli\nfrom lsp_fast.training import loop\n"
        "options = '--preset smoke --device cpu --backend cpp --env-steps 1000 --logdir run'\n"
        "assert cli.main(['train', *options.split()]) == 0\nprint('at', loop.__file__)"
    )
    assert python(code, site, tmp_path / "trained")[-2:] == ["at", str(site / "lsp_fast" / "training" / "loop.py")]
    assert (tmp_path / "trained" / "run" / "learning_curve.png").exists()
    code = "from lsp_fast import cli; assert not cli.main('evaluate --pretrained cheetah_run --episodes 1'.split())"
    assert float(python(code, site, tmp_path / "evaluated")[1]) > 500


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["compiler fails", "compiler absent"])
def test_install_without_a_compiler_goes_on_and_keeps_the_log(tree, tmp_path, missing):
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    environment = {"CXX": "/bin/false"} if missing == "compiler fails" else {"CXX": "", "PATH": str(empty)}
    # A module of an earlier build must not come along in its place.
    stale = tree / "build" / f"lib.{sysconfig.get_platform()}-{sys.implementation.cache_tag}" / "lsp_fast"
    stale.mkdir(parents=True)
    (stale / f"_native{sysconfig.get_config_var('EXT_SUFFIX')}").touch()
    output = run(*PIP, "install", "-v", *PIP_BUILD, "--target", site, ".", cwd=tree, **environment)
    assert "WARNING: lsp_fast's native extension was not built" in output
    log = (site / "lsp_fast" / "_native_build.log").read_text()
    assert "/bin/false" in log if missing == "compiler fails" else "no C++ compiler" in log
    assert not list((site / "lsp_fast").glob("_native*.so"))

    code = (
        "from lsp_fast.backends import cpp\nfrom lsp_fast.errors import BackendUnavailable\n"
        "try: cpp.load()\nexcept BackendUnavailable as error: print(error)"
    )
    said = " ".join(python(code, site, tmp_path / "elsewhere"))
    assert "No module named 'lsp_fast._native'" in said
    assert "status 1" in said if missing == "compiler fails" else "no C++ compiler" in said


def test_source_archive_holds_what_the_build_needs(tree):
    run(sys.executable, "-c", "from setuptools import build_meta; build_meta.build_sdist('dist')", cwd=tree)
    (archive,) = (tree / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    sources = [path.relative_to(ROOT) for path in (ROOT / "csrc").rglob("*") if path.suffix in (".cpp", ".hpp", ".inl")]
    assert len(sources) >= 3
    page = [f"lsp_fast/reports/report/{name}" for name in ("page.html.j2", "page.css")]
    for wanted in (*map(str, sources), *FILES, *page, "kernels/__init__.py", "lsp_fast/kernels/__init__.py"):
        assert wanted in names


def test_kernels_are_one_folder():
    assert (ROOT / "lsp_fast/kernels").is_symlink()
    assert os.readlink(ROOT / "lsp_fast/kernels") == "../kernels"


def test_constraints_pin_every_requirement():
    def normal(name):
        return re.sub(r"[-_.]+", "-", name).lower()

    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = dict(line.split("==") for line in lines)
    pins = {normal(name): version for name, version in pins.items()}
    assert (pins["torch"], pins["mujoco"], pins["dm-control"]) == ("2.13.0", "3.17.0", "1.0.50")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for requirement in (*project["dependencies"], *(x for extra in extras.values() for x in extra)):
        name = normal(re.match(r"[\w.-]+", requirement)[0])
        # Builds of torch for CUDA each ask for a triton of their own; the package's own extras stand in the others.
        assert name in pins or name in ("triton", "lsp-fast")


def test_workflows_do_what_make_and_ci_do():
    yaml = pytest.importorskip("yaml")
    makefile = (ROOT / "Makefile").read_text()
    for path in (ROOT / ".github/workflows").glob("*.yml"):
        for job in yaml.safe_load(path.read_text())["jobs"].values():
            for command in (step["run"] for step in job["steps"] if "run" in step):
                program, *target = command.split()
                if program == "make":
                    assert f"\n{target[0]}:" in makefile, command
                else:
                    assert os.access(ROOT / program, os.X_OK), command


def test_pythons_are_the_same_everywhere():
    """What pyproject.toml allows, make takes, the workflows try and the README names."""
    (low, high) = re.search(r'requires-python = ">=3\.(\d+),<3\.(\d+)"', (ROOT / "pyproject.toml").read_text()).groups()
    allowed = [f"3.{minor}" for minor in range(int(low), int(high))]
    assert f"(3, {low}) <= v < (3, {high})" in (ROOT / "Makefile").read_text()
    for path in (ROOT / ".github/workflows").glob("*.yml"):
        assert f"python: {json.dumps(allowed)}" in path.read_text()
    assert f"Python {', '.join(allowed[:-1])} or {allowed[-1]} and make" in (ROOT / "README.md").read_text()


def test_console_script():
    try:
        distribution = importlib.metadata.distribution("lsp-fast")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package is not installed")
    assert ("lsp-fast", "lsp_fast.cli:main") in {(e.name, e.value) for e in distribution.entry_points}


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_installs_once_and_again_when_the_sources_change(tree):
    def commands(*arguments, **environment):
        # What a make above this one hands down is not for this one.
        clean = {"MAKEFLAGS": "", "MFLAGS": "", "ARGS": "", "TEST_ARGS": "", "TORCH_INDEX": "", **environment}
        return run("make", "--no-print-directory", "-n", *arguments, cwd=tree, **clean)

    fresh = commands("train", "ARGS=--task walker_walk")
    assert "-m venv .venv" in fresh
    assert fresh.index("torch==2.13.0") < fresh.index("-e '.[dev]'") < fresh.index("lsp-fast train --preset cpu")
    assert "--index-url" not in fresh
    assert re.search(
        r"--index-url https://example.invalid/cpu torch==2.13.0", commands("TORCH_INDEX=https://example.invalid/cpu")
    )

    (tree / ".venv/bin").mkdir(parents=True)
    (tree / ".venv/bin/python").touch()
    (tree / ".venv/.installed").touch()
    assert commands("train", "ARGS=--task walker_walk").strip() == (
        ".venv/bin/lsp-fast train --preset cpu --task walker_walk"
    )
    assert "pip" not in commands("test")
    assert 'pytest -q -m "not slow" -x' in commands("test", "TEST_ARGS=-x")
    assert "pytest -q -m slow -x" in commands("test-slow", "TEST_ARGS=-x") and "pip" not in commands("test-slow")

    later = (tree / ".venv/.installed").stat().st_mtime + 10
    os.utime(tree / "csrc/ops/select_elites.hpp", (later, later))
    again = commands("train")
    assert "install" in again and "venv .venv" not in again
