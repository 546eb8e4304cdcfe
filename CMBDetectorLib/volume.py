"""An image with its geometry, and the only place where files and their coordinate systems are read and written.

Inside the project there is one convention: arrays are indexed ``[i, j, k]`` and `Volume.ijk_to_ras` maps voxel
indices to patient coordinates in RAS (right, anterior, superior), millimeters. LPS, the convention of DICOM and ITK,
exists only in `read_volume` and `write_volume`.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from CMBDetectorLib.errors import InputError, OutOfMemoryError, OutputError, is_want_of_memory


@dataclass(frozen=True, kw_only=True)
class Acquisition:
    r"""What the scanner wrote about an image, from DICOM or a BIDS sidecar; empty or None where it is not known.

    Attributes
    ----------
    modality : str
        Such as ``MR`` or ``CT``.
    sequence : str
        Kinds of sequence: ``GR`` gradient echo, ``SE`` spin echo, ``IR`` inversion recovery, joined by ``\``.
    image_type : str
        DICOM Image Type, such as ``ORIGINAL\PRIMARY\M\SWI``.
    frame_of_reference : str
        Images with the same one share a coordinate system.
    """

    modality: str = ""
    manufacturer: str = ""
    series: str = ""
    sequence: str = ""
    image_type: str = ""
    frame_of_reference: str = ""
    echo_time_ms: float | None = None
    field_strength_t: float | None = None
    slice_thickness_mm: float | None = None


@dataclass(frozen=True, eq=False)
class Volume:
    """A 3D image and where it lies in the patient.

    Attributes
    ----------
    array : ndarray
        Voxel values, shape (I, J, K).
    ijk_to_ras : ndarray
        (4, 4) float64: voxel index (centers at integers) to RAS, mm.
    source : str
        The file or node it came from, for messages.
    notices : tuple of str
        What reading it had to assume, in plain sentences.
    acquisition : Acquisition or None
        What the scanner wrote about it.
    """

    array: npt.NDArray
    ijk_to_ras: npt.NDArray[np.float64]
    source: str = ""
    notices: tuple[str, ...] = ()
    acquisition: Acquisition | None = None

    @cached_property
    def spacing_mm(self) -> npt.NDArray[np.float64]:
        """Distance between neighboring voxel centers along i, j, k, mm."""
        return np.linalg.norm(self.ijk_to_ras[:3, :3], axis=0)

    @cached_property
    def _mm_to_voxels(self) -> npt.NDArray:
        return np.linalg.inv(self.ijk_to_ras[:3, :3])

    @cached_property
    def sha256(self) -> str:
        """Checksum of the voxels and the geometry (not of the file, whose compression may differ)."""
        digest = hashlib.sha256(np.ascontiguousarray(self.array).data)
        digest.update(np.round(self.ijk_to_ras, 6).astype("<f8").tobytes())
        return digest.hexdigest()

    def ras_of(self, ijk: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """RAS coordinates, mm, of voxel indices; the last axis has length 3."""
        return np.asarray(ijk, float) @ self.ijk_to_ras[:3, :3].T + self.ijk_to_ras[:3, 3]

    def ijk_of(self, ras_mm: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Fractional voxel indices of RAS coordinates, mm; the last axis has length 3."""
        return (np.asarray(ras_mm, float) - self.ijk_to_ras[:3, 3]) @ self._mm_to_voxels.T

    def with_array(self, array: npt.NDArray) -> Volume:
        """Give the same place other values of the same shape."""
        if array.shape != self.array.shape:
            raise ValueError(f"array has shape {array.shape}; this volume has {self.array.shape}")
        return replace(self, array=array)

    def in_ras_order(self) -> Volume:
        """Permute and flip the axes so that i, j, k run closest to R, A, S.

        No value is changed and nothing is interpolated, so every way of storing one scan gives one array.
        """
        directions = self.ijk_to_ras[:3, :3] / self.spacing_mm
        axes = closest_axes(directions)
        array = np.transpose(self.array, axes)
        matrix = self.ijk_to_ras.copy()
        matrix[:, :3] = self.ijk_to_ras[:, list(axes)]
        for axis in range(3):
            if matrix[axis, axis] < 0:
                array = np.flip(array, axis)
                matrix[:3, 3] += matrix[:3, axis] * (array.shape[axis] - 1)
                matrix[:3, axis] *= -1
        return replace(self, array=array, ijk_to_ras=matrix)


