"""The sample scan on other grids: ``python -m Testing.benchmark.cases SAMPLE FOLDER`` writes those that are missing."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk


@dataclass(frozen=True)
class Grid:
    """Size and spacing along R-L, A-P and S-I; its middle is that of the brain."""

    size: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]

    @property
    def folder(self) -> str:
        return "x".join(map(str, self.size))


SMALL = Grid((256, 256, 64), (0.9, 0.9, 2.25))
FINER = [Grid((round(256 / mm), round(224 / mm), 72), (mm, mm, 2.0)) for mm in (1.0, 0.75, 0.6, 0.5, 0.4)]
FEWER_SLICES = [Grid((512, 448, slices), (0.5, 0.5, 2.0)) for slices in (24, 36, 54)]


def write_case(sample: Path, grid: Grid, folder: Path) -> None:
    """Resample SWI and phase of a case, whole or not at all; the phase through the unit circle."""
    target = _target(sitk.ReadImage(str(sample / "mars.nii.gz")), grid)
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    swi = sitk.Resample(sitk.ReadImage(str(sample / "swi.nii.gz"), sitk.sitkFloat32), target, sitk.Transform())
    sitk.WriteImage(sitk.Cast(swi, sitk.sitkInt16), str(partial / "swi.nii.gz"))

    angle = sitk.ReadImage(str(sample / "phase.nii.gz"), sitk.sitkFloat32) * (np.pi / 4096)  # scanner units: +-4096
    sine, cosine = (sitk.Resample(part, target, sitk.Transform()) for part in (sitk.Sin(angle), sitk.Cos(angle)))
    phase = sitk.Clamp(sitk.Atan2(sine, cosine) * (4096 / np.pi), sitk.sitkInt16, -4096, 4095)
    sitk.WriteImage(phase, str(partial / "phase.nii.gz"))
    shutil.copy(sample / "truth.json", partial)
    (partial / "grid.json").write_text(json.dumps(asdict(grid)))
    os.replace(partial, folder)


def _target(mars: sitk.Image, grid: Grid) -> sitk.Image:
    """Image of a grid with the sample's directions, around the middle of its brain."""
    labels = sitk.LabelShapeStatisticsImageFilter()
    labels.Execute(mars > 0)
    start, size = np.split(np.array(labels.GetBoundingBox(1)), 2)
    middle = np.array(mars.TransformContinuousIndexToPhysicalPoint((start + (size - 1) / 2).tolist()))
    direction = np.array(mars.GetDirection()).reshape(3, 3)
    target = sitk.Image(grid.size, sitk.sitkUInt8)
    target.SetSpacing(grid.spacing_mm)
    target.SetDirection(mars.GetDirection())
    target.SetOrigin((middle - direction @ ((np.array(grid.size) - 1) / 2 * grid.spacing_mm)).tolist())
    return target


def main(sample: Path, folder: Path) -> None:
    for grid in (SMALL, *FINER, *FEWER_SLICES):
        if not (folder / grid.folder).exists():
            write_case(sample, grid, folder / grid.folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
