"""Cerebral microbleed (CMB) candidates from SWI and phase, located and reported. Research use only.

The way through the library, one file per step::

    volume -> preflight -> phase, preprocessing -> segment, detect -> localize, evidence -> candidate -> pipeline
        -> report -> review -> scene

``python -m CMBDetectorLib`` is the command line, ``python -m CMBDetectorLib.worker`` the child process that a
window drives. Nothing here imports Qt; only `scene` knows Slicer and VTK.
"""

__version__ = "0.1.0"

RESEARCH_USE = (
    "Research use only. Trained on simulated lesions in simulated scans; not clinically validated. "
    "Every candidate needs a reader's decision."
)
