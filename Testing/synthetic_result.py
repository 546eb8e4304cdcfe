"""A result without a run: dark balls in a plain head, for tests of what is made from results."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from CMBDetectorLib.candidate import Candidate, Location, PhaseEvidence
from CMBDetectorLib.regions import Region, Side
from CMBDetectorLib.request import Settings
from CMBDetectorLib.result import InputFile, Provenance, Result, number
from CMBDetectorLib.volume import Volume

SHAPE = (96, 96, 24)
SPACING_MM = (0.9, 0.9, 3.0)
THRESHOLD = 0.4
AT_BORDER = 3  # MARS label of the ball that lies at the border of deep and lobar

# Place of each ball (index along i, j, k), diameter (mm), probability, MARS label and what excludes it.
BALLS = (
    ((30, 40, 12), 4.0, 0.91, 9, ""),
    ((60, 30, 8), 3.0, 0.72, 3, ""),
    ((48, 70, 5), 6.0, 0.83, 2, ""),
    ((52, 52, 20), 5.0, 0.55, 9, "outside brain tissue"),
    ((40, 60, 15), 2.5, 0.20, 9, ""),  # below the threshold
)


def affine(tilt_deg: float = 0.0) -> np.ndarray:
    """Voxel indices to RAS, mm: i to the left, j to the back (as scanners store), tilted about the R axis."""
    tilt = np.deg2rad(tilt_deg)
    turn = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    matrix = np.eye(4)
    matrix[:3, :3] = turn @ np.diag([-1, -1, 1]) * SPACING_MM
    matrix[:3, 3] = (7.0, -11.0, 23.0) - matrix[:3, :3] @ ((np.array(SHAPE) - 1) / 2)
    return matrix


def synthetic_result(*, tilt_deg: float = 0.0, phase: bool = True, balls: tuple = BALLS) -> Result:
    """Bright brain of 300 with balls of 0; SWI, phase and regions on one grid of 96 x 96 x 24 voxels."""
    index = np.moveaxis(np.indices(SHAPE), 0, -1)
    matrix = affine(tilt_deg)
    from_center_mm = (index - (np.array(SHAPE) - 1) / 2) * SPACING_MM
    brain = np.linalg.norm(from_center_mm / (40, 40, 34), axis=-1) < 1
    swi = np.where(brain, 300, 20).astype(np.float32)
    phase_rad = np.zeros(SHAPE, np.float32)
    regions = np.where(brain, 9, 0).astype(np.uint8)
    regions[:, 60:][brain[:, 60:]] = 2
    regions[:, :35][brain[:, :35]] = 3
    swi_volume = Volume(swi, matrix, "swi.nii.gz")
    found = []
    for place, diameter_mm, probability, label, exclusion in balls:
        inside = np.linalg.norm((index - place) * SPACING_MM, axis=-1) <= diameter_mm / 2
        swi[inside], phase_rad[inside] = 0, 1.5
        center = tuple(swi_volume.ras_of(place).tolist())
        side = Side.LEFT if center[0] < 0 else Side.RIGHT
        border = (0.62, 1.4, Region.LOBAR, 0.55) if label == AT_BORDER else (0.93, 4.25, Region.DEEP, 0.71)
        found.append(
            Candidate(
                center_ras_mm=center,
                diameter_mm=diameter_mm,
                volume_mm3=float(inside.sum() * np.prod(SPACING_MM)),
                probability=probability,
                location=None if exclusion else Location(label, side, *border, side_probability=0.98),
                phase_evidence=PhaseEvidence.PARAMAGNETIC if phase else PhaseEvidence.NO_PHASE,
                exclusion=exclusion,
            )
        )
    made = Provenance(
        version="0.1.0",
        finished_at="2026-08-14T12:30:05+02:00",
        swi=InputFile("/data/sub-017_swi.nii.gz", "ab" * 32),
        phase=InputFile("/data/sub-017_phase.nii.gz", "cd" * 32) if phase else None,
        detector_sha256="12" * 32,
        segmenter_sha256="34" * 32,
        settings=Settings(),
        threshold=THRESHOLD,
        device="cpu, float32, 2 threads",
        polarity="bright" if phase else "none",
        seconds_per_stage={"detect": 1.5},
    )
    return Result(
        candidates=number(found),
        regions=Volume(regions, matrix),
        swi=swi_volume,
        phase=Volume(phase_rad, matrix) if phase else None,
        notices=("The phase was taken as filtered.",),
        searched_ml=float(brain.sum() * np.prod(SPACING_MM) / 1000),
        provenance=made,
    )


def without_candidates(result: Result) -> Result:
    return replace(result, candidates=())
