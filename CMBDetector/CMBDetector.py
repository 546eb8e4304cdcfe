"""The Slicer module: choose SWI and phase, detect microbleeds, review them, export.

Thin: the sections of the panel are in ``CMBDetectorWindow``, the search and the review in ``CMBDetectorLib``.
"""

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import qt
import slicer
import vtk
from slicer import vtkMRMLScalarVolumeNode
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import Choice, WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin


class CMBDetector(ScriptedLoadableModule):
    """What Slicer lists."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("CMB Detector")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Neuroimaging")]
        parent.dependencies = ["Markups", "Segmentations", "SubjectHierarchy", "Terminologies", "Volumes"]
        parent.contributors = ["The CMBDetector contributors"]
        parent.helpText = _(
            "Finds candidate cerebral microbleeds in a susceptibility-weighted image and its phase. "
            "Research use only: trained on simulated lesions in simulated scans; not clinically validated. "
            "Every candidate needs a reader's decision."
        )
        parent.acknowledgementText = _(
            "An independent implementation of the method of Kim et al. (arXiv 2306.13020), not by its authors."
        )
        makeLibraryImportable()
        slicer.app.connect("startupCompleted()", registerAtStartup)


def libraryPath():
    """Folder that holds CMBDetectorLib: beside this file when installed, one above in a source tree."""
    here = Path(__file__).resolve().parent
    return here if (here / "CMBDetectorLib").is_dir() else here.parent


def makeLibraryImportable():
    """Let Python find CMBDetectorLib."""
    if str(libraryPath()) not in sys.path:
        sys.path.append(str(libraryPath()))


def registerAtStartup():
    """Tell Slicer of the sample case, and of the layout that a saved scene may want before the panel is opened."""
    from CMBDetectorWindow.views import registerLayout

    registerSampleData()
    registerLayout()


def registerSampleData():
    """List the bundled case in the module Sample Data."""
    import SampleData

    files = CMBDetectorLogic().sampleFiles()
    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category="CMBDetector",
        sampleName="CMBDetectorSample",
        thumbnailFileName=str(Path(__file__).resolve().parent / "Resources" / "Icons" / "CMBDetector.png"),
        uris=[file.as_uri() for file in files],
        fileNames=[f"CMBDetector-{file.parent.name}-{file.name}" for file in files],  # one folder for all modules
        checksums=[f"SHA256:{digest}" for digest in CMBDetectorLogic.SAMPLE_SHA256],
        nodeNames=list(CMBDetectorLogic.SAMPLE_NAMES),
        customDownloader=lambda _source: list(CMBDetectorLogic().loadSampleCase()),
    )


@parameterNodeWrapper
class CMBDetectorParameterNode:
    """What the panel remembers in the scene; the reviews are kept apart, one per case, and the reader in the settings.

    ``swi`` and ``phase`` are the images to search; ``force`` searches a doubtful scan all the same; ``device`` and
    ``polarity`` as in `CMBDetectorLib.request.Settings`; ``zoomMm`` is the width of the slice views at a finding.
    """

    swi: vtkMRMLScalarVolumeNode
    phase: vtkMRMLScalarVolumeNode
    force: bool = False
    device: Annotated[str, Choice(["auto", "cpu", "cuda"])] = "auto"
    polarity: Annotated[str, Choice(["auto", "bright", "dark"])] = "auto"
    zoomMm: Annotated[int, WithinRange(20, 250)] = 80
    slabMm: Annotated[int, WithinRange(2, 30)] = 10
    subRegions: bool = False


class CMBDetectorWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """Follows the scene and the parameter node, and runs a search; a `ReviewSection` does the rest."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = self.review = self.keys = self.search = None
        self._parameterNode = self._guiTag = None
        self._checked = None  # what was checked last, so that nothing is checked twice
        self._problem = ""  # why these images cannot be searched
        self._request = None  # what the running search was asked
        self._isEntered = False
        self._stage = ""
        self._cases = {}  # each remembers what can be undone
        self._mayChoose = False  # whether there is something new to choose SWI and phase from
        self._isNoneChosen = False  # whether the user wants no SWI
        self._lastSwi = None

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        makeLibraryImportable()
        from CMBDetectorWindow.keys import Keys, legend
        from CMBDetectorWindow.problems import guarded
        from CMBDetectorWindow.review_section import ReviewSection
        from CMBDetectorWindow.search import Search

        panel = slicer.util.loadUI(self.resourcePath("UI/CMBDetector.ui"))
        self.layout.addWidget(panel)
        self.ui = slicer.util.childWidgetVariables(panel)
        panel.setMRMLScene(slicer.mrmlScene)
        self.logic = CMBDetectorLogic()
        self.search = Search(self.showProgress, self.showOutcome)
        self.review = ReviewSection(self.ui, lambda: self._parameterNode)
        self.keys = Keys(self._keyActions())
        self.ui.legendLabel.text = legend()
        self.ui.progressBar.visible = self.ui.stageLabel.visible = False
        self.ui.offlineLabel.visible = False
        self.ui.forceCheckBox.visible = False

        self.ui.sampleButton.connect("clicked(bool)", guarded(self.loadSampleCase))
        self.ui.detectButton.connect("clicked(bool)", guarded(self.detectOrCancel))
        self.ui.installButton.connect("clicked(bool)", guarded(self.install))
        self.ui.offlineButton.connect("clicked(bool)", self.showOfflineAdvice)
        self.ui.legendButton.connect("toggled(bool)", self.showLegend)

        # What Slicer tells while a scene loads or a node is being made waits until that is done.
        self._later = qt.QTimer()
        self._later.setSingleShot(True)
        self._later.setInterval(0)
        self._later.connect("timeout()", self.update)
        self._clock = qt.QTimer()
        self._clock.setInterval(500)
        self._clock.connect("timeout()", self.showTimeLeft)

        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(scene, scene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(scene, scene.EndImportEvent, self.onSceneEndImport)
        self.addObserver(scene, scene.NodeAddedEvent, self.onNodeAdded)
        self.addObserver(scene, scene.NodeRemovedEvent, self.onSceneChanged)
        self.addObserver(scene, scene.EndBatchProcessEvent, self.onSceneChanged)
        self.showCase(None)
        self.useParameterNode()

    def cleanup(self):
        self._isEntered = False
        self.keys.deactivate()
        self.search.abandon()
        self.logic.removeFiles()
        self._later.stop()
        self._clock.stop()
        self.review.leave()
        self.review.forget()
        self._disconnectParameters()
        self.removeObservers()

    def enter(self):
        self._isEntered = True
        self.useParameterNode()
        self.keys.activate()
        self._mayChoose = True
        self._later.start()

    def exit(self):
        self._isEntered = False
        self.keys.deactivate()
        self.review.leave()

    def onReload(self):
        """Also load anew what is behind the panel."""
        for name in [name for name in sys.modules if name.split(".")[0] == "CMBDetectorWindow"]:
            del sys.modules[name]
        wasEntered = self._isEntered
        ScriptedLoadableModuleWidget.onReload(self)
        if wasEntered:  # Slicer enters a module when it is chosen, not when it is loaded anew
            slicer.modules.cmbdetector.widgetRepresentation().self().enter()

    # The scene

    def onSceneStartClose(self, *_unused):
        self.search.abandon()
        self.logic.removeFiles()
        self._endSearch("")
        self.review.forget()
        self.showCase(None)
        self._cases = {}
        self._checked = self._lastSwi = None
        self._isNoneChosen = False

    def onSceneEndClose(self, *_unused):
        self.useParameterNode()

    def onSceneEndImport(self, *_unused):
        self.useParameterNode()
        self._parameterNode.Modified()  # what it refers to was not there yet when it was read
        self._lastSwi, self._isNoneChosen = None, False
        self.onNodeAdded()

    def onNodeAdded(self, *_unused):
        self._mayChoose = True
        self.onSceneChanged()

    def onSceneChanged(self, *_unused):
        if self._isEntered:
            self._later.start()

    def useParameterNode(self):
        """Connect the panel with the parameter node of the scene."""
        node = self.logic.getParameterNode()
        if self._parameterNode is not None and self._parameterNode.parameterNode is node:
            return
        self._disconnectParameters()
        self._parameterNode = CMBDetectorParameterNode(node)
        widgets = {widget.property("SlicerParameterName"): widget for widget in vars(self.ui).values()}
        widgets = {name: widget for name, widget in widgets.items() if name}
        self._guiTag = self._parameterNode.connectParametersToGui(widgets)  # connectGui gives no tag to disconnect by
        self.addObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParametersChanged)
        self._later.start()

    def _disconnectParameters(self):
        if self._parameterNode is not None:
            self._parameterNode.disconnectGui(self._guiTag)
        self.removeObservers(self.onParametersChanged)

    def onParametersChanged(self, *_unused):
        self._later.start()

    # What is chosen

    def update(self):
        """Bring the panel up to date with the scene and the parameters."""
        from CMBDetectorLib.errors import CMBDetectorError
        from CMBDetectorLib.scene.case import case_of

        scene = slicer.mrmlScene
        if not self._isEntered or self._parameterNode is None or scene.IsClosing():
            return
        if scene.IsBatchProcessing():  # half of what comes is not there yet; its end is observed
            return
        parameters = self._parameterNode
        self._chooseIfNew()
        case = case_of(parameters.swi) if parameters.swi else None
        case = self._cases.setdefault(case.node, case) if case else None
        if (case.node if case else None) is not self.review.node:
            try:
                self.showCase(case)
            except CMBDetectorError as problem:
                self.showCase(None, str(problem))
        self.review.settingsChanged()
        self.review.hideOthers()
        self.checkInputs()

    def _chooseIfNew(self):
        """Choose SWI and phase where something new came into the scene, but never against the user."""
        from CMBDetectorLib.scene.case import cases

        parameters = self._parameterNode
        if parameters.swi is not None:
            self._isNoneChosen = False
        elif self.logic.isInScene(self._lastSwi):
            self._isNoneChosen = True
        if parameters.swi is None and self._mayChoose and not self._isNoneChosen:
            known = cases(slicer.mrmlScene)
            with slicer.util.NodeModify(parameters):
                if len(known) == 1:
                    parameters.swi, parameters.phase = known[0].swi, known[0].phase
                else:
                    parameters.swi, parameters.phase = self.logic.clearPair()
        self._mayChoose, self._lastSwi = False, parameters.swi

    def showCase(self, case, hint=""):
        """Show a case for review, with room for its table; None: none, and `hint` says why."""
        if case is None or case is not self.review.case:
            self.review.show(case, hint)
        self.ui.inputsCollapsibleButton.collapsed = case is not None
        self.ui.detectCollapsibleButton.collapsed = case is not None and not self.search.isRunning
        self.ui.reviewCollapsibleButton.collapsed = case is None and not hint
        self.ui.exportCollapsibleButton.collapsed = case is None
        if case is not None:
            self.ui.reviewTable.setFocus()

    def checkInputs(self):
        """Say what preflight finds in the chosen images, and whether they can be searched."""
        parameters = self._parameterNode
        key = self.logic.state(parameters.swi, parameters.phase, parameters.force)
        if key != self._checked:
            self._checked = key
            notices, self._problem, isDoubtful = self.logic.check(parameters.swi, parameters.phase, parameters.force)
            self.ui.checkLabel.text = "\n".join([*filter(None, [self._problem]), *notices])
            self.ui.checkLabel.visible = bool(self.ui.checkLabel.text)
            self.ui.forceCheckBox.visible = isDoubtful or parameters.force
        self.showWhatIsMissing()

    def showWhatIsMissing(self):
        from CMBDetectorWindow import installation

        names = installation.missing()
        self.ui.installLabel.text = installation.explanation(names)
        for widget in (self.ui.installLabel, self.ui.installButton, self.ui.offlineButton):
            widget.visible = bool(names)
        self.ui.offlineLabel.visible = bool(names) and bool(self.ui.offlineLabel.text)
        problem = self.ui.installLabel.text or self._problem
        running = self.search.isRunning
        self.ui.detectButton.text = _("Cancel") if running else _("Detect CMBs")
        self.ui.detectButton.enabled = running or not problem
        self.ui.detectButton.toolTip = (
            _("Stop the search") if running else problem or _("Search the SWI for microbleeds")
        )

    # Actions

    def _keyActions(self):
        review = self.review
        return {
            "next": review.next,
            "previous": review.previous,
            "accept": review.accept,
            "reject": review.reject,
            "undecided": review.setUndecided,
            "undo": review.undo,
            "hide_markers": review.toggleMarkers,
            "minip": review.toggleMinip,
            "swap": review.swap,
            "load_sample": self.loadSampleCase,
            "detect": self.detectOrCancel,
            "export": review.export,
        }

    def loadSampleCase(self, *_unused):
        with slicer.util.tryWithErrorDisplay(show=False, waitCursor=True):
            swi, phase = self.logic.loadSampleCase()
            with slicer.util.NodeModify(self._parameterNode):
                self._parameterNode.swi, self._parameterNode.phase = swi, phase
            if self.review.case is None:
                slicer.app.applicationLogic().GetSelectionNode().SetActiveVolumeID(swi.GetID())
                slicer.app.applicationLogic().PropagateVolumeSelection()
            self.update()

    def showLegend(self, shown):
        self.ui.legendLabel.visible = shown

    def install(self, *_unused):
        from CMBDetectorWindow import installation

        try:
            installation.install(installation.missing())
        finally:
            self.showWhatIsMissing()

    def showOfflineAdvice(self, *_unused):
        from CMBDetectorWindow import installation

        self.ui.offlineLabel.text = (
            "" if self.ui.offlineLabel.text else installation.offlineAdvice(installation.missing())
        )
        self.ui.offlineLabel.visible = bool(self.ui.offlineLabel.text)

    def detectOrCancel(self, *_unused):
        """Start a search, or stop the one that runs."""
        if self.search.isRunning:
            self.search.cancel()
            self._stage = _("Stopping")
            self.showTimeLeft()
            return
        self.update()
        if not self.ui.detectButton.enabled:
            return
        with slicer.util.tryWithErrorDisplay(show=False, waitCursor=True):
            self.startSearch(self._parameterNode.swi, self._parameterNode.phase, self._parameterNode.device)

    def startSearch(self, swi, phase, device):
        self._request = (swi, phase, device)
        settings = {"device": device, "polarity": self._parameterNode.polarity, "force": self._parameterNode.force}
        file = self.logic.writeRequest(swi, phase, settings)
        self.search.start(libraryPath(), file)
        if not self.search.isRunning:  # on Windows it has failed and been shown by now
            return
        self.ui.detectCollapsibleButton.collapsed = False
        self.ui.progressBar.visible = True
        self.showProgress(0.0, _("Starting"))
        self._clock.start()
        self.showWhatIsMissing()

    def showProgress(self, fraction, message):
        self.ui.progressBar.value = round(1000 * fraction)
        self._stage = message
        self.showTimeLeft()

    def showTimeLeft(self):
        seconds = self.search.timeLeft()
        text = self._stage
        if seconds is not None:
            text = _("{stage}, about {seconds} s left").format(stage=text, seconds=max(1, round(seconds)))
        self.ui.stageLabel.text = text
        self.ui.stageLabel.visible = True

    def showOutcome(self, outcome):
        """Bring a result into the scene, or say why there is none."""
        from CMBDetectorLib.errors import DeviceMemoryError
        from CMBDetectorWindow.problems import problemsShown

        swi, phase, device = self._request
        if outcome.kind == "error" and outcome.exitCode == DeviceMemoryError.exit_code and device == "auto":
            self._endSearch("")
            shown = problemsShown(_("The search could not be started."))
            with shown, slicer.util.tryWithErrorDisplay(show=False, waitCursor=True):
                self.startSearch(swi, phase, "cpu")
                if self.search.isRunning:
                    self.showProgress(0.0, _("The memory of the GPU does not suffice; searching on the CPU"))
            return
        self._endSearch(outcome.message)
        if outcome.kind == "result":
            with problemsShown(_("The result could not be shown.")):
                self.showResult(swi, phase, device)
        elif outcome.kind != "cancelled":
            slicer.util.errorDisplay(outcome.message, detailedText=outcome.details)
        self.logic.removeFiles()

    def showResult(self, swi, phase, device):
        from CMBDetectorLib.scene.case import show_result, vanishing

        if not self.logic.isInScene(swi):
            self._endSearch(_("The SWI was removed from the scene meanwhile, so the result was dropped."))
            return
        self.review.leave()  # what is being typed counts, too
        lost = vanishing(self.logic.resultFolder, swi)
        # Asked so that Escape, which means No, loses nothing.
        remove = bool(lost) and slicer.util.confirmYesNoDisplay(
            _("{n} findings with your verdict or comment were not found again. Remove them?").format(n=len(lost))
        )
        phase = phase if self.logic.isInScene(phase) else None
        with slicer.util.tryWithErrorDisplay(show=False, waitCursor=True):
            case = show_result(self.logic.resultFolder, swi, phase, keep_vanishing=not remove)
            self._cases[case.node] = case
            if not self._isEntered:
                self.review.forget()  # shown when the reader comes back; another module has the views now
            elif self._parameterNode.swi is swi:
                self.showCase(case)
        found = case.review.record
        text = _("{name}: {n} candidates; searched on {device}.")
        if device == "auto" and found.provenance.device.startswith("cpu"):
            text = _("{name}: {n} candidates; searched on {device}. There is no GPU that PyTorch can use.")
        text = text.format(name=case.name, n=len(found.counted), device=found.provenance.device)
        if found.provenance.phase is not None and found.provenance.polarity == "none":
            text += " " + _("The phase was not used: its sign cannot be told. Set the phase polarity and search again.")
        self._endSearch(text)
        self.review.say(text)

    def _endSearch(self, text):
        self._clock.stop()
        self.ui.progressBar.visible = False
        self.ui.stageLabel.text = text
        self.ui.stageLabel.visible = bool(text)
        self.showWhatIsMissing()


