"""Simulated cases as the detector's training crops: preprocessed once, cached, cropped and augmented.

The batch of a step depends on the seed and the step alone (and, in its last bits, on the number of threads). Half of a
batch holds lesions, half does not (Kim et al. 2023); augmentation is ours.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

from CMBDetectorLib import preprocessing
from CMBDetectorLib.errors import InputError
from CMBDetectorLib.networks.anchors import SPACING_MM, STRIDE
from CMBDetectorLib.phase import prepare
from CMBDetectorLib.phase_range import to_radians
from CMBDetectorLib.processes import in_processes
from CMBDetectorLib.simulation.protocols import radians_per_ppm
from CMBDetectorLib.simulation.truth import truth_of
from CMBDetectorLib.training.config import DetectorTraining, Progress, Training
from CMBDetectorLib.training.implants import (
    CALCIFICATION,
    CALCIFIED_SPOT,
    DIFFUSE_CALCIFICATION,
    DIFFUSE_MICROBLEED,
    MICROBLEED,
    RAGGED_CALCIFICATION,
    RAGGED_MICROBLEED,
    SPOT,
    VESSEL,
    Kind,
    Scan,
    implant,
)
from CMBDetectorLib.training.slices import least_thicker_mm, with_thicker_slices
from CMBDetectorLib.training.split import heads_of
from CMBDetectorLib.training.targets import Lesions, assign, balls
from CMBDetectorLib.volume import Volume, read_volume

Array = npt.NDArray[np.float32]
MOST_VESSELS = 6  # painted into one crop
FAR_MM = 10.0  # lesions this far outside a crop still reach into it


@dataclass(frozen=True, eq=False)
class Case:
    """One preprocessed case.

    Attributes
    ----------
    image : ndarray
        SWI and phase, (2, R, A, S) float16, mapped from the cache file: the system keeps in memory what fits.
    lesions : Lesions
        Centers in mm from the center of voxel 0 of `image`.
    tissue : ndarray
        (R, A, S) bool, mapped likewise: where microbleeds can lie.
    scan : Scan
        How it was acquired.
    mimics_mm : tuple of ndarray
        One array (M, 3) per kind of mimic, in mm likewise.
    """

    image: npt.NDArray[np.float16]
    lesions: Lesions
    tissue: npt.NDArray[np.bool_]
    scan: Scan
    mimics_mm: tuple[npt.NDArray[np.float64], ...] = ()


def heads_of_cases(config: Training) -> dict[Path, str]:
    """Folders of simulated cases whose head belongs to the part that is trained on, and this head, in order of name.

    `InputError` without any.
    """
    heads = heads_of(config.split)
    found = {path.parent: truth_of(path.parent)["head"] for path in sorted(config.cases.glob("*/truth.json"))}
    chosen = {folder: head for folder, head in found.items() if config.split == "all" or head in heads}
    if not chosen:
        raise InputError(
            f"{config.cases} has no simulated case of the heads {', '.join(heads)}. "
            "Make some with 'python -m CMBDetectorLib simulate'."
        )
    return chosen


def load_cases(config: DetectorTraining, progress: Progress) -> list[Case]:
    """Preprocess what the cache lacks and open all cases of the run's heads."""
    for folder in heads_of_cases(config):
        truth = truth_of(folder)
        truth.require_numbers("paramagnetic_sign", "field_t", "echo_time_ms", "acquired_mm", "mask_power")
        for kind, name in (("lesions", "diameter_mm"), ("faint", "diameter_mm"), ("mimics", "kind")):
            truth.require(kind, name)
    cases = []
    for folder in prepared_cases(config, ".json", _into_cache, progress):
        image, tissue, ijk_to_ras, spacing_mm = _cached(folder, config.cache)
        truth = truth_of(folder)
        bleeds = truth["lesions"] + truth["faint"]
        center_mm = _from_voxel_0_mm([bleed["center_ras_mm"] for bleed in bleeds], ijk_to_ras)
        diameter_mm = np.array([bleed["diameter_mm"] for bleed in bleeds], float)
        counts = np.arange(len(bleeds)) < len(truth["lesions"])  # the simulator knows which ones nobody could see
        kinds = sorted({mimic["kind"] for mimic in truth["mimics"]})
        mimics_mm = tuple(
            _from_voxel_0_mm([m["center_ras_mm"] for m in truth["mimics"] if m["kind"] == kind], ijk_to_ras)
            for kind in kinds
        )
        lesions = Lesions(center_mm, diameter_mm, counts)
        b0 = ijk_to_ras[2, :3] / np.linalg.norm(ijk_to_ras[:3, :3], axis=0)  # S of the patient, along the crop's axes
        scan = Scan(
            radians_per_ppm(truth["field_t"], truth["echo_time_ms"]),
            acquired_mm=truth["acquired_mm"],
            slice_mm=float(spacing_mm[2]),
            mask_power=truth["mask_power"],
            b0_direction=(float(b0[0]), float(b0[1]), float(b0[2])),
        )
        cases.append(Case(image, lesions, tissue, scan, mimics_mm))
    return cases


