"""What the reader does in the panel: keys, table, views, points, comments, files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from CMBDetectorLib.review import SHORTCUTS, Marker, Source, Verdict


def slice_node(application: Any, name: str) -> Any:
    return application.app.applicationLogic().GetSliceLogicByLayoutName(name).GetSliceNode()


def center(node: Any) -> list[float]:
    return [node.GetSliceToRAS().GetElement(row, 3) for row in range(3)]


def background(application: Any, name: str) -> Any:
    logic = application.app.applicationLogic().GetSliceLogicByLayoutName(name)
    return application.mrmlScene.GetNodeByID(logic.GetSliceCompositeNode().GetBackgroundVolumeID())


def shown(panel: Any) -> list[list[str]]:
    """All texts of the table, row by row."""
    table = panel.ui.reviewTable
    return [[table.item(row, column).text() for column in range(table.columnCount)] for row in range(table.rowCount)]


# Table and keys


def test_the_table_shows_every_reported_candidate_and_hides_excluded_ones(panel: Any, case: Any) -> None:
    rows = shown(panel)
    assert [row[0] for row in rows] == ["1", "2", "3"]
    assert rows[0][1:4] == ["undecided", "0.91", "lobar"]
    assert panel.ui.reviewedLabel.text == "0 of 3 reviewed"
    panel.ui.excludedCheckBox.click()
    assert [row[1] for row in shown(panel)].count("excluded") == 1


def test_a_verdict_moves_on_to_the_next_undecided_one(panel: Any, case: Any, press: Any) -> None:
    first, second, third = panel.review.table.order
    assert panel.review.table.current == first
    press("N")
    press("A")
    assert panel.review.table.current == third
    press("R")
    assert panel.review.table.current == first
    assert [case.review[key].verdict for key in (first, second, third)] == [
        Verdict.UNDECIDED, Verdict.ACCEPTED, Verdict.REJECTED,
    ]  # fmt: skip
    assert [row[1] for row in shown(panel)] == ["undecided", "accepted", "rejected"]
    assert panel.ui.reviewedLabel.text == "2 of 3 reviewed"


def test_keys_walk_around_the_table_and_undo_takes_back(panel: Any, case: Any, press: Any) -> None:
    first, _, third = panel.review.table.order
    press("B")
    assert panel.review.table.current == third
    press("N")
    assert panel.review.table.current == first
    press("A")
    press("B")
    press("U")
    assert case.review[first].verdict is Verdict.UNDECIDED and panel.review.table.current == first
    press("Z")
    assert case.review[first].verdict is Verdict.ACCEPTED
    press("Z")
    assert case.review[first].verdict is Verdict.UNDECIDED
    press("Z")
    assert "nothing to undo" in panel.ui.reviewMessageLabel.text


def test_keys_follow_the_order_of_the_table(panel: Any, case: Any, press: Any) -> None:
    panel.review.table.sortBy(6)  # the largest first
    sizes = [float(row[6]) for row in shown(panel)]
    assert sizes == sorted(sizes, reverse=True)
    panel.review.go(panel.review.table.order[0])
    press("N")
    assert panel.review.table.current == panel.review.table.order[1]
    panel.review.table.sortBy(6)
    assert [float(row[6]) for row in shown(panel)] == sorted(sizes)


def test_words_filter_the_table(panel: Any, case: Any) -> None:
    panel.ui.filterEdit.text = "cerebellum"
    assert [row[4] for row in shown(panel)] == ["cerebellum"]
    panel.ui.filterEdit.text = "cerebellum frontal"
    assert shown(panel) == []
    panel.ui.filterEdit.text = ""
    assert len(shown(panel)) == 3


def test_all_keys_do_something_only_while_the_module_is_shown(
    panel: Any, case: Any, press: Any, application: Any
) -> None:
    key = panel.review.table.current
    application.util.selectModule("Data" if hasattr(application.modules, "data") else "")
    assert not panel.keys.areActive
    press("A")
    assert case.review[key].verdict is Verdict.UNDECIDED
    application.util.selectModule("CMBDetector")
    assert panel.keys.areActive
    press("A")
    assert case.review[key].verdict is Verdict.ACCEPTED


def test_the_legend_is_the_table_of_keys(panel: Any) -> None:
    for shortcut in SHORTCUTS:
        assert f"<b>{shortcut.key}</b>" in panel.ui.legendLabel.text
        assert shortcut.description in panel.ui.legendLabel.text
    assert panel.ui.legendLabel.text.count("<b>") == len(SHORTCUTS)


def test_typing_a_comment_is_not_taken_for_keys(panel: Any, case: Any, press: Any) -> None:
    import qt

    if not hasattr(qt, "stand_in"):
        pytest.skip("Slicer's Python sends no key events")
    key = panel.review.table.current
    panel.ui.commentEdit.setFocus()
    for letter in ("A", "R", "N"):
        press(letter)
    assert case.review[key].verdict is Verdict.UNDECIDED and panel.review.table.current == key
    assert panel.ui.commentEdit.text.upper() == "ARN"
    press("Return")
    assert case.review[key].comment.upper() == "ARN"
    press("A")
    assert case.review[key].verdict is Verdict.ACCEPTED


def test_a_comment_stays_with_its_finding(panel: Any, case: Any, press: Any) -> None:
    key = panel.review.table.current
    panel.ui.commentEdit.text = "near a vein"
    panel.review.comment()
    press("N")
    assert panel.ui.commentEdit.text == ""
    assert case.review[key].comment == "near a vein"
    press("B")
    assert panel.ui.commentEdit.text == "near a vein"
    assert shown(panel)[0][8] == "near a vein"


# Views


def test_a_row_centers_all_views_at_a_fixed_zoom(panel: Any, case: Any, application: Any) -> None:
    panel._parameterNode.zoomMm = 60
    panel.ui.reviewTable.setCurrentCell(1, 0)
    place = case.review[panel.review.table.order[1]].position_ras_mm
    for name in ("Red", "CMBPhase", "Yellow", "Green"):
        node = slice_node(application, name)
        assert center(node) == pytest.approx(place, abs=1e-3)
        assert min(node.GetFieldOfView()[:2]) == pytest.approx(60, rel=1e-3)
        width, height = node.GetDimensions()[:2]
        assert node.GetFieldOfView()[0] / width == pytest.approx(node.GetFieldOfView()[1] / height)


def test_swi_and_phase_stand_side_by_side_and_swap(panel: Any, case: Any, press: Any, application: Any) -> None:
    assert background(application, "Red") is case.swi
    assert background(application, "CMBPhase") is case.phase_filtered
    press("S")
    assert background(application, "Red") is case.phase_filtered
    assert background(application, "CMBPhase") is case.swi
    press("S")
    assert background(application, "Green") is case.swi
    composite = application.app.applicationLogic().GetSliceLogicByLayoutName("Red").GetSliceCompositeNode()
    assert composite.GetLinkedControl() and composite.GetHotLinkedControl()


def test_minip_shows_a_slab_of_swi_and_never_of_phase(panel: Any, case: Any, press: Any, application: Any) -> None:
    import vtk

    press("M")
    red = slice_node(application, "Red")
    assert red.GetSlabReconstructionEnabled() and red.GetSlabReconstructionType() == vtk.VTK_IMAGE_SLAB_MIN
    assert red.GetSlabReconstructionThickness() == 10
    assert not slice_node(application, "CMBPhase").GetSlabReconstructionEnabled()
    press("S")
    assert not slice_node(application, "Red").GetSlabReconstructionEnabled()
    assert slice_node(application, "CMBPhase").GetSlabReconstructionEnabled()
    press("S")
    press("M")
    assert not slice_node(application, "Red").GetSlabReconstructionEnabled()


def test_a_key_hides_the_markers_and_shows_them_again(panel: Any, case: Any, press: Any) -> None:
    press("H")
    assert not any(node.GetDisplayNode().GetVisibility() for node in case.lists.values())
    press("H")
    assert all(node.GetDisplayNode().GetVisibility() for node in case.lists.values())


def test_the_regions_are_three_groups_or_thirteen(panel: Any, case: Any, wait: Any) -> None:
    def visible() -> int:
        display = case.segmentation.GetDisplayNode()
        ids = case.segmentation.GetSegmentation().GetSegmentIDs()
        return sum(display.GetSegmentVisibility(segment) for segment in ids)

    groups = visible()
    panel.ui.subRegionsCheckBox.checked = True
    wait(lambda: visible() != groups)
    panel.ui.subRegionsCheckBox.checked = False
    wait(lambda: visible() == groups)


# Points


def test_a_click_on_a_point_selects_its_row(panel: Any, case: Any) -> None:
    import slicer

    key = panel.review.table.order[2]
    node, index = case.point_of(key)
    node.GetDisplayNode().SetActiveControlPoint(index)
    node.InvokeEvent(slicer.vtkMRMLMarkupsNode.PointStartInteractionEvent)
    assert panel.review.table.current == key
    assert panel.ui.findingLabel.text.startswith("<b>3</b>")
    assert "deep or lobar, basal ganglia (55% of the tissue), " in panel.ui.findingLabel.text


def test_the_table_names_both_regions_at_a_border_and_a_filter_finds_it_by_either(panel: Any, case: Any) -> None:
    assert [row[3] for row in shown(panel)] == ["lobar", "infratentorial", "deep or lobar"]
    panel.ui.filterEdit.text = "lobar"
    assert [row[0] for row in shown(panel)] == ["1", "3"]
    panel.ui.filterEdit.text = ""


def test_away_from_borders_the_panel_names_one_region(panel: Any, case: Any) -> None:
    import slicer

    node, index = case.point_of(panel.review.table.order[0])
    node.GetDisplayNode().SetActiveControlPoint(index)
    node.InvokeEvent(slicer.vtkMRMLMarkupsNode.PointStartInteractionEvent)
    assert panel.ui.findingLabel.text.startswith("<b>1</b>")
    assert "lobar, frontal (71% of the tissue), " in panel.ui.findingLabel.text
    assert " or " not in panel.ui.findingLabel.text


def test_a_dragged_point_is_kept_beside_the_detectors_and_can_be_put_back(
    panel: Any, case: Any, wait: Any, application: Any
) -> None:
    key = panel.review.table.order[0]
    detected = case.review[key].candidate.center_ras_mm
    node, index = case.point_of(key)
    there = tuple(np.add(detected, (2.0, -1.0, 0.0)))
    node.SetNthControlPointPositionWorld(index, there)
    node.InvokeEvent(application.vtkMRMLMarkupsNode.PointEndInteractionEvent)
    wait(lambda: case.review[key].is_moved)
    assert case.review[key].position_ras_mm == pytest.approx(there, abs=1e-3)
    assert case.review[key].candidate.center_ras_mm == detected
    assert panel.ui.putBackButton.enabled
    panel.ui.putBackButton.click()
    assert not case.review[key].is_moved
    node, index = case.point_of(key)
    assert node.GetNthControlPointPositionWorld(index) == pytest.approx(detected, abs=1e-3)


def test_a_missed_microbleed_is_added_with_a_click(panel: Any, case: Any, wait: Any, application: Any) -> None:
    panel.ui.addButton.click()
    logic = application.app.applicationLogic()
    interaction = logic.GetInteractionNode()
    assert interaction.GetCurrentInteractionMode() == interaction.Place
    placing = application.mrmlScene.GetNodeByID(logic.GetSelectionNode().GetActivePlaceNodeID())
    missed = case.review.record.candidates[-1]  # below the threshold
    placing.AddControlPoint(missed.center_ras_mm)
    wait(lambda: any(f.source is Source.READER for f in case.review.findings))
    added = next(f for f in case.review.findings if f.source is Source.READER)
    assert added.verdict is Verdict.ACCEPTED and added.reader == "AB"
    assert added.location is not None and added.location.sub_region_name == "cerebellum"  # as segmented there
    assert added.diameter_mm == pytest.approx(missed.diameter_mm, abs=1.5)
    assert panel.review.table.current == added.key
    assert shown(panel)[-1][0] == "R1"
    assert panel.ui.removeButton.enabled
    panel.ui.removeButton.click()
    assert added.key not in case.review
    interaction.SetCurrentInteractionMode(interaction.ViewTransform)


def is_placing(application: Any) -> bool:
    interaction = application.app.applicationLogic().GetInteractionNode()
    return bool(interaction.GetCurrentInteractionMode() == interaction.Place)


def added(case: Any) -> list[Any]:
    return [finding for finding in case.review.findings if finding.source is Source.READER]


def test_a_click_that_was_asked_for_in_one_case_is_not_taken_in_another(
    panel: Any, case: Any, another_case: Any, wait: Any, place: Any, application: Any
) -> None:
    swi, other = another_case()
    panel.ui.addButton.click()
    place(case.review.record.candidates[-1].center_ras_mm)
    panel._parameterNode.swi = swi
    panel.update()  # before the click was taken
    assert panel.review.node is other.node and not is_placing(application)
    assert len(added(case)) == 1 and not added(other)
    assert panel.ui.reviewMessageLabel.text == ""


def test_no_click_is_waited_for_once_another_module_is_shown(panel: Any, case: Any, application: Any) -> None:
    panel.ui.addButton.click()
    assert is_placing(application)
    application.util.selectModule("Data" if hasattr(application.modules, "data") else "")
    assert not is_placing(application)


def test_a_point_that_was_placed_while_nobody_watched_is_taken_when_the_case_is_shown(
    panel: Any, case: Any, another_case: Any, wait: Any
) -> None:
    swi, other = another_case()
    missed = other.review.record.candidates[0].center_ras_mm
    node = other.lists[Marker.ACCEPTED]
    node.SetNthControlPointDescription(node.AddControlPoint(np.add(missed, 5.0)), "")
    panel.ui.swiSelector.setCurrentNode(swi)
    wait(lambda: panel.review.node is other.node)
    assert [finding.reader for finding in added(panel.review.case)] == ["AB"]


def test_what_to_click_is_said_only_while_a_click_is_waited_for(panel: Any, case: Any, application: Any) -> None:
    interaction = application.app.applicationLogic().GetInteractionNode()
    panel.ui.addButton.click()
    assert "Click on the microbleed" in panel.ui.reviewMessageLabel.text
    interaction.SetCurrentInteractionMode(interaction.ViewTransform)  # as a right-click does
    assert panel.ui.reviewMessageLabel.text == ""
    panel.ui.addButton.click()
    panel.ui.addButton.click()
    assert not is_placing(application) and panel.ui.reviewMessageLabel.text == ""


def test_points_of_a_list_that_was_removed_come_back_and_are_watched(
    panel: Any, case: Any, press: Any, wait: Any, application: Any
) -> None:
    press("A")
    application.mrmlScene.RemoveNode(case.lists[Marker.UNDECIDED])
    press("A")
    key = panel.review.table.current
    node, index = case.point_of(key)
    node.SetNthControlPointPositionWorld(index, np.add(case.review[key].position_ras_mm, (2.0, 0.0, 0.0)))
    node.InvokeEvent(application.vtkMRMLMarkupsNode.PointEndInteractionEvent)
    wait(lambda: case.review[key].is_moved)


def test_a_case_that_was_removed_while_shown_takes_no_more_verdicts(
    panel: Any, case: Any, press: Any, wait: Any, messages: list[str], application: Any
) -> None:
    application.mrmlScene.RemoveNode(case.node)
    panel.review.accept()
    panel.review.undo()
    panel.ui.thresholdSlider.value = 0.5
    wait(lambda: panel.ui.reviewTable.rowCount == 0)
    press("A")
    assert messages == [] and panel.ui.reviewCollapsibleButton.collapsed


# Who reads


def test_the_initials_of_the_reader_outlive_the_scene_and_the_panel(
    panel: Any, case: Any, press: Any, application: Any
) -> None:
    panel.ui.readerEdit.text = "CD"
    application.mrmlScene.Clear(False)
    application.app.processEvents()
    assert panel.ui.readerEdit.text == "CD"
    panel.onReload()
    assert application.modules.cmbdetector.widgetRepresentation().self().ui.readerEdit.text == "CD"


def test_a_verdict_without_initials_asks_for_them(panel: Any, case: Any, press: Any) -> None:
    panel.ui.readerEdit.text = ""
    press("A")
    assert "initials" in panel.ui.reviewMessageLabel.text
    panel.ui.readerEdit.text = "CD"
    assert panel.ui.reviewMessageLabel.text == ""
    key = panel.review.table.current
    press("A")
    assert case.review[key].reader == "CD" and panel.ui.reviewMessageLabel.text == ""


def test_the_cursor_stays_where_the_reader_types(panel: Any, case: Any) -> None:
    panel.ui.readerEdit.cursorPosition = 1
    panel._parameterNode.zoomMm = 33
    assert panel.ui.readerEdit.cursorPosition == 1


# Threshold and files


def test_the_slider_filters_at_once_and_takes_no_verdict_back(panel: Any, case: Any, press: Any) -> None:
    lowest = panel.review.table.order[-1]
    panel.review.go(lowest)
    press("A")
    panel.ui.thresholdSlider.value = 0.85
    assert [row[0] for row in shown(panel)] == ["1", "3"]
    panel.ui.thresholdSlider.value = 0.15
    assert len(shown(panel)) == 4
    assert sum(node.GetNumberOfControlPoints() for node in case.lists.values()) == 4


def test_an_exported_review_comes_back(
    panel: Any, case: Any, press: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = panel.review.table.order
    assert Path(panel.ui.exportPathEdit.currentPath).name == "case_SWI_microbleeds.csv"
    press("A")
    press("R")
    panel.ui.commentEdit.text = "unsure"
    panel.review.comment()
    panel.ui.exportPathEdit.currentPath = str(tmp_path / "review.csv")
    panel.ui.exportButton.click()
    for _ in range(3):
        press("Z")
    assert not any(case.review[key].is_touched for key in (first, second, third))
    monkeypatch.setattr(panel.review, "chooseTable", lambda: str(tmp_path / "review.csv"))
    panel.ui.importButton.click()
    assert "Restored 4 findings" in panel.ui.exportLabel.text
    assert [case.review[key].verdict for key in (first, second, third)] == [
        Verdict.ACCEPTED, Verdict.REJECTED, Verdict.UNDECIDED,
    ]  # fmt: skip
    assert case.review[third].comment == "unsure"
    assert case.lists[Marker.ACCEPTED].GetNumberOfControlPoints() == 1


def test_a_table_that_cannot_be_read_changes_nothing_and_says_why(
    panel: Any, case: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("a,b\n1,2\n")
    monkeypatch.setattr(panel.review, "chooseTable", lambda: str(wrong))
    with pytest.raises(Exception, match="not an exported review"):
        panel.review.importTable()
    assert case.review.progress() == (0, 3)


@pytest.fixture
def asked(application: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Questions that were answered with Cancel, as Escape does."""
    questions: list[str] = []

    def refuse(text: str) -> bool:
        questions.append(text)
        return False

    monkeypatch.setattr(application.util, "confirmOkCancelDisplay", refuse)
    return questions


