"""What the detector should answer in every cell of a crop, and the plain U-Net in every voxel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from CMBDetectorLib.networks.anchors import ANCHORS_MM, axes_mm, best_anchor, cell_centers_mm, encode
from CMBDetectorLib.networks.plain_unet import STRIDE

NEGATIVE, POSITIVE, IGNORED = 0, 1, -1

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Lesions:
    """Lesions of one crop.

    Attributes
    ----------
    center_mm : ndarray, shape (N, 3)
        From the center of the crop's voxel 0 along R, A, S.
    diameter_mm : ndarray, shape (N,)
        Apparent diameter on SWI.
    counts : ndarray, shape (N,), bool
        False for those that are neither taught nor punished: faint, or outside the crop.
    """

    center_mm: npt.NDArray[np.float64]
    diameter_mm: npt.NDArray[np.float64]
    counts: npt.NDArray[np.bool_]

    @property
    def present(self) -> bool:
        """Whether any lesion counts."""
        return bool(self.counts.any())


def assign(shape: tuple[int, int, int], lesions: Lesions) -> tuple[npt.NDArray[np.int8], Array, Array]:
    """Objectness and boxes for the cells of a crop (ours; the paper does not publish its rule).

    A lesion teaches the anchor whose size is closest, in cells whose centers are within max(1.8 mm, 0.35 d) of its
    own, at least the nearest; cells within max(4 mm, 0.5 d + 2.5 mm) are ignored on every other anchor and place;
    all others are negative. Where lesions overlap the nearest one wins.

    Parameters
    ----------
    shape : tuple of int
        Output cells (r, a, s).
    lesions : Lesions

    Returns
    -------
    label : ndarray, shape (3, r, a, s), int8
        `NEGATIVE`, `POSITIVE` or `IGNORED`.
    boxes : ndarray, shape (3, 4, r, a, s), float32
        Zero where the label is not `POSITIVE`.
    weight : ndarray, shape (3, r, a, s), float32
        Of the positive cells: those of one lesion share 1, however many it has.
    """
    cell_mm = cell_centers_mm(shape)
    label = np.full((len(ANCHORS_MM), *shape), NEGATIVE, np.int8)
    boxes = np.zeros((len(ANCHORS_MM), 4, *shape), np.float32)
    weight = np.zeros(label.shape, np.float32)
    distances_mm = [np.linalg.norm(cell_mm - center, axis=-1) for center in lesions.center_mm]
    for distance_mm, diameter_mm in zip(distances_mm, lesions.diameter_mm, strict=True):
        label[:, distance_mm <= max(4.0, 0.5 * diameter_mm + 2.5)] = IGNORED
    nearest_mm = np.min(distances_mm, axis=0, initial=np.inf) if distances_mm else np.full(shape, np.inf)
    for n in np.flatnonzero(lesions.counts):
        center_mm, diameter_mm, distance_mm = lesions.center_mm[n], lesions.diameter_mm[n], distances_mm[n]
        radius_mm = max(1.8, 0.35 * diameter_mm, float(distance_mm.min()))
        cells = (distance_mm <= radius_mm) & (distance_mm <= nearest_mm)
        anchor = best_anchor(diameter_mm)
        label[anchor, cells] = POSITIVE
        weight[anchor, cells] = 1 / max(int(np.count_nonzero(cells)), 1)
        boxes[anchor][:, cells] = encode(center_mm, diameter_mm, cell_mm[cells], anchor).T
    return label, boxes, weight


def balls(shape: tuple[int, int, int], lesions: Lesions) -> npt.NDArray[np.int8]:
    """Mask of a crop for the plain U-Net: balls of the apparent diameter, at least one voxel each.

    Parameters
    ----------
    shape : tuple of int
        Voxels (r, a, s) of 1 mm.
    lesions : Lesions
        Those that do not count are `IGNORED` with 2.5 mm around them, but not where another one is `POSITIVE`.

    Returns
    -------
    ndarray, shape (r, a, s), int8
    """
    mask = np.full(shape, NEGATIVE, np.int8)
    for n in np.argsort(lesions.counts, kind="stable"):  # those that count come last and prevail
        r, a, s = (axis - mm for axis, mm in zip(axes_mm(shape, STRIDE), lesions.center_mm[n], strict=True))
        distance_mm = np.sqrt(r[:, None, None] ** 2 + a[:, None] ** 2 + s**2)
        radius_mm = 0.5 * lesions.diameter_mm[n]
        if lesions.counts[n]:
            mask[distance_mm <= max(radius_mm, float(distance_mm.min()))] = POSITIVE
        else:
            mask[distance_mm <= radius_mm + 2.5] = IGNORED
    return mask
