"""The slice views of a review: SWI and phase side by side, linked, at a fixed zoom in mm."""

import slicer
import vtk

LAYOUT = 6130  # any number that no other layout has
PHASE_VIEW = "CMBPhase"
VIEWS = (  # name, orientation, label, color: two rows of two
    (("Red", "Axial", "R", "#F34A33"), (PHASE_VIEW, "Axial", "P", "#8A8AF0")),
    (("Yellow", "Sagittal", "Y", "#EDD54C"), ("Green", "Coronal", "G", "#6EB04B")),
)
ORIENTATIONS = {name: orientation for row in VIEWS for name, orientation, *_ in row}
_VIEW = """<item><view class="vtkMRMLSliceNode" singletontag="{name}">
 <property name="orientation" action="default">{orientation}</property>
 <property name="viewlabel" action="default">{label}</property>
 <property name="viewcolor" action="default">{color}</property>
</view></item>"""
_ROW = '<item><layout type="horizontal">{views}</layout></item>'
DESCRIPTION = '<layout type="vertical" split="true">{rows}</layout>'.format(
    rows="".join(
        _ROW.format(views="".join(_VIEW.format(name=n, orientation=o, label=a, color=c) for n, o, a, c in row))
        for row in VIEWS
    )
)


def registerLayout():
    """Make the layout known to Slicer, where it has a window and does not know it."""
    manager = slicer.app.layoutManager()
    node = manager.layoutLogic().GetLayoutNode() if manager else None
    if node is not None and not node.IsLayoutDescription(LAYOUT):
        node.AddLayoutDescription(LAYOUT, DESCRIPTION)


class Views:
    """What the four slice views show, and where.

    Works on the nodes of the views, which Slicer's widgets follow.
    """

    def __init__(self):
        self.swi = self.phase = None
        self.isSwapped = self.isMinip = False

    def show(self, swi, phase):
        """Arrange the views for a case: SWI in three planes, and phase (None: SWI again) beside the axial one."""
        self.swi, self.phase, self.isSwapped = swi, phase, False
        if slicer.app.layoutManager() is None:  # Slicer without a window
            return
        registerLayout()
        slicer.app.layoutManager().setLayout(LAYOUT)
        self._assign()
        for name, logic in self._logics():
            # The planes that were scanned, and the same ones for SWI and phase, whatever was shown before.
            logic.GetSliceNode().SetOrientation(ORIENTATIONS[name])
            logic.GetSliceNode().RotateToVolumePlane(swi)
            composite = logic.GetSliceCompositeNode()
            composite.SetForegroundVolumeID(None)
            composite.SetLabelVolumeID(None)
            composite.SetLinkedControl(True)
            composite.SetHotLinkedControl(True)
        self.setMinip(False, 1)

    def jump(self, positionRas, zoomMm):
        """Center all slice views on a place, `zoomMm` across the shorter side."""
        slicer.modules.markups.logic().JumpSlicesToLocation(*positionRas, True)
        for _name, logic in self._logics():
            self._zoom(logic.GetSliceNode(), zoomMm)

    def swap(self):
        """Exchange SWI and phase."""
        if self.phase is not None:
            self.isSwapped = not self.isSwapped
            self._assign()

    def setMinip(self, on, thicknessMm):
        """Show the minimum over a slab of SWI: veins run on through it, a microbleed stays round."""
        self.isMinip = on
        for name, logic in self._logics():
            isSwi = (name == PHASE_VIEW) is self.isSwapped or self.phase is None
            node = logic.GetSliceNode()
            node.SetSlabReconstructionType(vtk.VTK_IMAGE_SLAB_MIN)
            node.SetSlabReconstructionThickness(thicknessMm)
            node.SetSlabReconstructionEnabled(on and isSwi)

    def _assign(self):
        first, second = (self.phase, self.swi) if self.isSwapped else (self.swi, self.phase or self.swi)
        for name, logic in self._logics():
            volume = second if name == PHASE_VIEW else first
            logic.GetSliceCompositeNode().SetBackgroundVolumeID(volume.GetID())

    def _logics(self):
        """Name and logic of each of the views that there is."""
        logics = slicer.app.applicationLogic()
        found = ((name, logics.GetSliceLogicByLayoutName(name)) for name in ORIENTATIONS)
        return [(name, logic) for name, logic in found if logic is not None]

    def _zoom(self, node, zoomMm):
        width, height = node.GetDimensions()[:2]
        if width < 1 or height < 1:
            return
        perPixel = zoomMm / min(width, height)
        node.SetFieldOfView(width * perPixel, height * perPixel, node.GetFieldOfView()[2])
