"""MONAI's sliding window with our detector: ``python -m Testing.benchmark.sliding_window INPUT.npy FORMAT``.

``float32`` is what one would write first: the network as it is exported, four windows at once. ``bfloat16`` is what one
would come to: frozen, channels last, one window at a time.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from monai.inferers import sliding_window_inference

from CMBDetectorLib.networks.adapters import merge_adapters
from CMBDetectorLib.resources import resources_dir
from Testing.benchmark.process import say

WINDOW = (128, 128, 64)  # voxels: 64 mm
AT_ONCE = {"float32": 4, "bfloat16": 1}


def main(file: Path, number_format: str) -> int:
    """Search the detector's whole input; the number of windows."""
    dtype = getattr(torch, number_format)
    network = torch.jit.load(str(resources_dir() / "Models" / "detector.pt")).eval()
    merge_adapters(network)
    layout = torch.preserve_format
    if number_format != "float32":
        layout = torch.channels_last_3d
        network = torch.jit.freeze(network.to(dtype=dtype, memory_format=layout))
    windows = 0

    def answer(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal windows
        windows += len(x)
        logits, boxes = network(x.to(memory_format=layout))
        return logits, boxes.flatten(1, 2)  # MONAI joins images, not lists of boxes

    say("detect")
    x = torch.from_numpy(np.load(file))[None].to(dtype)
    with torch.inference_mode():
        sliding_window_inference(x, WINDOW, AT_ONCE[number_format], answer)
    return windows


if __name__ == "__main__":
    print(json.dumps({"windows": main(Path(sys.argv[1]), sys.argv[2])}))
