"""One simulated case: SWI, phase, MARS regions and truth, from a head, a protocol and a seed."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy import ndimage

from CMBDetectorLib.regions import BY_LABEL
from CMBDetectorLib.simulation import heads, tissue
from CMBDetectorLib.simulation.acquisition import acquire, homodyne, phase_mask, sample
from CMBDetectorLib.simulation.field import field_shift_ppm
from CMBDetectorLib.simulation.heads import Head, PlacedHead, place
from CMBDetectorLib.simulation.protocols import Protocol
from CMBDetectorLib.simulation.sources import APART_MM, Source, averaged, microbleed_count, microbleeds, mimics
from CMBDetectorLib.simulation.tissue import tissue_maps
from CMBDetectorLib.simulation.vessels import Branches, Landmark, VesselTree, branches, splat
from CMBDetectorLib.volume import Volume, write_volume

FINE_MM = 0.25  # in-plane grid of the complex signal
FINE_SLICE_MM = 0.5  # and through the slice, where at least four grid points make one slice
BLOCK = 2  # fine voxels along R and A whose mean is looked at to see what a source does
VISIBLE_CONTRAST, VISIBLE_MM = 0.25, 2.0  # a lesion below either is "faint": neither asked for nor punished
VISIBLE_SIGNAL = 0.5  # likewise where the tissue around has less than this of white matter's signal
VISIBLE_CNR = 4.0  # and where the loss in one acquired voxel is less than so many standard deviations of the noise
MOST_VESSEL, VESSEL_REACH_MM = 0.1, 1.0  # a microbleed with more vessel than this in and around it looks like a vessel
LARGEST_MM = 10.0  # what looks larger is no microbleed
FLOW_VOIDS = 0.4  # share of people whose arteries are dark, not bright
AIR_REACH_MM, MOST_AIR_EDGES = 8.0, 12
MIMIC_CONTRAST = 0.2  # a vein that loses less signal than this is not taken for a microbleed


@dataclass(frozen=True, eq=False)
class SimulatedCase:
    """A scan and its truth. `truth` is what truth.json holds; positions in it are RAS, mm."""

    swi: Volume
    phase: Volume
    mars: Volume
    truth: dict


def render(
    head: Head,
    trees: tuple[VesselTree, ...],
    protocol: Protocol,
    seed: int,
    burden: str = "realistic",
    device: torch.device | str = "cpu",
) -> SimulatedCase:
    """Render one case.

    Parameters
    ----------
    trees : tuple of VesselTree
        Of this head, from `CMBDetectorLib.simulation.vessels.grow_vessels`.
    burden : str
        ``realistic``, ``none`` or ``many`` microbleeds, or a number.
    """
    random = np.random.default_rng(seed)
    noise = torch.Generator(device=device).manual_seed(seed)
    placed = place(head, random, device)
    maps = tissue_maps(placed, protocol, random)
    rotation = _slice_orientation(random)
    b0 = rotation.T @ [0.0, 0.0, 1.0]  # scanner z in the axes of the slice stack
    b0_direction = (float(b0[0]), float(b0[1]), float(b0[2]))

    per_slice = max(4, round(protocol.slice_mm / FINE_SLICE_MM))
    spacing = np.array([FINE_MM, FINE_MM, protocol.slice_mm / per_slice])
    coarse, per_mm = placed.labels.shape, round(1 / FINE_MM)
    slices = int(coarse[2] / protocol.slice_mm)
    shape = (per_mm * coarse[0], per_mm * coarse[1], slices * per_slice)
    fov_mm = [float(n) for n in coarse[:2]]
    origin = placed.origin_mm - 0.5 + spacing / 2  # center of the first fine voxel
    block_mm = np.array([BLOCK * FINE_MM, BLOCK * FINE_MM, protocol.slice_mm])
    first_mm = placed.origin_mm - 0.5 + block_mm / 2  # center of the first block

    labels, mars = placed.labels.cpu().numpy(), placed.mars.cpu().numpy()
    bleeds = microbleeds(mars, placed.origin_mm, microbleed_count(burden, random), random)
    others = mimics(labels, mars, placed.origin_mm, random)
    sources = [s for s in bleeds + others if s.kind == "microbleed" or _is_apart(s.balls_mm, bleeds)]

    background = _shim(field_shift_ppm(maps.chi_ppm, (1.0, 1.0, 1.0), b0_direction, padding=24), placed.mars > 0)
    vessels = [branches(tree, placed, random) for tree in trees]
    grid = (origin, spacing, shape, device)
    veins, arteries = (
        _filled([v for v in vessels if v.arterial is arterial], random, *grid) for arterial in (False, True)
    )
    hidden = [s for s in bleeds if vessel_share((veins, arteries), s, origin, spacing) > MOST_VESSEL]
    bleeds, sources = ([s for s in each if s not in hidden] for each in (bleeds, sources))
    vein_chi = tissue.VEIN.chi_ppm * random.uniform(0.8, 1.2)
    vein_shift = field_shift_ppm(veins * vein_chi, tuple(spacing), b0_direction, padding=8)
    factors = [s.factor(origin, spacing, shape, protocol.rad_per_ppm, b0_direction, device) for s in sources]

    echo_s = protocol.echo_time_ms * 1e-3
    vein_signal, artery_signal = (
        tissue.spoiled_gradient_echo(blood.proton_density, blood.t1_ms, protocol)
        * float(np.exp(-echo_s * (blood.r2_per_s + blood.r2_prime_per_s_per_t * protocol.field_t)))
        for blood in (tissue.VEIN, tissue.ARTERIAL)
    )
    if random.random() < FLOW_VOIDS:  # fast flow has left before the echo
        artery_signal *= float(random.uniform(0.0, 0.3))
    spectra, full = [], []
    group = max(1, 16 // per_slice)
    for start in range(0, slices, group):
        stop = min(slices, start + group)
        fine = slice(start * per_slice, stop * per_slice)
        at = (origin[2] + spacing[2] * np.arange(fine.start, fine.stop)) - placed.origin_mm[2]
        magnitude = _upsample(maps.signal * torch.exp(-echo_s * maps.r2star_per_s), at, per_mm)
        shift = _upsample(background, at, per_mm).add_(vein_shift[:, :, fine])
        for share, blood_signal in ((veins[:, :, fine], vein_signal), (arteries[:, :, fine], artery_signal)):
            magnitude += share * (blood_signal - magnitude)
        signal = torch.polar(magnitude, shift.mul_(protocol.rad_per_ppm))
        for found in factors:
            if found is None:
                continue
            (rows, columns, depth), factor = found
            low, high = max(depth.start, fine.start), min(depth.stop, fine.stop)
            if low < high:
                signal[rows, columns, low - fine.start : high - fine.start] *= factor[
                    :, :, low - depth.start : high - depth.start
                ]
        thick = _average(signal, per_slice)
        full.append(_blocks(thick))
        spectra.append(sample(thick, fov_mm, protocol))
    image = torch.cat(full, dim=2)

    white = float(torch.median(image.abs()[::4, ::4][_upsample_mask(placed, slices, protocol)[::4, ::4]]))
    raw_phase = bool(random.random() < 0.25)
    stored = acquire(torch.cat(spectra, dim=2), fov_mm, protocol, random, noise, white, raw_phase)

    pixel = np.array(fov_mm) / stored.swi.shape[:2]
    matrix = np.eye(4)
    matrix[:3, :3] = rotation @ np.diag([pixel[0], pixel[1], protocol.slice_mm])
    first = origin + [0, 0, (per_slice - 1) / 2 * spacing[2]]
    offset = random.uniform(-10, 10, 3)
    matrix[:3, 3] = rotation @ first + offset

    scale = random.uniform(300, 2500) / white
    swi = Volume((stored.swi * scale).clamp(0, 32000).round().cpu().numpy().astype(np.int16), matrix)
    coded = (stored.phase_rad * (4096 / torch.pi)).round().clamp(-4096, 4095)
    phase = Volume(coded.cpu().numpy().astype(np.int16), matrix)
    regions = Volume(_mars_on(swi, mars, placed, rotation, offset), matrix)

    truth: dict = {
        "protocol": protocol.name,
        "echo_time_ms": protocol.echo_time_ms,
        "field_t": protocol.field_t,
        "paramagnetic_sign": protocol.paramagnetic_sign,
        "mask_power": protocol.mask_power,
        "acquired_mm": round(protocol.acquired_mm, 3),
        "raw_phase": raw_phase,
        "moved": stored.moved,
        "head": head.name,
        "seed": seed,
        "burden": burden,
        "lesions": [],
        "faint": [],
        "mimics": [],
    }
    filtered = homodyne(image, protocol.filter_mm, block_mm[:2].tolist(), protocol.filter_window)
    clean = image.abs() * phase_mask(filtered) ** protocol.mask_power
    for source, found in zip(sources, factors, strict=True):
        if found is None:
            continue
        alone = averaged(*found, (BLOCK, BLOCK, per_slice))[1]
        seen = appearance(alone, block_mm, protocol.mask_power, protocol.acquired_mm)
        around = _near(clean, source.center_mm, source.diameter_mm + 3.0, first_mm, block_mm)
        center_ras_mm = rotation @ source.center_mm + offset
        side = _side(source.center_mm, placed)
        usual = float(around.median()) / white if around.numel() else 0.0
        add_truth(truth, source, center_ras_mm, seen, side, signal=usual, snr=protocol.snr)
    found_marks = [mark for v in vessels if not v.arterial for mark in v.landmarks(random)]
    found_marks += _air_edges(clean, placed, first_mm, block_mm, random)
    for mark in found_marks:
        contrast = local_contrast(clean, mark.center_mm, first_mm, block_mm)
        if contrast >= MIMIC_CONTRAST and _is_apart(mark.center_mm[None], bleeds):
            label = _label_at(mars, mark.center_mm, placed)
            truth["mimics"].append(
                _entry(mark.kind, rotation @ mark.center_mm + offset, mark.diameter_mm, contrast, label,
                       _side(mark.center_mm, placed))
            )  # fmt: skip
    return SimulatedCase(swi, phase, regions, truth)


@dataclass(frozen=True)
class Appearance:
    """What a source alone does to the SWI, without noise.

    Attributes
    ----------
    contrast : float
        Largest relative loss of signal, 0-1.
    voxel_contrast : float
        The same in voxels of the acquired size.
    diameter_mm : float
        Of the ball with the volume that loses over a fifth.
    """

    contrast: float
    voxel_contrast: float
    diameter_mm: float


def add_truth(
    truth: dict,
    source: Source,
    center_ras_mm: npt.NDArray,
    seen: Appearance,
    side: str,
    *,
    signal: float = 1.0,
    snr: float | None = None,
) -> None:
    """Add a source to the lesions, the faint lesions or the mimics of a truth.

    Parameters
    ----------
    signal : float
        Of the tissue around, as a share of white matter's.
    snr : float or None
        Signal-to-noise ratio of white matter; None where it is not known, then noise hides nothing.
    """
    cnr = None if snr is None else seen.voxel_contrast * signal * snr
    visible = (
        seen.contrast >= VISIBLE_CONTRAST
        and VISIBLE_MM <= seen.diameter_mm <= LARGEST_MM
        and signal >= VISIBLE_SIGNAL
        and (cnr is None or cnr >= VISIBLE_CNR)
    )
    entry = _entry(source.kind, center_ras_mm, seen.diameter_mm, seen.contrast, source.sub_region, side)
    entry |= {
        "contrast_to_noise": None if cnr is None else round(cnr, 1),
        "source_diameter_mm": round(source.diameter_mm, 2),
        "chi_ppm": round(source.chi_ppm, 2),
    }
    truth["mimics" if source.kind != "microbleed" else "lesions" if visible else "faint"].append(entry)


def _entry(kind: str, center_ras_mm: npt.NDArray, diameter_mm: float, contrast: float, label: int, side: str) -> dict:
    """Make one entry of a truth."""
    return {
        "kind": kind,
        "center_ras_mm": [round(float(x), 3) for x in center_ras_mm],
        "diameter_mm": round(diameter_mm, 2),
        "contrast": round(contrast, 3),
        "sub_region": label,
        "region": BY_LABEL[label].region.value if label else "",
        "side": side,
    }


def write_case(case: SimulatedCase, folder: Path) -> None:
    """Write swi.nii.gz, phase.nii.gz, mars.nii.gz and truth.json into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_volume(case.swi, folder / "swi.nii.gz")
    write_volume(case.phase, folder / "phase.nii.gz")
    write_volume(case.mars, folder / "mars.nii.gz")
    part = folder / "truth.json.part"  # what tells that a case is whole is whole itself
    part.write_text(json.dumps(case.truth, indent=1) + "\n", encoding="utf-8")
    os.replace(part, folder / "truth.json")


