"""The Slicer module. For now it writes the command line for a scan; the search runs in a terminal."""

from pathlib import Path

import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)


class CMBDetector(ScriptedLoadableModule):
    """What Slicer lists."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("CMB Detector")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Neuroimaging")]
        parent.dependencies = []
        parent.contributors = ["The CMBDetector contributors"]
        parent.helpText = _(
            "Finds candidate cerebral microbleeds in a susceptibility-weighted image and its phase. "
            "Research use only: trained on simulated lesions in simulated scans; not clinically validated. "
            "Every candidate needs a reader's decision."
        )
        parent.acknowledgementText = _(
            "An independent implementation of the method of Kim et al. (arXiv 2306.13020), not by its authors."
        )


class CMBDetectorWidget(ScriptedLoadableModuleWidget):
    """Chooses the images and shows the command."""

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        panel = slicer.util.loadUI(self.resourcePath("UI/CMBDetector.ui"))
        self.layout.addWidget(panel)
        self.ui = slicer.util.childWidgetVariables(panel)
        self.logic = CMBDetectorLogic()
        self.ui.swiSelector.connect("currentNodeChanged(vtkMRMLNode*)", self.showCommand)
        self.ui.phaseSelector.connect("currentNodeChanged(vtkMRMLNode*)", self.showCommand)
        self.ui.copyButton.connect("clicked(bool)", self.copyCommand)
        panel.setMRMLScene(slicer.mrmlScene)
        self.showCommand()

    def enter(self):
        # A volume may have been saved to a file since.
        self.showCommand()

    def showCommand(self, *_unused):
        swi, phase = self.ui.swiSelector.currentNode(), self.ui.phaseSelector.currentNode()
        problem = self.logic.problem(swi, phase)
        self.ui.commandText.plainText = problem or self.logic.command(swi, phase)
        self.ui.copyButton.enabled = not problem
        self.ui.copyButton.toolTip = problem or _("Copy the command to the clipboard")

    def copyCommand(self, *_unused):
        self.ui.commandText.selectAll()
        self.ui.commandText.copy()


class CMBDetectorLogic(ScriptedLoadableModuleLogic):
    """Knows the files behind the chosen volumes and where the library lies."""

    def libraryPath(self):
        """Folder that holds CMBDetectorLib: beside this file when installed, one above in a source tree."""
        here = Path(__file__).resolve().parent
        return here if (here / "CMBDetectorLib").is_dir() else here.parent

    def problem(self, swi, phase):
        """Why there is no command for these volumes, in a sentence that says what to do; empty when there is one."""
        if swi is None:
            return _("Choose the SWI volume.")
        if swi is phase:
            return _("SWI and phase are the same volume; choose another phase or none.")
        for volume in filter(None, (swi, phase)):
            if not self.file(volume):
                return _("Save {name} to a file first; the command reads files.").format(name=volume.GetName())
        return ""

    def command(self, swi, phase):
        """The command line that searches this scan and writes a folder beside the SWI file."""
        swiFile = self.file(swi)
        arguments = ["--swi", swiFile]
        if phase:
            arguments += ["--phase", self.file(phase)]
        arguments += ["--out", str(Path(swiFile).parent / "microbleeds"), "--with-images"]
        return " ".join(["cmb-detector detect", *(a if a.startswith("--") else f'"{a}"' for a in arguments)])

    def file(self, volume):
        """File that holds a volume; empty when it has none."""
        storage = volume.GetStorageNode()
        return (storage.GetFullNameFromFileName() or "") if storage and storage.GetFileName() else ""


class CMBDetectorTest(ScriptedLoadableModuleTest):
    """Runs inside Slicer; `Testing/run_in_slicer.py` runs the whole suite there."""

    def runTest(self):
        self.setUp()
        self.test_command_names_the_files_of_the_chosen_volumes()

    def setUp(self):
        slicer.mrmlScene.Clear()

    def test_command_names_the_files_of_the_chosen_volumes(self):
        logic = CMBDetectorLogic()
        self.assertTrue((logic.libraryPath() / "CMBDetectorLib" / "__init__.py").is_file())
        self.assertTrue(logic.problem(None, None))
        swi = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "SWI")
        self.assertIn("SWI", logic.problem(swi, None))
        swi.AddDefaultStorageNode()
        swi.GetStorageNode().SetFileName("/scans/swi.nii.gz")
        self.assertEqual(logic.problem(swi, None), "")
        self.assertIn('--swi "/scans/swi.nii.gz"', logic.command(swi, None))
        self.assertNotIn("--phase", logic.command(swi, None))
