"""Run the scene and window tests inside Slicer: ``Slicer --python-script Testing/run_in_slicer.py``.

Slicer asks before it installs pytest and scikit-image; ``--yes`` answers beforehand. Other arguments go to pytest,
whose status is the exit status of Slicer. Where the module is not among those that Slicer has loaded, it is loaded
from this tree.
The tests that search need torch, too, and are skipped without it; the panel of the module installs it.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path

import slicer
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
LEVELS = ("mrml", "window")
NEVER_RAN = 1


def load_module() -> None:
    """Load the module from this tree, unless Slicer has it."""
    if hasattr(slicer.modules, "cmbdetector"):
        return
    import qt

    factory = slicer.app.moduleManager().factoryManager()
    factory.registerModule(qt.QFileInfo(str(ROOT / "CMBDetector" / "CMBDetector.py")))
    if not factory.loadModules(["CMBDetector"]):
        raise RuntimeError("The module CMBDetector could not be loaded; the error log says why.")
    importlib.import_module("CMBDetector").registerAtStartup()  # Slicer has started long ago


def run(arguments: list[str]) -> int:
    """Run both levels of tests in this Slicer; returns the status of pytest."""
    load_module()
    from slicer.packaging import pip_ensure

    from CMBDetectorWindow.installation import REQUIREMENTS

    ask = "--yes" not in arguments
    pip_ensure(
        [Requirement("pytest>=8"), Requirement(REQUIREMENTS["skimage"])],
        prompt_install=ask,
        prompt_restart=ask,
        skip_in_testing=ask,
        requester="CMBDetector tests",
    )
    import pytest

    sys.path.insert(0, str(ROOT))
    levels = [str(ROOT / "Testing" / level) for level in LEVELS]
    # Slicer's own output has no file descriptors on every system: none to capture, and none for a crash to be told on.
    options = [f"--rootdir={ROOT}", "--capture=sys", "-p", "no:faulthandler"]
    return int(pytest.main([*options, *levels, *(a for a in arguments if a != "--yes")]))


status = NEVER_RAN
try:
    status = run(sys.argv[1:])
except BaseException:
    # Slicer would stay open on a traceback, and a dashboard would wait for it.
    traceback.print_exc()
print("CMBDetector tests:", "passed" if status == 0 else f"failed (status {status})", flush=True)
slicer.util.exit(status)
