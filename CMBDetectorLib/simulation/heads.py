"""Heads to simulate from: label maps, and their random deformation into a scan's frame."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy import ndimage

from CMBDetectorLib.errors import InputError
from CMBDetectorLib.volume import read_volume

# FreeSurfer numbers, as SynthSeg's training label maps use them; 5xx lie outside the brain.
WHITE_MATTER, CORTEX = (2, 41), (3, 42)
CEREBELLUM_WHITE, CEREBELLUM_CORTEX = (7, 46), (8, 47)
SUPRATENTORIAL_VENTRICLES = (4, 43, 5, 44, 14)
VENTRICLES, CSF, BRAINSTEM = (*SUPRATENTORIAL_VENTRICLES, 15), 24, 16
THALAMUS, CAUDATE, PUTAMEN, PALLIDUM = (10, 49), (11, 50), (12, 51), (13, 52)
VENTRAL_DC, CHOROID_PLEXUS = (28, 60), (163, 164)
DURAL_SINUS, ARTERY, BONE, MARROW, SKIN, NASAL = 514, 502, 515, 516, 511, 509
FIRST_OUTSIDE = 500  # this number and those above lie outside the brain

ATROPHY_MM = (0.3, 1.8)  # how far cortex may recede that is as thick as usual
CORTEX_MM = 3.0  # as thick as that
PATCH_MM = 24.0  # over which atrophy changes
VENTRICLE_GROWTH_MM = (-1.5, 3.5)  # how far the ventricles' walls move outward
VENTRICLE_REACH_MM = 12.0  # over which that fades


@dataclass(frozen=True, eq=False)
class Head:
    """One head at 1 mm in RAS order.

    Attributes
    ----------
    name : str
    labels : ndarray of int16, shape (R, A, S)
        FreeSurfer numbers.
    mars : ndarray of uint8, same shape
        MARS sub-region, 0-13.
    """

    name: str
    labels: npt.NDArray[np.int16]
    mars: npt.NDArray[np.uint8]

    @property
    def brain_center(self) -> npt.NDArray[np.float64]:
        """Centroid of brain tissue, voxels = mm."""
        return np.argwhere(self.mars > 0).mean(axis=0)


def load_head(directory: Path, name: str) -> Head:
    """Read ``<name>_labels.nii.gz`` and ``<name>_mars.nii.gz``."""
    volumes = [read_volume(Path(directory) / f"{name}_{kind}.nii.gz").in_ras_order() for kind in ("labels", "mars")]
    for volume in volumes:
        if not np.allclose(volume.spacing_mm, 1.0, atol=0.01):
            raise InputError(f"{volume.source} has voxels of {volume.spacing_mm} mm; heads must be 1 mm.")
    labels, mars = volumes[0].array.astype(np.int16), volumes[1].array.astype(np.uint8)
    return Head(name, _without_specks(labels), mars)


def _without_specks(labels: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
    """Unlabeled specks among brain and fluid are fluid: taken for bone, they would leave dark spots at the surface."""
    inner = (labels > 0) & (labels < FIRST_OUTSIDE)
    box = tuple(slice(max(0, s.start - 4), s.stop + 4) for s in ndimage.find_objects(inner.astype(np.uint8))[0])
    filled = labels.copy()
    part = filled[box]
    inner = inner[box] | np.isin(part, (DURAL_SINUS, ARTERY))
    part[ndimage.binary_closing(inner, ndimage.generate_binary_structure(3, 1), iterations=3) & (part == 0)] = CSF
    return filled


def list_heads(directory: Path) -> list[str]:
    """Names of the heads in a folder."""
    names = sorted(path.name.removesuffix("_labels.nii.gz") for path in Path(directory).glob("*_labels.nii.gz"))
    if not names:
        raise InputError(f"{directory} holds no heads; it needs files such as 02_labels.nii.gz and 02_mars.nii.gz.")
    return names


def atrophied(head: Head, random: np.random.Generator) -> Head:
    """Head with less cortex, so with wider sulci and more fluid around; sulci that hold no fluid open.

    Cortex is cut at a depth of `CORTEX_MM` less a loss that differs from patch to patch; white matter becomes cortex
    down to as much below its inner face, and keeps its MARS region. Brainstem and cerebellum stay.
    """
    tissue = ndimage.find_objects((head.mars > 0).astype(np.uint8))[0]
    box = tuple(slice(max(0, part.start - 4), part.stop + 4) for part in tissue)
    labels, mars = head.labels[box], head.mars[box]
    cortex = np.isin(labels, CORTEX)
    depth_mm = ndimage.distance_transform_edt(cortex | (mars == 0)).astype(np.float32)
    below_mm = ndimage.distance_transform_edt(~cortex)
    knots = [int(np.ceil(n / PATCH_MM)) + 2 for n in labels.shape]
    patches = torch.from_numpy(random.uniform(-0.5, 0.5, knots))[None, None]
    loss_mm = random.uniform(*ATROPHY_MM) + F.interpolate(patches, labels.shape, mode="trilinear")[0, 0].numpy()
    # Smoothed, as depth on a grid has steps; but a millimeter stays.
    lost = cortex & (ndimage.gaussian_filter(depth_mm, 0.5) > CORTEX_MM - loss_mm) & (depth_mm > 1)
    thin, left = head.labels.copy(), head.mars.copy()
    for gray, white in zip(CORTEX, WHITE_MATTER, strict=True):
        thin[box][(labels == white) & (below_mm < loss_mm)] = gray
    thin[box][lost], left[box][lost] = CSF, 0
    return Head(head.name, thin, left)


@dataclass(frozen=True, eq=False)
class PlacedHead:
    """A head deformed into the frame of a scan, at 1 mm.

    The scan's frame has its origin in the brain's centroid and its axes along the slice stack (R, A, S); the voxel
    ``[0, 0, 0]`` of all maps is centered at `origin_mm`.
    """

    labels: torch.Tensor  # (R, A, S) int16
    mars: torch.Tensor  # (R, A, S) uint8
    origin_mm: npt.NDArray[np.float64]
    head_from_scan: npt.NDArray[np.float64]  # (3, 3), and see `displacement_mm`
    head_center: npt.NDArray[np.float64]
    displacement_mm: torch.Tensor  # (3, R, A, S), in head axes
    mirrored: bool  # left and right of the label numbers are exchanged

    def scan_points(self, head_points_mm: npt.NDArray) -> npt.NDArray:
        """Points of the undeformed head (voxels = mm), shape (N, 3), in the scan's frame, mm."""
        inverse = np.linalg.inv(self.head_from_scan)
        target = head_points_mm - self.head_center
        scan = target @ inverse.T
        for _ in range(8):  # the displacement is smooth and small, so the fixed point converges
            scan = (target - self._displacement_at(scan)) @ inverse.T
        return scan

    def _displacement_at(self, scan_mm: npt.NDArray) -> npt.NDArray:
        shape = torch.tensor(self.displacement_mm.shape[1:], dtype=torch.float32)
        index = torch.from_numpy((scan_mm - self.origin_mm).astype(np.float32))
        grid = (2 * index / (shape - 1) - 1).flip(-1)[None, None, None]
        values = F.grid_sample(
            self.displacement_mm[None].cpu(), grid, mode="bilinear", padding_mode="border", align_corners=True
        )
        return values[0, :, 0, 0].T.numpy()


