"""Agreement of regions found with true ones, against hand-made label maps."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from CMBDetectorLib.evaluation.fluid import dice_by_brightness, fluid_contrast
from CMBDetectorLib.evaluation.limits import BY_NEAREST, BY_SHARES, TRUE_REGIONS, TRUE_TISSUE, dice_at_best
from CMBDetectorLib.evaluation.overlap import compare
from CMBDetectorLib.evaluation.regions import Agreement, draw, page, summary
from CMBDetectorLib.volume import Volume


def test_dice_and_volumes_of_shifted_and_grown_blocks_are_as_counted_by_hand():
    truth, found = np.zeros((2, 20, 20, 10), np.uint8)
    truth[0:10], found[2:12] = 9, 9  # frontal, lobar: shifted by 2 of 10
    truth[14:16], found[14:17] = 3, 4  # basal ganglia taken for thalamus, half as much again; both deep
    dice, in_tissue, volume_error = compare(found, truth)
    assert dice["lobar"] == dice["frontal"] == pytest.approx(0.8)
    assert dice["deep"] == pytest.approx(2 * 2 / 5)
    assert dice["basal ganglia"] == 0
    assert volume_error == {"lobar": pytest.approx(0), "deep": pytest.approx(0.5)}
    assert in_tissue == {"lobar": 1, "deep": 1}, "what is taken for fluid, or the other way round, does not count"
    assert "infratentorial" not in dice, "the scan does not show it"
    assert dice["tissue"] == pytest.approx(2 * (8 + 2) / (12 + 13))


def test_every_region_is_compared_apart_and_an_empty_map_has_none():
    truth = np.array([9, 9, 10, 3, 1, 0])
    dice, _, _ = compare(np.array([9, 0, 12, 3, 2, 2]), truth)
    assert {name: dice[name] for name in ("lobar", "deep", "infratentorial")} == {
        "lobar": 0.8,
        "deep": 1.0,
        "infratentorial": pytest.approx(2 / 3),
    }
    assert compare(np.zeros(3, int), np.zeros(3, int)) == ({}, {}, {})


def test_in_tissue_a_region_taken_for_another_counts():
    truth, found = np.zeros((2, 10, 10, 10), np.uint8)
    truth[:6], truth[6:8] = 9, 3
    found[:5], found[5:] = 9, 3
    _, in_tissue, _ = compare(found, truth)
    assert in_tissue["lobar"] == pytest.approx(2 * 5 / (6 + 5))
    assert in_tissue["deep"] == pytest.approx(2 * 2 / (2 + 3))


def test_edges_and_regions_that_are_wrong_are_told_apart():
    truth, found = np.zeros((2, 60, 60, 20), np.uint8)
    truth[10:30, 10:50], truth[30:50, 10:50] = 9, 3
    found[10:34, 10:50], found[34:50, 10:50] = 10, 4  # the border is off by 4 of 20
    found[:, 45:50] = 0  # an eighth of the tissue is missed
    matrix = np.diag([2.0, 2.0, 3.0, 1.0])
    best = dice_at_best(Volume(found, matrix), Volume(truth.astype(np.float32), matrix))  # as it is read
    assert best[TRUE_TISSUE] == {"lobar": pytest.approx(2 * 20 / (20 + 24)), "deep": pytest.approx(2 * 16 / (20 + 16))}
    assert best[TRUE_REGIONS] == {name: pytest.approx(2 * 35 / (35 + 40)) for name in ("lobar", "deep")}
    assert best[BY_SHARES] == best[BY_NEAREST] == {"lobar": 1, "deep": 1}, "the grid is finer than the scan"


def test_a_grid_coarser_than_the_scan_blurs_what_is_as_thin_as_it():
    truth = np.zeros((80, 80, 20), np.uint8)
    truth[8:40, 8:72, 4:16], truth[40:72, 8:72, 4:16] = 9, 3
    truth[:, 20:60:3] = 0  # sulci of one voxel, 0.5 mm
    matrix = np.diag([0.5, 0.5, 2.0, 1.0])
    best = dice_at_best(Volume(truth, matrix), Volume(truth, matrix))
    assert best[TRUE_TISSUE] == best[TRUE_REGIONS] == {"lobar": 1, "deep": 1}
    assert all(0.7 < best[BY_NEAREST][name] < best[BY_SHARES][name] < 0.95 for name in ("lobar", "deep"))


def test_a_map_without_tissue_has_no_best():
    matrix = np.diag([2.0, 2.0, 3.0, 1.0])
    empty = Volume(np.zeros((20, 20, 20), np.uint8), matrix)
    assert dice_at_best(empty, empty) == {words: {} for words in (TRUE_TISSUE, TRUE_REGIONS, BY_SHARES, BY_NEAREST)}


def test_the_page_tells_means_and_the_worst_of_each_region():
    cases = [
        Agreement(
            "a",
            "10",
            "3T-2mm",
            {"lobar": 0.9, "deep": 0.8, "tissue": 0.92},
            {"lobar": 1.0, "deep": 0.8},
            {"lobar": 0.1, "deep": -0.2},
            fluid_contrast=-4.0,
            by_brightness=0.95,
            at_best={TRUE_TISSUE: {"lobar": 0.96, "deep": 0.84}},
        ),
        Agreement(
            "b",
            "15",
            "1.5T",
            {"lobar": 0.7, "deep": 0.9, "infratentorial": 0.6, "tissue": 0.75},
            {"lobar": 0.9, "deep": 0.9},
            {"lobar": -0.3, "deep": 0.0},
            fluid_contrast=0.5,
            by_brightness=0.85,
            at_best={TRUE_TISSUE: {"lobar": 0.98, "deep": 0.88, "infratentorial": 0.99}},
        ),
    ]
    content = summary(cases)
    assert content["dice"]["lobar"] == {"mean": 0.8, "least": 0.7}
    assert content["volume_error"]["lobar"] == {"mean": -0.1, "largest": 0.3}
    assert content["dice_by_protocol"]["1.5T"] == {"lobar": 0.7, "deep": 0.9, "infratentorial": 0.6}
    assert content["dice_by_fluid_contrast"] == {
        "under 1": {
            "cases": 1, "lobar": 0.7, "deep": 0.9, "infratentorial": 0.6, "tissue": 0.75, "tissue by brightness": 0.85,
        },
        "3 or more": {"cases": 1, "lobar": 0.9, "deep": 0.8, "tissue": 0.92, "tissue by brightness": 0.95},
    }  # fmt: skip
    assert content["dice_at_best"] == {TRUE_TISSUE: {"lobar": 0.97, "deep": 0.86, "infratentorial": 0.99}}
    text = page(content, [cases[1]])
    assert f"| {TRUE_TISSUE} | 0.97 | 0.86 | 0.99 |" in text
    assert "| 3 or more | 1 | 0.90 | 0.80 | - | 0.92 | 0.95 |" in text
    assert "| tissue | 0.83 | 0.75 | - | - | - |" in text
    assert "| **lobar** | 0.80 | 0.70 | 0.95 | -10% | 30% |" in text
    assert "regions-b.png" in text


@pytest.mark.parametrize("difference", [-0.2, 0.0, 0.3])
def test_the_contrast_of_fluid_is_its_difference_in_deviations_of_tissue_under_shading(difference: float) -> None:
    labels = np.full((60, 60, 30), 9, np.uint8)
    labels[:, 20:40:10] = labels[28:32, 12:48] = 0  # sulci of 2 mm, and one of 8 mm
    labels[:4] = labels[-4:] = labels[:, :4] = labels[:, -4:] = 0
    rng = np.random.default_rng(0)
    bright = np.where(labels > 0, 1.0, 1.0 + difference)
    bright[:3] = bright[-3:] = bright[:, :3] = bright[:, -3:] = 0.2  # bone
    bright += 0.05 * rng.standard_normal(labels.shape)
    shading = np.exp(np.linspace(-0.3, 0.3, 60))[:, None, None]
    matrix = np.diag([2.0, 2.0, 2.0, 1.0])
    found = fluid_contrast(Volume((100 * bright * shading).astype(np.float32), matrix), Volume(labels, matrix))
    assert found == pytest.approx(difference / 0.05, rel=0.2, abs=0.3)


def test_a_scan_without_fluid_has_no_contrast_of_it() -> None:
    labels, matrix = np.full((30, 30, 20), 9, np.uint8), np.diag([2.0, 2.0, 2.0, 1.0])
    assert np.isnan(fluid_contrast(Volume(labels.astype(np.float32), matrix), Volume(labels, matrix)))


def _brain_with_fluid_at_random(difference: float, noise: float = 0.05) -> tuple[Volume, Volume]:
    """A block of tissue, a fifth of its voxels fluid so that nothing but brightness tells which."""
    rng = np.random.default_rng(0)
    labels = np.zeros((60, 60, 40), np.uint8)
    labels[6:-6, 6:-6, 6:-6] = 9 * (rng.random((48, 48, 28)) > 0.2)
    bright = np.where(labels > 0, 1.0, 1.0 + difference) + noise * rng.standard_normal(labels.shape)
    shading = np.exp(np.linspace(-0.3, 0.3, 60))[:, None, None]
    matrix = np.diag([2.0, 2.0, 2.0, 1.0])
    return Volume((100 * bright * shading).astype(np.float32), matrix), Volume(labels, matrix)


def test_where_fluid_looks_like_tissue_brightness_tells_no_more_than_calling_everything_tissue() -> None:
    swi, true = _brain_with_fluid_at_random(0.0)
    share = (true.array[6:-6, 6:-6, 6:-6] > 0).mean()
    assert dice_by_brightness(swi, true) == pytest.approx(2 * share / (1 + share), abs=0.03)


def test_brightness_tells_tissue_as_far_as_the_noise_lets_it() -> None:
    assert dice_by_brightness(*_brain_with_fluid_at_random(0.8)) == pytest.approx(1, abs=0.01)
    assert dice_by_brightness(*_brain_with_fluid_at_random(-0.8)) == pytest.approx(1, abs=0.01)
    # Two normal distributions two deviations apart, a fifth of the voxels fluid: Dice of the best threshold by hand.
    edges = np.linspace(-3, 5, 801)
    tissue, fluid = 0.8 * norm.cdf(edges), 0.2 * norm.cdf(edges - 2)
    by_hand = (2 * tissue / (tissue + fluid + 0.8)).max()
    assert dice_by_brightness(*_brain_with_fluid_at_random(0.1)) == pytest.approx(by_hand, abs=0.015)


def test_a_map_without_tissue_has_no_dice_by_brightness() -> None:
    matrix = np.diag([2.0, 2.0, 2.0, 1.0])
    empty = Volume(np.zeros((20, 20, 20), np.uint8), matrix)
    assert np.isnan(dice_by_brightness(Volume(np.ones((20, 20, 20), np.float32), matrix), empty))


def test_a_picture_shows_the_region_found_beside_the_true_one():
    labels = np.zeros((2, 90, 90, 40), np.uint8)
    labels[0, 20:70, 20:70, 5:35], labels[1, 20:70, 20:70, 5:35] = 9, 2
    matrix = np.diag([2.0, 2.0, 3.0, 1.0])
    swi = Volume(100.0 + labels[0], matrix)
    picture = np.asarray(draw(swi, Volume(labels[1], matrix), Volume(labels[0], matrix)))
    side = picture.shape[1] // 3
    shown = [picture[side // 2, column * side + side // 2].tolist() for column in range(3)]
    assert len({tuple(color) for color in shown}) == 3
    assert picture.shape == (3 * side, 3 * side, 3)
