"""Work shared among processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from CMBDetectorLib.errors import InputError, OutOfMemoryError
from CMBDetectorLib.processes import in_processes
from CMBDetectorLib.simulation.cohort import Plan, plan, simulate
from CMBDetectorLib.simulation.protocols import PROTOCOLS
from CMBDetectorLib.volume import Volume, read_volume, write_volume
from Testing.phantom_head import phantom_head

IMAGES = ("swi", "phase", "mars")

torch.set_num_threads(1)  # a case is the same to the bit with the same number of threads


def its_process(number: int) -> tuple[int, int, int]:
    return number, os.getpid(), torch.get_num_threads()


def leave_a_trace(file: Path, end: str) -> None:
    """Fail, or die, as the second; the others take a while."""
    file.touch()
    if file.name != "1":
        time.sleep(0.5)
    elif end == "fail":
        raise InputError(f"{file.name} is wrong.")
    else:
        os._exit(9)


def test_one_process_is_this_one() -> None:
    with in_processes(1) as run:
        assert {process for _, process, _ in run(its_process, range(3))} == {os.getpid()}


def test_several_processes_do_all_with_one_thread_each() -> None:
    with in_processes(2) as run:
        found = list(run(its_process, range(6)))
    assert sorted(number for number, _, _ in found) == list(range(6))
    assert os.getpid() not in {process for _, process, _ in found}
    assert {threads for _, _, threads in found} == {1}


@pytest.mark.parametrize(
    ("end", "error", "said"), [("fail", InputError, "1 is wrong"), ("die", OutOfMemoryError, "fewer")]
)
def test_after_an_error_nothing_more_is_begun_and_it_is_told_in_words(
    tmp_path: Path, end: str, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said), in_processes(2) as run:
        list(run(partial(leave_a_trace, end=end), [tmp_path / str(n) for n in range(8)]))
    assert {"0", "1"} <= {file.name for file in tmp_path.iterdir()} <= {"0", "1", "2"}


RUN = """
import sys
from pathlib import Path
from CMBDetectorLib.interruption import raise_on_termination
from CMBDetectorLib.processes import in_processes
from Testing.library.test_processes import wait_and_write

if __name__ == "__main__":
    raise_on_termination()
    with in_processes(2) as run:
        for _ in run(wait_and_write, [Path(sys.argv[1]) / str(n) for n in range(50)]):
            print("done", flush=True)
"""


def wait_and_write(file: Path) -> None:
    file.write_text(str(os.getpid()))
    time.sleep(0.5)
    file.with_suffix(".done").touch()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no groups of processes that a signal reaches")
@pytest.mark.parametrize("number", ["SIGTERM", "SIGKILL"])
def test_of_a_group_that_is_ended_no_process_is_left_and_none_breaks_off_that_could_finish(
    tmp_path: Path, number: str
) -> None:
    command = [sys.executable, "-c", RUN, str(tmp_path)]
    run = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    )
    assert run.stdout is not None
    run.stdout.readline()  # the first is done
    os.killpg(run.pid, getattr(signal, number))
    run.wait(timeout=60)
    begun = {file.name for file in tmp_path.iterdir() if not file.suffix}
    if number == "SIGTERM":
        assert {file.stem for file in tmp_path.glob("*.done")} == begun
    deadline = time.monotonic() + 30
    workers = {int(text) for file in tmp_path.iterdir() if not file.suffix and (text := file.read_text())}
    while any(is_running(worker) for worker in workers):
        assert time.monotonic() < deadline, "a process is left behind"
        time.sleep(0.1)
    assert len(begun) < 10


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{process}/stat")
    return not (state.exists() and state.read_text().split()[2] == "Z")  # one that nobody has waited for has ended


@pytest.fixture(scope="module")
def heads_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, head = tmp_path_factory.mktemp("heads"), phantom_head()
    for name, array in (("labels", head.labels), ("mars", head.mars)):
        write_volume(Volume(array, np.eye(4)), folder / f"02_{name}.nii.gz")
    return folder


def stored(folder: Path) -> dict[str, object]:
    files: dict[str, object] = {name: read_volume(folder / f"{name}.nii.gz").array.tobytes() for name in IMAGES}
    return {**files, "truth": (folder / "truth.json").read_text()}


def test_a_case_rendered_in_another_process_is_the_one_rendered_in_this(heads_dir: Path, tmp_path: Path) -> None:
    for name, processes in (("this", 1), ("another", 2)):
        simulate(heads_dir, tmp_path / name, cases=1, seed=5, protocol="3T-3mm", processes=processes)
    assert stored(tmp_path / "this" / "case_0000") == stored(tmp_path / "another" / "case_0000")


def planned(vessels: int) -> list[Plan]:
    protocols = list(PROTOCOLS.values())
    return [
        plan(
            Path("out"), n, ["02", "03"], protocols, 7, varied=False, atrophy=False, burden="training", vessels=vessels
        )
        for n in range(2000)
    ]


def test_with_one_set_of_vessels_a_head_has_the_one_of_its_name() -> None:
    assert [each.vessel_seed for each in planned(1)] == [2, 3] * 1000


@pytest.mark.parametrize("vessels", [2, 3, 4, 5])
def test_every_set_of_vessels_is_shown_with_every_burden_and_protocol_and_changes_nothing_else(vessels: int) -> None:
    shown = {(each.head, each.vessel_seed, each.burden, each.protocol.name) for each in planned(vessels)}
    assert len(shown) == 2 * vessels * 2 * len(PROTOCOLS)
    one, several = ([replace(each, vessel_seed=0) for each in planned(n)] for n in (1, vessels))
    assert several == one


@pytest.mark.parametrize("wrong", [{"vessels": 0}, {"processes": 0}])
def test_no_vessels_or_no_process_is_refused(heads_dir: Path, tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(InputError, match="1 or more"):
        simulate(heads_dir, tmp_path / "out", cases=1, **wrong)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()
