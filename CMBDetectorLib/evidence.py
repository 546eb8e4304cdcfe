"""What the image says about one candidate: the sign of its susceptibility, and the volume of its dark voxels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from CMBDetectorLib.candidate import PhaseEvidence
from CMBDetectorLib.volume import Volume

NEAREST_DIAMETERS = 0.25  # the dipole field is read from here on, in apparent diameters from the center ...
FARTHEST_DIAMETERS = 0.7  # ... to here and 1.5 mm more; beyond, noise and neighbors outweigh it
FINENESS_MM = 0.5  # voxels are divided at least this fine to average the dipole field over them
LEAST_SIGMAS = 5.0
LEAST_CORRELATION = 0.15


def phase_evidence(center_ras_mm: npt.ArrayLike, diameter_mm: float, phase: Volume | None) -> PhaseEvidence:
    """Sign of the susceptibility that the phase around a candidate speaks for.

    The phase around the center is compared with the dipole field of a sphere (3 cos^2 of the angle to B0, minus 1,
    falling with the third power of the distance), averaged over the voxels as the scanner does. The border tells more
    than the center (AJNR 2020;41:1405); a template of all directions tells more still: on spheres of 2-10 mm in
    simulated veined tissue at 0.5 x 0.5 x 2-2.5 mm such a template had the right sign in 98-99 %, the equatorial rim
    alone in 95 %, the center in 82 %, because thick slices average the poles into the center and strong lesions wrap
    there. The limits below were chosen on seven simulated heads; on seven others they decided 101 of 125 microbleeds
    and 57 of 67 calcifications, none wrongly, and 6 of 280 places in plain tissue. Simulation only.

    Parameters
    ----------
    center_ras_mm : array_like, shape (3,)
        RAS, mm.
    diameter_mm : float
        Apparent diameter on SWI.
    phase : Volume or None
        rad, high-pass filtered, paramagnetic positive (`phase.prepare`).

    Returns
    -------
    PhaseEvidence
        Uncertain where the agreement is below 5 standard errors of the local noise or a correlation of 0.15.
    """
    if phase is None:
        return PhaseEvidence.NO_PHASE
    sigmas, correlation = dipole_agreement(center_ras_mm, diameter_mm, phase)
    if abs(sigmas) < LEAST_SIGMAS or abs(correlation) < LEAST_CORRELATION:
        return PhaseEvidence.UNCERTAIN
    return PhaseEvidence.PARAMAGNETIC if sigmas > 0 else PhaseEvidence.DIAMAGNETIC


def dipole_agreement(center_ras_mm: npt.ArrayLike, diameter_mm: float, phase: Volume) -> tuple[float, float]:
    """Agreement of the phase with the dipole field of a paramagnetic sphere; negative for a diamagnetic one.

    Returns
    -------
    sigmas : float
        Matched-filter response in standard errors of the local noise.
    correlation : float
        -1 to 1, over the voxels that the sphere's field reaches.
    """
    reach_mm = FARTHEST_DIAMETERS * diameter_mm + 1.5
    values, offset_mm = neighborhood(center_ras_mm, reach_mm + 4, phase)
    distance_mm = np.linalg.norm(offset_mm, axis=-1)
    field = _dipole_field(offset_mm, diameter_mm, phase)
    near, around = distance_mm <= reach_mm, (distance_mm > reach_mm) & (distance_mm <= reach_mm + 4)
    if near.sum() < 8 or around.sum() < 8:
        return 0.0, 0.0
    level = np.median(values[around])
    noise = 1.4826 * np.median(np.abs(values[around] - level))
    seen, expected = values[near] - level, field[near]
    response = float(expected @ seen)
    size = float(np.linalg.norm(expected))
    return response / max(size * float(noise), 1e-9), response / max(size * float(np.linalg.norm(seen)), 1e-9)


def neighborhood(center_ras_mm: npt.ArrayLike, reach_mm: float, volume: Volume) -> tuple[npt.NDArray, npt.NDArray]:
    """Voxels of a box around a point (I, J, K) and the offset of their centers from it, RAS, mm (I, J, K, 3)."""
    center = volume.ijk_of(center_ras_mm)
    reach = reach_mm / volume.spacing_mm
    low = np.clip(np.ceil(center - reach), 0, volume.array.shape).astype(int)
    high = np.clip(np.floor(center + reach) + 1, low, volume.array.shape).astype(int)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    ijk = np.stack(np.meshgrid(*(np.arange(a, b) for a, b in zip(low, high, strict=True)), indexing="ij"), axis=-1)
    return volume.array[box], volume.ras_of(ijk) - np.asarray(center_ras_mm, float)


def _dipole_field(offset_mm: npt.NDArray, diameter_mm: float, volume: Volume) -> npt.NDArray:
    """Field of a unit paramagnetic sphere, averaged over each voxel; B0 is the scanner's superior axis."""
    steps = np.ceil(volume.spacing_mm / FINENESS_MM - 1e-6).astype(int)
    fractions = [(np.arange(n) + 0.5) / n - 0.5 for n in steps]
    parts = np.stack(np.meshgrid(*fractions, indexing="ij"), axis=-1).reshape(-1, 3) @ volume.ijk_to_ras[:3, :3].T
    field = np.zeros(offset_mm.shape[:-1])
    for part in parts:
        x, y, z = np.moveaxis(offset_mm + part, -1, 0)
        squared = np.maximum(x**2 + y**2 + z**2, 1e-6)
        outside = squared >= (NEAREST_DIAMETERS * diameter_mm) ** 2
        field += outside * (diameter_mm / 2) ** 3 * (3 * z**2 / squared - 1) / squared**1.5
    return field / len(parts)


def apparent_volume_mm3(center_ras_mm: npt.ArrayLike, diameter_mm: float, swi: Volume) -> float:
    """Volume of the dark voxels of a candidate, mm3: what a reader would outline on the SWI.

    Voxels connected to the darkest one near the center that are darker than halfway between it and the local
    background (median of a shell), within a ball of 1.5 diameters + 2 mm. Grows with echo time.
    """
    ball_mm = 0.75 * diameter_mm + 1
    values, offset_mm = neighborhood(center_ras_mm, ball_mm + 2, swi)
    distance_mm = np.linalg.norm(offset_mm, axis=-1)
    # Half a voxel more, so that a small lesion between two thick slices has a voxel to start from.
    core = distance_mm <= max(diameter_mm / 2, float(swi.spacing_mm.max()) * 0.75)
    shell = (distance_mm > diameter_mm / 2 + 1) & (distance_mm <= ball_mm + 2)
    if not core.any() or not shell.any():
        return 0.0
    darkest = np.unravel_index(np.where(core, values, np.inf).argmin(), values.shape)
    background = float(np.median(values[shell]))
    if values[darkest] >= background:
        return 0.0
    dark = (values < (background + float(values[darkest])) / 2) & (distance_mm <= ball_mm)
    if not dark[darkest]:
        return 0.0
    pieces, _ = ndimage.label(dark, np.ones((3, 3, 3)))
    # Strong lesions turn the phase more than once, which leaves bright specks inside.
    piece = ndimage.binary_fill_holes(pieces == pieces[darkest])
    return float(piece.sum() * abs(np.linalg.det(swi.ijk_to_ras[:3, :3])))
