"""The command line: what it refuses, how it says so, and what it leaves behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from CMBDetectorLib.__main__ import main
from CMBDetectorLib.stages import STAGES
from Testing.small_scan import SAMPLE

ROOT = Path(__file__).resolve().parents[2]
SWI, PHASE = SAMPLE


def command(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "CMBDetectorLib", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


def refused(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    for word in words:
        assert word in done.stderr


def test_a_missing_file_is_named(tmp_path):
    refused(command("detect", "--swi", tmp_path / "no.nii.gz", "--out", tmp_path / "out"), 2, "no.nii.gz")
    assert not (tmp_path / "out").exists()


def test_swapped_images_are_told_apart(tmp_path):
    refused(command("detect", "--swi", PHASE, "--phase", SWI, "--out", tmp_path / "out"), 2, "swapped")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", ["0", "0.05", "1.5", "-1"])
def test_a_threshold_that_is_no_probability_or_below_what_is_kept_is_refused(tmp_path, value):
    refused(command("detect", "--swi", SWI, "--out", tmp_path / "out", f"--threshold={value}"), 2, "threshold")


def test_a_folder_that_holds_other_files_is_never_overwritten(tmp_path):
    (tmp_path / "thesis.txt").write_text("do not lose me")
    refused(command("detect", "--swi", SWI, "--out", tmp_path, "--overwrite"), 4, "thesis.txt")
    assert (tmp_path / "thesis.txt").read_text() == "do not lose me"


def test_the_folder_one_works_in_is_not_replaced(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "CMBDetectorLib", "detect", "--swi", str(SWI), "--out", "."],
        capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    refused(done, 4, "folder you work in")
    assert tmp_path.is_dir()


def test_a_terminated_run_leaves_nothing_not_even_the_folders_above(tmp_path, small_scan):
    process = subprocess.Popen(
        [sys.executable, "-m", "CMBDetectorLib", "detect", "--swi", str(small_scan.swi), "--json-progress",
         "--out", str(tmp_path / "a" / "b")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line).get("stage") == "report":
            break
    process.terminate()
    rest, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in errors
    assert json.loads(rest.splitlines()[-1])["event"] == "error"
    assert list(tmp_path.iterdir()) == []


def test_an_error_begins_a_line_of_its_own_below_the_progress_bar(tmp_path):
    import pty

    leader, follower = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "CMBDetectorLib", "detect", "--swi", str(PHASE), "--out", str(tmp_path / "out")],
        stderr=follower, env={**os.environ, "COLUMNS": "60"},
    )  # fmt: skip
    os.close(follower)
    text = os.read(leader, 1_000_000).decode()
    assert done.returncode == 2
    lines = [part for part in text.replace("\r\n", "\n").split("\n") if part.strip()]
    assert lines[-1].startswith("cmb-detector: phase.nii.gz looks like phase")
    assert all(len(part) < 60 for line in lines[:-1] for part in line.split("\r"))


def test_an_earlier_result_is_not_replaced_unasked(tmp_path):
    (tmp_path / "summary.txt").write_text("earlier")
    refused(command("detect", "--swi", SWI, "--out", tmp_path), 4, "overwrite")
    assert (tmp_path / "summary.txt").read_text() == "earlier"


def test_a_gpu_that_is_not_there_is_refused_when_asked_for(tmp_path):
    hidden = {"CUDA_VISIBLE_DEVICES": ""}
    refused(command("detect", "--swi", SWI, "--out", tmp_path / "out", "--device", "cuda", **hidden), 2, "cuda")


def test_json_progress_is_one_object_a_line_and_nothing_else(tmp_path, small_scan):
    swi, phase = small_scan
    done = command("detect", "--swi", swi, "--phase", phase, "--out", tmp_path / "out", "--json-progress")
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert {event["stage"] for event in events[:-1]} == set(STAGES)
    assert events[-1]["event"] == "result" and events[-1]["out"] == str(tmp_path / "out")
    expected = {"candidates.csv", "candidates.json", "candidates.mrk.json", "regions.nii.gz", "regions.seg.nrrd",
                "overview.png", "summary.txt", "scene.mrml"}  # fmt: skip
    assert {path.name for path in (tmp_path / "out").iterdir()} == expected


@pytest.fixture(scope="module")
def printed(small_scan, tmp_path_factory):
    """A search of an SWI alone at a terminal that shows ASCII alone: what it printed, and its folder."""
    out = tmp_path_factory.mktemp("printed") / "Größe 大脑"
    ascii_only = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    return command("detect", "--swi", small_scan.swi, "--out", out, "--threshold", "0.9", **ascii_only), out


def test_a_text_that_the_terminal_cannot_show_does_not_end_a_good_run(printed):
    done, out = printed
    assert done.returncode == 0, done.stderr
    assert (out / "summary.txt").exists()


def test_the_table_and_the_research_use_line_are_printed(printed):
    done, out = printed
    assert "Research use only" in done.stdout
    assert "calcification" in done.stdout, "without phase, the loss is said"
    record = json.loads((out / "candidates.json").read_text())
    assert record["provenance"]["settings"]["threshold"] == 0.9


def test_help_needs_no_torch():
    done = subprocess.run(
        [sys.executable, "-c", "import sys, CMBDetectorLib.__main__ as m\n"
         "try: m.main(['detect', '--help'])\nexcept SystemExit: pass\nsys.exit('torch' in sys.modules)"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, "torch was imported"


def test_a_simulation_of_a_protocol_that_does_not_exist_is_refused(tmp_path):
    (tmp_path / "1_labels.nii.gz").touch()
    done = command("simulate", "--heads", tmp_path, "--out", tmp_path / "out", "--protocol", "9T")
    refused(done, 2, "9T", "3T-2mm")


@pytest.mark.parametrize(
    ("asked", "least"),
    [
        *[((name, "--seed"), 0) for name in ("simulate", "alter", "implant")],
        *[(("simulate", option), 1) for option in ("--cases", "--vessels", "--processes")],
        (("implant", "--count"), 1),
    ],
)
def test_a_number_below_the_least_is_refused_and_the_least_is_not(capsys, asked, least):
    def told(text: str) -> str:
        with pytest.raises(SystemExit) as end:
            main([*asked, text])  # what else these commands ask for is missing, and told after
        assert end.value.code == 2
        return capsys.readouterr().err

    for wrong in (str(least - 1), "1.5"):
        assert f"{asked[1]}: '{wrong}' is not a whole number from {least} on" in told(wrong)
    assert "whole number" not in told(str(least))


def test_a_folder_for_cases_that_cannot_be_is_told_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    below = tmp_path / "file" / "out"
    heads = tmp_path / "heads"
    heads.mkdir()
    for name in ("02_labels.nii.gz", "02_mars.nii.gz"):
        (heads / name).touch()  # never read
    refused(command("simulate", "--heads", heads, "--out", below), 4, str(below))
    refused(command("alter", "--cases", SWI.parent.parent, "--as", "blur", "--out", below), 4, str(below))
    given = ("--swi", SWI, "--phase", SWI.parent / "phase.nii.gz", "--out", below)
    refused(command("implant", *given), 4, f"{tmp_path / 'file'} is a file")
    refused(command("detect", *given), 4, f"{tmp_path / 'file'} is a file")
    (tmp_path / "validation").mkdir()
    (tmp_path / "validation" / "case").symlink_to(SWI.parent)
    compared = ("--cases", SWI.parent.parent, "--validation", tmp_path / "validation", "--variant", f"a={tmp_path}")
    refused(command("ablate", *compared, "--out", below), 4, f"{tmp_path / 'file'} is a file")


def test_validation_cases_that_are_not_there_are_told_before_test_cases_are_prepared(tmp_path):
    compared = ("--cases", SWI.parent.parent, "--validation", tmp_path / "none", "--variant", f"a={tmp_path}")
    refused(command("ablate", *compared, "--out", tmp_path / "out"), 2, f"{tmp_path / 'none'} holds no cases")
    assert not (tmp_path / "out").exists()


def test_a_device_that_is_not_there_is_refused_before_a_case_is_simulated(tmp_path):
    hidden = {"CUDA_VISIBLE_DEVICES": ""}
    asked = ("simulate", "--heads", tmp_path, "--out", tmp_path / "out", "--device", "cuda")
    refused(command(*asked, **hidden), 2, "torch finds no GPU")
    assert not (tmp_path / "out").exists()


def test_a_training_configuration_with_a_wrong_name_is_refused(tmp_path):
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"out": "a", "cases": "b", "cache": "c", "epochs": 3}))
    refused(command("train", "detector", "--config", config), 2, "epochs")


def test_a_checkpoint_that_is_not_there_or_empty_is_refused(tmp_path):
    asked = ("export", "detector", "--models", tmp_path / "models", "--checkpoint")
    refused(command(*asked, tmp_path / "none.pt"), 2, "none.pt", "No such file")
    (tmp_path / "empty.pt").touch()
    refused(command(*asked, tmp_path / "empty.pt"), 2, "empty.pt is not a checkpoint of the detector")
    for text in ("no checkpoint", "step,loss\n1,2", "hello world", "}"):
        (tmp_path / "text.pt").write_text(text)
        told = command(*asked, tmp_path / "text.pt")
        refused(told, 2, "text.pt is not a checkpoint of the detector.")
        assert "weights_only" not in told.stderr
    assert not (tmp_path / "models").exists()


def test_a_report_that_is_not_there_is_refused_before_a_network_is_replaced(tmp_path):
    asked = ("export", "detector", "--checkpoint", tmp_path / "none.pt", "--figures")
    refused(command(*asked, tmp_path / "evaluation.json"), 2, "evaluation.json cannot be opened")
    (tmp_path / "list.json").write_text("[]")
    refused(command(*asked, tmp_path / "list.json"), 2, "list.json holds no JSON object")


def test_the_installed_command_is_the_module():
    done = subprocess.run(
        [str(Path(sys.executable).parent / "cmb-detector"), "--version"], capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.startswith("CMBDetector ")
