"""Intervals for pooled figures by resampling patients, as lesions of one patient are not independent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

RESAMPLES = 2000
T = TypeVar("T")


def interval(
    cases: Sequence[T], figure: Callable[[Sequence[T]], float], *, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """95 % percentile interval of a figure over patients drawn with replacement; NaN where it is never defined.

    Parameters
    ----------
    cases : sequence
        One entry per patient. Simulated cases of one head are taken as patients of their own, although they share
        its anatomy: with few heads the interval is too narrow.
    figure : callable
        The figure of a sample of them; NaN where that sample does not define it, such as a sensitivity without
        lesions.
    """
    rng = np.random.default_rng(seed)
    values = [figure([cases[i] for i in rng.integers(len(cases), size=len(cases))]) for _ in range(resamples)]
    defined = np.array(values)[~np.isnan(values)]
    if not defined.size:
        return float("nan"), float("nan")
    low, high = np.percentile(defined, [2.5, 97.5])
    return float(low), float(high)