def closest_axes(directions: npt.NDArray[np.float64]) -> tuple[int, int, int]:
    """For R, A and S in turn: the column of `directions` (unit vectors of i, j, k) that runs closest to it."""
    from itertools import permutations

    best = max(permutations(range(3)), key=lambda p: sum(abs(directions[row, p[row]]) for row in range(3)))
    return best[0], best[1], best[2]


READER_OF_SUFFIX = {
    ".nii": "NiftiImageIO",
    ".nii.gz": "NiftiImageIO",
    ".nrrd": "NrrdImageIO",
    ".nhdr": "NrrdImageIO",
    ".mha": "MetaImageIO",
    ".mhd": "MetaImageIO",
}
KINDS = "NIfTI (.nii, .nii.gz), NRRD (.nrrd, .nhdr), MetaImage (.mha, .mhd) or a DICOM series"

# Field of `Acquisition`: DICOM tag, name in a BIDS sidecar, factor to our unit for either (None: it is text).
_ACQUISITION_FIELDS: dict[str, tuple[str, str, tuple[float, float] | None]] = {
    "modality": ("0008|0060", "Modality", None),
    "manufacturer": ("0008|0070", "Manufacturer", None),
    "series": ("0008|103e", "SeriesDescription", None),
    "sequence": ("0018|0020", "ScanningSequence", None),
    "image_type": ("0008|0008", "ImageType", None),
    "frame_of_reference": ("0020|0052", "FrameOfReferenceUID", None),
    "echo_time_ms": ("0018|0081", "EchoTime", (1.0, 1000.0)),
    "field_strength_t": ("0018|0087", "MagneticFieldStrength", (1.0, 1.0)),
    "slice_thickness_mm": ("0018|0050", "SliceThickness", (1.0, 1.0)),
}
_POSITION, _ORIENTATION = "0020|0032", "0020|0037"
_RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0])


def read_volume(path: Path | str) -> Volume:
    """Read a 3D image with its geometry.

    Parameters
    ----------
    path : Path or str
        NIfTI, NRRD or MetaImage file; a folder with one DICOM series; or any one file of a DICOM series.

    Returns
    -------
    Volume
        float32 values as the file scales them (rescale slope and intercept, scl_slope), shape (I, J, K) in the
        order of the file. What the scanner wrote comes from DICOM, or from the BIDS sidecar (.json) of the same name.

    Raises
    ------
    InputError
        The file is missing, unreadable, cut short, not an image, or not one 3D image of single numbers.
    """
    path = Path(path)
    try:
        if path.is_dir():
            next(path.iterdir(), None)
        else:
            path.open("rb").close()
    except FileNotFoundError:
        raise InputError(f"There is no file or folder {path}. Check its name.") from None
    except PermissionError:
        raise InputError(f"{path} cannot be opened without permission. Make it readable, or copy it.") from None
    except OSError as problem:
        raise InputError(f"{path} cannot be opened: {problem.strerror}.") from None
    suffix = _suffix(path)
    with without_itk_warnings():
        if path.is_dir() or suffix not in READER_OF_SUFFIX:
            return _read_dicom(path)
        notices, not_a_number = _check_nifti(path) if suffix.startswith(".nii") else ((), None)
        image = _execute(_reader(path, READER_OF_SUFFIX[suffix]), path)
    volume = _volume(image, path, notices, read_sidecar(path))
    if not_a_number is not None:
        volume.array[not_a_number.reshape(volume.array.shape, order="F")] = np.nan
    return volume


def voxels_in(path: Path | str) -> int | None:
    """Number of voxels by the header of an image file; None of DICOM, and where `read_volume` has more to say."""
    suffix = _suffix(Path(path))
    try:
        if suffix not in READER_OF_SUFFIX or not Path(path).is_file():
            return None
        reader = _reader(path, READER_OF_SUFFIX[suffix])
        with without_itk_warnings():
            reader.ReadImageInformation()
    except (RuntimeError, OSError, InputError):
        return None
    return math.prod(reader.GetSize()) if reader.GetDimension() == 3 and reader.GetNumberOfComponents() == 1 else None


