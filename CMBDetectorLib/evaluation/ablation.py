"""What each part of the detector brings: variants on the same cases, ``python -m CMBDetectorLib ablate``."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from CMBDetectorLib.candidate import Candidate, PhaseEvidence
from CMBDetectorLib.detect import Detection
from CMBDetectorLib.errors import InputError
from CMBDetectorLib.evaluation.bootstrap import draws, percentiles
from CMBDetectorLib.evaluation.evaluated import Evaluated
from CMBDetectorLib.evaluation.figures import ALLOWED_FALSE_POSITIVES, figures, json_number
from CMBDetectorLib.evaluation.folders import WITH_PHASE, case_folders
from CMBDetectorLib.evaluation.froc import FROC_AT, Pooled, choose_threshold
from CMBDetectorLib.evaluation.matching import PRIMARY_MM
from CMBDetectorLib.evaluation.prepared import PreparedCase, prepare_cases
from CMBDetectorLib.evaluation.variants import Variant, answers, blob_variant, read_variant
from CMBDetectorLib.localize import locate
from CMBDetectorLib.models import load_model
from CMBDetectorLib.output_folder import make_folder

Progress = Callable[[str, float, str], None]
EQUAL_AT = (0.5, 1.0)  # false positives per case of the reference, whose sensitivity the others must reach
ANATOMY = " + anatomy"


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one variant does on the test cases.

    Attributes
    ----------
    variant : Variant
    choice : str
        What validation decided of what the method leaves open; empty where that is nothing.
    done : list of Evaluated
        The test cases.
    report : dict
        `figures.figures` of them at the threshold that validation chose.
    """

    variant: Variant
    choice: str
    done: list[Evaluated]
    report: dict[str, Any]

    @property
    def threshold(self) -> float:
        return float(self.report["at_threshold"]["threshold"])

    def pooled(self) -> Pooled:
        """Detections of all cases, for FROC curves."""
        return Pooled([case.matches(PRIMARY_MM) for case in self.done])


@dataclass(frozen=True, eq=False)
class Ablation:
    """A comparison: content of ``ablation.json``, what every variant found, and the test cases."""

    content: dict[str, Any]
    outcomes: dict[str, Outcome]
    cases: list[PreparedCase]


def ablate(
    cases_dir: Path,
    validation_dir: Path,
    out: Path,
    variants: Sequence[tuple[str, Path]],
    *,
    anatomy: str | None = None,
    models_dir: Path | None = None,
    device: str = "auto",
    progress: Progress = lambda stage, fraction, message: None,
) -> Ablation:
    """Compare variants, and a blob detector, on the same cases; write ``ablation.json`` and three CSV files.

    Parameters
    ----------
    cases_dir, validation_dir : Path
        Folders of cases with truth; thresholds and what else a method leaves open are chosen on the second alone.
    out : Path
        Folder for the results. It also keeps the prepared cases and the answers, so that a further variant costs its
        own search alone.
    variants : sequence of (str, Path)
        Name, and checkpoint or folder of exported networks. The first is the reference for equal sensitivity.
    anatomy : str or None
        The variant that is also shown with anatomical exclusion; the others count all candidates.
    models_dir : Path or None
        Folder of the segmenter; None takes the bundled one.

    Raises
    ------
    InputError
        A folder without cases, a file that is no network, a name given twice, an `anatomy` that names no variant, or
        validation cases that are the test cases.
    OutputError
        Nothing can be written to `out`.
    """
    blobs = blob_variant()
    names = [*(name for name, _ in variants), blobs.name]
    if twice := [name for name in names if names.count(name) > 1 or name.endswith(ANATOMY)]:
        raise InputError(f"The variant '{twice[0]}' needs another name: it is taken.")
    if anatomy is not None and anatomy not in names:
        raise InputError(f"The variant '{anatomy}', to be shown with anatomy, is none of: {', '.join(names)}.")
    if cases_dir.resolve() == validation_dir.resolve():
        raise InputError(
            f"{cases_dir} cannot hold both the test and the validation cases: on the latter thresholds are chosen."
        )
    for folder in (cases_dir, validation_dir):  # what is wrong with either is told before any is prepared
        case_folders(folder, needed=WITH_PHASE)
    make_folder(out)
    methods = [*(read_variant(name, path, device) for name, path in variants), blobs]
    segmenter = load_model("segmenter", device=device, models_dir=models_dir)
    test = prepare_cases(cases_dir, out / "cases", segmenter, progress)
    validation = prepare_cases(validation_dir, out / "cases", segmenter, progress)
    outcomes: dict[str, Outcome] = {}
    for method in methods:
        outcomes[method.name] = _outcome(method, validation, test, out, False, progress)
        if method.name == anatomy:
            outcomes[anatomy + ANATOMY] = _outcome(method, validation, test, out, True, progress)
    content = {
        "cases": len(test),
        "heads": sorted({case.truth["head"] for case in test}),
        "validation_cases": len(validation),
        "validation_heads": sorted({case.truth["head"] for case in validation}),
        "variants": {name: _figures(outcome) for name, outcome in outcomes.items()},
        "at_equal_sensitivity": _comparisons(outcomes),
    }
    _write(content, out)
    return Ablation(content, outcomes, test)