def _slice_orientation(random: np.random.Generator) -> npt.NDArray:
    """Slice axes in the scanner's RAS: half of the scans are oblique, mostly tilted about R."""
    if random.random() < 0.5:
        return np.eye(3)
    return heads.rotation(np.deg2rad(random.normal(0.0, [9.0, 3.0, 3.0])))


def _is_apart(places_mm: npt.NDArray, bleeds: list[Source]) -> bool:
    """Whether no lesion is near: a mimic on top of one would make the lesion's truth ambiguous."""
    return all(np.linalg.norm(places_mm - bleed.center_mm, axis=1).min() > APART_MM for bleed in bleeds)


def _shim(field_ppm: torch.Tensor, brain: torch.Tensor) -> torch.Tensor:
    """Take the second-order polynomial out of the field in the brain, as the scanner's shim does."""
    axes = [torch.linspace(-1, 1, n, device=field_ppm.device) for n in field_ppm.shape]
    r, a, s = torch.meshgrid(*axes, indexing="ij")
    terms = [torch.ones_like(r), r, a, s, r * a, r * s, a * s, r * r, a * a, s * s]
    places = torch.nonzero(brain)[::97]
    rows = torch.stack([t[places[:, 0], places[:, 1], places[:, 2]] for t in terms], dim=1)
    values = field_ppm[places[:, 0], places[:, 1], places[:, 2]]
    weights = np.linalg.lstsq(rows.double().cpu().numpy(), values.double().cpu().numpy(), rcond=None)[0]
    # Rounded, as the last bits of a least-squares fit depend on where the arrays lie in memory.
    return field_ppm - sum(float(w) * t for w, t in zip(weights.round(6), terms, strict=True))


