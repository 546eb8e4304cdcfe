"""What one training run does: plain dataclasses, read from a JSON file with the same names."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from CMBDetectorLib.errors import InputError
from CMBDetectorLib.json_file import read_json
from CMBDetectorLib.networks import anchors, segmenter
from CMBDetectorLib.request import DEVICES
from CMBDetectorLib.training.split import PARTS

# Where a map is 2 voxels long along its first axis, the weight gradient of a 3x3x3 convolution in bfloat16 is garbage
# on a CPU (torch 2.13, AVX512-BF16, measured against float32; other lengths are right). Such sizes are refused below.

Progress = Callable[[str, float, str], None]  # stage, share done 0-1, message
T = TypeVar("T", bound="Training")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return _is_whole(value) or isinstance(value, float)


# What a value of each annotation is called, and how it is known. JSON has null, true and false.
TYPES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "bool": ("true or false", lambda value: isinstance(value, bool)),
    "int": ("a whole number", _is_whole),
    "float": ("a number", _is_number),
    "float | None": ("a number or null", lambda value: value is None or _is_number(value)),
    "str": ("a word", lambda value: isinstance(value, str)),
    "Path": ("a path", lambda value: isinstance(value, Path)),
    "Path | None": ("a path or null", lambda value: value is None or isinstance(value, Path)),
    "tuple[int, int, int]": (
        "a list of three whole numbers",
        lambda value: isinstance(value, tuple) and len(value) == 3 and all(map(_is_whole, value)),
    ),
    "tuple[str, ...]": (
        "a list of names",
        lambda value: isinstance(value, tuple) and all(isinstance(name, str) for name in value),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Training:
    """Options that both networks share.

    Attributes
    ----------
    out : Path
        Folder for ``checkpoint.pt`` and ``log.csv``; a run that finds its checkpoint there goes on from it, and
        is refused when it has other options, cases or heads.
    cases : Path
        Folder of simulated case folders (``python -m CMBDetectorLib simulate``).
    cache : Path
        Folder for the preprocessed cases; made once, used again.
    split : str
        Which heads to take cases from: ``train``, ``validation`` or ``test``; ``all`` takes every case.
    seed : int
        Of the first weights and of every batch.
    steps : int
        Length of the learning-rate schedule, and of the run.
    minutes : float or None
        Stop after this wall time with a checkpoint, to be continued; None runs all steps.
    batch : int
        Crops per step.
    learning_rate, weight_decay, warmup : float
        Peak rate and decay of AdamW; share of the steps over which the rate rises before its cosine fall.
    gradient_clip : float
        Largest norm of the gradient.
    average : float
        Decay of the running average of the weights, which is what is evaluated and exported.
    checkpoint_minutes : float
        Wall time between checkpoints.
    initial : Path or None
        Exported network (TorchScript) whose weights a new run starts from; None, and levels that it lacks, start from
        random ones, channels of the input that it lacks from zero.
    kept : tuple of str
        Parts of the network, by their names in it, that stay as `initial` has them: what is not trained costs less
        time, and is not forgotten.
    device : str
        ``auto``, ``cpu`` or ``cuda``.
    bfloat16 : bool
        Compute convolutions in bfloat16.
    loaders : int
        Processes that prepare the batches (on Linux; elsewhere the training process does) and, from 2 on, the cases.
        With 0 the training process does all. Each keeps two batches in shared memory (``/dev/shm``).
    """

    out: Path
    cases: Path
    cache: Path
    split: str = "train"
    seed: int = 0
    steps: int = 4000
    minutes: float | None = None
    batch: int = 4
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    warmup: float = 0.05
    gradient_clip: float = 5.0
    average: float = 0.998
    checkpoint_minutes: float = 5.0
    initial: Path | None = None
    kept: tuple[str, ...] = ()
    device: str = "auto"
    bfloat16: bool = True
    loaders: int = 1

    def __post_init__(self) -> None:
        for field in fields(self):
            called, is_one = TYPES[str(field.type)]
            if not is_one(getattr(self, field.name)):
                raise self._refused(field.name, called)
        self._check_choice("split", (*PARTS, "all"))
        self._check_choice("device", DEVICES)
        self._check_range(0, 1, "warmup", "average")
        self._check_range(1, math.inf, "batch")
        rates = ("learning_rate", "weight_decay", "gradient_clip")
        self._check_range(0, math.inf, "seed", "steps", "minutes", "checkpoint_minutes", "loaders", *rates)
        if self.kept and self.initial is None:
            raise InputError(f"To keep '{self.kept[0]}' as it is, name the network that it is of as 'initial'.")

    def _check_choice(self, name: str, choices: tuple[str, ...]) -> None:
        if getattr(self, name) not in choices:
            raise self._refused(name, f"one of {', '.join(choices)}")

    def _check_range(self, least: float, most: float, *names: str) -> None:
        wanted = f"{least} or more" if most == math.inf else f"a number from {least} to {most}"
        for name in names:
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise self._refused(name, wanted)

    def _refused(self, name: str, wanted: str) -> InputError:
        return InputError(f"The option '{name}' is {getattr(self, name)!r}; it must be {wanted}.")

    @classmethod
    def from_json(cls: type[T], path: Path) -> T:
        """Read a run's options; raises `InputError` that names the file and the option which is wrong."""
        values = read_json(path)
        known = {field.name: field for field in fields(cls)}
        if unknown := sorted(set(values) - set(known)):
            raise InputError(f"{path} has the unknown option '{unknown[0]}'; known are {', '.join(known)}.")
        if missing := sorted({"out", "cases", "cache"} - set(values)):
            raise InputError(f"{path} lacks the option '{missing[0]}'.")
        # Lists and strings of JSON become the tuples and paths of the fields.
        for name, value in values.items():
            if str(known[name].type).startswith("Path") and isinstance(value, str):
                values[name] = Path(value)
            elif isinstance(value, list):
                values[name] = tuple(value)
        try:
            return cls(**values)
        except InputError as problem:
            raise InputError(f"{path} cannot be used: {problem}") from None


