"""Images are read from real files of every supported kind into one convention, or refused in plain words."""

from __future__ import annotations

import json
import os
import resource
import struct
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from CMBDetectorLib.errors import InputError, OutputError
from CMBDetectorLib.volume import Volume, read_volume, write_volume

ARRAY = np.random.default_rng(0).integers(0, 200, (8, 9, 10)).astype(np.int16)
AXIAL = np.array([[0.5, 0, 0, -20], [0, 0.5, 0, -30], [0, 0, 2, -10], [0, 0, 0, 1]])
TURN = np.array([[0.8, -0.6, 0, 0], [0.6, 0.8, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def save_nifti(path: Path, array: np.ndarray = ARRAY, affine: np.ndarray | None = AXIAL) -> Path:
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def edit_header(path: Path, edit: Callable[[bytearray], None]) -> Path:
    """Change bytes of an uncompressed NIfTI file, as nibabel refuses to write what these tests need."""
    data = bytearray(path.read_bytes())
    edit(data)
    path.write_bytes(data)
    return path


def save_dicom(
    folder: Path,
    array: np.ndarray = ARRAY,
    *,
    series: str = "SWI",
    orientation: tuple[float, ...] = (1, 0, 0, 0, 1, 0),
    skip: tuple[int, ...] = (),
    place: Callable[[int], float] = lambda k: 2.0 * k,
    uid: str = "",
    **tags: object,
) -> Path:
    """Write one file per k; i runs along the first half of the orientation (LPS), j along the second."""
    folder.mkdir(exist_ok=True)
    uid = uid or generate_uid()
    normal = np.cross(orientation[:3], orientation[3:])
    for k in range(array.shape[2]):
        if k in skip:
            continue
        image = Dataset()
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = MRImageStorage
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID = generate_uid()
        image.SeriesInstanceUID, image.StudyInstanceUID, image.SeriesDescription = uid, "1.2.3", series
        image.Modality, image.Manufacturer, image.ScanningSequence = "MR", "Maker", "GR"
        image.ImageType, image.FrameOfReferenceUID = ["ORIGINAL", "PRIMARY", "M", "SWI"], "1.2.4"
        image.EchoTime, image.MagneticFieldStrength, image.SliceThickness = "20", "3", "2"
        image.Rows, image.Columns, image.PixelSpacing = array.shape[1], array.shape[0], [0.5, 0.5]
        image.ImagePositionPatient = [float(mm) for mm in np.array([20.0, 30.0, -10.0]) + normal * place(k)]
        image.ImageOrientationPatient = list(orientation)
        image.SamplesPerPixel, image.PhotometricInterpretation, image.PixelRepresentation = 1, "MONOCHROME2", 0
        image.BitsAllocated, image.BitsStored, image.HighBit = 16, 12, 11
        image.PixelData = array[:, :, k].T.astype(np.uint16).tobytes()
        for name, value in tags.items():
            if value is None:
                delattr(image, name)
            else:
                setattr(image, name, value)
        image.save_as(folder / f"{series}{99 - k:03d}.dcm", enforce_file_format=True)  # names run backwards
    return folder


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd"])
def test_what_is_written_is_read_back(tmp_path: Path, suffix: str) -> None:
    volume = Volume(ARRAY, TURN @ AXIAL)
    write_volume(volume, tmp_path / f"image{suffix}")
    back = read_volume(tmp_path / f"image{suffix}")
    assert back.array.dtype == np.float32
    np.testing.assert_array_equal(back.array, ARRAY)
    np.testing.assert_allclose(back.ijk_to_ras, volume.ijk_to_ras, atol=1e-5)
    assert back.source == str(tmp_path / f"image{suffix}")
    assert back.notices == ()


def test_geometry_agrees_with_an_independent_reader(tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "oblique.nii.gz", affine=TURN @ AXIAL)
    np.testing.assert_allclose(read_volume(path).ijk_to_ras, nibabel.Nifti1Image.from_filename(path).affine, atol=1e-5)


@pytest.mark.parametrize("axes", ["RAS", "LPS", "ASL", "PIR", "SRA"])
def test_every_orientation_gives_one_array_at_one_place(tmp_path: Path, axes: str) -> None:
    image = nibabel.Nifti1Image(ARRAY, AXIAL)
    turn = nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt(axes)
    )
    nibabel.save(image.as_reoriented(turn), tmp_path / "turned.nii.gz")
    volume = read_volume(tmp_path / "turned.nii.gz")
    assert nibabel.aff2axcodes(volume.ijk_to_ras) == tuple(axes)
    ordered = volume.in_ras_order()
    np.testing.assert_array_equal(ordered.array, ARRAY)
    np.testing.assert_allclose(ordered.ijk_to_ras, AXIAL, atol=1e-5)


def test_slope_and_intercept_of_nifti_are_applied(tmp_path: Path) -> None:
    path = edit_header(save_nifti(tmp_path / "a.nii"), lambda data: struct.pack_into("<2f", data, 112, 0.5, 3.0))
    np.testing.assert_array_equal(read_volume(path).array, ARRAY * np.float32(0.5) + 3)


def test_dicom_lies_where_its_tags_say(tmp_path: Path) -> None:
    volume = read_volume(save_dicom(tmp_path / "series"))
    np.testing.assert_array_equal(volume.array, ARRAY)
    np.testing.assert_allclose(volume.spacing_mm, (0.5, 0.5, 2))
    np.testing.assert_allclose(volume.ras_of((0, 0, 0)), (-20, -30, -10))
    np.testing.assert_allclose(volume.ras_of((2, 4, 3)), (-21, -32, -4))


def test_sagittal_dicom_lies_where_its_tags_say(tmp_path: Path) -> None:
    volume = read_volume(save_dicom(tmp_path / "series", orientation=(0, 1, 0, 0, 0, -1)))
    assert nibabel.aff2axcodes(volume.ijk_to_ras) == ("P", "I", "R")
    np.testing.assert_array_equal(volume.in_ras_order().array, ARRAY.transpose(2, 0, 1)[:, ::-1, ::-1])


def test_rescaling_of_dicom_is_applied_to_each_slice(tmp_path: Path) -> None:
    folder = save_dicom(tmp_path / "series", RescaleSlope="2", RescaleIntercept="-4096")
    last = folder / "SWI090.dcm"
    image = pydicom.dcmread(last)
    image.RescaleSlope = "0.25"
    image.save_as(last)
    array = read_volume(folder).array
    np.testing.assert_array_equal(array[:, :, :-1], ARRAY[:, :, :-1] * 2.0 - 4096)
    np.testing.assert_array_equal(array[:, :, -1], ARRAY[:, :, -1] * 0.25 - 4096)


def test_what_the_scanner_wrote_is_kept(tmp_path: Path) -> None:
    said = read_volume(save_dicom(tmp_path / "series")).in_ras_order().acquisition
    assert said is not None
    assert (said.modality, said.manufacturer, said.series, said.sequence) == ("MR", "Maker", "SWI", "GR")
    assert (said.image_type, said.frame_of_reference) == ("ORIGINAL\\PRIMARY\\M\\SWI", "1.2.4")
    assert (said.echo_time_ms, said.field_strength_t, said.slice_thickness_mm) == (20, 3, 2)


def test_a_sidecar_gives_the_same_as_dicom(tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "scan.nii.gz")
    sidecar = {"Modality": "MR", "EchoTime": 0.02, "ImageType": ["ORIGINAL", "P"], "MagneticFieldStrength": "?"}
    (tmp_path / "scan.json").write_text(json.dumps(sidecar))
    said = read_volume(path).acquisition
    assert said is not None
    assert said.echo_time_ms == pytest.approx(20)
    assert (said.modality, said.image_type, said.field_strength_t, said.manufacturer) == ("MR", "ORIGINAL\\P", None, "")


@pytest.mark.parametrize("text", ["{not json", "[1, 2]", ""])
def test_a_damaged_sidecar_does_not_matter(tmp_path: Path, text: str) -> None:
    path = save_nifti(tmp_path / "scan.nii.gz")
    (tmp_path / "scan.json").write_text(text)
    assert read_volume(path).acquisition is None


def test_a_description_in_another_character_set_can_be_printed(tmp_path: Path) -> None:
    folder = save_dicom(tmp_path / "series", SpecificCharacterSet="ISO_IR 100", SeriesDescription="Sch\xe4del")
    said = read_volume(folder).acquisition
    assert said is not None
    assert said.series.encode("utf-8").startswith(b"Sch")


def test_a_folder_of_two_series_is_refused_with_their_names(tmp_path: Path) -> None:
    folder = save_dicom(tmp_path / "study", series="SWI")
    save_dicom(folder, series="Pha")
    with pytest.raises(InputError, match=r"holds 2 series: .*(SWI|Pha) \(10 files\).*(SWI|Pha) \(10 files\)"):
        read_volume(folder)


def test_one_file_gives_its_whole_series(tmp_path: Path) -> None:
    folder = save_dicom(tmp_path / "study", series="SWI")
    save_dicom(folder, ARRAY + 1, series="Pha")
    np.testing.assert_array_equal(read_volume(folder / "Pha095.dcm").array, ARRAY + 1)
    np.testing.assert_array_equal(read_volume(folder / "SWI090.dcm").array, ARRAY)


def test_other_files_beside_a_series_do_not_matter(tmp_path: Path) -> None:
    folder = save_dicom(tmp_path / "series")
    (folder / "readme.txt").write_text("exported on Monday")
    np.testing.assert_array_equal(read_volume(folder).array, ARRAY)


@pytest.mark.parametrize(("place", "form", "value"), [(42, "<h", -8), (40, "<h", 9), (108, "<f", float("nan"))])
def test_a_damaged_header_is_refused(tmp_path: Path, place: int, form: str, value: float) -> None:
    path = edit_header(save_nifti(tmp_path / "a.nii"), lambda data: struct.pack_into(form, data, place, value))
    with pytest.raises(InputError, match=r"a\.nii has a damaged header"):
        read_volume(path)


def test_a_missing_slice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="series lacks 2 of 10 slices"):
        read_volume(save_dicom(tmp_path / "series", skip=(3, 6)))


def test_uneven_slices_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"uneven slices, 2\.00 to 2\.60 mm apart"):
        read_volume(save_dicom(tmp_path / "series", place=lambda k: 2.0 * k + 0.6 * (k > 4)))


