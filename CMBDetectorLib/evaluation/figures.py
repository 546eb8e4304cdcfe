"""All figures of a set of evaluated cases: pooled, by kind of lesion, by protocol, case by case, with intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from CMBDetectorLib.evaluation.bootstrap import draws, percentiles
from CMBDetectorLib.evaluation.evaluated import Evaluated
from CMBDetectorLib.evaluation.froc import FROC_AT, Curve, OperatingPoint, Pooled, choose_threshold, operating_point
from CMBDetectorLib.evaluation.matching import FALSE, PRIMARY_MM, STRICT_MM, Matches
from CMBDetectorLib.regions import Region

SIZES_MM = {"below 2 mm": (0.0, 2.0), "2-3 mm": (2.0, 3.0), "3-5 mm": (3.0, 5.0), "5 mm or more": (5.0, np.inf)}
CONTRASTS = ((0.0, 0.5), (0.5, 0.8), (0.8, 1.01))
# In standard deviations of a lesion's surroundings; from 4 on it stands out plainly.
CONSPICUITIES = {
    "stands out by less than 4 SD": (-np.inf, 4.0), "stands out by 4-6 SD": (4.0, 6.0),
    "stands out by 6-10 SD": (6.0, 10.0), "stands out by 10 SD or more": (10.0, np.inf),
}  # fmt: skip
Counts = npt.NDArray[np.int_] | npt.NDArray[np.bool_]  # one entry per case
Draws = Sequence[npt.NDArray[np.int64]]  # indices of cases (`bootstrap.draws`)
NO_MIMIC, FOUND_TWICE = "no known mimic", "lesion found twice"
AT_BORDER, ELSEWHERE = "region, at a border", "region, elsewhere"
# Rows of a table of places: the least probability of each, rounded as in ``candidates.csv``.
PROBABILITIES = {"0.99 or more": 0.99, "0.90 to 0.98": 0.9, "0.60 to 0.89": 0.6, "below 0.60": 0.0}
ALLOWED_FALSE_POSITIVES = 0.5  # per case, when the threshold is chosen
WITH_INTERVALS = (  # of an `OperatingPoint`
    "sensitivity", "precision", "f1", "sensitivity_per_case", "precision_per_case", "f1_per_case",
    "false_positives_per_case", "false_positives_per_free_case",
)  # fmt: skip


def strata(lesion: dict[str, Any], protocol: str, conspicuity: float = np.nan) -> tuple[str, ...]:
    """Name the groups that a true lesion is counted in: size, contrast, region, protocol, and how far it stands out.

    The last ones only where that was measured.
    """
    size = next(name for name, (a, b) in SIZES_MM.items() if a <= lesion["diameter_mm"] < b)
    contrast = next(f"contrast {a:g}-{min(b, 1):g}" for a, b in CONTRASTS if a <= lesion["contrast"] < b)
    groups = (size, contrast, lesion["region"], protocol)
    if np.isnan(conspicuity):
        return groups
    hidden = next(iter(CONSPICUITIES))
    standing_out = next(name for name, (a, b) in CONSPICUITIES.items() if a <= conspicuity < b)
    return *groups, standing_out, f"{size}, {hidden if standing_out == hidden else 'stands out by 4 SD or more'}"


def figures(done: list[Evaluated], threshold: float) -> dict[str, Any]:
    """All figures of a set of evaluated cases, with the candidates from a threshold on counted.

    Where a case has a higher threshold of its own, that counts; curves are of one threshold for all.
    """
    heads = [case.truth["head"] for case in done]
    every = [case.matches(PRIMARY_MM) for case in done]

    def reported(matched: Sequence[Matches]) -> list[Matches]:
        return [each.at_least(case.threshold) for case, each in zip(done, matched, strict=True)]

    primary = reported(every)
    strict = reported([case.matches(STRICT_MM) for case in done])
    before_anatomy = reported([case.matches(PRIMARY_MM, excluded=True) for case in done])
    resampled = list(draws(heads))
    groups: dict[tuple[int, str], npt.NDArray[np.int_]] = {}  # of each case how many are found, of how many
    placed: dict[str, list[bool]] = {"region": [], AT_BORDER: [], ELSEWHERE: [], "sub_region": [], "side": []}
    sure: dict[str, list[float]] = {"region": [], "sub_region": [], "side": []}  # how probable each was
    for n_case, (case, matched) in enumerate(zip(done, primary, strict=True)):
        candidates = case.counted
        hits = {int(i): n for n, i in enumerate(matched.lesion) if i >= 0 and matched.probability[n] >= threshold}
        standing_out = case.conspicuity or [np.nan] * len(case.truth["lesions"])
        for i, (lesion, conspicuity) in enumerate(zip(case.truth["lesions"], standing_out, strict=True)):
            for group in enumerate(strata(lesion, case.truth["protocol"], conspicuity)):
                groups.setdefault(group, np.zeros((len(done), 2), int))[n_case] += (i in hits, 1)
            location = candidates[hits[i]].location if i in hits else None
            if location is not None:
                is_right = location.region.value == lesion["region"]
                placed["region"].append(is_right)
                placed[AT_BORDER if location.or_region else ELSEWHERE].append(is_right)
                sure["region"].append(location.probability)
                placed["sub_region"].append(location.sub_region == lesion["sub_region"])
                sure["sub_region"].append(location.sub_region_probability)
                if lesion["side"] != "midline":
                    placed["side"].append(location.side.value == lesion["side"])
                    sure["side"].append(location.side_probability)
    curve = Pooled(every).curve()
    at_threshold = [operating_point([primary[n] for n in drawn], threshold) for drawn in resampled]
    return {
        "cases": len(done),
        "heads": sorted(set(heads)),
        "lesions": sum(m.lesions for m in primary),
        "at_threshold": _plain(operating_point(primary, threshold)),
        "intervals": {name: _ends([getattr(point, name) for point in at_threshold]) for name in WITH_INTERVALS},
        "sensitivity_at_false_positives": {f"{level:g}": json_number(curve.sensitivity_at(level)) for level in FROC_AT},
        "false_positives_on": dict(_mimics_found(done, primary, threshold).most_common()),
        "at_threshold_within_3_mm": _plain(operating_point(strict, threshold)),
        "at_threshold_before_anatomy": _plain(operating_point(before_anatomy, threshold)),
        "chosen_on_these_cases": _plain(choose_threshold(every, ALLOWED_FALSE_POSITIVES)),
        "sensitivity": {
            name: {"found": int(found.sum()), "of": int(of.sum()), "interval": _ratio_interval(found, of, resampled)}
            for name, (found, of) in ((group[1], groups[group].T) for group in sorted(groups, key=_rank))
        },
        "false_positives_by_protocol": _by_protocol(done, primary, threshold, resampled),
        "dice": {r.value: _mean([case.dice[r.value] for case in done if r.value in case.dice]) for r in Region},
        "location_right": {name: {"right": int(np.sum(v)), "of": len(v)} for name, v in placed.items()},
        "location_right_by_probability": {name: _by_probability(placed[name], sure[name]) for name in sure},
        "per_case": [_case_row(case, found, threshold) for case, found in zip(done, primary, strict=True)],
        "froc": points(curve),
    }


def _rank(group: tuple[int, str]) -> tuple[int, int, str]:
    """Order of a group of lesions: kind by kind; from small to large, from hidden to plain."""
    kind, name = group
    known = [*SIZES_MM, *CONSPICUITIES]
    first = name.split(",")[0]
    return kind, known.index(first) if first in known else 0, name


def _by_probability(right: Sequence[bool], probability: Sequence[float]) -> dict[str, dict[str, int]]:
    """How many names are right, of how many, by how probable they were; those without a probability are left out."""
    least = np.array([*PROBABILITIES.values()])
    kinds = [int(np.argmax(round(p, 2) >= least)) if p == p else -1 for p in probability]
    among = [[ok for ok, kind in zip(right, kinds, strict=True) if kind == n] for n in range(len(PROBABILITIES))]
    return {name: {"right": sum(each), "of": len(each)} for name, each in zip(PROBABILITIES, among, strict=True)}


def _by_protocol(
    done: list[Evaluated], matched: list[Matches], threshold: float, resampled: Draws
) -> dict[str, dict[str, Any]]:
    """Cases and false positives of each protocol, and those of its cases without lesions."""
    false = np.array([int(((m.lesion == FALSE) & (m.probability >= threshold)).sum()) for m in matched])
    free = np.array([m.lesions == 0 for m in matched])
    protocols = np.array([case.truth["protocol"] for case in done])
    counts = {}
    for protocol in sorted(set(protocols.tolist())):
        of_it = protocols == protocol
        counts[protocol] = {
            "cases": int(of_it.sum()),
            "false_positives": int(false[of_it].sum()),
            "per_case_interval": _ratio_interval(false * of_it, of_it, resampled),
            "free_cases": int((of_it & free).sum()),
            "false_positives_on_free": int(false[of_it & free].sum()),
        }
    return counts


def _ratio_interval(part: Counts, whole: Counts, resampled: Draws) -> list[float | None]:
    """95 % interval of a sum over another, both given case by case; of resamples in which the other is 0 nothing."""
    sums = np.array([(part[drawn].sum(), whole[drawn].sum()) for drawn in resampled], float)
    return _ends((sums[:, 0] / np.where(sums[:, 1] > 0, sums[:, 1], np.nan)).tolist())


def _ends(values: Sequence[float]) -> list[float | None]:
    return [json_number(end) for end in percentiles(values)]


def _mimics_found(done: list[Evaluated], matched: list[Matches], threshold: float) -> Counter[str]:
    """Kinds of mimics within `PRIMARY_MM` of the false positives, the nearest of each.

    Veins are everywhere: some lie near by chance.
    """
    kinds: Counter[str] = Counter()
    for case, found in zip(done, matched, strict=True):
        kept = case.counted
        mimics = case.truth["mimics"]
        places = np.reshape([mimic["center_ras_mm"] for mimic in mimics], (-1, 3))
        lesions = np.reshape([lesion["center_ras_mm"] for lesion in case.truth["lesions"]], (-1, 3))
        for n in np.flatnonzero((found.lesion == FALSE) & (found.probability >= threshold)):
            if np.linalg.norm(lesions - kept[n].center_ras_mm, axis=1).min(initial=np.inf) <= PRIMARY_MM:
                kinds[FOUND_TWICE] += 1
                continue
            distance = np.linalg.norm(places - kept[n].center_ras_mm, axis=1)
            near = distance.size and distance.min() <= PRIMARY_MM
            kinds[mimics[int(distance.argmin())]["kind"] if near else NO_MIMIC] += 1
    return kinds


def points(curve: Curve) -> list[dict[str, float | None]]:
    """Give the entries of a FROC curve in a form that is fit for JSON."""
    columns = {name: values.tolist() for name, values in vars(curve).items()}
    return [
        {name: json_number(x) for name, x in zip(columns, row, strict=True)}
        for row in zip(*columns.values(), strict=True)
    ]


def json_number(value: float) -> float | None:
    """Make a number fit for JSON, which knows neither NaN nor infinity."""
    return round(value, 4) if np.isfinite(value) else None


def _mean(values: Sequence[float]) -> float | None:
    """Mean of Dice overlaps; None of none."""
    return round(float(np.mean(values)), 3) if values else None


def _plain(point: OperatingPoint) -> dict[str, float | None]:
    """Make an operating point fit for JSON, which knows no NaN."""
    return {name: None if np.isnan(value) else value for name, value in asdict(point).items()}


def _case_row(case: Evaluated, matched: Matches, threshold: float) -> dict[str, Any]:
    """What cases.csv and the charts say of one case, at the threshold applied."""
    counted, least = matched.probability >= threshold, max(threshold, case.threshold)
    return {
        "case": case.name,
        "head": case.truth["head"],
        "protocol": case.truth["protocol"],
        "threshold": least,
        "lesions": matched.lesions,
        "found": int((counted & (matched.lesion >= 0)).sum()),
        "false_positives": int((counted & (matched.lesion == FALSE)).sum()),
        "excluded": sum(c.is_excluded and c.probability >= least for c in case.candidates),
        **{f"dice_{r.value}": json_number(case.dice.get(r.value, np.nan)) for r in Region},
        "seconds": round(case.seconds, 1),
    }
