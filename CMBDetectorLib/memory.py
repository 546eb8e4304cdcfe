"""Whether a scan fits into the memory that is free, asked before a search makes the whole machine stand still."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

from CMBDetectorLib.errors import OutOfMemoryError

# What a search with phase takes, 10^9 bytes, and bytes more per voxel of the SWI: a little above the resident sets
# measured on one brain in 4 to 210 million voxels (0.9 to 4.3 GB, with a smaller detector). With the present one, in
# float32, it was 3.3 GB where a tile of 990 blocks is read; of 1200, an ordinary brain, that makes about 3.7 GB.
PREPARING = 1.2, 20  # grows with the scan
DETECTING = 3.7, 12  # in float32; grows with the brain, up to the largest tile (`detect.TILE_BLOCKS`)


def needed_gb(voxels: int) -> float:
    """Memory that a search of an image with so many voxels needs at its peak, 10^9 bytes."""
    return max(base_gb + voxels * each / 1e9 for base_gb, each in (PREPARING, DETECTING))


def require_memory_for(voxels: int, image: object, free_gb: float | None) -> None:
    """Raise `OutOfMemoryError` unless a scan of so many voxels can be searched without swapping.

    Parameters
    ----------
    voxels : int
        Of the image; the other one is assumed to have as many.
    image : object
        Its name, for the message.
    free_gb : float or None
        From `available_gb`; None, where that is not known, refuses nothing.
    """
    needed = needed_gb(voxels)
    if free_gb is not None and needed > free_gb:
        raise OutOfMemoryError(
            f"{image} has {voxels / 1e6:.0f} million voxels; searching it needs about {needed:.1f} GB of memory, and "
            f"this machine has {free_gb:.1f} GB for it. Close other programs, or use a machine with more memory."
        )


def available_gb(system: Path = Path("/")) -> float | None:
    """Memory that can be had without swapping, 10^9 bytes; None where the system does not say.

    macOS does not say what is free: there it is all that is built in, so that only what cannot fit is refused.

    On Linux the least of what the machine and the control groups (containers, job schedulers) leave; `system` is the
    root of its files.
    """
    if sys.platform == "win32":
        return _windows_gb()
    if sys.platform == "darwin":
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    limits = [_meminfo(system / "proc/meminfo"), *map(_left_in_group, _control_groups(system))]
    known = [limit for limit in limits if limit is not None]
    return min(known) / 1e9 if known else None


def _meminfo(file: Path) -> int | None:
    try:
        lines = file.read_text().splitlines()
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
    except (OSError, ValueError):
        return None


def _control_groups(system: Path) -> list[Path]:
    """Folders of this process's memory control group and of those above it, version 2 and 1."""
    try:
        lines = (system / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    folders = []
    for _, controllers, group in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        if controllers in ("", "memory"):
            top = system / "sys/fs/cgroup" / controllers
            own = top / group.lstrip("/")
            folders += [own, *(folder for folder in own.parents if folder.is_relative_to(top))]
    return folders


def _left_in_group(folder: Path) -> int | None:
    """Bytes that a control group may still take; its file cache does not count, as it is given back on demand."""
    for limit, usage, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            most, used = int((folder / limit).read_text()), int((folder / usage).read_text())
            said = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            return most - used + int(said.get(cache, 0))
        except (OSError, ValueError):  # not of this version, or "max", which is no limit
            continue
    return None


def _windows_gb() -> float | None:
    class Status(ctypes.Structure):  # MEMORYSTATUSEX of sysinfoapi.h
        _fields_ = (("length", ctypes.c_ulong), ("load", ctypes.c_ulong), ("bytes", ctypes.c_ulonglong * 7))

    status = Status(length=ctypes.sizeof(Status))
    if not ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):  # type: ignore[attr-defined,unused-ignore]
        return None
    return status.bytes[1] / 1e9  # ullAvailPhys
