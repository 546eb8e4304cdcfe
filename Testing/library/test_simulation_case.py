"""A whole simulated case of a small phantom head."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from CMBDetectorLib.simulation import heads
from CMBDetectorLib.simulation.case import (
    Appearance,
    SimulatedCase,
    add_truth,
    appearance,
    render,
    vessel_share,
    write_case,
)
from CMBDetectorLib.simulation.cohort import protocol_of
from CMBDetectorLib.simulation.heads import Head, PlacedHead, load_head, place
from CMBDetectorLib.simulation.protocols import PROTOCOLS, vary
from CMBDetectorLib.simulation.sources import averaged, microbleed
from CMBDetectorLib.simulation.vessels import branches, grow_vessels, splat
from CMBDetectorLib.volume import Volume, read_volume, write_volume
from Testing.patch_statistics import separation
from Testing.phantom_head import phantom_head

PROTOCOL = PROTOCOLS["3T-2mm"]


@pytest.fixture(scope="module")
def head():
    return phantom_head()


@pytest.fixture(scope="module")
def trees(head):
    return grow_vessels(head, seed=1)


@pytest.fixture(scope="module")
def case(head, trees) -> SimulatedCase:
    return render(head, trees, PROTOCOL, seed=3, burden="many")


def value_at(volume, ras_mm) -> float:
    return float(volume.array[tuple(np.rint(volume.ijk_of(ras_mm)).astype(int))])


def test_lesions_are_darker_than_the_tissue_around_them(case):
    tissue = float(np.median(case.swi.array[case.mars.array > 0]))
    depth = []
    for lesion in case.truth["lesions"]:
        i, j, k = np.rint(case.swi.ijk_of(lesion["center_ras_mm"])).astype(int)
        depth.append(float(case.swi.array[i - 2 : i + 3, j - 2 : j + 3, k].min()) / tissue)
    assert len(depth) >= 5
    assert np.mean(np.array(depth) < 0.75) > 0.9


def test_truth_tells_where_a_lesion_lies(case):
    for lesion in case.truth["lesions"]:
        assert lesion["region"] in ("lobar", "deep", "infratentorial")
        i, j, k = np.rint(case.mars.ijk_of(lesion["center_ras_mm"])).astype(int)
        near = case.mars.array[i - 2 : i + 3, j - 2 : j + 3, max(0, k - 1) : k + 2]
        assert lesion["sub_region"] in near


@pytest.fixture(scope="module")
def opposite(head, trees) -> SimulatedCase:
    """The same seed as `case`, by the other vendor."""
    return render(head, trees, replace(PROTOCOL, paramagnetic_sign=-1), seed=3, burden="many")


def test_the_same_seed_gives_the_same_case_to_the_bit(case, opposite):
    for kind in ("lesions", "faint", "mimics"):
        assert case.truth[kind] == opposite.truth[kind]
    assert np.array_equal(opposite.swi.array, case.swi.array)
    assert np.array_equal(opposite.mars.array, case.mars.array)


def test_the_other_vendor_stores_the_opposite_phase(case, opposite):
    difference = opposite.phase.array.astype(int) + case.phase.array
    assert np.abs(difference[np.abs(case.phase.array) < 4095]).max() <= 1


def test_a_burden_of_none_has_no_lesion_and_still_has_veins(head, trees):
    free = render(head, trees, PROTOCOL, seed=4, burden="none")
    assert free.truth["lesions"] == [] and free.truth["faint"] == []
    random = np.random.default_rng(4)
    placed = place(head, random)
    veins = [branches(tree, placed, random) for tree in trees if not tree.arterial]
    points, volumes = (np.concatenate(parts) for parts in zip(*(v.samples(random, 0.25) for v in veins), strict=True))
    spacing = np.full(3, 0.5)
    r, a, s = placed.labels.shape
    fraction = splat(points, volumes, placed.origin_mm, spacing, (2 * r, 2 * a, 2 * s))
    assert float(fraction.sum()) * 0.125 == pytest.approx(volumes.sum(), rel=0.2)


def test_a_sample_point_is_shared_by_its_eight_neighbors_and_lost_beyond_the_grid():
    points = np.array([[0.3, 1.6, 2.0], [-0.5, 0.0, 0.0], [2.9, 3.2, 4.5], [-3.0, 1.0, 1.0], [1.0, 9.0, 1.0]])
    volumes, origin, spacing, shape = (
        np.array([0.1, 0.2, 0.3, 5.0, 5.0]),
        np.zeros(3),
        np.array([1.0, 1.0, 2.0]),
        (4, 4, 3),
    )
    expected = np.zeros(shape)
    for point, volume in zip(points, volumes, strict=True):
        index = (point - origin) / spacing
        for voxel in np.ndindex(shape):
            expected[voxel] += np.prod(np.maximum(1 - np.abs(index - voxel), 0)) * volume / spacing.prod()
    assert splat(points, volumes, origin, spacing, shape).numpy() == pytest.approx(expected, abs=1e-6)


def test_veins_join_and_thicken_toward_their_root(trees):
    from CMBDetectorLib.simulation.vessels import _leaves_behind

    for tree in trees:
        flow = _leaves_behind(tree.parent, tree.leaves)
        roots = tree.parent == np.arange(len(tree.parent))
        assert flow[roots].sum() == len(tree.leaves), "every leaf is joined to a root"
        assert (flow[tree.parent] >= flow).all(), "flow never falls toward the root"


@pytest.mark.parametrize("count", range(1, 16))
def test_every_head_meets_every_protocol(count):
    names, kinds = [f"{n:02d}" for n in range(count)], list(PROTOCOLS.values())
    met = {(names[n % count], protocol_of(n, names, kinds).name) for n in range(count * len(kinds))}
    assert len(met) == count * len(kinds)


def test_written_cases_read_back_as_they_were(case, tmp_path):
    write_case(case, tmp_path / "case")
    for name, volume in (("swi", case.swi), ("phase", case.phase), ("mars", case.mars)):
        back = read_volume(tmp_path / "case" / f"{name}.nii.gz")
        assert np.array_equal(back.array, volume.array)
        assert np.allclose(back.ijk_to_ras, volume.ijk_to_ras, atol=1e-4)
    assert json.loads((tmp_path / "case" / "truth.json").read_text()) == case.truth


def test_varied_protocols_stay_within_what_scanners_do():
    random = np.random.default_rng(0)
    for protocol in PROTOCOLS.values():
        for _ in range(20):
            varied = vary(protocol, random)
            assert 1.0 <= varied.slice_mm <= 3.5
            assert varied.acquired_mm >= varied.pixel_mm >= 0.4


def test_a_lesion_is_not_given_away_by_the_mean_and_minimum_of_its_patch(head, trees, case):
    others = [render(head, trees, PROTOCOL, seed=seed, burden="many") for seed in (5, 6)]
    auc, pairs = separation([(each.swi.in_ras_order(), each.truth) for each in (case, *others)])
    assert pairs >= 40
    assert auc < 0.75


def test_veins_and_air_edges_are_in_the_truth_and_dark_where_it_says(case):
    tissue = float(np.median(case.swi.array[case.mars.array > 0]))
    kinds = {mimic["kind"] for mimic in case.truth["mimics"]}
    assert {"vein cross-section", "vein junction", "vein bend", "air-tissue edge"} <= kinds
    for kind in ("vein cross-section", "vein junction", "air-tissue edge"):
        depth = []
        for mimic in case.truth["mimics"]:
            if mimic["kind"] == kind:
                i, j, k = np.rint(case.swi.ijk_of(mimic["center_ras_mm"])).astype(int)
                depth.append(float(case.swi.array[i - 2 : i + 3, j - 2 : j + 3, k].min()) / tissue)
        assert np.median(depth) < 0.8


def test_no_mimic_lies_on_a_lesion(case):
    bleeds = np.array([bleed["center_ras_mm"] for bleed in case.truth["lesions"] + case.truth["faint"]])
    for mimic in case.truth["mimics"]:
        apart_mm = 1.5 if "chi_ppm" in mimic else 5.9  # the balls of a compact source keep away, not their centroid
        assert np.linalg.norm(bleeds - mimic["center_ras_mm"], axis=1).min() > apart_mm


def test_the_phase_mask_makes_a_lesion_larger_and_darker():
    source = replace(microbleed(np.zeros(3), 9, np.random.default_rng(0)), chi_ppm=1.0)
    spacing, shape = np.array([0.25, 0.25, 0.5]), (160, 160, 80)
    origin = -spacing * (np.array(shape) - 1) / 2
    sizes = []
    for power in (0, 4):
        found = source.factor(origin, spacing, shape, 16.05, (0.0, 0.0, 1.0))
        assert found is not None
        alone = averaged(*found, (2, 2, 4))[1]
        sizes.append(appearance(alone, np.array([0.5, 0.5, 2.0]), power))
    assert sizes[0].diameter_mm < sizes[1].diameter_mm
    assert sizes[0].contrast <= sizes[1].contrast


@pytest.mark.parametrize(
    ("contrast", "voxel_contrast", "diameter_mm", "signal", "snr", "visible"),
    [
        (0.5, 0.4, 3.0, 1.0, 20.0, True),
        (0.2, 0.2, 3.0, 1.0, 20.0, False),  # hardly darker than its surroundings
        (0.5, 0.4, 1.0, 1.0, 20.0, False),  # smaller than what a reader counts
        (0.5, 0.4, 12.0, 1.0, 20.0, False),  # no microbleed any more
        (0.5, 0.4, 3.0, 0.3, 20.0, False),  # in the dropout near air
        (0.5, 0.15, 3.0, 1.0, 20.0, False),  # in the noise
        (0.5, 0.4, 3.0, 1.0, None, True),  # noise unknown
    ],
)
def test_only_a_lesion_that_a_reader_could_see_is_asked_for(
    contrast, voxel_contrast, diameter_mm, signal, snr, visible
):
    source = microbleed(np.zeros(3), 9, np.random.default_rng(0))
    truth: dict = {"lesions": [], "faint": [], "mimics": []}
    add_truth(
        truth, source, np.zeros(3), Appearance(contrast, voxel_contrast, diameter_mm), "left", signal=signal, snr=snr
    )
    assert [len(truth[kind]) for kind in ("lesions", "faint", "mimics")] == [visible, not visible, 0]


def test_ventricles_differ_in_size_from_person_to_person(head):
    def volume_ml(placed: PlacedHead) -> float:
        return float(np.isin(placed.labels.numpy(), heads.SUPRATENTORIAL_VENTRICLES).sum()) / 1000

    volumes = [volume_ml(place(head, np.random.default_rng(seed))) for seed in range(6)]
    assert max(volumes) > 1.5 * min(volumes)


def test_vessels_follow_the_walls_of_grown_ventricles(head, trees):
    placed = place(head, np.random.default_rng(2))
    points = np.argwhere(np.isin(head.labels, heads.VENTRICLES))[::20].astype(float)
    found = np.rint(placed.scan_points(points) - placed.origin_mm).astype(int)
    assert np.isin(placed.labels.numpy()[tuple(found.T)], heads.VENTRICLES).mean() > 0.9


def test_atrophy_turns_cortex_into_fluid_and_nothing_else(head):
    shrunk = heads._shrunk_cortex(place(head, np.random.default_rng(1)).labels, np.random.default_rng(1))
    labels = place(head, np.random.default_rng(1)).labels
    assert shrunk.any()
    assert np.isin(labels[shrunk].numpy(), heads.CORTEX).all()


def test_unlabeled_specks_in_the_sulci_are_fluid_not_bone(head, tmp_path):
    labels = head.labels.copy()
    speck = (47, 97, 46)  # before the forehead's cortex
    assert labels[speck] == heads.CSF
    labels[speck] = 0
    for kind, values in (("labels", labels), ("mars", head.mars)):
        write_volume(Volume(values, np.eye(4)), tmp_path / f"x_{kind}.nii.gz")
    found = load_head(tmp_path, "x")
    assert isinstance(found, Head)
    assert found.labels[speck] == heads.CSF
    assert found.labels[0, 0, 0] == 0


def test_the_share_of_vessels_around_a_microbleed_is_that_of_its_ball():
    step_mm = np.array([0.25, 0.25, 0.5])
    veins, arteries = torch.full((80, 80, 40), 0.25), torch.zeros(80, 80, 40)
    arteries[40:] = 0.5  # beyond a plane through the middle
    source = replace(microbleed(np.zeros(3), 0, np.random.default_rng(0)), balls_mm=np.full((1, 3), 9.875),
                     radii_mm=np.array([1.0]))  # fmt: skip
    share = vessel_share((veins, arteries), source, np.zeros(3), step_mm)
    assert share == pytest.approx(0.25 + 0.5 / 2, abs=0.01)
    assert vessel_share((veins, arteries), source, np.full(3, 100.0), step_mm) == 0
