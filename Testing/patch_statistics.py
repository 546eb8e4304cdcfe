"""Are lesions given away by intensity? How well a patch's mean and minimum tell them from veins of the same contrast.

    python Testing/patch_statistics.py CASES

CASES is a folder of simulated cases. Lesions and vein cross-sections are paired by their contrast on SWI; a linear
discriminant of the mean and the minimum of 9 x 9 x 5 voxels then separates the two with the printed area under the
ROC curve (0.5 is chance). It is fitted to the pairs that it is measured on, so the figure is an upper bound.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

from CMBDetectorLib.volume import Volume, read_volume

HALF = np.array([4, 4, 2])  # 9 x 9 x 5 voxels
SAME_CONTRAST = 0.05
CENTER_MM, AROUND_MM = 1.25, 5.0


def contrast_and_patch(swi: Volume, center_ras_mm: Sequence[float]) -> tuple[float, float, float] | None:
    """Contrast of a dark spot, and mean and minimum of the patch around it over the median there; None at the edge."""
    place = np.rint(swi.ijk_of(center_ras_mm)).astype(int)
    reach = np.ceil(AROUND_MM / swi.spacing_mm).astype(int)
    if ((place < np.maximum(reach, HALF)) | (place >= swi.array.shape - np.maximum(reach, HALF))).any():
        return None

    def cube(half: npt.NDArray) -> npt.NDArray:
        return swi.array[tuple(slice(p - h, p + h + 1) for p, h in zip(place, half, strict=True))]

    usual = float(np.median(cube(reach)))
    darkest = float(cube(np.maximum(np.rint(CENTER_MM / swi.spacing_mm), 1).astype(int)).min())
    patch = cube(HALF)
    return (1 - darkest / usual, float(patch.mean()) / usual, float(patch.min()) / usual) if usual > 0 else None


def separation(cases: Sequence[tuple[Volume, dict[str, Any]]]) -> tuple[float, int]:
    """Area under the ROC curve, and the number of pairs, over all cases."""
    lesions: list[tuple[float, float, float]] = []
    veins: list[tuple[float, float, float]] = []
    for swi, truth in cases:
        for entries, found in (
            (truth["lesions"], lesions),
            ([m for m in truth["mimics"] if m["kind"] == "vein cross-section"], veins),
        ):
            found += [seen for e in entries if (seen := contrast_and_patch(swi, e["center_ras_mm"])) is not None]
    ours, theirs = np.array(lesions).reshape(-1, 3), np.array(veins).reshape(-1, 3)
    difference = np.abs(ours[:, None, 0] - theirs[None, :, 0])
    rows, columns = optimize.linear_sum_assignment(difference)
    close = difference[rows, columns] < SAME_CONTRAST
    a, b = ours[rows[close], 1:], theirs[columns[close], 1:]
    pooled = np.cov(a, rowvar=False) + np.cov(b, rowvar=False) + 1e-9 * np.eye(2)
    direction = np.linalg.solve(pooled, a.mean(axis=0) - b.mean(axis=0))
    wins = stats.mannwhitneyu(a @ direction, b @ direction).statistic
    return float(wins) / (len(a) * len(b)), len(a)


if __name__ == "__main__":
    folders = sorted(path.parent for path in Path(sys.argv[1]).glob("*/truth.json"))
    auc, pairs = separation(
        [(read_volume(f / "swi.nii.gz").in_ras_order(), json.loads((f / "truth.json").read_text())) for f in folders]
    )
    print(f"AUC {auc:.2f} over {pairs} pairs of lesions and vein cross-sections in {len(folders)} cases")
