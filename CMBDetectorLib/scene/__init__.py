"""Results and reviews in an open MRML scene: the only room that knows Slicer and VTK. No Qt, no screen, no network.

==================  ====================================================================
`case`              one case and its review, kept in the scene: `case.show_result`, `case.cases`
`volumes`           volume nodes as files for the worker, and as `volume.Volume`
`markups`           the findings as points: one list and one color per verdict
`segments`          the regions as a segmentation, three groups or thirteen
==================  ====================================================================
"""