def _filled(
    vessels: list[Branches],
    random: np.random.Generator,
    origin: npt.NDArray,
    spacing: npt.NDArray,
    shape: tuple[int, int, int],
    device: torch.device | str,
) -> torch.Tensor:
    """Share of every fine voxel that these vessels fill."""
    samples = [each.samples(random, step_mm=0.7 * FINE_MM) for each in vessels]
    if not samples:
        return torch.zeros(shape, device=device)
    points, volumes = (np.concatenate(parts) for parts in zip(*samples, strict=True))
    return splat(points, volumes, origin, spacing, shape, device)


def vessel_share(
    vessels: tuple[torch.Tensor, ...], source: Source, origin_mm: npt.NDArray, spacing_mm: npt.NDArray
) -> float:
    """Share of the ball in and around a source that vessels fill."""
    radius_mm = source.diameter_mm / 2 + VESSEL_REACH_MM
    center = (source.center_mm - origin_mm) / spacing_mm
    low = np.maximum(np.floor(center - radius_mm / spacing_mm).astype(int), 0)
    high = np.minimum(np.ceil(center + radius_mm / spacing_mm).astype(int) + 1, vessels[0].shape)
    if (high <= low).any():
        return 0.0
    axes = [(np.arange(a, b) - c) * step for a, b, c, step in zip(low, high, center, spacing_mm, strict=True)]
    r, a, s = np.meshgrid(*axes, indexing="ij")
    ball = torch.from_numpy(r**2 + a**2 + s**2 <= radius_mm**2).to(vessels[0].device)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    return sum(float(share[box][ball].mean()) for share in vessels)