def write_volume(volume: Volume, path: Path | str, *, compress: bool = True) -> None:
    """Write a volume as NIfTI, NRRD or MetaImage, with the type its array has (bool becomes uint8).

    Raises
    ------
    OutputError
        The file cannot be written, or not wholly.
    OutOfMemoryError
        Nor can it be kept in memory beside its copies.
    """
    path = Path(path)
    array = volume.array.astype(np.uint8) if volume.array.dtype == bool else volume.array
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    directions = _RAS_FROM_LPS @ volume.ijk_to_ras[:3, :3] / volume.spacing_mm
    image.SetDirection(directions.ravel().tolist())
    image.SetSpacing(volume.spacing_mm.tolist())
    image.SetOrigin((_RAS_FROM_LPS @ volume.ijk_to_ras[:3, 3]).tolist())
    try:
        with without_itk_warnings():
            sitk.WriteImage(image, str(path), useCompression=compress)
        if _suffix(path).startswith(".nii"):
            _check_nifti(path)  # on a full disk, ITK leaves a NIfTI file cut short and reports success
    except (RuntimeError, InputError, OSError) as problem:
        if is_want_of_memory(problem):
            raise OutOfMemoryError(
                "The memory of this machine does not suffice to write the images. Close other programs and try again."
            ) from None
        raise OutputError(f"{path} cannot be written. Check the folder, its permission and the free space.") from None


def is_unicode(path: Path) -> bool:
    """Whether ITK can take a file name; old archives bring names with bytes that no letter has."""
    try:
        return bool(str(path).encode())
    except UnicodeEncodeError:
        return False


def _check_name(path: Path) -> None:
    if not is_unicode(path):
        raise InputError(f"{path} has a name that is not Unicode (UTF-8), so it cannot be read. Rename it.")


def read_sidecar(image: Path) -> Acquisition | None:
    """Read what the BIDS sidecar (.json) beside an image says.

    One that is missing or unreadable is no error, as the image is complete without it.
    """
    try:
        said = json.loads(_sidecar(image).read_text(encoding="utf-8"))
        return _acquisition({field: said.get(name, "") for field, (_, name, _) in _ACQUISITION_FIELDS.items()}, 1)
    except (OSError, ValueError, AttributeError):
        return None


def write_sidecar(acquisition: Acquisition, image: Path) -> None:
    """Write what the scanner said beside an image, as BIDS does, where `read_volume` finds it."""
    said: dict[str, object] = {}
    for field, (_, name, factors) in _ACQUISITION_FIELDS.items():
        value = getattr(acquisition, field)
        if value not in ("", None):
            said[name] = value / factors[1] if factors else value
    try:
        _sidecar(image).write_text(json.dumps(said, indent=2), encoding="utf-8")
    except OSError as problem:
        raise OutputError(f"{_sidecar(image)} cannot be written: {problem.strerror}.") from None


def acquisition_from_dicom(tag_text: Callable[[str], str]) -> Acquisition:
    """Collect what the scanner wrote; `tag_text` gives the text of a tag such as ``0018|0081``, or an empty one."""
    return _acquisition({field: tag_text(tag) for field, (tag, _, _) in _ACQUISITION_FIELDS.items()}, 0)


def _sidecar(image: Path) -> Path:
    return image.with_name(image.name[: len(image.name) - len(_suffix(image))] + ".json")


def _suffix(path: Path) -> str:
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else path.suffix.lower()


@contextmanager
def without_itk_warnings() -> Iterator[None]:
    """ITK's warnings name source lines, not what to do; what matters in them is checked here. Restored for Slicer."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)


def _reader(path: Path | str, image_io: str) -> sitk.ImageFileReader:
    """Make a reader of one format: ITK's own search tries every library, and HDF5 then writes to the terminal."""
    _check_name(Path(path))
    reader = sitk.ImageFileReader()
    reader.SetImageIO(image_io)
    reader.SetFileName(str(path))
    return reader


