"""Where in the brain something lies: MARS regions of the whole scan, and the place of one candidate in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from CMBDetectorLib.candidate import Location
from CMBDetectorLib.models import Model
from CMBDetectorLib.networks.segmenter import CLASSES, MULTIPLE
from CMBDetectorLib.preprocessing import apply, as_stored, brain_mask, largest_component, maps, segmenter_input
from CMBDetectorLib.regions import SUB_REGIONS, Region, Side
from CMBDetectorLib.volume import Volume

Progress = Callable[[str, float, str], None]

ISLAND_ML = 0.3  # smaller detached pieces of a region are mistakes of the network
SLICES_AT_ONCE = 8  # 14 probabilities for every voxel of a scan do not fit into memory

NEIGHBORHOOD_MM = 3.0  # smallest radius that votes
BOUNDARY_MM = 15.0  # how far another region is looked for
FARTHEST_TISSUE_MM = 3.0
LEAST_TISSUE = 0.15  # share of the neighborhood; far below the rater's "at least half", for the segmentation's errors
MIDLINE_LABELS = (1, 2, 7)  # brainstem, cerebellum (vermis), corpus callosum cross the midline
MIDLINE_MM = 3.0
OUTSIDE = "outside brain tissue"

_REGIONS = list(Region)
_GROUP = np.array([-1] + [_REGIONS.index(sub.region) for sub in SUB_REGIONS])  # group number of each label


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The brain's regions.

    Attributes
    ----------
    regions : Volume
        uint8 MARS labels (0-13) on the grid of the SWI.
    brain : Volume
        bool, same grid: what is searched (`preprocessing.brain_mask`).
    left : Volume
        Probability of the patient's left side, at 2 mm.
    """

    regions: Volume
    brain: Volume
    left: Volume


def segment(model: Model, swi: Volume, progress: Progress) -> Segmentation:
    """Name the region of every voxel of a scan.

    Parameters
    ----------
    model : Model
        The segmenter.
    swi : Volume
        Susceptibility-weighted image, any positive scale.
    progress : callable
        Called as ``progress("localize", fraction, message)``; may raise `errors.Cancelled`.
    """
    progress("localize", 0.0, "Finding the brain's regions")
    seen = segmenter_input(swi)
    shape = seen.array.shape[1:]
    padding = [(0, 0), *((0, -n % MULTIPLE) for n in shape)]
    x = torch.from_numpy(np.pad(seen.array, padding))[None]
    with torch.inference_mode():
        logits = model.module(x.to(model.device, model.dtype, memory_format=torch.channels_last_3d))
        logits = logits[0, :, : shape[0], : shape[1], : shape[2]].float().cpu()
        left = torch.sigmoid(logits[CLASSES]).numpy()
        probability = torch.softmax(logits[:CLASSES], dim=0).numpy()
    progress("localize", 0.6, "Drawing the regions")
    regions = _on_scan(without_islands(probability, voxel_ml=0.008), seen.ijk_to_ras, swi, progress)
    return Segmentation(regions, brain_mask(regions, swi), Volume(left, seen.ijk_to_ras, swi.source))


def without_islands(probability: npt.NDArray[np.float32], voxel_ml: float) -> npt.NDArray[np.float32]:
    """Class probabilities (14, R, A, S) after which no region has small detached pieces.

    The brain is its largest connected piece. A small piece of a region goes to whichever class is next most probable
    in each of its voxels.
    """
    probability = probability.copy()
    tissue = probability.argmax(axis=0) > 0
    detached = tissue & ~largest_component(tissue)
    probability[1:, detached] = 0
    probability[0, detached] = 1
    labels = probability.argmax(axis=0)
    for label in range(1, len(probability)):
        pieces, count = ndimage.label(labels == label)
        sizes = np.bincount(pieces.ravel(), minlength=count + 1)
        sizes[0] = 0
        small = (sizes * voxel_ml < ISLAND_ML) & (sizes < sizes.max())
        small[0] = False
        probability[label, small[pieces]] = 0
    return probability


