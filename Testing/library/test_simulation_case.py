"""A whole simulated case of a small phantom head."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from CMBDetectorLib.simulation.case import SimulatedCase, render, write_case
from CMBDetectorLib.simulation.heads import place
from CMBDetectorLib.simulation.protocols import PROTOCOLS, vary
from CMBDetectorLib.simulation.vessels import branches, grow_vessels, splat
from CMBDetectorLib.volume import read_volume
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


def test_the_same_seed_gives_the_same_case_to_the_bit(head, trees, case):
    again = render(head, trees, PROTOCOL, seed=3, burden="many")
    assert again.truth == case.truth
    assert np.array_equal(again.swi.array, case.swi.array)
    assert np.array_equal(again.phase.array, case.phase.array)


def test_the_other_vendor_stores_the_opposite_phase_and_the_same_swi(head, trees, case):
    other = render(head, trees, replace(PROTOCOL, paramagnetic_sign=-1), seed=3, burden="many")
    assert np.array_equal(other.swi.array, case.swi.array)
    difference = other.phase.array.astype(int) + case.phase.array
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


def test_veins_join_and_thicken_toward_their_root(trees):
    from CMBDetectorLib.simulation.vessels import _leaves_behind

    for tree in trees:
        flow = _leaves_behind(tree.parent, tree.leaves)
        roots = tree.parent == np.arange(len(tree.parent))
        assert flow[roots].sum() == len(tree.leaves), "every leaf is joined to a root"
        assert (flow[tree.parent] >= flow).all(), "flow never falls toward the root"


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
