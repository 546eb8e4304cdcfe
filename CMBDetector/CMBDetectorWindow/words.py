"""Words of the library that the panel shows, in the language of Slicer."""

from functools import cache

from slicer.i18n import tr as _


@cache  # Slicer looks for its caller and the word anew each time, too slow for every cell of a table
def translated(text):
    """A word or sentence of the library as Slicer's user reads it; English where there is no translation."""
    return _(text)


def regionOf(place):
    """The region of a place, and where it lies at the border of two, the other one."""
    region = translated(place.region.value)
    if not place.or_region:
        return region
    return _("{region} or {other}").format(region=region, other=translated(place.or_region.value))


def collected():
    """All of them as literal texts, because the tool that collects what is to be translated reads no others."""
    return (
        # Verdicts and markers
        _("undecided"), _("accepted"), _("rejected"), _("excluded"),
        # Regions and sides
        _("lobar"), _("deep"), _("infratentorial"), _("left"), _("right"), _("midline"),
        _("brainstem"), _("cerebellum"), _("basal ganglia"), _("thalamus"), _("internal capsule"),
        _("external capsule"), _("corpus callosum"), _("deep and periventricular white matter"), _("frontal"),
        _("parietal"), _("temporal"), _("occipital"), _("insula"),
        # What the phase says
        _("paramagnetic"), _("diamagnetic"), _("uncertain"), _("no phase"),
        # What keys do
        _("next finding"), _("finding before"), _("accept"), _("reject"), _("undo"), _("hide or show markers"),
        _("minIP on or off"), _("swap SWI and phase"), _("load sample case"), _("detect, or cancel"),
        _("save the table"),
        # Stages of a search
        _("Reading the images"), _("Checking the images"), _("Finding the brain's regions"),
        _("Preparing SWI and phase"), _("Searching the brain"), _("Measuring the candidates"),
        _("Writing the results"),
    )  # fmt: skip