def _execute(reader: sitk.ImageFileReader, path: Path) -> sitk.Image:
    """Read one 3D image of single numbers as float32, or say why it cannot be."""
    try:
        reader.ReadImageInformation()
        if reader.GetNumberOfComponents() > 1:
            raise InputError(
                f"{path} holds {reader.GetNumberOfComponents()} numbers per voxel (complex or color). "
                "Save SWI and phase as two images with one number per voxel."
            )
        if reader.GetDimension() != 3:
            raise InputError(
                f"{path} has {reader.GetDimension()} dimensions ({_times(reader.GetSize())}). Give one 3D image."
            )
        reader.SetOutputPixelType(sitk.sitkFloat32)
        return reader.Execute()
    except RuntimeError as problem:
        if is_want_of_memory(problem):
            raise OutOfMemoryError.for_image(path) from None
        if "orthonormal" in str(problem):
            reason = "its axes are not at right angles. Resample it to a regular grid"
        else:
            reason = "it is cut short, damaged, or of another kind than its name says. Copy or export it again"
        raise InputError(f"{path} cannot be read: {reason}.") from None


def _volume(image: sitk.Image, path: Path, notices: tuple[str, ...], acquisition: Acquisition | None) -> Volume:
    matrix = np.eye(4)
    matrix[:3, :3] = _RAS_FROM_LPS @ np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    matrix[:3, 3] = _RAS_FROM_LPS @ image.GetOrigin()
    return Volume(sitk.GetArrayFromImage(image).T, matrix, str(path), notices, acquisition)


def _times(sizes: tuple[float, ...]) -> str:
    return " x ".join(f"{size:g}" for size in sizes)


def _check_nifti(path: Path) -> tuple[tuple[str, ...], npt.NDArray[np.bool_] | None]:
    """Check what ITK passes over in silence: missing voxels and NaN (it puts zeros there), spacing and orientation.

    Returns notices, and which voxels are not finite (flat; None where all are); raises `InputError`. Fields as in
    nifti1.h; NIfTI-2 is left to ITK.
    """
    try:
        with gzip.open(path) if _suffix(path) == ".nii.gz" else path.open("rb") as file:
            data = file.read()
    except (gzip.BadGzipFile, zlib.error):
        raise InputError(f"{path} is not a NIfTI image or is damaged. Copy or export it again.") from None
    except EOFError:
        raise InputError(f"{path} is cut short. Copy or export it again.") from None
    sizes = {order: struct.unpack_from(order + "i", data)[0] for order in "<>" if len(data) > 352}
    if 540 in sizes.values():
        return (), None
    order = next((order for order, size in sizes.items() if size == 348), None)
    if order is None:
        raise InputError(f"{path} is not a NIfTI image. Copy or export it again.")
    rank, *dimensions = struct.unpack_from(order + "8h", data, 40)
    kind, bits = struct.unpack_from(order + "2h", data, 70)
    spacing = struct.unpack_from(order + "3f", data, 80)
    (offset,) = struct.unpack_from(order + "f", data, 108)
    if not 1 <= rank <= 7 or min(dimensions[:rank]) < 1 or not 0 <= offset < math.inf:
        raise InputError(f"{path} has a damaged header. Copy or export it again.")
    count = math.prod(dimensions[:rank])
    if len(data) < offset + count * bits / 8:
        raise InputError(
            f"{path} is cut short: {len(data)} of {offset + count * bits / 8:.0f} bytes. Copy or export it again."
        )
    if rank >= 3 and not all(0 < mm < math.inf for mm in spacing):
        raise InputError(f"{path} says its voxels are {_times(spacing)} mm. Export it again with the right spacing.")

    notices: tuple[str, ...] = ()
    if struct.unpack_from(order + "2h", data, 252) == (0, 0):
        notices = (
            f"{path.name} does not say how the head lies (no qform or sform): left and right may be swapped, "
            f"and its voxel size of {_times(spacing)} mm may be wrong. Check both.",
        )
    real = {16: "f4", 64: "f8"}.get(kind)
    if real is None:
        return notices, None
    not_a_number = ~np.isfinite(np.frombuffer(data, order + real, count, int(offset)))
    return notices, not_a_number if not_a_number.any() else None


