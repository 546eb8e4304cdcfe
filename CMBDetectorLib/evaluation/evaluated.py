"""One case of an evaluation: its truth and what was found, and how the two match."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from CMBDetectorLib.candidate import Candidate
from CMBDetectorLib.evaluation.conspicuity import conspicuities
from CMBDetectorLib.evaluation.folders import true_regions
from CMBDetectorLib.evaluation.matching import Matches, match
from CMBDetectorLib.evaluation.overlap import compare
from CMBDetectorLib.result import Result
from CMBDetectorLib.simulation.truth import truth_of


@dataclass(frozen=True, eq=False)
class Evaluated:
    """One case, its truth and what was found.

    Attributes
    ----------
    dice : dict of float
        Overlap of the regions that the scan shows.
    conspicuity : tuple of float
        How far each true lesion stands out (`conspicuity.conspicuities`); empty where nobody measured.
    threshold : float
        Below it the search reports nothing of this case, whatever the others' threshold: without phase of a known sign
        it is another one.
    """

    name: str
    truth: dict[str, Any]
    candidates: tuple[Candidate, ...]
    dice: dict[str, float]
    seconds: float = 0.0
    conspicuity: tuple[float, ...] = ()
    threshold: float = 0.0

    @classmethod
    def of(cls, name: str, folder: Path, result: Result) -> Evaluated:
        """Join the result of a case with the truth in its folder."""
        true, truth = true_regions(folder, result.swi), truth_of(folder)
        dice, _, _ = compare(result.regions.array, true.array)
        seconds = sum(result.provenance.seconds_per_stage.values())
        standing_out = conspicuities(result.swi, true, truth["lesions"])
        return cls(name, truth, result.candidates, dice, seconds, standing_out, result.provenance.threshold)

    @property
    def counted(self) -> list[Candidate]:
        """Candidates that anatomy leaves, by falling probability, as `matches` has them."""
        return sorted((c for c in self.candidates if not c.is_excluded), key=lambda c: -c.probability)

    def matches(self, within_mm: float, excluded: bool = False) -> Matches:
        """Match the candidates down to the floor; `excluded` keeps those that anatomy removed."""
        kept = [c for c in self.candidates if excluded or not c.is_excluded]
        return match(
            [c.probability for c in kept],
            [c.center_ras_mm for c in kept],
            [lesion["center_ras_mm"] for lesion in self.truth["lesions"]],
            [lesion["center_ras_mm"] for lesion in self.truth["faint"]],
            within_mm,
        )
