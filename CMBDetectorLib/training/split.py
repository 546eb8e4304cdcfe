"""Which heads train, validate and test, fixed by hand in split.json so that no head is ever in two parts."""

from __future__ import annotations

import json
from pathlib import Path

PARTS = ("train", "validation", "test")


def heads_of(part: str) -> tuple[str, ...]:
    """Names of the heads of one part, such as ``("02", "03")``; ``all`` gives every head.

    >>> len(heads_of("train")), len(heads_of("validation")), len(heads_of("test"))
    (9, 3, 3)
    """
    split = json.loads(Path(__file__).with_name("split.json").read_text(encoding="utf-8"))
    return tuple(head for name in (PARTS if part == "all" else (part,)) for head in split[name])
