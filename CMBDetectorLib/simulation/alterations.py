"""Simulated scans changed as other scanners and programs might: what a search or a training should stand.

The truth stays as it is; only what the images look like changes, so an altered case is evaluated, or trained on, like
any other. Strengths are chosen to be plain to see, not to be typical.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from CMBDetectorLib.errors import InputError
from CMBDetectorLib.output_folder import make_folder
from CMBDetectorLib.phase_range import to_radians
from CMBDetectorLib.preprocessing import brain_share
from CMBDetectorLib.resampling import as_stored
from CMBDetectorLib.simulation.case import SimulatedCase, write_case
from CMBDetectorLib.simulation.truth import truth_of
from CMBDetectorLib.volume import Volume, read_volume

Array = npt.NDArray[np.float32]
Progress = Callable[[str, float, str], None]

RANDOM = "random"
ALTERED = "altered"  # in a truth: names and strengths, once for every time
MOST_AT_ONCE = 3
TISSUE, MOST = 1000.0, 32000.0  # brightness of tissue in what is written, unless something is brighter than fits
EDGE_MM = 1.0  # over which a change of one tissue fades out
BESIDE_THE_BRAIN_MM = 4.0  # fat lies farther off than this


@dataclass(frozen=True, eq=False)
class Scan:
    """A scan with what an alteration must know of it; all arrays (R, A, S) on one grid.

    Attributes
    ----------
    swi : ndarray
        Any scale, not negative.
    phase_rad : ndarray
        Within [-pi, pi].
    is_tissue : ndarray
        bool: brain tissue by the truth.
    ijk_to_ras : ndarray
        (4, 4), mm.
    """

    swi: Array
    phase_rad: Array
    is_tissue: npt.NDArray[np.bool_]
    ijk_to_ras: npt.NDArray[np.float64]

    @property
    def spacing_mm(self) -> npt.NDArray[np.float64]:
        return Volume(self.swi, self.ijk_to_ras).spacing_mm

    @property
    def usual(self) -> float:
        """Brightness of tissue."""
        return float(np.median(self.swi[self.is_tissue]))

    def brain(self, margin_mm: float) -> Array:
        """Share of brain, sulci and ventricles closed, widened by a margin, in every voxel."""
        return brain_share(Volume(self.is_tissue, self.ijk_to_ras), margin_mm)

    def blurred(self, array: npt.NDArray, sigma_mm: Sequence[float]) -> Array:
        """Array smoothed by a Gaussian."""
        smooth: Array = ndimage.gaussian_filter(np.asarray(array, np.float32), np.divide(sigma_mm, self.spacing_mm))
        return smooth


Alter = Callable[[Scan, float, np.random.Generator], Scan]


@dataclass(frozen=True)
class Alteration:
    """One way in which scans differ.

    Attributes
    ----------
    change : callable
        Takes a scan, a strength and a random generator.
    shown : float
        Strength when it is asked for by name.
    least, most : float
        Between these `RANDOM` draws a strength, evenly in its logarithm.
    """

    change: Alter
    shown: float
    least: float
    most: float


def power(scan: Scan, exponent: float, random: np.random.Generator) -> Scan:
    """Brightness raised to a power: more, or less, contrast of everything."""
    return replace(scan, swi=scan.usual * (scan.swi / scan.usual) ** np.float32(exponent))


def fluid(scan: Scan, times: float, random: np.random.Generator) -> Scan:
    """Fluid in and between the parts of the brain brighter or darker."""
    is_fluid = scan.brain(0.0) * ~scan.is_tissue
    return replace(scan, swi=scan.swi * (1 + (times - 1) * scan.blurred(is_fluid, (EDGE_MM / 2,) * 3)))


def fat(scan: Scan, times: float, random: np.random.Generator) -> Scan:
    """Everything 4 mm and more outside the brain brighter or darker."""
    return replace(scan, swi=scan.swi * (times + (1 - times) * scan.brain(BESIDE_THE_BRAIN_MM)))


def rim_shading(scan: Scan, times: float, random: np.random.Generator) -> Scan:
    """Coils around the head: the brain's ends, and what lies beyond, so many times as bright as its middle."""
    return replace(scan, swi=scan.swi * np.float32(times) ** (_from_the_middle(scan) ** 2))


def side_shading(scan: Scan, times: float, random: np.random.Generator) -> Scan:
    """A coil on one side: one end of the brain, and what lies beyond, so many times as bright as the other."""
    places = np.argwhere(scan.is_tissue) * scan.spacing_mm
    axis = random.standard_normal(3)
    along = sum(
        _along(np.arange(n, dtype=np.float32) * np.float32(part * step), k)
        for k, (n, part, step) in enumerate(zip(scan.swi.shape, axis, scan.spacing_mm, strict=True))
    )
    low, high = np.percentile(places @ axis, [1, 99])
    share = ((along - low) / max(high - low, 1e-6)).clip(0, 1).astype(np.float32)
    return replace(scan, swi=scan.swi * np.float32(times) ** share)


