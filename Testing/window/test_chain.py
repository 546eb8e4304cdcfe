"""From Load sample case to an exported table: the real worker, the bundled networks, and keys alone."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any


def test_a_newcomer_goes_from_the_sample_case_to_a_table_with_keys_alone(
    panel: Any, can_search: None, press: Any, wait: Any, tmp_path: Path
) -> None:
    press("Shift+L")
    assert panel.ui.swiSelector.currentNode().GetName() == "Sample SWI"
    assert panel.ui.phaseSelector.currentNode().GetName() == "Sample phase"
    assert panel.ui.detectButton.enabled, panel.ui.detectButton.toolTip

    press("Shift+D")
    assert panel.ui.detectButton.text == "Cancel"
    stages = set()

    def is_done() -> bool:
        stages.add(panel.ui.stageLabel.text.partition(",")[0])
        return not panel.search.isRunning

    wait(is_done, 300)
    assert {"Finding the brain's regions", "Preparing SWI and phase"} <= stages
    assert panel.ui.detectButton.text == "Detect CMBs"

    review = panel.review.case.review
    due = review.progress()[1]
    assert due >= 5
    assert panel.ui.reviewedLabel.text == f"0 of {due} reviewed"
    for done in range(due):
        assert panel.review.table.current is not None
        press("A" if done % 3 else "R")
        assert panel.ui.reviewedLabel.text == f"{done + 1} of {due} reviewed"

    table = tmp_path / "sample.csv"
    panel.ui.exportPathEdit.currentPath = str(table)
    press("Shift+E")
    assert str(table) in panel.ui.exportLabel.text
    with table.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["excluded"] == "no"]
    verdicts = [row["verdict"] for row in rows]
    assert verdicts == ["accepted" if done % 3 else "rejected" for done in range(due)]
    assert {row["reader"] for row in rows} == {"AB"} and all(row["decided_at"] for row in rows)
    assert {row["region"] for row in rows} == {"lobar", "deep", "infratentorial"}


def test_the_sample_case_can_be_had_from_sample_data(panel: Any, wait: Any, application: Any) -> None:
    import SampleData

    loaded = SampleData.downloadSamples("CMBDetectorSample")
    assert [node.GetName() for node in loaded] == ["Sample SWI", "Sample phase"]
    cache = Path(application.mrmlScene.GetCacheManager().GetRemoteCacheDirectory())  # of all modules
    assert len([*cache.glob("CMBDetector-*-swi.nii.gz"), *cache.glob("CMBDetector-*-phase.nii.gz")]) == 2
    wait(lambda: panel.ui.phaseSelector.currentNode() is not None)
    assert panel.ui.swiSelector.currentNode().GetName() == "Sample SWI"
    assert panel.ui.phaseSelector.currentNode().GetName() == "Sample phase"


def test_the_modules_own_test_passes_as_from_reload_and_test(panel: Any) -> None:
    import importlib

    importlib.import_module("CMBDetector").CMBDetectorTest().runTest()
