"""The sample scan of a smaller head in fewer voxels: searched for real in a fifth of the time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from CMBDetectorLib.resources import resources_dir
from CMBDetectorLib.volume import read_volume, write_volume

SHRUNK = (0.63, 0.63, 0.56)  # to the smallest head that preflight takes


class Scan(NamedTuple):
    swi: Path
    phase: Path


SAMPLE = Scan(*(next((resources_dir() / "SampleData").glob(f"*/{name}.nii.gz")) for name in ("swi", "phase")))


def write_small_scan(folder: Path) -> Scan:
    """Write every second voxel of the sample scan, closer together, as ``swi.nii.gz`` and ``phase.nii.gz``."""
    for source in SAMPLE:
        volume = read_volume(source).in_ras_order()
        matrix = volume.ijk_to_ras.copy()
        matrix[:3, :3] *= 2
        matrix[:3] *= np.array(SHRUNK)[:, None]
        write_volume(replace(volume, array=volume.array[::2, ::2, ::2], ijk_to_ras=matrix), folder / source.name)
    return Scan(folder / SAMPLE.swi.name, folder / SAMPLE.phase.name)
