"""From a checkpoint to a model: TorchScript of the averaged weights, and the manifest that belongs to it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from CMBDetectorLib import __version__, models
from CMBDetectorLib.errors import InputError, OutputError
from CMBDetectorLib.networks.adapters import adapt, halve_adapters
from CMBDetectorLib.networks.detector import Detector
from CMBDetectorLib.networks.plain_unet import PlainUNet
from CMBDetectorLib.networks.segmenter import Segmenter
from CMBDetectorLib.request import Settings
from CMBDetectorLib.training.split import heads_of

NETWORKS: dict[str, Callable[[dict[str, Any]], nn.Module]] = {
    "detector": lambda config: PlainUNet() if config.get("head") == "mask" else _detector(config),
    "segmenter": lambda config: Segmenter(config["coordinates"]),
}


def _detector(config: dict[str, Any]) -> Detector:
    network = Detector(config["ffm"])
    if rank := config.get("rank"):
        adapt(network, rank, config["kept"])
    return network


CONTRACTS: dict[str, dict[str, Any]] = {
    "detector": {
        "input": {
            "shape": "(B, 3, R, A, S), R and A multiples of 32, S of 16",
            "orientation": "RAS",
            "spacing_mm": [*models.SPACING_MM["detector"]],
            "channels": models.CHANNELS["detector"],
            "normalization": "SWI over its local brain mean, minus 1; phase, high-pass filtered, paramagnetic "
            "positive, over pi, or zeros without phase; half the log2 of the scan's voxel size along S (from 1.2 "
            "to 4.2 mm) over 2 mm; all clipped to [-1, 1] and 0 outside the brain",
        },
        "output": {
            "logits": "(B, 3, R/4, A/4, S/2): objectness of anchors of 2.5, 5 and 10 mm before the sigmoid",
            "boxes": "(B, 3, 4, R/4, A/4, S/2): offset along R, A, S in anchor diameters, log(diameter / anchor)",
            "probability": "what the threshold is for: sigmoid of the mean logits of the input as it is and "
            "smoothed by 0.5 mm (detect.looks)",
        },
    },
    "segmenter": {
        "input": {
            "shape": "(B, 4, R, A, S), multiples of 16, 16 and 8",
            "orientation": "RAS",
            "spacing_mm": [*models.SPACING_MM["segmenter"]],
            "channels": models.CHANNELS["segmenter"],
            "normalization": "SWI as z-score over the head, clipped to [-3, 3]; coordinates relative to the head's "
            "centroid, in units of 100 mm",
        },
        "output": {
            "logits": "(B, 15, R, A, S): 14 classes (0 none, 1-13 MARS sub-regions; softmax), left side (sigmoid)"
        },
    },
}

EXAMPLE_INPUT = {
    "detector": (1, len(models.CHANNELS["detector"]), 64, 32, 32),
    "segmenter": (1, len(models.CHANNELS["segmenter"]), 64, 32, 48),
}
TOLERANCE = 1e-4  # largest difference between the script and the module it was made from
FRACTION_BITS = 23  # of float32; the first significant bit is not among them
DEFAULT_THRESHOLD = 0.5  # until one is chosen on validation heads


def export_model(
    name: str,
    checkpoint: Path,
    models_dir: Path,
    *,
    threshold: float | None = None,
    threshold_without_phase: float | None = None,
) -> Path:
    """Write ``<name>.pt`` and ``<name>.json``.

    Parameters
    ----------
    name : str
        ``detector`` or ``segmenter``.
    checkpoint : Path
        From `CMBDetectorLib.training.loop.fit`; the running average of the weights is exported.
    models_dir : Path
        Folder for both files.
    threshold : float or None
        Probability that is reported by default (detector), chosen on validation heads.
    threshold_without_phase : float or None
        Likewise for SWI alone; None takes `threshold`.

    Returns
    -------
    Path
        The manifest. Its ``figures`` are empty until evaluation fills them (`update_manifest`).

    Raises
    ------
    InputError
        The checkpoint is unreadable or of another network, or a threshold is none that a search takes.
    OutputError
        The script does not compute what the module computes.
    """
    network, state = averaged_network(name, checkpoint)
    if isinstance(network, PlainUNet):
        raise InputError(
            f"{checkpoint} is of the plain U-Net, which the detector is compared with and never replaced by."
        )

    thresholds = _thresholds(name, threshold, threshold_without_phase)
    models_dir.mkdir(parents=True, exist_ok=True)
    path = models_dir / f"{name}.pt"
    halve_adapters(network)
    script(network, torch.rand(EXAMPLE_INPUT[name]), path)
    manifest = {
        "name": name,
        "file": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "format": "TorchScript",
        "torch": torch.__version__,
        **CONTRACTS[name],
        **thresholds,
        "training": {
            "config": _without_folders(state["config"]),
            "started_from": state.get("started_from"),
            "heads": state.get("heads") or heads_of(state["config"]["split"]),
            "cases": state["cases"],
            "steps": state["step"],
            "minutes": round(state["seconds"] / 60, 1),
            "seed": state["config"]["seed"],
            "simulator": __version__,
        },
        "figures": {},
        "license": "Apache-2.0",
        "origin": "Trained by this project on simulated scans of SynthSeg's label maps (Billot et al. 2023); "
        "architecture after Kim et al. (arXiv 2306.13020), which published no code or weights.",
        "limits": "Trained on simulated lesions in simulated scans; not validated on patients. Research use only.",
        "created": date.today().isoformat(),
    }
    return write_manifest(models_dir / f"{name}.json", manifest)


def _thresholds(name: str, threshold: float | None, without_phase: float | None) -> dict[str, float | None]:
    if name != "detector":
        return {"threshold": None}
    with_phase = DEFAULT_THRESHOLD if threshold is None else threshold
    alone = with_phase if without_phase is None else without_phase
    # What a search would refuse must not become its default.
    return {
        "threshold": Settings(threshold=with_phase).threshold,
        "threshold_without_phase": Settings(threshold=alone).threshold,
    }


def averaged_network(name: str, checkpoint: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Give the network of a checkpoint with the running average of its weights, and what else it holds.

    They are `rounded`, but for parts that the run kept, and kernels and batch statistics beside which it trained
    adapters: those stay as they were.
    """
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        network = NETWORKS[name](state["config"])
        prefix = "network."
        weights = {k.removeprefix(prefix): v for k, v in state["average"].items() if k.startswith(prefix)}
        kept = tuple(f"{part}." for part in state["config"].get("kept", ()))
        if state["config"].get("rank"):
            kept += tuple(name for name, weight in weights.items() if weight.ndim > 2 or "running" in name)
        network.load_state_dict(
            {name: weight if name.startswith(kept) else rounded(weight) for name, weight in weights.items()}
        )
    except OSError as problem:
        raise InputError(f"{checkpoint} cannot be opened: {problem.strerror}.") from None
    except (
        RuntimeError,
        EOFError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        struct.error,
        pickle.UnpicklingError,
    ):  # torch may raise any of them of a strange file
        raise InputError(f"{checkpoint} is not a checkpoint of the {name}.") from None
    return network.eval(), state


