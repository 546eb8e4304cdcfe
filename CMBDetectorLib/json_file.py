"""JSON files that a user names, read with plain words for what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from CMBDetectorLib.errors import InputError


def read_json(path: Path) -> dict[str, Any]:
    """Content of a file that holds one JSON object; raises `InputError` that names the file when it does not."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise InputError(f"{path} cannot be opened: {problem.strerror}.") from None
    except ValueError as problem:
        raise InputError(f"{path} cannot be read as JSON: {problem}.") from None
    if not isinstance(content, dict):
        raise InputError(f'{path} holds no JSON object: {{"name": value, ...}}.')
    return content
