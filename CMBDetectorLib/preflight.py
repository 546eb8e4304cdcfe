"""Is this pair of images usable? Every answer is one sentence: which file, which value, what to do.

What cannot be searched is refused (`InputError`). What is only doubtful is refused too, until the reader says to search
it all the same: SWI differ much between scanners, and the reader knows more than these rules.

================================================  =======================================================
refused                                           refused unless told to search all the same (``force``)
================================================  =======================================================
fewer than 8 slices, constant                     slices thicker than 5 mm (over 10 mm: refused)
spacing 0, negative or impossible, head too       less than 80 mm of the head covered (under 40 mm: refused)
small or too large for a head
NaN inside the head                               slices that are coronal or sagittal
SWI and phase swapped, phase as SWI, CT,          brightness varies in the brain as on T1 and T2
segmentation, spin echo, inversion recovery, minIP
phase of an unknown range, from another place
================================================  =======================================================

Only told: NaN around the head or in a few voxels; phase missing, read in an assumed range, or resampled.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from CMBDetectorLib.errors import DoubtfulInputError, InputError
from CMBDetectorLib.phase_range import to_radians
from CMBDetectorLib.volume import Volume

SPACING_MM = (0.05, 20.0)  # what any head scan has
THICK_MM, TOO_THICK_MM = 5.0, 10.0  # microbleeds are 2-10 mm
AXIAL = 1.5  # voxels that much longer along R or A than along both other axes are no axial slices
COVERED_MM, LEAST_COVERED_MM = 80.0, 40.0  # a brain is 110-140 mm high
HEAD_MM = (100.0, 280.0)  # width and length of a head, with or without skull, lie well within
ENCLOSED_SHARE = 1e-4  # share of voxels that may be repaired inside the head
SAME_GRID_VOXEL = 0.1  # grids count as the same when no corner is farther off, in voxels
OVERLAP = 0.9  # share of the SWI that the phase must cover
SHORTEST_ECHO_MS = 5.0  # below this, no field strength gives susceptibility weighting
PHASE_RANGES = (1, 2 * np.pi, 255, 360, 1023, 4095, 65535)  # of phase stored without a sign
COARSE_MM = 3.0  # at which the head is outlined
SMOOTH = 0.01  # of the range: how far from its median much of smooth air lies at most
LABELS = 20  # an image of gray values has more levels
SHADING_MM, CONTRAST, DARK_CONTRAST = 15.0, 0.35, 0.21  # see `_contrast_doubt`


Outline = tuple[npt.NDArray, npt.NDArray[np.float64], npt.NDArray[np.bool_]]  # `_outline`


@dataclass(frozen=True, eq=False)
class Preflight:
    """A pair that can be searched.

    Attributes
    ----------
    swi : Volume
        As given; background that was not a number is 0.
    phase : Volume or None
        rad, float32, on the grid of `swi`; as wrapped or filtered, and of the sign, as the scanner stored it.
    notices : tuple of str
        What is worth telling, in plain sentences.
    """

    swi: Volume
    phase: Volume | None
    notices: tuple[str, ...]


def check(swi: Volume, phase: Volume | None, *, force: bool = False) -> Preflight:
    """Check a pair and bring it onto one grid.

    Parameters
    ----------
    swi : Volume
        Susceptibility-weighted image, any grid and scale.
    phase : Volume or None
        Phase image of the same scan, in any range that `CMBDetectorLib.phase_range.to_radians` knows.
    force : bool
        Search a doubtful image all the same; the doubts become notices.

    Raises
    ------
    InputError
        An image cannot be used; the message says which, why, and what to do.
    DoubtfulInputError
        An image is doubtful and `force` is not set.
    """
    swi, notices = _usable(swi, "the SWI")
    if phase is not None:
        phase, more = _usable(phase, "the phase image")
        notices += more
    _refuse_wrong_kind(swi, phase)
    outline, doubts = _check_head(swi)
    assumed = moved = ""
    if phase is not None:
        phase, assumed = to_radians(phase)
        phase, moved = _onto_grid(phase, swi)
    doubts += _contrast_doubt(_name(swi, "the SWI"), *outline, of_one_scan=phase is not None and not moved)
    if doubts and not force:
        raise DoubtfulInputError(doubts[0])
    notices += doubts
    if phase is None:
        notices.append(
            "There is no phase image: calcifications cannot be told from microbleeds, so more candidates are false."
        )
    notices += [notice for notice in (assumed, moved) if notice]
    return Preflight(swi, phase, tuple(notices))


def _name(volume: Volume, role: str) -> str:
    return Path(volume.source).name or role


def _usable(volume: Volume, role: str) -> tuple[Volume, list[str]]:
    """Check what holds for both images: shape, spacing, finite and differing values."""
    name = _name(volume, role)
    shape = " x ".join(map(str, volume.array.shape))
    if volume.array.ndim != 3 or min(volume.array.shape) < 8:
        raise InputError(f"{name} has {shape} voxels. Give one whole 3D image.")
    spacing = " x ".join(f"{mm:g}" for mm in volume.spacing_mm.round(4))
    least, most = SPACING_MM
    possible = np.all((least <= volume.spacing_mm) & (volume.spacing_mm <= most))  # False for NaN
    if not possible or abs(np.linalg.det(volume.ijk_to_ras[:3, :3] / volume.spacing_mm)) < 0.9:
        raise InputError(f"{name} says its voxels are {spacing} mm, which no head scan has. Export it again.")

    volume, notice = _without_nan(volume, name)
    low, high = float(volume.array.min()), float(volume.array.max())
    if low == high:
        raise InputError(f"{name} shows nothing: every voxel is {low:g}. Choose another image.")
    return volume, [*volume.notices, *notice]


def _without_nan(volume: Volume, name: str) -> tuple[Volume, list[str]]:
    """Replace what is not a number, where that cannot make a false microbleed.

    Around a masked brain, NaN is what some programs write for background, and 0 says the same. Inside, a 0 would be
    a dark dot, so a few voxels are interpolated from their neighbors and more are refused.
    """
    bad = ~np.isfinite(volume.array)
    if not bad.any():
        return volume, []
    if bad.all():
        raise InputError(f"{name} is empty: no voxel is a number. Choose another image.")
    parts, _ = ndimage.label(bad, np.ones((3, 3, 3)))
    faces = [np.unique(np.take(parts, (0, -1), axis)) for axis in range(3)]
    enclosed = bad & ~np.isin(parts, np.concatenate(faces))
    if enclosed.mean() > ENCLOSED_SHARE:
        raise InputError(
            f"{name} has {enclosed.sum()} voxels inside the head that are not numbers (NaN or infinite). "
            "Export it again, or without the step that made them."
        )
    array = np.ascontiguousarray(np.where(bad, np.float32(0), volume.array))  # so that reshape gives a view
    flat = array.reshape(-1)
    good, holes = np.flatnonzero(~bad.ravel()), np.flatnonzero(enclosed.ravel())
    flat[holes] = np.interp(holes, good, flat[good])
    return volume.with_array(array), [
        f"{name} has {bad.sum()} voxels that are not numbers (NaN or infinite); they were read as background"
        + (f", {holes.size} of them inside the head from their neighbors." if holes.size else ".")
    ]


def _refuse_wrong_kind(swi: Volume, phase: Volume | None) -> None:
    """Refuse what is surely no SWI or no phase image, by what the scanner wrote and by robust signs in the values."""
    name = _name(swi, "the SWI")
    instead = "Choose the SWI."
    if said := swi.acquisition:
        if said.modality not in ("", "MR"):
            raise InputError(f"{name} is a {said.modality} image, not MR. {instead}")
        kinds = set(said.sequence.split("\\"))
        if kinds & {"SE", "IR"}:
            kind = "an inversion recovery" if "IR" in kinds else "a spin echo"
            raise InputError(f"{name} is {kind} image ({said.series or said.sequence}), not SWI. {instead}")
        if said.echo_time_ms is not None and 0 < said.echo_time_ms < SHORTEST_ECHO_MS:
            raise InputError(f"{name} has an echo time of {said.echo_time_ms:g} ms, too short for SWI. {instead}")
        if re.search(r"\bMNIP\b|MIN_?IP|MIP_IMAGES", f"{said.image_type} {said.series}".upper()):
            raise InputError(f"{name} is a minimum intensity projection ({said.series}). Choose the SWI behind it.")
    if (values := np.unique(_sample(swi.array)).size) <= LABELS:
        raise InputError(f"{name} has only {values} different values: it looks like a segmentation. {instead}")
    if _looks_like_ct(swi.array):
        raise InputError(f"{name} looks like CT: air is at -1000. {instead}")
    if _looks_like_phase(swi.array):
        if phase is not None and not _looks_like_phase(phase.array):
            other = _name(phase, "the phase image")
            raise InputError(f"{name} looks like phase and {other} like SWI: they are swapped. Exchange the two.")
        raise InputError(f"{name} looks like phase, or like an image normalized around zero. {instead}")
    if phase is not None and not _looks_like_phase(phase.array):
        name = _name(phase, "the phase image")
        raise InputError(f"{name} looks like SWI or magnitude, not like phase. Choose the phase image, or give none.")


def _looks_like_ct(array: npt.NDArray) -> bool:
    """Air near -1000 HU and soft tissue near 0 to 100 HU, each a good part of the image; no phase has both peaks."""
    values = _sample(array)
    air, tissue = (values > -1100) & (values < -900), (values > -20) & (values < 120)
    return bool(air.mean() > 0.1 and tissue.mean() > 0.05)


def _looks_like_phase(array: npt.NDArray) -> bool:
    """Whether an image is phase rather than SWI or magnitude, in any range, filtered or not, masked or not.

    Magnitude has dark and quiet air, and background at the low end of its values. Phase has one of these instead:
    air that is noise over the whole range, interpolated or not; values on both sides of the background; both ends of
    the range equally full (wraps); air that a filter left smooth in the middle of the range, with values on both sides
    of it; or, where a filtered image with an offset is masked to 0, tissue closely around the middle of a range.
    """
    values = _sample(array)
    low, high = np.percentile(values, (0.1, 99.9))
    far = [np.abs(np.linspace(-1, 1, n)) > 0.85 for n in values.shape]
    air = far[0][:, None, None].astype(np.int8) + far[1][:, None] + far[2] >= 2  # along the 12 edges of the image
    steps = np.abs(np.diff(values, axis=0))[air[1:] & air[:-1]]
    if np.median(steps) > 0.12 * (high - low):  # 0.29 for uniform noise, 0.02 for magnitude
        return True

    levels, counts = np.unique(values[air], return_counts=True)
    masked = counts.max() > 0.3 * air.sum()
    background = levels[counts.argmax()] if masked else 0.0
    inside = values[values != background] if masked else values.ravel()
    if inside.size < 1000:
        return False
    level = np.diff(np.unique(values)).min()
    # Masked phase may lean to one side (one scan: 9 % on the lesser one); magnitude has nothing below its background.
    aside = max(0.02 * (high - low), 2.5 * level)  # the air of coarse integers has a few levels around its own
    if min(np.mean(inside < background - aside), np.mean(inside > background + aside)) > 0.05:
        return True
    air_level, smooth = np.median(values[air]), SMOOTH * (high - low)
    is_in_the_middle = abs(air_level - (low + high) / 2) < 0.1 * (high - low)
    eighths = np.histogram(values[air], 8, (low, high))[0] / air.sum()
    if not masked and is_in_the_middle and eighths.min() > 0.04:  # noise that was interpolated goes in small steps
        return True
    if not masked and is_in_the_middle and np.mean(np.abs(values[air] - air_level) < smooth) > 0.4:
        beside = (values - air_level)[np.abs(values - air_level) > smooth]
        if min(np.mean(beside < -aside), np.mean(beside > aside)) > 0.05:
            return True
    margin = 0.05 * np.ptp(inside)
    ends = np.mean(inside < inside.min() + margin), np.mean(inside > inside.max() - margin)
    quiet = not masked and air_level < low + 0.25 * (high - low)
    if not quiet and min(ends) > 0.02 and max(ends) < 3 * min(ends):
        return True
    first, middle, third = np.percentile(inside, (25, 50, 75))
    whole = next((scale for scale in PHASE_RANGES if inside.max() <= scale), np.inf)
    return bool(abs(middle - whole / 2) < 0.03 * whole and third - first < 0.12 * middle)  # SWI: over 0.18


def _sample(array: npt.NDArray) -> npt.NDArray[np.float32]:
    """Take about 500,000 voxels, neighbors along the first axis kept."""
    step = max(1, round((array.size / 5e5) ** 0.5))
    return np.asarray(array[:, ::step, ::step], np.float32)


def _check_head(swi: Volume) -> tuple[Outline, list[str]]:
    """Check that the image holds most of a head, in voxels that can show a microbleed; give its outline and doubts."""
    name = _name(swi, "the SWI")
    ras = swi.in_ras_order()
    coarse, spacing_mm, head = _outline(ras)
    width, length, height = (
        np.ptp(np.flatnonzero(head.any(axis=tuple({0, 1, 2} - {axis})))) * spacing_mm[axis] + spacing_mm[axis]
        for axis in range(3)
    )
    least, most = HEAD_MM
    if min(width, length) < least or max(width, length) > most:
        raise InputError(
            f"The head in {name} is {width:.0f} mm wide and {length:.0f} mm long, which no head is. "
            "Export it with the right spacing, and whole."
        )
    if height < LEAST_COVERED_MM:
        raise InputError(f"{name} covers only {height:.0f} mm of the head from bottom to top. Give the whole brain.")
    thickness = max(float(swi.spacing_mm.max()), (swi.acquisition and swi.acquisition.slice_thickness_mm) or 0.0)
    if thickness > TOO_THICK_MM:
        raise InputError(f"{name} has slices of {thickness:.3g} mm, too thick for microbleeds. Give 5 mm or thinner.")

    doubts = []
    if height < COVERED_MM:
        doubts.append(f"{name} covers only {height:.0f} mm of the head's height; the regions named may be wrong.")
    if thickness > THICK_MM:
        doubts.append(f"{name} has slices of {thickness:.3g} mm; over 5 mm, small microbleeds are missed.")
    across = int(ras.spacing_mm.argmax())
    if across != 2 and ras.spacing_mm[across] > AXIAL * np.delete(ras.spacing_mm, across).max():
        kind = ("sagittal", "coronal")[across]
        doubts.append(
            f"{name} has {kind} slices; the networks saw axial ones alone, so they may miss microbleeds and more "
            "candidates are false."
        )
    return (coarse, spacing_mm, head), doubts


def _outline(swi: Volume) -> Outline:
    """Give the image in blocks of about 3 mm, their size in mm, and which are head (or brain), holes filled."""
    block = np.maximum(1, np.round(COARSE_MM / swi.spacing_mm)).astype(int)
    coarse = np.asarray(swi.array, np.float32)
    for axis, size in enumerate(block):
        starts = np.arange(0, coarse.shape[axis] - size + 1, size)  # the last block takes what is left over
        sizes = np.diff(starts, append=coarse.shape[axis])
        coarse = np.add.reduceat(coarse, starts, axis) / np.expand_dims(sizes, tuple({0, 1, 2} - {axis}))
    bright = np.pad(coarse > 0.2 * np.percentile(coarse, 95), 3)
    closed = ndimage.binary_closing(bright, iterations=2)[3:-3, 3:-3, 3:-3]
    parts, _ = ndimage.label(closed)
    largest = parts == np.argmax(np.bincount(parts.ravel(), weights=closed.ravel()))
    head = np.stack([ndimage.binary_fill_holes(largest[:, :, k]) for k in range(largest.shape[2])], axis=2)
    return coarse, swi.spacing_mm * block, head


def _contrast_doubt(
    name: str, coarse: npt.NDArray, spacing_mm: npt.NDArray, head: npt.NDArray[np.bool_], *, of_one_scan: bool
) -> list[str]:
    """Say when brightness varies in the brain as on T1 and T2, where gray, white matter and fluid stand apart.

    Measured are blocks of 3 mm over their local mean, more than 20 mm inside the head's outline and 20 to 85 mm below
    its top. On T1 gray matter and fluid are dark: the 20th percentile lay 23 % or more below the median in 27 images of
    T1 contrast from nine heads, 19 % or less in 105 simulated SWI, shaded, sharpened, stripped ones and ones with very
    bright fluid among them; a hemorrhage or ventricles that fill a fifth of the part measured would reach it, too.
    Fluid as bright as on T2 some SWI have: the interquartile range was 0.07 to 0.76 there and from 0.31 on with T2
    contrast. So it is heard only where no phase on the same grid suggests that the scan is a gradient echo
    (`of_one_scan`). Weak T1, many T2 with such a phase, and FLAIR are not told apart.
    """
    padded = np.pad(head, ((1, 1), (1, 1), (0, 0)))
    slices = [ndimage.distance_transform_edt(padded[:, :, k], sampling=spacing_mm[:2]) for k in range(head.shape[2])]
    depth = np.stack(slices, axis=2)[1:-1, 1:-1]
    below_top = (np.flatnonzero(head.any((0, 1))).max() - np.arange(head.shape[2])) * spacing_mm[2]
    deep = (depth > 20) & (below_top > 20) & (below_top < 85)
    if not deep.any():
        return []
    sigma = SHADING_MM / spacing_mm
    share = np.maximum(ndimage.gaussian_filter(deep.astype(np.float32), sigma), 1e-3)
    local = ndimage.gaussian_filter(np.where(deep, coarse, 0), sigma) / share
    relative = (coarse / np.maximum(local, 1e-6))[deep]
    dark, first, third = np.percentile(relative, (20, 25, 75)) / max(np.median(relative), 1e-6)
    if 1 - dark >= DARK_CONTRAST:
        said = f"a fifth of the brain is darker than its median by {1 - dark:.0%} or more."
    elif not of_one_scan and (spread := third - first) >= CONTRAST:
        said = f"its brightness varies by {spread:.0%}. If it is SWI, give its phase image on the same grid."
    else:
        return []
    return [f"{name} has the contrast of T1 or T2: {said}"]


def _onto_grid(phase: Volume, swi: Volume) -> tuple[Volume, str]:
    """Bring phase, rad, onto the grid of the SWI: by permuting axes where that is all, else by interpolation."""
    to_phase = np.linalg.inv(phase.ijk_to_ras) @ swi.ijk_to_ras
    turn = np.round(to_phase[:3, :3]).astype(int)
    if all(np.all(np.abs(turn).sum(axis) == 1) for axis in (0, 1)):  # axes permuted and flipped at most
        turned = np.transpose(phase.array, np.abs(turn).argmax(axis=0))
        turned = np.flip(turned, tuple(np.flatnonzero(turn.sum(axis=0) < 0)))
        corners = np.stack(np.meshgrid(*([0, n - 1] for n in swi.array.shape), indexing="ij"), -1)
        last = np.array(phase.array.shape) - 1
        expected = corners @ turn.T + np.where(turn.sum(axis=1) < 0, last, 0)
        apart = np.abs(corners @ to_phase[:3, :3].T + to_phase[:3, 3] - expected).max()
        if turned.shape == swi.array.shape and apart < SAME_GRID_VOXEL:
            return replace(phase, array=turned, ijk_to_ras=swi.ijk_to_ras), ""

    name = _name(phase, "the phase image")
    frames = {volume.acquisition.frame_of_reference for volume in (swi, phase) if volume.acquisition} - {""}
    grid = np.stack(np.meshgrid(*(np.linspace(0, n - 1, 24) for n in swi.array.shape), indexing="ij"), -1)
    there = phase.ijk_of(swi.ras_of(grid))
    covered = float(np.mean(np.all((there > -0.5) & (there < np.array(phase.array.shape) - 0.5), axis=-1)))
    if len(frames) > 1 or covered < OVERLAP:
        raise InputError(
            f"{name} covers {covered:.0%} of {_name(swi, 'the SWI')}"
            + (", in another frame of reference. " if len(frames) > 1 else ". ")
            + "Give the phase image of the same scan."
        )
    # Phase jumps from pi to -pi between neighbors; interpolated as a number it would invent values in between,
    # so the point on the unit circle is interpolated, which has no jump.
    circle = np.exp(np.complex64(1j) * phase.array)
    moved = ndimage.affine_transform(circle, to_phase[:3, :3], to_phase[:3, 3], swi.array.shape, order=1)
    resampled = replace(phase, array=np.angle(moved), ijk_to_ras=swi.ijk_to_ras)
    return resampled, f"{name} lies on another grid than {_name(swi, 'the SWI')} and was resampled."
