"""The stages of a run, in order: their share of the time and what the user reads meanwhile."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """One stage: its share of a run (the sample on two cores; all add up to 1), and its name in plain words."""

    share: float
    title: str


STAGES: dict[str, Stage] = {
    "read": Stage(0.10, "Reading the images"),
    "check": Stage(0.02, "Checking the images"),
    "localize": Stage(0.14, "Finding the brain's regions"),
    "prepare": Stage(0.14, "Preparing SWI and phase"),
    "detect": Stage(0.48, "Searching the brain"),
    "measure": Stage(0.06, "Measuring the candidates"),
    "report": Stage(0.06, "Writing the results"),
}


def overall(stage: str, fraction: float) -> float:
    """Share of the whole run that is done, 0-1, when a stage is done to the given fraction.

    >>> overall("read", 0.0), round(overall("report", 1.0), 6)
    (0.0, 1.0)
    """
    names = list(STAGES)
    return sum(STAGES[name].share for name in names[: names.index(stage)]) + STAGES[stage].share * fraction