def _upsample(image: torch.Tensor, at: npt.NDArray, times: int) -> torch.Tensor:
    """A 1 mm image on the fine grid: linear through the slices at indices `at`, bilinear by `times` in plane."""
    position = torch.from_numpy(at).to(image).clamp(0, image.shape[2] - 1)
    low = position.floor().long().clamp(max=image.shape[2] - 2)
    weight = position - low
    planes = image[:, :, low] * (1 - weight) + image[:, :, low + 1] * weight
    finer = F.interpolate(planes.permute(2, 0, 1)[:, None], scale_factor=times, mode="bilinear", align_corners=False)
    return finer[:, 0].permute(1, 2, 0).contiguous()


def _average(signal: torch.Tensor, per_slice: int) -> torch.Tensor:
    """Mean of each group of fine slices."""
    r, a, s = signal.shape
    return signal.view(r, a, s // per_slice, per_slice).mean(dim=3)


def _blocks(image: torch.Tensor) -> torch.Tensor:
    """Mean of each block of fine voxels in plane."""
    r, a, s = image.shape
    return image.view(r // BLOCK, BLOCK, a // BLOCK, BLOCK, s).mean(dim=(1, 3))


def _upsample_mask(placed: PlacedHead, slices: int, protocol: Protocol) -> torch.Tensor:
    """Where the averaged image shows cerebral white matter."""
    white = (placed.labels == heads.WHITE_MATTER[0]) | (placed.labels == heads.WHITE_MATTER[1])
    at = ((np.arange(slices) + 0.5) * protocol.slice_mm - 0.5).clip(0, white.shape[2] - 1).round().astype(int)
    return white[:, :, torch.from_numpy(at)].repeat_interleave(2, 0).repeat_interleave(2, 1)


def _mars_on(
    swi: Volume, mars: npt.NDArray[np.uint8], placed: PlacedHead, rotation: npt.NDArray, offset: npt.NDArray
) -> npt.NDArray[np.uint8]:
    """MARS labels on the grid of the stored images, by the nearest 1 mm voxel."""
    axes = []
    for axis, n in enumerate(swi.array.shape):
        start = (rotation.T @ (swi.ijk_to_ras[:3, 3] - offset))[axis]
        index = start + np.arange(n) * swi.spacing_mm[axis] - placed.origin_mm[axis]
        axes.append(index.round().clip(0, mars.shape[axis] - 1).astype(int))
    return mars[np.ix_(*axes)]


def appearance(
    factor: torch.Tensor, voxel_mm: npt.NDArray, mask_power: int = 4, acquired_mm: float = 0.0
) -> Appearance:
    """What a source alone does to the SWI of even tissue.

    Parameters
    ----------
    factor : complex Tensor, shape (R, A, S)
        Signal with the source over signal without, on voxels all around it (`sources.averaged`).
    voxel_mm : ndarray, shape (3,)
        Size of these voxels.
    mask_power : int
        How often the phase mask multiplies the magnitude.
    acquired_mm : float
        In-plane size of a voxel that the scanner resolves.
    """
    loss = 1 - factor.abs() * phase_mask(factor.angle()) ** mask_power
    volume = float((loss > 0.2).sum()) * float(voxel_mm.prod())
    window = [min(max(1, round(acquired_mm / step)), n) for step, n in zip(voxel_mm[:2], loss.shape[:2], strict=True)]
    voxels = F.avg_pool2d(loss.permute(2, 0, 1)[None], window, stride=1)
    return Appearance(float(loss.max()), float(voxels.max()), float(np.cbrt(6 * volume / np.pi)))


def local_contrast(swi: torch.Tensor, center_mm: npt.NDArray, first_mm: npt.NDArray, step_mm: npt.NDArray) -> float:
    """Signal that the darkest voxel within 1.25 mm lacks against the median within 5 mm, as a share of it."""
    around, inner = (_near(swi, center_mm, reach, first_mm, step_mm) for reach in (5.0, 1.25))
    if not inner.numel():
        return 0.0
    usual = float(around.median())
    return 1 - float(inner.min()) / usual if usual > 0 else 0.0


def _near(
    image: torch.Tensor, center_mm: npt.NDArray, reach_mm: float, first_mm: npt.NDArray, step_mm: npt.NDArray
) -> torch.Tensor:
    """Part of an image within a cube around a place; empty off the image."""
    low = np.maximum(np.floor((center_mm - reach_mm - first_mm) / step_mm).astype(int), 0)
    high = np.minimum(np.ceil((center_mm + reach_mm - first_mm) / step_mm).astype(int) + 1, image.shape)
    return image[low[0] : max(high[0], low[0]), low[1] : max(high[1], low[1]), low[2] : max(high[2], low[2])]


def _air_edges(
    swi: torch.Tensor,
    placed: PlacedHead,
    first_mm: npt.NDArray,
    step_mm: npt.NDArray,
    random: np.random.Generator,
) -> list[Landmark]:
    """Places in the brain, at the rim of the dropout near air, where half of the signal is lost."""
    air, _ = tissue.cavities(placed)
    brain = (placed.mars > 0).cpu().numpy()
    near_air = brain & (ndimage.distance_transform_edt(~air.cpu().numpy()) < AIR_REACH_MM)
    places = np.argwhere(near_air)
    usual = float(swi[swi > 0].median())
    marks: list[Landmark] = []
    for voxel in places[random.permutation(len(places))[:2000]]:
        center = placed.origin_mm + voxel
        index = tuple(np.rint((center - first_mm) / step_mm).astype(int).clip(0, np.array(swi.shape) - 1))
        if float(swi[index]) < 0.5 * usual and all(np.linalg.norm(center - m.center_mm) > 8.0 for m in marks):
            marks.append(Landmark("air-tissue edge", center, 2.0))
        if len(marks) == MOST_AIR_EDGES:
            break
    return marks


def _label_at(mars: npt.NDArray[np.uint8], center_mm: npt.NDArray, placed: PlacedHead) -> int:
    index = np.rint(center_mm - placed.origin_mm).astype(int).clip(0, np.array(mars.shape) - 1)
    return int(mars[tuple(index)])


def _side(center_mm: npt.NDArray, placed: PlacedHead) -> str:
    """Side of the body from the label numbers within 3 mm: those of both sides mean midline."""
    index = np.round(center_mm - placed.origin_mm).astype(int)
    reach = 3
    box = tuple(slice(max(0, i - reach), i + reach + 1) for i in index)
    near = placed.labels[box].cpu().numpy()
    left = np.isin(near, [2, 3, 4, 5, 7, 8, 10, 11, 12, 13, 17, 18, 26, 28]).sum()
    right = np.isin(near, [41, 42, 43, 44, 46, 47, 49, 50, 51, 52, 53, 54, 58, 60]).sum()
    if placed.mirrored:
        left, right = right, left
    if left + right == 0 or min(left, right) > 0.2 * (left + right):
        return "midline"
    return "left" if left > right else "right"
