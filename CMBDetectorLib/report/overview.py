"""``overview.png``: every candidate in three planes of SWI and phase, so that a reader can judge from the picture."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePath

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from CMBDetectorLib import RESEARCH_USE
from CMBDetectorLib.candidate import Candidate
from CMBDetectorLib.regions import REGION_COLORS, Region
from CMBDetectorLib.report.glass_brain import draw_glass_brain
from CMBDetectorLib.report.picture import (
    AXIAL,
    CORONAL,
    VIEWS,
    Gray,
    Values,
    View,
    body_axes,
    brain_box,
    gray,
    minimum_slab,
    phase_window,
    plane,
    swi_window,
)
from CMBDetectorLib.report.summary import NONE_FOUND, NOT_REVIEWED, count_bin
from CMBDetectorLib.result import Result, pattern
from CMBDetectorLib.volume import Volume

SHOWN = 24  # rows; more would make a picture that no viewer opens at full size
FIELD_MM = 36.0  # side of a tile: a lesion of 3 mm is 17 pixels wide
SLAB_MM = 8.0  # of the minIP
TILE = 208  # pixels
MAP = 300
CAPTION = 26
GAP = 14
MARGIN = 28
TEXT = 310  # width of the column of words
LINE = 21

Color = tuple[int, int, int]
BACKGROUND: Color = (10, 10, 12)
BRIGHT: Color = (240, 240, 240)
PLAIN: Color = (200, 200, 200)
DIM: Color = (140, 140, 140)
MARK: Color = (255, 214, 90)
WARNING: Color = (255, 150, 110)


def write_overview(result: Result, path: Path, tell: Callable[[float], None] = lambda fraction: None) -> None:
    """Draw the page: where the candidates are, then one row each (at most `SHOWN`), counted ones first.

    A page without counted candidates shows six slices of what was searched instead. Patient's left is on the right.
    `tell` hears the share drawn, 0-1, before each row, and may raise `Cancelled`.
    """
    overview(result, tell).save(path, format="PNG", compress_level=3)  # half the time of 6 for a tenth more bytes


def overview(result: Result, tell: Callable[[float], None] = lambda fraction: None) -> Image.Image:
    """Draw the page as an RGB image; see `write_overview`."""
    candidates = [*result.counted, *(c for c in result.reported if c.is_excluded)]
    columns = 7 if result.phase else 5
    width = 2 * MARGIN + TEXT + max(columns * (TILE + GAP), 3 * (MAP + GAP)) - GAP
    blocks = [_header(result, width), *(_notice(notice, width) for notice in result.notices)]
    if not result.counted:
        blocks.append(_nothing_counted(result, width))
    if candidates:
        blocks.append(_key(result, width))
    tiles, shown = _Tiles(result), candidates[:SHOWN]
    for index, candidate in enumerate(shown):
        tell(index / len(shown))
        blocks.append(_row(candidate, tiles.of(candidate), width))
    blocks.append(_footer(result, width, len(candidates) - SHOWN))
    page = Image.new("RGB", (width, sum(block.height for block in blocks)), BACKGROUND)
    top = 0
    for block in blocks:
        page.paste(block, (0, top))
        top += block.height
    return page


@dataclass(frozen=True)
class Tile:
    """A square picture with its caption, its plane, and where in it (x, y; pixels) the candidate lies."""

    caption: str
    view: View
    pixels: Gray
    candidate: tuple[int, int] = (TILE // 2, TILE // 2)


class _Tiles:
    """The pictures of one candidate after another, through windows and at a scale that are the same for all."""

    def __init__(self, result: Result) -> None:
        self.result = result
        self.axes = body_axes(result.swi)
        self.brain_center_ras_mm, self.brain_mm = _brain(result)
        self.swi_window = swi_window(result.swi, result.regions)
        self.phase_window = phase_window(result.phase, result.regions) if result.phase else None

    def of(self, candidate: Candidate) -> list[Tile]:
        """Cut the whole slice for orientation, then the candidate on SWI and phase, at the middle of each tile."""
        at, swi = np.array(candidate.center_ras_mm), self.result.swi

        def cut(volume: Volume, view: View, order: int = 3) -> Values:
            return plane(volume, at, view, self.axes, width_mm=FIELD_MM, pixels=TILE, order=order)

        tiles = [self._whole_slice(at)]
        tiles += [Tile(f"SWI {view.name}", view, gray(cut(swi, view), self.swi_window)) for view in VIEWS]
        slab = minimum_slab(swi, at, AXIAL, self.axes, width_mm=FIELD_MM, pixels=TILE, thickness_mm=SLAB_MM)
        tiles.append(Tile(f"minIP {SLAB_MM:.0f} mm", AXIAL, gray(slab, self.swi_window)))
        if self.result.phase and self.phase_window:
            # Two planes show the field of a lesion, which is round about the axis of the magnet; order 1, because a
            # spline would ring at the jumps of wrapped phase.
            tiles += [
                Tile(f"phase {view.name}", view, gray(cut(self.result.phase, view, order=1), self.phase_window))
                for view in (AXIAL, CORONAL)
            ]
        return tiles

    def _whole_slice(self, at: npt.NDArray[np.float64]) -> Tile:
        offset_mm = self.axes @ (at - self.brain_center_ras_mm)  # along R, A, S of the scan
        center = self.brain_center_ras_mm + offset_mm[AXIAL.through] * self.axes[AXIAL.through]
        values = plane(self.result.swi, center, AXIAL, self.axes, width_mm=self.brain_mm, pixels=TILE, order=1)
        x, y = TILE / 2 - offset_mm[[AXIAL.across, AXIAL.up]] * TILE / self.brain_mm
        return Tile("whole slice", AXIAL, gray(values, self.swi_window), (round(x), round(y)))


def _header(result: Result, width: int) -> Image.Image:
    block, draw = _block(width, MARGIN + MAP + CAPTION + 2 * GAP)
    made, counted = result.provenance, result.counted
    y = _write(draw, (MARGIN, MARGIN - 8), "Microbleed candidates", 27, BRIGHT)
    y = _write(draw, (MARGIN, y + 8), f"SWI: {PurePath(made.swi.path).name}", 14, PLAIN, TEXT - 20)
    y = _write(draw, (MARGIN, y), f"Phase: {made.phase_in_words}", 14, PLAIN, TEXT - 20)
    y = _write(draw, (MARGIN, y + 12), f"{len(counted)} counted (bin {count_bin(len(counted))})", 20, BRIGHT)
    for region in Region:
        number = sum(c.location.region is region for c in counted if c.location)
        draw.ellipse((MARGIN + 2, y + 6, MARGIN + 12, y + 16), fill=REGION_COLORS[region])
        y = _write(draw, (MARGIN + 22, y + 1), f"{number} {region.value}", 16, PLAIN)
    y = _write(draw, (MARGIN, y + 6), f"Pattern: {pattern(counted)}", 16, PLAIN)
    if excluded := len(result.reported) - len(counted):
        y = _write(draw, (MARGIN, y), f"{excluded} excluded by anatomy", 16, PLAIN)
    _write(draw, (MARGIN, y + 6), NOT_REVIEWED if result.reported else "", 14, WARNING, TEXT - 20)
    dots = [(c.number, c.center_ras_mm, _color(c)) for c in result.reported]
    for index, (view, picture) in enumerate(draw_glass_brain(result.regions, dots, MAP, _font(15)).items()):
        x = MARGIN + TEXT + index * (MAP + GAP)
        block.paste(picture, (x, MARGIN))
        _letters(draw, view, (x, MARGIN), MAP)
        draw.text((x, MARGIN + MAP + 3), f"all candidates, {view.name}", font=_font(14), fill=DIM)
    return block


def _notice(text: str, width: int) -> Image.Image:
    """Draw what a reader of the page must know of the images or the search, in as many lines as it takes."""
    size, inside = 15, width - 2 * MARGIN
    block, draw = _block(width, len(_lines(f"Note: {text}", size, inside)) * (size + 5) + 4)
    _write(draw, (MARGIN, 0), f"Note: {text}", size, PLAIN, inside)
    return block


def _key(result: Result, width: int) -> Image.Image:
    """Say what the rows below show."""
    text = (
        f"After the whole slice, each tile is {FIELD_MM:.0f} mm wide. Planes are the scan's own; the triangles at the "
        "edges point at the candidate. Patient's left is on the right of axial and coronal pictures."
    )
    if result.phase:
        text += " Phase is high-pass filtered and shown with paramagnetic tissue bright, whatever the scanner's sign."
    block, draw = _block(width, 3 * LINE)
    _write(draw, (MARGIN, 6), text, 15, DIM, width - 2 * MARGIN)
    return block


def _row(candidate: Candidate, tiles: list[Tile], width: int) -> Image.Image:
    block, draw = _block(width, TILE + CAPTION + 2 * GAP)
    draw.line((MARGIN, 0, width - MARGIN, 0), fill=(48, 48, 52))
    _words(draw, candidate)
    for index, tile in enumerate(tiles):
        x, y = MARGIN + TEXT + index * (TILE + GAP), GAP + CAPTION
        draw.text((x, y - CAPTION), tile.caption, font=_font(14), fill=DIM)
        block.paste(Image.fromarray(tile.pixels), (x, y))
        _letters(draw, tile.view, (x, y), TILE)
        _point_at(draw, (x, y), tile.candidate)
        if index == 1:
            _scale_bar(draw, (x, y))
    return block


def _words(draw: ImageDraw.ImageDraw, c: Candidate) -> None:
    draw.text((MARGIN, GAP), str(c.number), font=_font(30), fill=_color(c))
    draw.text((MARGIN + 62, GAP + 5), f"{c.probability:.2f}", font=_font(24), fill=BRIGHT)
    draw.text((MARGIN + 122, GAP + 12), "probability", font=_font(15), fill=DIM)
    y = GAP + 44
    if c.is_excluded:
        y = _write(draw, (MARGIN, y), f"EXCLUDED: {c.exclusion}", 15, WARNING, TEXT - 20)
    if place := c.location:
        y = _write(draw, (MARGIN, y), f"{place.region_in_words}, {place.side.value}", 17, _color(c), TEXT - 20)
        share = "" if math.isnan(place.sub_region_probability) else f" {place.sub_region_probability:.0%}"
        y = _write(draw, (MARGIN, y), f"{place.sub_region_name}{share}", 17, BRIGHT, TEXT - 20)
        border = f", {place.next_region.value} {place.boundary_mm:.1f} mm away" if place.next_region else ""
        y = _write(draw, (MARGIN, y), f"region {place.probability:.0%}{border}", 14, DIM, TEXT - 10)
    else:
        y = _write(draw, (MARGIN, y), "no region: no brain tissue near", 17, PLAIN, TEXT - 20)
    y = _write(draw, (MARGIN, y + 4), f"{c.diameter_mm:.1f} mm, {c.volume_mm3:.0f} mm3", 17, BRIGHT)
    evidence = c.phase_evidence.value
    y = _write(draw, (MARGIN, y), evidence if evidence.endswith("phase") else f"phase: {evidence}", 17, BRIGHT)
    letters = (pair[mm < 0] for pair, mm in zip(("RL", "AP", "SI"), c.center_ras_mm, strict=True))
    place_mm = "  ".join(f"{letter} {abs(mm):.1f}" for letter, mm in zip(letters, c.center_ras_mm, strict=True))
    _write(draw, (MARGIN, y + 2), f"{place_mm} mm", 14, DIM)


def _nothing_counted(result: Result, width: int) -> Image.Image:
    """Show six axial slices, evenly through the brain, of what was searched."""
    each = min((width - 2 * MARGIN - 5 * GAP) // 6, 300)
    block, draw = _block(width, 4 * LINE + each + 2 * GAP)
    found = "No candidate was found" if not result.reported else "No candidate counts"
    _write(draw, (MARGIN, 4), f"{found} in {result.searched_ml:.0f} ml of brain.", 20, BRIGHT)
    _write(draw, (MARGIN, 32), NONE_FOUND, 17, WARNING)
    regions = result.regions.in_ras_order()
    low, high = brain_box(regions)
    center_ras_mm, width_mm = _brain(result)
    window, axes = swi_window(result.swi, result.regions), body_axes(result.swi)
    for index in range(6):
        slice_ = np.rint(low[2] + (high[2] - low[2]) * (index + 1) / 7)
        at = center_ras_mm + (slice_ - (low[2] + high[2]) / 2) * regions.spacing_mm[2] * axes[2]
        x, y = MARGIN + index * (each + GAP), 4 * LINE
        pixels = gray(plane(result.swi, at, AXIAL, axes, width_mm=width_mm, pixels=each), window)
        block.paste(Image.fromarray(pixels), (x, y))
        _letters(draw, AXIAL, (x, y), each)
        draw.text((x, y - CAPTION), f"SWI axial, {'SI'[int(at[2] < 0)]} {abs(at[2]):.0f} mm", font=_font(14), fill=DIM)
    return block


def _brain(result: Result) -> tuple[npt.NDArray[np.float64], float]:
    """Find the center (RAS, mm) of the brain and the side, mm, of a square that holds any axial slice of it."""
    regions = result.regions.in_ras_order()
    low, high = brain_box(regions)
    return regions.ras_of((low + high) / 2), float(((high - low + 1) * regions.spacing_mm)[:2].max()) + 24


def _footer(result: Result, width: int, not_shown: int) -> Image.Image:
    made = result.provenance
    block, draw = _block(width, 4 * LINE + MARGIN)
    draw.line((MARGIN, 0, width - MARGIN, 0), fill=(48, 48, 52))
    y = GAP
    if not_shown > 0:
        text = f"{not_shown} more candidates are not shown here; candidates.csv lists all."
        y = _write(draw, (MARGIN, y), text, 16, WARNING)
    names = ", ".join(PurePath(file.path).name for file in (made.swi, made.phase) if file)
    text = f"CMBDetector {made.version}, {made.finished_at}, threshold {made.threshold:g}. Input: {names}."
    y = _write(draw, (MARGIN, y), text, 14, DIM, width - 2 * MARGIN)
    _write(draw, (MARGIN, y), RESEARCH_USE, 14, DIM, width - 2 * MARGIN)
    return block


def _block(width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (width, height), BACKGROUND)
    return image, ImageDraw.Draw(image)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _color(candidate: Candidate) -> Color:
    return REGION_COLORS[candidate.location.region] if candidate.location and not candidate.is_excluded else DIM


def _write(
    draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, size: int, color: Color, width: int | None = None
) -> int:
    """Write text, in lines of at most `width` pixels, and return where the next line would start."""
    lines = _lines(text, size, width)
    for index, line in enumerate(lines):
        draw.text((at[0], at[1] + index * (size + 5)), line, font=_font(size), fill=color)
    return at[1] + len(lines) * (size + 5)


def _lines(text: str, size: int, width: int | None) -> list[str]:
    """Break text into lines of at most `width` pixels."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if width and lines[-1] and _font(size).getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    for index in range(len(lines)):
        while width and _font(size).getlength(lines[index]) > width:  # a file name without spaces
            lines[index] = lines[index].removesuffix("...")[:-1] + "..."
    return lines