def rounded(weights: Tensor) -> Tensor:
    """Weights in float32: kernels with the 8 significant bits of bfloat16, vectors with 11, adapters with 5.

    They pack to half, in the repository and on the way to its users. A CPU that computes in bfloat16 reads no more of
    the kernels; norms are few, and what they do adds up over a layer. Adapters, the only matrices, say small changes.
    """
    if weights.dtype != torch.float32:
        return weights
    if weights.ndim > 2:
        return weights.bfloat16().float()
    spare = FRACTION_BITS - (4 if weights.ndim == 2 else 10)
    bits = weights.contiguous().view(torch.int32)
    nearest = ((bits + (1 << (spare - 1))) & -(1 << spare)).view(torch.float32)
    return torch.where(weights.isfinite(), nearest, weights)


def script(network: nn.Module, example: Tensor, path: Path) -> None:
    """Save a module as TorchScript after checking, on the reloaded file, that it still computes the same."""
    part = path.with_suffix(".part")
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript
        torch.jit.save(torch.jit.script(network), str(part))
        _without_source_lines(part)
        expected, found = network(example), torch.jit.load(str(part))(example)
    pairs = [(expected, found)] if isinstance(expected, Tensor) else list(zip(expected, found, strict=True))
    difference = max(float((a - b).abs().max()) for a, b in pairs)
    if not difference < TOLERANCE:
        part.unlink()
        raise OutputError(f"{path} was not written: the script differs from its network by {difference:.2g}.")
    os.replace(part, path)


def _without_source_lines(path: Path) -> None:
    """Write a TorchScript file anew without the paths and lines of the source here: 17 kB, and nobody's business."""
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as had, zipfile.ZipFile(path, "w") as file:
        for name in had.namelist():
            if not name.endswith(".debug_pkl"):
                file.writestr(zipfile.ZipInfo(name), had.read(name))


def update_manifest(path: Path, *, figures: dict[str, Any]) -> Path:
    """Add what evaluation found to a manifest."""
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["figures"] = {**manifest["figures"], **figures}
    return write_manifest(path, manifest)


def write_manifest(path: Path, manifest: dict[str, Any]) -> Path:
    """Write a manifest as JSON and return its path."""
    path.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return path


def _without_folders(config: dict[str, Any]) -> dict[str, Any]:
    """Drop where this run's files lay: it is nobody's business and repeats nothing."""
    return {name: value for name, value in config.items() if name not in ("out", "cases", "cache", "heads", "initial")}