@dataclass(frozen=True, kw_only=True)
class DetectorTraining(Training):
    """Options of the detector; the switches are the paper's variants RPN, RPN+FFM, RPN+FFM+HSPL.

    Attributes
    ----------
    head : str
        ``proposals``, or ``mask`` for the plain U-Net that the detector is measured against; that one ignores `ffm`,
        `hspl` and the weights of L_reg and L_con.
    ffm, hspl : bool
        Feature Fusion Module; Hard Sample Prototype Learning.
    crop : tuple of int
        Voxels along R, A, S (0.5 x 0.5 x 1 mm); R and A equal, multiples of (32, 32, 16).
    hardest : int
        Hardest negative cells per crop that enter L_cls, at most the cells of a crop times the anchors.
        Of the plain U-Net eight times as many voxels, at most those of a crop.
    box_weight, prototype_weight : float
        Weights of L_reg and L_con beside L_cls.
    implanted : float
        Share of the crops with lesions whose lesions are put in on the fly; the others show rendered ones.
    calcified : float
        Share of the crops without lesions that get calcifications on the fly.
    painted : float
        Share of the crops with microbleeds or calcifications put in that get painted ones, not simulated ones
        (`CMBDetectorLib.training.painted`).
    ragged : float
        Share of the crops with simulated ones put in where all of these are ragged (`simulation.sources.ragged`).
    diffuse : float
        Of the crops with simulated ones put in that are not ragged, the share where all of these are wide and weak
        (`training.implants.diffuse_microbleed`).
    vessels : float
        Share of all crops that get painted vessels.
    thickened : float
        Share of the crops without rendered lesions that are averaged as thicker slices would, where the scan's own are
        thin enough (under 2.28 mm).
    without_phase : float
        Share of crops whose phase channel is emptied, so that SWI alone works too.
    rank : int
        Rank of adapters (`CMBDetectorLib.networks.adapters`) that learn beside the kernels of `initial`, which must
        lack nothing, but for those of parts `kept`. Biases, the norms' scales and shifts, and the prototypes learn,
        too; kernels and batch statistics stay. 0 trains the kernels themselves.
    """

    head: str = "proposals"
    ffm: bool = True
    hspl: bool = True
    crop: tuple[int, int, int] = (128, 128, 64)
    hardest: int = 16
    box_weight: float = 1.0
    prototype_weight: float = 0.1
    implanted: float = 0.5
    calcified: float = 0.3
    painted: float = 0.4
    ragged: float = 0.0
    diffuse: float = 0.0
    vessels: float = 0.4
    thickened: float = 0.3
    without_phase: float = 0.2
    rank: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        shares = ("implanted", "calcified", "ragged", "diffuse", "painted", "vessels", "thickened", "without_phase")
        self._check_range(0, 1, *shares)
        self._check_range(0, math.inf, "box_weight", "prototype_weight", "rank")
        self._check_choice("head", ("proposals", "mask"))
        if self.rank and self.head == "mask":
            raise InputError(f"The option 'rank' is {self.rank}; the plain U-Net has no adapters, so it must be 0.")
        if self.rank and self.initial is None:
            raise InputError(
                f"The option 'rank' is {self.rank}; adapters learn beside a trained network: name it as 'initial', or "
                "set 'rank' to 0."
            )
        r, a, s = self.crop
        if r != a or min(r, s) < 1 or r % anchors.MULTIPLE[0] or s % anchors.MULTIPLE[2]:
            raise InputError(f"The crop is {r} x {a} x {s}; R and A must be one multiple of 32, S one of 16.")
        cells = math.prod(n // stride for n, stride in zip(self.crop, anchors.STRIDE, strict=True))
        self._check_range(1, cells * (1 if self.head == "mask" else len(anchors.ANCHORS_MM)), "hardest")
        if self.bfloat16 and r < 96:  # one of the maps would be 2 voxels long
            raise InputError(f"The crop is {r} x {a} x {s}; bfloat16 needs 96 or more along R and A.")


@dataclass(frozen=True, kw_only=True)
class SegmenterTraining(Training):
    """Options of the segmenter.

    Attributes
    ----------
    heads : Path or None
        Folder of ``NN_labels.nii.gz`` and ``NN_mars.nii.gz`` for domain-randomized images, which alone teach left and
        right; None trains on rendered cases alone, from an `initial` network.
    atrophies : int
        How many more of each head for these images have a thinner cortex (`simulation.heads.atrophied`).
    veined : float
        Share of these images with veins in the fluid.
    coordinates : bool
        Read the coordinate channels.
    patch : tuple of int
        Voxels along R, A, S (1 x 1 x 2 mm) of a domain-randomized image, large enough for a head.
    window : tuple of int
        Voxels of the random part of an image that a step computes: coordinates tell the network where it is. Multiples
        of (16, 16, 8).
    rendered : float
        Share of samples that are rendered cases; the rest are domain-randomized. 1 needs an `initial` network.
    dice_weight, side_weight : float
        Weights of soft Dice and of the side's loss beside cross-entropy.
    """

    heads: Path | None = None
    atrophies: int = 0
    veined: float = 0.0
    coordinates: bool = True
    batch: int = 2
    patch: tuple[int, int, int] = (192, 224, 80)
    window: tuple[int, int, int] = (128, 160, 48)
    rendered: float = 0.75
    dice_weight: float = 0.5
    side_weight: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_range(0, 1, "rendered", "veined")
        self._check_range(0, math.inf, "atrophies", "dice_weight", "side_weight")
        for name in ("atrophies", "veined"):
            if getattr(self, name) and (self.heads is None or self.rendered == 1):
                raise InputError(f"The option '{name}' is of images of 'heads'. Give 'heads' and a 'rendered' below 1.")
        if min(self.patch[:2]) < 32:  # up to 31 voxels are left out
            raise InputError(f"The patch is {self.patch}; it must be 32 or more along R and A.")
        if any(n < 1 or n % multiple for n, multiple in zip(self.window, segmenter.MULTIPLE, strict=True)):
            raise InputError(f"The window is {self.window}; its sizes must be multiples of 16, 16 and 8.")
        if self.bfloat16 and self.window[0] < 48:  # one of the maps would be 2 voxels long
            raise InputError(f"The window is {self.window}; bfloat16 needs 48 or more along R.")
