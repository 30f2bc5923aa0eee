"""What the machine, or the container around this process, has of cores, memory and disk."""

from __future__ import annotations

import ctypes
import math
import os
import platform
import resource
import shutil
import sys
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
"""Environment variables that libraries read when they are loaded; some end the process over a value."""


def allowed_cores() -> int:
    """Cores that this process may run on, whatever a container grants of their time."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores() -> int:
    """Cores whose time this process may use: at least one, and no more than a container grants."""
    quota = cpu_quota()
    return allowed_cores() if quota is None else max(1, min(allowed_cores(), math.ceil(quota)))


def most_threads() -> int:
    """Threads beyond which a number is a mistake: libraries end the process where a system grants no more of them."""
    return max(64, 4 * (os.cpu_count() or 1))


def drop_thread_variables() -> list[str]:
    """Forget those of THREAD_VARIABLES that no library can follow; returns a line for each.

    It must come before the libraries are loaded.
    """
    lines = []
    for name in THREAD_VARIABLES:
        # OpenMP takes a list, a number a level.
        numbers = os.environ.get(name, "").strip().split(",") if os.environ.get(name) else []
        if not all(number.strip().isdecimal() and 0 < int(number) <= most_threads() for number in numbers):
            lines.append(f"{name}={os.environ.pop(name)} is ignored: it must lie in 1 .. {most_threads()}")
    return lines


def keep_memory() -> None:
    """Have glibc keep what is freed for what is taken next.

    Otherwise every update gives its large tensors' pages back to the system and takes them anew, zeroed one by one.
    Other C libraries have no such setting and are left as they are.
    """
    trim_threshold, mmap_threshold = -1, -3  # names of malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(trim_threshold, 512 << 20)
    mallopt(mmap_threshold, 32 << 20)  # more it does not take


def cpu_quota() -> float | None:
    """Cores' worth of time that the container grants; None without a limit."""
    found = cgroup("cpu", "cpu.max")
    if found:
        quota, period = found.split()
    else:
        quota, period = cgroup("cpu", "cpu.cfs_quota_us") or "-1", cgroup("cpu", "cpu.cfs_period_us") or "-1"
    return None if quota in ("max", "-1") else int(quota) / int(period)


def memory() -> tuple[int, int | None]:
    """Bytes of the machine, and how many of them can still be taken; None where nobody says."""
    info = colon_lines(Path("/proc/meminfo"))
    if "MemTotal" in info and "MemAvailable" in info:
        total, available = (1024 * int(info[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
        return total, available
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), None


def memory_limit() -> tuple[int, int] | None:
    """Bytes that the container grants and that it has taken; None without a limit."""
    limit = cgroup("memory", "memory.max") or cgroup("memory", "memory.limit_in_bytes")
    # Version 1 writes "no limit" as a number beyond any machine.
    if not limit or limit == "max" or int(limit) >= 2**60:
        return None
    return int(limit), int(cgroup("memory", "memory.current") or cgroup("memory", "memory.usage_in_bytes") or 0)


def memory_available() -> int | None:
    """Bytes that can still be taken, within the container's limit too; None where nobody says."""
    free = [memory()[1]]
    if (limit := memory_limit()) is not None:
        free.append(max(limit[0] - limit[1], 0))
    return min((size for size in free if size is not None), default=None)


def process_memory() -> int:
    """Bytes that this process has taken so far, at most."""
    status = colon_lines(Path("/proc/self/status"))
    if "VmHWM" in status:
        return 1024 * int(status["VmHWM"].split()[0])
    # This one may be the peak of the process that began this one.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def disk_free(folder: Path) -> int:
    """Bytes free where the folder lies, or will lie."""
    folder = folder.resolve()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def folder_size(folder: Path) -> int:
    """Bytes in a folder's files; 0 where there is none."""
    total = 0
    for root, _, names in os.walk(folder):
        total += sum(os.path.getsize(path) for name in names if os.path.isfile(path := os.path.join(root, name)))
    return total


def size_text(size: float) -> str:
    """Bytes for people: 3.2 GB."""
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 1000 or unit == "GB":
            break
    return f"{size:.1f} {unit}" if size < 10 else f"{size:.0f} {unit}"


def processor() -> str:
    """What the processor is called."""
    name = colon_lines(Path("/proc/cpuinfo")).get("model name")
    return name or platform.processor() or platform.machine()


def cgroup(controller: str, name: str) -> str | None:
    """A limit of this process's control group, of either version; None where it has none."""
    places = [CGROUP / name, CGROUP / controller / name]
    try:
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                places.insert(0, CGROUP / path.lstrip("/") / name)
            elif controller in controllers.split(","):
                places.insert(0, CGROUP / controller / path.lstrip("/") / name)
    except OSError:
        pass
    for place in places:
        try:
            return place.read_text().strip()
        except OSError:
            continue
    return None


def colon_lines(path: Path) -> dict[str, str]:
    """`name : value` lines, the first of each name; nothing where there is no such file."""
    try:
        pairs = [line.split(":", 1) for line in path.read_text().splitlines() if ":" in line]
    except OSError:
        return {}
    return {name.strip(): value.strip() for name, value in reversed(pairs)}