class CMBDetectorLogic(ScriptedLoadableModuleLogic):
    """What the panel does with volumes and files; knows no widget."""

    SAMPLE_NAMES = ("Sample SWI", "Sample phase")
    SAMPLE_SHA256 = (
        "6ba82ad0e61791b06bef28e3976e9b6ba833d2e3ad13ab55d5d64b9795a668f1",
        "d6fb65996e45e372d9ed120114db0aa0cfa09f59e2e19d1c3efb6cba3b01d3d6",
    )

    def __init__(self):
        ScriptedLoadableModuleLogic.__init__(self)
        self._folder = None
        self._left = []  # folders that could not be removed yet: on Windows, a file that is open

    def sampleFiles(self):
        """SWI and phase of the bundled case."""
        from CMBDetectorLib.resources import resources_dir

        swi = sorted((resources_dir() / "SampleData").glob("*/swi.nii.gz"))[0]
        return swi, swi.with_name("phase.nii.gz")

    def loadSampleCase(self):
        """Load the bundled case; what is loaded already is taken. Returns SWI and phase."""
        volumes = []
        for name, file in zip(self.SAMPLE_NAMES, self.sampleFiles(), strict=True):
            node = slicer.mrmlScene.GetFirstNode(name, "vtkMRMLScalarVolumeNode")
            if node is None:
                node = slicer.modules.volumes.logic().AddArchetypeVolume(str(file), name)
            if node is None:
                raise RuntimeError(_("{file} cannot be read. Install CMBDetector again.").format(file=file))
            volumes.append(node)
        return tuple(volumes)

    def clearPair(self):
        """Choose SWI and phase where names and DICOM tags leave no doubt; None where they do."""
        from CMBDetectorLib.scene.volumes import acquisition_of
        from CMBDetectorWindow.choice import clearPair

        nodes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
        nodes = [n for n in nodes if n.GetClassName() == "vtkMRMLScalarVolumeNode" and not n.GetHideFromEditors()]
        return clearPair([(node, node.GetName(), acquisition_of(node)) for node in nodes])

    def state(self, swi, phase, force):
        """Something that differs when the images to check do."""
        volumes = [volume for volume in (swi, phase) if volume]
        return (
            force,
            swi is None,
            *(
                (v.GetID(), v.GetName(), v.GetTransformNodeID(), v.GetImageData() and v.GetImageData().GetMTime())
                for v in volumes
            ),
        )

    def check(self, swi, phase, force):
        """Check the images as the search will.

        Returns
        -------
        list of str
            What is worth telling.
        str
            Why they cannot be searched, and what to do; empty when they can.
        bool
            Whether they are only doubtful.
        """
        from CMBDetectorLib.errors import CMBDetectorError, DoubtfulInputError
        from CMBDetectorLib.preflight import check
        from CMBDetectorLib.scene.volumes import to_volume

        if swi is None:
            return [], _("Choose the SWI, or load the sample case."), False
        if swi is phase:
            return [], _("SWI and phase are the same volume; choose another phase or none."), False
        try:
            found = check(to_volume(swi), to_volume(phase) if phase else None, force=force)
        except DoubtfulInputError as problem:
            return [], problem.doubt, True
        except CMBDetectorError as problem:
            return [], str(problem), False
        return list(found.notices), "", False

    def isInScene(self, node):
        """Whether a node is still there."""
        return node is not None and slicer.mrmlScene.GetNodeByID(node.GetID()) is node

    def writeRequest(self, swi, phase, settings):
        """Write the images and the request for the worker into a folder of their own; returns the request file.

        `settings` are fields of `CMBDetectorLib.request.Settings`.
        """
        from CMBDetectorLib.request import DetectionRequest, Settings
        from CMBDetectorLib.scene.volumes import write_for_worker

        self.removeFiles()
        self._folder = Path(tempfile.mkdtemp(prefix="CMBDetector-"))
        folders = [self._folder / name for name in ("swi", "phase")]
        for folder in folders:
            folder.mkdir()
        request = DetectionRequest(
            swi=write_for_worker(swi, folders[0]),
            phase=write_for_worker(phase, folders[1]) if phase else None,
            out=self.resultFolder,
            settings=Settings(**settings),
            with_images=True,
        )
        file = self._folder / "request.json"
        file.write_text(request.to_json(), encoding="utf-8")
        return file

    @property
    def resultFolder(self):
        """Where the worker writes."""
        return self._folder / "result"

    def removeFiles(self):
        """Remove what was written for the worker, images of a patient among it."""
        if self._folder is not None:
            self._left.append(self._folder)
            self._folder = None
        for folder in self._left:
            shutil.rmtree(folder, ignore_errors=True)
        self._left = [folder for folder in self._left if folder.exists()]


class CMBDetectorTest(ScriptedLoadableModuleTest):
    """Runs from Slicer's Reload and Test; `Testing/run_in_slicer.py` runs the whole suite."""

    def runTest(self):
        self.setUp()
        self.test_sample_case_passes_the_checks()

    def setUp(self):
        slicer.mrmlScene.Clear()

    def test_sample_case_passes_the_checks(self):
        logic = CMBDetectorLogic()
        self.assertTrue((libraryPath() / "CMBDetectorLib" / "__init__.py").is_file())
        self.assertTrue(logic.check(None, None, False)[1])
        swi, phase = logic.loadSampleCase()
        self.assertEqual(logic.clearPair(), (swi, phase))
        self.assertEqual(logic.check(swi, phase, False)[1], "")
        self.assertIn("same volume", logic.check(swi, swi, False)[1])
        file = logic.writeRequest(swi, phase, {"device": "cpu"})
        self.assertTrue(file.is_file())
        logic.removeFiles()
        self.assertFalse(file.exists())
