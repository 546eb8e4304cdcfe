"""Work shared among processes."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from CMBDetectorLib.errors import InputError
from CMBDetectorLib.processes import in_processes
from CMBDetectorLib.simulation.cohort import Plan, plan, simulate
from CMBDetectorLib.simulation.protocols import PROTOCOLS
from CMBDetectorLib.volume import Volume, read_volume, write_volume
from Testing.phantom_head import phantom_head


def its_process(number: int) -> tuple[int, int, int]:
    return number, os.getpid(), torch.get_num_threads()


def refuse_odd_numbers(number: int) -> int:
    if number % 2:
        raise InputError(f"{number} is odd.")
    return number


def test_one_process_is_this_one() -> None:
    with in_processes(1) as run:
        assert {process for _, process, _ in run(its_process, range(3))} == {os.getpid()}


def test_results_of_several_processes_come_in_order_each_with_one_thread() -> None:
    with in_processes(2) as run:
        found = list(run(its_process, range(6)))
    assert [number for number, _, _ in found] == list(range(6))
    assert os.getpid() not in {process for _, process, _ in found}
    assert {threads for _, _, threads in found} == {1}


def test_what_is_wrong_in_another_process_is_told_in_its_own_words() -> None:
    with pytest.raises(InputError, match="3 is odd"), in_processes(2) as run:
        list(run(refuse_odd_numbers, [2, 3, 4]))


@pytest.fixture(scope="module")
def heads_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, head = tmp_path_factory.mktemp("heads"), phantom_head()
    for name, array in (("labels", head.labels), ("mars", head.mars)):
        write_volume(Volume(array, np.eye(4)), folder / f"02_{name}.nii.gz")
    return folder


def stored(folder: Path) -> dict[str, object]:
    files: dict[str, object] = {
        name: read_volume(folder / f"{name}.nii.gz").array.tobytes() for name in ("swi", "mars")
    }
    return {**files, "truth": (folder / "truth.json").read_text()}


def test_a_case_rendered_beside_another_is_the_one_rendered_alone(heads_dir: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    (tmp_path / "alone" / "case_0000").mkdir(parents=True)
    (tmp_path / "alone" / "case_0000" / "truth.json").touch()  # is there already, so it is kept
    for name, processes in (("alone", 1), ("beside", 2)):
        simulate(heads_dir, tmp_path / name, cases=2, seed=5, protocol="3T-3mm", processes=processes)
    assert stored(tmp_path / "alone" / "case_0001") == stored(tmp_path / "beside" / "case_0001")
    assert (tmp_path / "alone" / "case_0000" / "truth.json").read_text() == ""


def test_a_head_gets_its_sets_of_vessels_in_turn_and_all_else_stays_the_same() -> None:
    def plans(vessels: int) -> list[Plan]:
        return [
            plan(Path("out"), n, ["02", "03"], [PROTOCOLS["1.5T"]], 7, varied=True, burden="training", vessels=vessels)
            for n in range(8)
        ]

    assert [each.vessels for each in plans(1)] == [2, 3] * 4
    assert [each.vessels % 1000 for each in plans(3)] == [2, 3] * 4
    assert [each.vessels // 1000 for each in plans(3)] == [0, 0, 1, 1, 2, 2, 0, 0]
    assert [replace(each, vessels=0) for each in plans(3)] == [replace(each, vessels=0) for each in plans(1)]


@pytest.mark.parametrize("wrong", [{"vessels": 0}, {"processes": 0}])
def test_no_vessels_or_no_process_is_refused(heads_dir: Path, tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(InputError, match="1 or more"):
        simulate(heads_dir, tmp_path / "out", cases=1, **wrong)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()