def noise(scan: Scan, share: float, random: np.random.Generator) -> Scan:
    """Noise of a share of the brightness of tissue, as a magnitude image holds it."""
    sd = np.float32(share * scan.usual)
    real, imaginary = (sd * random.standard_normal(scan.swi.shape, np.float32) for _ in range(2))
    return replace(scan, swi=np.where(scan.swi > 0, np.hypot(scan.swi + real, imaginary), 0))


def blur(scan: Scan, sigma_mm: float, random: np.random.Generator) -> Scan:
    """Blurred along R and A."""
    return replace(scan, swi=scan.blurred(scan.swi, (sigma_mm, sigma_mm, 0.0)))


def ringing(scan: Scan, share: float, random: np.random.Generator) -> Scan:
    """A sharp cut through k-space at a share of the highest frequencies along R and A."""
    spectrum = np.fft.fft2(scan.swi, axes=(0, 1))
    for axis in (0, 1):
        frequency = np.abs(np.fft.fftfreq(scan.swi.shape[axis])) * 2
        spectrum *= _along(frequency <= share, axis)
    return replace(scan, swi=np.maximum(np.fft.ifft2(spectrum, axes=(0, 1)).real, 0).astype(np.float32))


def ghost(scan: Scan, share: float, random: np.random.Generator) -> Scan:
    """A share of the image once more, half a field of view along A away."""
    return replace(scan, swi=scan.swi + np.float32(share) * np.roll(scan.swi, scan.swi.shape[1] // 2, axis=1))


def stripped(scan: Scan, margin_mm: float, random: np.random.Generator) -> Scan:
    """Nothing outside the brain and a margin."""
    kept = scan.brain(margin_mm) > 0.5
    return replace(scan, swi=scan.swi * kept, phase_rad=scan.phase_rad * kept)


def weak_phase(scan: Scan, times: float, random: np.random.Generator) -> Scan:
    """Phase of another strength, as of another echo time or filter."""
    return replace(scan, phase_rad=np.clip(scan.phase_rad * np.float32(times), -np.pi, np.pi))


def phase_noise(scan: Scan, sd_rad: float, random: np.random.Generator) -> Scan:
    """Noise on the phase, wrapped."""
    noisy = scan.phase_rad + np.float32(sd_rad) * random.standard_normal(scan.swi.shape, np.float32)
    return replace(scan, phase_rad=np.angle(np.exp(1j * noisy)).astype(np.float32))


ALTERATIONS: dict[str, Alteration] = {
    "power": Alteration(power, 1.6, 0.6, 1.7),
    "fluid": Alteration(fluid, 1.6, 0.6, 1.7),
    "fat": Alteration(fat, 5.0, 0.3, 5.0),
    "rim-shading": Alteration(rim_shading, 5.0, 1.3, 5.0),
    "side-shading": Alteration(side_shading, 5.0, 1.3, 5.0),
    "noise": Alteration(noise, 0.08, 0.02, 0.12),
    "blur": Alteration(blur, 0.5, 0.2, 0.6),
    "ringing": Alteration(ringing, 0.6, 0.5, 0.9),
    "ghost": Alteration(ghost, 0.08, 0.02, 0.12),
    "stripped": Alteration(stripped, 2.0, 1.0, 8.0),
    "weak-phase": Alteration(weak_phase, 0.4, 0.4, 1.3),
    "phase-noise": Alteration(phase_noise, 0.5, 0.1, 0.5),
}


def alter(
    cases_dir: Path,
    out: Path,
    kind: str,
    *,
    seed: int = 0,
    progress: Progress = lambda stage, fraction, message: None,
) -> None:
    """Write an altered copy of every case below a folder; one that is already there is kept, also one of another seed.

    Parameters
    ----------
    kind : str
        A name in `ALTERATIONS`, or ``random``: one to three of them, of random strength.

    Raises
    ------
    InputError
        There is no such alteration, the folder holds no cases or one that cannot be altered, or `out` holds another
        one, or one that was altered otherwise.
    OutputError
        Nothing can be written to `out`.
    """
    if Path(out).resolve() == Path(cases_dir).resolve():
        raise InputError(f"{out} holds the cases themselves. Give another folder for the copies.")
    if kind not in (*ALTERATIONS, RANDOM):
        raise InputError(f"There is no alteration '{kind}'; choose {RANDOM} or one of {', '.join(ALTERATIONS)}.")
    folders = sorted(path.parent for path in Path(cases_dir).glob("*/truth.json"))
    if not folders:
        raise InputError(f"{cases_dir} holds no cases; it needs folders with truth.json, swi, phase and mars.nii.gz.")
    make_folder(out)
    missing = []
    for n, folder in enumerate(folders):
        random = np.random.default_rng([seed, n])
        strengths, copy = chosen(kind, random), out / folder.name
        before = truth_of(folder)
        if not isinstance(times := before.get(ALTERED, []), list):
            raise InputError(f"{folder / 'truth.json'} has {times!r} as '{ALTERED}', which must be a list. Correct it.")
        truth = {**before, ALTERED: [*times, strengths]}
        if not (copy / "truth.json").exists():
            missing.append((folder, copy, truth, random))
        elif truth_of(copy) != truth:
            raise InputError(f"{copy} holds another case, or was altered otherwise. Give another folder, or delete it.")
    for n, (folder, copy, truth, random) in enumerate(missing):
        progress("alter", n / len(missing), folder.name)
        write_case(altered(folder, truth, random), copy)
    progress("alter", 1.0, f"{len(folders)} cases in {out}")


def chosen(kind: str, random: np.random.Generator) -> dict[str, float]:
    """Names and strengths of the alterations of one case, in the order in which they are applied."""
    if kind != RANDOM:
        return {kind: ALTERATIONS[kind].shown}
    names = random.permutation(list(ALTERATIONS))[: random.integers(1, MOST_AT_ONCE + 1)]
    return {
        name: float(np.exp(random.uniform(np.log(each.least), np.log(each.most))))
        for name, each in ALTERATIONS.items()
        if name in names
    }


def altered(folder: Path, truth: dict[str, Any], random: np.random.Generator) -> SimulatedCase:
    """Read a case and alter it as the last of `truth` says. An image that nothing alters stays as it was.

    Raises
    ------
    InputError
        The images lie on different grids, or show no brain.
    """
    swi, stored_phase, stored_mars = (read_volume(folder / f"{name}.nii.gz") for name in ("swi", "phase", "mars"))
    phase = to_radians(stored_phase)[0]
    mars = stored_mars.with_array(stored_mars.array.astype(np.uint8))
    in_order = [volume.in_ras_order() for volume in (swi, phase, mars)]
    for other in in_order[1:]:
        if other.array.shape != in_order[0].array.shape or not np.allclose(
            other.ijk_to_ras, in_order[0].ijk_to_ras, atol=1e-3
        ):
            raise InputError(f"The images in {folder} lie on different grids. Resample them to that of the SWI.")
    swi_array, phase_array, labels = (volume.array for volume in in_order)
    scan = first = Scan(
        np.maximum(swi_array.astype(np.float32), 0),
        phase_array.astype(np.float32),
        labels > 0,
        in_order[0].ijk_to_ras,
    )
    if not (scan.is_tissue.any() and scan.usual > 0):
        raise InputError(f"{folder} shows no brain tissue: mars.nii.gz names none, or swi.nii.gz is empty there.")
    for name, strength in truth[ALTERED][-1].items():
        scan = ALTERATIONS[name].change(scan, strength, random)
    if scan.swi is not first.swi:
        scale = min(TISSUE / max(scan.usual, 1e-6), MOST / float(scan.swi.max()))
        swi = as_stored(np.rint(scan.swi * np.float32(scale)).astype(np.int16), swi)
    if scan.phase_rad is not first.phase_rad:
        # In rad: the range of whole numbers would be taken from their peak, which a weaker phase does not reach.
        stored_phase = as_stored(scan.phase_rad, stored_phase)
    return SimulatedCase(swi, stored_phase, mars, truth)


def _along(values: npt.NDArray, axis: int) -> npt.NDArray:
    """Values of the places along one axis, to be broadcast over the others."""
    return values.reshape([-1 if other == axis else 1 for other in range(3)])


def _from_the_middle(scan: Scan) -> Array:
    """Distance from the brain's middle: 0 there, 1 at its ends along every axis and beyond."""
    ends = np.array([np.flatnonzero(scan.is_tissue.any(axis=others))[[0, -1]] for others in ((1, 2), (0, 2), (0, 1))])
    middle, reach = ends.mean(axis=1), np.maximum(np.ptp(ends, axis=1) / 2, 1)
    total = np.zeros(scan.swi.shape, np.float32)
    for axis, n in enumerate(scan.swi.shape):
        share = ((np.arange(n) - middle[axis]) / reach[axis]).astype(np.float32)
        total += _along(share**2, axis)
    return np.minimum(np.sqrt(total), 1)
