"""A whole simulated case of a small phantom head."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from CMBDetectorLib.errors import InputError
from CMBDetectorLib.resources import resources_dir
from CMBDetectorLib.simulation import cohort, heads
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
from CMBDetectorLib.simulation.implant import implanted_case
from CMBDetectorLib.simulation.protocols import PROTOCOLS, vary
from CMBDetectorLib.simulation.sources import averaged, microbleed
from CMBDetectorLib.simulation.truth import truth_of
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


def depths(case: SimulatedCase, marks: list[dict]) -> list[float]:
    """Darkest voxel within two of each mark in its slice, as a share of what tissue has."""
    tissue = float(np.median(case.swi.array[case.mars.array > 0]))
    places = [np.rint(case.swi.ijk_of(mark["center_ras_mm"])).astype(int) for mark in marks]
    return [float(case.swi.array[i - 2 : i + 3, j - 2 : j + 3, k].min()) / tissue for i, j, k in places]


def test_lesions_are_darker_than_the_tissue_around_them(case):
    assert len(case.truth["lesions"]) >= 5
    assert np.mean(np.array(depths(case, case.truth["lesions"])) < 0.75) > 0.9


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
    veins = [mimic for mimic in free.truth["mimics"] if mimic["kind"].startswith("vein")]
    assert len(veins) > 20
    assert np.median(depths(free, veins)) < 0.4, "0.23 with veins; 0.6 without, by what else is dark there"


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


def test_vessels_join_and_thicken_toward_their_root(head, trees):
    random = np.random.default_rng(0)
    placed = place(head, random)
    for tree in trees:
        vessels = branches(tree, placed, random)
        here = np.flatnonzero(vessels.flow > 0)
        there = vessels.parent[here]
        roots = here[there == here]
        assert 0 < 5 * len(roots) < vessels.flow[roots].sum(), "few roots have all leaves"
        assert (vessels.radius_mm[there] >= vessels.radius_mm[here]).all()
        joined = vessels.flow[there] > vessels.flow[here]
        thicker = vessels.radius_mm[there] > vessels.radius_mm[here]
        assert (thicker | (vessels.radius_mm[here] == tree.largest_radius_mm))[joined].all()
        assert vessels.radius_mm.max() > 2 * vessels.radius_mm[here].min()


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


def test_an_implanted_case_has_the_truth_of_a_simulated_one(case):
    implanted = implanted_case(
        case.swi, case.phase, case.mars, head="swi.nii.gz", count=4, seed=3, echo_time_ms=20.0, field_t=3.0,
        paramagnetic_sign=1, location_of=lambda center: None,
    ).truth  # fmt: skip
    assert implanted.keys() == case.truth.keys() - {"raw_phase"}
    for entry in implanted["lesions"] + implanted["faint"]:
        assert entry.keys() == case.truth["lesions"][0].keys()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot be opened"),
        ('{"head": "02", "les', "cannot be read as JSON"),
        ("[1]", "holds no JSON object"),
        ("{}", "lacks 'head'"),
        ('{"head": "02", "lesions": [], "faint": []}', "lacks 'mimics'"),
        ('{"head": 2, "lesions": [], "faint": [], "mimics": []}', "has 2 as 'head', which must be text"),
        ('{"head": "02", "lesions": null, "faint": [], "mimics": []}', "holds no list of sources as 'lesions'"),
        ('{"head": "02", "lesions": [], "faint": [3], "mimics": []}', "holds no list of sources as 'faint'"),
    ],
)
def test_a_truth_that_cannot_be_used_is_named(tmp_path, content, told):
    if content is not None:
        (tmp_path / "truth.json").write_text(content)
    with pytest.raises(InputError, match=told) as problem:
        truth_of(tmp_path)
    assert str(problem.value).startswith(str(tmp_path / "truth.json"))


@pytest.mark.parametrize(
    ("kind", "name", "wrong", "right"),
    [
        ("lesions", "center_ras_mm", [1.0, 2.0], [1, 2, 3]),
        ("faint", "center_ras_mm", [1.0, 2.0, float("nan")], [0.5, -2, 3]),
        ("mimics", "center_ras_mm", ["1", "2", "3"], [1, 2, 3]),
        ("mimics", "kind", 3, "vein"),
        ("lesions", "diameter_mm", "3", 3),
        ("faint", "diameter_mm", -1.0, 0),
        ("lesions", "contrast", 1.5, 1.004),
        ("lesions", "region", "frontal", ""),
        ("lesions", "sub_region", "frontal", 9.0),
        ("lesions", "sub_region", 99, 0),
        ("lesions", "side", "nowhere", "midline"),
    ],
)
def test_what_a_truth_tells_wrongly_of_a_source_is_named_when_it_is_asked_for(tmp_path, kind, name, wrong, right):
    truth = {"head": "02", "lesions": [], "faint": [], "mimics": []}
    sources = [{"center_ras_mm": [0, 0, 0], name: right} for _ in range(3)]
    (tmp_path / "truth.json").write_text(json.dumps({**truth, kind: sources}))
    truth_of(tmp_path).require(kind, name)
    sources[1][name] = wrong
    (tmp_path / "truth.json").write_text(json.dumps({**truth, kind: sources}))
    with pytest.raises(InputError, match=rf"truth\.json has .* as '{name}' of {kind} 2\."):
        truth_of(tmp_path).require(kind, name)
    del sources[1][name]
    (tmp_path / "truth.json").write_text(json.dumps({**truth, kind: sources}))
    with pytest.raises(InputError, match=rf"truth\.json lacks '{name}' of {kind} 2\."):
        truth_of(tmp_path).require(kind, name)


def test_a_truth_with_places_alone_can_be_read(tmp_path):
    place = {"center_ras_mm": [1, 2, 3]}
    (tmp_path / "truth.json").write_text(json.dumps({"head": "x", "lesions": [place], "faint": [], "mimics": [place]}))
    assert truth_of(tmp_path)["lesions"] == [place]


def test_a_truth_of_an_older_simulator_is_read_and_says_what_it_lacks():
    older = truth_of(next((resources_dir() / "SampleData").glob("*/truth.json")).parent)
    assert older["head"] == "09"
    with pytest.raises(InputError, match=r"truth.json lacks 'acquired_mm'. Correct it, make this case again"):
        older["acquired_mm"]


@pytest.fixture
def rendered(case, tmp_path):
    """A folder of heads, and one with the truth of a case of theirs."""
    (tmp_path / "02_labels.nii.gz").touch()
    (tmp_path / "out" / "case_0000").mkdir(parents=True)
    (tmp_path / "out" / "case_0000" / "truth.json").write_text(json.dumps({**case.truth, "head": "02"}))
    return tmp_path, tmp_path / "out"


OPTIONS: dict[str, Any] = {"cases": 3, "seed": 3, "protocol": "3T-2mm", "burden": "many"}


@pytest.mark.parametrize("by", ["this simulator", "an older one"])
def test_a_rendering_that_was_interrupted_goes_on(rendered, case, monkeypatch, by):
    if by == "an older one":
        truth = {name: value for name, value in case.truth.items() if name not in ("burden", "acquired_mm")}
        (rendered[1] / "case_0000" / "truth.json").write_text(json.dumps({**truth, "head": "02"}))
    made = []
    monkeypatch.setattr(cohort, "_grow", lambda heads_dir, head_and_seed: (head_and_seed, ()))
    monkeypatch.setattr(cohort, "_render", lambda heads_dir, device, pictures, job: made.append(job[0].folder.name))
    cohort.simulate(*rendered, **OPTIONS)
    assert made == ["case_0001", "case_0002"]


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ({"seed": 4}, "seed is 3, not 4"),
        ({"protocol": "1.5T"}, "protocol is 3T-2mm, not 1.5T"),
        ({"varied": True}, "its protocol was varied in another way"),
        ({"burden": "none"}, "burden is many, not none"),
        ({"atrophy": True}, "it was made without atrophy"),
        ({"heads": ["03"]}, "head is 02, not 03"),
    ],
)
def test_a_case_of_other_options_is_not_taken_for_this_one(rendered, option, told):
    with pytest.raises(InputError, match=f"case_0000 holds another case: {told}"):
        cohort.simulate(*rendered, **OPTIONS | option)


def test_a_case_of_other_vessels_is_not_taken_for_this_one(rendered, case, monkeypatch):
    heads_dir, out = rendered
    protocol = PROTOCOLS["3T-2mm"]
    planned = cohort.Plan(out / "case_0000", "02", 2, protocol, seed=3, burden="many")
    monkeypatch.setattr(cohort, "load_head", lambda heads_dir, head: None)
    monkeypatch.setattr(cohort, "render", lambda *of: replace(case, truth={**case.truth, "head": "02"}))
    cohort._render(heads_dir, "cpu", False, (planned, ()))
    assert cohort._is_there(planned)
    with pytest.raises(InputError, match="case_0000 holds another case: it has another set of vessels"):
        cohort._is_there(replace(planned, vessel_seed=1002))


def test_a_case_of_less_cortex_is_the_one_asked_for_only_with_atrophy(rendered, case, monkeypatch):
    heads_dir, out = rendered
    planned = cohort.Plan(out / "case_0000", "02", 2, PROTOCOLS["3T-2mm"], seed=3, burden="many", atrophy=True)
    seen = []
    monkeypatch.setattr(cohort, "load_head", lambda heads_dir, head: folded_head())

    def render(head: Head, *of: Any) -> Any:
        seen.append(head)
        return replace(case, truth={**case.truth, "head": "02"})

    monkeypatch.setattr(cohort, "render", render)
    cohort._render(heads_dir, "cpu", False, (planned, ()))
    assert (seen[0].mars > 0).sum() < (folded_head().mars > 0).sum()
    assert truth_of(planned.folder)["atrophy"] is True and cohort._is_there(planned)
    with pytest.raises(InputError, match="case_0000 holds another case: it was made with atrophy"):
        cohort._is_there(replace(planned, atrophy=False))


def folded_head() -> heads.Head:
    """Two gyri of the right side whose cortex, 4 mm thick each, touches; below them thalamus and brainstem."""
    labels = np.zeros((44, 44, 44), np.int16)
    labels[4:40, 4:40, 4:40] = 42
    labels[8:18, 8:36, 8:36] = labels[26:36, 8:36, 8:36] = 41
    labels[8:36, 8:36, 4:12], labels[18:26, 8:36, 4:8] = 49, 16
    return heads.Head("toy", labels, np.where(labels == 16, 1, np.where(labels == 49, 4, labels > 0)).astype(np.uint8))


def test_atrophy_takes_cortex_alone_and_opens_sulci_that_hold_no_fluid():
    whole = folded_head()
    shares = []
    for seed in range(6):
        thin = heads.atrophied(whole, np.random.default_rng(seed))
        lost = (whole.mars > 0) & (thin.mars == 0)
        assert set(whole.labels[lost]) == {42} and set(thin.labels[lost]) == {heads.CSF}
        kept = ~lost
        assert np.array_equal(thin.mars[kept], whole.mars[kept])
        changed = kept & (thin.labels != whole.labels)
        assert set(whole.labels[changed]) <= {41} and set(thin.labels[changed]) <= {42}
        assert lost[21:23, 20:24, 20:24].all()  # the middle of the sulcus
        assert not lost[18, 12:32, 14:32].any()  # beside the white matter
        shares.append(lost.sum() / (whole.labels == 42).sum())
        again = heads.atrophied(whole, np.random.default_rng(seed))
        assert np.array_equal(again.labels, thin.labels) and np.array_equal(again.mars, thin.mars)
    assert max(shares) > 1.3 * min(shares)
    assert np.array_equal(whole.labels, folded_head().labels)


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
    kinds = {mimic["kind"] for mimic in case.truth["mimics"]}
    assert {"vein cross-section", "vein junction", "vein bend", "air-tissue edge"} <= kinds
    for kind in ("vein cross-section", "vein junction", "air-tissue edge"):
        assert np.median(depths(case, [mimic for mimic in case.truth["mimics"] if mimic["kind"] == kind])) < 0.8


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
