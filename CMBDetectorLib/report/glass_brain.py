"""A see-through brain from the segmented regions, with the candidates as numbered dots: where they are, at a glance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from skimage.measure import find_contours

from CMBDetectorLib.regions import REGION_COLORS, SUB_REGIONS, Region
from CMBDetectorLib.report.picture import VIEWS, View, brain_box
from CMBDetectorLib.volume import Volume

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Color = tuple[int, int, int]
Dot = tuple[int, tuple[float, float, float], Color]  # number, center in RAS mm, color

BRAIN: Color = (30, 31, 35)
DOT = 5  # radius, pixels
FINER = 3  # drawn larger and shrunk: PIL draws lines without smoothing


def draw_glass_brain(regions: Volume, dots: Sequence[Dot], size: int, font: Font) -> dict[View, Image.Image]:
    """Draw outlines of the regions, projected along each of the three views, and the dots; squares of `size` pixels.

    All views have one scale.
    """
    ordered = regions.in_ras_order()
    low, high = brain_box(ordered)
    scale = 0.84 * size / float(((high - low + 1) * ordered.spacing_mm).max())
    # One bit per group, so that one pass over the labels projects them all.
    group_of_label = np.array([0, *(1 << list(Region).index(sub.region) for sub in SUB_REGIONS)], np.uint8)
    groups = group_of_label[ordered.array]
    pictures = {}
    for view in VIEWS:

        def pixel(index: npt.ArrayLike, view: View = view) -> npt.NDArray[np.float64]:
            """Give the place in the picture of voxel indices (..., 3), in RAS order."""
            mm = (np.asarray(index, float) - (low + high) / 2) * ordered.spacing_mm
            return size / 2 - scale * mm[..., [view.across, view.up]]

        large = Image.new("RGB", (size * FINER, size * FINER))
        draw = ImageDraw.Draw(large)
        shadow = np.bitwise_or.reduce(groups, axis=view.through)
        for mask, fill, line in (
            (shadow > 0, BRAIN, (90, 90, 96)),
            *((shadow & (1 << n) > 0, None, _dimmed(REGION_COLORS[region])) for n, region in enumerate(Region)),
        ):
            for contour in _outlines(mask, view, ordered.spacing_mm):
                points = [tuple(point) for point in (pixel(contour) * FINER).tolist()]
                draw.polygon(points, fill=fill)
                draw.line(points, fill=line, width=FINER)
        places = [pixel(ordered.ijk_of(center)) for _, center, _ in dots]
        for place, (_, _, color) in zip(places, dots, strict=True):
            box = [*((place - DOT) * FINER), *((place + DOT) * FINER)]
            draw.ellipse(box, fill=color, outline=(0, 0, 0), width=FINER)
        pictures[view] = large.resize((size, size), Image.Resampling.LANCZOS)
        _number(pictures[view], places, [str(number) for number, _, _ in dots], font)
    return pictures


def _outlines(shadow: npt.NDArray[np.bool_], view: View, spacing_mm: npt.NDArray[np.float64]) -> list[npt.NDArray]:
    """Trace a projected mask, smoothed by 1.5 mm, as closed contours of voxel indices (N, 3)."""
    # Its axes: the lower-numbered of across and up first, as in VIEWS.
    soft = ndimage.gaussian_filter(np.pad(shadow, 4).astype(float), 1.5 / spacing_mm[[view.across, view.up]])
    contours = []
    for line in find_contours(soft, 0.5):
        index = np.zeros((len(line), 3))
        index[:, [view.across, view.up]] = line - 4
        contours.append(index)
    return contours


def _number(picture: Image.Image, places: list[npt.NDArray[np.float64]], labels: list[str], font: Font) -> None:
    """Write each number beside its dot, where it covers no other dot and no other number if there is room."""
    draw = ImageDraw.Draw(picture)
    taken = [(*(place - DOT), *(place + DOT)) for place in places]
    for place, label in zip(places, labels, strict=True):
        left, top, right, bottom = draw.textbbox((0, 0), label, font=font)
        options = []
        for reach in (DOT + 3, DOT + 14):
            for angle in np.arange(8) * np.pi / 4:
                center = place + np.array([np.cos(angle) * (reach + (right - left) / 2), np.sin(angle) * (reach + 6)])
                corner = center - ((left + right) / 2, (top + bottom) / 2)
                options.append((corner, (corner[0] + left, corner[1] + top, corner[0] + right, corner[1] + bottom)))
        corner, box = min(options, key=lambda option: sum(_overlap(option[1], other) for other in taken))
        taken.append(box)
        draw.text(tuple(corner), label, font=font, fill=(240, 240, 240), stroke_width=1, stroke_fill=(0, 0, 0))


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _dimmed(color: Color) -> Color:
    return color[0] * 6 // 10, color[1] * 6 // 10, color[2] * 6 // 10