def place(head: Head, random: np.random.Generator, device: torch.device | str = "cpu") -> PlacedHead:
    """Deform a head at random (pose, size, shape, ventricles) into a scan's frame that covers it.

    Slices reach from below the cerebellum to above the vertex, as a technologist would plan them.
    """
    angles = np.deg2rad(random.normal(0.0, [6.0, 3.5, 5.0]))
    scale = random.uniform(0.9, 1.1, 3) * random.uniform(0.94, 1.06)
    head_from_scan = rotation(angles) @ np.diag(1.0 / scale)
    mirrored = bool(random.random() < 0.5)  # left-right differences of the atlas must not be learned
    if mirrored:
        head_from_scan = np.diag([-1.0, 1.0, 1.0]) @ head_from_scan
    center = head.brain_center
    brain = (np.argwhere(head.mars > 0)[::50] - center) @ np.linalg.inv(head_from_scan).T
    low = brain.min(axis=0) - [22.0, 24.0, random.uniform(6.0, 14.0)]
    high = brain.max(axis=0) + [22.0, 22.0, random.uniform(8.0, 16.0)]
    shape = tuple(int(n) for n in np.ceil(high - low).astype(int) + 1)

    displacement = _smooth_displacement(shape, random, device)
    index = torch.stack(
        torch.meshgrid(*(torch.arange(n, dtype=torch.float32, device=device) for n in shape), indexing="ij")
    )
    scan = index + torch.tensor(low, dtype=torch.float32, device=device)[:, None, None, None]
    matrix = torch.tensor(head_from_scan, dtype=torch.float32, device=device)
    source = torch.einsum("ij,jras->iras", matrix, scan)
    source += torch.tensor(center, dtype=torch.float32, device=device)[:, None, None, None]
    size = torch.tensor(head.labels.shape, dtype=torch.float32, device=device)[:, None, None, None]

    def warp(values: npt.NDArray) -> torch.Tensor:
        image = torch.from_numpy(values.astype(np.float32)).to(device)[None, None]
        grid = (2 * (source + displacement) / (size - 1) - 1).flip(0).permute(1, 2, 3, 0)[None]
        return F.grid_sample(image, grid, mode="nearest", padding_mode="zeros", align_corners=True)[0, 0]

    toward_ventricles = _toward_ventricles(warp(head.labels), float(random.uniform(*VENTRICLE_GROWTH_MM)))
    displacement = displacement + torch.einsum("ij,jras->iras", matrix, toward_ventricles)
    labels, mars = warp(head.labels).to(torch.int16), warp(head.mars).to(torch.uint8)
    if random.random() < 0.5:
        shrunk = _shrunk_cortex(labels, random)
        labels[shrunk], mars[shrunk] = CSF, 0
    return PlacedHead(
        labels=labels,
        mars=mars,
        origin_mm=low,
        head_from_scan=head_from_scan,
        head_center=center,
        displacement_mm=displacement,
        mirrored=mirrored,
    )


