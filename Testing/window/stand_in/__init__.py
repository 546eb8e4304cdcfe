"""A stand-in for Slicer's application, around real MRML (slicer-core) and real Qt (PySide6).

It bends to the module, never the other way: what Slicer's PythonQt does not offer, it refuses. `widget_api.json` holds
the names that a real Slicer offers. What it cannot show: how ctk and qMRML widgets look, layouts, module discovery.
"""

from Testing.window.stand_in.application import start

__all__ = ["start"]
