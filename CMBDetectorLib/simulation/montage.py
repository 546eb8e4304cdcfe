"""One picture of a simulated case, to be judged by eye: axial levels, phase, minimum intensity, lesions and mimics."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from CMBDetectorLib.simulation.case import SimulatedCase

LEVELS = (0.22, 0.36, 0.48, 0.60, 0.72, 0.84)  # share of the slices from below
SLAB = 4  # slices of one minimum intensity projection
ZOOM_MM, ZOOM_PIXELS = 24.0, 112
WINDOW = 1.7  # white, in medians of brain tissue
CAPTION = 14  # pixels
MOST_LESIONS, MOST_OF_A_MIMIC = 24, 4  # zooms

Gray = npt.NDArray[np.uint8]


def montage(case: SimulatedCase) -> Image.Image:
    """Draw six axial SWI slices, the phase and the minimum intensity of three, and zooms of lesions and mimics.

    Patient's left is on the right. Phase is shown with paramagnetic tissue bright.
    """
    swi, phase = case.swi.in_ras_order(), case.phase.in_ras_order()
    tissue = float(np.median(swi.array[case.mars.in_ras_order().array > 0]))
    radians = phase.array * (np.pi / 4096) * case.truth["paramagnetic_sign"]
    gray = np.clip(swi.array / (WINDOW * tissue), 0, 1)
    waves = np.clip(radians / np.pi * 0.7 + 0.5, 0, 1)
    levels = [int(share * swi.array.shape[2]) for share in LEVELS]
    rows = [
        ("SWI", [_upright(gray[:, :, k]) for k in levels[:3]]),
        ("SWI", [_upright(gray[:, :, k]) for k in levels[3:]]),
        ("phase", [_upright(waves[:, :, k]) for k in levels[2:5]]),
        (f"minimum over {SLAB} slices", [_upright(gray[:, :, k : k + SLAB].min(axis=2)) for k in levels[2:5]]),
    ]
    parts = [_captioned(np.concatenate(tiles, axis=1), text) for text, tiles in rows]
    zooms = []
    shown = case.truth["lesions"][:MOST_LESIONS]
    for kind in sorted({mimic["kind"] for mimic in case.truth["mimics"]}):
        shown += [mimic for mimic in case.truth["mimics"] if mimic["kind"] == kind][:MOST_OF_A_MIMIC]
    for place in shown:
        ijk = np.rint(swi.ijk_of(place["center_ras_mm"])).astype(int)
        pair = np.concatenate([_zoom(image, ijk, swi.spacing_mm) for image in (gray, waves)], axis=0)
        name = f"{place['diameter_mm']:.1f} mm" if place["kind"] == "microbleed" else place["kind"][:15]
        zooms.append(_captioned(pair, name))
    per_row = max(1, max(part.shape[1] for part in parts) // (ZOOM_PIXELS + 2))
    for start in range(0, len(zooms), per_row):
        parts.append(np.concatenate(zooms[start : start + per_row], axis=1))
    width = max(part.shape[1] for part in parts)
    padded = [np.pad(part, ((0, 4), (0, width - part.shape[1]))) for part in parts]
    return Image.fromarray(np.concatenate(padded, axis=0))


def _upright(plane: npt.NDArray) -> Gray:
    """Turn an (R, A) plane as radiologists look at it: front up, patient's left on the right."""
    return (255 * plane.T[::-1, ::-1]).astype(np.uint8)


def _zoom(image: npt.NDArray, ijk: npt.NDArray, spacing_mm: npt.NDArray) -> Gray:
    half = np.maximum(1, np.round(ZOOM_MM / 2 / spacing_mm[:2])).astype(int)
    padded = np.pad(image[:, :, np.clip(ijk[2], 0, image.shape[2] - 1)], [(h, h) for h in half])
    plane = padded[ijk[0] : ijk[0] + 2 * half[0] + 1, ijk[1] : ijk[1] + 2 * half[1] + 1]
    scaled = Image.fromarray(_upright(plane)).resize((ZOOM_PIXELS, ZOOM_PIXELS), Image.Resampling.BICUBIC)
    return np.pad(np.asarray(scaled), 1)


def _captioned(tile: Gray, text: str) -> Gray:
    canvas = Image.fromarray(np.pad(tile, ((CAPTION, 0), (0, 0))))
    ImageDraw.Draw(canvas).text((3, 1), text, fill=200)
    return np.asarray(canvas)
