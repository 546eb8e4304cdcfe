"""A review as a table (CSV) that a spreadsheet reads and that can be taken up again."""

from __future__ import annotations

from pathlib import Path

from CMBDetectorLib.review import Finding, Review


def suggested_name(review: Review) -> str:
    """File name for the table of a case: ``sub-017_swi_microbleeds.csv``."""
    raise NotImplementedError


def write_review(review: Review, path: Path) -> None:
    """Write one line per finding of `Review.reported`; whole or not at all (`OutputError`)."""
    raise NotImplementedError


def read_review(path: Path) -> list[Finding]:
    """Read such a table back, for `Review.restore`; raises `InputError` that names what is wrong."""
    raise NotImplementedError
