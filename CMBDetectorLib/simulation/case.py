"""One simulated case: SWI, phase, MARS regions and truth, from a head, a protocol and a seed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from CMBDetectorLib.regions import BY_LABEL
from CMBDetectorLib.simulation import heads, tissue
from CMBDetectorLib.simulation.acquisition import acquire, phase_mask
from CMBDetectorLib.simulation.field import field_shift_ppm
from CMBDetectorLib.simulation.heads import Head, PlacedHead, place
from CMBDetectorLib.simulation.protocols import Protocol
from CMBDetectorLib.simulation.sources import Source, microbleed_count, microbleeds, mimics
from CMBDetectorLib.simulation.tissue import tissue_maps
from CMBDetectorLib.simulation.veins import VeinTree, splat, vein_points
from CMBDetectorLib.volume import Volume, write_volume

FINE_MM = 0.5  # in-plane grid of the complex signal; compact sources are computed at half of it
VISIBLE_CONTRAST, VISIBLE_MM = 0.25, 1.5  # a lesion below either is "faint": neither asked for nor punished
LARGEST_MM = 11.0  # what looks larger is no microbleed


@dataclass(frozen=True, eq=False)
class SimulatedCase:
    """A scan and its truth. `truth` is what truth.json holds; positions in it are RAS, mm."""

    swi: Volume
    phase: Volume
    mars: Volume
    truth: dict


def render(
    head: Head,
    trees: tuple[VeinTree, ...],
    protocol: Protocol,
    seed: int,
    burden: str = "realistic",
    device: torch.device | str = "cpu",
) -> SimulatedCase:
    """Render one case.

    Parameters
    ----------
    trees : tuple of VeinTree
        Of this head, from `CMBDetectorLib.simulation.veins.grow_veins`.
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

    per_slice = max(4, round(protocol.slice_mm / 0.5))
    spacing = np.array([FINE_MM, FINE_MM, protocol.slice_mm / per_slice])
    coarse = placed.labels.shape
    slices = int(coarse[2] / protocol.slice_mm)
    shape = (2 * coarse[0], 2 * coarse[1], slices * per_slice)
    origin = placed.origin_mm - 0.5 + spacing / 2  # center of the first fine voxel

    labels, mars = placed.labels.cpu().numpy(), placed.mars.cpu().numpy()
    bleeds = microbleeds(mars, placed.origin_mm, microbleed_count(burden, random), random)
    others = mimics(labels, mars, placed.origin_mm, random)
    sources = [s for s in bleeds + others if _far_from(s, bleeds)]

    background = _shim(field_shift_ppm(maps.chi_ppm, (1.0, 1.0, 1.0), b0_direction, padding=24), placed.mars > 0)
    points, volumes = vein_points(trees, placed, random)
    blood = splat(points, volumes, origin, spacing, shape, device)
    vein_chi = tissue.VEIN.chi_ppm * random.uniform(0.8, 1.2)
    blood_shift = field_shift_ppm(blood * vein_chi, tuple(spacing), b0_direction, padding=8)
    factors = [s.factor(origin, spacing, shape, protocol.rad_per_ppm, b0_direction, device) for s in sources]

    blood_signal = tissue.spoiled_gradient_echo(tissue.VEIN.proton_density, tissue.VEIN.t1_ms, protocol)
    blood_r2star = tissue.VEIN.r2_per_s + tissue.VEIN.r2_prime_per_s_per_t * protocol.field_t
    echo_s = protocol.echo_time_ms * 1e-3
    blood_signal *= float(np.exp(-echo_s * blood_r2star))
    bare, full = [], []
    group = max(1, 32 // per_slice)
    for start in range(0, slices, group):
        stop = min(slices, start + group)
        fine = slice(start * per_slice, stop * per_slice)
        at = (origin[2] + spacing[2] * np.arange(fine.start, fine.stop)) - placed.origin_mm[2]
        magnitude = _upsample(maps.signal * torch.exp(-echo_s * maps.r2star_per_s), at)
        shift = _upsample(background, at) + blood_shift[:, :, fine]
        share = blood[:, :, fine]
        magnitude = magnitude * (1 - share) + blood_signal * share
        signal = torch.polar(magnitude, protocol.rad_per_ppm * shift)
        bare.append(_average(signal, per_slice))
        for found in factors:
            if found is None:
                continue
            (rows, columns, depth), factor = found
            low, high = max(depth.start, fine.start), min(depth.stop, fine.stop)
            if low < high:
                signal[rows, columns, low - fine.start : high - fine.start] *= factor[
                    :, :, low - depth.start : high - depth.start
                ]
        full.append(_average(signal, per_slice))
    image = torch.cat(full, dim=2)
    ratio = image / (torch.cat(bare, dim=2) + 1e-9)

    white = float(torch.median(image.abs()[::4, ::4][_upsample_mask(placed, slices, protocol)[::4, ::4]]))
    raw_phase = bool(random.random() < 0.25)
    stored = acquire(image, FINE_MM, protocol, random, noise, white, raw_phase)

    pixel = np.array([shape[0] * FINE_MM / stored.swi.shape[0], shape[1] * FINE_MM / stored.swi.shape[1]])
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

    voxel_mm3 = FINE_MM**2 * protocol.slice_mm
    truth: dict = {
        "protocol": protocol.name,
        "echo_time_ms": protocol.echo_time_ms,
        "field_t": protocol.field_t,
        "paramagnetic_sign": protocol.paramagnetic_sign,
        "raw_phase": raw_phase,
        "head": head.name,
        "seed": seed,
        "lesions": [],
        "faint": [],
        "mimics": [],
    }
    for source, found in zip(sources, factors, strict=True):
        if found is None:
            continue
        contrast, apparent = appearance(ratio, source, origin, spacing, per_slice, voxel_mm3)
        center_ras_mm = rotation @ source.center_mm + offset
        add_truth(truth, source, center_ras_mm, contrast, apparent, _side(source.center_mm, placed))
    return SimulatedCase(swi, phase, regions, truth)


def add_truth(
    truth: dict, source: Source, center_ras_mm: npt.NDArray, contrast: float, apparent_mm: float, side: str
) -> None:
    """Add a source to the lesions, the faint lesions or the mimics of a truth."""
    visible = contrast >= VISIBLE_CONTRAST and VISIBLE_MM <= apparent_mm <= LARGEST_MM
    truth["mimics" if source.kind != "microbleed" else "lesions" if visible else "faint"].append(
        {
            "kind": source.kind,
            "center_ras_mm": [round(float(x), 3) for x in center_ras_mm],
            "diameter_mm": round(apparent_mm, 2),
            "source_diameter_mm": round(source.diameter_mm, 2),
            "chi_ppm": round(source.chi_ppm, 2),
            "contrast": round(contrast, 3),
            "sub_region": source.sub_region,
            "region": BY_LABEL[source.sub_region].region.value if source.sub_region else "",
            "side": side,
        }
    )


def write_case(case: SimulatedCase, folder: Path) -> None:
    """Write swi.nii.gz, phase.nii.gz, mars.nii.gz and truth.json into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_volume(case.swi, folder / "swi.nii.gz")
    write_volume(case.phase, folder / "phase.nii.gz")
    write_volume(case.mars, folder / "mars.nii.gz")
    (folder / "truth.json").write_text(json.dumps(case.truth, indent=1) + "\n")


def _slice_orientation(random: np.random.Generator) -> npt.NDArray:
    """Slice axes in the scanner's RAS: half of the scans are oblique, mostly tilted about R."""
    if random.random() < 0.5:
        return np.eye(3)
    return heads.rotation(np.deg2rad(random.normal(0.0, [9.0, 3.0, 3.0])))


def _far_from(source: Source, bleeds: list[Source]) -> bool:
    """A mimic on top of a lesion would make the lesion's truth ambiguous."""
    if source.kind == "microbleed":
        return True
    nearest = min((np.linalg.norm(source.balls_mm - b.center_mm, axis=1).min() for b in bleeds), default=np.inf)
    return bool(nearest > 6.0)


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


def _upsample(image: torch.Tensor, at: npt.NDArray) -> torch.Tensor:
    """A 1 mm image on the fine grid: linear through the slices at indices `at`, bilinear by two in plane."""
    position = torch.from_numpy(at).to(image).clamp(0, image.shape[2] - 1)
    low = position.floor().long().clamp(max=image.shape[2] - 2)
    weight = position - low
    planes = image[:, :, low] * (1 - weight) + image[:, :, low + 1] * weight
    finer = F.interpolate(planes.permute(2, 0, 1)[:, None], scale_factor=2, mode="bilinear", align_corners=False)
    return finer[:, 0].permute(1, 2, 0)


def _average(signal: torch.Tensor, per_slice: int) -> torch.Tensor:
    """Mean of each group of fine slices."""
    r, a, s = signal.shape
    return signal.view(r, a, s // per_slice, per_slice).mean(dim=3)


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
    ratio: torch.Tensor, source: Source, origin: npt.NDArray, spacing: npt.NDArray, per_slice: int, voxel_mm3: float
) -> tuple[float, float]:
    """Largest relative loss of SWI signal by a source, and the diameter of the ball that loses over a fifth, mm."""
    step = spacing * [1, 1, per_slice]
    start = origin + [0, 0, (per_slice - 1) / 2 * spacing[2]]
    reach = source.diameter_mm / 2 + 7.0
    low = np.maximum(np.floor((source.center_mm - reach - start) / step).astype(int), 0)
    high = np.minimum(np.ceil((source.center_mm + reach - start) / step).astype(int) + 1, ratio.shape)
    if (high <= low).any():
        return 0.0, 0.0
    part = ratio[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
    loss = 1 - part.abs() * phase_mask(part.angle()) ** 4
    volume = float((loss > 0.2).sum()) * voxel_mm3
    return float(loss.max()), float(np.cbrt(6 * volume / np.pi))


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
