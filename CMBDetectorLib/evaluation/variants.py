"""The methods that an ablation compares: networks from checkpoints or models, and what each finds in a case."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from CMBDetectorLib import detect as detect_module
from CMBDetectorLib.detect import Detection, detect
from CMBDetectorLib.errors import InputError
from CMBDetectorLib.evaluation import blobs, components
from CMBDetectorLib.evaluation.prepared import PreparedCase
from CMBDetectorLib.models import Model, choose_device, describe, working_dtype
from CMBDetectorLib.networks.adapters import merge_adapters, merged
from CMBDetectorLib.networks.detector import Detector
from CMBDetectorLib.networks.plain_unet import PlainUNet
from CMBDetectorLib.preprocessing import NetworkInput
from CMBDetectorLib.training.export import averaged_network

LOWEST = 0.02  # probability kept: a FROC curve needs weaker answers than a reader
BLOBS = "blob detector"

Answers = dict[str, list[Detection]]  # by what a method leaves open, which validation decides


@dataclass(frozen=True, eq=False)
class Variant:
    """One method.

    Attributes
    ----------
    name : str
    key : str
        Names its answers on disk, by the weights and the code of the search; empty the folder after other changes.
    search : callable
        Gives the answers for a detector's input.
    detector : Model or None
        Its network, where that proposes boxes.
    """

    name: str
    key: str
    search: Callable[[NetworkInput], Answers]
    detector: Model | None = None


def blob_variant() -> Variant:
    """Give the reference without training."""
    return Variant(BLOBS, _key(None, detect_module, blobs), blobs.find_blobs)


def _key(weights: Path | None, *modules: ModuleType) -> str:
    """Name answers by the weights and by the code that they came from."""
    files = [Path(str(module.__file__)) for module in modules] + ([weights] if weights else [])
    return hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest()[:16]


def read_variant(name: str, path: Path, device: str = "auto") -> Variant:
    """Read a variant from a training checkpoint, or from a folder of exported networks.

    Raises
    ------
    InputError
        There is neither.
    """
    file = path / "detector.pt" if path.is_dir() else path
    network = _exported(file) if path.is_dir() else averaged_network("detector", file)[0]
    merge_adapters(network)  # as `models.load_model` does, before rounding to what the device computes in
    chosen = choose_device(device)
    dtype = working_dtype(chosen)
    network = network.eval().to(chosen, dtype).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    model = Model(network, {}, chosen, dtype, describe(chosen, dtype))
    key = _key(file, detect_module, *([components] if isinstance(network, PlainUNet) else []))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript
        frozen = replace(model, module=torch.jit.freeze(torch.jit.script(network)))  # as searches run it, and faster
    if isinstance(network, PlainUNet):
        return Variant(name, key, partial(components.find_components, frozen))
    return Variant(name, key, lambda seen: {"": detect(frozen, seen, LOWEST, lambda *_: None)}, model)


def _exported(file: Path) -> nn.Module:
    """Detector with the weights of an exported one, of which pictures need more than its answer."""
    try:
        weights = merged(torch.jit.load(str(file), map_location="cpu").state_dict())
        network = Detector(ffm=any(name.startswith("fusion") for name in weights))
        network.load_state_dict(weights)
    except (OSError, RuntimeError, ValueError) as problem:
        raise InputError(f"{file} holds no exported detector ({str(problem).splitlines()[0]}).") from None
    return network


def answers(variant: Variant, case: PreparedCase, cache: Path) -> Answers:
    """What a variant finds in a case, by falling probability; searched once and then read from disk."""
    file = cache / variant.key / f"{case.folder.name}.json"
    if not file.exists() or file.stat().st_mtime < (case.folder / "case.json").stat().st_mtime:
        found = variant.search(case.network_input())
        rows = {choice: [astuple(detection) for detection in detections] for choice, detections in found.items()}
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(rows), encoding="utf-8")
    return {
        choice: [Detection(tuple(center), diameter, probability) for center, diameter, probability in rows]
        for choice, rows in json.loads(file.read_text(encoding="utf-8")).items()
    }
