"""Where the bundled networks and the sample case lie."""

from __future__ import annotations

from pathlib import Path

from CMBDetectorLib.errors import ModelError


def resources_dir() -> Path:
    """Folder that holds ``Models`` and ``SampleData``.

    It lies beside the package in a source tree and in Slicer (``CMakeLists.txt`` installs it so), and inside the
    package where pip installed a wheel (``pyproject.toml`` maps it there).

    Raises
    ------
    ModelError
        Neither place has one.
    """
    package = Path(__file__).resolve().parent
    for folder in (package.parent / "Resources", package / "Resources"):
        if (folder / "Models").is_dir():
            return folder
    raise ModelError(f"The bundled networks are missing: there is no Resources/Models at {package}. Install again.")
