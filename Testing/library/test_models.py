"""Models on disk: exported, verified, loaded, refused."""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from CMBDetectorLib import models
from CMBDetectorLib.errors import InputError, ModelError
from CMBDetectorLib.resources import resources_dir
from CMBDetectorLib.training.config import DetectorTraining, SegmenterTraining, Training
from CMBDetectorLib.training.detector import DetectorObjective
from CMBDetectorLib.training.export import CONTRACTS, averaged_network, export_model, rounded, update_manifest
from CMBDetectorLib.training.loop import fit, start_from
from CMBDetectorLib.training.segmenter import SegmenterObjective
from CMBDetectorLib.training.split import heads_of


def untrained(config: Training, objective: torch.nn.Module) -> Path:
    return fit(objective, lambda step: {}, config, lambda stage, share, message: None)


@pytest.fixture(scope="module")
def trained_nowhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both networks with random weights, exported."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    detector = DetectorTraining(out=folder / "d", cases=folder, cache=folder, steps=0)
    checkpoint = untrained(detector, DetectorObjective(detector))
    export_model("detector", checkpoint, folder, threshold=0.4, threshold_without_phase=0.7)
    segmenter = SegmenterTraining(out=folder / "s", cases=folder, cache=folder, steps=0)
    export_model("segmenter", untrained(segmenter, SegmenterObjective(segmenter)), folder)
    return folder


@pytest.fixture
def copy(trained_nowhere: Path, tmp_path: Path) -> Path:
    for name in ("detector.pt", "detector.json"):
        (tmp_path / name).write_bytes((trained_nowhere / name).read_bytes())
    return tmp_path


def test_an_exported_detector_computes_what_was_trained(trained_nowhere: Path) -> None:
    network, _ = averaged_network("detector", trained_nowhere / "d" / "checkpoint.pt")
    model = models.load_model("detector", device="cpu", models_dir=trained_nowhere)
    x = torch.randn(1, 3, 64, 64, 32)
    with torch.inference_mode():
        expected, _ = network(x)
        found, boxes = model.module(x.to(model.dtype, memory_format=torch.channels_last_3d))
    assert boxes.shape == (1, 3, 4, 16, 16, 16)
    # bfloat16 keeps 8 bits of a logit near -4.6
    assert torch.allclose(expected, found.float(), atol=1e-4 if model.dtype == torch.float32 else 0.1)


def test_exported_weights_are_those_of_the_checkpoint_to_8_bits_and_vectors_to_11(trained_nowhere: Path) -> None:
    state = torch.load(trained_nowhere / "d" / "checkpoint.pt", weights_only=True)
    exported = torch.jit.load(str(trained_nowhere / "detector.pt")).state_dict()
    for name, found in exported.items():
        expected = state["average"][f"network.{name}"]
        assert torch.allclose(found, expected, rtol=2**-8 if found.ndim > 1 else 2**-11, atol=0), name
    packed = len(zlib.compress((trained_nowhere / "detector.pt").read_bytes()))
    assert packed < 0.55 * (trained_nowhere / "detector.pt").stat().st_size


def test_rounding_goes_to_the_nearest_and_leaves_whole_numbers() -> None:
    values = torch.tensor([0.0, 1.0, -1.0, 1 + 2**-10, 1 + 2**-12, -1 - 3 * 2**-12, 1e-30, 3e38])
    expected = torch.tensor([0.0, 1.0, -1.0, 1 + 2**-10, 1.0, -1 - 2**-10, 1e-30, 3e38])
    assert torch.allclose(rounded(values), expected, rtol=2**-11, atol=0)
    assert torch.equal(rounded(values)[:6], expected[:6])
    assert torch.equal(rounded(torch.tensor(7)), torch.tensor(7))
    kernel = torch.tensor([1 + 2**-7, 1 + 2**-9, 1 + 2**-8, -1 - 3 * 2**-9]).reshape(1, 4, 1, 1, 1)
    assert torch.equal(rounded(kernel).flatten(), torch.tensor([1 + 2**-7, 1.0, 1.0, -1 - 2**-7]))
    adapter = torch.tensor([[1 + 2**-4, 1 + 2**-6, -1 - 3 * 2**-6, 0.0]])
    assert torch.equal(rounded(adapter), torch.tensor([[1 + 2**-4, 1.0, -1 - 2**-4, 0.0]]))


