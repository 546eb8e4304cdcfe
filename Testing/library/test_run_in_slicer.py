"""The script that runs the tests in Slicer fails when a test does, and says so; here Slicer is the stand-in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import runpy, sys
from Testing.window.stand_in import start
start()
sys.argv = ["run_in_slicer.py", *sys.argv[1:]]
runpy.run_path("Testing/run_in_slicer.py", run_name="__main__")
"""


def test_a_slicer_without_a_console_as_on_windows_runs_the_tests() -> None:
    program = PROGRAM.replace("start()", "start()\nclass Log:\n    write = flush = lambda *_: None\n"
                              "sys.stderr, sys.__stderr__ = Log(), None")  # fmt: skip
    arguments = ["--yes", "-k", "test_the_legend_is_the_table_of_keys"]
    ran = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0 and "1 passed" in ran.stdout, ran.stdout + ran.stderr


@pytest.mark.parametrize(
    ("arguments", "fails", "says"),
    [
        (["-k", "test_the_legend_is_the_table_of_keys"], False, "1 passed"),
        (["-k", "test_that_is_not_there"], True, "deselected"),
        (["--no-such-option"], True, "unrecognized arguments"),
    ],
)
def test_the_exit_status_tells_whether_the_tests_passed(arguments: list[str], fails: bool, says: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, "--yes", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    output = ran.stdout + ran.stderr
    assert (ran.returncode != 0) is fails, output
    assert says in output
    assert f"CMBDetector tests: {'failed' if fails else 'passed'}" in output


@pytest.mark.parametrize("arguments", [["--yes"], []])
def test_what_the_tests_need_is_installed_and_slicer_asks_before_unless_it_was_agreed(arguments: list[str]) -> None:
    program = PROGRAM.replace("start()", "start()\nsys.modules['slicer.packaging'].pip_ensure = "
                              "lambda needed, **options: print(*needed, options)")  # fmt: skip
    ran = subprocess.run(
        [sys.executable, "-c", program, *arguments, "-k", "test_that_is_not_there"],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    told = next(line for line in ran.stdout.splitlines() if line.startswith("pytest"))
    assert "scikit-image>=" in told
    for option in ("prompt_install", "prompt_restart", "skip_in_testing"):
        assert f"'{option}': {not arguments}" in told
