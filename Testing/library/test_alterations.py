"""Scans altered as other scanners might: what changes by how much, and what stays."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from CMBDetectorLib.__main__ import main
from CMBDetectorLib.errors import InputError
from CMBDetectorLib.phase_range import to_radians
from CMBDetectorLib.simulation.alterations import ALTERATIONS, MOST_AT_ONCE, Scan, alter, chosen
from CMBDetectorLib.simulation.case import SimulatedCase, write_case
from CMBDetectorLib.volume import Volume, read_volume, write_volume

SPACING_MM = np.array([1.0, 1.0, 2.0])
SHAPE = (64, 64, 32)  # 64 mm
USUAL = 200.0


def distance_mm() -> np.ndarray:
    places = np.indices(SHAPE).transpose(1, 2, 3, 0) * SPACING_MM
    return np.linalg.norm(places - (32.0, 32.0, 32.0), axis=-1)


@pytest.fixture
def scan() -> Scan:
    """A ball of tissue, 40 mm wide, with a slit of fluid through its middle and scalp around it."""
    distance = distance_mm()
    tissue = (distance < 20) & (np.abs(np.indices(SHAPE)[0] - 32) >= 3)
    swi = np.full(SHAPE, 0.5 * USUAL, np.float32)
    swi[tissue] = USUAL
    phase_rad = np.random.default_rng(0).uniform(-1.2, 1.2, SHAPE).astype(np.float32)
    return Scan(swi, phase_rad, tissue, np.diag([*SPACING_MM, 1.0]))


def change(scan: Scan, name: str, strength: float) -> Scan:
    return ALTERATIONS[name].change(scan, strength, np.random.default_rng(1))


def test_a_power_changes_every_contrast_and_leaves_tissue_as_bright(scan):
    altered = change(scan, "power", 2.0)
    assert np.allclose(altered.swi[scan.is_tissue], USUAL)
    assert np.allclose(altered.swi[~scan.is_tissue], 0.25 * USUAL)


def test_brighter_fluid_leaves_tissue_and_scalp_as_they_are(scan):
    altered = change(scan, "fluid", 1.6)
    assert altered.swi[32, 32, 16] == pytest.approx(0.5 * 1.6 * USUAL, rel=0.02)
    assert altered.swi[44, 32, 16] == pytest.approx(USUAL, rel=1e-3)
    assert altered.swi[2, 2, 16] == pytest.approx(0.5 * USUAL, rel=1e-3)


def test_brighter_fat_leaves_the_brain_as_it_is(scan):
    altered = change(scan, "fat", 5.0)
    assert np.allclose(altered.swi[scan.is_tissue], scan.swi[scan.is_tissue], rtol=1e-4)
    assert altered.swi[2, 2, 16] == pytest.approx(5 * 0.5 * USUAL, rel=1e-3)


def test_shading_makes_the_rim_as_many_times_as_bright_as_asked(scan):
    gain = change(scan, "rim-shading", 5.0).swi / scan.swi
    assert gain[32, 32, 16] == pytest.approx(1.0, abs=0.02)
    assert gain[32, 51, 16] == pytest.approx(5.0, rel=0.1)


def test_shading_from_one_side_runs_through_the_brain(scan):
    gain = (change(scan, "side-shading", 5.0).swi / scan.swi)[scan.is_tissue]
    low, high = np.percentile(gain, [1, 99])
    assert high / low == pytest.approx(5.0, rel=0.02)


def test_noise_has_the_strength_asked_for_and_none_where_nothing_was_measured(scan):
    scan.swi[:, :, 0] = 0
    altered = change(scan, "noise", 0.08)
    difference = (altered.swi - scan.swi)[scan.is_tissue]
    assert difference.std() == pytest.approx(0.08 * USUAL, rel=0.05)
    assert (altered.swi[:, :, 0] == 0).all()


def test_blur_stays_in_its_slice(scan):
    scan.swi[:] = 0
    scan.swi[32, 32, 16] = 1
    altered = change(scan, "blur", 0.8).swi
    assert altered[:, :, 15].max() == 0 and altered[:, :, 17].max() == 0
    across = altered[:, :, 16].sum(axis=1)
    assert np.sqrt(np.sum(across * (np.arange(64) - 32) ** 2)) == pytest.approx(0.8, rel=0.1)


def test_a_cut_through_k_space_takes_out_the_fine_waves_and_keeps_the_broad_ones(scan):
    place = np.arange(64)[:, None, None]
    broad = np.cos(2 * np.pi * place * 8 / 64)  # a quarter of the highest frequency
    fine = np.cos(2 * np.pi * place * 24 / 64)  # three quarters of it
    scan.swi[:] = 10 + broad + fine
    assert np.allclose(change(scan, "ringing", 0.6).swi, np.broadcast_to(10 + broad, SHAPE), atol=1e-3)


def test_a_ghost_lies_half_a_field_of_view_away(scan):
    scan.swi[:] = 0
    scan.swi[10, 12, 16] = 100
    altered = change(scan, "ghost", 0.08).swi
    assert altered[10, 12, 16] == 100 and altered[10, 44, 16] == pytest.approx(8)
    assert altered.sum() == pytest.approx(108)


def test_stripping_leaves_the_brain_alone_and_nothing_farther_off(scan):
    altered = change(scan, "stripped", 2.0)
    assert (altered.swi[scan.is_tissue] == scan.swi[scan.is_tissue]).all()
    far = distance_mm() > 26  # the margin, and the 2 mm at which the brain's outline is known
    assert (altered.swi[far] == 0).all() and (altered.phase_rad[far] == 0).all()
    assert altered.swi[32, 32, 16] > 0, "fluid within the brain stays"


def test_the_phase_gets_weaker_and_noisier_and_stays_wrapped(scan):
    assert np.allclose(change(scan, "weak-phase", 0.4).phase_rad, 0.4 * scan.phase_rad)
    scan.phase_rad[:] = 3.0
    noisy = change(scan, "phase-noise", 0.5).phase_rad
    assert np.abs(noisy).max() <= np.pi
    turned = np.angle(np.exp(1j * (noisy - 3.0)))
    assert turned.std() == pytest.approx(0.5, rel=0.02) and abs(turned.mean()) < 0.01


def test_random_alterations_are_few_in_range_and_the_same_for_the_same_seed():
    met: set[str] = set()
    for seed in range(60):
        drawn = chosen("random", np.random.default_rng(seed))
        assert drawn == chosen("random", np.random.default_rng(seed))
        assert 1 <= len(drawn) <= MOST_AT_ONCE
        assert all(ALTERATIONS[name].least <= strength <= ALTERATIONS[name].most for name, strength in drawn.items())
        met |= set(drawn)
    assert met == set(ALTERATIONS)


@pytest.fixture
def cases(scan, tmp_path: Path) -> Path:
    """A folder with one case, stored in slices from right to left, phase in integers."""
    stored = np.diag([*SPACING_MM, 1.0])[:, [2, 0, 1, 3]] * [1, -1, -1, 1]
    swi = Volume(np.rint(scan.swi).astype(np.int16).transpose(2, 0, 1), stored)
    phase = swi.with_array(np.rint(scan.phase_rad * 4096 / np.pi).astype(np.int16).transpose(2, 0, 1))
    phase.array[0, 0, 0], phase.array[0, 0, 1] = -4096, 4095
    mars = scan.is_tissue.astype(np.uint8).transpose(2, 0, 1)
    lesion = {
        "center_ras_mm": [-30.0, -30.0, 30.0],
        "diameter_mm": 3.0,
        "contrast": 0.9,
        "region": "lobar",
        "sub_region": 9,
        "side": "left",
    }
    truth = {"head": "02", "lesions": [lesion], "faint": [], "mimics": [], "paramagnetic_sign": 1}
    write_case(SimulatedCase(swi, phase, swi.with_array(mars), truth), tmp_path / "in" / "a")
    return tmp_path / "in"


@pytest.mark.parametrize("kind", ["power", "side-shading", "random"])
def test_an_altered_case_keeps_its_truth_and_its_grid_and_says_what_was_altered(cases, tmp_path, kind):
    alter(cases, tmp_path / "out", kind, seed=4)
    before, after = (json.loads((folder / "a" / "truth.json").read_text()) for folder in (cases, tmp_path / "out"))
    (drawn,) = after.pop("altered")
    assert after == before
    assert drawn if kind == "random" else list(drawn) == [kind]
    for name in ("swi", "phase", "mars"):
        old, new = (read_volume(folder / "a" / f"{name}.nii.gz") for folder in (cases, tmp_path / "out"))
        assert new.array.shape == old.array.shape and np.allclose(new.ijk_to_ras, old.ijk_to_ras, atol=1e-4)
        assert name != "mars" or np.array_equal(new.array, old.array)


def stored(folder: Path, name: str) -> np.ndarray:
    return read_volume(folder / "a" / f"{name}.nii.gz").array


def phase_of(folder: Path) -> np.ndarray:
    """In rad, as the search reads it."""
    return to_radians(read_volume(folder / "a" / "phase.nii.gz"))[0].array


@pytest.mark.parametrize(("kind", "changed", "kept"), [("weak-phase", "phase", "swi"), ("blur", "swi", "phase")])
def test_an_image_that_is_not_altered_is_written_as_it_was(cases, tmp_path, kind, changed, kept):
    assert main(["alter", "--cases", str(cases), "--out", str(tmp_path / "out"), "--as", kind]) == 0
    assert np.array_equal(stored(tmp_path / "out", kept), stored(cases, kept))
    assert not np.array_equal(stored(tmp_path / "out", changed), stored(cases, changed))


def test_a_phase_altered_once_or_twice_reads_back_as_strong_as_told(cases, tmp_path):
    alter(cases, tmp_path / "weak", "weak-phase")
    alter(tmp_path / "weak", tmp_path / "weaker", "weak-phase")
    assert np.allclose(phase_of(tmp_path / "weak"), 0.4 * phase_of(cases), atol=1e-5)
    assert np.allclose(phase_of(tmp_path / "weaker"), 0.4**2 * phase_of(cases), atol=1e-5)


def test_a_stripped_phase_keeps_its_strength_though_its_strongest_voxels_are_gone(cases, tmp_path):
    alter(cases, tmp_path / "out", "stripped")
    old, new = phase_of(cases), phase_of(tmp_path / "out")
    assert np.abs(old).max() > 3 > 1.3 > np.abs(new).max() > 0
    assert np.allclose(new[new != 0], old[new != 0], atol=1e-5)


def test_tissue_keeps_its_gray_levels_beside_far_brighter_fat(cases, tmp_path):
    alter(cases, tmp_path / "out", "fat")
    old, new = stored(cases, "swi"), stored(tmp_path / "out", "swi")
    ratio = new[old == USUAL].mean() / new[old == 0.5 * USUAL].max()
    assert new[old == USUAL].mean() == pytest.approx(1000, rel=0.01)
    assert ratio == pytest.approx(1 / (5 * 0.5), rel=0.01)


def test_shading_beyond_the_brain_is_no_stronger_than_at_its_ends(scan):
    for name in ("rim-shading", "side-shading"):
        gain = change(scan, name, 5.0).swi / scan.swi
        assert gain.max() == pytest.approx(5.0, rel=1e-3)


def test_copies_of_other_cases_or_altered_otherwise_are_not_taken_for_these(cases, tmp_path):
    alter(cases, tmp_path / "out", "noise")
    first = stored(tmp_path / "out", "swi")
    alter(cases, tmp_path / "out", "noise")
    assert np.array_equal(stored(tmp_path / "out", "swi"), first)
    with pytest.raises(InputError, match="a holds another case, or was altered otherwise"):
        alter(cases, tmp_path / "out", "blur")
    truth_file = cases / "a" / "truth.json"
    truth_file.write_text(truth_file.read_text().replace('"head": "02"', '"head": "03"'))
    with pytest.raises(InputError, match="a holds another case, or was altered otherwise"):
        alter(cases, tmp_path / "out", "noise")
    with pytest.raises(InputError, match="holds the cases themselves"):
        alter(cases, cases, "noise")


def test_what_was_altered_twice_lists_both(cases, tmp_path):
    alter(cases, tmp_path / "blurred", "blur")
    alter(tmp_path / "blurred", tmp_path / "both", "noise")
    truth = json.loads((tmp_path / "both" / "a" / "truth.json").read_text())
    assert [list(each) for each in truth["altered"]] == [["blur"], ["noise"]]


def test_nothing_is_altered_where_one_case_has_no_truth(cases, tmp_path):
    (cases / "b").mkdir()
    (cases / "b" / "truth.json").write_text("{")
    with pytest.raises(InputError, match=r"b/truth\.json cannot be read as JSON"):
        alter(cases, tmp_path / "out", "blur")
    assert not list((tmp_path / "out").iterdir())


def test_a_case_that_cannot_be_altered_is_named(cases, tmp_path):
    mars = read_volume(cases / "a" / "mars.nii.gz")
    write_volume(mars.with_array(np.zeros_like(mars.array)), cases / "a" / "mars.nii.gz")
    with pytest.raises(InputError, match=r"a shows no brain tissue"):
        alter(cases, tmp_path / "out", "power")
    write_volume(Volume(mars.array[1:], mars.ijk_to_ras), cases / "a" / "mars.nii.gz")
    with pytest.raises(InputError, match=r"a lie on different grids"):
        alter(cases, tmp_path / "out", "power")


def test_the_help_names_every_alteration(capsys):
    with pytest.raises(SystemExit):
        main(["alter", "--help"])
    told = " ".join(capsys.readouterr().out.split()).replace("- ", "-")
    assert all(name in told for name in ALTERATIONS)


def test_an_unknown_alteration_is_refused_by_name(cases, tmp_path, capsys):
    assert main(["alter", "--cases", str(cases), "--out", str(tmp_path / "out"), "--as", "motion"]) == 2
    assert "There is no alteration 'motion'" in capsys.readouterr().err
    with pytest.raises(InputError, match="holds no cases"):
        alter(tmp_path / "out", tmp_path / "there", "power")