def test_rounding_hides_no_weight_that_is_not_a_number() -> None:
    of_a_gpu = torch.tensor([0x7FFFFFFF, 0x7F800000], dtype=torch.int32).view(torch.float32)
    for weights in (of_a_gpu, of_a_gpu[None], of_a_gpu.reshape(1, 2, 1, 1, 1)):
        assert not rounded(weights).isfinite().any()


def test_parts_that_a_run_kept_are_exported_as_they_were(tmp_path: Path) -> None:
    plain = DetectorTraining(out=tmp_path, cases=tmp_path, cache=tmp_path, steps=0)
    network = DetectorObjective(plain).network
    torch.jit.save(torch.jit.script(network), str(tmp_path / "initial.pt"))
    config = replace(plain, initial=tmp_path / "initial.pt", kept=("d1",))
    found, _ = averaged_network("detector", untrained(config, DetectorObjective(config)))
    for name, before in network.state_dict().items():
        whole = torch.equal(before, found.state_dict()[name])
        assert whole or not name.startswith("d1."), name
        assert not whole or not name.startswith("d2.") or not name.endswith(("0.weight", "up.weight", "up.bias")), name


def test_the_segmenter_loads_and_answers(trained_nowhere: Path) -> None:
    model = models.load_model("segmenter", device="cpu", models_dir=trained_nowhere)
    with torch.inference_mode():
        assert model.module(torch.zeros(1, 4, 32, 16, 48, dtype=model.dtype)).shape == (1, 15, 32, 16, 48)


def test_a_manifest_says_what_the_network_reads_and_how_it_was_made(trained_nowhere: Path) -> None:
    manifest = json.loads((trained_nowhere / "detector.json").read_text())
    assert manifest["input"]["spacing_mm"] == [0.5, 0.5, 1.0]
    assert manifest["training"]["config"]["hspl"] is True
    assert (manifest["threshold"], manifest["threshold_without_phase"]) == (0.4, 0.7)
    assert not set(manifest["training"]["heads"]) & {*heads_of("validation"), *heads_of("test")}
    assert str(trained_nowhere) not in json.dumps(manifest)


def test_the_threshold_of_swi_alone_is_that_of_both_where_none_is_given(trained_nowhere: Path, tmp_path: Path) -> None:
    manifest = json.loads(export_model("detector", trained_nowhere / "d" / "checkpoint.pt", tmp_path).read_text())
    assert manifest["threshold_without_phase"] == manifest["threshold"] == 0.5


@pytest.mark.parametrize("thresholds", [{"threshold": 88.0}, {"threshold": 0.9, "threshold_without_phase": 0.05}])
def test_a_threshold_that_a_search_would_refuse_is_not_exported(
    trained_nowhere: Path, tmp_path: Path, thresholds: dict[str, float]
) -> None:
    with pytest.raises(InputError, match="The threshold is"):
        export_model("detector", trained_nowhere / "d" / "checkpoint.pt", tmp_path, **thresholds)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["detector", "segmenter"])
def test_the_bundled_manifest_says_of_input_and_output_what_export_would_write(name: str) -> None:
    manifest = models.read_manifest(resources_dir() / "Models" / f"{name}.json")
    assert {part: manifest.get(part) for part in CONTRACTS[name]} == CONTRACTS[name]


def test_the_bundled_figures_with_phase_and_without_are_of_the_same_cases() -> None:
    figures = models.load_model("detector", device="cpu").manifest["figures"]
    for part in ("validation", "test"):
        with_phase, alone = figures[part], figures[f"{part}_without_phase"]
        assert [with_phase[name] for name in ("cases", "heads", "lesions")] == [
            alone[name] for name in ("cases", "heads", "lesions")
        ]


def test_evaluation_can_add_figures(copy: Path) -> None:
    update_manifest(copy / "detector.json", figures={"validation": {"sensitivity": 0.5}})
    model = models.load_model("detector", device="cpu", models_dir=copy)
    assert model.manifest["figures"]["validation"]["sensitivity"] == 0.5


