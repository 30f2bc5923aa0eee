"""Packs what a GPU host without a package index lacks, besides PyTorch and Triton, into a folder of wheels.

    python benchmarks/gpu/pack.py FOLDER [--python 3.12] [--without numpy scipy]     # here, where there is an index
    make gpu WHEELS=FOLDER PYTHON=python3            # there; what is missing is installed for the time being

Versions are those of constraints.txt. dm_control's large assets, which none of its suite reads, are left out.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# What training imports, what makes figures of it, and what runs the tests; each with what it needs.
WANTED = """
mujoco dm_control dm-env dm-tree glfw labmaze PyOpenGL absl-py lxml etils importlib_resources zipp fsspec protobuf wrapt
attrs pyparsing setuptools numpy scipy numba llvmlite tyro docstring_parser typeguard typing_extensions gymnasium
Farama-Notifications cloudpickle tqdm tensorboard tensorboard-data-server grpcio Markdown Werkzeug MarkupSafe matplotlib
contourpy cycler fonttools kiwisolver packaging pillow python-dateutil six
pytest iniconfig pluggy Pygments hypothesis sortedcontainers
"""
LEFT_OUT = {
    "dm_control": re.compile(
        r"dm_control/locomotion/.*/assets/|dm_control/(suite/dog_assets|blender|mjcf/test_assets)/"
        r"|dm_control/(entities|manipulation)/.*\.(stl|msh|obj|png)$|.*_test\.py$"
    ),
    "labmaze": re.compile(r"labmaze/assets/.*\.png$"),
    "mujoco": re.compile(r"mujoco/(experimental|testdata)/|.*_test\.py$"),
}
PLATFORMS = [
    "manylinux1_x86_64",
    "manylinux2014_x86_64",
    *(f"manylinux_2_{n}_x86_64" for n in (17, 24, 27, 28, 31, 34)),
]


def normal(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned(without: Sequence[str] = ()) -> list[str]:
    """The wanted packages with their versions of constraints.txt, or bare where it has none."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {normal(line.split("==")[0]): line for line in lines if "==" in line and not line.startswith("#")}
    left_out = {normal(name) for name in without}
    return [pins.get(normal(name), name) for name in WANTED.split() if normal(name) not in left_out]


def slim(wheel: Path, left_out: re.Pattern[str]) -> None:
    """Rewrite a wheel without some of its files, and without their lines in RECORD."""
    part = wheel.with_suffix(".part")
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as new:
        for item in old.infolist():
            if left_out.match(item.filename):
                continue
            data = old.read(item)
            if item.filename.endswith(".dist-info/RECORD"):
                lines = [line for line in data.decode().splitlines() if not left_out.match(line.split(",")[0])]
                data = ("\n".join(lines) + "\n").encode()
            new.writestr(item, data)
    part.replace(wheel)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default="3.12", help="the host's Python")
    parser.add_argument("--without", nargs="+", default=[], metavar="NAME", help="packages that the host has")
    args = parser.parse_args(argv)
    args.folder.mkdir(parents=True, exist_ok=True)
    where = ["--only-binary=:all:", "--python-version", args.python, "--implementation", "cp"]
    where += [f"--platform={name}" for name in PLATFORMS]
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", *where, "-d", str(args.folder)]
    if status := subprocess.run([*pip, *pinned(args.without)]).returncode:
        return status
    wheels = sorted(args.folder.glob("*.whl"))
    for wheel in wheels:
        if left_out := LEFT_OUT.get(wheel.name.split("-")[0]):
            slim(wheel, left_out)
    size = sum(wheel.stat().st_size for wheel in wheels) / 2**20
    print(f"{len(wheels)} wheels, {size:.0f} MiB in {args.folder}; there: make gpu WHEELS={args.folder} PYTHON=python3")
    return 0


if __name__ == "__main__":
    sys.exit(main())
