"""Implanted lesions against joint simulation, and what implanting must leave alone."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from CMBDetectorLib.candidate import Location
from CMBDetectorLib.errors import InputError
from CMBDetectorLib.phase_range import to_radians
from CMBDetectorLib.regions import Side
from CMBDetectorLib.resources import resources_dir
from CMBDetectorLib.simulation.acquisition import homodyne, phase_mask
from CMBDetectorLib.simulation.case import write_case
from CMBDetectorLib.simulation.field import field_shift_ppm
from CMBDetectorLib.simulation.implant import (
    Implanted,
    choose_places,
    echo_and_field,
    implant,
    implanted_case,
    microbleeds_in,
    voxel_factor,
)
from CMBDetectorLib.simulation.sources import Source
from CMBDetectorLib.volume import Acquisition, Volume, read_volume

RAD_PER_PPM = 16.05
VOXEL_MM = np.array([0.5, 0.5, 2.0])
SHAPE = (64, 64, 16)
LESION_MM = (1.2, -0.6, 0.7)
SAMPLE = next((resources_dir() / "SampleData").glob("*/truth.json")).parent
Scan = tuple[np.ndarray, np.ndarray]


def source(chi_ppm: float = 0.8, at_mm: tuple[float, float, float] = LESION_MM, diameter_mm: float = 2.4) -> Source:
    return Source(
        kind="microbleed" if chi_ppm > 0 else "calcification", balls_mm=np.array([at_mm]),
        radii_mm=np.array([diameter_mm / 2]), chi_ppm=chi_ppm, inside_signal=0.4, sub_region=9,
    )  # fmt: skip


def grid_of(spacing_mm: np.ndarray, shape: tuple[int, int, int], rotation: np.ndarray | None = None) -> np.ndarray:
    """ijk_to_ras with RAS (0, 0, 0) in the middle of the grid."""
    matrix = np.eye(4)
    matrix[:3, :3] = (np.eye(3) if rotation is None else rotation) @ np.diag(spacing_mm)
    matrix[:3, 3] = -matrix[:3, :3] @ (np.array(shape) - 1) / 2
    return matrix


def acquired(lesion: Source | None, raw: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """SWI and phase (paramagnetic positive, filtered or raw), without noise, of tissue with a slanting vein.

    Simulated at 0.25 mm with all susceptibilities in one map and averaged over the voxel.
    """
    fine_mm = 0.25
    r, a, s = ((torch.arange(128, dtype=torch.float32) - 63.5) * fine_mm for _ in range(3))
    r, a, s = r[:, None, None], a[None, :, None], s[None, None, :]
    vein = ((0.5 - ((r + 4 - 0.3 * s) ** 2 + (a - 3) ** 2).sqrt()) / fine_mm + 0.5).clamp(0, 1)
    chi = 0.4 * vein
    magnitude = (1 + 0.1 * torch.sin(r / 2) * torch.cos(a / 3)) * (1 - 0.3 * vein)
    if lesion is not None:
        at = lesion.balls_mm[0]
        distance = ((r - at[0]) ** 2 + (a - at[1]) ** 2 + (s - at[2]) ** 2).sqrt()
        ball = ((float(lesion.radii_mm[0]) - distance) / fine_mm + 0.5).clamp(0, 1)
        chi = chi + lesion.chi_ppm * ball
        magnitude = magnitude * (1 - (1 - lesion.inside_signal) * ball)
    phase = RAD_PER_PPM * field_shift_ppm(chi, (fine_mm,) * 3, padding=64)
    phase = phase + 1.2 * torch.cos(2 * torch.pi * r / 32)
    signal = torch.polar(magnitude.expand(128, 128, 128).contiguous(), phase)
    image = signal.view(64, 2, 64, 2, 16, 8).mean(dim=(1, 3, 5))
    filtered = homodyne(image, 4.0, [0.5, 0.5])
    return (image.abs() * phase_mask(filtered) ** 4).numpy(), (image.angle() if raw else filtered).numpy()


def as_scan(swi: np.ndarray, phase: np.ndarray, sign: int = 1) -> tuple[Volume, Volume]:
    """Coded as scanners do: SWI around 1000, phase from -4096 to 4095, whose ends are used somewhere in the air."""
    matrix = grid_of(VOXEL_MM, SHAPE)
    coded = np.rint(sign * phase * 4096 / np.pi).clip(-4096, 4095).astype(np.int16)
    coded[0, 0, 0], coded[0, 0, 1] = -4096, 4095
    return Volume(np.rint(1000 * swi).astype(np.int16), matrix), Volume(coded, matrix)


@pytest.fixture(scope="module")
def clean() -> Scan:
    return acquired(None)


def put(scan: tuple[Volume, Volume], *sources: Source, sign: int = 1) -> Implanted:
    return implant(*scan, sources, rad_per_ppm=RAD_PER_PPM, paramagnetic_sign=sign)


def radians(phase: Volume | None) -> np.ndarray:
    assert phase is not None
    return phase.array * (np.pi / 4096)


def distance_mm(volume: Volume, ras_mm: tuple[float, float, float]) -> np.ndarray:
    voxels = np.stack(np.meshgrid(*map(np.arange, volume.array.shape), indexing="ij"), axis=-1)
    return np.linalg.norm(volume.ras_of(voxels) - ras_mm, axis=-1)


@pytest.mark.parametrize(("chi_ppm", "raw"), [(0.8, False), (-0.8, False), (0.8, True)])
def test_an_implanted_source_looks_like_one_simulated_together_with_the_head(chi_ppm: float, raw: bool) -> None:
    lesion = source(chi_ppm)
    before_swi, before_phase = acquired(None, raw)
    swi, phase = acquired(lesion, raw)
    done = put(as_scan(before_swi, before_phase), lesion)
    near = distance_mm(done.swi, LESION_MM) < 6

    def apart(one: np.ndarray, other: np.ndarray) -> float:
        return float(np.abs(np.angle(np.exp(1j * (one - other))))[near].mean())

    # What is left: voxel averages of products taken as products of averages, and the vendor's filter, not known.
    assert np.abs(done.swi.array / 1000 - swi)[near].mean() < 0.25 * np.abs(before_swi - swi)[near].mean()
    assert np.abs(done.swi.array / 1000 - swi)[near].mean() < 0.02
    assert apart(radians(done.phase), phase) < 0.25 * apart(before_phase, phase)
    assert apart(radians(done.phase), phase) < 0.02


def test_the_contrast_in_the_truth_is_what_the_swi_lost(clean: Scan) -> None:
    done = put(as_scan(*clean), source())
    (entry,) = done.truth["lesions"]
    near = distance_mm(done.swi, LESION_MM) < 4
    lost = 1 - done.swi.array / as_scan(*clean)[0].array
    assert entry["contrast"] == pytest.approx(lost[near].max(), abs=0.05)
    dark_mm3 = float((lost > 0.2)[near].sum()) * VOXEL_MM.prod()
    assert entry["diameter_mm"] == pytest.approx(np.cbrt(6 * dark_mm3 / np.pi), rel=0.15)


def test_no_sources_change_nothing_to_the_bit(clean: Scan) -> None:
    swi, phase = as_scan(*clean)
    done = put((swi, phase))
    assert done.phase is not None
    assert np.array_equal(done.swi.array, swi.array) and np.array_equal(done.phase.array, phase.array)
    assert done.truth == {"lesions": [], "faint": [], "mimics": []}


def test_far_from_the_source_nothing_changes_to_the_bit(clean: Scan) -> None:
    swi, phase = as_scan(*clean)
    done = put((swi, phase), source())
    assert done.phase is not None
    far = distance_mm(swi, LESION_MM) > 18
    assert far.any() and done.swi.array.dtype == swi.array.dtype and done.phase.array.dtype == phase.array.dtype
    assert np.array_equal(done.swi.array[far], swi.array[far])
    assert np.array_equal(done.phase.array[far], phase.array[far])


def test_a_source_off_the_scan_leaves_no_truth(clean: Scan) -> None:
    done = put(as_scan(*clean), source(at_mm=(90.0, 0.0, 0.0)))
    assert done.truth == {"lesions": [], "faint": [], "mimics": []}


def test_the_other_vendor_has_mirrored_phase_and_the_same_swi(clean: Scan) -> None:
    here, there = put(as_scan(*clean), source()), put(as_scan(*clean, sign=-1), source(), sign=-1)
    assert np.array_equal(here.swi.array, there.swi.array)
    total = radians(here.phase) + radians(there.phase)
    total[0, 0, :2] = 0  # the ends of the range
    assert np.abs(np.angle(np.exp(1j * total))).max() < 0.002


def test_a_calcification_has_the_opposite_phase_and_counts_as_a_mimic(clean: Scan) -> None:
    bleed, calcium = (put(as_scan(*clean), source(chi, diameter_mm=1.5)) for chi in (0.3, -0.3))
    shifts = [np.angle(np.exp(1j * (radians(done.phase) - clean[1]))) for done in (bleed, calcium)]
    near = distance_mm(bleed.swi, LESION_MM) < 5
    assert np.abs(shifts[0][near]).max() > 0.3
    assert np.abs(shifts[0] + shifts[1])[near].max() < 0.01
    assert [entry["kind"] for entry in calcium.truth["mimics"]] == ["calcification"]


def tilted() -> np.ndarray:
    """25 degrees about R and 10 about A, stored with its axes permuted and one of them reversed."""
    x, y = np.deg2rad([25.0, 10.0])
    about_r = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    about_a = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    return (about_r @ about_a)[:, [2, 0, 1]] * [1, -1, 1]


def test_on_an_oblique_scan_a_lesion_lies_at_its_place_in_ras() -> None:
    shape = (20, 60, 64)
    swi = Volume(np.full(shape, 800.0, np.float32), grid_of(np.array([1.6, 0.5, 0.5]), shape, tilted()))
    place = (3.0, -4.5, 2.0)
    done = implant(swi, None, [source(at_mm=place)], rad_per_ppm=RAD_PER_PPM, paramagnetic_sign=1)
    lost = np.clip(0.9 - done.swi.array / 800, 0, None)
    middle = np.average(swi.ras_of(np.argwhere(lost > 0)), axis=0, weights=lost[lost > 0])
    assert middle == pytest.approx(place, abs=0.2)
    assert done.truth["lesions"][0]["center_ras_mm"] == list(place)


def test_on_an_oblique_scan_the_poles_lie_along_the_scanners_axis() -> None:
    shape, spacing = (56, 56, 56), np.array([0.5, 0.5, 0.5])
    scan = Volume(np.zeros(shape), grid_of(spacing, shape, tilted())).in_ras_order()
    found = voxel_factor(source(0.3, (0.0, 0.0, 0.0)), scan, RAD_PER_PPM)
    assert found is not None
    angle = torch.zeros(shape)
    angle[found[0]] = found[1].angle()

    def at(ras_mm: tuple[float, float, float]) -> float:
        return float(angle[tuple(np.rint(scan.ijk_of(ras_mm)).astype(int))])

    for sign in (-1, 1):
        assert at((0, 0, 2.5 * sign)) > 0.25
        assert at((2.5 * sign, 0, 0)) < -0.1 and at((0, 2.5 * sign, 0)) < -0.1


@pytest.mark.parametrize(
    ("zero", "pi", "dtype"),
    [(0, 4096, np.int16), (2048, 2048, np.uint16), (2048, 2048, np.float32), (0, np.pi, np.float32)],
)
def test_phase_is_written_in_the_numbers_it_had(zero: float, pi: float, dtype: type) -> None:
    angle = np.random.default_rng(0).uniform(-np.pi, np.pi, SHAPE)
    whole = pi > 1000
    coded = angle * pi / np.pi + zero
    coded = np.clip(np.rint(coded), zero - pi, zero + pi - 1) if whole else coded
    matrix = grid_of(VOXEL_MM, SHAPE)
    swi, phase = Volume(np.ones(SHAPE, np.float32), matrix), Volume(coded.astype(dtype), matrix)
    done = put((swi, phase), source(2.0))
    assert done.phase is not None and done.phase.array.dtype == dtype
    assert done.phase.array.min() >= zero - pi and done.phase.array.max() <= (zero + pi - 1 if whole else zero + pi)
    if whole:
        assert np.all(done.phase.array % 1 == 0)
    found = voxel_factor(source(2.0), swi, RAD_PER_PPM)
    assert found is not None
    change = np.exp(1j * (to_radians(done.phase)[0].array - to_radians(phase)[0].array)[found[0]])
    assert np.abs(np.angle(change * np.exp(-1j * found[1].angle().numpy()))).max() < 0.003


def test_a_phase_on_another_grid_is_refused(clean: Scan) -> None:
    swi, phase = as_scan(*clean)
    with pytest.raises(InputError, match="another grid"):
        put((swi, replace(phase, ijk_to_ras=phase.ijk_to_ras + np.eye(4))), source())


def scan_with_a_vein() -> tuple[Volume, Volume]:
    """Tissue of three regions, with a dark column in its middle and noise; air around."""
    shape = (80, 80, 30)
    mars = np.zeros(shape, np.uint8)
    mars[8:-8, 8:-8, 3:-3] = 9
    mars[8:-8, 8:-8, 3:12] = 2
    mars[30:50, 8:-8, 12:20] = 3
    swi = np.where(mars > 0, 600.0, 20.0) + np.random.default_rng(2).normal(0, 20, shape)
    swi[38:42, 38:42, :] = 150
    matrix = grid_of(np.array([0.8, 0.8, 2.0]), shape)
    return Volume(swi.astype(np.float32), matrix), Volume(mars, matrix)


def test_places_are_in_tissue_apart_and_away_from_veins() -> None:
    swi, mars = scan_with_a_vein()
    places = choose_places(swi, mars, 20, np.random.default_rng(5))
    centers = np.array([center for center, _ in places])
    assert len(places) == 20
    apart = np.linalg.norm(centers[:, None] - centers[None], axis=2) + 100 * np.eye(20)
    assert apart.min() > 6
    assert {label for _, label in places} == {2, 3, 9}
    for center, label in places:
        assert mars.array[tuple(np.rint(mars.ijk_of(center)).astype(int))] == label
        assert np.hypot(*center[:2]) > 2.5, "beside the vein"


def test_more_places_than_there_is_room_for_are_not_found() -> None:
    swi, mars = scan_with_a_vein()
    small = mars.array.copy()
    small[26:], small[:, 30:], small[:, :, 12:] = 0, 0, 0
    assert 0 < len(choose_places(swi, mars.with_array(small), 15, np.random.default_rng(5))) < 15
    assert choose_places(swi, mars.with_array(np.zeros_like(small)), 3, np.random.default_rng(5)) == []


def test_an_implanted_case_reads_back_and_says_what_was_put_where(tmp_path: Path) -> None:
    swi, mars = scan_with_a_vein()
    angle = np.random.default_rng(1).normal(0, 0.1, swi.array.shape)
    angle[0, 0, :2] = -3.14, 3.14
    phase = swi.with_array(angle.astype(np.float32))
    case = implanted_case(
        swi, phase, mars, head="swi.nii.gz", count=4, seed=3, echo_time_ms=20.0, field_t=3.0, paramagnetic_sign=1,
        location_of=lambda center: Location(
            sub_region=9, side=Side.LEFT if center[0] < 0 else Side.RIGHT, probability=1.0, boundary_mm=9.0
        ),
    )  # fmt: skip
    write_case(case, tmp_path)
    truth = json.loads((tmp_path / "truth.json").read_text())
    assert truth == case.truth and truth["protocol"] == "implanted"
    assert truth["acquired_mm"] == 0.8
    assert len(truth["lesions"] + truth["faint"]) == 4 and truth["lesions"]
    for entry in truth["lesions"] + truth["faint"]:
        assert entry["side"] == ("left" if entry["center_ras_mm"][0] < 0 else "right")
    for name, volume in (("swi", case.swi), ("phase", case.phase), ("mars", case.mars)):
        back = read_volume(tmp_path / f"{name}.nii.gz")
        assert np.array_equal(back.array, volume.array) and np.allclose(back.ijk_to_ras, volume.ijk_to_ras, atol=1e-4)


def test_the_same_seed_puts_in_the_same_microbleeds() -> None:
    one, same, other = (microbleeds_in(*scan_with_a_vein(), 3, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert all(np.array_equal(a.balls_mm, b.balls_mm) for a, b in zip(one, same, strict=True))
    assert not np.array_equal(one[0].center_mm, other[0].center_mm)


def test_echo_time_and_field_come_from_the_scanner_unless_given() -> None:
    volume = Volume(np.zeros((2, 2, 2)), np.eye(4), "swi.nii.gz")
    said = replace(volume, acquisition=Acquisition(echo_time_ms=22.5, field_strength_t=3.0))
    assert echo_and_field(said, None, None) == (22.5, 3.0)
    assert echo_and_field(said, 40.0, 1.5) == (40.0, 1.5)
    with pytest.raises(InputError, match="--echo-time"):
        echo_and_field(volume, None, 3.0)
    with pytest.raises(InputError, match="--field"):
        echo_and_field(volume, 20.0, None)
    with pytest.raises(InputError, match="milliseconds"):
        echo_and_field(volume, 0.02, 3.0)


def test_the_command_asks_for_an_echo_time_that_no_file_tells(tmp_path: Path) -> None:
    arguments = ["implant", "--swi", SAMPLE / "swi.nii.gz", "--phase", SAMPLE / "phase.nii.gz", "--out", tmp_path / "c"]
    done = subprocess.run(
        [sys.executable, "-m", "CMBDetectorLib", *map(str, arguments)], capture_output=True, text=True
    )
    assert done.returncode == 2 and "--echo-time" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "c").exists()