def _letters(draw: ImageDraw.ImageDraw, view: View, corner: tuple[int, int], size: int) -> None:
    """Name the patient's side at the left and upper edge, small and clear of the center marks."""
    x, y = corner
    for letter, at in ((view.left_letter, (x + 5, y + size // 2 + 12)), (view.top_letter, (x + size // 2 + 12, y + 2))):
        draw.text(at, letter, font=_font(14), fill=MARK, stroke_width=2, stroke_fill=(0, 0, 0))


def _point_at(draw: ImageDraw.ImageDraw, corner: tuple[int, int], place: tuple[int, int]) -> None:
    """Draw triangles outside the four edges, in line with the place; nothing is drawn on the image itself."""
    (x, y), (right, down), depth = corner, place, 5
    for start, step in (((x + right, y - 1), (0, -1)), ((x + right, y + TILE), (0, 1)),
                        ((x - 1, y + down), (-1, 0)), ((x + TILE, y + down), (1, 0))):  # fmt: skip
        base = (start[0] + step[0] * depth, start[1] + step[1] * depth)
        across = (step[1] * 4, step[0] * 4)
        draw.polygon([start, (base[0] + across[0], base[1] + across[1]), (base[0] - across[0], base[1] - across[1])],
                     fill=MARK)  # fmt: skip


def _scale_bar(draw: ImageDraw.ImageDraw, corner: tuple[int, int]) -> None:
    length = round(10 / FIELD_MM * TILE)
    right, bottom = corner[0] + TILE - 8, corner[1] + TILE - 8
    draw.line((right - length, bottom, right, bottom), fill=BRIGHT, width=2)
    draw.text((right, bottom - 4), "10 mm", font=_font(13), fill=BRIGHT, anchor="rs", stroke_width=2,
              stroke_fill=(0, 0, 0))  # fmt: skip
