"""Which volumes of a scene are surely the SWI and its phase, by their names and by what the scanner wrote."""

import re

NOT_SEARCHED = re.compile(r"MIN_?IP|MNIP|\bMIP|PROJ|LABEL|SEG|MASK", re.IGNORECASE)
PHASE = re.compile(r"(^|[^A-Z])(PHA(SE)?|PH|PHS|FILT\w*)([^A-Z]|$)", re.IGNORECASE)
SWI = re.compile(r"(^|[^A-Z])(SWI|SWAN|SWIP|VEN_?BOLD|VENOBOLD)([^A-Z]|$)|SUSCEPTIB", re.IGNORECASE)
MAGNITUDE = re.compile(r"(^|[^A-Z])MAG(NITUDE)?([^A-Z]|$)", re.IGNORECASE)


def kind(name, acquisition=None):
    """Say what an image is: "swi", "phase" or "" where neither is clear.

    Parameters
    ----------
    name : str
        Of the volume node.
    acquisition : CMBDetectorLib.volume.Acquisition or None
        What the scanner wrote, where that is known.
    """
    words = name
    elements = set()
    if acquisition:
        words += " " + acquisition.series
        elements = set(acquisition.image_type.upper().split("\\"))
        if acquisition.modality not in ("", "MR"):
            return ""
    if NOT_SEARCHED.search(words) or elements & {"MNIP", "MINIP", "MIN IP"}:
        return ""
    if elements & {"P", "PHASE", "PHASE MAP"} or PHASE.search(words):
        return "phase"
    if MAGNITUDE.search(words):
        return ""
    return "swi" if SWI.search(words) or "SWI" in elements else ""


def clearPair(volumes):
    """Choose SWI and phase among (volume, name, acquisition); None where there is no choice or more than one."""
    found = {"swi": [], "phase": [], "": []}
    for volume, name, acquisition in volumes:
        found[kind(name, acquisition)].append((volume, acquisition))
    if len(found["swi"]) != 1:
        return None, None
    swi, said = found["swi"][0]
    frame = said.frame_of_reference if said else ""
    phases = [
        volume
        for volume, its in found["phase"]
        if not frame or not its or not its.frame_of_reference or its.frame_of_reference == frame
    ]
    return swi, phases[0] if len(phases) == 1 else None