def _read_dicom(path: Path) -> Volume:
    """Read the one DICOM series in a folder, or the series that a file belongs to."""
    folder = path if path.is_dir() else path.parent
    _check_name(folder)
    if path.is_file() and not _is_dicom_image(path):
        raise InputError(f"{path} is not an image that can be read, or is damaged. Give {KINDS}.")
    found = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    series = [sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid) for uid in found]
    series = [files for files in series if _is_dicom_image(files[0])]
    if path.is_file():
        series = [files for files in series if path.name in (Path(file).name for file in files)] or [(str(path),)]
    if not series:
        raise InputError(f"The folder {path} holds no DICOM images. Give {KINDS}.")
    if len(series) > 1:
        names = "; ".join(f"{_tag(files[0], '0008|103e') or 'unnamed'} ({len(files)} files)" for files in series)
        raise InputError(f"The folder {path} holds {len(series)} series: {names}. Name one file of the one you want.")
    return _read_dicom_files(series[0], path)


def _read_dicom_files(files: tuple[str, ...], path: Path) -> Volume:
    if len(files) == 1:
        if int(_tag(files[0], "0028|0008") or 1) > 1:
            # Its frames may be echoes, or magnitude and phase together, which ITK stacks as if they were slices.
            raise InputError(f"{path} holds many frames in one DICOM file. Convert it, for example with dcm2niix.")
        image = _execute(_reader(files[0], "GDCMImageIO"), path)
        return _volume(image, path, (), acquisition_from_dicom(lambda tag: _tag(files[0], tag)))
    positions, orientation = [_tag(file, _POSITION) for file in files], _tag(files[0], _ORIENTATION)
    if not (orientation and all(positions)):
        raise InputError(f"The DICOM series {path} does not say where its slices lie. Export it again.")
    _check_slice_positions(positions, orientation, path)
    reader = sitk.ImageSeriesReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileNames(files)
    reader.SetOutputPixelType(sitk.sitkFloat32)
    try:
        image = reader.Execute()
    except RuntimeError as problem:
        if is_want_of_memory(problem):
            raise OutOfMemoryError.for_image(path) from None
        raise InputError(
            f"The DICOM series {path} cannot be read: one of its {len(files)} files is damaged or differs in size."
        ) from None
    return _volume(image, path, (), acquisition_from_dicom(lambda tag: _tag(files[0], tag)))


def _check_slice_positions(positions: list[str], orientation: str, path: Path) -> None:
    """Refuse a series with missing, repeated or unevenly spaced slices, which ITK stacks as if all were well."""
    try:
        right, down = np.reshape([float(number) for number in orientation.split("\\")], (2, 3))
        places = np.array([[float(number) for number in position.split("\\")] for position in positions])
    except ValueError:
        raise InputError(f"The DICOM series {path} does not say where its slices lie. Export it again.") from None
    gaps = np.diff(np.sort(places @ np.cross(right, down)))
    usual = float(np.median(gaps))
    if gaps.min() < 0.01:
        raise InputError(
            f"The DICOM series {path} has several images at one place (echoes, or magnitude and phase together). "
            "Separate them, for example with dcm2niix."
        )
    if gaps.max() > 1.5 * usual:
        missing = round(float(np.sum(np.round(gaps / usual) - 1)))
        raise InputError(
            f"The DICOM series {path} lacks {missing} of {len(positions) + missing} slices. Export it again."
        )
    if np.ptp(gaps) > 0.1 * usual:
        raise InputError(
            f"The DICOM series {path} has uneven slices, {gaps.min():.2f} to {gaps.max():.2f} mm apart. "
            "Give a series with even slices."
        )


def _is_dicom_image(file: Path | str) -> bool:
    return bool(_tag(file, "0028|0010"))


def _tag(file: Path | str, tag: str) -> str:
    """Text of a DICOM tag, empty when the file has none or is no DICOM image."""
    reader = _reader(file, "GDCMImageIO")
    try:
        reader.ReadImageInformation()
        text = reader.GetMetaData(tag).strip(" \0") if reader.HasMetaDataKey(tag) else ""
        return text.encode(errors="surrogateescape").decode(errors="replace")  # ITK ignores the character set
    except RuntimeError:
        return ""


def _acquisition(said: dict[str, object], column: int) -> Acquisition:
    fields: dict[str, str | float | None] = {}
    for field, (_, _, factors) in _ACQUISITION_FIELDS.items():
        value = said[field]
        text = "\\".join(map(str, value)) if isinstance(value, list) else str(value)
        if factors is None:
            fields[field] = text
        else:
            try:
                fields[field] = float(text) * factors[column]
            except ValueError:
                fields[field] = None
    return Acquisition(**fields)  # type: ignore[arg-type]
