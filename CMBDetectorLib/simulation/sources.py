"""Compact susceptibility sources: microbleeds and what is mistaken for them, as unions of balls.

A source changes a scan in one way only: where it lies, the signal is weaker, and around it the field is shifted. Its
effect is therefore a complex factor on the finer signal, which `Source.factor` gives and which may multiply a
simulated head or any existing scan (superposition).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy import ndimage

from CMBDetectorLib.simulation import heads
from CMBDetectorLib.simulation.field import field_shift_ppm

Box = tuple[slice, slice, slice]

FADE_MM = 3.0  # over which a source's field is faded out at the edge of its box
COMPACT_MM = 0.25  # grid on which a small source's field is computed
APART_MM = 6.0  # microbleeds, from each other and from mimics

# Share of microbleeds per group region: lobar, deep, infratentorial (mixed etiologies; ours).
REGION_SHARE = ((range(9, 14), 0.55), (range(3, 9), 0.25), (range(1, 3), 0.20))


@dataclass(frozen=True, eq=False, kw_only=True)
class Source:
    """A union of balls of one susceptibility.

    Attributes
    ----------
    kind : str
        ``microbleed``, or the name of a mimic.
    balls_mm : ndarray, shape (M, 3)
        Centers in the scan's frame, mm.
    radii_mm : ndarray, shape (M,)
    chi_ppm : float
        Relative to the tissue around; negative for calcification.
    inside_signal : float
        Signal inside relative to the tissue around, 0-1.
    sub_region : int
        MARS label at the center; 0 outside tissue.
    softness : float
        Share of the radius over which a ball fades out at its edge, 0-1: 0 is as sharp as the grid, 1 fades from the
        middle on.
    """

    kind: str
    balls_mm: npt.NDArray[np.float64]
    radii_mm: npt.NDArray[np.float64]
    chi_ppm: float
    inside_signal: float
    sub_region: int = 0
    softness: float = 0.0

    @property
    def center_mm(self) -> npt.NDArray[np.float64]:
        """Centroid, weighted by ball volume, in the scan's frame."""
        return np.average(self.balls_mm, axis=0, weights=self.radii_mm**3)

    @property
    def diameter_mm(self) -> float:
        """Diameter of the ball of the same volume or, where that is smaller, extent; balls that overlap count twice."""
        reach = np.linalg.norm(self.balls_mm - self.center_mm, axis=1) + self.radii_mm
        return float(2 * min(reach.max(), np.cbrt((self.radii_mm**3).sum())))

    def factor(
        self,
        origin_mm: npt.NDArray,
        spacing_mm: npt.NDArray,
        shape: tuple[int, int, int],
        rad_per_ppm: float,
        b0_direction: tuple[float, float, float],
        device: torch.device | str = "cpu",
    ) -> tuple[Box, torch.Tensor] | None:
        """Complex factor on the signal of a grid, and the box of that grid that it covers.

        Small sources are computed at `COMPACT_MM` or finer and averaged. The factor fades to 1 at the edge of the
        box, which reaches beyond the source by twice its extent, at least 7 mm and at most 16 mm.

        Returns
        -------
        (box, factor) or None
            None when the source lies off the grid, or so near its edge that the box has fewer than four voxels along
            an axis.
        """
        low, high = (self.balls_mm - self.radii_mm[:, None]).min(0), (self.balls_mm + self.radii_mm[:, None]).max(0)
        margin = max(7.0, 2.0 * float((high - low).max()))
        margin = min(margin, 16.0)
        first = np.maximum(np.floor((low - margin - origin_mm) / spacing_mm).astype(int), 0)
        last = np.minimum(np.ceil((high + margin - origin_mm) / spacing_mm).astype(int) + 1, shape)
        if (last - first < 4).any():
            return None
        small = float((high - low).max()) < 5.0
        finer = np.maximum(np.ceil(spacing_mm / COMPACT_MM - 1e-3), 1).astype(int) if small else np.ones(3, int)
        size = tuple(int(n) for n in (last - first) * finer)
        fine_mm = spacing_mm / finer
        start = origin_mm + first * spacing_mm - spacing_mm / 2 + fine_mm / 2
        axes = [start[i] + fine_mm[i] * torch.arange(size[i], dtype=torch.float32, device=device) for i in range(3)]
        sharp = float(fine_mm.max()) / 2
        fraction = torch.zeros(size, device=device)
        for ball, radius in zip(self.balls_mm, self.radii_mm, strict=True):
            squared = [(axes[i] - float(ball[i])) ** 2 for i in range(3)]
            distance = (squared[0][:, None, None] + squared[1][None, :, None] + squared[2][None, None, :]).sqrt()
            edge_mm = sharp + self.softness * float(radius)
            fraction = torch.maximum(fraction, ((float(radius) + sharp / 2 - distance) / edge_mm).clamp(0, 1))
        phase = field_shift_ppm(fraction * self.chi_ppm, tuple(fine_mm), b0_direction, padding=max(size) // 2)
        phase *= rad_per_ppm
        for i in range(3):
            # From where the box would end if the grid did not: at the grid's face the field goes on.
            edge = torch.minimum(axes[i] - float(low[i] - margin), float(high[i] + margin) - axes[i])
            window = torch.sin((edge / FADE_MM).clamp(0, 1) * torch.pi / 2) ** 2
            phase *= window.view([-1 if j == i else 1 for j in range(3)])
        signal = torch.polar(1 - fraction * (1 - self.inside_signal), phase)
        if (finer > 1).any():
            parts = torch.stack([signal.real, signal.imag])[None]
            averaged = F.avg_pool3d(parts, [int(n) for n in finer])[0]
            signal = torch.complex(averaged[0].contiguous(), averaged[1].contiguous())
        box = tuple(slice(int(a), int(b)) for a, b in zip(first, last, strict=True))
        return (box[0], box[1], box[2]), signal


def averaged(box: Box, factor: torch.Tensor, parts: Sequence[int]) -> tuple[Box, torch.Tensor]:
    """Mean of a source's factor over voxels of `parts` fine ones along each axis, and the box of those voxels."""
    # Filled up to whole voxels with 1, where the source does nothing.
    missing = [(edge.start % n, -edge.stop % n) for edge, n in zip(box, parts, strict=True)]
    factor = F.pad(factor, [int(n) for pair in reversed(missing) for n in pair], value=1)
    r, a, s = (slice(int(edge.start // n), int(-(-edge.stop // n))) for edge, n in zip(box, parts, strict=True))
    blocks = [int(size) for edge, n in zip((r, a, s), parts, strict=True) for size in (edge.stop - edge.start, n)]
    return (r, a, s), factor.reshape(blocks).mean(dim=(1, 3, 5))


def microbleed_count(burden: str, random: np.random.Generator) -> int:
    """Number of microbleeds of one person: ``realistic``, ``none``, ``many`` (for training), or digits for so many."""
    if burden.isdigit():
        return int(burden)
    if burden == "none":
        return 0
    if burden == "many":
        return int(random.integers(18, 45))
    draw = random.random()
    if draw < 0.4:
        return 0
    if draw < 0.8:
        return int(random.integers(1, 6))
    return int(random.integers(6, 16)) if draw < 0.95 else int(random.integers(20, 50))


def microbleeds(
    mars: npt.NDArray[np.uint8], origin_mm: npt.NDArray, count: int, random: np.random.Generator
) -> list[Source]:
    """Random microbleeds in brain tissue, at least 6 mm apart."""
    tissue = ndimage.binary_erosion(mars > 0)
    sources: list[Source] = []
    centers: list[npt.NDArray] = []
    for _ in range(count):
        labels = REGION_SHARE[random.choice(3, p=[share for _, share in REGION_SHARE])][0]
        places = np.argwhere(tissue & np.isin(mars, list(labels)))
        for _ in range(20):
            place = places[random.integers(len(places))]
            center = origin_mm + place + random.uniform(-0.5, 0.5, 3)
            if all(np.linalg.norm(center - other) > APART_MM for other in centers):
                break
        else:
            continue
        centers.append(center)
        sources.append(microbleed(center, int(mars[tuple(place)]), random))
    return sources


def microbleed(center_mm: npt.NDArray, sub_region: int, random: np.random.Generator) -> Source:
    """One microbleed of random size and susceptibility at a place: from barely visible to black."""
    diameter = float(np.clip(random.lognormal(np.log(1.7), 0.42), 0.7, 6.0))
    chi = float(np.clip(random.lognormal(np.log(0.45), 0.7), 0.12, 3.0))
    return irregular("microbleed", center_mm, diameter, chi, random.uniform(0.1, 0.7), random, sub_region)


def mimics(labels: npt.NDArray[np.int16], mars: npt.NDArray[np.uint8], origin_mm: npt.NDArray,
           random: np.random.Generator) -> list[Source]:  # fmt: skip
    """Calcifications, siderosis, cavernoma and old hemorrhage of one person, each with its usual frequency."""

    def somewhere(mask: npt.NDArray[np.bool_]) -> npt.NDArray | None:
        places = np.argwhere(mask)
        return places[random.integers(len(places))] if len(places) else None

    def calcium(place: npt.NDArray, low_mm: float, high_mm: float) -> Source:
        diameter = random.uniform(low_mm, high_mm)
        center = origin_mm + place + random.uniform(-0.5, 0.5, 3)
        sub_region = int(mars[tuple(np.asarray(place, int))])
        chi = -random.uniform(0.7, 3.0)
        return irregular("calcification", center, diameter, chi, random.uniform(0.1, 0.6), random, sub_region)

    found: list[Source] = []
    if random.random() < 0.7:  # pineal: behind the third ventricle, on the midline
        thalami = np.argwhere(np.isin(labels, heads.THALAMUS)).mean(axis=0)
        found.append(calcium(np.round(thalami + [random.normal(0, 0.7), -17 + random.normal(), 1]), 2.0, 5.0))
    for plexus in heads.CHOROID_PLEXUS:
        for _ in range(int(random.integers(0, 4))):
            place = somewhere(labels == plexus)
            if place is not None:
                found.append(calcium(place, 1.0, 3.5))
    if random.random() < 0.3:
        for pallidum in heads.PALLIDUM:
            for _ in range(int(random.integers(1, 4))):
                place = somewhere(labels == pallidum)
                if place is not None:
                    found.append(calcium(place, 0.8, 3.0))
    if random.random() < 0.3:
        middle = np.argwhere(mars > 0).mean(axis=0)[0]
        falx = (labels == heads.CSF) & (np.abs(np.arange(labels.shape[0]) - middle) < 2)[:, None, None]
        falx[:, :, : int(0.6 * labels.shape[2])] = False
        place = somewhere(falx)
        if place is not None:
            found.append(calcium(place, 1.5, 6.0))
    for _ in range(int(random.choice([0, 0, 1, 2, 4]))):
        place = somewhere(mars > 0)
        if place is not None:
            found.append(calcium(place, 0.8, 4.0))
    if random.random() < 0.12:
        rim = (labels == heads.CSF) & ndimage.binary_dilation(np.isin(labels, heads.CORTEX))
        place = somewhere(rim)
        if place is not None:
            near = np.argwhere(rim)
            near = near[np.linalg.norm((near - place) * [1, 1, 1.5], axis=1) < random.uniform(5, 12)]
            near = near[random.random(len(near)) < 0.5][:200]
            balls = origin_mm + near + random.uniform(-0.4, 0.4, near.shape)
            found.append(
                Source(kind="siderosis", balls_mm=balls, radii_mm=random.uniform(0.4, 0.8, len(near)),
                       chi_ppm=random.uniform(0.5, 1.5), inside_signal=0.5, sub_region=int(mars[tuple(place)]))
            )  # fmt: skip
    for kind, chance, low, high in (("cavernoma", 0.05, 6.0, 14.0), ("old hemorrhage", 0.08, 11.0, 24.0)):
        place = somewhere(mars > 0) if random.random() < chance else None
        if place is not None:
            size = random.uniform(low, high)
            offsets = random.normal(size=(14, 3))
            offsets *= (size / 2 * random.random(14) ** 0.5 / np.linalg.norm(offsets, axis=1))[:, None] * 0.7
            found.append(
                Source(kind=kind, balls_mm=origin_mm + place + offsets, radii_mm=random.uniform(0.15, 0.3, 14) * size,
                       chi_ppm=random.uniform(0.3, 0.9), inside_signal=random.uniform(0.2, 0.9),
                       sub_region=int(mars[tuple(place)]))
            )  # fmt: skip
    return [source for source in found if len(source.radii_mm)]


def irregular(
    kind: str,
    center_mm: npt.NDArray,
    diameter_mm: float,
    chi_ppm: float,
    inside_signal: float,
    random: np.random.Generator,
    sub_region: int,
) -> Source:
    """An irregular, compact source: a core with up to five smaller balls that stick out of it.

    The extent stays within the diameter; in half of the sources the small balls lie along an axis.
    """
    extra = int(random.integers(0, 6))
    directions = random.normal(size=(extra, 3))
    directions *= np.where(random.random() < 0.5, [1.0, 1.0, 1.0], random.permutation([1.0, 0.6, 0.3]))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True) + 1e-9
    radius = diameter_mm / 2
    core = random.uniform(0.6, 0.95) if extra else 1.0
    sizes = random.uniform(0.25, 0.6, extra)
    offsets = directions * (random.uniform(0.7, 1.0, extra) * (1 - sizes))[:, None] * radius
    return Source(
        kind=kind,
        balls_mm=np.concatenate([center_mm[None], center_mm + offsets]),
        radii_mm=np.concatenate([[core * radius], sizes * radius]),
        chi_ppm=chi_ppm,
        inside_signal=float(inside_signal),
        sub_region=sub_region,
    )


def ragged(
    kind: str,
    center_mm: npt.NDArray,
    diameter_mm: float,
    chi_ppm: float,
    inside_signal: float,
    random: np.random.Generator,
    sub_region: int,
) -> Source:
    """A cluster of three to nine balls, each of which runs into one before it; none of them need be the core.

    The extent about the center stays within the diameter; the balls lie along one axis more than along others.
    `irregular` sources are nearly round.
    """
    sizes = random.uniform(0.3, 0.9, int(random.integers(3, 10)))
    stretch = random.uniform(0.5, 1.4, 3)
    places = [np.zeros(3)]
    for n, size in enumerate(sizes[1:], start=1):
        beside = int(random.integers(n))
        direction = stretch * random.normal(size=3)
        direction *= random.uniform(0.4, 0.9) * (size + sizes[beside]) / np.linalg.norm(direction)
        places.append(places[beside] + direction)
    offsets = np.array(places) - np.average(places, axis=0, weights=sizes**3)
    scale_mm = diameter_mm / 2 / (np.linalg.norm(offsets, axis=1) + sizes).max()
    return Source(
        kind=kind,
        balls_mm=center_mm + scale_mm * offsets,
        radii_mm=scale_mm * sizes,
        chi_ppm=chi_ppm,
        inside_signal=float(inside_signal),
        sub_region=sub_region,
    )
