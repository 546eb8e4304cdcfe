"""The bundled networks: checked against their manifests, loaded, and placed on the best device there is.

A model is two files: ``<name>.pt`` (TorchScript) and ``<name>.json``, its manifest, which says what it reads, what
it answers, what it was trained on, and the SHA-256 that `load_model` verifies before anything is executed.
"""

from __future__ import annotations

import hashlib
import io
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from CMBDetectorLib.errors import InputError, ModelError, is_want_of_memory
from CMBDetectorLib.networks.adapters import merge_adapters
from CMBDetectorLib.preprocessing import DETECTOR_SPACING_MM, SEGMENTER_SPACING_MM
from CMBDetectorLib.resources import resources_dir

REMEDY = "Install CMBDetector again."
SPACING_MM = {"detector": DETECTOR_SPACING_MM, "segmenter": SEGMENTER_SPACING_MM}
CHANNELS = {"detector": ["SWI", "phase", "spacing"], "segmenter": ["SWI", "R", "A", "S"]}


@dataclass(frozen=True, eq=False)
class Model:
    """A network that is ready to run.

    Attributes
    ----------
    module : torch.jit.ScriptModule
        Frozen, in evaluation mode. Give it tensors of `dtype` on `device`, best in `torch.channels_last_3d`; run it
        under `torch.inference_mode`.
    manifest : dict
        Content of ``<name>.json``.
    device : torch.device
    dtype : torch.dtype
        bfloat16 on CPUs that compute in it, half on GPUs, float32 elsewhere.
    description : str
        For provenance, such as ``cpu, bfloat16, 2 threads``.
    """

    module: torch.jit.ScriptModule
    manifest: dict[str, Any]
    device: torch.device
    dtype: torch.dtype
    description: str


def load_model(name: str, *, device: str = "auto", models_dir: Path | None = None) -> Model:
    """Verify and load a bundled network.

    Parameters
    ----------
    name : str
        ``detector`` or ``segmenter``.
    device : str
        ``auto`` (a GPU where there is one), ``cpu`` or ``cuda``.
    models_dir : Path or None
        Folder of the two files; None takes the bundled ones.

    Raises
    ------
    ModelError
        A file is missing, unreadable, or not the one that the manifest describes, or the network reads other voxels
        or channels than this version makes.
    InputError
        ``cuda`` was asked for and there is none.
    """
    chosen = choose_device(device)
    folder = Path(models_dir) if models_dir is not None else resources_dir() / "Models"
    manifest = read_manifest(folder / f"{name}.json")
    if manifest["input"]["spacing_mm"] != [*SPACING_MM[name]]:
        read, made = (" x ".join(f"{n:g}" for n in mm) for mm in (manifest["input"]["spacing_mm"], SPACING_MM[name]))
        raise ModelError(
            f"The manifest {folder / name}.json is of another version of CMBDetector: its network reads voxels of "
            f"{read} mm, and this version makes {made} mm. {REMEDY}"
        )
    if (channels := manifest["input"].get("channels")) != CHANNELS[name]:
        raise ModelError(
            f"The manifest {folder / name}.json is of another version of CMBDetector: its network reads {channels}, "
            f"and this version makes {CHANNELS[name]}. {REMEDY}"
        )
    path = folder / str(manifest["file"])
    try:
        content = path.read_bytes()
    except OSError as problem:
        raise ModelError(f"The network {path} cannot be read ({problem.strerror}). {REMEDY}") from None
    if hashlib.sha256(content).hexdigest() != manifest["sha256"]:
        raise ModelError(f"The network {path} is damaged: its checksum is not the manifest's. {REMEDY}")

    dtype = working_dtype(chosen)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript; every torch from 2.5 on reads it
            module = torch.jit.load(io.BytesIO(content), map_location="cpu").eval()
            merge_adapters(module)
            module = module.to(device=chosen, dtype=dtype, memory_format=torch.channels_last_3d)
            module = torch.jit.freeze(module)
    except RuntimeError as problem:
        if is_want_of_memory(problem):  # says nothing about the network
            raise
        reason = str(problem).strip().splitlines()[0]
        raise ModelError(f"torch {torch.__version__} cannot load the network {path} ({reason}). {REMEDY}") from None
    return Model(module, manifest, chosen, dtype, describe(chosen, dtype))


def read_manifest(path: Path) -> dict[str, Any]:
    """Content of a manifest; raises `ModelError` that names the file when it cannot be used."""
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise ModelError(f"The manifest {path} cannot be read ({problem.strerror}). {REMEDY}") from None
    except ValueError:
        raise ModelError(f"The manifest {path} is damaged: it is not JSON. {REMEDY}") from None
    if not isinstance(manifest, dict) or not {"file", "sha256", "threshold", "input"} <= set(manifest):
        raise ModelError(f"The manifest {path} names no file, no checksum, no threshold or no input. {REMEDY}")
    spacing_mm = manifest["input"].get("spacing_mm") if isinstance(manifest["input"], dict) else None
    if not isinstance(spacing_mm, list) or not all(isinstance(mm, float | int) for mm in spacing_mm):
        raise ModelError(f"The manifest {path} does not say which voxels the network reads (spacing_mm). {REMEDY}")
    return manifest


def choose_device(device: str) -> torch.device:
    """Choose the device meant by ``auto``, ``cpu`` or ``cuda``; ``auto`` falls back to the CPU silently."""
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("The device is 'cuda', but torch finds no GPU. Choose 'auto' or 'cpu'.")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def working_dtype(device: torch.device) -> torch.dtype:
    """Choose the fastest floating type in which a device computes natively."""
    if device.type == "cuda":
        return torch.float16
    return torch.bfloat16 if has_native_bfloat16() else torch.float32


def has_native_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware (AVX512-BF16 or AMX); emulation is slower than float32."""
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # private, so its absence must not hurt
    return bool(probe is not None and probe())


def describe(device: torch.device, dtype: torch.dtype) -> str:
    """Device, number format and threads in words, such as ``cpu, bfloat16, 2 threads``."""
    kind = str(dtype).removeprefix("torch.")
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, {kind}"
    return f"cpu, {kind}, {torch.get_num_threads()} threads"
