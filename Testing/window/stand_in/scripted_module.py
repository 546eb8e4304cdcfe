"""Stand-ins for the Python modules of Slicer that slicer-core lacks: scripted modules, translation, packages."""

from __future__ import annotations

import os
import sys
import unittest
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.request import urlretrieve

import slicer


class ScriptedLoadableModule:
    def __init__(self, parent: Any) -> None:
        self.parent = parent
        self.moduleName = self.__class__.__name__

    def resourcePath(self, name: str) -> str:
        return str(Path(self.parent.path).parent / "Resources" / name)


class ScriptedLoadableModuleWidget:
    def __init__(self, parent: Any = None) -> None:
        import qt

        self.moduleName = self.__class__.__name__.removesuffix("Widget")
        if parent is None:
            parent = slicer.qMRMLWidget()
            parent.setLayout(qt.QVBoxLayout())
            parent.setMRMLScene(slicer.mrmlScene)
        self.parent = parent
        self.layout = parent.layout()
        slicer.app.moduleManager().connect("moduleAboutToBeUnloaded(QString)", self._onModuleAboutToBeUnloaded)

    def _onModuleAboutToBeUnloaded(self, name: str) -> None:
        if name == self.moduleName:
            self.cleanup()
            slicer.app.moduleManager().disconnect("moduleAboutToBeUnloaded(QString)", self._onModuleAboutToBeUnloaded)

    def resourcePath(self, name: str) -> str:
        return os.path.join(os.path.dirname(slicer.util.modulePath(self.moduleName)), "Resources", name)

    def setup(self) -> None:
        pass

    def cleanup(self) -> None:
        pass

    def onReload(self) -> None:
        slicer.util.reloadScriptedModule(self.moduleName)


class ScriptedLoadableModuleLogic:
    def __init__(self, parent: Any = None) -> None:
        self.moduleName = self.__class__.__name__.removesuffix("Logic")

    def getParameterNode(self) -> Any:
        node = slicer.mrmlScene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
        if node is None:
            node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLScriptedModuleNode")
            node.UnRegister(None)
            node.SetSingletonTag(self.moduleName)
            node.SetName(slicer.mrmlScene.GenerateUniqueName(self.moduleName))
            node = slicer.mrmlScene.AddNode(node)
        node.SetAttribute("ModuleName", self.moduleName)
        node.SetModuleName(self.moduleName)
        return node


class ScriptedLoadableModuleTest(unittest.TestCase):
    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.messageDelay = 0

    def runTest(self) -> None:
        pass

    def delayDisplay(self, message: str, _requested: int | None = None) -> None:
        slicer.app.processEvents()


def tr(text: str) -> str:
    return text


def translate(_context: str, text: str) -> str:
    return text


class SampleDataLogic:
    """Remembers what modules register; its buttons call their own downloaders, but its functions do not."""

    sources: list[dict[str, Any]] = []  # noqa: RUF012

    @staticmethod
    def registerCustomSampleDataSource(
        category: str = "Custom", sampleName: str | None = None, uris: Any = None, fileNames: Any = None,
        nodeNames: Any = None, customDownloader: Any = None, thumbnailFileName: str | None = None,
        loadFileType: Any = "VolumeFile", loadFiles: Any = None, loadFileProperties: Any = None, checksums: Any = None,
    ) -> None:  # fmt: skip
        SampleDataLogic.sources.append(dict(locals()))

    def downloadSamples(self, name: str) -> list[Any]:
        source = next(source for source in self.sources if source["sampleName"] == name)
        folder = Path(slicer.mrmlScene.GetCacheManager().GetRemoteCacheDirectory())
        nodes = []
        for uri, file, sum_, node_name in zip(
            source["uris"], source["fileNames"], source["checksums"], source["nodeNames"], strict=True
        ):
            algorithm, digest = slicer.util.extractAlgoAndDigest(sum_)
            cached = folder / file
            if not cached.exists() or slicer.util.computeChecksum(algorithm, cached) != digest:
                urlretrieve(uri, cached)
            if slicer.util.computeChecksum(algorithm, cached) != digest:
                raise ValueError(f"{uri} is not what it should be")
            node = slicer.modules.volumes.logic().AddArchetypeVolume(str(cached), node_name)
            slicer.mrmlScene.RemoveNode(node.GetStorageNode())
            nodes.append(node)
        return nodes


def downloadSamples(name: str) -> list[Any]:
    return SampleDataLogic().downloadSamples(name)


def downloadSample(name: str) -> Any:
    return downloadSamples(name)[0]


def pip_ensure(
    requirements: Any, constraints: Any = None, skip_packages: Any = None, prompt_install: bool = True,
    prompt_restart: bool = True, requester: str | None = None, skip_in_testing: bool = True, show_progress: bool = True,
) -> None:  # fmt: skip
    """Refuse to install what is not there: nothing is downloaded from a test."""
    for requirement in requirements:
        if not requirement.specifier.contains(version(requirement.name)):
            raise RuntimeError(f"{requirement} cannot be installed here")


def install() -> None:
    """Make them importable under Slicer's names, and only importable: ``slicer`` alone knows none of them."""
    from Testing.window.stand_in import parameter_node
    from Testing.window.stand_in.pythonqt import Module

    def module(name: str, **content: Any) -> None:
        made = sys.modules[name] = Module(name)
        for key, value in content.items():
            setattr(made, key, value)

    module("slicer.ScriptedLoadableModule", ScriptedLoadableModule=ScriptedLoadableModule,
           ScriptedLoadableModuleWidget=ScriptedLoadableModuleWidget,
           ScriptedLoadableModuleLogic=ScriptedLoadableModuleLogic,
           ScriptedLoadableModuleTest=ScriptedLoadableModuleTest)  # fmt: skip
    module("slicer.i18n", tr=tr, translate=translate)
    module("slicer.packaging", pip_ensure=pip_ensure)
    module("slicer.parameterNodeWrapper", parameterNodeWrapper=parameter_node.parameterNodeWrapper,
           Choice=parameter_node.Choice, Default=parameter_node.Default,
           WithinRange=parameter_node.WithinRange)  # fmt: skip
    module("SampleData", SampleDataLogic=SampleDataLogic, downloadSample=downloadSample,
           downloadSamples=downloadSamples)  # fmt: skip
