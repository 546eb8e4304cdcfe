"""A review lives in the scene: it survives saving, closing and reloading, and does not mix with another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from CMBDetectorLib.review import Marker, Verdict
from Testing.synthetic_result import BALLS, synthetic_result


def test_everything_survives_a_saved_scene(panel: Any, case: Any, press: Any, wait: Any, tmp_path: Path,
                                           application: Any) -> None:  # fmt: skip
    first, second, third = panel.review.table.order
    press("A")
    press("R")
    panel.ui.commentEdit.text = "look again"
    panel.review.comment()
    panel.ui.thresholdSlider.value = 0.5
    panel._parameterNode.zoomMm = 45
    bundle = str(tmp_path / "scene.mrb")
    assert application.mrmlScene.WriteToMRB(bundle)

    application.mrmlScene.Clear(False)
    application.app.processEvents()
    assert panel.review.case is None and panel.ui.reviewTable.rowCount == 0
    assert application.mrmlScene.ReadFromMRB(bundle)
    wait(lambda: panel.review.case is not None)
    again: Any = panel.review.case
    review = again.review
    assert [review[key].verdict for key in (first, second, third)] == [
        Verdict.ACCEPTED, Verdict.REJECTED, Verdict.UNDECIDED,
    ]  # fmt: skip
    assert review[third].comment == "look again" and review[first].reader == "AB"
    assert panel.ui.thresholdSlider.value == pytest.approx(0.5)
    assert panel.ui.zoomSpinBox.value == 45 and panel.ui.readerEdit.text == "AB"
    assert panel.ui.swiSelector.currentNode() is again.swi
    assert panel.review.table.current == third
    press("A")
    assert again.lists[Marker.ACCEPTED].GetNumberOfControlPoints() == 2


def test_a_closed_scene_leaves_an_empty_panel(panel: Any, case: Any, press: Any, application: Any) -> None:
    application.mrmlScene.Clear(False)
    application.app.processEvents()
    assert panel.review.case is None and panel.ui.reviewTable.rowCount == 0
    assert panel.ui.swiSelector.currentNode() is None and not panel.ui.detectButton.enabled
    for key in ("N", "B", "A", "R", "U", "Z", "H", "M", "S", "Shift+E"):
        press(key)
    assert panel.ui.checkLabel.text.startswith("Choose the SWI")


def test_a_reloaded_module_goes_on(panel: Any, case: Any, press: Any, wait: Any, application: Any) -> None:
    press("A")
    key = panel.review.table.order[0]
    panel.onReload()
    assert not panel.keys.areActive
    again = application.modules.cmbdetector.widgetRepresentation().self()
    assert again is not panel
    wait(lambda: again.review.case is not None)
    assert again.review.case.review[key].verdict.value == "accepted"
    assert again.ui.reviewedLabel.text == "1 of 3 reviewed"
    press("N")
    press("A")
    assert again.ui.reviewedLabel.text == "2 of 3 reviewed"


def test_two_cases_do_not_mix(panel: Any, case: Any, press: Any, wait: Any, volumes: Any, tmp_path: Path) -> None:
    from CMBDetectorLib.report import write_result
    from CMBDetectorLib.scene.case import show_result

    press("A")
    other = synthetic_result(balls=BALLS[:2])
    swi, phase = volumes(other, "other")
    show_result(write_result(other, tmp_path / "other", with_images=True), swi, phase)
    panel.ui.swiSelector.setCurrentNode(swi)
    wait(lambda: panel.review.case.swi is swi)
    assert panel.ui.reviewedLabel.text == "0 of 2 reviewed"
    press("R")
    panel.ui.swiSelector.setCurrentNode(case.swi)
    wait(lambda: panel.review.case.swi is case.swi)
    assert panel.ui.reviewedLabel.text == "1 of 3 reviewed"
    press("Z")  # what was done here before
    assert panel.ui.reviewedLabel.text == "0 of 3 reviewed"
    assert Path(panel.ui.exportPathEdit.currentPath).name == "case_SWI_microbleeds.csv"


def test_over_the_images_of_one_case_nothing_of_another_is_drawn(
    panel: Any, case: Any, wait: Any, another_case: Any
) -> None:
    def drawn(of: Any) -> list[bool]:
        nodes = (*of.lists.values(), of.segmentation)
        return [bool(node.GetDisplayNode().GetVisibility()) for node in nodes]

    swi, other = another_case()
    wait(lambda: not any(drawn(other)))  # it came while the first one was shown
    panel.ui.swiSelector.setCurrentNode(swi)
    wait(lambda: panel.review.node is other.node)
    assert all(drawn(other)) and not any(drawn(case))
    panel.ui.swiSelector.setCurrentNode(case.swi)
    wait(lambda: panel.review.node is case.node)
    assert all(drawn(case)) and not any(drawn(other))


def test_a_panel_that_was_given_up_changes_nothing_any_more(panel: Any, application: Any) -> None:
    import qt

    parent = application.qMRMLWidget()
    parent.setLayout(qt.QVBoxLayout())
    parent.setMRMLScene(application.mrmlScene)
    old = type(panel)(parent)
    old.setup()
    old.ui.zoomSpinBox.value = 40
    assert panel._parameterNode.zoomMm == 40
    old._onModuleAboutToBeUnloaded("CMBDetector")  # cleans it up, and keeps Slicer from doing so again at its exit
    old.ui.zoomSpinBox.value = 50
    assert panel._parameterNode.zoomMm == 40 == panel.ui.zoomSpinBox.value
    panel.ui.zoomSpinBox.value = 60
    assert old.ui.zoomSpinBox.value == 50
    parent.deleteLater()


@pytest.mark.parametrize("answer", ["yes", "no or Escape"])
def test_another_run_keeps_verdicts_and_asks_before_it_removes_one(
    panel: Any, case: Any, press: Any, tmp_path: Path, application: Any, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    from CMBDetectorLib.report import write_result

    asked: list[str] = []

    def answered(text: str) -> bool:
        asked.append(text)
        return answer == "yes"

    monkeypatch.setattr(application.util, "confirmYesNoDisplay", answered)
    first, second, third = panel.review.table.order
    press("A")
    press("R")
    again = synthetic_result(balls=(BALLS[0], BALLS[1]))
    panel.logic._folder = tmp_path
    write_result(again, tmp_path / "result", with_images=True, overwrite=True)
    panel.showResult(case.swi, case.phase, "auto")
    assert len(asked) == 1 and "not found again. Remove them?" in asked[0]
    review = panel.review.case.review
    assert panel.review.case.node is case.node
    assert review[first].verdict is Verdict.ACCEPTED
    assert (second in review) is (answer != "yes")
    assert answer == "yes" or (review[second].verdict is Verdict.REJECTED and not review[second].is_current)
    assert third in review
    panel.logic._folder = None


@pytest.mark.parametrize("answer", ["yes", "no or Escape"])
def test_a_comment_that_is_being_typed_when_a_search_ends_counts_as_one(
    panel: Any, case: Any, tmp_path: Path, application: Any, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    from CMBDetectorLib.report import write_result

    asked: list[str] = []

    def answered(text: str) -> bool:
        asked.append(text)
        return answer == "yes"

    monkeypatch.setattr(application.util, "confirmYesNoDisplay", answered)
    _, second, _ = panel.review.table.order
    panel.review.go(second)
    panel.ui.commentEdit.text = "look again"
    panel.logic._folder = tmp_path
    write_result(synthetic_result(balls=BALLS[:2]), tmp_path / "result", with_images=True, overwrite=True)
    panel.showResult(case.swi, case.phase, "auto")
    panel.logic._folder = None
    assert len(asked) == 1
    review = panel.review.case.review
    assert (second in review) is (answer != "yes")
    assert answer == "yes" or review[second].comment == "look again"
