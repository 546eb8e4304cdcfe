"""Microbleeds, calcifications and vessels painted into training crops, looking as no single physics would have them.

Domain randomization: in the simulator a large lesion is nearly always black, its field always the dipole that goes with
it, and vessels run as its own trees do. On scans that others simulated, a detector trained on that alone missed plain
gray spots and took vessels of other courses, cut across, for lesions (docs/models.md). Ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from CMBDetectorLib.simulation.sources import Box

Points = npt.NDArray[np.float64]

FADE_MM = 2.0  # over which a field ends that is cut off
STEP_MM = 0.2  # along a vessel
LEAST_EDGE_MM = 0.5  # a voxel: sharper ones would be jagged
BEYOND_MM = 1.0  # around a vessel's wall, which is as soft as a voxel


@dataclass(frozen=True, eq=False, kw_only=True)
class Spot:
    """A dark ellipsoid with a soft edge, and a dipole field of any strength around it.

    Attributes
    ----------
    center_mm : ndarray, shape (3,)
    semi_axes_mm : ndarray, shape (3,)
        Where half of the darkness is reached.
    edge : float
        Width of the edge as a share of them.
    depth : float
        Share of the signal that is lost in the middle.
    shift_rad : float
        Phase lost at the equator and gained twofold at the poles; negative as of calcium.
    inside : float
        Phase within, as a share of `shift_rad`; physics has 0.
    """

    center_mm: Points
    semi_axes_mm: Points
    edge: float
    depth: float
    shift_rad: float
    inside: float

    @property
    def balls_mm(self) -> Points:
        """Its center; with `radii_mm` the ball that it fills."""
        return self.center_mm[None]

    @property
    def radii_mm(self) -> Points:
        """Where the darkness is a fifth at most, of the longest axis."""
        return np.array([float(self.semi_axes_mm.max()) * (1 + 0.35 * self.edge)])

    def factor(
        self,
        origin_mm: npt.NDArray,
        spacing_mm: npt.NDArray,
        shape: tuple[int, int, int],
        rad_per_ppm: float,
        b0_direction: tuple[float, float, float],
    ) -> tuple[Box, torch.Tensor] | None:
        """Complex factor on the signal of a grid, as of `simulation.sources.Source.factor`; any echo looks the same."""
        radius_mm = float(self.semi_axes_mm.max())
        reach_mm = 2 * radius_mm + 2 * FADE_MM
        box = _box(self.center_mm - reach_mm, self.center_mm + reach_mm, origin_mm, spacing_mm, shape)
        if box is None:
            return None
        offsets = [
            torch.from_numpy(o + spacing * np.arange(part.start, part.stop) - middle).float()
            for o, spacing, part, middle in zip(origin_mm, spacing_mm, box, self.center_mm, strict=True)
        ]
        r, a, s = offsets[0][:, None, None], offsets[1][None, :, None], offsets[2][None, None, :]
        distance_mm = (r**2 + a**2 + s**2).sqrt().clamp(min=1e-3)
        scaled = [o / float(radius) for o, radius in zip((r, a, s), self.semi_axes_mm, strict=True)]
        share = torch.sigmoid((1 - (scaled[0] ** 2 + scaled[1] ** 2 + scaled[2] ** 2).sqrt()) * 4 / self.edge)
        along = (r * b0_direction[0] + a * b0_direction[1] + s * b0_direction[2]) / distance_mm
        field = (radius_mm / distance_mm.clamp(min=radius_mm)) ** 3 * (3 * along**2 - 1)
        phase = self.shift_rad * (share * self.inside + (1 - share) * field)
        phase *= ((reach_mm - distance_mm) / FADE_MM).clamp(0, 1)
        return box, torch.polar(1 - self.depth * share, phase)


@dataclass(frozen=True, eq=False, kw_only=True)
class Vessel:
    """A dark tube along a winding path.

    Attributes
    ----------
    balls_mm : ndarray, shape (N, 3)
        Its axis, in steps of `STEP_MM`.
    radius_mm, depth, shift_rad : float
        Its radius, the share of the signal that is lost in it, and its phase.
    """

    balls_mm: Points
    radius_mm: float
    depth: float
    shift_rad: float

    @property
    def radii_mm(self) -> Points:
        """Of the balls."""
        return np.full(len(self.balls_mm), self.radius_mm)

    def factor(
        self,
        origin_mm: npt.NDArray,
        spacing_mm: npt.NDArray,
        shape: tuple[int, int, int],
        rad_per_ppm: float,
        b0_direction: tuple[float, float, float],
    ) -> tuple[Box, torch.Tensor] | None:
        """Complex factor on the signal of a grid, as of `Spot.factor`."""
        reach_mm = self.radius_mm + BEYOND_MM
        low, high = self.balls_mm.min(axis=0) - reach_mm, self.balls_mm.max(axis=0) + reach_mm
        box = _box(low, high, origin_mm, spacing_mm, shape)
        if box is None:
            return None
        size = [part.stop - part.start for part in box]
        corner_mm = origin_mm + spacing_mm * [part.start for part in box]
        # Voxels in a cube around every point of the axis; the closest point decides.
        steps = [np.arange(-n, n + 1) for n in np.ceil(reach_mm / spacing_mm).astype(int)]
        cube = np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1).reshape(-1, 3)
        nearest = np.rint((self.balls_mm - corner_mm) / spacing_mm).astype(int)
        voxels = (nearest[:, None] + cube).reshape(-1, 3)
        points_mm = np.repeat(self.balls_mm, len(cube), axis=0)
        there = np.all((voxels >= 0) & (voxels < size), axis=1)
        voxels, points_mm = voxels[there], points_mm[there]
        distance_mm = np.linalg.norm(corner_mm + voxels * spacing_mm - points_mm, axis=1)
        covered = np.clip(0.5 + (self.radius_mm - distance_mm) / float(spacing_mm.max()), 0, 1)
        share = np.zeros(size, np.float32)
        np.maximum.at(share, tuple(voxels.T), covered.astype(np.float32))
        wall = torch.from_numpy(share)
        return box, torch.polar(1 - self.depth * wall, self.shift_rad * wall)


def spot(center_mm: Points, rng: np.random.Generator) -> Spot:
    """A microbleed of random size, darkness and edge; the phase of three in ten does not tell."""
    silent = rng.random() < 0.3
    return _spot(center_mm, 0.0 if silent else float(rng.uniform(0.1, 2.5)), rng)


def calcified_spot(center_mm: Points, rng: np.random.Generator) -> Spot:
    """A calcification, likewise, which only the phase tells."""
    return _spot(center_mm, -float(rng.uniform(0.7, 2.5)), rng)


def _spot(center_mm: Points, shift_rad: float, rng: np.random.Generator) -> Spot:
    radius_mm = 0.5 * float(np.exp(rng.uniform(np.log(1.5), np.log(9.5))))
    return Spot(
        center_mm=center_mm,
        semi_axes_mm=radius_mm * np.exp(rng.uniform(-0.2, 0.2, 3)),
        edge=max(float(rng.uniform(0.2, 1.5)), LEAST_EDGE_MM / radius_mm),
        depth=float(rng.uniform(0.3, 1.0)),
        shift_rad=shift_rad,
        inside=float(rng.choice([0.0, rng.uniform(0, 1.5)])),
    )


def vessel(center_mm: Points, rng: np.random.Generator) -> Vessel:
    """A vessel through a place, straight or winding, 6 mm long (8 radii, if that is more) to 50, short ones as often.

    Cut across by thick slices, the shortest look much like microbleeds.
    """
    radius_mm = float(np.exp(rng.uniform(np.log(0.3), np.log(1.4))))
    length_mm = float(np.exp(rng.uniform(np.log(max(6.0, 8 * radius_mm)), np.log(50.0))))
    winding = float(np.exp(rng.uniform(np.log(0.014), np.log(0.25))))  # rad per step
    direction = rng.normal(size=3)
    halves = [_path(center_mm, sign * direction, length_mm / 2, winding, rng) for sign in (1, -1)]
    return Vessel(
        balls_mm=np.concatenate([halves[1][::-1], center_mm[None], halves[0]]),
        radius_mm=radius_mm,
        depth=float(rng.uniform(0.25, 0.95)),
        shift_rad=float(rng.choice([0.0, rng.uniform(-0.5, 2.0)])),
    )


def _path(
    start_mm: Points, direction: npt.NDArray, length_mm: float, winding: float, rng: np.random.Generator
) -> Points:
    """Points from a start, which is left out, on a random walk of the direction."""
    points, heading = [start_mm], direction / np.linalg.norm(direction)
    for _ in range(max(1, round(length_mm / STEP_MM))):
        heading = heading + winding * rng.normal(size=3)
        heading /= np.linalg.norm(heading)
        points.append(points[-1] + STEP_MM * heading)
    return np.array(points[1:])


def _box(
    low_mm: Points, high_mm: Points, origin_mm: npt.NDArray, spacing_mm: npt.NDArray, shape: Sequence[int]
) -> Box | None:
    """Voxels of a grid from one corner to another; None where they lie off it."""
    first = np.maximum(np.floor((low_mm - origin_mm) / spacing_mm).astype(int), 0)
    last = np.minimum(np.ceil((high_mm - origin_mm) / spacing_mm).astype(int) + 1, shape)
    if (last - first < 1).any():
        return None
    r, a, s = (slice(int(start), int(stop)) for start, stop in zip(first, last, strict=True))
    return r, a, s