def test_the_table_of_one_patient_never_replaces_that_of_another_unasked(
    panel: Any, case: Any, another_case: Any, wait: Any, asked: list[str], tmp_path: Path, application: Any
) -> None:
    table = tmp_path / "case_SWI_microbleeds.csv"
    panel.ui.exportPathEdit.currentPath = str(table)
    panel.ui.exportButton.click()
    panel.ui.exportButton.click()
    assert asked == []  # it is this table
    before = table.read_text()
    application.mrmlScene.Clear(False)
    swi, _ = another_case("case")
    panel.ui.swiSelector.setCurrentNode(swi)
    wait(lambda: panel.review.case is not None)
    assert panel.ui.exportPathEdit.currentPath == str(table)  # the same name in the same folder
    panel.ui.exportButton.click()
    assert len(asked) == 1 and "no review of this scan" in asked[0]
    assert table.read_text() == before and "Nothing was saved" in panel.ui.exportLabel.text


def test_the_table_of_another_reader_of_the_same_scan_is_not_replaced_unasked(
    panel: Any, case: Any, asked: list[str], tmp_path: Path
) -> None:
    from CMBDetectorLib.report.review_table import write_review

    table = tmp_path / "table.csv"
    write_review(case.review, table)
    before = table.read_text()
    panel.ui.exportPathEdit.currentPath = str(table)
    panel.ui.acceptButton.click()
    panel.ui.exportButton.click()
    assert len(asked) == 1 and "review of this scan already" in asked[0]
    assert table.read_text() == before


