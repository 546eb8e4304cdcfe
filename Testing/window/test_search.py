"""The search in a child process: cancelled, killed, refused, or overtaken by the scene. Always the real worker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("can_search")


def is_alive(process_id: int) -> bool:
    if sys.platform == "win32":  # there, asking by a signal would end it
        asked = ["tasklist", "/FI", f"PID eq {process_id}", "/FO", "CSV", "/NH"]
        return f'"{process_id}"' in subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    try:
        os.kill(process_id, 0)
    except OSError:
        return False
    status = Path(f"/proc/{process_id}/status")
    return not status.exists() or "State:\tZ" not in status.read_text()  # a zombie has ended


def nodes(application: Any) -> set[str]:
    scene = application.mrmlScene
    return {scene.GetNthNode(index).GetID() for index in range(scene.GetNumberOfNodes())}


@pytest.fixture
def running(panel: Any, scan: Any, wait: Any) -> Any:
    """A search that has begun to work."""
    panel.ui.detectButton.click()
    wait(lambda: panel.search.workerProcessId and "region" in panel.ui.stageLabel.text, 120)
    return panel


def test_the_window_stays_live_while_it_searches(
    panel: Any, wait: Any, application: Any, patience: float, record_property: Callable[[str, object], None]
) -> None:
    panel.ui.sampleButton.click()
    begun = time.monotonic()
    panel.ui.detectButton.click()
    assert time.monotonic() - begun < 2 * patience  # writing the images for the worker
    longest = 0.0
    while panel.ui.progressBar.value < 300 and panel.search.isRunning:
        begun = time.monotonic()
        application.app.processEvents()
        longest = max(longest, time.monotonic() - begun)
        time.sleep(0.002)
    record_property("milliseconds", round(1000 * longest))
    assert longest < 0.25 * patience
    panel.ui.detectButton.click()
    wait(lambda: not panel.search.isRunning)


def test_cancel_frees_the_machine_within_two_seconds_and_leaves_the_scene(
    running: Any, wait: Any, application: Any
) -> None:
    before, worker, folder = nodes(application), running.search.workerProcessId, running.logic.resultFolder.parent
    asked = time.monotonic()
    running.ui.detectButton.click()
    wait(lambda: not running.search.isRunning and not is_alive(worker), 2.0)
    assert time.monotonic() - asked < 2.0
    assert "Cancelled" in running.ui.stageLabel.text and running.ui.detectButton.text == "Detect CMBs"
    assert running.ui.detectButton.enabled and not running.ui.progressBar.visible
    assert nodes(application) == before and not folder.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="the launcher of this test is a shell script")
def test_cancel_reaches_a_worker_behind_a_launcher(
    panel: Any, wait: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from CMBDetectorWindow.search import pythonExecutable

    launcher = tmp_path / "PythonSlicer"  # as CTK's: it starts Python as its child and hands stdin to nobody
    launcher.write_text(f'#!/bin/sh\n(sleep 600 | "{pythonExecutable()}" "$@") &\nwait\n')
    launcher.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert pythonExecutable() == str(launcher)
    panel.ui.sampleButton.click()
    panel.ui.detectButton.click()
    wait(lambda: panel.search.workerProcessId and panel.ui.progressBar.value > 0, 120)
    worker = panel.search.workerProcessId
    panel.ui.detectButton.click()
    wait(lambda: not panel.search.isRunning and not is_alive(worker), 2.0)
    assert "Cancelled" in panel.ui.stageLabel.text


def test_a_killed_worker_says_what_happened_and_leaves_the_scene(
    running: Any, wait: Any, application: Any, messages: list[str]
) -> None:
    before, folder = nodes(application), running.logic.resultFolder.parent
    os.kill(running.search.workerProcessId, getattr(signal, "SIGKILL", signal.SIGTERM))
    wait(lambda: not running.search.isRunning)
    assert "ended from outside" in running.ui.stageLabel.text and "memory" in running.ui.stageLabel.text
    assert messages == [running.ui.stageLabel.text]
    assert running.ui.detectButton.text == "Detect CMBs" and running.ui.detectButton.enabled
    assert nodes(application) == before and not folder.exists()
    running.ui.detectButton.click()
    wait(lambda: running.search.workerProcessId, 120)
    assert running.search.isRunning and len(messages) == 1
    running.ui.detectButton.click()
    wait(lambda: not running.search.isRunning)


@pytest.mark.skipif(sys.platform == "win32", reason="no process can be halted there")
def test_a_search_survives_sleep_and_needs_no_plain_name_for_its_temporary_folder(
    panel: Any, scan: Any, wait: Any, messages: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strange = tmp_path / "Größe 大脑 it's"
    strange.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(strange))
    scan.SetName("Größe 大脑 / " + 300 * "n")
    panel.ui.detectButton.click()
    assert panel.logic.resultFolder.is_relative_to(strange)
    wait(lambda: panel.search.workerProcessId and "region" in panel.ui.stageLabel.text, 120)
    os.kill(panel.search.workerProcessId, signal.SIGSTOP)
    with pytest.raises(AssertionError, match="not within"):
        wait(lambda: not panel.search.isRunning, 3.0)
    os.kill(panel.search.workerProcessId, signal.SIGCONT)
    wait(lambda: not panel.search.isRunning, 120)
    assert panel.review.case is not None and panel.review.case.swi is scan, panel.ui.stageLabel.text
    assert messages == [] and list(strange.iterdir()) == []


def test_a_worker_that_refuses_says_why(panel: Any, wait: Any) -> None:
    panel.ui.sampleButton.click()
    panel._parameterNode.device = "cuda"
    panel.ui.detectButton.click()
    wait(lambda: not panel.search.isRunning, 120)
    if panel.review.case is None:
        assert "GPU" in panel.ui.stageLabel.text
    else:
        assert "cpu" not in panel.ui.stageLabel.text


@pytest.mark.skipif(sys.platform == "win32", reason="there, a file that cannot start is not found either")
def test_a_python_that_cannot_start_says_so(
    panel: Any, wait: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher = tmp_path / "PythonSlicer"
    launcher.write_text("#!/nowhere/python\n")
    launcher.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    panel.ui.sampleButton.click()
    panel.ui.detectButton.click()
    wait(lambda: not panel.search.isRunning)
    assert "could not be started" in panel.ui.stageLabel.text
    assert panel.ui.detectButton.text == "Detect CMBs"


def test_a_search_that_fails_while_it_is_started_as_on_windows_leaves_nothing_behind(
    panel: Any, messages: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from CMBDetectorWindow.search import Outcome

    panel.ui.sampleButton.click()
    failed = Outcome("error", "It could not be started.")
    monkeypatch.setattr(panel.search, "start", lambda *_: panel.showOutcome(failed))
    panel.ui.detectButton.click()
    assert messages == [failed.message] == [panel.ui.stageLabel.text]
    assert not panel.ui.progressBar.visible and not panel._clock.active


def test_slicer_itself_is_never_started_as_if_it_were_python(
    panel: Any, messages: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "SlicerApp-real"))
    panel.ui.sampleButton.click()
    panel.ui.detectButton.click()
    assert len(messages) == 1 and "PythonSlicer" in messages[0]
    assert not panel.search.isRunning and panel.ui.detectButton.text == "Detect CMBs"


@pytest.mark.skipif(sys.platform == "win32", reason="no process can be halted there")
def test_a_worker_that_does_not_answer_holds_nothing_up_when_the_scene_is_closed(
    running: Any, wait: Any, application: Any
) -> None:
    worker, folder = running.search.workerProcessId, running.logic.resultFolder.parent
    os.kill(worker, signal.SIGSTOP)
    begun = time.monotonic()
    application.mrmlScene.Clear(False)
    assert time.monotonic() - begun < 1.0
    wait(lambda: not is_alive(worker) and not folder.exists(), 2.0)


def test_a_scene_closed_meanwhile_ends_the_search(running: Any, wait: Any, application: Any) -> None:
    worker = running.search.workerProcessId
    application.mrmlScene.Clear(False)
    wait(lambda: not is_alive(worker), 2.0)
    assert not running.search.isRunning
    assert running.ui.detectButton.text == "Detect CMBs" and not running.ui.detectButton.enabled
    assert application.mrmlScene.GetNumberOfNodesByClass("vtkMRMLMarkupsFiducialNode") == 0
    running.ui.sampleButton.click()
    assert running.ui.detectButton.enabled


def test_a_result_for_another_scan_than_the_one_shown_waits_for_its_reader(
    panel: Any, wait: Any, case: Any, scan: Any, application: Any
) -> None:
    other = case.swi
    panel.ui.detectButton.click()
    panel.ui.swiSelector.setCurrentNode(other)
    wait(lambda: panel.review.case is not None and panel.review.case.swi is other)
    application.util.selectModule("Data")
    wait(lambda: not panel.search.isRunning, 300)
    assert panel.ui.stageLabel.text.startswith("Small SWI: ")
    application.util.selectModule("CMBDetector")
    wait(lambda: panel.review.case is not None)
    assert panel.review.case.swi is other and panel.ui.reviewedLabel.text == "0 of 3 reviewed"
    panel.ui.swiSelector.setCurrentNode(scan)
    wait(lambda: panel.review.case.swi is scan)
    assert panel.review.case.review.progress()[1] >= 1


def test_an_swi_removed_meanwhile_drops_the_result(running: Any, wait: Any, application: Any) -> None:
    application.mrmlScene.RemoveNode(running.ui.swiSelector.currentNode())
    wait(lambda: not running.search.isRunning, 300)
    assert "removed" in running.ui.stageLabel.text
    assert application.mrmlScene.GetNumberOfNodesByClass("vtkMRMLMarkupsFiducialNode") == 0


def test_where_the_gpu_has_too_little_memory_the_cpu_searches_and_the_panel_says_so(panel: Any, wait: Any) -> None:
    from CMBDetectorLib.errors import DeviceMemoryError
    from CMBDetectorWindow.search import Outcome

    panel.ui.sampleButton.click()
    swi, phase = panel._parameterNode.swi, panel._parameterNode.phase
    panel._request = (swi, phase, "auto")
    panel.showOutcome(Outcome("error", "The memory of the GPU does not suffice.", DeviceMemoryError.exit_code))
    assert panel.search.isRunning and panel._request == (swi, phase, "cpu")
    assert "searching on the CPU" in panel.ui.stageLabel.text
    assert '"device": "cpu"' in (panel.logic.resultFolder.parent / "request.json").read_text()
    panel.ui.detectButton.click()
    wait(lambda: not panel.search.isRunning)
    panel._request = (swi, phase, "cuda")  # asked for by name: then it is for the user to decide
    panel.showOutcome(Outcome("error", "The memory of the GPU does not suffice.", DeviceMemoryError.exit_code))
    assert not panel.search.isRunning and "GPU" in panel.ui.stageLabel.text
