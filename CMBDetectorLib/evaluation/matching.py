"""Which detections are which lesions: one to one, by distance between centers (VALDO: 5 mm, strict: 3 mm)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

PRIMARY_MM, STRICT_MM = 5.0, 3.0


@dataclass(frozen=True, eq=False)
class Matches:
    """One case.

    Attributes
    ----------
    probability : ndarray, shape (N,)
        Of the detections, falling.
    lesion : ndarray of int, shape (N,)
        The lesion that each detection found, `FALSE` for a false positive, `NEUTRAL` on a faint lesion.
    lesions : int
        How many there were to find.
    """

    probability: npt.NDArray[np.float64]
    lesion: npt.NDArray[np.int64]
    lesions: int

    def at_least(self, probability: float) -> Matches:
        """Those of the detections that have at least some probability."""
        kept = int((self.probability >= probability).sum())
        return Matches(self.probability[:kept], self.lesion[:kept], self.lesions)


FALSE, NEUTRAL = -1, -2


def match(
    probability: npt.ArrayLike,
    center_ras_mm: npt.ArrayLike,
    lesions_ras_mm: npt.ArrayLike,
    faint_ras_mm: npt.ArrayLike = (),
    within_mm: float = PRIMARY_MM,
) -> Matches:
    """Match the detections of one case, strongest first, each to the nearest lesion that is still free.

    Going by falling probability, the answer at a higher threshold is the beginning of the answer at a lower one. A
    further detection of a lesion already found is a false positive, unless another one that is free lies within reach.

    Parameters
    ----------
    probability, center_ras_mm : array_like, shapes (N,) and (N, 3)
    lesions_ras_mm : array_like, shape (L, 3)
        Lesions to be found.
    faint_ras_mm : array_like, shape (F, 3)
        Lesions too faint to ask for; a detection that is nearer to one of them counts neither way.
    """
    scores = np.asarray(probability, float).reshape(-1)
    order = np.argsort(-scores, kind="stable")
    centers = np.asarray(center_ras_mm, float).reshape(-1, 3)[order]
    to_lesion = _distances(centers, lesions_ras_mm)
    to_faint = _distances(centers, faint_ras_mm)
    found = np.full(len(scores), FALSE)
    for n in range(len(scores)):
        lesion_mm, faint_mm = to_lesion[n].min(initial=np.inf), to_faint[n].min(initial=np.inf)
        if lesion_mm <= min(faint_mm, within_mm):
            found[n] = int(to_lesion[n].argmin())
            to_lesion[:, found[n]] = np.inf
        elif faint_mm <= within_mm:
            found[n] = NEUTRAL
    return Matches(scores[order], found, to_lesion.shape[1])


def _distances(centers: npt.NDArray[np.float64], others: npt.ArrayLike) -> npt.NDArray[np.float64]:
    points = np.asarray(others, float).reshape(-1, 3)
    return np.linalg.norm(centers[:, None] - points[None], axis=2)
