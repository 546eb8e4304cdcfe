"""What a network answers to a whole input at every scale: the search, told the slow way."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from CMBDetectorLib.networks.anchors import MULTIPLE
from CMBDetectorLib.scales import SCALES, at_full_size, scaled


def mean_of_looks(ask: Callable[[Tensor], Tensor], array: np.ndarray) -> Tensor:
    """Mean over the scales of the answers (N, C, cells) to an input (C, R, A, S) that is filled up to whole blocks."""
    answers: list[Tensor] = []
    for scale in SCALES:
        look = scaled(torch.from_numpy(array), scale)
        padding = [n for length, m in zip(look.shape[:0:-1], MULTIPLE[::-1], strict=True) for n in (0, -length % m)]
        with torch.inference_mode():
            answer = ask(functional.pad(look, padding)[None])
        answers.append(at_full_size(answer, scale, (answers or [answer])[0].shape[2:]))
    return torch.stack(answers).mean(dim=0)
