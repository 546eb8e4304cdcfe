"""The child process: its events, its errors and how it stops, always with the real process."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from CMBDetectorLib.errors import DeviceMemoryError, InputError, OutOfMemoryError
from CMBDetectorLib.interruption import abandon, cleared_away
from CMBDetectorLib.request import DetectionRequest
from CMBDetectorLib.worker import perform
from Testing.small_scan import SAMPLE, Scan
from Testing.worker_process import last_event, start_worker, wait_for_stage


def start(folder: Path, scan: Scan, **asked: Any) -> subprocess.Popen[str]:
    return start_worker(folder / "request.json", swi=scan.swi, phase=scan.phase, out=folder / "out", **asked)


@pytest.mark.parametrize("stage", ["read", "localize", "detect", "report"])
def test_a_line_on_stdin_stops_the_worker_within_two_seconds_and_leaves_nothing(tmp_path, small_scan, stage):
    scan = SAMPLE if stage in ("read", "localize") else small_scan  # steps that take longer than it may take
    process = start(tmp_path, scan)
    wait_for_stage(process, stage)
    asked = time.monotonic()
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("cancel\n")
    process.stdin.flush()
    events = [json.loads(line) for line in process.stdout]
    assert process.wait(timeout=10) == 130
    assert time.monotonic() - asked < 2.0
    assert events[-1]["event"] == "cancelled"
    assert [path.name for path in tmp_path.iterdir()] == ["request.json"]


def test_the_first_event_names_the_process_that_works(tmp_path):
    process = start(tmp_path, SAMPLE)
    assert process.stdout is not None and process.stdin is not None
    assert json.loads(process.stdout.readline()) == {"event": "started", "process_id": process.pid}
    process.stdin.close()
    process.wait(timeout=10)


@pytest.mark.parametrize(
    ("problem", "error"),
    [(RuntimeError("CUDA out of memory. Tried"), DeviceMemoryError), (MemoryError(), OutOfMemoryError)],
)
def test_want_of_memory_on_the_gpu_is_told_from_that_of_the_machine(tmp_path, monkeypatch, problem, error):
    def run(*_):
        raise problem

    monkeypatch.setattr("CMBDetectorLib.pipeline.run", run)
    request = DetectionRequest(swi=SAMPLE.swi, phase=None, out=tmp_path / "out")
    with pytest.raises(OutOfMemoryError) as caught:
        perform(request, lambda *_: None)
    assert type(caught.value) is error


def test_a_closed_stdin_stops_the_worker_as_when_its_window_dies(tmp_path):
    process = start(tmp_path, SAMPLE)
    wait_for_stage(process, "localize")
    asked = time.monotonic()
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(timeout=10) == 130
    assert time.monotonic() - asked < 2.0
    assert [path.name for path in tmp_path.iterdir()] == ["request.json"]


def test_a_cancelled_overwrite_keeps_the_earlier_result(tmp_path, small_scan):
    earlier = tmp_path / "out" / "summary.txt"
    earlier.parent.mkdir()
    earlier.write_text("earlier")
    process = start(tmp_path, small_scan, overwrite=True)
    wait_for_stage(process, "report")
    assert process.stdin is not None
    process.stdin.close()
    process.wait(timeout=10)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "request.json"]
    assert earlier.read_text() == "earlier"


def test_a_users_mistake_is_one_error_event_without_a_traceback(tmp_path):
    process = start(tmp_path, Scan(tmp_path / "nothing.nii.gz", SAMPLE.phase))
    last = last_event(process)
    assert process.stderr is not None
    err = process.stderr.read()
    assert last["event"] == "error" and "nothing.nii.gz" in last["message"]
    assert process.returncode == last["exit_code"] == 2
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "text", ["{swi: 1", "[]", '{"swi": "a.nii"}', '{"swi": "a", "out": "b", "settings": {"x": 1}}']
)
def test_a_request_that_is_not_valid_is_refused_plainly(text):
    with pytest.raises(InputError, match="request"):
        DetectionRequest.from_json(text)


def test_a_request_survives_its_file():
    request = DetectionRequest(swi=Path("a b/ä.nii"), phase=None, out=Path("out"), overwrite=True)
    assert DetectionRequest.from_json(request.to_json()) == request


def test_a_process_abandoned_while_a_block_clears_away_clears_away_too() -> None:
    calls: list[str] = []

    def clear() -> None:
        calls.append("cleared")
        if len(calls) == 1:
            abandon()  # as another thread may, before this call has done its work

    with cleared_away(clear):
        pass
    assert len(calls) == 2
    abandon()
    assert len(calls) == 2, "a block that has ended is no longer due"
