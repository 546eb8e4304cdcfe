"""The one definition of an anatomical region: numbers, names, groups, colors and standard codes.

The 13 sub-regions follow the Microbleed Anatomical Rating Scale (MARS; Gregoire et al., Neurology 2009); the three
groups are those of Kim et al. (arXiv 2306.13020): lobar, deep, infratentorial.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Region(str, Enum):
    """Group of MARS sub-regions; the value is what tables and labels show."""

    LOBAR = "lobar"
    DEEP = "deep"
    INFRATENTORIAL = "infratentorial"


class Side(str, Enum):
    """Side of the patient's body, not of the picture."""

    LEFT = "left"
    RIGHT = "right"
    MIDLINE = "midline"


@dataclass(frozen=True)
class SubRegion:
    """One MARS sub-region.

    Attributes
    ----------
    label : int
        Its number in label maps (1-13; 0 is "none").
    name : str
        What tables and pictures show.
    region : Region
        The group it belongs to.
    color : tuple of int
        sRGB, 0-255.
    sct_code, sct_meaning : str
        SNOMED CT concept, for DICOM-aware segments.
    """

    label: int
    name: str
    region: Region
    color: tuple[int, int, int]
    sct_code: str
    sct_meaning: str


SUB_REGIONS: tuple[SubRegion, ...] = (
    SubRegion(1, "brainstem", Region.INFRATENTORIAL, (31, 120, 120), "119238007", "Brain stem"),
    SubRegion(2, "cerebellum", Region.INFRATENTORIAL, (102, 194, 165), "113305005", "Cerebellum"),
    SubRegion(3, "basal ganglia", Region.DEEP, (227, 119, 64), "32610002", "Basal ganglion"),
    SubRegion(4, "thalamus", Region.DEEP, (201, 82, 43), "119406000", "Thalamus"),
    SubRegion(5, "internal capsule", Region.DEEP, (253, 190, 133), "85637007", "Internal capsule"),
    SubRegion(6, "external capsule", Region.DEEP, (246, 158, 100), "10517005", "External capsule"),
    SubRegion(7, "corpus callosum", Region.DEEP, (252, 214, 170), "88442005", "Corpus callosum"),
    SubRegion(8, "deep and periventricular white matter", Region.DEEP, (238, 220, 190), "68523003", "White matter"),
    SubRegion(9, "frontal", Region.LOBAR, (106, 148, 212), "83251001", "Frontal lobe"),
    SubRegion(10, "parietal", Region.LOBAR, (141, 120, 202), "16630005", "Parietal lobe"),
    SubRegion(11, "temporal", Region.LOBAR, (80, 176, 222), "78277001", "Temporal lobe"),
    SubRegion(12, "occipital", Region.LOBAR, (190, 150, 214), "31065004", "Occipital lobe"),
    SubRegion(13, "insula", Region.LOBAR, (70, 100, 180), "36169008", "Insula"),
)

BY_LABEL: dict[int, SubRegion] = {sub.label: sub for sub in SUB_REGIONS}

REGION_COLORS: dict[Region, tuple[int, int, int]] = {
    Region.LOBAR: (96, 150, 220),
    Region.DEEP: (230, 126, 60),
    Region.INFRATENTORIAL: (62, 170, 140),
}
