"""Pictures of an ablation from the images themselves: feature vectors, decoder levels, what anatomy removes.

After Kim et al., Figs. 6, 7 and 11. Needs matplotlib and scikit-learn, which the extra ``evaluation`` brings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from CMBDetectorLib.candidate import Candidate
from CMBDetectorLib.errors import InputError
from CMBDetectorLib.evaluation.charts import COLORS, REMEDY, new_figure
from CMBDetectorLib.evaluation.evaluated import Evaluated
from CMBDetectorLib.evaluation.features import Crop, feature_vectors, level_maps
from CMBDetectorLib.evaluation.matching import FALSE, PRIMARY_MM
from CMBDetectorLib.evaluation.prepared import PreparedCase
from CMBDetectorLib.models import Model
from CMBDetectorLib.networks.anchors import SPACING_MM, STRIDE
from CMBDetectorLib.report.picture import AXIAL, body_axes, plane
from CMBDetectorLib.volume import Volume

KINDS = ("lesion found", "lesion missed", "false positive", "mimic passed over")
MARKS = ("o", "X", "s", ".")
MOST_PLACES = 60  # of a kind: a picture of more is a smear, and every place costs a look by the network
WIDTH_MM = 32.0
LEAST_SHOWN = 0.001  # probability: on a linear scale, all but the strongest answer of a single level looks empty
MOST_REMOVED = 10

Cases = Mapping[str, PreparedCase]


@dataclass(frozen=True)
class Place:
    """Where something of one of `KINDS` is, in which case."""

    kind: str
    case: str
    center_ras_mm: tuple[float, float, float]
    note: str = ""


def places(done: Sequence[Evaluated], threshold: float, *, most: int = MOST_PLACES, seed: int = 0) -> list[Place]:
    """Lesions found and missed, false positives, and known mimics far from anything found; a random part of many."""
    all_places: dict[str, list[Place]] = {kind: [] for kind in KINDS}

    def add(kind: str, case: Evaluated, center_ras_mm: Sequence[float], note: str) -> None:
        r, a, s = center_ras_mm
        all_places[kind].append(Place(kind, case.name, (r, a, s), note))

    for case in done:
        matched, kept = case.matches(PRIMARY_MM), case.counted
        shown = [(c, lesion) for c, lesion in zip(kept, matched.lesion, strict=True) if c.probability >= threshold]
        for candidate, lesion in shown:
            if lesion >= 0:
                add(KINDS[0], case, candidate.center_ras_mm, f"{candidate.probability:.2f}")
            elif lesion == FALSE:
                add(KINDS[2], case, candidate.center_ras_mm, f"{candidate.probability:.2f}")
        found = {int(lesion) for _, lesion in shown}
        for n, lesion in enumerate(case.truth["lesions"]):
            if n not in found:
                add(KINDS[1], case, lesion["center_ras_mm"], f"{lesion['diameter_mm']:.1f} mm")
        taken = [c.center_ras_mm for c, _ in shown] + [b["center_ras_mm"] for b in _bleeds(case)]
        for mimic in case.truth["mimics"]:
            if not _near(mimic["center_ras_mm"], taken):
                add(KINDS[3], case, mimic["center_ras_mm"], mimic["kind"])
    rng = np.random.default_rng(seed)
    chosen: list[Place] = []
    for of_kind in all_places.values():
        order = rng.permutation(len(of_kind))[:most]
        chosen += [of_kind[n] for n in sorted(order)]
    return chosen


def examples(done: Sequence[Evaluated], threshold: float) -> list[Place]:
    """The found lesion of middle probability, and the most probable false positive, or else a mimic passed over."""
    all_places = places(done, threshold, most=sum(len(case.truth["mimics"]) + len(case.candidates) for case in done))
    of_kind = {kind: sorted((p for p in all_places if p.kind == kind), key=lambda p: p.note) for kind in KINDS}
    found, false = of_kind[KINDS[0]], of_kind[KINDS[2]]
    return found[len(found) // 2 :][:1] + (false[-1:] or of_kind[KINDS[3]][:1])


def _bleeds(case: Evaluated) -> list[dict[str, Any]]:
    return [*case.truth["lesions"], *case.truth["faint"]]


def _near(center_ras_mm: npt.ArrayLike, others: Sequence[npt.ArrayLike]) -> bool:
    points = np.reshape(np.asarray(others, float), (-1, 3))
    return bool((np.linalg.norm(points - np.asarray(center_ras_mm, float), axis=1) <= PRIMARY_MM).any())


def draw_features(variants: Mapping[str, tuple[Model, Sequence[Place]]], cases: Cases, path: Path) -> None:
    """Draw one t-SNE map of feature vectors per variant, by name: its network and its places."""
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        raise InputError("The map of feature vectors needs scikit-learn. " + REMEDY) from None
    figure = new_figure(4.2 * len(variants), 4.6 if len(variants) > 1 else 4.9)
    handles: dict[str, Any] = {}
    for axes, (name, (model, chosen)) in zip(
        figure.subplots(1, len(variants), squeeze=False)[0], variants.items(), strict=True
    ):
        vectors = feature_vectors(model, [Crop.around(cases[p.case].network_input(), p.center_ras_mm) for p in chosen])
        if len(chosen) > 4:
            perplexity = min(30.0, (len(chosen) - 1) / 3)
            flat = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(vectors)
        else:
            flat = np.zeros((len(chosen), 2))
        kinds = np.array([p.kind for p in chosen])
        for kind, mark, color in zip(KINDS, MARKS, (COLORS[0], COLORS[1], COLORS[3], "#999999"), strict=True):
            points = flat[kinds == kind]
            handles[kind] = axes.scatter(*points.T, marker=mark, s=26, color=color, linewidths=0, label=kind)
        axes.set(title=name, xticks=[], yticks=[])
    figure.legend(
        handles.values(), handles, loc="outside lower center", ncols=4 if len(variants) > 1 else 2, frameon=False
    )
    figure.savefig(path)


def draw_levels(
    rows: Sequence[Place], fused: tuple[str, Model], plain: tuple[str, Model] | None, cases: Cases, path: Path
) -> None:
    """Draw SWI, phase and the probability map of every level at some places, of a network with fusion and one without.

    Networks come with their names.
    """
    drawn = []
    for place in rows:
        crop = Crop.around(cases[place.case].network_input(), place.center_ras_mm)
        maps = {f"{fused[0]}\n{title}": values for title, values in level_maps(fused[1], crop).items()}
        if plain is not None:
            maps |= {f"{plain[0]}\n{title}": values for title, values in level_maps(plain[1], crop).items()}
        drawn.append((place, crop, maps))
    columns = 2 + len(drawn[0][2])
    figure = new_figure(1.65 * columns + 0.8, 1.72 * len(rows) + 0.4)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    heat = None
    for line, (place, crop, maps) in zip(grid, drawn, strict=True):
        swi, phase = crop.image[:2].numpy()
        _slice(line[0], swi, crop, (1.0, 1.0, 1.0), "gray", (-0.8, 0.4))
        _slice(line[1], phase, crop, (1.0, 1.0, 1.0), "gray", (-0.4, 0.4))
        for axes, values in zip(line[2:], maps.values(), strict=True):
            heat = _slice(axes, values, crop, STRIDE, "viridis", (LEAST_SHOWN, 1.0), norm="log")
        line[0].set_ylabel(f"{place.kind}\n{place.note}")
    for axes, title in zip(grid[0], ["SWI", "phase", *drawn[0][2]], strict=True):
        axes.set_title(title, fontsize=9)
    figure.colorbar(heat, ax=grid[:, -1], label="probability", shrink=0.8)
    figure.savefig(path)


def _slice(
    axes: Any,
    values: npt.NDArray,
    crop: Crop,
    step: tuple[float, ...],
    colors: str,
    window: tuple[float, float],
    norm: str = "linear",
) -> Any:
    """Show the axial slice through a crop's place, `WIDTH_MM` wide, as radiologists see it; the place is ringed.

    Of a probability map, the largest of three slices: the cell that answers may be the one above or below.
    """
    spacing = np.multiply(step, SPACING_MM)
    first = (np.asarray(step) - 1) / 2 * SPACING_MM  # center of the first cell
    level = int(np.clip(np.rint((crop.place_mm[2] - first[2]) / spacing[2]), 0, values.shape[2] - 1))
    low, high = first[:2] - spacing[:2] / 2, first[:2] + spacing[:2] * (np.array(values.shape[:2]) - 0.5)
    shown = values[:, :, level] if norm == "linear" else values[:, :, max(level - 1, 0) : level + 2].max(axis=2)
    image = axes.imshow(
        shown.T.clip(*window), origin="lower", extent=(low[0], high[0], low[1], high[1]), cmap=colors,
        norm=norm, clim=window, interpolation="nearest",
    )  # fmt: skip
    r, a, _ = crop.place_mm
    axes.plot([r], [a], "o", markersize=17, markerfacecolor="none", markeredgecolor="#E69F00", markeredgewidth=1.2)
    half = WIDTH_MM / 2
    axes.set(xlim=(r + half, r - half), ylim=(a - half, a + half), xticks=[], yticks=[])  # patient's right on the left
    return image


def removed(done: Sequence[Evaluated], threshold: float) -> list[tuple[Evaluated, Candidate]]:
    """Candidates at or above the threshold that anatomy excludes, by falling probability."""
    all_removed = [(e, c) for e in done for c in e.candidates if c.is_excluded and c.probability >= threshold]
    return sorted(all_removed, key=lambda pair: -pair[1].probability)


def is_lesion(case: Evaluated, candidate: Candidate) -> bool:
    """Whether a true lesion that asks to be found is there."""
    return _near(candidate.center_ras_mm, [lesion["center_ras_mm"] for lesion in case.truth["lesions"]])


def draw_removed(pairs: Sequence[tuple[Evaluated, Candidate]], cases: Cases, path: Path) -> None:
    """Draw axial SWI crops of candidates that anatomy excludes, with the outline of the segmented brain tissue."""
    shown = pairs[:MOST_REMOVED]
    columns = min(5, len(shown))
    rows = -(-len(shown) // columns)
    figure = new_figure(2.2 * columns, 2.7 * rows)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels:
        axes.set_axis_off()
    for axes, (case, candidate) in zip(panels, shown, strict=False):
        seen, regions = cases[case.name].network_input(), cases[case.name].segmentation().regions
        swi = Volume(seen.array[0].astype(np.float32), seen.ijk_to_ras)  # scipy knows no float16
        tissue = regions.with_array((regions.array > 0).astype(np.float32))
        cut = {
            name: plane(volume, candidate.center_ras_mm, AXIAL, body_axes(swi), width_mm=40.0, pixels=120, order=1)
            for name, volume in (("swi", swi), ("tissue", tissue))
        }
        axes.imshow(cut["swi"], cmap="gray", vmin=-0.8, vmax=0.5)
        axes.contour(np.nan_to_num(cut["tissue"]), levels=[0.5], colors="#56B4E9", linewidths=0.8)
        axes.plot([59.5], [59.5], "o", markersize=22, markerfacecolor="none", markeredgecolor="#E69F00")
        truth = "true lesion" if is_lesion(case, candidate) else "no lesion"
        axes.set_title(
            f"{candidate.probability:.2f}, {truth}\n{candidate.exclusion}",
            fontsize=8, color="#D55E00" if truth == "true lesion" else "black",
        )  # fmt: skip
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    """Write a picture of many gray crops in 256 colors: a third of the size."""
    figure.savefig(path)
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