def test_two_echoes_in_one_series_are_refused(tmp_path: Path) -> None:
    folder = save_dicom(tmp_path / "series", uid="1.2.5", series="echo1")
    save_dicom(folder, uid="1.2.5", series="echo2")
    with pytest.raises(InputError, match="several images at one place"):
        read_volume(folder)


def test_a_series_without_positions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not say where its slices lie"):
        read_volume(save_dicom(tmp_path / "series", ImagePositionPatient=None))


def test_a_truncated_dicom_file_is_refused(tmp_path: Path) -> None:
    folder = save_dicom(tmp_path / "series")
    damaged = folder / "SWI095.dcm"
    damaged.write_bytes(damaged.read_bytes()[:-60])
    with pytest.raises(InputError, match="series"):
        read_volume(folder)


def test_a_folder_without_dicom_is_refused(tmp_path: Path) -> None:
    save_nifti(tmp_path / "a.nii.gz")
    with pytest.raises(InputError, match="holds no DICOM images"):
        read_volume(tmp_path)


@pytest.mark.parametrize("name", ["cut.nii.gz", "cut.nii", "cut.nrrd", "cut.mha"])
def test_a_truncated_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write_volume(Volume(ARRAY, AXIAL), path)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(InputError, match=rf"{name} .*cut short"):
        read_volume(path)


