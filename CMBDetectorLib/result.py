"""What one run produced, and with what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Protocol

from CMBDetectorLib.candidate import Candidate, Location
from CMBDetectorLib.regions import Region
from CMBDetectorLib.request import Settings
from CMBDetectorLib.volume import Volume


@dataclass(frozen=True)
class InputFile:
    """One image that went in: where it was read from and the SHA-256 of its voxels and geometry."""

    path: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Everything needed to repeat the run and to know what made its result."""

    version: str
    finished_at: str  # ISO 8601 with time zone
    swi: InputFile
    phase: InputFile | None
    detector_sha256: str
    segmenter_sha256: str
    settings: Settings
    threshold: float  # the one applied
    device: str  # such as "cpu, bfloat16, 2 threads"
    polarity: str  # "bright", "dark" or "none" (no phase was used), as applied
    seconds_per_stage: dict[str, float]

    @property
    def phase_in_words(self) -> str:
        """Name of the phase's file, and whether it was used."""
        if self.phase is None:
            return "none given"
        name = PurePath(self.phase.path).name
        return name if self.polarity != "none" else f"{name}, not used: its sign cannot be told"


@dataclass(frozen=True, kw_only=True)
class Record:
    """What one run said, without its images: what ``candidates.json`` holds.

    Attributes
    ----------
    candidates : tuple of Candidate
        The strongest 300 with a probability of at least `request.FLOOR`, numbered by falling probability, excluded ones
        included.
        `reported` gives those at or above the threshold.
    notices : tuple of str
        What preflight found worth telling, in plain sentences.
    searched_ml : float
        Volume of the brain that was searched, ml.
    provenance : Provenance
    """

    candidates: tuple[Candidate, ...]
    notices: tuple[str, ...]
    searched_ml: float
    provenance: Provenance

    @property
    def reported(self) -> tuple[Candidate, ...]:
        """Candidates at or above the threshold, excluded ones included."""
        return tuple(c for c in self.candidates if c.probability >= self.provenance.threshold)

    @property
    def counted(self) -> tuple[Candidate, ...]:
        """Reported candidates that anatomy did not exclude."""
        return tuple(c for c in self.reported if not c.is_excluded)


@dataclass(frozen=True, kw_only=True)
class Result(Record):
    """The outcome of one run on one case: its record, and the images that belong to it.

    Attributes
    ----------
    regions : Volume
        MARS label map (uint8, 0-13) on the grid of `swi`.
    swi : Volume
        The image as searched (what was not a number is 0).
    phase : Volume or None
        As searched: on the grid of `swi`, rad, high-pass filtered, paramagnetic positive whatever the scanner's sign.
    """

    regions: Volume
    swi: Volume
    phase: Volume | None


def number(candidates: list[Candidate]) -> tuple[Candidate, ...]:
    """Candidates by falling probability, numbered from 1; ties keep a fixed order by place."""
    ordered = sorted(candidates, key=lambda c: (-c.probability, c.center_ras_mm))
    return tuple(replace(c, number=n) for n, c in enumerate(ordered, start=1))


class Located(Protocol):
    """What has a place in the brain: a candidate, or a finding of a review."""

    @property
    def location(self) -> Location | None: ...


def pattern(counted: Sequence[Located]) -> str:
    """Distribution pattern of what counts: none, strictly lobar, deep or infratentorial only, or mixed.

    >>> pattern(())
    'none'
    """
    regions = {c.location.region for c in counted if c.location}
    if not regions:
        return "none"
    if regions == {Region.LOBAR}:
        return "strictly lobar"
    return "mixed" if Region.LOBAR in regions else "deep or infratentorial only"
