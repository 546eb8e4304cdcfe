"""A program in a process of its own: its wall time by stages, its peak memory, and what it says last."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
START_UP = "start-up"


@dataclass(frozen=True)
class Run:
    """What one process took.

    Attributes
    ----------
    stages : dict
        Wall time of each stage, s, in order; the first is the start-up, and together they are the whole process.
    processor_s : float
        Time that processors worked for it and its own processes, s.
    peak_gb : float
        Largest resident size, GB; where it starts processes of its own, that of the largest.
    answer : dict
        The last line that was a JSON object.
    """

    stages: dict[str, float]
    processor_s: float
    peak_gb: float
    answer: dict[str, Any]

    @property
    def wall_s(self) -> float:
        return sum(self.stages.values())

    @property
    def after_start_s(self) -> float:
        return self.wall_s - self.stages[START_UP]


def run(arguments: list[str], first: str = "", environment: dict[str, str] | None = None) -> Run:
    """Run ``python ARGUMENTS``, whose lines of JSON announce stages.

    Parameters
    ----------
    arguments : list of str
    first : str
        The start-up lasts to the first stage whose message has this in it.
    environment : dict or None
        Variables beside those of this process.

    Raises
    ------
    RuntimeError
        It failed; with the end of what it said.
    """
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    begins: list[tuple[str, float]] = [(START_UP, 0.0)]
    said: list[str] = []
    answer: dict[str, Any] = {}
    try:
        for line in process.stdout:
            said.append(line)
            event = _object(line)
            if event.get("event") != "progress":
                answer = event or answer
            elif event["stage"] != begins[-1][0] and (len(begins) > 1 or first in event["message"]):
                begins.append((event["stage"], time.perf_counter() - began))
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    finally:
        if process.returncode is None:
            process.kill()
    wall_s = time.perf_counter() - began
    if process.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed:\n{''.join(said[-20:])}")
    ends = [s for _, s in begins[1:]] + [wall_s]
    stages = {stage: end - begin for (stage, begin), end in zip(begins, ends, strict=True)}
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB on Linux
    return Run(stages, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit / 1e9, answer)


def say(stage: str) -> None:
    """Announce a stage, as the command line does."""
    print(json.dumps({"event": "progress", "stage": stage, "message": ""}), flush=True)


def _object(line: str) -> dict[str, Any]:
    if not line.startswith("{"):
        return {}
    try:
        return json.loads(line)
    except ValueError:
        return {}