def prepared_cases(
    config: Training, last: str, into_cache: Callable[[Path, Path], None], progress: Progress
) -> list[Path]:
    """Folders of the run's cases, after what a network reads of each has been put into the cache.

    Parameters
    ----------
    last : str
        End of the name of the file that `into_cache` writes last and at once: where it is, the rest is, too.
    into_cache : callable
        Takes the cache and a case's folder; of a module's top level, so that other processes know it.
    """
    folders = list(heads_of_cases(config))
    config.cache.mkdir(parents=True, exist_ok=True)
    missing = [folder for folder in folders if not is_fresh(in_cache(config.cache, folder, last), folder)]
    with in_processes(config.loaders) as run:
        for n, _ in enumerate(run(partial(into_cache, config.cache), missing), start=1):
            progress("prepare", n / len(missing), f"{n} of {len(missing)} cases")
    return folders


def _into_cache(cache: Path, folder: Path) -> None:
    """Write the detector's input of a case, where its tissue is, its ijk_to_ras and the scan's voxel size, mm."""
    made, mars = detector_input(folder), read_volume(folder / "mars.nii.gz").in_ras_order()
    np.save(in_cache(cache, folder, ".npy"), made.array[:2].astype(np.float16))
    np.save(in_cache(cache, folder, "_tissue.npy"), tissue_on(made, mars))
    geometry = {"ijk_to_ras": made.ijk_to_ras.tolist(), "spacing_mm": mars.spacing_mm.tolist()}
    part = in_cache(cache, folder, ".json.part")
    part.write_text(json.dumps(geometry), encoding="utf-8")
    os.replace(part, in_cache(cache, folder, ".json"))


def _cached(
    folder: Path, cache: Path
) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.bool_], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Read what `_into_cache` has written."""
    geometry = json.loads(in_cache(cache, folder, ".json").read_text(encoding="utf-8"))
    return (
        np.load(in_cache(cache, folder, ".npy"), mmap_mode="r"),
        np.load(in_cache(cache, folder, "_tissue.npy"), mmap_mode="r"),
        np.array(geometry["ijk_to_ras"]),
        np.array(geometry["spacing_mm"]),
    )


def tissue_on(made: preprocessing.NetworkInput, mars: Volume) -> npt.NDArray[np.bool_]:
    """Voxels of the detector's input in brain tissue but its surface, by the nearest of a MARS map in R, A, S order."""
    return ndimage.binary_erosion(mars.array > 0)[nearest_voxels(made, mars)]


def nearest_voxels(made: preprocessing.NetworkInput, other: Volume) -> tuple[npt.NDArray[np.intp], ...]:
    """Index of the voxels of a volume that are nearest to those of a network's input; the axes are parallel."""
    between = np.linalg.inv(other.ijk_to_ras) @ made.ijk_to_ras
    return np.ix_(
        *(
            np.rint(between[axis, 3] + between[axis, axis] * np.arange(n)).astype(int).clip(0, last - 1)
            for axis, (n, last) in enumerate(zip(made.array.shape[1:], other.array.shape, strict=True))
        )
    )


def in_cache(cache: Path, folder: Path, end: str) -> Path:
    """File of a case in the cache."""
    return cache / f"{case_name(folder)}{end}"


def case_name(folder: Path) -> str:
    """Name of a case wherever it lies: every set has a ``case_0000``, so a checksum of its truth tells them apart."""
    return f"{folder.name}-{hashlib.sha256((folder / 'truth.json').read_bytes()).hexdigest()[:16]}"


