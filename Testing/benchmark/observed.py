"""The command line as it is, but observed: ``python -m Testing.benchmark.observed FORMAT CALLS INPUT detect ...``.

Runs the networks in a number format (``own`` is what the machine would take), writes to the file CALLS what each
network was given and how long its calls took, and to the file INPUT what the detector was given.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from CMBDetectorLib import detect, models, pipeline
from CMBDetectorLib.__main__ import main as command_line


class Observed:
    """A network that notes the shape of its input and the wall time of every call, s."""

    def __init__(self, name: str, network: Any, calls: list[dict[str, Any]]) -> None:
        self.name, self.network, self.calls = name, network, calls

    def __getattr__(self, name: str) -> Any:
        return getattr(self.network, name)

    def __call__(self, x: torch.Tensor) -> Any:
        began = time.perf_counter()
        answer = self.network(x)
        self.calls.append({"network": self.name, "shape": list(x.shape), "s": time.perf_counter() - began})
        return answer


def main(number_format: str, calls_file: Path, input_file: Path, arguments: list[str]) -> int:
    calls: list[dict[str, Any]] = []

    def load_observed(name: str, **options: Any) -> models.Model:
        model = models.load_model(name, **options)
        observed: Any = Observed(name, model.module, calls)
        return dataclasses.replace(model, module=observed)

    def search_observed(model: models.Model, seen: Any, *rest: Any, **options: Any) -> Any:
        np.save(input_file, seen.array)
        return detect.detect(model, seen, *rest, **options)

    if number_format != "own":
        models.working_dtype = lambda device: getattr(torch, number_format)
    with mock.patch.multiple(pipeline, load_model=load_observed, detect=search_observed):
        code = command_line(arguments)
    calls_file.write_text(json.dumps(calls))
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:]))
