"""How well two maps of MARS regions agree: Dice and volumes, per region."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from CMBDetectorLib.regions import SUB_REGIONS, Region

TISSUE = "tissue"

Labels = npt.NDArray[np.integer]


def compare(found: Labels, truth: Labels) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    """Compare two label maps, by MARS sub-region and by group region.

    Parameters
    ----------
    found, truth : ndarray of int
        MARS labels (0-13) on one grid.

    Returns
    -------
    dice : dict of float
        By name of the region, and of all `TISSUE`. Regions that the truth lacks are left out, here and below.
    in_tissue : dict of float
        Dice of each group region among the voxels that are tissue in both maps.
    volume_error : dict of float
        Volume found over the true one, minus 1, of each group region.
    """
    count = len(SUB_REGIONS) + 1
    joint = np.bincount(truth.astype(np.int64).ravel() * count + found.ravel(), minlength=count**2)
    joint = joint.reshape(count, count)  # rows: truth
    parts = {region.value: [sub.label for sub in SUB_REGIONS if sub.region is region] for region in Region}
    dice, in_tissue, volume_error = {}, {}, {}
    every = {**parts, **{sub.name: [sub.label] for sub in SUB_REGIONS}, TISSUE: list(range(1, count))}
    for name, labels in every.items():
        both = int(joint[np.ix_(labels, labels)].sum())
        true, seen = int(joint[labels].sum()), int(joint[:, labels].sum())
        if not true:
            continue
        dice[name] = 2 * both / (true + seen)
        if name in parts:
            volume_error[name] = seen / true - 1
            in_tissue[name] = 2 * both / max(int(joint[labels, 1:].sum() + joint[1:, labels].sum()), 1)
    return dice, in_tissue, volume_error
