"""The worker as the window starts it, and its events as they come."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from CMBDetectorLib.request import DetectionRequest, Settings


def start_worker(request: Path, popen: dict[str, Any] | None = None, **asked: Any) -> subprocess.Popen[str]:
    """Start ``python -m CMBDetectorLib.worker`` on a request file, which is written first with the fields `asked`.

    On one thread: of several that wait for a busy core, each wastes the time of the others.
    """
    asked = {"settings": Settings(threads=1), **asked}
    request.write_text(DetectionRequest(**asked).to_json(), encoding="utf-8")
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    program = [sys.executable, "-m", "CMBDetectorLib.worker", str(request)]
    return subprocess.Popen(program, text=True, **(pipes | (popen or {})))


def wait_for_stage(process: subprocess.Popen[str], stage: str, fraction: float = 0.0) -> None:
    """Read events until the run has come so far; fails when it ends before."""
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        assert event["event"] in ("started", "progress"), event
        if event.get("stage") == stage and event["fraction"] >= fraction:
            return
    raise AssertionError(f"the worker never reached the stage {stage}")


def last_event(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for the end, while stdin stays open: `communicate` would close it, which cancels."""
    assert process.stdout is not None
    lines = process.stdout.read().splitlines()
    process.wait(timeout=120)
    return json.loads(lines[-1]) if lines else {}
