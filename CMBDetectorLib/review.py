"""A reader's review of one case: verdicts and comments beside what the detector said, never in place of it.

Knows no screen and no file. The window changes a `Review`; the scene shows it (`scene.case`) and keeps it as text;
``report`` writes it as a table and sums it up.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum

import numpy as np

from CMBDetectorLib.candidate import Candidate, Location, PhaseEvidence
from CMBDetectorLib.request import FLOOR
from CMBDetectorLib.result import Record

SAME_MM = 3.0  # candidates of two runs whose centers lie closer than this are one lesion
ROUNDED_MM = 0.01  # tables give two decimals


class Verdict(str, Enum):
    """What the reader decided; the value is what tables show."""

    UNDECIDED = "undecided"
    ACCEPTED = "accepted"
    REJECTED = "rejected"


class Source(str, Enum):
    """Who saw it first."""

    DETECTOR = "detector"
    READER = "reader"


class Marker(str, Enum):
    """How a finding is shown: by its verdict or, while undecided, as excluded by anatomy."""

    UNDECIDED = "undecided"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    EXCLUDED = "excluded"


# sRGB. Far apart from each other and from the grays of a brain with any color vision; a test measures it.
MARKER_COLORS: dict[Marker, tuple[int, int, int]] = {
    Marker.UNDECIDED: (250, 205, 30),
    Marker.ACCEPTED: (50, 240, 160),
    Marker.REJECTED: (220, 75, 30),
    Marker.EXCLUDED: (200, 90, 220),
}


@dataclass(frozen=True)
class Shortcut:
    """One key of the review: the action's name in the code, the key as Qt writes it, what the legend says."""

    name: str
    key: str
    description: str


SHORTCUTS: tuple[Shortcut, ...] = (
    Shortcut("next", "N", "next finding"),
    Shortcut("previous", "B", "finding before"),
    Shortcut("accept", "A", "accept"),
    Shortcut("reject", "R", "reject"),
    Shortcut("undecided", "U", "undecided"),
    Shortcut("undo", "Z", "undo"),
    Shortcut("hide_markers", "H", "hide or show markers"),
    Shortcut("minip", "M", "minIP on or off"),
    Shortcut("swap", "S", "swap SWI and phase"),
    # With Shift, so that no slip of a finger starts a search while reviewing.
    Shortcut("load_sample", "Shift+L", "load sample case"),
    Shortcut("detect", "Shift+D", "detect, or cancel"),
    Shortcut("export", "Shift+E", "save the table"),
)


@dataclass(frozen=True, kw_only=True)
class Spot:
    """A place that a reader pointed at, and what the images say of it (`measure.measure_spot`).

    Attributes
    ----------
    position_ras_mm : tuple of float
        RAS, mm.
    location : Location or None
        None when no brain tissue is near.
    diameter_mm, volume_mm3 : float
        Apparent size on the SWI; NaN where nothing dark stands out.
    phase_evidence : PhaseEvidence
    """

    position_ras_mm: tuple[float, float, float]
    location: Location | None = None
    diameter_mm: float = float("nan")
    volume_mm3: float = float("nan")
    phase_evidence: PhaseEvidence = PhaseEvidence.NO_PHASE


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of a review: what the detector said, and what the reader says.

    Attributes
    ----------
    key : str
        Never changes: not by another run, not in a file. `Candidate.id` when it was first found, ``reader-1`` for the
        first one that a reader added.
    number : int
        What labels show, see `name`. Another run numbers anew.
    source : Source
    candidate : Candidate or None
        What the detector said in the last run that found it; None where it found nothing.
    spot : Spot or None
        Where the reader put the point; None while it is where the detector found it.
    verdict, comment : Verdict, str
    reader, decided_at : str
        Who gave the verdict, and when (ISO 8601 with time zone); empty while undecided.
    is_current : bool
        False when the last run did not find it any more.
    """

    key: str
    number: int
    source: Source = Source.DETECTOR
    candidate: Candidate | None = None
    spot: Spot | None = None
    verdict: Verdict = Verdict.UNDECIDED
    comment: str = ""
    reader: str = ""
    decided_at: str = ""
    is_current: bool = True

    def __post_init__(self) -> None:
        if self.candidate is None and self.spot is None:
            raise ValueError(f"the finding {self.key} has neither a candidate nor a spot")

    @property
    def name(self) -> str:
        """Number as shown: ``3``, or ``R1`` for one that a reader added."""
        return f"R{self.number}" if self.source is Source.READER else str(self.number)

    @property
    def position_ras_mm(self) -> tuple[float, float, float]:
        """Where it is shown: where the reader put it, else where the detector found it."""
        return self.spot.position_ras_mm if self.spot else self._candidate.center_ras_mm

    @property
    def location(self) -> Location | None:
        """Anatomical place of `position_ras_mm`."""
        return self.spot.location if self.spot else self._candidate.location

    # Moving the point says where the lesion lies; its size and phase stay the detector's.
    @property
    def diameter_mm(self) -> float:
        return self.candidate.diameter_mm if self.candidate else self._spot.diameter_mm

    @property
    def volume_mm3(self) -> float:
        return self.candidate.volume_mm3 if self.candidate else self._spot.volume_mm3

    @property
    def phase_evidence(self) -> PhaseEvidence:
        return self.candidate.phase_evidence if self.candidate else self._spot.phase_evidence

    @property
    def probability(self) -> float | None:
        """The detector's score; None where it found nothing."""
        return self.candidate.probability if self.candidate else None

    @property
    def exclusion(self) -> str:
        """Why anatomy excludes it; empty when it counts."""
        return self.candidate.exclusion if self.candidate and self.source is Source.DETECTOR else ""

    @property
    def is_decided(self) -> bool:
        return self.verdict is not Verdict.UNDECIDED

    @property
    def is_moved(self) -> bool:
        return self.source is Source.DETECTOR and self.spot is not None

    @property
    def is_touched(self) -> bool:
        """Whether a reader has left anything on it."""
        return self.is_decided or bool(self.comment) or self.spot is not None

    @property
    def marker(self) -> Marker:
        return Marker.EXCLUDED if self.exclusion and not self.is_decided else Marker(self.verdict.value)

    @property
    def label(self) -> str:
        """Short label for markups, with the likelier region: ``3 lobar 0.91``; ``R1 lobar`` if a reader added it."""
        place = self.location.region.value if self.location else "outside"
        return f"{self.name} {place}" + (f" {self.candidate.probability:.2f}" if self.candidate else "")

    @property
    def _candidate(self) -> Candidate:
        assert self.candidate is not None
        return self.candidate

    @property
    def _spot(self) -> Spot:
        assert self.spot is not None
        return self.spot