def _outcome(
    variant: Variant,
    validation: list[PreparedCase],
    test: list[PreparedCase],
    out: Path,
    with_anatomy: bool,
    progress: Progress,
) -> Outcome:
    """Choose on validation, then evaluate the test cases."""
    cases = [*validation, *test]
    found = []
    for n, case in enumerate(cases):
        progress(variant.name, n / len(cases), case.name)
        found.append(answers(variant, case, out / "answers"))

    def evaluated(part: slice, choice: str) -> list[Evaluated]:
        return [
            joined(case, by_choice[choice], with_anatomy)
            for case, by_choice in zip(cases[part], found[part], strict=True)
        ]

    first = slice(0, len(validation))
    choice = best_choice({choice: evaluated(first, choice) for choice in found[0]})
    chosen = choose_threshold(_matches(evaluated(first, choice)), ALLOWED_FALSE_POSITIVES)
    done = evaluated(slice(len(validation), None), choice)
    progress(variant.name, 1.0, variant.name)
    return Outcome(variant, choice, done, figures(done, chosen.threshold))


def best_choice(by_choice: dict[str, list[Evaluated]]) -> str:
    """Name the choice with the highest sensitivity on average over 0.25-4 false positives per case."""

    def quality(choice: str) -> float:
        curve = Pooled(_matches(by_choice[choice])).curve()
        return float(np.mean([curve.sensitivity_at(level) for level in FROC_AT]))

    return max(by_choice, key=quality)


def _matches(done: list[Evaluated]) -> list[Any]:
    return [case.matches(PRIMARY_MM) for case in done]


def joined(case: PreparedCase, detections: list[Detection], with_anatomy: bool) -> Evaluated:
    """Detections as candidates beside the truth; anatomy excludes some where it is asked."""
    candidates = [
        Candidate(
            center_ras_mm=found.center_ras_mm,
            diameter_mm=found.diameter_mm,
            volume_mm3=float("nan"),
            probability=found.probability,
            location=None,
            phase_evidence=PhaseEvidence.NO_PHASE,
        )
        for found in detections
    ]
    if with_anatomy and candidates:
        regions = case.segmentation()
        places = [locate(c.center_ras_mm, c.diameter_mm, regions) for c in candidates]
        candidates = [
            replace(c, location=location, exclusion=exclusion)
            for c, (location, exclusion) in zip(candidates, places, strict=True)
        ]
    return Evaluated(case.name, case.truth, tuple(candidates), case.dice)


