"""What a tissue is to the scanner: proton density, T1, R2* and susceptibility, from a placed label map."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from CMBDetectorLib.simulation import heads
from CMBDetectorLib.simulation.heads import PlacedHead
from CMBDetectorLib.simulation.protocols import Protocol


@dataclass(frozen=True)
class Tissue:
    """Literature values; T1 at 3 T, R2* as the sum of `r2_per_s` and, for every tesla, `r2_prime_per_s_per_t`."""

    proton_density: float
    t1_ms: float
    r2_per_s: float
    r2_prime_per_s_per_t: float
    chi_ppm: float


AIR_CHI_PPM, BONE_CHI_PPM = 9.4, -2.0
WHITE = Tissue(0.70, 850, 13, 2.6, -0.03)
GRAY = Tissue(0.82, 1350, 11, 1.9, 0.0)
FLUID = Tissue(1.00, 4000, 1, 0.2, 0.0)
SOFT = Tissue(0.75, 1100, 22, 3.0, 0.0)
FAT = Tissue(0.95, 380, 18, 4.0, 0.6)
VEIN = Tissue(0.85, 1650, 18, 9.0, 0.38)
ARTERIAL = Tissue(0.95, 700, 6, 1.0, 0.0)  # inflow shortens the apparent T1
BONE = Tissue(0.04, 300, 200, 60.0, BONE_CHI_PPM)

TISSUES: tuple[tuple[tuple[int, ...], Tissue], ...] = (
    ((*heads.WHITE_MATTER, *heads.CEREBELLUM_WHITE, 25, 57), WHITE),
    ((*heads.CORTEX, *heads.CEREBELLUM_CORTEX, 17, 53, 18, 54, 26, 58), GRAY),
    ((heads.BRAINSTEM, *heads.VENTRAL_DC, 85), Tissue(0.75, 1000, 13, 2.4, -0.01)),
    (heads.THALAMUS, Tissue(0.78, 1150, 13, 2.4, 0.01)),
    (heads.CAUDATE, Tissue(0.80, 1250, 13, 3.4, 0.05)),
    (heads.PUTAMEN, Tissue(0.80, 1200, 14, 4.4, 0.07)),
    (heads.PALLIDUM, Tissue(0.75, 1050, 16, 8.0, 0.14)),
    ((*heads.VENTRICLES, heads.CSF, 72), FLUID),
    (heads.CHOROID_PLEXUS, Tissue(0.85, 1800, 12, 3.0, 0.0)),
    ((heads.DURAL_SINUS,), VEIN),
    ((heads.ARTERY,), ARTERIAL),
    ((heads.BONE,), BONE),
    ((heads.MARROW, heads.SKIN), FAT),
    ((507, 508, heads.NASAL, 512, 530, 30, 62, 136, 137), SOFT),
    ((506,), FLUID),
)


@dataclass(frozen=True, eq=False)
class TissueMaps:
    """Maps at 1 mm on the grid of a `PlacedHead`.

    Attributes
    ----------
    signal : Tensor
        Steady-state magnitude before T2* decay, arbitrary units (white matter about 0.1).
    r2star_per_s : Tensor
    chi_ppm : Tensor
        Relative to water.
    """

    signal: torch.Tensor
    r2star_per_s: torch.Tensor
    chi_ppm: torch.Tensor


def spoiled_gradient_echo(proton_density: float, t1_ms: float, protocol: Protocol) -> float:
    """Ernst equation: steady-state signal of a spoiled gradient echo before T2* decay."""
    e1 = np.exp(-protocol.repetition_time_ms / t1_ms)
    flip = np.deg2rad(protocol.flip_angle_deg)
    return float(proton_density * np.sin(flip) * (1 - e1) / (1 - np.cos(flip) * e1))


def tissue_maps(placed: PlacedHead, protocol: Protocol, random: np.random.Generator) -> TissueMaps:
    """Signal, R2* and susceptibility of every voxel, each tissue varied around its literature value."""
    labels = placed.labels
    air, bone_holes = cavities(placed)
    numbers = 600
    table = torch.zeros((3, numbers))
    iron = random.uniform(0.6, 1.6)  # one number for a person: iron grows with age in all nuclei alike
    for label_numbers, tissue in TISSUES:
        t1 = tissue.t1_ms * random.uniform(0.88, 1.12) * (0.78 if protocol.field_t < 2 else 1.0)
        density = tissue.proton_density * random.uniform(0.94, 1.06)
        chi = tissue.chi_ppm * (iron if 0.04 < tissue.chi_ppm < 0.2 else random.uniform(0.85, 1.15))
        prime = tissue.r2_prime_per_s_per_t * (iron if 0.04 < tissue.chi_ppm < 0.2 else random.uniform(0.8, 1.2))
        r2star = tissue.r2_per_s * random.uniform(0.85, 1.15) + prime * protocol.field_t
        if tissue is FLUID:  # flow and pulsation make fluid darker or brighter than its T1 tells
            density *= random.uniform(0.8, 2.0)
        for number in label_numbers:
            table[:, number] = torch.tensor([spoiled_gradient_echo(density, t1, protocol), r2star, chi])
    table = table.to(labels.device)
    maps = table[:, labels.long()]
    bone = table[:, heads.BONE][:, None]
    maps[:, bone_holes] = bone
    maps[:, air] = torch.tensor([[0.0], [0.0], [AIR_CHI_PPM]], device=labels.device)
    nuclei = iron_nuclei(placed, random)
    maps[1] += nuclei * 7.0 * iron * protocol.field_t
    maps[2] += nuclei * 0.13 * iron
    texture = _noise(labels.shape, 2.5, random, labels.device)
    maps[0] *= 1 + 0.025 * texture
    maps[1] *= 1 + 0.06 * _noise(labels.shape, 5.0, random, labels.device)
    # Label maps have steps, tissue has none; steps at bone and air would show as scallops in the field.
    return TissueMaps(*(gaussian(each, sigma) for each, sigma in zip(maps, (0.6, 0.6, 1.0), strict=True)))


def cavities(placed: PlacedHead) -> tuple[torch.Tensor, torch.Tensor]:
    """Air (outside the head, airways, paranasal and petrous cells) and the unlabeled rest inside the skull.

    Label 0 means both; inside the skull it is bone. Air is what survives an opening by 2 mm at least 4 mm from the
    brain, as sinuses do and unlabeled specks do not.
    """
    empty = placed.labels == 0
    brain = placed.mars > 0
    near_brain = dilate(brain, 4)
    opened = dilate(~dilate(~empty, 2), 2) & empty
    air = opened & ~near_brain
    return air, empty & ~air


def iron_nuclei(placed: PlacedHead, random: np.random.Generator) -> torch.Tensor:
    """Weight (0-1) of red nucleus, substantia nigra and dentate nucleus, which the label maps do not hold.

    Placed by their usual offset from the ventral diencephalon and the cerebellar white matter of each side.
    """
    weight = torch.zeros(placed.labels.shape, device=placed.labels.device)
    grid = torch.stack(
        torch.meshgrid(*(torch.arange(n, dtype=torch.float32, device=weight.device) for n in weight.shape),
                       indexing="ij")
    )  # fmt: skip
    midline = float(torch.nonzero(placed.labels == heads.BRAINSTEM).float().mean(dim=0)[0])

    def ellipsoid(center: list[float], radii_mm: list[float], hollow: float = 0.0) -> torch.Tensor:
        distance = sum(((grid[i] - center[i]) / radii_mm[i]) ** 2 for i in range(3))
        assert isinstance(distance, torch.Tensor)
        distance = distance.sqrt()
        return ((distance < 1.0) & (distance > hollow)).float()

    for ventral, white in zip(heads.VENTRAL_DC, heads.CEREBELLUM_WHITE, strict=True):
        r, a, s = torch.nonzero(placed.labels == ventral).float().mean(dim=0).tolist()
        lateral = r - midline
        jitter = random.normal(0, 0.7, 3)
        weight += 0.9 * ellipsoid([midline + 0.5 * lateral, a - 3 + jitter[0], s - 1], [2.8, 3.0, 3.5])
        weight += ellipsoid([midline + 0.85 * lateral, a + 1 + jitter[1], s - 4], [4.5, 4.0, 2.2])
        r, a, s = torch.nonzero(placed.labels == white).float().mean(dim=0).tolist()
        lateral = r - midline
        center = [midline + 0.85 * lateral, a + 2 + jitter[2], s]
        weight += 0.8 * ellipsoid(center, [6.0, 7.0, 4.5], hollow=0.6)
    return gaussian(weight * (placed.mars > 0), 0.7).clamp(0, 1)


def gaussian(image: torch.Tensor, sigma_voxels: float) -> torch.Tensor:
    """Separable Gaussian filter of an (R, A, S) image."""
    radius = max(1, int(np.ceil(3 * sigma_voxels)))
    x = torch.arange(-radius, radius + 1, dtype=torch.float32, device=image.device)
    kernel = torch.exp(-0.5 * (x / sigma_voxels) ** 2)
    kernel /= kernel.sum()
    result = image[None, None]
    for axis in range(3):
        shape = [1, 1, 1, 1, 1]
        shape[2 + axis] = -1
        pad = [0, 0, 0, 0, 0, 0]
        pad[2 * (2 - axis)] = pad[2 * (2 - axis) + 1] = radius
        result = F.conv3d(F.pad(result, pad, mode="replicate"), kernel.view(shape))
    return result[0, 0]


def dilate(mask: torch.Tensor, voxels: int) -> torch.Tensor:
    """Dilation of a boolean (R, A, S) mask by a cube of the given half-width."""
    size = 2 * voxels + 1
    image = mask.float()[None, None]
    for axis in range(3):
        kernel, padding = [1, 1, 1], [0, 0, 0]
        kernel[axis], padding[axis] = size, voxels
        image = F.max_pool3d(image, kernel, stride=1, padding=padding)
    return image[0, 0] > 0.5


def _noise(shape: torch.Size, scale_mm: float, random: np.random.Generator, device: torch.device) -> torch.Tensor:
    """Smooth random texture of unit standard deviation with the given correlation length."""
    knots = [max(2, int(np.ceil(n / scale_mm))) for n in shape]
    coarse = torch.from_numpy(random.normal(0, 1, knots).astype(np.float32)).to(device)
    fine = F.interpolate(coarse[None, None], size=tuple(shape), mode="trilinear", align_corners=True)[0, 0]
    return fine / fine.std()
