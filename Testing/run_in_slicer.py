"""Run the scene and window tests inside Slicer: ``Slicer --python-script Testing/run_in_slicer.py``.

Slicer asks before it installs pytest; ``--yes`` answers beforehand. Other arguments go to pytest, whose status is
the exit status of Slicer.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

import slicer
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]


def run(arguments: list[str]) -> int:
    agreed = "--yes" in arguments
    slicer.packaging.pip_ensure(
        [Requirement("pytest>=8")], prompt_install=not agreed, skip_in_testing=not agreed, requester="CMBDetector tests"
    )
    import pytest

    sys.path.insert(0, str(ROOT))
    levels = [str(folder) for name in ("mrml", "window") if (folder := ROOT / "Testing" / name).is_dir()]
    return int(pytest.main([f"--rootdir={ROOT}", *levels, *(a for a in arguments if a != "--yes")]))


try:
    status = run(sys.argv[1:])
except Exception:
    # Slicer would stay open on a traceback, and a dashboard would wait for it.
    traceback.print_exc()
    status = 1
print("CMBDetector tests:", "passed" if status == 0 else f"failed (status {status})")
slicer.util.exit(status)
