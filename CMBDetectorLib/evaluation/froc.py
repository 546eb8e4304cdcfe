"""Free-response ROC: sensitivity against false positives per case, over all thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from CMBDetectorLib.evaluation.matching import FALSE, Matches

Array = npt.NDArray[np.float64]

FROC_AT = (0.25, 0.5, 1.0, 2.0, 4.0)  # false positives per case at which sensitivity is usually reported


@dataclass(frozen=True)
class OperatingPoint:
    """What one threshold gives on a set of cases.

    Attributes
    ----------
    threshold : float
    sensitivity : float
        Lesions found over lesions present, pooled; NaN without lesions.
    precision : float
        True over all counted detections; NaN without any.
    f1 : float
        Harmonic mean of the two; NaN where either is.
    sensitivity_per_case, precision_per_case, f1_per_case : float
        Means over the cases that define them: with lesions, with counted detections, with either; NaN without such.
    count_error : float
        Mean absolute difference between counted detections and lesions of a case.
    false_positives_per_case : float
    false_positives_per_free_case : float
        Over cases without lesions alone; NaN without such.
    """

    threshold: float
    sensitivity: float
    precision: float
    f1: float
    sensitivity_per_case: float
    precision_per_case: float
    f1_per_case: float
    count_error: float
    false_positives_per_case: float
    false_positives_per_free_case: float


def operating_point(cases: Sequence[Matches], threshold: float) -> OperatingPoint:
    """Pool the cases at one threshold."""
    nan = float("nan")
    found = [int(((m.lesion >= 0) & (m.probability >= threshold)).sum()) for m in cases]
    false = [int(((m.lesion == FALSE) & (m.probability >= threshold)).sum()) for m in cases]
    free = [n for n, m in zip(false, cases, strict=True) if m.lesions == 0]
    each = [(n, n + f, m.lesions) for n, f, m in zip(found, false, cases, strict=True)]
    errors = [abs(counted - lesions) for _, counted, lesions in each]
    present, counted = sum(m.lesions for m in cases), sum(found) + sum(false)
    return OperatingPoint(
        threshold=threshold,
        sensitivity=sum(found) / present if present else nan,
        precision=sum(found) / counted if counted else nan,
        f1=2 * sum(found) / (present + counted) if present and counted else nan,
        sensitivity_per_case=_mean([n / lesions for n, _, lesions in each if lesions]),
        precision_per_case=_mean([n / counted for n, counted, _ in each if counted]),
        f1_per_case=_mean([2 * n / (counted + lesions) for n, counted, lesions in each if counted or lesions]),
        count_error=_mean(errors),
        false_positives_per_case=_mean(false),
        false_positives_per_free_case=_mean(free),
    )


def _mean(values: Sequence[float]) -> float:
    """Mean; NaN of none."""
    return sum(values) / len(values) if values else float("nan")


@dataclass(frozen=True, eq=False)
class Curve:
    """A FROC curve: one entry per distinct probability, by falling threshold.

    Attributes
    ----------
    threshold, sensitivity, precision, false_positives_per_case : ndarray, shape (N,)
        As in `OperatingPoint`.
    """

    threshold: Array
    sensitivity: Array
    precision: Array
    false_positives_per_case: Array

    def sensitivity_at(self, false_positives_per_case: float) -> float:
        """Largest sensitivity with at most so many false positives per case.

        0 where none is low enough; NaN where there is no lesion to find.
        """
        if np.isnan(self.sensitivity).any():
            return float("nan")
        reached = int(np.searchsorted(self.false_positives_per_case, false_positives_per_case, side="right"))
        return float(self.sensitivity[reached - 1]) if reached else 0.0

    def false_positives_at(self, sensitivity: float) -> float:
        """Fewest false positives per case with at least such a sensitivity; infinite where it is never reached."""
        reached = np.flatnonzero(self.sensitivity >= sensitivity - 1e-9)
        return float(self.false_positives_per_case[reached[0]]) if len(reached) else float("inf")


class Pooled:
    """The detections of all cases by falling probability, so that the curve of a resample costs a few sums."""

    def __init__(self, cases: Sequence[Matches]) -> None:
        probability = np.concatenate([np.empty(0), *(m.probability for m in cases)])
        order = np.argsort(-probability, kind="stable")
        lesion = np.concatenate([np.empty(0, int), *(m.lesion for m in cases)])[order]
        self._probability = probability[order]
        self._case = np.repeat(np.arange(len(cases)), [len(m.lesion) for m in cases])[order]
        self._true, self._false = lesion >= 0, lesion == FALSE
        self._last = np.append(np.diff(self._probability) != 0, True)[: len(order)]  # of those equally probable
        self._lesions = np.array([m.lesions for m in cases])

    def curve(self, times: npt.NDArray[np.int64] | None = None) -> Curve:
        """Curve of the cases, each counted so many times (once)."""
        times = np.ones(len(self._lesions), np.int64) if times is None else times
        weight = times[self._case]
        true = np.cumsum(weight * self._true)[self._last]
        false = np.cumsum(weight * self._false)[self._last]
        lesions = int(times @ self._lesions)
        with np.errstate(invalid="ignore"):
            return Curve(
                threshold=self._probability[self._last],
                sensitivity=true / lesions if lesions else np.full(len(true), np.nan),
                precision=true / (true + false),
                false_positives_per_case=false / max(int(times.sum()), 1),
            )


def choose_threshold(cases: Sequence[Matches], false_positives_per_case: float) -> OperatingPoint:
    """Lowest threshold, from 0.10 in steps of 0.01, with at most so many false positives per case.

    On validation cases only. Where none is low enough, the highest threshold of the grid is returned.
    """
    points = [operating_point(cases, round(float(t), 2)) for t in np.arange(0.10, 0.991, 0.01)]
    allowed = [p for p in points if p.false_positives_per_case <= false_positives_per_case]
    return allowed[0] if allowed else points[-1]
