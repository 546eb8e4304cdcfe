"""Planes cut from a volume for pictures: true to scale in mm, in radiological orientation, as gray values 0-255."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from CMBDetectorLib.volume import Volume

Gray = npt.NDArray[np.uint8]
Window = tuple[float, float]  # the values shown black and white
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class View:
    """One of the three anatomical planes as it is shown on a screen.

    Attributes
    ----------
    name : str
        axial, coronal or sagittal.
    across, up, through : int
        The body axis (0 R, 1 A, 2 S) that runs across, up and out of the picture.
    left_letter, top_letter : str
        Side of the patient at the picture's left and upper edge.
    """

    name: str
    across: int
    up: int
    through: int
    left_letter: str
    top_letter: str


# Across always runs against the axis: the patient's left and back are on the right of the picture.
AXIAL = View("axial", 0, 1, 2, "R", "A")
CORONAL = View("coronal", 0, 2, 1, "R", "S")
SAGITTAL = View("sagittal", 1, 2, 0, "A", "S")
VIEWS = (AXIAL, CORONAL, SAGITTAL)


def swi_window(swi: Volume, regions: Volume) -> Window:
    """Span the darkest to the brightest half percent of the brain, and at least 0.5-1.3 times its median.

    The median keeps the noise of a brain with little contrast from filling the window.
    """
    low, median, high = np.percentile(_brain_values(swi, regions), (0.5, 50, 99.5))
    low, high = min(low, 0.5 * median), max(high, 1.3 * median)
    return float(low), max(float(high), float(low) + 1e-6)


def phase_window(phase: Volume, regions: Volume) -> Window:
    """Reach equally far to both sides of the median, so that the two signs of the phase look alike."""
    values = _brain_values(phase, regions)
    middle = float(np.median(values))
    reach = max(float(np.percentile(np.abs(values - middle), 99)), 1e-6)
    return middle - reach, middle + reach


def _brain_values(volume: Volume, regions: Volume) -> Values:
    """Sample `volume`, on whatever grid, at some 50,000 places in the brain, if there is one."""
    inside = np.flatnonzero(regions.array) if regions.array.any() else np.arange(regions.array.size)
    inside = inside[:: 1 + len(inside) // 50_000]
    ijk = np.stack(np.unravel_index(inside, regions.array.shape), axis=-1)
    nearest = np.rint(volume.ijk_of(regions.ras_of(ijk))).astype(int)
    nearest = nearest[((nearest >= 0) & (nearest < volume.array.shape)).all(axis=1)]
    values = volume.array[tuple(nearest.T)] if len(nearest) else volume.array.ravel()
    return np.asarray(values, float)


def brain_box(regions: Volume) -> tuple[Values, Values]:
    """Find the first and last voxel index (3,) of the regions along each axis; of the whole grid when all are 0."""
    inside = regions.array > 0
    shadows = [np.flatnonzero(inside.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    if not shadows[0].size:
        return np.zeros(3), np.array(inside.shape) - 1.0
    return np.array([float(shadow[0]) for shadow in shadows]), np.array([float(shadow[-1]) for shadow in shadows])


def body_axes(volume: Volume) -> Values:
    """Return (3, 3): rows are the unit vectors, in RAS, of the scan's own axes that run closest to R, A and S.

    Pictures follow the scan's axes rather than the scanner's, so an oblique scan is shown slice by slice as acquired.
    """
    ordered = volume.in_ras_order()
    return (ordered.ijk_to_ras[:3, :3] / ordered.spacing_mm).T


def plane(
    volume: Volume,
    center_ras_mm: npt.ArrayLike,
    view: View,
    axes: Values,
    *,
    width_mm: float,
    pixels: int,
    order: int = 3,
) -> Values:
    """Cut a square plane through a point, interpolated to equal pixels in both directions.

    Parameters
    ----------
    volume : Volume
        Any grid.
    center_ras_mm : array_like
        (3,) the point at the middle of the picture.
    view : View
        The plane.
    axes : ndarray
        (3, 3) from `body_axes` of the scan whose planes are shown.
    width_mm, pixels : float, int
        Side of the square.
    order : int
        Of the spline; 1 keeps the jumps of wrapped phase from ringing.

    Returns
    -------
    ndarray
        (pixels, pixels), first row on top; NaN outside the volume.
    """
    return _slab(volume, center_ras_mm, view, axes, width_mm, pixels, np.zeros(1), order)[..., 0]


def minimum_slab(
    volume: Volume,
    center_ras_mm: npt.ArrayLike,
    view: View,
    axes: Values,
    *,
    width_mm: float,
    pixels: int,
    thickness_mm: float,
) -> Values:
    """Take the minimum over a slab (minIP): veins run on through it, a microbleed stays round. Else as `plane`."""
    offsets_mm = np.arange(-thickness_mm / 2, thickness_mm / 2 + 0.5, 1.0)
    # Order 1: a spline falls below the values it runs through, and a minimum would collect just that.
    slab = _slab(volume, center_ras_mm, view, axes, width_mm, pixels, offsets_mm, order=1)
    return np.fmin.reduce(slab, axis=-1)  # ignores NaN beyond the first and last slice


def _slab(
    volume: Volume,
    center_ras_mm: npt.ArrayLike,
    view: View,
    axes: Values,
    width_mm: float,
    pixels: int,
    offsets_mm: Values,
    order: int,
) -> Values:
    """Cut parallel planes, `offsets_mm` (evenly spaced) from the point: (pixels, pixels, planes), NaN outside."""
    pixel_mm, first_mm = width_mm / pixels, (1 / pixels - 1) * width_mm / 2
    gap_mm = offsets_mm[1] - offsets_mm[0] if len(offsets_mm) > 1 else 0.0
    steps_mm = np.stack([-axes[view.up] * pixel_mm, -axes[view.across] * pixel_mm, axes[view.through] * gap_mm])
    corner_mm = center_ras_mm - (axes[view.up] + axes[view.across]) * first_mm + axes[view.through] * offsets_mm[0]
    to_ijk, start = np.linalg.inv(volume.ijk_to_ras[:3, :3]) @ steps_mm.T, volume.ijk_of(corner_mm)

    shape, last = (pixels, pixels, len(offsets_mm)), np.array(volume.array.shape) - 1
    corners = start + np.stack(np.meshgrid(*([0, n - 1] for n in shape), indexing="ij"), -1).reshape(-1, 3) @ to_ijk.T
    # Only the block around the planes is filtered: a whole scan would cost a second per tile.
    margin = 4
    low = np.clip(np.floor(corners.min(axis=0)).astype(int) - margin, 0, last)
    high = np.clip(np.ceil(corners.max(axis=0)).astype(int) + margin, low, last) + 1
    block = volume.array[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    values = ndimage.affine_transform(block, to_ijk, start - low, shape, float, order, mode="nearest")
    if (corners < -0.5).any() or (corners > last + 0.5).any():
        ijk = start + np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1) @ to_ijk.T
        values[((ijk < -0.5) | (ijk > last + 0.5)).any(axis=-1)] = np.nan
    return values


def gray(values: Values, window: Window) -> Gray:
    """Map values to 0-255 through a window; NaN is black."""
    low, high = window
    scaled = np.clip((values - low) / (high - low), 0, 1)
    return np.rint(np.nan_to_num(scaled) * 255).astype(np.uint8)