def _figures(outcome: Outcome) -> dict[str, Any]:
    """Give the figures of a variant, with an interval for every point of the FROC curve that is tabulated."""
    pooled, heads = outcome.pooled(), _heads(outcome.done)
    curves = [pooled.curve(np.bincount(drawn, minlength=len(heads))) for drawn in draws(heads)]
    intervals = {f"{at:g}": percentiles([curve.sensitivity_at(at) for curve in curves]) for at in FROC_AT}
    of_regions = ("location_right", "location_right_by_probability", "dice")
    kept = {name: value for name, value in outcome.report.items() if name not in of_regions}
    return {
        "choice": outcome.choice,
        **kept,
        "intervals_at_false_positives": {at: [json_number(end) for end in ends] for at, ends in intervals.items()},
    }


def _comparisons(outcomes: dict[str, Outcome]) -> list[dict[str, Any]]:
    """All variants against the first, each with a proposal head against the one before, anatomy against without."""
    names = list(outcomes)
    plain = [name for name in names if not name.endswith(ANATOMY)]
    boxes = [name for name in plain if outcomes[name].variant.detector is not None]
    pairs = [(name, names[0]) for name in names[1:]]
    pairs += zip(boxes[1:], boxes, strict=False)
    pairs += [(name, name.removesuffix(ANATOMY)) for name in names if name not in plain]
    return [
        {"variant": name, "reference": reference, **at_equal_sensitivity(outcomes[name], outcomes[reference], level)}
        for name, reference in dict.fromkeys(pairs)
        for level in EQUAL_AT
    ]


def at_equal_sensitivity(
    outcome: Outcome, reference: Outcome, level: float, resamples: int = 2000
) -> dict[str, float | list[float | None] | None]:
    """Compare false positives at the sensitivity that the reference has with at most `level` of them per case.

    Returns
    -------
    dict
        ``sensitivity`` of the reference, ``false_positives`` of both at it, the ``change`` between them (-0.4 is 40 %
        fewer) and its 95 % ``interval``, from resamples in which both are read anew. None stands for what is infinite
        (a sensitivity that is not reached, an increase from nothing) and, where there is nothing to reach, unknown.
    """
    heads = _heads(outcome.done)
    ours, theirs = outcome.pooled(), reference.pooled()

    def change(times: Any) -> tuple[float, float, float, float]:
        other = theirs.curve(times)
        sensitivity = other.sensitivity_at(level)
        before = other.false_positives_at(sensitivity)
        after = ours.curve(times).false_positives_at(sensitivity)
        if not sensitivity > 0:  # reached by nothing at all
            relative = float("nan")
        elif before > 0:
            relative = after / before - 1
        else:
            relative = float("inf") if after > 0 else 0.0
        return sensitivity, before, after, relative

    sensitivity, before, after, relative = change(None)
    resampled = [change(np.bincount(drawn, minlength=len(heads)))[3] for drawn in draws(heads, resamples=resamples)]
    return {
        "reference_false_positives_at_most": level,
        "sensitivity": json_number(sensitivity),
        "reference_false_positives": json_number(before),
        "false_positives": json_number(after),
        "change": json_number(relative),
        "interval": [json_number(end) for end in percentiles(resampled)],
    }


def _heads(done: list[Evaluated]) -> list[str]:
    return [case.truth["head"] for case in done]


def _write(content: dict[str, Any], out: Path) -> None:
    """Write the report, and as tables its variants, strata and cases."""
    (out / "ablation.json").write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    variants, strata, cases = [], [], []
    for name, report in content["variants"].items():
        at = report["sensitivity_at_false_positives"]
        variants.append(
            {
                "variant": name,
                "choice": report["choice"],
                **{f"sensitivity_at_{level}": value for level, value in at.items()},
                **report["at_threshold"],
            }
        )
        for group, counts in report["sensitivity"].items():
            low, high = counts["interval"]
            row = {"found": counts["found"], "of": counts["of"], "share_from": low, "share_to": high}
            strata.append({"variant": name, "stratum": group, **row})
        cases += [{"variant": name, **row} for row in report["per_case"]]
    for title, rows in (("variants", variants), ("strata", strata), ("cases", cases)):
        with (out / f"{title}.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, rows[0], lineterminator="\n")
            table.writeheader()
            table.writerows(rows)
