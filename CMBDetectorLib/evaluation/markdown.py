"""Numbers and tables of an evaluation as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lines of a table."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def number(value: float | None) -> str:
    """Two decimals, or a dash where there is none."""
    return "-" if value is None or not np.isfinite(value) else f"{value:.2f}"


def percent(value: float | None) -> str:
    """A share in percent, without the sign."""
    return "-" if value is None else f"{100 * value:.1f}"


def ends(interval: Sequence[float | None], form: str = ".0f", missing: str = "-") -> str:
    """Both ends of an interval of shares, in percent."""
    return "[" + ", ".join(missing if end is None else format(100 * end, form) for end in interval) + "]"