@pytest.mark.parametrize("name", ["text.nii.gz", "text.nii", "text.nrrd", "text.mha", "text.dcm", "text.txt", "text"])
def test_text_under_the_name_of_an_image_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("This is no image. " * 50)
    with pytest.raises(InputError, match=f"{name} (is not|cannot be read)"):
        read_volume(tmp_path / name)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.nii.gz").touch()
    with pytest.raises(InputError, match=r"empty\.nii\.gz is not a NIfTI image"):
        read_volume(tmp_path / "empty.nii.gz")


@pytest.mark.parametrize("name", ["gone.nii.gz", "gone.nrrd", "gone"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=f"no file or folder .*{name}"):
        read_volume(tmp_path / name)


def test_a_header_without_its_voxels_is_refused(tmp_path: Path) -> None:
    write_volume(Volume(ARRAY, AXIAL), tmp_path / "image.mhd")
    next(tmp_path.glob("*raw")).unlink()
    with pytest.raises(InputError, match=r"image\.mhd cannot be read"):
        read_volume(tmp_path / "image.mhd")


def test_a_file_without_permission_is_refused(tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "locked.nii.gz")
    path.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # root may read everything, so become nobody
    try:
        with pytest.raises(InputError, match=r"locked\.nii\.gz cannot be opened without permission"):
            read_volume(path)
    finally:
        os.seteuid(user)


@pytest.mark.parametrize(
    ("array", "dimensions"), [(ARRAY[:, :, 0], r"2 dimensions \(8 x 9\)"), (np.stack([ARRAY] * 3, -1), "4 dimensions")]
)
def test_other_than_three_dimensions_are_refused(tmp_path: Path, array: np.ndarray, dimensions: str) -> None:
    with pytest.raises(InputError, match=rf"flat\.nii\.gz has {dimensions}"):
        read_volume(save_nifti(tmp_path / "flat.nii.gz", array))


def test_a_fourth_dimension_of_one_is_no_obstacle(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_volume(save_nifti(tmp_path / "a.nii.gz", ARRAY[..., None])).array, ARRAY)


def test_complex_and_color_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"c\.nii\.gz holds 2 numbers per voxel"):
        read_volume(save_nifti(tmp_path / "c.nii.gz", ARRAY.astype(np.complex64)))
    sitk.WriteImage(sitk.GetImageFromArray(np.stack([ARRAY] * 3, -1), isVector=True), tmp_path / "color.nrrd")
    with pytest.raises(InputError, match=r"color\.nrrd holds 3 numbers per voxel"):
        read_volume(tmp_path / "color.nrrd")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_not_a_number_is_never_read_as_zero(tmp_path: Path, suffix: str, kind: type) -> None:
    array: np.ndarray = ARRAY.astype(kind)
    array[1, 2, 3] = np.nan
    write_volume(Volume(array, AXIAL), tmp_path / f"nan{suffix}")
    np.testing.assert_array_equal(read_volume(tmp_path / f"nan{suffix}").array, array)


