"""Region, size and phase evidence at a place that a reader points at, from images alone: no network needed."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy import optimize

from CMBDetectorLib.candidate import PhaseEvidence
from CMBDetectorLib.evidence import apparent_volume_mm3, phase_evidence
from CMBDetectorLib.localize import Segmentation, locate
from CMBDetectorLib.review import Spot
from CMBDetectorLib.volume import Volume

USUAL_DIAMETER_MM = 4.0  # to begin the measurement with, and to name a region where nothing stands out
LARGEST_DIAMETER_MM = 10.0  # of what counts as a microbleed
# The volume is measured at half darkness, the diameter in truth and detector where darkness ends. On the ten
# microbleeds of the sample scan the ratio is 1.2 to 1.55.
DIAMETERS_PER_BALL = 1.38
SIDE_SPACING_MM = 2.0  # of the map of sides, which is smooth
MIRROR_SPACING_MM = 4.0  # of the labels that are compared


def measure_spot(
    position_ras_mm: tuple[float, float, float],
    *,
    swi: Volume | None,
    regions: Segmentation | None,
    phase: Volume | None = None,
) -> Spot:
    """Measure what lies at a place; what is not given stays unknown.

    Parameters
    ----------
    position_ras_mm : tuple of float
        RAS, mm.
    swi : Volume or None
    regions : Segmentation or None
        From `with_midline`.
    phase : Volume or None
        As searched: rad, high-pass filtered, paramagnetic positive.
    """
    diameter_mm, volume_mm3 = apparent_size(position_ras_mm, swi) if swi else (math.nan, math.nan)
    usual = USUAL_DIAMETER_MM if math.isnan(diameter_mm) else diameter_mm
    location, _ = locate(position_ras_mm, usual, regions) if regions else (None, "")
    if location:  # the midline tells the side, not how probable it is
        location = replace(location, side_probability=math.nan)
    evidence = phase_evidence(position_ras_mm, usual, phase) if phase else PhaseEvidence.NO_PHASE
    return Spot(
        position_ras_mm=position_ras_mm,
        location=location,
        diameter_mm=diameter_mm,
        volume_mm3=volume_mm3,
        phase_evidence=evidence,
    )


def apparent_size(center_ras_mm: npt.ArrayLike, swi: Volume) -> tuple[float, float]:
    """Diameter (mm) and volume (mm3) of the dark spot at a place; NaN for both where nothing dark stands out.

    The volume depends on how far one looks, and that on the diameter: each is found from the other in turn.
    """
    diameter_mm = USUAL_DIAMETER_MM
    for _ in range(5):
        volume_mm3 = apparent_volume_mm3(center_ras_mm, diameter_mm, swi)
        if volume_mm3 == 0:
            return math.nan, math.nan
        diameter_mm = min(DIAMETERS_PER_BALL * (6 * volume_mm3 / math.pi) ** (1 / 3), LARGEST_DIAMETER_MM)
    return diameter_mm, volume_mm3


def with_midline(regions: Volume) -> Segmentation:
    """Complete a MARS label map by the patient's sides, so that `localize.locate` can use it."""
    coarse = _thinned(regions.in_ras_order(), SIDE_SPACING_MM)
    point, right = midline(coarse)
    right_mm = (coarse.ras_of(np.moveaxis(np.indices(coarse.array.shape), 0, -1)) - point) @ right
    left = np.clip(0.5 - right_mm / (4 * SIDE_SPACING_MM), 0, 1).astype(np.float32)
    return Segmentation(regions, regions.with_array(regions.array > 0), coarse.with_array(left))


def midline(regions: Volume) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Find the plane on which a label map is most nearly its own mirror image, also in a head that is turned.

    Returns
    -------
    ndarray
        A point of the plane, RAS, mm.
    ndarray
        The unit vector to the patient's right.
    """
    coarse = _thinned(regions.in_ras_order(), MIRROR_SPACING_MM)
    right, front, up = (coarse.ijk_to_ras[:3, :3] / coarse.spacing_mm).T
    index = np.argwhere(coarse.array > 0)
    if not len(index):
        return coarse.ras_of((np.array(coarse.array.shape) - 1) / 2), right
    labels, places = coarse.array[tuple(index.T)], coarse.ras_of(index)
    center = places.mean(axis=0)

    def plane(shift_mm: float, turn: float, tilt: float) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        across = right + turn * front + tilt * up
        return center + shift_mm * right, across / np.linalg.norm(across)

    def difference(terms: npt.NDArray[np.float64]) -> float:
        point, across = plane(*terms)
        mirrored = places - 2 * np.outer((places - point) @ across, across)
        there = np.rint(coarse.ijk_of(mirrored)).astype(int)
        inside = np.all((there >= 0) & (there < coarse.array.shape), axis=1)
        same = coarse.array[tuple(there[inside].T)] == labels[inside]
        return 1 - float(np.count_nonzero(same)) / len(labels)

    steps = np.vstack([np.zeros(3), np.diag([6.0, 0.1, 0.1])])  # mm and, about, radians
    found = optimize.minimize(difference, np.zeros(3), method="Nelder-Mead", options={"initial_simplex": steps})
    return plane(*found.x)


def _thinned(volume: Volume, spacing_mm: float) -> Volume:
    """Take every so many-th voxel, so that they lie about `spacing_mm` apart."""
    step = np.maximum(1, np.rint(spacing_mm / volume.spacing_mm)).astype(int)
    matrix = volume.ijk_to_ras.copy()
    matrix[:3, :3] *= step
    return Volume(volume.array[:: step[0], :: step[1], :: step[2]], matrix, volume.source)