class Review:
    """All findings of one case, in the order of the table, and what the reader did with them.

    Findings are values: every change replaces one, so what `findings` gave before stays as it was.

    Parameters
    ----------
    case : str
        What the case is called; file names are suggested from it.
    record : Record
        What the last run said.
    findings : iterable of Finding, optional
        Of a review that goes on; made from the record when not given.
    threshold : float, optional
        Lowest probability shown; that of the record when not given.
    show_excluded : bool
        Also show undecided findings that anatomy excludes.
    """

    def __init__(
        self,
        case: str,
        record: Record,
        findings: Iterable[Finding] | None = None,
        *,
        threshold: float | None = None,
        show_excluded: bool = False,
    ) -> None:
        self.case = case
        self.record = record
        self.show_excluded = show_excluded
        self._threshold = record.provenance.threshold if threshold is None else threshold
        self._past: list[dict[str, Finding]] = []
        self._findings: dict[str, Finding] = {}
        if findings is None:
            for candidate in record.candidates:
                self._take(_found(candidate, self._findings))
        else:
            for finding in findings:
                self._take(finding)

    # What there is

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Every finding, hidden ones included: by falling probability, then those that a reader added."""
        return tuple(self._findings.values())

    def __getitem__(self, key: str) -> Finding:
        return self._findings[key]

    def __contains__(self, key: str) -> bool:
        return key in self._findings

    @property
    def threshold(self) -> float:
        """Lowest probability of the undecided findings shown; never below `request.FLOOR`."""
        return self._threshold

    @threshold.setter
    def threshold(self, probability: float) -> None:
        self._threshold = min(max(float(probability), FLOOR), 1.0)

    def is_reported(self, finding: Finding) -> bool:
        """Whether a finding reaches the threshold. What a reader touched always does: a slider takes nothing back."""
        return finding.is_touched or (finding.probability or 0.0) >= self._threshold

    def reported(self) -> tuple[Finding, ...]:
        """Findings that reach the threshold, excluded ones included: the lines of the exported table."""
        return tuple(f for f in self._findings.values() if self.is_reported(f))

    def visible(self) -> tuple[Finding, ...]:
        """Findings shown in the table and the views; excluded ones only with `show_excluded`."""
        return tuple(f for f in self.reported() if self.show_excluded or f.marker is not Marker.EXCLUDED)

    def progress(self) -> tuple[int, int]:
        """How many of how many are decided: (k, n) of "k of n reviewed". Excluded ones need no decision."""
        due = [f for f in self.reported() if f.marker is not Marker.EXCLUDED]
        return sum(f.is_decided for f in due), len(due)

    def accepted(self) -> tuple[Finding, ...]:
        """What counts."""
        return tuple(f for f in self._findings.values() if f.verdict is Verdict.ACCEPTED)

    # From one to the next. `order` is the keys as the table shows them; as in `visible` when not given.

    def next(self, key: str | None, order: Sequence[str] | None = None) -> str | None:
        """Key after `key`, the first one after the last; None when nothing is shown."""
        return self._step(key, 1, order)

    def previous(self, key: str | None, order: Sequence[str] | None = None) -> str | None:
        """Key before `key`, the last one before the first; None when nothing is shown."""
        return self._step(key, -1, order)

    def next_undecided(self, key: str | None, order: Sequence[str] | None = None) -> str | None:
        """Key of the next finding that needs a decision, around the end to the begin; None when none is left."""
        keys = self._order(order)
        start = keys.index(key) + 1 if key in keys else 0
        return next((k for k in keys[start:] + keys[:start] if self[k].marker is Marker.UNDECIDED), None)

    def _step(self, key: str | None, step: int, order: Sequence[str] | None) -> str | None:
        keys = self._order(order)
        if not keys:
            return None
        if key not in keys:
            return keys[0 if step > 0 else -1]
        return keys[(keys.index(key) + step) % len(keys)]

    def _order(self, order: Sequence[str] | None) -> list[str]:
        return [f.key for f in self.visible()] if order is None else [key for key in order if key in self._findings]

    # What a reader does. Each of these can be undone.

    def decide(self, key: str, verdict: Verdict, reader: str = "", at: str | None = None) -> None:
        """Give a verdict; `at` is the time, now when not given. Undecided takes reader and time away."""
        is_decision = verdict is not Verdict.UNDECIDED
        self._change(
            replace(
                self[key],
                verdict=verdict,
                reader=reader if is_decision else "",
                decided_at=(at or _now()) if is_decision else "",
            )
        )

    def comment(self, key: str, text: str) -> None:
        """Write or replace the comment of a finding."""
        if self[key].comment != text:
            self._change(replace(self[key], comment=text))

    def move(self, key: str, spot: Spot | None) -> None:
        """Put a point elsewhere; None puts it back to where the detector found it."""
        self._change(replace(self[key], spot=spot))

    def add(self, spot: Spot, reader: str = "", at: str | None = None) -> Finding:
        """Add what the detector missed, as accepted: a reader who adds a microbleed means it."""
        number = 1 + max((f.number for f in self._findings.values() if f.source is Source.READER), default=0)
        finding = Finding(
            key=_free(f"reader-{number}", self._findings),
            number=number,
            source=Source.READER,
            spot=spot,
            verdict=Verdict.ACCEPTED,
            reader=reader,
            decided_at=at or _now(),
        )
        self._change(finding)
        return finding

    def remove(self, key: str) -> None:
        """Take away a finding that a reader added; what the detector found can only be rejected."""
        if self[key].source is not Source.READER:
            raise ValueError(f"{key} was found by the detector: reject it instead")
        self._remember()
        del self._findings[key]

    def restore(self, findings: Iterable[Finding]) -> tuple[int, int]:
        """Take over verdicts, comments, moved and added points, such as from an exported table; one step to undo.

        One of the detector is the one with the same key or, failing that, the nearest within `SAME_MM`; one that a
        reader added is the nearest. What the detector said stays as it is here; findings that are not here are added.

        Returns
        -------
        tuple of int
            How many findings were restored, and how many of them were added.
        """
        said = list(findings)
        same = {s.key: s.key for s in said if s.source is Source.DETECTOR and s.key in self._findings}
        for source in Source:
            here = [f for f in self._findings.values() if f.source is source and f.key not in same.values()]
            strangers = [s for s in said if s.source is source and s.key not in same]
            for i, j in _pairs([_origin(s) for s in strangers], [_origin(h) for h in here]):
                same[strangers[i].key] = here[j].key
        self._remember()
        for finding in said:
            if finding.key not in same:
                key, number = _free(finding.key, self._findings), self._free_number(finding)
                is_mine = finding.source is Source.READER  # a run that knew the others was not this one
                self._take(replace(finding, key=key, number=number, is_current=is_mine))
                continue
            here_now = self[same[finding.key]]
            self._take(
                replace(
                    here_now,
                    spot=_exact(finding.spot, here_now),
                    verdict=finding.verdict,
                    comment=finding.comment,
                    reader=finding.reader,
                    decided_at=finding.decided_at,
                )
            )
        return len(said), len(said) - len(same)

    def undo(self) -> str | None:
        """Take the last change back; returns the key it was about (None when there is nothing to undo)."""
        if not self._past:
            return None
        now, self._findings = self._findings, self._past.pop()
        return next((k for k in (*self._findings, *now) if self._findings.get(k) is not now.get(k)), None)

    @property
    def can_undo(self) -> bool:
        return bool(self._past)

    # Another run on the same images

    def vanishing(self, record: Record) -> tuple[Finding, ...]:
        """Findings that a reader touched and that another run did not find again: ask before they go."""
        found_again = {self.findings[i].key for i, _ in self._found_again(record)}
        return tuple(
            f
            for f in self._findings.values()
            if f.is_touched and f.source is Source.DETECTOR and f.key not in found_again
        )

    def merge(self, record: Record, *, keep_vanishing: bool = True) -> None:
        """Take over another run: findings found again keep key, verdict, comment and moved point.

        What a reader touched and the run did not find again stays, marked as not current, unless `keep_vanishing` is
        False; what a reader added always stays. The threshold stays. There is no undo across runs.
        """
        before = self.findings
        again = {j: before[i] for i, j in self._found_again(record)}
        vanishing = self.vanishing(record) if keep_vanishing else ()
        self.record, self._past, self._findings = record, [], {}
        taken = {f.key for f in (*again.values(), *vanishing)}
        added = {f.key: replace(f, candidate=None, is_current=True) for f in before if f.source is Source.READER}
        for index, candidate in enumerate(record.candidates):
            old = again.get(index)
            if old is None:
                self._take(_found(candidate, {*self._findings, *taken, *added}))
            elif old.source is Source.READER:  # now the detector sees it, too
                added[old.key] = replace(old, candidate=candidate, is_current=True)
            else:
                self._take(replace(old, candidate=candidate, number=candidate.number, is_current=True))
        for number, finding in enumerate(vanishing, start=1 + max((c.number for c in record.candidates), default=0)):
            self._take(replace(finding, number=number, is_current=False))
        for finding in added.values():
            self._take(finding)

    def _found_again(self, record: Record) -> list[tuple[int, int]]:
        """Index among `findings` and among the candidates of a run, for each lesion in both."""
        return _pairs([_origin(f) for f in self._findings.values()], [c.center_ras_mm for c in record.candidates])

    # Keeping the findings

    def _remember(self) -> None:
        self._past.append(dict(self._findings))

    def _change(self, finding: Finding) -> None:
        self._remember()
        self._take(finding)

    def _take(self, finding: Finding) -> None:
        self._findings[finding.key] = finding

    def _free_number(self, finding: Finding) -> int:
        taken = {f.number for f in self._findings.values() if f.source is finding.source}
        return finding.number if finding.number not in taken else 1 + max(taken)


def _found(candidate: Candidate, taken: Iterable[str]) -> Finding:
    return Finding(key=_free(candidate.id, taken), number=candidate.number, candidate=candidate)


def _free(key: str, taken: Iterable[str]) -> str:
    """Return the key or, where it is taken, the key with the first free number behind it: ``R23A41S12-2``."""
    taken, free, count = set(taken), key, 1
    while free in taken:
        count += 1
        free = f"{key}-{count}"
    return free


def _origin(finding: Finding) -> tuple[float, float, float]:
    """Where it was first seen: by the detector, or by the reader who added it."""
    if finding.candidate and finding.source is Source.DETECTOR:
        return finding.candidate.center_ras_mm
    return finding.position_ras_mm


def _exact(said: Spot | None, here: Finding) -> Spot | None:
    """Choose the spot of a restored finding: the one here where a table only rounded it, else the one that was said."""
    if here.spot is None:
        return said
    if said is None:
        return None if here.candidate else here.spot
    is_same = np.allclose(said.position_ras_mm, here.spot.position_ras_mm, rtol=0, atol=ROUNDED_MM)
    return here.spot if is_same else said


def _pairs(
    some: Sequence[tuple[float, float, float]], others: Sequence[tuple[float, float, float]]
) -> list[tuple[int, int]]:
    """Indices of the places within `SAME_MM`, one to one, the nearest first."""
    if not some or not others:
        return []
    distance_mm = np.linalg.norm(np.array(some)[:, None] - np.array(others)[None], axis=-1)
    pairs: list[tuple[int, int]] = []
    for index in np.argsort(distance_mm, axis=None, kind="stable"):
        i, j = divmod(int(index), len(others))
        if distance_mm[i, j] > SAME_MM:
            break
        if all(i != a and j != b for a, b in pairs):
            pairs.append((i, j))
    return pairs


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