def test_each_case_has_a_file_name_of_its_own(panel: Any, case: Any, another_case: Any, wait: Any) -> None:
    panel.ui.exportPathEdit.currentPath = str(Path.home() / "case_SWI_microbleeds of the first reader.csv")
    swi, other = another_case("case SWI microbleeds")
    panel.ui.swiSelector.setCurrentNode(swi)
    wait(lambda: panel.review.node is other.node)
    assert Path(panel.ui.exportPathEdit.currentPath).name == "case_SWI_microbleeds_SWI_microbleeds.csv"
    panel.ui.swiSelector.setCurrentNode(case.swi)
    wait(lambda: panel.review.node is case.node)
    assert Path(panel.ui.exportPathEdit.currentPath).name == "case_SWI_microbleeds.csv"


def test_without_a_file_name_nothing_is_saved_and_the_panel_says_what_to_do(
    panel: Any, case: Any, messages: list[str]
) -> None:
    panel.ui.exportPathEdit.currentPath = ""
    panel.ui.exportButton.click()
    assert len(messages) == 1 and "no file name" in messages[0]


def test_a_load_that_is_called_off_changes_nothing(
    panel: Any, case: Any, messages: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(panel.review, "chooseTable", lambda: "")
    panel.ui.importButton.click()
    assert messages == [] and panel.ui.exportLabel.text == "" and not case.review.can_undo


def test_the_summary_goes_to_the_clipboard(panel: Any, case: Any, press: Any, application: Any) -> None:
    press("A")
    panel.ui.copyButton.click()
    text = application.app.clipboard().text()
    assert "lobar" in text and "1" in text
    assert "clipboard" in panel.ui.exportLabel.text


def test_a_shown_case_needs_no_hint(panel: Any, case: Any, application: Any) -> None:
    assert panel.ui.reviewTable.visible and not panel.ui.reviewHintLabel.visible
    assert not panel.ui.reviewCollapsibleButton.collapsed and panel.ui.inputsCollapsibleButton.collapsed
    application.mrmlScene.Clear(False)
    application.app.processEvents()
    assert panel.ui.reviewCollapsibleButton.collapsed and not panel.ui.inputsCollapsibleButton.collapsed
    panel.ui.reviewCollapsibleButton.collapsed = False
    assert panel.ui.reviewHintLabel.visible


def test_a_comment_that_was_typed_and_not_entered_is_kept_with_the_verdict(panel: Any, case: Any) -> None:
    key = panel.review.table.current
    panel.ui.commentEdit.text = "typical"
    panel.ui.acceptButton.click()
    assert case.review[key].comment == "typical" and case.review[key].verdict is Verdict.ACCEPTED
    assert panel.review.table.current != key and panel.ui.commentEdit.text == ""


@pytest.mark.parametrize("act", ["export", "undo", "threshold", "filter", "point", "case"])
def test_a_comment_that_was_typed_and_not_entered_is_kept_whatever_comes_next(
    panel: Any, case: Any, another_case: Any, tmp_path: Path, application: Any, act: str
) -> None:
    first, second, _ = panel.review.table.order
    panel.ui.commentEdit.text = "typical"
    if act == "export":
        panel.ui.exportPathEdit.currentPath = str(tmp_path / "table.csv")
        panel.ui.exportButton.click()
        assert "typical" in (tmp_path / "table.csv").read_text()
    elif act == "undo":
        case.decide(second, Verdict.ACCEPTED)
        panel.ui.undoButton.enabled = True
        panel.ui.undoButton.click()
        assert case.review[second].is_decided  # the comment was the last change
        return
    elif act == "threshold":
        panel.ui.thresholdSlider.value = 0.5
    elif act == "filter":
        panel.ui.filterEdit.text = "cerebellum"
    elif act == "point":
        node, index = case.point_of(second)
        node.GetDisplayNode().SetActiveControlPoint(index)
        node.InvokeEvent(application.vtkMRMLMarkupsNode.PointStartInteractionEvent)
        assert panel.review.table.current == second
    else:
        panel._parameterNode.swi, _ = another_case()
        panel.update()
    assert case.review[first].comment == "typical"


def test_a_damaged_review_says_so_and_its_images_are_checked_all_the_same(
    panel: Any, case: Any, another_case: Any, messages: list[str], wait: Any
) -> None:
    swi, other = another_case()
    other.node.SetText("{}")
    panel.ui.swiSelector.setCurrentNode(swi)
    wait(lambda: panel.review.case is None)
    assert panel.ui.reviewHintLabel.visible and "Nothing to review yet" not in panel.ui.reviewHintLabel.text
    assert panel._checked == panel.logic.state(swi, panel._parameterNode.phase, False) and messages == []
    panel.ui.swiSelector.setCurrentNode(case.swi)
    wait(lambda: panel.review.node is case.node)


def test_what_goes_wrong_at_a_slider_or_a_point_is_shown_in_words(
    panel: Any, case: Any, messages: list[str], application: Any
) -> None:
    node, index = case.point_of(panel.review.table.order[1])
    node.GetDisplayNode().SetActiveControlPoint(index)
    case.node.SetText("{}")
    for act in (
        lambda: setattr(panel.ui.thresholdSlider, "value", 0.5),
        panel.ui.excludedCheckBox.click,
        lambda: setattr(panel.ui.filterEdit, "text", "lobar"),
        lambda: node.InvokeEvent(application.vtkMRMLMarkupsNode.PointStartInteractionEvent),
    ):
        messages.clear()
        act()
        assert len(messages) == 1, act


def test_what_goes_wrong_is_shown_once_and_in_words(panel: Any, case: Any, messages: list[str], tmp_path: Path) -> None:
    panel.ui.exportPathEdit.currentPath = str(tmp_path / "no such folder" / "table.csv")
    panel.ui.exportButton.click()
    assert len(messages) == 1 and "cannot be written" in messages[0]
    assert panel.ui.exportLabel.text == ""


def test_the_views_show_the_planes_that_were_scanned_and_the_same_of_swi_and_phase(
    panel: Any, volumes: Any, wait: Any, tmp_path: Path, application: Any
) -> None:
    import vtk

    from CMBDetectorLib.report import write_result
    from CMBDetectorLib.scene.case import show_result
    from Testing.synthetic_result import synthetic_result

    result = synthetic_result(tilt_deg=17.0)
    swi, phase = volumes(result, "oblique")
    application.app.applicationLogic().GetSelectionNode().SetActiveVolumeID(swi.GetID())
    application.app.applicationLogic().PropagateVolumeSelection()
    show_result(write_result(result, tmp_path / "oblique", with_images=True), swi, phase)
    panel._parameterNode.swi, panel._parameterNode.phase = swi, phase
    wait(lambda: panel.review.case is not None)

    def turn(name: str) -> np.ndarray:
        matrix: vtk.vtkMatrix4x4 = slice_node(application, name).GetSliceToRAS()
        columns = np.array([[matrix.GetElement(row, column) for column in range(3)] for row in range(3)])
        return columns / np.linalg.norm(columns, axis=0)

    assert turn("Red") == pytest.approx(turn("CMBPhase"), abs=1e-6)
    scanned = result.swi.ijk_to_ras[:3, :3] / result.swi.spacing_mm
    for name, axis in (("Red", 2), ("Yellow", 0), ("Green", 1)):
        assert abs(turn(name)[:, 2] @ scanned[:, axis]) == pytest.approx(1.0, abs=1e-6), name
