"""What machines do to a search: each of it with real processes, a plain message, and nothing half-written."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from CMBDetectorLib.report.write import FILES, beside
from CMBDetectorLib.resources import resources_dir
from CMBDetectorLib.volume import Volume, write_volume
from Testing.small_scan import SAMPLE, Scan
from Testing.worker_process import last_event, start_worker, wait_for_stage

resource = pytest.importorskip("resource")  # Windows has none of these limits

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and limits of POSIX")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="limits of a running process are Linux's")

ROOT = Path(__file__).resolve().parents[2]
WHOLE = {*FILES} - {"swi.nii.gz", "phase_filtered.nii.gz"}
STRANGE = "Größe 大脑 it's"


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def refused(process: subprocess.Popen[str], exit_code: int, *words: str) -> None:
    """The worker ended with a message for the user and without a traceback."""
    event = last_event(process)
    assert event.get("event") == "error", event
    assert event["exit_code"] == process.returncode == exit_code, event
    assert process.stderr is not None and "Traceback" not in process.stderr.read()
    for word in words:
        assert word in event["message"]


# Killed


def test_after_a_killed_run_the_next_one_clears_away_what_that_left(small_scan: Scan, tmp_path: Path) -> None:
    out = tmp_path / "out"
    asked: dict[str, Any] = {"swi": small_scan.swi, "phase": small_scan.phase, "out": out}
    killed = start_worker(tmp_path / "request.json", **asked)
    wait_for_stage(killed, "report", 0.9)
    killed.kill()
    assert killed.wait(timeout=10) == -signal.SIGKILL
    assert not out.exists() and len(names(tmp_path)) > 2, "its draft and its lock lie beside"
    following = start_worker(tmp_path / "request.json", **asked)
    wait_for_stage(following, "check")
    assert names(tmp_path) == {"request.json", beside(out, "lock").name}
    assert following.stdin is not None
    following.stdin.close()
    assert following.wait(timeout=10) == 130
    assert names(tmp_path) == {"request.json"}


def test_an_earlier_result_that_a_killed_run_had_moved_aside_comes_back(tmp_path: Path) -> None:
    out = tmp_path / "out"
    aside = beside(out, "old-01234567")
    aside.mkdir()
    (aside / "summary.txt").write_text("earlier")
    refused(start_worker(tmp_path / "request.json", swi=SAMPLE.swi, phase=None, out=out), 4, "earlier result")
    assert names(tmp_path) == {"request.json", "out"}
    assert (out / "summary.txt").read_text() == "earlier"


# Memory


def memory_left(process: subprocess.Popen[str], mb: int) -> None:
    """Let a running process have so much more address space than it has now."""
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[0])
    size = pages * resource.getpagesize() + mb * 2**20
    resource.prlimit(process.pid, resource.RLIMIT_AS, (size, size))


@linux_only
@pytest.mark.parametrize("stage", ["read", "localize", "prepare"])
def test_want_of_memory_is_told_and_leaves_nothing(small_scan: Scan, tmp_path: Path, stage: str) -> None:
    process = start_worker(
        tmp_path / "request.json", swi=small_scan.swi, phase=small_scan.phase, out=tmp_path / "a" / "out"
    )
    wait_for_stage(process, stage)
    memory_left(process, 30)
    refused(process, 5, str(small_scan.swi), "memory of this machine does not suffice", "Close other programs")
    assert names(tmp_path) == {"request.json"}


@linux_only
def test_an_image_that_finds_no_memory_is_not_called_damaged(tmp_path: Path) -> None:
    write_volume(Volume(np.ones((200, 200, 200), np.uint8), np.eye(4)), tmp_path / "swi.mha")
    program = """
import resource, sys
from pathlib import Path
from CMBDetectorLib.errors import OutOfMemoryError
from CMBDetectorLib.volume import read_volume
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + 20 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (size, size))
try:
    read_volume(sys.argv[1])
except OutOfMemoryError as problem:
    print(problem)
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "swi.mha")], capture_output=True, text=True)
    assert done.stdout.startswith("The memory of this machine does not suffice for "), done.stderr


