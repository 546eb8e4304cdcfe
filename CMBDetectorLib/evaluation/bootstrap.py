"""Intervals for pooled figures by resampling heads and patients, as lesions of one patient are not independent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

RESAMPLES = 2000


def draws(heads: Sequence[str], *, seed: int = 0, resamples: int = RESAMPLES) -> Iterator[npt.NDArray[np.int64]]:
    """Resample cases in two levels: heads with replacement, then as many cases of each drawn head as it has.

    Simulated cases of one head share its anatomy. With three heads there are ten samples of heads only, so intervals
    are wide and coarse, as they should be. Where every case has a head of its own this is the usual resampling of
    patients.

    Parameters
    ----------
    heads : sequence of str
        The head of each case.

    Yields
    ------
    ndarray of int
        Indices of the cases drawn.
    """
    rng = np.random.default_rng(seed)
    of_head = [np.flatnonzero(np.asarray(heads) == head) for head in sorted(set(heads))]
    for _ in range(resamples):
        chosen = [of_head[n] for n in rng.integers(len(of_head), size=len(of_head))]
        # One case leaves no choice; drawing it anyway took seconds for hundreds of patients.
        yield np.concatenate([c if len(c) == 1 else c[rng.integers(len(c), size=len(c))] for c in chosen])


def percentiles(values: Sequence[float]) -> tuple[float, float]:
    """Middle 95 % of what is defined; NaN where nothing is."""
    defined = np.array(values)[~np.isnan(values)]
    if not defined.size:
        return float("nan"), float("nan")
    # A value of the sample, not one between two: some figures can be infinite.
    low, high = np.percentile(defined, [2.5, 97.5], method="nearest")
    return float(low), float(high)