def test_the_description_names_device_format_and_threads(copy: Path) -> None:
    model = models.load_model("detector", device="cpu", models_dir=copy)
    kind = str(model.dtype).removeprefix("torch.")
    assert model.description == f"cpu, {kind}, {torch.get_num_threads()} threads"


def test_a_damaged_network_is_refused_by_name_before_it_is_loaded(copy: Path) -> None:
    content = bytearray((copy / "detector.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (copy / "detector.pt").write_bytes(content)
    with pytest.raises(ModelError, match=r"detector\.pt is damaged.*Install"):
        models.load_model("detector", device="cpu", models_dir=copy)


def test_a_network_that_torch_cannot_read_is_refused_by_name(copy: Path) -> None:
    (copy / "detector.pt").write_bytes(b"not a network")
    manifest = json.loads((copy / "detector.json").read_text())
    manifest["sha256"] = hashlib.sha256(b"not a network").hexdigest()
    (copy / "detector.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelError, match=r"cannot load the network .*detector\.pt"):
        models.load_model("detector", device="cpu", models_dir=copy)


def test_a_network_for_other_voxels_is_refused(copy: Path) -> None:
    manifest = json.loads((copy / "detector.json").read_text())
    manifest["input"]["spacing_mm"] = [0.5, 0.5, 0.64]
    (copy / "detector.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelError, match=r"detector\.json .*0\.5 x 0\.5 x 0\.64 mm.* makes 0\.5 x 0\.5 x 1 mm"):
        models.load_model("detector", device="cpu", models_dir=copy)


def test_a_network_that_reads_other_channels_is_refused(copy: Path) -> None:
    manifest = json.loads((copy / "detector.json").read_text())
    manifest["input"]["channels"] = ["SWI", "phase"]
    (copy / "detector.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelError, match=r"detector\.json .*\['SWI', 'phase'\], .*'spacing'"):
        models.load_model("detector", device="cpu", models_dir=copy)


@pytest.mark.parametrize("missing", ["detector.pt", "detector.json"])
def test_a_missing_file_is_named(copy: Path, missing: str) -> None:
    (copy / missing).unlink()
    with pytest.raises(ModelError, match=missing):
        models.load_model("detector", device="cpu", models_dir=copy)


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"file": "detector.pt"}', '{"file": "", "sha256": "", "threshold": 0.5, "input": []}']
)
def test_a_manifest_that_says_nothing_is_refused(copy: Path, text: str) -> None:
    (copy / "detector.json").write_text(text)
    with pytest.raises(ModelError, match=r"detector\.json"):
        models.load_model("detector", device="cpu", models_dir=copy)


def test_asking_for_a_gpu_that_is_not_there_is_an_error_and_auto_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert models.choose_device("auto") == torch.device("cpu")
    with pytest.raises(InputError, match="cuda"):
        models.choose_device("cuda")


def test_a_checkpoint_of_the_other_network_is_refused(trained_nowhere: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"checkpoint\.pt is not a checkpoint of the segmenter"):
        export_model("segmenter", trained_nowhere / "d" / "checkpoint.pt", tmp_path)


def test_a_run_may_start_from_an_exported_network_and_only_from_one_that_fits(tmp_path: Path) -> None:
    config = SegmenterTraining(out=tmp_path, cases=tmp_path, cache=tmp_path)
    torch.manual_seed(1)
    trained, fresh = SegmenterObjective(config), SegmenterObjective(config)
    torch.jit.save(torch.jit.script(trained.network), str(tmp_path / "segmenter.pt"))
    start_from(tmp_path / "segmenter.pt", fresh)
    for name, value in trained.network.state_dict().items():
        assert torch.equal(fresh.network.state_dict()[name], value)
    (tmp_path / "text.pt").write_text("no network")
    torch.jit.save(torch.jit.script(torch.nn.Identity()), str(tmp_path / "empty.pt"))
    for wrong in ("text.pt", "missing.pt", "empty.pt"):
        with pytest.raises(InputError, match=f"{wrong} does not hold the weights"):
            start_from(tmp_path / wrong, fresh)
    detector = DetectorObjective(DetectorTraining(out=tmp_path, cases=tmp_path, cache=tmp_path))
    with pytest.raises(InputError, match="does not hold the weights"):
        start_from(tmp_path / "segmenter.pt", detector)
