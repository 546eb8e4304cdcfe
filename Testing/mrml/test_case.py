"""A case in a real scene: points, regions and review, kept through edits, other runs, saving and loading."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from CMBDetectorLib.errors import InputError
from CMBDetectorLib.regions import SUB_REGIONS, Region, Side
from CMBDetectorLib.report import write_result
from CMBDetectorLib.report.record import write_record
from CMBDetectorLib.report.review_table import read_review, write_review
from CMBDetectorLib.request import FLOOR
from CMBDetectorLib.result import Result, number
from CMBDetectorLib.review import MARKER_COLORS, Marker, Source, Verdict
from CMBDetectorLib.scene.case import Case, case_of, cases, show_result, vanishing
from CMBDetectorLib.scene.segments import GROUP_IDS, SUB_REGION_IDS, regions_of
from CMBDetectorLib.scene.volumes import add_volume
from Testing.synthetic_result import synthetic_result


@pytest.fixture(scope="module", params=[0.0, 17.0], ids=["straight", "oblique"])
def result(request: pytest.FixtureRequest) -> Result:
    return synthetic_result(tilt_deg=request.param)


@pytest.fixture(scope="module")
def folder(result: Result, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_result(result, tmp_path_factory.mktemp("case") / "out", with_images=True)


@pytest.fixture
def case(scene: Any, result: Result, folder: Path) -> Case:
    """SWI and phase as a user loads them, and the result of one run."""
    assert result.phase
    return show_result(folder, add_volume(scene, result.swi, "SWI"), add_volume(scene, result.phase, "phase"))


def another_run(folder: Path, result: Result, out: Path, **changes: Any) -> Path:
    """A second result beside the first: same images, another record."""
    out.mkdir()
    for file in folder.iterdir():
        shutil.copy(file, out)
    (out / "candidates.json").unlink()
    write_record(replace(result, **changes), out / "candidates.json")
    return out


def shown(case: Case) -> dict[str, tuple[str, str, tuple[float, ...]]]:
    """What the scene shows: key of each point to its list, label and place."""
    found = {}
    for marker, node in case.lists.items():
        for index in range(node.GetNumberOfControlPoints()):
            key = case.key_of(node, index)
            assert key and key not in found, "one point per finding"
            place = tuple(round(mm, 3) for mm in node.GetNthControlPointPositionWorld(index))
            found[key] = (marker.value, node.GetNthControlPointLabel(index), place)
    return found


def said(case: Case) -> dict[str, tuple[str, str, tuple[float, ...]]]:
    """What the review says should be shown."""
    return {
        f.key: (f.marker.value, f.label, tuple(round(mm, 3) for mm in f.position_ras_mm)) for f in case.review.visible()
    }


def visible_keys(case: Case) -> list[str]:
    return [finding.key for finding in case.review.visible()]


def drag(case: Case, key: str, to_ras_mm: tuple[float, float, float]) -> None:
    point = case.point_of(key)
    assert point
    node, index = point
    node.SetNthControlPointPositionWorld(index, to_ras_mm)


# Points


def test_every_visible_candidate_is_one_point_at_its_place(case: Case, result: Result) -> None:
    assert shown(case) == said(case)
    first = shown(case)[result.candidates[0].id]
    assert first == ("undecided", "1 lobar 0.91", tuple(round(mm, 3) for mm in result.candidates[0].center_ras_mm))
    assert len(shown(case)) == 3


def test_each_verdict_has_a_list_of_its_own_color_in_the_folder_of_the_case(mrml: Any, case: Case) -> None:
    hierarchy = mrml.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(case.node.GetScene())
    folders = {hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) for node in case.lists.values()}
    assert len(folders) == 1
    assert hierarchy.GetItemName(folders.pop()) == "SWI microbleeds"
    for marker, node in case.lists.items():
        display = node.GetDisplayNode()
        for color in (display.GetColor(), display.GetSelectedColor()):
            assert tuple(round(255 * channel) for channel in color) == MARKER_COLORS[marker]
        assert display.GetPointLabelsVisibility()
        assert not display.GetPropertiesLabelVisibility()


def test_a_lesion_of_3_mm_is_not_covered_by_any_marker(mrml: Any, case: Case) -> None:
    for node in case.lists.values():
        display = node.GetDisplayNode()
        assert not display.GetUseGlyphScale() and display.GetGlyphTypeAsString() == "Cross2D"
        glyph = mrml.vtkMarkupsGlyphSource2D()
        glyph.SetGlyphTypeToCross()
        glyph.SetScale(display.GetGlyphSize())
        glyph.Update()
        drawn = [glyph.GetOutput().GetPoint(index) for index in range(glyph.GetOutput().GetNumberOfPoints())]
        assert min(np.linalg.norm(drawn, axis=1)) > 1.5


def test_a_point_says_place_size_and_phase(case: Case) -> None:
    node, index = case.point_of(case.review.findings[0].key) or pytest.fail()
    assert node.GetNthControlPointDescription(index).endswith("right frontal (lobar), 4.0 mm, phase paramagnetic")
    values = {name: node.GetMeasurement(name).GetControlPointValues() for name in ("probability", "diameter")}
    assert values["probability"].GetValue(index) == pytest.approx(0.91)
    assert values["diameter"].GetValue(index) == pytest.approx(4.0)


def test_a_verdict_moves_the_point_to_the_list_of_its_color(case: Case) -> None:
    first, second, third = visible_keys(case)
    case.decide(first, Verdict.ACCEPTED, "AB")
    case.decide(second, Verdict.REJECTED, "AB")
    assert [shown(case)[key][0] for key in (first, second, third)] == ["accepted", "rejected", "undecided"]
    assert shown(case) == said(case)
    case.undo()
    case.undo()
    assert {place[0] for place in shown(case).values()} == {"undecided"}


def test_the_threshold_and_the_excluded_take_effect_at_once(case: Case) -> None:
    case.set_threshold(0.8)
    assert len(shown(case)) == 2
    case.set_threshold(FLOOR)
    case.set_show_excluded(True)
    assert len(shown(case)) == 5
    assert [place[0] for place in shown(case).values()].count("excluded") == 1
    assert shown(case) == said(case)


def test_markers_can_be_hidden_and_shown(case: Case) -> None:
    case.show_markers(False)
    assert not any(node.GetDisplayNode().GetVisibility() for node in case.lists.values())
    case.decide(visible_keys(case)[0], Verdict.ACCEPTED)
    assert not any(node.GetDisplayNode().GetVisibility() for node in case.lists.values())
    case.show_markers(True)
    assert all(node.GetDisplayNode().GetVisibility() for node in case.lists.values())


def test_nothing_is_touched_when_nothing_changed(case: Case) -> None:
    before = [node.GetMTime() for node in case.lists.values()]
    case.refresh()
    assert [node.GetMTime() for node in case.lists.values()] == before


# A reader's hand


def test_a_dragged_point_reaches_the_review_and_the_detectors_coordinate_stays(case: Case, result: Result) -> None:
    key = visible_keys(case)[0]
    cerebellum = result.candidates[1].center_ras_mm
    drag(case, key, cerebellum)
    assert case.take_points("AB") == [key]
    finding = case.review[key]
    assert finding.position_ras_mm == pytest.approx(cerebellum)
    assert finding.candidate and finding.candidate.center_ras_mm == result.candidates[0].center_ras_mm
    assert finding.location and finding.location.region is Region.INFRATENTORIAL
    assert shown(case)[key][1] == "1 infratentorial 0.91"
    assert case.take_points("AB") == []
    case.undo()
    assert shown(case)[key] == said(case)[key]
    assert case.review[key].position_ras_mm == result.candidates[0].center_ras_mm


def test_a_point_goes_back_to_where_the_detector_found_it(case: Case, result: Result) -> None:
    key = visible_keys(case)[0]
    case.move(key, (1.0, 2.0, 3.0))
    case.move(key, None)
    assert shown(case)[key][2] == tuple(round(mm, 3) for mm in result.candidates[0].center_ras_mm)


def test_a_placed_point_becomes_a_finding_with_region_and_size(case: Case, result: Result) -> None:
    lesion = result.candidates[1]
    node = case.lists[Marker.UNDECIDED]
    index = node.AddControlPointWorld(lesion.center_ras_mm)
    assert case.key_of(node, index) is None
    assert case.take_points("AB") == ["reader-1"]
    added = case.review["reader-1"]
    assert (added.source, added.verdict, added.reader) == (Source.READER, Verdict.ACCEPTED, "AB")
    assert added.location and lesion.location
    assert (added.location.sub_region, added.location.side) == (lesion.location.sub_region, Side.MIDLINE)
    assert added.volume_mm3 == pytest.approx(lesion.volume_mm3, rel=0.01)
    assert 5 < added.diameter_mm < 8
    assert shown(case)["reader-1"][:2] == ("accepted", "R1 infratentorial")
    assert shown(case) == said(case)


def test_a_deleted_point_of_the_reader_goes_and_one_of_the_detector_comes_back(case: Case) -> None:
    added = case.add((1.0, 2.0, 3.0), "AB")
    for key in (added.key, visible_keys(case)[0]):
        node, index = case.point_of(key) or pytest.fail()
        node.RemoveNthControlPoint(index)
    assert case.take_points() == [added.key]
    assert added.key not in case.review
    assert shown(case) == said(case) and len(shown(case)) == 3


def test_a_copied_point_does_not_make_a_second_finding(case: Case) -> None:
    node, index = case.point_of(visible_keys(case)[0]) or pytest.fail()
    copy = node.AddControlPointWorld(node.GetNthControlPointPositionWorld(index))
    node.SetNthControlPointDescription(copy, node.GetNthControlPointDescription(index))
    case.take_points()
    case.refresh()
    assert shown(case) == said(case) and len(shown(case)) == 3


def test_a_removed_list_comes_back(case: Case) -> None:
    case.node.GetScene().RemoveNode(case.lists[Marker.UNDECIDED])
    case.refresh()
    assert shown(case) == said(case) and len(shown(case)) == 3


def test_a_list_that_was_removed_takes_no_finding_of_the_reader_with_it(case: Case) -> None:
    added = case.add((1.0, 2.0, 3.0), "AB")
    case.node.GetScene().RemoveNode(case.lists[Marker.ACCEPTED])
    drag(case, visible_keys(case)[0], (4.0, 5.0, 6.0))
    case.take_points("AB")
    assert added.key in case.review
    assert shown(case) == said(case) and len(shown(case)) == 4


def test_of_a_case_that_was_not_watched_only_new_points_are_taken(case: Case) -> None:
    added = case.add((1.0, 2.0, 3.0), "AB")
    first, second, _, _ = visible_keys(case)
    node, index = case.point_of(added.key) or pytest.fail()
    node.RemoveNthControlPoint(index)
    drag(case, first, (4.0, 5.0, 6.0))
    placed = node.AddControlPointWorld((7.0, 8.0, 9.0))
    node.SetNthControlPointDescription(placed, "")
    assert case.take_points("CD", only_placed=True) == ["reader-2"]
    assert added.key in case.review and not case.review[first].is_moved and not case.review[second].is_moved
    assert case.review["reader-2"].reader == "CD"
    assert shown(case) == said(case)


def test_points_and_regions_of_a_case_can_be_hidden_together(case: Case) -> None:
    drawn = [*case.lists.values(), case.segmentation]
    case.show_in_views(False)
    assert not any(node.GetDisplayNode().GetVisibility() for node in drawn)
    case.show_in_views(True)
    assert all(node.GetDisplayNode().GetVisibility() for node in drawn)
    case.segmentation.GetDisplayNode().SetVisibility(False)  # by the reader, so it stays
    case.show_in_views(False)
    case.show_in_views(True)
    assert [bool(node.GetDisplayNode().GetVisibility()) for node in drawn] == [True] * 4 + [False]


def test_what_we_change_is_not_taken_for_a_readers_hand(case: Case) -> None:
    taken: list[list[str]] = []
    for node in case.lists.values():
        for event in (node.PointAddedEvent, node.PointRemovedEvent, node.PointModifiedEvent):
            node.AddObserver(event, lambda *_: taken.append(case.take_points()))
    first, second, _ = visible_keys(case)
    case.decide(first, Verdict.ACCEPTED)
    case.set_threshold(0.9)
    case.set_threshold(FLOOR)
    case.move(second, (1.0, 2.0, 3.0))
    case.undo()
    added = case.add((1.0, 2.0, 3.0))
    case.decide(added.key, Verdict.REJECTED)  # on its way from list to list it is for a moment in none
    assert taken and not any(taken)
    assert shown(case) == said(case) and len(shown(case)) == 5


# Regions


def test_the_groups_are_shown_as_outlines_and_the_mars_regions_on_demand(case: Case) -> None:
    display, segmentation = case.segmentation.GetDisplayNode(), case.segmentation.GetSegmentation()
    assert display.GetVisibility2DOutline() and not display.GetVisibility2DFill()
    assert [segmentation.GetSegment(id).GetName() for id in GROUP_IDS.values()] == [r.value for r in Region]
    assert [segmentation.GetSegment(id).GetName() for id in SUB_REGION_IDS.values()] == [s.name for s in SUB_REGIONS]

    def seen(ids: Any) -> set[bool]:
        return {bool(display.GetSegmentVisibility(id)) for id in ids.values()}

    assert (seen(GROUP_IDS), seen(SUB_REGION_IDS)) == ({True}, {False})
    case.show_sub_regions(True)
    assert (seen(GROUP_IDS), seen(SUB_REGION_IDS)) == ({False}, {True})


def test_a_region_knows_its_standard_code(case: Case) -> None:
    import vtk

    for sub in SUB_REGIONS:
        segment = case.segmentation.GetSegmentation().GetSegment(SUB_REGION_IDS[sub.label])
        entry = vtk.reference("")
        assert segment.GetTag(segment.GetTerminologyEntryTagName(), entry)
        assert f"SCT^{sub.sct_code}^{sub.sct_meaning}" in str(entry)


def assert_regions(case: Case, result: Result) -> None:
    """The label map comes back out of the segmentation, each label at its place."""
    regions = regions_of(case.segmentation)
    assert regions
    for label in np.unique(result.regions.array)[1:]:
        there = regions.ras_of(np.argwhere(regions.array == label))
        expected = result.regions.ras_of(np.argwhere(result.regions.array == label))
        assert len(there) == len(expected) and np.abs(there.mean(axis=0) - expected.mean(axis=0)).max() < 1e-3


def test_the_label_map_comes_back_out_of_the_segmentation(case: Case, result: Result) -> None:
    assert_regions(case, result)


def test_the_label_map_comes_back_when_slicer_has_cropped_the_segments(mrml: Any, case: Case, result: Result) -> None:
    for id in SUB_REGION_IDS.values():
        segment = case.segmentation.GetSegmentation().GetSegment(id)
        whole = segment.GetRepresentation("Binary labelmap")
        extent = [0] * 6
        if mrml.vtkOrientedImageDataResample.CalculateEffectiveExtent(whole, extent, segment.GetLabelValue() - 1):
            cropped = mrml.vtkOrientedImageData()
            mrml.vtkOrientedImageDataResample.CopyImage(whole, cropped, extent)
            segment.AddRepresentation("Binary labelmap", cropped)
        else:
            case.segmentation.GetSegmentation().RemoveSegment(id)
    assert regions_of(case.segmentation).array.shape != result.regions.array.shape  # type: ignore[union-attr]
    assert_regions(case, result)


def test_without_regions_or_images_a_point_is_still_taken(case: Case) -> None:
    scene = case.node.GetScene()
    for node in (case.segmentation, case.swi, case.phase_filtered):
        scene.RemoveNode(node)
    added = case.add((1.0, 2.0, 3.0))
    assert added.location is None and np.isnan(added.diameter_mm)
    assert shown(case) == said(case)


# Another run


def test_another_run_keeps_the_verdicts_of_what_it_finds_again(
    case: Case, folder: Path, result: Result, tmp_path: Path
) -> None:
    first, second, third = visible_keys(case)
    case.decide(first, Verdict.ACCEPTED, "AB")
    case.decide(second, Verdict.REJECTED, "AB")
    added = case.add((1.0, 2.0, 3.0), "AB")
    shifted = [
        replace(c, center_ras_mm=(c.center_ras_mm[0] + 1.0, *c.center_ras_mm[1:]))
        for c in result.candidates
        if c.number != 2
    ]
    again = another_run(folder, result, tmp_path / "again", candidates=number(shifted))
    assert [f.key for f in vanishing(again, case.swi)] == [second]
    merged = show_result(again, case.swi, case.phase)
    assert merged.node is case.node
    assert {key: place[0] for key, place in shown(merged).items()} == {
        first: "accepted", second: "rejected", third: "undecided", added.key: "accepted",
    }  # fmt: skip
    assert shown(case) == said(case) == said(merged)
    scene = case.node.GetScene()
    assert scene.GetNumberOfNodesByClass("vtkMRMLMarkupsFiducialNode") == len(Marker)
    assert scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 1
    assert scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 3
    assert show_result(again, case.swi, keep_vanishing=False).phase is None
    assert second not in shown(case)


def test_a_damaged_result_leaves_the_scene_as_it_was(scene: Any, result: Result, folder: Path, tmp_path: Path) -> None:
    swi = add_volume(scene, result.swi, "SWI")
    before = scene.GetNumberOfNodes()
    broken = another_run(folder, result, tmp_path / "broken")
    for file, content in (("regions.nii.gz", b"x"), ("candidates.json", b"{}")):
        (broken / file).unlink()
        (broken / file).write_bytes(content)
        with pytest.raises(InputError):
            show_result(broken, swi)
    assert scene.GetNumberOfNodes() == before
    assert cases(scene) == [] and case_of(swi) is None and vanishing(folder, swi) == ()


# Two cases


def test_two_cases_in_one_scene_do_not_mix(scene: Any, case: Case, folder: Path, result: Result) -> None:
    moved = result.swi.ijk_to_ras.copy()
    moved[0, 3] += 500
    other = show_result(folder, add_volume(scene, replace(result.swi, ijk_to_ras=moved), "SWI"))
    before = shown(other)
    assert len(cases(scene)) == 2 and case_of(other.swi).name == "SWI 2"  # type: ignore[union-attr]
    first, second, _ = visible_keys(case)
    case.decide(first, Verdict.ACCEPTED, "AB")
    drag(case, second, (1.0, 2.0, 3.0))
    case.take_points()
    case.add((4.0, 5.0, 6.0))
    case.set_threshold(0.9)
    other.take_points()
    assert shown(other) == before == said(other)
    assert not {n.GetID() for n in case.lists.values()} & {n.GetID() for n in other.lists.values()}
    other.remove_from_scene()
    assert [c.name for c in cases(scene)] == ["SWI"]
    assert shown(case) == said(case)


def test_a_result_of_an_image_that_is_the_phase_of_another_case_makes_a_case_of_its_own(
    scene: Any, case: Case, folder: Path
) -> None:
    key = visible_keys(case)[0]
    case.decide(key, Verdict.ACCEPTED, "AB")
    assert vanishing(folder, case.phase) == ()
    other = show_result(folder, case.phase)
    assert other.node is not case.node and other.review[key].verdict is Verdict.UNDECIDED
    assert case.review[key].verdict is Verdict.ACCEPTED and case.swi is not case.phase


def test_a_removed_case_leaves_only_the_images(mrml: Any, scene: Any, case: Case) -> None:
    swi, phase = case.swi, case.phase
    case.remove_from_scene()
    assert cases(scene) == []
    for kind in ("vtkMRMLMarkupsFiducialNode", "vtkMRMLSegmentationNode", "vtkMRMLTextNode"):
        assert scene.GetNumberOfNodesByClass(kind) == 0
    assert {scene.GetNthNodeByClass(n, "vtkMRMLScalarVolumeNode") for n in range(2)} == {swi, phase}
    hierarchy = mrml.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    assert not hierarchy.GetItemByName("SWI microbleeds")


# Saving and loading


def save_as_mrb(scene: Any, folder: Path) -> Callable[[], object]:
    assert scene.WriteToMRB(str(folder / "scene.mrb"))
    return lambda: scene.ReadFromMRB(str(folder / "scene.mrb"))


def save_as_files(scene: Any, folder: Path) -> Callable[[], object]:
    """As the Save dialog does: every node with a file of its own, and the scene file that names them."""
    for kind in ("ScalarVolume", "Segmentation", "MarkupsFiducial", "Text"):
        found = scene.GetNodesByClass(f"vtkMRML{kind}Node")
        for node in (found.GetItemAsObject(index) for index in range(found.GetNumberOfItems())):
            node.AddDefaultStorageNode()
            if storage := node.GetStorageNode():
                storage.SetFileName(str(folder / f"{node.GetID()}.{storage.GetDefaultWriteFileExtension()}"))
                assert storage.WriteData(node)
    assert scene.Commit(str(folder / "scene.mrml"))

    def load() -> object:
        scene.SetURL(str(folder / "scene.mrml"))
        return scene.Connect()

    return load


@pytest.mark.parametrize("save", [save_as_mrb, save_as_files])
def test_everything_survives_saving_and_loading(
    scene: Any, case: Case, result: Result, tmp_path: Path, save: Callable[[Any, Path], Callable[[], object]]
) -> None:
    first, second, third = visible_keys(case)
    case.decide(
        first,
        Verdict.ACCEPTED,
        'Ä. "B" <&>',
    )
    case.comment(first, "two lines,\n'quoted' <&> µ")
    case.decide(second, Verdict.REJECTED, "AB")
    drag(case, third, (1.0, 2.0, 3.0))
    case.take_points()
    case.add(result.candidates[1].center_ras_mm, "AB")
    case.set_show_excluded(True)
    case.show_sub_regions(True)
    text, points = case.node.GetText(), shown(case)

    load = save(scene, tmp_path)
    scene.Clear(False)
    assert cases(scene) == []
    assert load()

    (again,) = cases(scene)
    assert again.node.GetText() == text
    assert shown(again) == points == said(again), "before anything is made anew"
    assert [again.swi.GetName(), again.phase.GetName()] == ["SWI", "phase"]
    assert again.phase_filtered and case_of(again.swi).node is again.node  # type: ignore[union-attr]
    assert scene.GetNumberOfNodesByClass("vtkMRMLMarkupsFiducialNode") == len(Marker)
    assert again.segmentation.GetDisplayNode().GetSegmentVisibility(SUB_REGION_IDS[9])
    assert_regions(again, result)
    for marker, node in again.lists.items():
        color = [round(255 * channel) for channel in node.GetDisplayNode().GetSelectedColor()]
        assert np.abs(np.subtract(color, MARKER_COLORS[marker])).max() <= 1
    again.refresh()
    again.decide(third, Verdict.ACCEPTED)
    assert again.add((4.0, 5.0, 6.0)).key == "reader-2"
    assert shown(again) == said(again)
    again.undo()
    again.undo()
    assert again.node.GetText() == text


def test_the_review_lies_in_the_scene_file_where_it_cannot_be_left_out(scene: Any, case: Case, tmp_path: Path) -> None:
    case.node.AddDefaultStorageNode()
    assert case.node.GetStorageNode() is None
    scene.Commit(str(tmp_path / "scene.mrml"))
    assert "CMBDetector review 1" in (tmp_path / "scene.mrml").read_text(encoding="utf-8")


def test_a_scene_loaded_twice_holds_two_cases_that_do_not_mix(scene: Any, case: Case, tmp_path: Path) -> None:
    case.decide(visible_keys(case)[0], Verdict.ACCEPTED)
    load = save_as_mrb(scene, tmp_path)
    assert load()
    one, other = cases(scene)
    assert one.swi is not other.swi
    assert one.segmentation is not other.segmentation
    before = shown(one)
    other.decide(visible_keys(other)[1], Verdict.REJECTED)
    assert shown(one) == before == said(one)
    assert shown(other) == said(other) != before


def test_an_exported_table_brings_the_points_back(scene: Any, case: Case, folder: Path, tmp_path: Path) -> None:
    first, second, _ = visible_keys(case)
    case.decide(first, Verdict.ACCEPTED, "AB")
    case.move(second, (1.0, 2.0, 3.0))
    case.add((4.0, 5.0, 6.0), "AB")
    points = shown(case)
    write_review(case.review, tmp_path / "review.csv")
    swi = case.swi
    case.remove_from_scene()
    fresh = show_result(folder, swi)
    assert shown(fresh) != points
    assert fresh.restore(read_review(tmp_path / "review.csv", to=fresh.review)) == (5, 1)
    assert shown(fresh) == points


# Time


def many(result: Result, count: int) -> tuple[Any, ...]:
    """So many candidates in the whole head, with probabilities from the floor to 1."""
    random = np.random.default_rng(0)
    places = random.uniform(-40, 40, (count, 3)) + (7.0, -11.0, 23.0)
    chances = np.linspace(FLOOR, 0.99, count)
    return number(
        [
            replace(result.candidates[0], center_ras_mm=tuple(place.tolist()), probability=float(chance))
            for place, chance in zip(places, chances, strict=True)
        ]
    )


def test_with_300_points_a_verdict_takes_less_than_50_ms_and_the_threshold_less_than_100(
    scene: Any,
    folder: Path,
    result: Result,
    tmp_path: Path,
    patience: float,
    record_property: Callable[[str, object], None],
) -> None:
    out = another_run(folder, result, tmp_path / "many", candidates=many(result, 300))
    case = show_result(out, add_volume(scene, result.swi, "SWI"))
    case.set_threshold(FLOOR)
    names = visible_keys(case)
    assert len(names) == 300

    def median_ms(act: Callable[[int], object]) -> float:
        took = []
        for turn in range(15):
            began = time.perf_counter()
            act(turn)
            took.append(1000 * (time.perf_counter() - began))
        return float(np.median(took))

    ms = {
        "verdict": median_ms(lambda turn: case.decide(names[20 * turn], Verdict.ACCEPTED, "AB")),
        "undo": median_ms(lambda turn: case.undo()),
        "comment": median_ms(lambda turn: case.comment(names[turn], "vein")),
        "add": median_ms(lambda turn: case.add((float(turn), 2.0, 3.0))),
        "threshold": median_ms(lambda turn: case.set_threshold(0.9 if turn % 2 else FLOOR)),
    }
    record_property("milliseconds", {name: round(value, 1) for name, value in ms.items()})
    assert shown(case) == said(case)
    assert max(value for name, value in ms.items() if name != "threshold") < 50 * patience, ms
    assert ms["threshold"] < 100 * patience, ms
