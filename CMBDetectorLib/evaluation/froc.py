"""Free-response ROC: sensitivity against false positives per case, over all thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from CMBDetectorLib.evaluation.matching import FALSE, Matches

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
    sensitivity_per_case : float
        Mean over the cases that have lesions; NaN without such.
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
    count_error: float
    false_positives_per_case: float
    false_positives_per_free_case: float


def operating_point(cases: Sequence[Matches], threshold: float) -> OperatingPoint:
    """Pool the cases at one threshold."""
    nan = float("nan")
    found = [int(((m.lesion >= 0) & (m.probability >= threshold)).sum()) for m in cases]
    false = [int(((m.lesion == FALSE) & (m.probability >= threshold)).sum()) for m in cases]
    free = [n for n, m in zip(false, cases, strict=True) if m.lesions == 0]
    each = [n / m.lesions for n, m in zip(found, cases, strict=True) if m.lesions]
    errors = [abs(n + f - m.lesions) for n, f, m in zip(found, false, cases, strict=True)]
    present, counted = sum(m.lesions for m in cases), sum(found) + sum(false)
    return OperatingPoint(
        threshold=threshold,
        sensitivity=sum(found) / present if present else nan,
        precision=sum(found) / counted if counted else nan,
        f1=2 * sum(found) / (present + counted) if present and counted else nan,
        sensitivity_per_case=sum(each) / len(each) if each else nan,
        count_error=sum(errors) / len(cases) if cases else nan,
        false_positives_per_case=sum(false) / len(cases) if cases else nan,
        false_positives_per_free_case=sum(free) / len(free) if free else nan,
    )


def sensitivity_at(curve: Sequence[OperatingPoint], false_positives_per_case: float) -> float:
    """Largest sensitivity on a FROC curve with at most so many false positives per case.

    0 where none is low enough; NaN where there is no lesion to find.
    """
    if any(np.isnan(p.sensitivity) for p in curve):
        return float("nan")
    return max((p.sensitivity for p in curve if p.false_positives_per_case <= false_positives_per_case), default=0.0)


def froc(cases: Sequence[Matches]) -> list[OperatingPoint]:
    """Operating points at every distinct probability, by falling threshold."""
    levels = np.unique(np.concatenate([m.probability for m in cases])) if cases else np.empty(0)
    return [operating_point(cases, float(level)) for level in levels[::-1]]


def choose_threshold(cases: Sequence[Matches], false_positives_per_case: float) -> OperatingPoint:
    """Lowest threshold, on a grid of 0.01, with at most so many false positives per case.

    On validation cases only. Where none is low enough, the highest threshold of the grid is returned.
    """
    points = [operating_point(cases, round(float(t), 2)) for t in np.arange(0.10, 0.991, 0.01)]
    allowed = [p for p in points if p.false_positives_per_case <= false_positives_per_case]
    return allowed[0] if allowed else points[-1]
