"""Phase images as scanners store them, made into one kind: radians, high-pass filtered, paramagnetic positive.

Scanners differ in the numbers they store, in whether they filter, and in the sign. `phase_range.to_radians` reads the
numbers, `high_pass` filters (once more, where it was done already), `measure_polarity` finds the sign on the veins,
and `prepare` does all that is needed before `preprocessing.detector_input`.

Sign convention, "canonical": the inside of a paramagnetic cylinder along B0 and the poles of a paramagnetic sphere
are positive, the equator of the sphere is negative.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import fft, ndimage
from skimage.measure import block_reduce

from CMBDetectorLib.preprocessing import brain_box, local_mean
from CMBDetectorLib.resampling import apply, crop, maps, on_grid
from CMBDetectorLib.volume import Volume, closest_axes

PASS_BELOW_MM = 8.0  # wavelength at which the low-pass ends: a Hann window of 64 pixels for a field of view of 256 mm
POLARITY_SPACING_MM = (1.0, 1.0, 1.0)
SHADING_SPACING_MM = (2.0, 2.0, 2.0)  # fine enough for a local mean over centimeters
VEIN_MM = 5.0  # dark structures thinner than this count as veins
VEINS_FROM = 95  # percentile of darkness from which on they do; what is fainter is texture
EDGES_MM = 12.0, 8.0  # nearer to the brain's surface, air and bone outweigh the veins; the second one in small brains
PART_MM = 24  # the brain is judged in cubes of this size
LEAST_PARTS = 20  # of them; fewer, and the brain is small or hardly covered
SURE = 0.8  # confidence below which the measured polarity deserves a notice
# And below which the phase is not used: near 0.5 it is a toss, and the wrong sign makes microbleeds of calcifications.
# Of 142 simulated scans, ours and by eight others (docs/models.md), 136 reach it, all of them told right; of 100 phase
# images that belong to another place, 2 do.
KNOWN = 0.65


@dataclass(frozen=True, eq=False)
class PreparedPhase:
    """Phase as the detector reads it.

    Attributes
    ----------
    volume : Volume
        rad, high-pass filtered, paramagnetic positive, on the grid of the SWI. float32.
    polarity : str
        How paramagnetic tissue looked on the phase as given: ``bright`` or ``dark``.
    notice : str
        What the reader should know where the polarity was hard to tell; else empty.
    sign_is_known : bool
        False where the polarity could not be told, so that the phase is better not used.
    """

    volume: Volume
    polarity: str
    notice: str
    sign_is_known: bool


def high_pass(phase_rad: npt.NDArray, weight: npt.NDArray, ijk_to_ras: npt.NDArray[np.float64]) -> npt.NDArray:
    """Homodyne filter: the angle of the complex image over its own in-plane low-pass.

    Unwraps nothing and needs nothing unwrapped. On phase that a scanner has filtered it changes little, so it is
    always applied.

    Parameters
    ----------
    phase_rad, weight : ndarray, shape (I, J, K)
        Phase, rad, wrapped or not, and SWI or magnitude (any scale), which keeps noise out of the low-pass.
    ijk_to_ras : ndarray
        (4, 4) geometry of both. The slice axis is the one with the widest spacing.

    Returns
    -------
    ndarray
        (I, J, K) float32, rad within [-pi, pi]; the sign is kept.

    References
    ----------
    Noll et al., IEEE TMI 1991; Haacke et al., MRM 2004 (as used for SWI).
    """
    spacing_mm = np.linalg.norm(ijk_to_ras[:3, :3], axis=0)
    axes = closest_axes(ijk_to_ras[:3, :3] / spacing_mm)  # ties of spacing end the same way however stored
    slice_axis = max(axes, key=lambda axis: (round(float(spacing_mm[axis]), 3), axes.index(axis)))
    plane = [axis for axis in range(3) if axis != slice_axis]
    angles, strengths = (np.moveaxis(np.asarray(a, np.float32), slice_axis, 0) for a in (phase_rad, weight))

    frequency = [torch.fft.fftfreq(angles.shape[1 + n], float(spacing_mm[axis])) for n, axis in enumerate(plane)]
    radius = torch.hypot(frequency[0][:, None], frequency[1][None, :]) * PASS_BELOW_MM
    hann = torch.where(radius < 1, 0.5 + 0.5 * torch.cos(torch.pi * radius), 0.0)

    filtered = np.empty_like(angles)
    for k in range(len(angles)):  # slice by slice: complex images of a whole scan would be its largest arrays
        angle, strength = (torch.from_numpy(np.ascontiguousarray(array[k])) for array in (angles, strengths))
        image = torch.polar(strength.clamp(min=0), angle)
        low = torch.fft.ifft2(torch.fft.fft2(image) * hann)
        filtered[k] = (torch.polar(torch.ones_like(angle), angle) * low.conj()).angle()
    return np.moveaxis(filtered, 0, slice_axis)


def measure_polarity(phase_filtered: npt.NDArray, swi: Volume, brain: Volume) -> tuple[str, float]:
    """Whether paramagnetic tissue is bright or dark on a filtered phase image, measured on the veins.

    Thin dark structures of the SWI are taken as sources of susceptibility and the phase that they would make is
    predicted with the dipole kernel, for B0 along the scanner's axis; so veins of every direction help instead of
    canceling out. The sign of its correlation with the phase, deep inside the brain, is the polarity.

    Parameters
    ----------
    phase_filtered : ndarray, shape (I, J, K)
        rad, on the grid of `swi`.
    swi, brain : Volume
        Same grid; `brain` is a bool mask.

    Returns
    -------
    str
        ``bright`` or ``dark``.
    float
        Confidence, 0-1: how far the parts of the brain agree.
    """
    box = brain_box(brain.in_ras_order())
    dark, inside = (on_grid(crop(v, box), POLARITY_SPACING_MM) for v in (swi, brain))
    wave = crop(swi.with_array(phase_filtered), box)
    sine, cosine = (on_grid(wave.with_array(f(wave.array)), POLARITY_SPACING_MM).array for f in (np.sin, np.cos))
    angle = np.arctan2(sine, cosine)

    mask = inside.array > 0.5
    for edge_mm in EDGES_MM:
        deep = ndimage.minimum_filter(mask, size=_odd(2 * edge_mm), mode="constant")
        if block_reduce(deep, block_size=PART_MM, func=np.any).sum() >= LEAST_PARTS:
            break
    if not deep.any():
        return "bright", 0.0
    coarse = [on_grid(v, SHADING_SPACING_MM) for v in (dark, inside)]
    shading = local_mean(coarse[0].array, coarse[1].array, SHADING_SPACING_MM)
    to_dark = maps(coarse[0].ijk_to_ras, shading.shape, dark.ijk_to_ras, dark.array.shape)
    flat = np.where(mask, dark.array / apply(to_dark, shading), np.float32(1))
    veins = (ndimage.grey_closing(flat, size=_odd(VEIN_MM)) - flat) * mask
    veins[veins < np.percentile(veins[deep], VEINS_FROM)] = 0
    threads = torch.get_num_threads()
    spectrum = fft.rfftn(veins, workers=threads)
    spectrum *= _dipole(veins.shape, dark.ijk_to_ras)
    predicted = fft.irfftn(spectrum, s=veins.shape, workers=threads)

    # A true SWI is dark exactly where its mask saw paramagnetic phase, so darkness itself is a second witness.
    template = veins / max(float(veins[deep].std()), 1e-12) + predicted / max(float(predicted[deep].std()), 1e-12)
    agreement = np.where(deep, (template - template[deep].mean()) * (angle - angle[deep].mean()), 0)
    parts = block_reduce(agreement, block_size=PART_MM, func=np.sum)
    parts = parts[parts != 0]
    positive = bool(parts.sum() > 0)
    return "bright" if positive else "dark", float(((parts > 0) == positive).mean()) if parts.size else 0.0


def prepare(phase: Volume, swi: Volume, brain: Volume, polarity: str = "auto") -> PreparedPhase:
    """Phase in rad, made into what the detector reads.

    Parameters
    ----------
    phase : Volume
        rad (`phase_range.to_radians`), wrapped or filtered.
    swi, brain : Volume
        On the grid of `phase`; `brain` is a bool mask.
    polarity : str
        ``auto``, or how paramagnetic tissue looks on `phase`: ``bright`` or ``dark``.
    """
    filtered = high_pass(phase.array, swi.array, swi.ijk_to_ras)
    used, notice, confidence = polarity, "", 1.0
    if polarity == "auto":
        used, confidence = measure_polarity(filtered, swi, brain)
        if confidence < SURE:
            notice = _uncertain(used, confidence)
    if used == "dark":
        np.negative(filtered, out=filtered)
    return PreparedPhase(swi.with_array(filtered), used, notice, confidence >= KNOWN)


def _uncertain(polarity: str, confidence: float) -> str:
    """What the reader should know of a polarity that was hard to tell."""
    doubt = f"is uncertain: veins look {polarity} in only {confidence:.0%} of the brain's parts."
    if not confidence:
        doubt = "cannot be measured: too little of the inside of the brain is in the image."
    left_out = "" if confidence >= KNOWN else " So the phase was not used."
    return f"The sign of the phase {doubt}{left_out} Look at a vein on the phase image and set the polarity by hand."


def _dipole(shape: tuple[int, ...], ijk_to_ras: npt.NDArray[np.float64]) -> npt.NDArray:
    """1/3 - k_z^2 / k^2 on the half grid of rfftn; z is B0, the scanner's superior axis."""
    spacing_mm = np.linalg.norm(ijk_to_ras[:3, :3], axis=0)
    b0 = ijk_to_ras[2, :3] / spacing_mm
    k = [fft.fftfreq(n, s) for n, s in zip(shape[:2], spacing_mm[:2], strict=True)]
    k.append(fft.rfftfreq(shape[2], spacing_mm[2]))
    mesh = np.meshgrid(*(axis.astype(np.float32) for axis in k), indexing="ij", sparse=True)
    squared = sum(axis**2 for axis in mesh)
    along = sum(axis * np.float32(cosine) for axis, cosine in zip(mesh, b0, strict=True))
    kernel = np.float32(1 / 3) - along**2 / np.maximum(squared, np.float32(1e-12))
    kernel[0, 0, 0] = 0
    return kernel


def _odd(length_mm: float) -> int:
    """Odd number of voxels of `POLARITY_SPACING_MM` that spans a length."""
    return int(length_mm / POLARITY_SPACING_MM[0]) // 2 * 2 + 1
