"""The page of an ablation: its tables and pictures as Markdown, so that a reader sees what each part brings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from CMBDetectorLib.evaluation import pictures
from CMBDetectorLib.evaluation.ablation import ANATOMY, Ablation, Outcome
from CMBDetectorLib.evaluation.charts import draw
from CMBDetectorLib.evaluation.figures import ALLOWED_FALSE_POSITIVES
from CMBDetectorLib.evaluation.froc import FROC_AT
from CMBDetectorLib.evaluation.markdown import ends, number, percent, table
from CMBDetectorLib.evaluation.prepared import PreparedCase
from CMBDetectorLib.models import Model

PAGE = "ablation.md"
IMAGES = "images"


def write_page(ablation: Ablation, out: Path) -> Path:
    """Write ``ablation.md`` and its pictures."""
    content, outcomes = ablation.content, ablation.outcomes
    images = out / IMAGES
    images.mkdir(parents=True, exist_ok=True)
    reports = content["variants"]
    draw(reports, images / "ablation-froc.png")
    parts = [
        _head(content),
        _sensitivities(reports),
        _operating_points(reports),
        _equal_sensitivity(content["at_equal_sensitivity"]),
        f"![FROC, precision and recall, false positives per case]({IMAGES}/ablation-froc.png)",
        _strata(reports),
        _mimics(reports),
        *_pictures(outcomes, {case.name: case for case in ablation.cases}, images),
    ]
    path = out / PAGE
    path.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")
    return path


def _head(content: dict[str, Any]) -> str:
    reports = content["variants"]
    lesions = next(iter(reports.values()))["lesions"]
    free = sum(row["lesions"] == 0 for row in next(iter(reports.values()))["per_case"])
    chosen = [f"{name}: {report['choice']}" for name, report in reports.items() if report["choice"]]
    others = not set(content["heads"]) & set(content["validation_heads"])
    return (
        "# What each part of the detector brings\n\n"
        "Simulated scans; nothing here is of patients. Made by `python -m CMBDetectorLib ablate` from networks that "
        "were trained alike, for far shorter than the [bundled one](models.md); how, and what follows, stands in "
        "[method](method.md).\n\n"
        f"{content['cases']} simulated test cases ({free} without microbleeds) of {len(content['heads'])} heads "
        f"({', '.join(content['heads'])}) with {lesions} microbleeds. A detection counts when its center lies within "
        f"5 mm of a lesion's, one detection per lesion. Each variant's threshold is the lowest that gives at most "
        f"{ALLOWED_FALSE_POSITIVES} false positives per case on {content['validation_cases']} validation cases of "
        f"{'other' if others else 'the same'} heads. Brackets: 95 % intervals from 2,000 resamples "
        "of heads, then of cases in each; with few heads they are wide."
        + (f" Chosen on validation, too: {'; '.join(chosen)}." if chosen else "")
    )


def _sensitivities(reports: Mapping[str, Any]) -> str:
    rows = [
        [
            name,
            *(
                f"{percent(report['sensitivity_at_false_positives'][f'{at:g}'])} "
                f"{ends(report['intervals_at_false_positives'][f'{at:g}'])}"
                for at in FROC_AT
            ),
        ]
        for name, report in reports.items()
    ]
    return "## Sensitivity (%) by false positives per case\n\n" + table(
        ["variant", *(f"{at:g}" for at in FROC_AT)], rows
    )


def _operating_points(reports: Mapping[str, Any]) -> str:
    rows = []
    for name, report in reports.items():
        point, intervals = report["at_threshold"], report["intervals"]
        false = "false_positives_per_case"
        rows.append(
            [
                name,
                f"{point['threshold']:.2f}",
                f"{percent(point['sensitivity'])} {ends(intervals['sensitivity'])}",
                f"{percent(point['precision'])} {ends(intervals['precision'])}",
                f"{number(point[false])} [{number(intervals[false][0])}, {number(intervals[false][1])}]",
                number(point["false_positives_per_free_case"]),
                percent(point["f1"]),
            ]
        )
    titles = [
        "variant",
        "threshold",
        "sensitivity, %",
        "precision, %",
        "FP per case",
        "FP per lesion-free case",
        "F1, %",
    ]
    return "## At the threshold chosen on validation\n\n" + table(titles, rows)


def _equal_sensitivity(comparisons: Sequence[Mapping[str, Any]]) -> str:
    if not comparisons:
        return ""
    rows = [
        [
            row["variant"],
            row["reference"],
            f"{row['reference_false_positives_at_most']:g}",
            percent(row["sensitivity"]),
            number(row["reference_false_positives"]),
            "not reached" if row["false_positives"] is None else number(row["false_positives"]),
            _change(row),
        ]
        for row in comparisons
    ]
    titles = ["variant", "against", "at most", "sensitivity, %", "FP per case there", "FP per case here", "change, %"]
    return (
        "## False positives at equal sensitivity\n\n"
        "The sensitivity is what the other variant has with at most so many false positives per case.\n\n"
        + table(titles, rows)
    )


def _change(row: Mapping[str, Any]) -> str:
    """Relative change and its interval in percent; infinite where the other variant has no false positive."""
    if not row["sensitivity"] or row["false_positives"] is None:
        return "-"
    change = "+∞" if row["change"] is None else f"{100 * row['change']:+.0f}"
    return f"{change} {ends(row['interval'], '+.0f', '∞')}"


def _strata(reports: Mapping[str, Any]) -> str:
    groups = list(next(iter(reports.values()))["sensitivity"])
    if not groups:
        return ""
    found = [[report["sensitivity"][group] for report in reports.values()] for group in groups]
    rows = [
        [group, str(counts[0]["of"]), *(f"{100 * count['found'] / count['of']:.0f}" for count in counts)]
        for group, counts in zip(groups, found, strict=True)
    ]
    return "## Sensitivity (%) by kind of lesion, at the threshold\n\n" + table(["lesions", "number", *reports], rows)


def _mimics(reports: Mapping[str, Any]) -> str:
    kinds = sorted({kind for report in reports.values() for kind in report["false_positives_on"]})
    if not kinds:
        return ""
    rows = [[kind, *(str(report["false_positives_on"].get(kind, 0)) for report in reports.values())] for kind in kinds]
    return "## What the false positives lie on, at the threshold\n\n" + table(["within 5 mm", *reports], rows)


def _pictures(outcomes: Mapping[str, Outcome], cases: Mapping[str, PreparedCase], images: Path) -> list[str]:
    networks = _networks(outcomes)
    if not networks:
        return []
    places = {name: pictures.places(outcomes[name].done, outcomes[name].threshold) for name in networks}
    pictures.draw_features(
        {name: (networks[name], places[name]) for name in networks}, cases, images / "ablation-features.png"
    )
    parts = [
        f"## Feature vectors\n\n![t-SNE of feature vectors]({IMAGES}/ablation-features.png)\n\n"
        "t-SNE maps of the vector that the head reads, at the most probable cell within 3 mm of each place: lesions "
        "found and missed and false positives at the threshold, and known mimics that were passed over; at most "
        f"{pictures.MOST_PLACES} of a kind, drawn at random. Distances between groups on such a map mean little."
    ]
    parts += _levels(outcomes, networks, cases, images)
    parts += [_removed(outcome, cases, images) for name, outcome in outcomes.items() if name.endswith(ANATOMY)]
    return parts


def _networks(outcomes: Mapping[str, Outcome]) -> dict[str, Model]:
    """Networks that propose boxes, by variant, each once."""
    return {
        name: outcome.variant.detector
        for name, outcome in outcomes.items()
        if outcome.variant.detector is not None and not name.endswith(ANATOMY)
    }


def _levels(
    outcomes: Mapping[str, Outcome], networks: Mapping[str, Model], cases: Mapping[str, PreparedCase], images: Path
) -> list[str]:
    """Draw a lesion that the variant without fusion finds, and the strongest of its false positives."""
    fused = [name for name, model in networks.items() if model.module.fusion is not None]
    plain = [name for name, model in networks.items() if model.module.fusion is None]
    if not fused:
        return []
    first = outcomes[(plain or fused)[0]]
    rows = pictures.examples(first.done, first.threshold)
    if not rows:
        return []
    pictures.draw_levels(
        rows,
        (fused[0], networks[fused[0]]),
        (plain[0], networks[plain[0]]) if plain else None,
        cases,
        images / "ablation-levels.png",
    )
    return [
        f"## Decoder levels\n\n![Probability maps per decoder level]({IMAGES}/ablation-levels.png)\n\n"
        "Axial slices 32 mm wide through a lesion and a mimic (rings). The map of one level is what the head answers "
        "when only that level's term of the fused sum varies from place to place, the other two being held at their "
        "mean over the crop; a level has no answer of its own. The largest of three anchors and three slices is shown."
    ]


def _removed(outcome: Outcome, cases: Mapping[str, PreparedCase], images: Path) -> str:
    title = "## Candidates removed by anatomy\n\n"
    pairs = pictures.removed(outcome.done, outcome.threshold)
    lost = sum(pictures.is_lesion(case, candidate) for case, candidate in pairs)
    count = (
        f"Candidates that anatomy removes at the threshold, in {len(outcome.done)} cases: {len(pairs)}. Of them true "
        f"lesions: {lost}."
    )
    if not pairs:
        pairs = pictures.removed(outcome.done, 0.0)
        count += " The strongest below the threshold are shown." if pairs else ""
    if not pairs:
        return title + count
    pictures.draw_removed(pairs, cases, images / "ablation-removed.png")
    return (
        f"{title}![Candidates removed by anatomy]({IMAGES}/ablation-removed.png)\n\n{count} Axial SWI, 40 mm wide: "
        "probability, what is there, and why it is excluded. Blue: edge of the segmented brain tissue."
    )