@linux_only
def test_regions_that_find_no_memory_to_be_written_are_not_blamed_on_the_disk(tmp_path: Path) -> None:
    program = """
import resource, sys
from pathlib import Path
import numpy as np
from CMBDetectorLib.report.segmentation import write_segmentation
from CMBDetectorLib.volume import Volume
regions = Volume(np.ones((400, 400, 200), np.uint8), np.eye(4))
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + 20 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (size, size))
try:
    write_segmentation(regions, Path(sys.argv[1]))
except MemoryError:
    print("no memory")
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "a.nrrd")], capture_output=True, text=True)
    assert done.stdout == "no memory\n", done.stderr


# Disk


@linux_only
def test_a_disk_that_fills_up_is_told_and_the_earlier_result_stays(small_scan: Scan, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "summary.txt").write_text("earlier")
    process = start_worker(
        tmp_path / "request.json", swi=small_scan.swi, phase=small_scan.phase, out=out, overwrite=True
    )
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (6000, 6000))
    refused(process, 4, f"Cannot write the results to {out}", "Check the free space")
    assert names(tmp_path) == {"request.json", "out"}
    assert (out / "summary.txt").read_text() == "earlier"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device")
def test_a_full_disk_under_the_progress_of_a_command_is_told(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "CMBDetectorLib", "detect", "--swi", str(SAMPLE.swi), "--out", str(tmp_path / "o")]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*command, "--json-progress"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 4
    assert done.stderr == "cmb-detector: The disk that this command writes to is full. Make space on it.\n"
    assert list(tmp_path.iterdir()) == []


# Networks


def missing(models: Path) -> str:
    (models / "segmenter.pt").unlink()
    return "cannot be read (No such file or directory)"


def damaged(models: Path) -> str:
    content = bytearray((models / "segmenter.pt").read_bytes())
    content[1000] ^= 1
    (models / "segmenter.pt").write_bytes(content)
    return "is damaged"


def of_another_version(models: Path) -> str:
    manifest = json.loads((models / "segmenter.json").read_text())
    (models / "segmenter.json").write_text(json.dumps({"weights": manifest["file"], "version": 2}))
    return "names no file"


def absent(models: Path) -> str:
    shutil.rmtree(models)
    return "bundled networks are missing"


@pytest.mark.parametrize("what", [missing, damaged, of_another_version, absent])
def test_networks_that_are_not_as_they_should_be_are_told(tmp_path: Path, what: Callable[[Path], str]) -> None:
    installed = tmp_path / "installed"
    shutil.copytree(ROOT / "CMBDetectorLib", installed / "CMBDetectorLib", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(resources_dir() / "Models", installed / "Resources" / "Models")
    said = what(installed / "Resources" / "Models")
    process = start_worker(
        tmp_path / "request.json", {"cwd": installed}, swi=SAMPLE.swi, phase=None, out=tmp_path / "out"
    )
    refused(process, 3, said, str(installed), "nstall")
    assert names(tmp_path) == {"request.json", "installed"}


# Several at once, sleep, and strange names


@pytest.fixture(scope="module")
def runs(small_scan: Scan, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[Path, Any]]]:
    """Three runs at once: two into one folder, and one with strange names in C locale that is put to sleep meanwhile.

    Of each: the folder it writes to, and its last event.
    """
    folder = tmp_path_factory.mktemp("runs")
    strange = folder / STRANGE
    (strange / "tmp").mkdir(parents=True)
    scan = [shutil.copy(path, strange / f"{'n' * 200} ä {path.name}") for path in small_scan]
    bare = {k: v for k, v in os.environ.items() if k not in ("LANG", "LC_CTYPE", "PYTHONIOENCODING")}
    ascii_only = {"env": bare | {"LC_ALL": "C", "PYTHONUTF8": "0", "TMPDIR": str(strange / "tmp")}}
    plain: dict[str, Any] = {"swi": small_scan.swi, "phase": small_scan.phase}
    started = {
        "one": (folder / "same", start_worker(folder / "one.json", **plain, out=folder / "same")),
        "other": (folder / "same", start_worker(folder / "other.json", **plain, out=folder / "same", overwrite=True)),
        "strange": (
            strange / ("r" * 255),
            start_worker(strange / "ö.json", ascii_only, swi=scan[0], phase=scan[1], out=strange / ("r" * 255)),
        ),
    }
    outs = {name: out for name, (out, _) in started.items()}
    process = started["strange"][1]
    wait_for_stage(process, "localize")
    process.send_signal(signal.SIGSTOP)
    ends = {name: last_event(started[name][1]) for name in ("one", "other")}
    time.sleep(1)
    assert process.poll() is None
    process.send_signal(signal.SIGCONT)
    ends["strange"] = last_event(process)
    yield {name: (outs[name], ends[name]) for name in ends}


def test_of_two_runs_into_one_folder_one_writes_and_the_other_says_so(runs: dict[str, tuple[Path, Any]]) -> None:
    ends = sorted((runs[name][1] for name in ("one", "other")), key=lambda event: event["event"])
    assert [event["event"] for event in ends] == ["error", "result"]
    assert "Another search writes to" in ends[0]["message"] and ends[0]["exit_code"] == 4
    assert names(runs["one"][0]) == WHOLE
    assert names(runs["one"][0].parent) == {"same", "one.json", "other.json", STRANGE}


def test_a_run_that_slept_meanwhile_goes_on_and_beside_another_it_finds_the_same(
    runs: dict[str, tuple[Path, Any]],
) -> None:
    assert runs["strange"][1]["event"] == "result", runs["strange"][1]
    found = [
        json.loads((runs[name][0] / "candidates.json").read_text(encoding="utf-8"))["candidates"]
        for name in ("one", "strange")
    ]
    assert found[0] == found[1]


def test_names_of_any_language_and_length_need_no_locale(runs: dict[str, tuple[Path, Any]]) -> None:
    out, event = runs["strange"]
    assert event["out"] == str(out)
    assert names(out) == WHOLE
    assert list((out.parent / "tmp").iterdir()) == []


@pytest.mark.parametrize("option", ["--swi", "--out"])
def test_a_name_that_is_not_unicode_is_refused(tmp_path: Path, option: str) -> None:
    strange = tmp_path / os.fsdecode(b"caf\xe9.nii.gz")
    try:
        shutil.copy(SAMPLE.swi, strange)
    except OSError:
        pytest.skip("this file system has none")
    paths = {"--swi": SAMPLE.swi, "--out": tmp_path / "out"} | {option: strange}
    named = [str(part) for pair in paths.items() for part in pair]
    command = [sys.executable, "-m", "CMBDetectorLib", "detect", *named]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == {"--swi": 2, "--out": 4}[option]
    assert len(done.stderr.splitlines()) == 1 and "not Unicode" in done.stderr


# Files that go away meanwhile


def test_what_is_removed_once_it_was_read_is_not_missed(small_scan: Scan, tmp_path: Path) -> None:
    inputs, out = tmp_path / "in", tmp_path / "results" / "out"
    inputs.mkdir()
    out.mkdir(parents=True)
    swi, phase = (Path(shutil.copy(path, inputs)) for path in small_scan)
    process = start_worker(tmp_path / "request.json", swi=swi, phase=phase, out=out)
    wait_for_stage(process, "check")
    shutil.rmtree(inputs)
    shutil.rmtree(out.parent)
    (tmp_path / "request.json").unlink()
    assert last_event(process)["event"] == "result"
    assert names(out) == WHOLE and names(tmp_path) == {"results"} and names(out.parent) == {"out"}


def cut_short(path: Path) -> str:
    os.truncate(path, path.stat().st_size // 2)
    return "is cut short. Copy or export it again."


def removed(path: Path) -> str:
    path.unlink()
    return "There is no file"


@pytest.mark.parametrize("happens", [cut_short, removed])
def test_an_image_that_goes_before_it_was_read_is_named(
    small_scan: Scan, tmp_path: Path, happens: Callable[[Path], str]
) -> None:
    phase = Path(shutil.copy(small_scan.phase, tmp_path))
    process = start_worker(tmp_path / "request.json", swi=small_scan.swi, phase=phase, out=tmp_path / "out")
    wait_for_stage(process, "read")
    said = happens(phase)
    refused(process, 2, said, str(phase))
    assert not (tmp_path / "out").exists()


def without_roots_power() -> None:
    """Let permissions hold for root, too: PR_CAPBSET_DROP of CAP_DAC_OVERRIDE, effective with the next program."""
    ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)


@linux_only
def test_a_folder_that_becomes_read_only_is_told(small_scan: Scan, tmp_path: Path) -> None:
    results = tmp_path / "results"
    results.mkdir()
    process = start_worker(
        tmp_path / "request.json", {"preexec_fn": without_roots_power},
        swi=small_scan.swi, phase=small_scan.phase, out=results / "out",
    )  # fmt: skip
    wait_for_stage(process, "check")
    results.chmod(0o500)
    try:
        refused(process, 4, f"Nothing can be written in {results} (Permission denied)", "choose a folder of your own")
    finally:
        results.chmod(0o700)
    assert names(results) <= {beside(results / "out", "lock").name}
