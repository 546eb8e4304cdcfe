"""The Python packages that a search needs and Slicer does not bring: which are missing, and how to get them."""

import importlib
import importlib.util
import logging

from slicer.i18n import tr as _

# Name to import: what pip is asked for.
REQUIREMENTS = {"torch": "torch>=2.5", "skimage": "scikit-image>=0.22"}
NAMES = {"torch": "PyTorch", "skimage": "scikit-image"}


def missing():
    """Names to import of the packages that are not installed. Nothing is imported: torch takes seconds."""
    return [name for name in REQUIREMENTS if not _isInstalled(name)]


def _isInstalled(name):
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def explanation(names):
    """Say what is missing and what to do; empty when nothing is."""
    if not names:
        return ""
    packages = [NAMES[name] for name in names]
    if len(packages) == 1:
        return _("This Slicer lacks {package}, which the search needs. Reviewing works without.").format(
            package=packages[0]
        )
    return _("This Slicer lacks {first} and {second}, which the search needs. Reviewing works without.").format(
        first=packages[0], second=packages[1]
    )


def offlineAdvice(names):
    """Say how to install without internet, as plain text that can be copied."""
    packages = " ".join(REQUIREMENTS[name].partition(">")[0] for name in names)
    console = f"slicer.util.pip_install('--no-index --find-links /path/to/wheels {packages}')"
    return _(
        "Without internet: on a computer of the same kind that has internet, run\n"
        "    PythonSlicer -m pip download -d wheels {packages}\n"
        "copy the folder wheels to this computer, and in Slicer's Python console run\n"
        "    {console}"
    ).format(packages=packages, console=console)


def install(names):
    """Install what is missing; Slicer asks before anything is downloaded.

    Raises RuntimeError that says what to do where that is not possible.
    """
    if "torch" in names:
        try:
            import PyTorchUtils
        except ImportError:
            raise RuntimeError(
                _("Install the extension PyTorch with the Extensions Manager, restart Slicer, and try again.")
            ) from None
        logic = PyTorchUtils.PyTorchUtilsLogic()
        version = REQUIREMENTS["torch"].removeprefix("torch")
        try:
            isDone = logic.installTorch(askConfirmation=True, torchVersionRequirement=version) is not None
        except Exception:
            # Having installed it, the extension imports it into this Slicer, which may fail over what is loaded here
            # already. The worker is a new process.
            importlib.invalidate_caches()
            isDone = _isInstalled("torch")
            if not isDone:
                raise
            logging.exception("PyTorch was installed, but cannot be imported into this Slicer.")
        if not isDone:
            raise RuntimeError(_("PyTorch was not installed."))
    others = [REQUIREMENTS[name] for name in names if name != "torch"]
    if others:
        from packaging.requirements import Requirement
        from slicer.packaging import pip_ensure

        pip_ensure([Requirement(text) for text in others], requester="CMB Detector")
    importlib.invalidate_caches()