def rotation(angles_rad: npt.NDArray) -> npt.NDArray:
    """Rotation about R, then A, then S."""
    (cr, ca, cs), (sr, sa, ss) = np.cos(angles_rad), np.sin(angles_rad)
    about_r = np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    about_a = np.array([[ca, 0, sa], [0, 1, 0], [-sa, 0, ca]])
    about_s = np.array([[cs, -ss, 0], [ss, cs, 0], [0, 0, 1]])
    return about_s @ about_a @ about_r


def _toward_ventricles(labels: torch.Tensor, growth_mm: float) -> torch.Tensor:
    """Displacement, mm, shape (3, R, A, S), that moves the walls of the ventricles outward by `growth_mm`."""
    inside = np.isin(labels.cpu().numpy(), SUPRATENTORIAL_VENTRICLES)
    signed_mm = ndimage.distance_transform_edt(~inside) - ndimage.distance_transform_edt(inside)
    signed_mm = ndimage.gaussian_filter(signed_mm.astype(np.float32), 1.5)
    fading = growth_mm * np.exp(-np.abs(signed_mm) / VENTRICLE_REACH_MM)
    return -torch.from_numpy(np.stack([fading * slope for slope in np.gradient(signed_mm)])).to(labels.device)


def _shrunk_cortex(labels: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
    """Outermost cortex that becomes fluid in every other head: up to half of its millimeter, in patches."""
    numbers = labels.cpu().numpy()
    surface = np.isin(numbers, CORTEX) & ndimage.binary_dilation(numbers == CSF)
    knots = [max(2, n // 12) for n in numbers.shape]
    patches = F.interpolate(torch.from_numpy(random.normal(size=(1, 1, *knots))), numbers.shape, mode="trilinear")
    values = patches[0, 0].numpy()
    lost = surface & (values < np.quantile(values[surface], random.uniform(0.05, 0.5))) if surface.any() else surface
    return torch.from_numpy(lost).to(labels.device)


def _smooth_displacement(
    shape: tuple[int, ...], random: np.random.Generator, device: torch.device | str
) -> torch.Tensor:
    """Random smooth displacement, mm, shape (3, R, A, S): a coarse and a finer scale."""
    total = torch.zeros((3, *shape), device=device)
    for knots_mm, amplitude_mm in ((48.0, 3.0), (24.0, 1.2)):
        knots = [3, *(max(3, int(np.ceil(n / knots_mm)) + 2) for n in shape)]
        coarse = torch.from_numpy(random.normal(0.0, amplitude_mm, knots).astype(np.float32)).to(device)
        total += F.interpolate(coarse[None], size=shape, mode="trilinear", align_corners=True)[0]
    return total
