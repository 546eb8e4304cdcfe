"""What keeps the regions found from the true ones: where tissue ends, which region it is, or the network's grid."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from CMBDetectorLib.evaluation.overlap import compare
from CMBDetectorLib.preprocessing import SEGMENTER_SPACING_MM
from CMBDetectorLib.regions import SUB_REGIONS, Region
from CMBDetectorLib.resampling import apply, grid, maps
from CMBDetectorLib.volume import Volume

FINE_MM = 0.7  # in plane: of a finer scan every second voxel tells as much, in a quarter of the time
TRUE_TISSUE = "true tissue, regions found"
TRUE_REGIONS = "tissue found, true regions"
BY_SHARES = "true map, as shares on the network's grid"
BY_NEAREST = "true map, by the nearest voxel of the network's grid"

Labels = npt.NDArray[np.uint8]


def dice_at_best(found: Volume, true: Volume) -> dict[str, dict[str, float]]:
    """Dice of the group regions if one thing were perfect.

    Parameters
    ----------
    found, true : Volume
        MARS labels on one grid, that of the scan.

    Returns
    -------
    dict of dict of float
        By what is compared with the true map, by group region. The regions found, in the true tissue, and the true
        regions, in the tissue found: a voxel that has none takes that of the nearest one that has (of fine scans every
        second voxel in plane). And the true map itself after it was on the network's grid, as shares of every region
        or, as it is taught, by the nearest voxel.
    """
    found, true = found.in_ras_order(), true.in_ras_order()
    step = [max(1, round(FINE_MM / mm)) for mm in true.spacing_mm[:2]]
    a, b = (volume.array[:: step[0], :: step[1]].astype(np.uint8) for volume in (found, true))
    spacing_mm = true.spacing_mm * [*step, 1]
    groups = _groups(true.array.astype(np.uint8))
    on_grid = [_through_grid(groups, true, by_nearest) for by_nearest in (False, True)]
    compared = {
        TRUE_TISSUE: (_everywhere(a, spacing_mm) * (b > 0), b),
        TRUE_REGIONS: (_everywhere(b, spacing_mm) * (a > 0), b),
    }
    compared |= {BY_SHARES: (on_grid[0], groups), BY_NEAREST: (on_grid[1], groups)}
    names = [region.value for region in Region]
    every = {words: compare(seen, truth)[0] for words, (seen, truth) in compared.items()}
    return {words: {name: dice[name] for name in names if name in dice} for words, dice in every.items()}


def _everywhere(labels: Labels, spacing_mm: npt.NDArray[np.float64]) -> Labels:
    """Label map in which each voxel without a label has that of the nearest one with."""
    if not labels.any():
        return labels
    nearest = ndimage.distance_transform_edt(
        labels == 0, sampling=spacing_mm, return_distances=False, return_indices=True
    )
    filled: Labels = labels[tuple(nearest)]
    return filled


def _groups(labels: Labels) -> Labels:
    """Label map with one MARS label, the first, for all of a group region."""
    first = {region: next(sub.label for sub in SUB_REGIONS if sub.region is region) for region in Region}
    of = np.array([0, *(first[sub.region] for sub in SUB_REGIONS)], np.uint8)
    grouped: Labels = of[labels]
    return grouped


def _through_grid(labels: Labels, scan: Volume, by_nearest: bool) -> Labels:
    """Label map on the scan's grid after the network's could have told it."""
    shape, matrix = grid(scan, SEGMENTER_SPACING_MM)
    there = maps(scan.ijk_to_ras, labels.shape, matrix, shape)
    back = maps(matrix, shape, scan.ijk_to_ras, labels.shape)
    nearest = np.ix_(*(weights.argmax(dim=1).numpy() for weights in there))
    best, highest = np.zeros(labels.shape, np.uint8), np.zeros(labels.shape, np.float32)
    for label in np.unique(labels):
        is_it = (labels == label).astype(np.float32)
        share = apply(back, is_it[nearest] if by_nearest else apply(there, is_it))
        best[share > highest] = label
        np.maximum(highest, share, out=highest)
    return best
