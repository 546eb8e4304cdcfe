"""How well the segmenter names the regions of simulated cases: ``python -m CMBDetectorLib evaluate-regions``."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from CMBDetectorLib.evaluation.fluid import dice_by_brightness, fluid_contrast
from CMBDetectorLib.evaluation.folders import case_folders, each_case, prepare_folder, true_regions
from CMBDetectorLib.evaluation.limits import dice_at_best
from CMBDetectorLib.evaluation.markdown import number, table
from CMBDetectorLib.evaluation.overlap import TISSUE, compare
from CMBDetectorLib.models import Model, load_model
from CMBDetectorLib.regions import SUB_REGIONS, Region
from CMBDetectorLib.report.picture import AXIAL, body_axes, brain_box, gray, plane, swi_window
from CMBDetectorLib.segment import segment
from CMBDetectorLib.simulation.truth import truth_of
from CMBDetectorLib.volume import Volume, read_volume

Progress = Callable[[str, float, str], None]
WORST = 3  # cases that are shown
FLUID_CONTRASTS = {"under 1": (0, 1), "1 to 3": (1, 3), "3 or more": (3, np.inf)}
BY_BRIGHTNESS = "tissue by brightness"
HEIGHTS = (0.3, 0.5, 0.7)  # of the slices shown, between the lowest and the highest with tissue
WIDTH_MM, PIXELS = 180.0, 240
PICTURE = "regions-{}.png"  # of a case
COLORS = 128  # of a picture: half the size of the file


@dataclass(frozen=True)
class Agreement:
    """One case: how the regions found agree with the true ones.

    Attributes
    ----------
    case, head, protocol : str
    dice : dict of float
        Per group region and MARS sub-region, and of all tissue; those that the scan does not show are left out.
    in_tissue : dict of float
        Dice per group region where there is tissue and some was found: which region it is, not where fluid begins.
    volume_error : dict of float
        Per group region, found over true volume minus 1.
    fluid_contrast : float
        How well the scan shows where tissue ends (`fluid.fluid_contrast`); NaN where that cannot be measured.
    by_brightness : float
        Dice of all tissue that an observer of brightness reaches at best (`fluid.dice_by_brightness`).
    at_best : dict of dict of float
        Dice of the group regions if one thing were perfect (`limits.dice_at_best`).
    """

    case: str
    head: str
    protocol: str
    dice: dict[str, float]
    in_tissue: dict[str, float]
    volume_error: dict[str, float]
    fluid_contrast: float
    by_brightness: float
    at_best: dict[str, dict[str, float]]

    @property
    def mean_dice(self) -> float:
        """Mean over the group regions, by which cases are ranked."""
        return float(np.mean([self.dice[region.value] for region in Region if region.value in self.dice]))


def evaluate_regions(
    cases_dirs: Sequence[Path],
    out: Path,
    *,
    device: str = "auto",
    models_dir: Path | None = None,
    overwrite: bool = False,
    progress: Progress = lambda stage, fraction, message: None,
) -> dict[str, Any]:
    """Segment every case below some folders; write ``regions.json``, ``regions.md`` and pictures of the worst cases.

    Raises
    ------
    InputError, OutputError
        As `cohort.evaluate` does.

    Returns
    -------
    dict
        Content of ``regions.json``: Dice and volumes of the regions, and, by name, why cases were ``left_out``.
    """
    segmenter = load_model("segmenter", device=device, models_dir=models_dir)
    folders = case_folders(*cases_dirs)
    prepare_folder(out, "regions.json", overwrite)
    agreements, left_out = each_case(
        folders, lambda name, folder: _agreement(name, folder, segmenter), partial(progress, "evaluate-regions")
    )
    content = {**summary(agreements), "left_out": left_out}
    (out / "regions.json").write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    worst = sorted(agreements, key=lambda agreement: agreement.mean_dice)[:WORST]
    (out / "regions.md").write_text(page(content, worst), encoding="utf-8")
    for agreement in worst:
        drawn = draw(*_segmented(folders[agreement.case], segmenter)).quantize(COLORS)
        drawn.save(out / PICTURE.format(agreement.case), optimize=True)
    progress("evaluate-regions", 1.0, f"{len(agreements)} cases")
    return content


def _agreement(name: str, folder: Path, segmenter: Model) -> Agreement:
    swi, found, true = _segmented(folder, segmenter)
    truth = truth_of(folder)
    agreed = compare(found.array, true.array)
    return Agreement(
        name, truth["head"], truth["protocol"], *agreed,
        fluid_contrast(swi, true), dice_by_brightness(swi, true), dice_at_best(found, true),
    )  # fmt: skip


def _segmented(folder: Path, segmenter: Model) -> tuple[Volume, Volume, Volume]:
    """SWI, regions found and true regions of a case."""
    swi = read_volume(folder / "swi.nii.gz")
    return swi, segment(segmenter, swi, lambda *_: None).regions, true_regions(folder, swi)


def summary(agreements: Sequence[Agreement]) -> dict[str, Any]:
    """Mean and least Dice per region, mean per protocol, and errors of the volumes over all cases."""
    names = [*(region.value for region in Region), *(sub.name for sub in SUB_REGIONS), TISSUE]
    every = {name: [a.dice[name] for a in agreements if name in a.dice] for name in names}
    errors = {r.value: [a.volume_error[r.value] for a in agreements if r.value in a.volume_error] for r in Region}
    tissue = {r.value: [a.in_tissue[r.value] for a in agreements if r.value in a.in_tissue] for r in Region}
    protocols = sorted({a.protocol for a in agreements})
    visible = {
        words: [a for a in agreements if low <= abs(a.fluid_contrast) < high]
        for words, (low, high) in FLUID_CONTRASTS.items()
    }
    return {
        "cases": len(agreements),
        "heads": sorted({a.head for a in agreements}),
        "dice": {
            name: {"mean": round(float(np.mean(values)), 3), "least": round(min(values), 3)}
            for name, values in every.items()
            if values
        },
        "dice_in_tissue": {name: round(float(np.mean(values)), 3) for name, values in tissue.items() if values},
        "volume_error": {
            name: {"mean": round(float(np.mean(values)), 3), "largest": round(float(np.abs(values).max()), 3)}
            for name, values in errors.items()
            if values
        },
        "dice_at_best": {words: _means([a.at_best[words] for a in agreements]) for words in agreements[0].at_best},
        "dice_by_protocol": {
            protocol: _group_means([a for a in agreements if a.protocol == protocol]) for protocol in protocols
        },
        "dice_by_fluid_contrast": {
            words: {"cases": len(shown)} | _group_means(shown) | _of_tissue(shown)
            for words, shown in visible.items()
            if shown
        },
        "per_case": [
            {"case": a.case, "head": a.head, "protocol": a.protocol}
            | ({} if np.isnan(a.fluid_contrast) else {"fluid_contrast": round(a.fluid_contrast, 2)})
            | ({} if np.isnan(a.by_brightness) else {BY_BRIGHTNESS: round(a.by_brightness, 3)})
            | {name: round(value, 3) for name, value in a.dice.items()}
            for a in agreements
        ],
    }


def _group_means(agreements: Sequence[Agreement]) -> dict[str, float]:
    """Mean Dice of the group regions."""
    return _means([a.dice for a in agreements])


def _means(dices: Sequence[dict[str, float]]) -> dict[str, float]:
    every = {r.value: [dice[r.value] for dice in dices if r.value in dice] for r in Region}
    return {name: round(float(np.mean(values)), 3) for name, values in every.items() if values}


def _of_tissue(agreements: Sequence[Agreement]) -> dict[str, float]:
    """Mean Dice of all tissue, and of what brightness can tell of it at best."""
    found, best = ([a.dice[TISSUE] for a in agreements], [a.by_brightness for a in agreements])
    return {TISSUE: round(float(np.mean(found)), 3), BY_BRIGHTNESS: round(float(np.mean(best)), 3)}


def page(content: dict[str, Any], worst: Sequence[Agreement]) -> str:
    """Text of ``regions.md``."""
    groups = [region.value for region in Region]
    volume, tissue = content["volume_error"], content["dice_in_tissue"]

    def means_table(title: str, means_of: dict[str, dict[str, float]]) -> str:
        rows = [[words, *(number(means.get(g)) for g in groups)] for words, means in means_of.items()]
        return table([title, *groups], rows)

    regions = []
    for name, values in content["dice"].items():
        errors = [f"{volume[name]['mean']:+.0%}", f"{volume[name]['largest']:.0%}"] if name in volume else ["-", "-"]
        dice = (number(each) for each in (values["mean"], values["least"], tissue.get(name)))
        regions.append([f"**{name}**" if name in groups else name, *dice, *errors])
    contrast = [
        [words, str(means["cases"]), *(number(means.get(g)) for g in [*groups, TISSUE, BY_BRIGHTNESS])]
        for words, means in content["dice_by_fluid_contrast"].items()
    ]
    lines = [
        "# Regions of simulated cases",
        "",
        f"{content['cases']} simulated cases of the heads {', '.join(content['heads'])}; no patients.",
        *(f"Left out: {name}. {why}" for name, why in content.get("left_out", {}).items()),
        "",
        table(["region", "Dice, mean", "Dice, least", "Dice in tissue", "volume error, mean", "volume error, largest"],
              regions),
        "",
        "In tissue: where there is brain tissue and some was found, so which region it is and not where fluid begins.",
        "",
        "Mean Dice if one thing were perfect: where tissue ends; which region it is; all but what the network's grid "
        "can show.",
        "",
        means_table("compared with the true map", content["dice_at_best"]),
        "",
        "Dice by protocol:",
        "",
        means_table("protocol", content["dice_by_protocol"]),
        "",
        "Dice by how well the scan shows where tissue ends: difference of fluid and of the tissue beside it, brighter "
        "or darker, in standard deviations of that tissue. Last: what an observer reaches who goes by brightness, is "
        "told the brain's outline, and is tuned on the very scan.",
        "",
        table(["difference", "cases", *groups, "tissue", "tissue, by brightness"], contrast),
        "",
        f"The {len(worst)} worst cases, each at three levels: SWI, true regions, regions found.",
        "",
    ]  # fmt: skip
    for a in worst:
        figures = ", ".join(f"{g} {a.dice[g]:.2f}" for g in groups if g in a.dice)
        picture = PICTURE.format(a.case)
        lines += [f"![{a.case}]({picture})", "", f"{a.case} (head {a.head}, {a.protocol}): {figures}.", ""]
    return "\n".join(lines)


def draw(swi: Volume, found: Volume, true: Volume) -> Image.Image:
    """SWI, true regions and regions found, in three axial slices."""
    first, last = brain_box(true.in_ras_order())
    axes, window = body_axes(swi), swi_window(swi, true)
    colors = np.array([(0, 0, 0), *(sub.color for sub in SUB_REGIONS)], np.float64)
    rows = []
    for height in HEIGHTS:
        share = np.array([0.5, 0.5, height])
        center = true.in_ras_order().ras_of(np.rint(first + share * (last - first)))
        bright = np.repeat(
            gray(plane(swi, center, AXIAL, axes, width_mm=WIDTH_MM, pixels=PIXELS, order=1), window)[..., None],
            3,
            axis=-1,
        )
        columns = [bright.astype(np.float64)]
        for labels in (true, found):
            shown = np.nan_to_num(plane(labels, center, AXIAL, axes, width_mm=WIDTH_MM, pixels=PIXELS, order=0)).astype(
                int
            )
            columns.append(np.where(shown[..., None] > 0, 0.5 * bright + 0.5 * colors[shown], bright))
        rows.append(np.concatenate(columns, axis=1))
    picture = Image.fromarray(np.concatenate(rows).clip(0, 255).astype(np.uint8))
    ImageDraw.Draw(picture).text((4, 4), "SWI | true regions | regions found", fill=(255, 255, 255))
    return picture
