"""One microbleed candidate: what the detector found, where it sits, and what the image says about it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from CMBDetectorLib.regions import BY_LABEL, Region, Side

UNSURE_MM = 3.0  # closer than this to another group region, the region is often wrong (docs/regions.md)


class PhaseEvidence(str, Enum):
    """Sign of the susceptibility that the phase around a candidate speaks for."""

    PARAMAGNETIC = "paramagnetic"
    DIAMAGNETIC = "diamagnetic"
    UNCERTAIN = "uncertain"
    NO_PHASE = "no phase"


@dataclass(frozen=True)
class Location:
    """Anatomical place of a candidate, from the segmented neighborhood rather than one voxel.

    Attributes
    ----------
    sub_region : int
        MARS label, 1-13 (`CMBDetectorLib.regions.SUB_REGIONS`).
    side : Side
        Patient's side.
    probability : float
        Share of the neighborhood's tissue that votes for the group region, 0-1.
    boundary_mm : float
        Distance to the nearest voxel of another group region, mm; NaN when there is none near.
    next_region : Region or None
        Which one that is; None when there is none near, or nobody looked.
    sub_region_probability : float
        Share of the neighborhood's tissue that votes for the sub-region, 0-1; NaN in results of earlier versions.
    side_probability : float
        Of the side named, 0.5-1: the mean of the segmenter's answers within 3 mm, the nearer the more weight. NaN at
        the midline, at a reader's point, and in results of earlier versions.
    """

    sub_region: int
    side: Side
    probability: float
    boundary_mm: float
    next_region: Region | None = None
    sub_region_probability: float = math.nan
    side_probability: float = math.nan

    @property
    def or_region(self) -> Region | None:
        """The other group region that it may belong to as well: one whose tissue is closer than `UNSURE_MM`."""
        return self.next_region if self.boundary_mm < UNSURE_MM else None

    @property
    def region(self) -> Region:
        return BY_LABEL[self.sub_region].region

    @property
    def region_in_words(self) -> str:
        """Region, and at a border the other one: ``lobar``, ``lobar or deep``."""
        return f"{self.region.value} or {self.or_region.value}" if self.or_region else self.region.value

    @property
    def sub_region_name(self) -> str:
        return BY_LABEL[self.sub_region].name


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A place in the brain that may be a microbleed. Immutable: a reader's edits are kept beside it, never in it.

    Attributes
    ----------
    center_ras_mm : tuple of float
        Center in patient coordinates (right, anterior, superior), mm.
    diameter_mm : float
        Diameter of the detector's box, mm: the apparent size on SWI, which grows with echo time.
    volume_mm3 : float
        Volume of the dark voxels around the center, mm3 (`CMBDetectorLib.evidence`).
    probability : float
        The detector's score, 0-1. Not calibrated to disease.
    location : Location or None
        None when no brain tissue is near.
    phase_evidence : PhaseEvidence
        What the phase says of its susceptibility.
    exclusion : str
        Why anatomy excludes it; empty when it counts.
    number : int
        1, 2, ... by falling probability within one result; what pictures and labels show. 0 until numbered.
    """

    center_ras_mm: tuple[float, float, float]
    diameter_mm: float
    volume_mm3: float
    probability: float
    location: Location | None
    phase_evidence: PhaseEvidence
    exclusion: str = ""
    number: int = 0

    @property
    def id(self) -> str:
        """Name made from the place, unique within a result: ``R23A41S12`` (mm, rounded).

        Another run may find the same lesion half a millimeter away under a neighboring name; what tells that two
        candidates are the same is their distance.

        >>> Candidate(center_ras_mm=(-23.4, 41.0, 12.2), diameter_mm=4, volume_mm3=20, probability=0.9,
        ...           location=None, phase_evidence=PhaseEvidence.UNCERTAIN).id
        'L23A41S12'
        """
        letters = zip(self.center_ras_mm, ("RL", "AP", "SI"), strict=True)
        return "".join(f"{pair[int(mm < 0)]}{abs(round(mm))}" for mm, pair in letters)

    @property
    def is_excluded(self) -> bool:
        return bool(self.exclusion)

    @property
    def label(self) -> str:
        """Short label for pictures and markups, with the likelier region: ``3 lobar 0.91``."""
        place = self.location.region.value if self.location else "outside"
        return f"{self.number} {place} {self.probability:.2f}"