def is_fresh(cached: Path, folder: Path) -> bool:
    """Whether a cached file is younger than its case. After a change of preprocessing, empty the cache."""
    return cached.exists() and cached.stat().st_mtime >= (folder / "truth.json").stat().st_mtime


def detector_input(folder: Path) -> preprocessing.NetworkInput:
    """Give a simulated case as the detector reads it, its brain taken from the true regions."""
    swi = read_volume(folder / "swi.nii.gz")
    brain = preprocessing.brain_mask(read_volume(folder / "mars.nii.gz"), swi)
    phase, _ = to_radians(read_volume(folder / "phase.nii.gz"))
    polarity = "bright" if truth_of(folder)["paramagnetic_sign"] > 0 else "dark"
    return preprocessing.detector_input(swi, prepare(phase, swi, brain, polarity).volume, brain)


def _from_voxel_0_mm(ras_mm: Sequence[Sequence[float]], ijk_to_ras: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """RAS points as mm from the center of voxel 0 along the grid's own axes, (N, 3)."""
    grid = Volume(np.empty((0, 0, 0)), ijk_to_ras)
    return grid.ijk_of(np.reshape(np.asarray(ras_mm, float), (-1, 3))) * SPACING_MM


def detector_batch(cases: Sequence[Case], config: DetectorTraining, step: int) -> dict[str, Tensor]:
    """Make the batch of one step: crops with lesions first, as many without.

    Returns
    -------
    dict of Tensor
        ``image`` (B, 3, R, A, S), ``label`` and ``weight`` (B, 3, r, a, s), ``boxes`` (B, 3, 4, r, a, s),
        ``with_lesions`` (B,), and ``mask`` (B, R/2, A/2, S) for the plain U-Net.
    """
    rng = np.random.default_rng((config.seed, step))
    images, labels, boxes, weights, masks, present = [], [], [], [], [], []
    cells = tuple(size // stride for size, stride in zip(config.crop, STRIDE, strict=True))
    for n in range(config.batch):
        has_phase = rng.random() >= config.without_phase
        crop = draw_crop(cases, config, rng, with_lesions=n < config.batch / 2, has_phase=has_phase)
        image, lesions = turn(crop.image, crop.lesions, rng)
        label, box, weight = assign((cells[0], cells[1], cells[2]), lesions)
        image = vary(image, has_phase, rng)
        spacing = preprocessing.spacing_channel(crop.scan.slice_mm) * (image[:1] != 0)
        images.append(np.concatenate((image, spacing), dtype=np.float32))
        labels.append(label)
        boxes.append(box)
        weights.append(weight)
        masks.append(balls((2 * cells[0], 2 * cells[1], 2 * cells[2]), lesions))
        present.append(lesions.present)
    return {
        "image": torch.from_numpy(np.stack(images)),
        "label": torch.from_numpy(np.stack(labels)),
        "boxes": torch.from_numpy(np.stack(boxes)),
        "weight": torch.from_numpy(np.stack(weights)),
        "mask": torch.from_numpy(np.stack(masks)),
        "with_lesions": torch.tensor(present),
    }


@dataclass(frozen=True, eq=False)
class Crop:
    """A crop and what the physics of an implant needs to know of it.

    Attributes
    ----------
    image : ndarray
        (2, R, A, S) float32.
    lesions : Lesions
        Those in and near the crop; ones outside do not count.
    tissue : ndarray of bool, (R, A, S)
        Where something may be put in.
    mimics_mm : ndarray, (M, 3)
        From the center of voxel 0 of the crop.
    scan : Scan
        With the slices that the crop shows.
    first_slice_mm : float
        Where one of the slices has its center, along S from the center of voxel 0.
    """

    image: Array
    lesions: Lesions
    tissue: npt.NDArray[np.bool_]
    mimics_mm: npt.NDArray[np.float64]
    scan: Scan
    first_slice_mm: float

    def with_implants(self, kind: Kind, count: int, rng: np.random.Generator) -> Crop:
        """Put random sources into the tissue: vessels away from lesions, others also away from mimics."""
        mimics_mm = self.mimics_mm if kind.is_compact else self.mimics_mm[:0]
        image, lesions = implant(
            self.image, self.tissue, self.lesions, mimics_mm, self.scan, count, rng,
            kind=kind, first_slice_mm=self.first_slice_mm,
        )  # fmt: skip
        return replace(self, image=image, lesions=lesions)


def draw_crop(
    cases: Sequence[Case], config: DetectorTraining, rng: np.random.Generator, *, with_lesions: bool, has_phase: bool
) -> Crop:
    """Cut a crop around a random lesion, or one around a random mimic or place in the brain that holds no lesion.

    A share of them (``config.vessels``) gets painted vessels on top.
    """
    crop = _drawn(cases, config, rng, with_lesions=with_lesions, has_phase=has_phase)
    if rng.random() < config.vessels:
        crop = crop.with_implants(VESSEL, int(rng.integers(1, MOST_VESSELS + 1)), rng)
    return crop


def _drawn(
    cases: Sequence[Case], config: DetectorTraining, rng: np.random.Generator, *, with_lesions: bool, has_phase: bool
) -> Crop:
    size_mm = np.array(config.crop) * SPACING_MM
    painted = rng.random() < config.painted
    bleeds, calcium = (SPOT, CALCIFIED_SPOT) if painted else (MICROBLEED, CALCIFICATION)
    if not painted and config.ragged and rng.random() < config.ragged:  # 0 draws as runs before it was there did
        bleeds, calcium = RAGGED_MICROBLEED, RAGGED_CALCIFICATION
    elif not painted and config.diffuse and rng.random() < config.diffuse:
        bleeds, calcium = DIFFUSE_MICROBLEED, DIFFUSE_CALCIFICATION
    if with_lesions and rng.random() < config.implanted:
        case = cases[int(rng.integers(len(cases)))]
        crop = cut_thick(case, _place_in_brain(case, rng), config, rng)
        crop = crop.with_implants(bleeds, int(rng.integers(1, 5)), rng)
        if crop.lesions.present:
            return crop
    having = [case for case in cases if case.lesions.present]
    if with_lesions and having:
        case = having[int(rng.integers(len(having)))]
        center_mm = rng.choice(case.lesions.center_mm[case.lesions.counts])
        return cut(case, center_mm + rng.uniform(-0.4, 0.4, 3) * size_mm, config.crop)
    for _ in range(20):  # a case full of lesions may have no free place: then its last crop is taken as it is
        case = cases[int(rng.integers(len(cases)))]
        if case.mimics_mm and rng.random() < 0.5:
            kind = int(rng.integers(len(case.mimics_mm)))  # veins outnumber calcifications a hundred times
            center_mm = rng.choice(case.mimics_mm[kind]) + rng.uniform(-0.4, 0.4, 3) * size_mm
        else:
            center_mm = _place_in_brain(case, rng)
        if not _lesions_in(case, _overlap(case, center_mm, config.crop)[0], config.crop).present:
            break
    crop = cut_thick(case, center_mm, config, rng)
    if has_phase and rng.random() < config.calcified:  # without phase, nothing tells calcium from a microbleed
        crop = crop.with_implants(calcium, int(rng.integers(1, 4)), rng)
    return crop


def cut_thick(
    case: Case, center_mm: npt.NDArray[np.float64], config: DetectorTraining, rng: np.random.Generator
) -> Crop:
    """Cut a crop, maybe as thicker slices would show it (a share of ``config.thickened``, where there is room for it).

    Lesions already there then do not count: how they look in thicker slices is not known.
    """
    crop = cut(case, center_mm, config.crop)
    least_mm, most_mm = least_thicker_mm(case.scan.slice_mm), preprocessing.TRAINED_SPACING_MM[1]
    if rng.random() >= config.thickened or least_mm >= most_mm:
        return crop
    slice_mm = float(rng.uniform(least_mm, most_mm))
    first_slice_mm = -float(rng.uniform(0, slice_mm))
    known = crop.lesions
    return replace(
        crop,
        image=with_thicker_slices(crop.image, case.scan.slice_mm, slice_mm, first_slice_mm),
        lesions=Lesions(known.center_mm, known.diameter_mm, np.zeros_like(known.counts)),
        scan=replace(case.scan, slice_mm=slice_mm),
        first_slice_mm=first_slice_mm,
    )


def _place_in_brain(case: Case, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Choose a random voxel of the brain (the image is 0 outside it), mm from voxel 0."""
    place = rng.integers(case.image.shape[1:])
    for _ in range(50):
        if case.image[(0, *place)] != 0:
            break
        place = rng.integers(case.image.shape[1:])
    return place * np.array(SPACING_MM)


def cut(case: Case, center_mm: npt.NDArray[np.float64], size: tuple[int, int, int]) -> Crop:
    """Cut the crop of a size (voxels) closest to a center that leaves the image as little as possible; zeros beyond."""
    start, inside, place = _overlap(case, center_mm, size)
    image, tissue = np.zeros((2, *size), np.float32), np.zeros(size, bool)
    image[(slice(None), *place)] = case.image[(slice(None), *inside)]
    tissue[place] = case.tissue[inside]
    mimics_mm = np.concatenate([np.empty((0, 3)), *case.mimics_mm]) - start * SPACING_MM
    first_slice_mm = -float(start[2] * SPACING_MM[2])  # the image begins with a slice of the scan
    return Crop(image, _lesions_in(case, start, size), tissue, mimics_mm, case.scan, first_slice_mm)


def _lesions_in(case: Case, start: npt.NDArray[np.int_], size: tuple[int, int, int]) -> Lesions:
    """Lesions in and near the crop that begins with voxel `start`, mm from there; those outside do not count."""
    shifted_mm = case.lesions.center_mm - start * SPACING_MM
    beyond_mm = np.maximum(-shifted_mm, shifted_mm - (np.array(size) - 1) * SPACING_MM).max(axis=1, initial=-np.inf)
    near = beyond_mm < FAR_MM
    counts = case.lesions.counts & (beyond_mm <= 0)
    return Lesions(shifted_mm[near], case.lesions.diameter_mm[near], counts[near])


def _overlap(
    case: Case, center_mm: npt.NDArray[np.float64], size: tuple[int, int, int]
) -> tuple[npt.NDArray[np.int_], tuple[slice, ...], tuple[slice, ...]]:
    """First voxel of a crop in the image, the part of the image in it, and where in the crop that part lies."""
    shape = np.array(case.image.shape[1:])
    wanted = np.round(center_mm / SPACING_MM).astype(int) - np.array(size) // 2
    start = np.clip(wanted, np.minimum(0, shape - size), np.maximum(0, shape - size))
    inside = tuple(slice(max(0, a), min(n, a + s)) for a, s, n in zip(start, size, shape, strict=True))
    place = tuple(slice(i.start - a, i.stop - a) for i, a in zip(inside, start, strict=True))
    return start, inside, place


def turn(image: Array, lesions: Lesions, rng: np.random.Generator) -> tuple[Array, Lesions]:
    """Random flips, and R and A exchanged: together every turn by 90 degrees about S.

    S stays the axis of B0, so a lesion's dipole pattern remains one that physics allows.
    """
    center_mm = lesions.center_mm.copy()
    if rng.random() < 0.5:
        image, center_mm = image.swapaxes(1, 2), center_mm[:, [1, 0, 2]]
    for axis in range(3):
        if rng.random() < 0.5:
            image = np.flip(image, axis + 1)
            center_mm[:, axis] = (image.shape[axis + 1] - 1) * SPACING_MM[axis] - center_mm[:, axis]
    return image, Lesions(center_mm, lesions.diameter_mm, lesions.counts)


def vary(image: Array, has_phase: bool, rng: np.random.Generator) -> Array:
    """Random contrast, gamma, blur and noise of a crop (2, R, A, S); outside the brain stays 0."""
    swi, phase = image
    brain = swi != 0
    swi = swi * rng.uniform(0.7, 1.3)
    swi = np.maximum(swi + 1, 0) ** rng.uniform(0.8, 1.25) - 1
    phase = phase * rng.uniform(0.7, 1.4)
    if rng.random() < 0.2:
        sigma = rng.uniform(0.3, 0.8)
        swi, phase = (ndimage.gaussian_filter(channel, (sigma, sigma, 0)) for channel in (swi, phase))
    swi = swi + rng.uniform(0, 0.08) * rng.standard_normal(swi.shape, np.float32)
    phase = phase + rng.uniform(0, 0.08) * rng.standard_normal(phase.shape, np.float32)
    if not has_phase:
        phase = np.zeros_like(phase)
    return np.clip(np.stack((swi, phase)) * brain, -1, 1).astype(np.float32)
