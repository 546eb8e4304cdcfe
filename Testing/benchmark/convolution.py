"""How many floating point operations the networks take, and how many a second this machine does at most.

``python -m Testing.benchmark.convolution FORMAT CALLS`` says both, for the calls that `observed` wrote down.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from CMBDetectorLib.networks.detector import Detector
from CMBDetectorLib.networks.segmenter import Segmenter

NETWORKS: dict[str, type[nn.Module]] = {"detector": Detector, "segmenter": Segmenter}
CHANNELS = (64, 128)
EDGE = 64  # voxels: large enough that the kernel, not its start, takes the time
REPEATS = 5


def operations(network: nn.Module, shape: tuple[int, ...]) -> int:
    """Floating point operations (a multiplication and an addition are two) of the convolutions for an input."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network.to("meta").eval()(torch.empty(shape))
    return counter.get_total_flops()


def operations_of_calls(calls: list[dict[str, Any]], name: str) -> int:
    """Operations of all calls of one network, ``detector`` or ``segmenter``, that `observed` wrote down."""
    return sum(operations(NETWORKS[name](), tuple(call["shape"])) for call in calls if call["network"] == name)


def peak(dtype: torch.dtype) -> float:
    """Most operations per second that a large 3x3x3 convolution reaches here: the best of several."""
    best = 0.0
    for channels in CHANNELS:
        convolution = nn.Conv3d(channels, channels, 3, padding=1, bias=False, dtype=dtype)
        convolution.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        x = torch.randn(1, channels, EDGE, EDGE, EDGE).to(dtype=dtype, memory_format=torch.channels_last_3d)
        count = 2 * 27 * channels**2 * EDGE**3
        with torch.inference_mode():
            for _ in range(REPEATS):
                began = time.perf_counter()
                convolution(x)
                best = max(best, count / (time.perf_counter() - began))
    return best


if __name__ == "__main__":
    calls = json.loads(Path(sys.argv[2]).read_text())
    figures = {
        "peak": peak(getattr(torch, sys.argv[1])),
        "operations": {n: operations_of_calls(calls, n) for n in NETWORKS},
    }
    print(json.dumps(figures))