def test_the_case_of_a_suffix_does_not_matter(tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "a.nii.gz").rename(tmp_path / "A.NII.GZ")
    np.testing.assert_array_equal(read_volume(path).array, ARRAY)


@pytest.mark.parametrize("spacing", [(0.0, 0.0, 0.0), (-0.5, 0.5, 2.0), (0.5, 0.5, float("nan"))])
def test_spacing_that_itk_would_replace_is_refused(tmp_path: Path, spacing: tuple[float, float, float]) -> None:
    path = edit_header(save_nifti(tmp_path / "a.nii"), lambda data: struct.pack_into("<3f", data, 80, *spacing))
    with pytest.raises(InputError, match=rf"a\.nii says its voxels are {spacing[0]:g} x"):
        read_volume(path)


def test_nifti_without_orientation_is_told(tmp_path: Path) -> None:
    path = edit_header(save_nifti(tmp_path / "a.nii"), lambda data: struct.pack_into("<2h", data, 252, 0, 0))
    volume = read_volume(path)
    assert len(volume.notices) == 1
    assert "left and right may be swapped" in volume.notices[0]
    assert "0.5 x 0.5 x 2 mm" in volume.in_ras_order().notices[0]


def test_sheared_axes_are_refused(tmp_path: Path) -> None:
    affine = AXIAL.copy()
    affine[0, 1] = 0.2
    image = nibabel.Nifti1Image(ARRAY, None)
    image.set_sform(affine, 1)
    image.set_qform(None, 0)
    nibabel.save(image, tmp_path / "sheared.nii.gz")
    with pytest.raises(InputError, match=r"sheared\.nii\.gz cannot be read: its axes are not at right angles"):
        read_volume(tmp_path / "sheared.nii.gz")


def test_nothing_is_written_to_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    read_volume(save_dicom(tmp_path / "series"))
    path = save_nifti(tmp_path / "scaled.nii")
    edit_header(path, lambda data: struct.pack_into("<3f", data, 80, 0.7, 0.7, 2.0))  # at odds with sform: ITK warns
    read_volume(path)
    (tmp_path / "text.dcm").write_text("This is no image.")
    with pytest.raises(InputError):
        read_volume(tmp_path / "text.dcm")
    assert capfd.readouterr() == ("", "")


def test_the_warnings_of_itk_are_left_as_they_were(tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "a.nii.gz")
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    try:
        for display in (True, False):
            sitk.ProcessObject.SetGlobalWarningDisplay(display)
            read_volume(path)
            assert sitk.ProcessObject.GetGlobalWarningDisplay() is display
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)


def test_a_mask_is_written_as_bytes(tmp_path: Path) -> None:
    write_volume(Volume(ARRAY > 100, AXIAL), tmp_path / "mask.nii.gz")
    assert nibabel.Nifti1Image.from_filename(tmp_path / "mask.nii.gz").get_data_dtype() == np.uint8
    np.testing.assert_array_equal(read_volume(tmp_path / "mask.nii.gz").array, ARRAY > 100)


def test_a_folder_that_does_not_exist_cannot_be_written_to(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"gone.image\.nii\.gz cannot be written"):
        write_volume(Volume(ARRAY, AXIAL), tmp_path / "gone" / "image.nii.gz")


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_a_file_that_does_not_fit_is_reported(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 2**15, (64, 64, 64)).astype(np.int16)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # writes fail beyond it as on a full disk
    try:
        with pytest.raises(OutputError, match="cannot be written"):
            write_volume(Volume(noise, AXIAL), tmp_path / f"image{suffix}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_indices_and_positions_are_inverse() -> None:
    volume = Volume(ARRAY, TURN @ AXIAL)
    ijk = np.array([[0, 0, 0], [3.5, 2, 7]])
    np.testing.assert_allclose(volume.ijk_of(volume.ras_of(ijk)), ijk, atol=1e-9)


def test_the_checksum_tells_voxels_and_geometry_apart() -> None:
    volume = Volume(ARRAY, AXIAL)
    assert Volume(ARRAY.copy(), AXIAL.copy(), "elsewhere").sha256 == volume.sha256
    assert Volume(ARRAY + 1, AXIAL).sha256 != volume.sha256
    assert Volume(ARRAY, TURN @ AXIAL).sha256 != volume.sha256


def test_other_values_must_have_the_same_shape() -> None:
    with pytest.raises(ValueError, match="shape"):
        Volume(ARRAY, AXIAL).with_array(ARRAY[1:])