def _on_scan(
    probability: npt.NDArray[np.float32], ijk_to_ras: npt.NDArray[np.float64], swi: Volume, progress: Progress
) -> Volume:
    """Label map on the scan's grid: probabilities interpolated first, so that edges are smooth, decided after."""
    ordered = swi.in_ras_order()
    labels = np.zeros(ordered.array.shape, np.uint8)
    box = ndimage.find_objects((probability[0] < 1).astype(np.uint8))
    if box and box[0] is not None:
        inner = tuple(slice(max(s.start - 1, 0), s.stop + 1) for s in box[0])
        probability = probability[(slice(None), *inner)]
        source = ijk_to_ras.copy()
        source[:3, 3] += source[:3, :3] @ [s.start for s in inner]
        to_scan = maps(source, probability.shape[1:], ordered.ijk_to_ras, labels.shape)
        corners = [np.array([-1, -1, -1]), np.array(probability.shape[1:])]
        ends = np.stack([(np.linalg.inv(ordered.ijk_to_ras) @ source @ [*c, 1])[:3] for c in corners])
        low = np.clip(np.ceil(ends[0]), 0, labels.shape).astype(int)
        high = np.clip(np.floor(ends[1]) + 1, 0, labels.shape).astype(int)
        for k in range(low[2], high[2], SLICES_AT_ONCE):
            stop = min(k + SLICES_AT_ONCE, high[2])
            progress("localize", 0.6 + 0.4 * (k - low[2]) / (high[2] - low[2]), "Drawing the regions")
            part = (to_scan[0][low[0] : high[0]], to_scan[1][low[1] : high[1]], to_scan[2][k:stop])
            decided = torch.from_numpy(apply(part, probability)).argmax(dim=0)
            labels[low[0] : high[0], low[1] : high[1], k:stop] = decided.numpy()
    return as_stored(labels, swi)


def locate(center_ras_mm: npt.ArrayLike, diameter_mm: float, segmentation: Segmentation) -> tuple[Location | None, str]:
    """Anatomical place of a candidate, by vote of its neighborhood rather than of one voxel.

    Parameters
    ----------
    center_ras_mm : array_like, shape (3,)
        RAS, mm.
    diameter_mm : float
        Apparent diameter; the neighborhood is a ball of 0.75 diameters, at least 3 mm, in radius.
    segmentation : Segmentation

    Returns
    -------
    Location or None
        None when no region is near.
    str
        Why anatomy excludes it, or an empty string. Lenient: raters ask for half brain tissue around a microbleed
        (MARS), but segmentations are worst at the surface, and deleting true lesions there costs more than it saves.
    """
    radius_mm = max(NEIGHBORHOOD_MM, 0.75 * diameter_mm)
    labels, distance_mm = _ball(center_ras_mm, max(BOUNDARY_MM, radius_mm), segmentation.regions)
    near = distance_mm <= radius_mm
    tissue = labels > 0
    touching = tissue & near
    nearest_mm = distance_mm[tissue].min(initial=np.inf)
    exclusion = OUTSIDE if nearest_mm > FARTHEST_TISSUE_MM or touching.sum() < LEAST_TISSUE * near.sum() else ""
    if not touching.any():
        return None, OUTSIDE

    closeness = np.exp(-0.5 * (2 * distance_mm / radius_mm) ** 2)
    votes = np.bincount(labels[touching], weights=closeness[touching], minlength=CLASSES)
    groups = np.bincount(_GROUP[1:], weights=votes[1:], minlength=len(_REGIONS))
    group = int(groups.argmax())
    sub_region = int(np.where(group == _GROUP, votes, 0).argmax())
    other = distance_mm[tissue & (_GROUP[labels] != group)]
    return (
        Location(
            sub_region=sub_region,
            side=_side(center_ras_mm, sub_region, segmentation.left),
            probability=float(groups[group] / groups.sum()),
            boundary_mm=float(other.min()) if other.size else float("nan"),
        ),
        exclusion,
    )


def _side(center_ras_mm: npt.ArrayLike, sub_region: int, left: Volume) -> Side:
    """Left or right; midline where an unpaired structure lies within 3 mm of the middle."""
    probability, distance_mm = _ball(center_ras_mm, MIDLINE_MM, left)
    if sub_region in MIDLINE_LABELS and (probability > 0.5).any() and (probability < 0.5).any():
        return Side.MIDLINE
    share = float(np.average(probability, weights=np.exp(-0.5 * (2 * distance_mm / MIDLINE_MM) ** 2)))
    return Side.LEFT if share >= 0.5 else Side.RIGHT


def _ball(center_ras_mm: npt.ArrayLike, radius_mm: float, volume: Volume) -> tuple[npt.NDArray, npt.NDArray]:
    """Nearest voxel values on a 1 mm lattice in a ball, and their distance from its center, mm; 0 beyond the image.

    The lattice lies along the axes of the volume, so that a scan gives the same answer however it is turned.
    """
    axis = np.arange(-np.floor(radius_mm), np.floor(radius_mm) + 1)
    offsets = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    distance_mm = np.linalg.norm(offsets, axis=1)
    offsets, distance_mm = offsets[distance_mm <= radius_mm], distance_mm[distance_mm <= radius_mm]
    ijk = np.rint(volume.ijk_of(center_ras_mm) + offsets / volume.spacing_mm).astype(int)
    valid = ((ijk >= 0) & (ijk < volume.array.shape)).all(axis=1)
    values = np.zeros(len(ijk), volume.array.dtype)
    values[valid] = volume.array[tuple(ijk[valid].T)]
    return values, distance_mm
