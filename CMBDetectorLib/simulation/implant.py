"""Known microbleeds and calcifications put into an existing SWI and phase, with truth.

By superposition: the field of a compact source adds to the field that is there, so its phase adds to the phase and
the signal lost in each voxel multiplies the magnitude. What that takes for granted stands in docs/simulation.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from CMBDetectorLib.candidate import Location
from CMBDetectorLib.errors import InputError
from CMBDetectorLib.phase import high_pass
from CMBDetectorLib.phase_range import known_scale, to_radians
from CMBDetectorLib.resampling import as_stored
from CMBDetectorLib.simulation.acquisition import mask_change
from CMBDetectorLib.simulation.case import SimulatedCase, add_truth, appearance
from CMBDetectorLib.simulation.protocols import PROTOCOLS
from CMBDetectorLib.simulation.sources import APART_MM, REGION_SHARE, Box, Source, averaged, microbleed
from CMBDetectorLib.volume import Acquisition, Volume

UNFILTERED_RAD = 0.4  # taken out by the high-pass filter; below, the vendor has filtered before
DARK = 0.75  # of the tissue around; a place with darker voxels holds a vein or a lesion already
QUIET_MM, AROUND_MM = 2.5, 6.0
TRIES = 300
GRID_MM = 0.5  # of the factor that is averaged over the voxels
ECHO_MS, FIELD_T = (1.0, 100.0), (0.2, 12.0)  # outside, the number is in another unit

LocationOf = Callable[[npt.NDArray[np.float64]], Location | None]


@dataclass(frozen=True, eq=False)
class Implanted:
    """A scan with sources put in.

    Attributes
    ----------
    swi, phase : Volume
        Grid, type of the values and range as given; voxels that no source reaches are the same to the bit. `phase`
        is None when none was given.
    truth : dict
        ``lesions``, ``faint`` and ``mimics`` as in a simulated case's truth.json. A source off the scan is left out.
    """

    swi: Volume
    phase: Volume | None
    truth: dict[str, list[dict[str, Any]]]


def implant(
    swi: Volume,
    phase: Volume | None,
    sources: Sequence[Source],
    *,
    rad_per_ppm: float,
    paramagnetic_sign: int,
    mask_power: int = 4,
    location_of: LocationOf = lambda center_ras_mm: None,
) -> Implanted:
    """Put sources into a scan.

    Parameters
    ----------
    swi : Volume
        Phase-masked magnitude, any scale and orientation.
    phase : Volume or None
        On the grid of `swi`, in any range that `phase_range.to_radians` knows, wrapped or filtered.
    sources : sequence of Source
        Placed in RAS, mm.
    rad_per_ppm : float
        Phase at the echo per ppm of field shift (`Protocol.rad_per_ppm`).
    paramagnetic_sign : int
        +1 when paramagnetic tissue (veins along B0) is bright on `phase`, -1 when it is dark.
    mask_power : int
        How often the vendor's phase mask multiplied the magnitude.
    location_of : callable
        For a place in RAS, mm, its anatomical location (`localize.locate`), from which the truth takes the side.

    Raises
    ------
    InputError
        The phase lies on another grid or its range is not known.
    """
    scan = swi.in_ras_order()
    factor = torch.ones(scan.array.shape, dtype=torch.complex64)
    placed = []
    for source in sources:
        found = voxel_factor(source, scan, rad_per_ppm)
        if found is not None:
            factor[found[0]] *= found[1]
            placed.append((source, found[1]))
    reached = (factor != 1).numpy()
    if not reached.any():
        return Implanted(swi, phase, _truth(placed, scan, mask_power, location_of))
    # What the phase filter leaves of the sources' phase. Exact where the rest of the head is uniform.
    filtered_rad = torch.from_numpy(high_pass(factor.angle().numpy(), factor.abs().numpy(), scan.ijk_to_ras)[reached])
    before_rad, new_phase = torch.zeros_like(filtered_rad), phase
    if phase is not None:
        if phase.array.shape != swi.array.shape or not np.allclose(phase.ijk_to_ras, swi.ijk_to_ras, atol=1e-3):
            raise InputError(f"{phase.source or 'The phase'} lies on another grid than the SWI. Resample it first.")
        stored = phase.in_ras_order()
        radians = to_radians(stored)[0].array
        filtered = high_pass(radians, np.maximum(scan.array, 0), scan.ijk_to_ras)
        is_filtered = _taken_out_rad(radians, filtered, scan.array) < UNFILTERED_RAD
        seen_by_mask, shift_rad = (radians, filtered_rad) if is_filtered else (filtered, factor.angle()[reached])
        before_rad = paramagnetic_sign * torch.from_numpy(seen_by_mask[reached])
        new_phase = as_stored(_shifted(stored.array, reached, paramagnetic_sign * shift_rad.numpy()), phase)
    after_rad = torch.remainder(before_rad + filtered_rad + torch.pi, 2 * torch.pi) - torch.pi
    gain = (factor.abs()[reached] * mask_change(before_rad, after_rad, mask_power)).numpy()
    new_swi = as_stored(_dimmed(scan.array, reached, gain), swi)
    return Implanted(new_swi, new_phase, _truth(placed, scan, mask_power, location_of))


def voxel_factor(source: Source, scan: Volume, rad_per_ppm: float) -> tuple[Box, torch.Tensor] | None:
    """Complex factor of a source on the voxels of a scan, and the box of voxels that it covers.

    Computed on a grid at least twice as fine in plane and four times as fine across the slices, B0 along the scanner's
    z axis, and averaged over each voxel: blooming and dephasing emerge.

    Parameters
    ----------
    source : Source
        Placed in RAS, mm.
    scan : Volume
        In R, A, S order.

    Returns
    -------
    (box, factor) or None
        None when the source lies off the scan.
    """
    spacing = scan.spacing_mm
    axes = scan.ijk_to_ras[:3, :3] / spacing  # columns: the scan's axes in RAS
    least = np.where(np.arange(3) == spacing.argmax(), 4, 2)
    parts = np.maximum(np.ceil(spacing / GRID_MM - 1e-3), least).astype(int)
    fine_mm = spacing / parts
    origin = scan.ijk_to_ras[:3, 3] @ axes - spacing / 2 + fine_mm / 2
    b0 = (float(axes[2, 0]), float(axes[2, 1]), float(axes[2, 2]))
    r, a, s = (int(n) for n in scan.array.shape * parts)
    found = replace(source, balls_mm=source.balls_mm @ axes).factor(origin, fine_mm, (r, a, s), rad_per_ppm, b0)
    if found is None:
        return None
    return averaged(*found, [int(n) for n in parts])


def choose_places(
    swi: Volume, mars: Volume, count: int, random: np.random.Generator
) -> list[tuple[npt.NDArray[np.float64], int]]:
    """Places in brain tissue, away from what is dark already (veins, lesions), and 6 mm from each other.

    Parameters
    ----------
    swi, mars : Volume
        Same grid; `mars` holds labels 0-13.
    count : int
        How many; fewer come back where the tissue has no room.

    Returns
    -------
    list of (center, label)
        RAS, mm, and MARS label. Lobar, deep and infratentorial in the shares of simulated heads, of what there is.
    """
    scan, labels = swi.in_ras_order(), mars.in_ras_order().array
    tissue = ndimage.binary_erosion(labels > 0)
    groups = [(np.flatnonzero(tissue & np.isin(labels, list(group))), share) for group, share in REGION_SHARE]
    groups = [(voxels, share) for voxels, share in groups if voxels.size]
    shares = np.array([share for _, share in groups])
    places: list[tuple[npt.NDArray[np.float64], int]] = []
    for _ in range(TRIES * count if groups else 0):
        if len(places) == count:
            break
        voxels = groups[random.choice(len(groups), p=shares / shares.sum())][0]
        voxel = np.array(np.unravel_index(voxels[random.integers(voxels.size)], labels.shape))
        center = scan.ras_of(voxel + random.uniform(-0.5, 0.5, 3))
        around = _cube(voxel, AROUND_MM, scan)
        usual = np.median(scan.array[around][labels[around] > 0])
        quiet = np.percentile(scan.array[_cube(voxel, QUIET_MM, scan)], 5) > DARK * usual
        if quiet and all(np.linalg.norm(center - other) > APART_MM for other, _ in places):
            places.append((center, int(labels[tuple(voxel)])))
    return places


def microbleeds_in(swi: Volume, mars: Volume, count: int, random: np.random.Generator) -> list[Source]:
    """Random microbleeds in RAS, mm, at chosen places (`choose_places`), of the sizes that simulated heads have."""
    return [microbleed(center, label, random) for center, label in choose_places(swi, mars, count, random)]


def implanted_case(
    swi: Volume,
    phase: Volume,
    mars: Volume,
    *,
    head: str,
    count: int,
    seed: int,
    echo_time_ms: float,
    field_t: float,
    paramagnetic_sign: int,
    location_of: LocationOf,
) -> SimulatedCase:
    """Put random microbleeds into a scan without any; the outcome is written and evaluated like a simulated case.

    Parameters
    ----------
    swi, phase, paramagnetic_sign, location_of
        See `implant`.
    mars : Volume
        MARS labels on the grid of `swi`.
    head : str
        Name of the scan.
    """
    sources = microbleeds_in(swi, mars, count, np.random.default_rng(seed))
    if not sources:
        raise InputError(f"No place for a microbleed was found in {head}. Check that it is an SWI of a whole head.")
    protocol = replace(PROTOCOLS["3T-2mm"], field_t=field_t, echo_time_ms=echo_time_ms)
    done = implant(
        swi,
        phase,
        sources,
        rad_per_ppm=protocol.rad_per_ppm,
        paramagnetic_sign=paramagnetic_sign,
        location_of=location_of,
    )
    truth = {
        "protocol": "implanted",
        "echo_time_ms": echo_time_ms,
        "field_t": field_t,
        "paramagnetic_sign": paramagnetic_sign,
        "mask_power": protocol.mask_power,
        "acquired_mm": round(float(swi.in_ras_order().spacing_mm[:2].max()), 3),
        "moved": False,
        "head": head,
        "seed": seed,
        "burden": str(count),
        **done.truth,
    }
    return SimulatedCase(done.swi, done.phase or phase, mars, truth)


def echo_and_field(swi: Volume, echo_time_ms: float | None, field_t: float | None) -> tuple[float, float]:
    """Echo time, ms, and field strength, T: as given, else as the scanner wrote them; `InputError` when unknown."""
    said = swi.acquisition or Acquisition()
    echo = said.echo_time_ms if echo_time_ms is None else echo_time_ms
    field = said.field_strength_t if field_t is None else field_t
    name = swi.source or "the SWI"
    if echo is None:
        raise InputError(f"{name} does not say its echo time. Give it in milliseconds, such as --echo-time 20.")
    if field is None:
        raise InputError(f"{name} does not say the field strength. Give it in tesla, such as --field 3.")
    if not ECHO_MS[0] <= echo <= ECHO_MS[1]:
        raise InputError(f"The echo time is {echo:g} ms. Give milliseconds, such as --echo-time 20.")
    if not FIELD_T[0] <= field <= FIELD_T[1]:
        raise InputError(f"The field strength is {field:g} T. Give tesla, such as --field 3.")
    return echo, field


def _cube(voxel: npt.NDArray, reach_mm: float, scan: Volume) -> Box:
    reach = np.ceil(reach_mm / scan.spacing_mm).astype(int)
    r, a, s = (slice(max(int(i - n), 0), int(i + n + 1)) for i, n in zip(voxel, reach, strict=True))
    return r, a, s


def _taken_out_rad(radians: npt.NDArray, filtered: npt.NDArray, weight: npt.NDArray) -> float:
    """Typical phase that a high-pass filter takes out of a head: about pi / 2 if raw, little if filtered before."""
    head = weight >= weight.mean()
    return float(np.median(np.abs(np.angle(np.exp(1j * (radians[head] - filtered[head]))))))


def _dimmed(stored: npt.NDArray, where: npt.NDArray[np.bool_], gain: npt.NDArray) -> npt.NDArray:
    new = stored.copy()
    values = np.minimum(stored[where] * gain, stored.max())
    new[where] = np.rint(values) if _is_whole(stored) else values
    return new


def _shifted(stored: npt.NDArray, where: npt.NDArray[np.bool_], shift_rad: npt.NDArray) -> npt.NDArray:
    """Add rad to a phase in the numbers that it is stored in, wrapped into their range."""
    finite = stored[np.isfinite(stored)]
    known = known_scale(float(finite.min()), float(finite.max()), _is_whole(stored))
    assert known is not None, "to_radians has read it"
    zero, pi, _ = known
    values = stored[where].astype(np.float64) + shift_rad * (pi / np.pi)
    if _is_whole(stored):
        values = np.rint(values)
    new = stored.copy()
    new[where] = np.mod(values - zero + pi, 2 * pi) + zero - pi
    return new


def _is_whole(stored: npt.NDArray) -> bool:
    """Whether values are whole numbers, judged as `to_radians` does, by a sample."""
    finite = stored[np.isfinite(stored)]
    return bool(np.all(finite[:: max(1, finite.size // 100_000)] % 1 == 0))


def _truth(
    placed: list[tuple[Source, torch.Tensor]], scan: Volume, mask_power: int, location_of: LocationOf
) -> dict[str, list[dict[str, Any]]]:
    truth: dict[str, list[dict[str, Any]]] = {"lesions": [], "faint": [], "mimics": []}
    for source, factor in placed:
        location = location_of(source.center_mm)
        seen = appearance(factor, scan.spacing_mm, mask_power)
        side = location.side.value if location else ""
        add_truth(truth, source, source.center_mm, seen, side)
    return truth
