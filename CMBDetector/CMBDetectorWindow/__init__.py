"""The panel of the module, one concern per file. Imported when the panel is made, not when Slicer starts."""
