"""A review in plain words, to be copied into a report: accepted findings per region, and what is not yet decided."""

from __future__ import annotations

from CMBDetectorLib.review import Review


def review_lines(review: Review) -> list[str]:
    """Sum a review up in lines of at most 100 characters. Counts are of accepted findings."""
    raise NotImplementedError
