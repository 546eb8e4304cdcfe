"""A volume as a DICOM series, one file a slice, as a scanner would store it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from CMBDetectorLib.volume import Volume

_STUDY, _FRAME = generate_uid(), generate_uid()


def write_dicom_series(volume: Volume, folder: Path, description: str = "SWI", echo_time_ms: float = 20.0) -> None:
    """Write the slices along k of a volume with whole numbers between -32768 and 32767."""
    folder.mkdir(parents=True)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.ijk_to_ras
    spacing = volume.spacing_mm
    rows, columns = lps[:3, 0] / spacing[0], lps[:3, 1] / spacing[1]
    series = generate_uid()
    for k in range(volume.array.shape[2]):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = MRImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image = Dataset()
        image.file_meta = meta
        image.SOPClassUID, image.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
        image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = _STUDY, series, _FRAME
        image.Modality, image.PatientID, image.PatientName = "MR", "phantom", "Phantom"
        image.SeriesDescription, image.SeriesNumber, image.InstanceNumber = description, 1, k + 1
        image.EchoTime, image.MagneticFieldStrength = echo_time_ms, 3.0
        image.ScanningSequence, image.SequenceVariant = "GR", "SP"
        image.ImageOrientationPatient = [round(float(x), 8) for x in (*rows, *columns)]
        image.ImagePositionPatient = [round(float(x), 6) for x in lps[:3, :3] @ [0, 0, k] + lps[:3, 3]]
        image.PixelSpacing = [round(float(spacing[1]), 8), round(float(spacing[0]), 8)]
        image.SliceThickness = round(float(spacing[2]), 6)
        image.Rows, image.Columns = volume.array.shape[1], volume.array.shape[0]
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.BitsAllocated = image.BitsStored = 16
        image.HighBit, image.PixelRepresentation = 15, 1
        image.RescaleIntercept, image.RescaleSlope = 0, 1
        image.PixelData = np.ascontiguousarray(volume.array[:, :, k].T.astype("<i2")).tobytes()
        pydicom.dcmwrite(folder / f"{k:04d}.dcm", image, enforce_file_format=True)
