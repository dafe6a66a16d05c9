"""What the header of a DICOM segmentation says: its segments, and where each frame belongs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID

from medseg.errors import InputError
from medseg.geometry import FloatArray
from medseg.io.dicom.segmentations.colors import rgb_from_cielab
from medseg.io.dicom.segmentations.headers import (
    explain_damage,
    frame_groups,
    group_of,
    lattice_of,
    positions_of,
    read_object,
    text_of,
)
from medseg.io.dicom.segmentations.layers import scheme_of_segments
from medseg.io.dicom.segmentations.planes import Lattice
from medseg.io.sizes import require_in_file
from medseg.labels import CodedConcept, LabelScheme

__all__ = ["LABELMAP_STORAGE", "SEGMENTATION_STORAGE", "StoredSegments", "concept_in", "open_segments"]

SEGMENTATION_STORAGE = "1.2.840.10008.5.1.4.1.1.66.4"
"""SOP class of binary and fractional segmentations."""

LABELMAP_STORAGE = "1.2.840.10008.5.1.4.1.1.66.7"
"""SOP class of label map segmentations."""

_BACKGROUND = ("DCM", "125040")


@dataclass(frozen=True)
class StoredSegments:
    """A segmentation object that was opened; its frames are decoded when they are asked for.

    Attributes:
        path: The file.
        dataset: All of it.
        kind: ``"BINARY"``, ``"FRACTIONAL"`` or ``"LABELMAP"``.
        scheme: Its segments; the value of each is its segment number.
        lattice: Size, directions and spacing of the frames.
        positions: ImagePositionPatient of each frame, (N, 3).
        segment_of: Segment number of each frame; empty for label maps, whose voxels hold it.
        largest: The stored value that stands for 1 in fractional segmentations; else 1.
        background: Values that stand for no segment in label maps.
    """

    path: Path
    dataset: Dataset
    kind: str
    scheme: LabelScheme
    lattice: Lattice
    positions: FloatArray
    segment_of: npt.NDArray[np.int64]
    largest: int
    background: frozenset[int]

    def frame(self, index: int) -> npt.NDArray[Any]:
        """Stored values of a frame, shape (rows, columns).

        Raises:
            InputError: They cannot be decoded.
        """
        if self._packed is not None:
            return self._unpacked_bits(self._packed, index)
        with explain_damage(self.path):
            decoder = get_decoder(self._transfer_syntax)
            values, _ = decoder.as_array(self.dataset, index=index, raw=True)
            return values.reshape(self.lattice.rows, self.lattice.columns)

    @property
    def _transfer_syntax(self) -> UID:
        return UID(self.dataset.file_meta.TransferSyntaxUID)

    @cached_property
    def _packed(self) -> npt.NDArray[np.uint8] | None:
        """The bytes of voxels that take a bit each."""
        if int(self.dataset.BitsAllocated) != 1 or self._transfer_syntax.is_compressed:
            return None
        return np.frombuffer(self.dataset.PixelData, dtype=np.uint8)

    def _unpacked_bits(self, packed: npt.NDArray[np.uint8], index: int) -> npt.NDArray[np.bool_]:
        # Frames follow each other without padding (PS3.5 8.1.1), so one may start within a byte.
        count = self.lattice.rows * self.lattice.columns
        start = index * count
        bits = np.unpackbits(packed[start // 8 : -(-(start + count) // 8)], bitorder="little")
        frame = bits[start % 8 : start % 8 + count].view(np.bool_)
        return frame.reshape(self.lattice.rows, self.lattice.columns)


def open_segments(path: str | PathLike[str]) -> StoredSegments:
    """Read a segmentation's header and check that the file holds what it announces.

    Raises:
        InputError: It is no segmentation, is tiled or has no place in the patient, or is damaged.
    """
    file = Path(path)
    dataset = read_object(file, voxels=True)
    with explain_damage(file):
        kind = _kind_of(dataset, file)
        _require_in_patient(dataset, file)
        _require_frames(dataset, file)
        background = _background_of(dataset) if kind == "LABELMAP" else frozenset()
        scheme = _scheme_of(dataset, background, file)
        segment_of = (
            _segments_of_frames(dataset, scheme, file) if kind != "LABELMAP" else np.zeros(0, np.int64)
        )
        return StoredSegments(
            path=file,
            dataset=dataset,
            kind=kind,
            scheme=scheme,
            lattice=lattice_of(dataset, file),
            positions=positions_of(dataset, file),
            segment_of=segment_of,
            largest=int(dataset.get("MaximumFractionalValue") or 255) if kind == "FRACTIONAL" else 1,
            background=background,
        )


def concept_in(sequence: Any) -> CodedConcept | None:
    """The coded concept in a code sequence, if it is complete (PS3.3 table 8.8-1)."""
    if not sequence:
        return None
    value = next(
        (
            text
            for key in ("CodeValue", "LongCodeValue", "URNCodeValue")
            if (text := text_of(sequence[0], key))
        ),
        "",
    )
    scheme, meaning = text_of(sequence[0], "CodingSchemeDesignator"), text_of(sequence[0], "CodeMeaning")
    return CodedConcept(value, scheme, meaning) if value and meaning else None


def _kind_of(dataset: Dataset, where: Path) -> str:
    if dataset.SOPClassUID not in (SEGMENTATION_STORAGE, LABELMAP_STORAGE):
        raise InputError(
            f"is no segmentation but a {UID(dataset.SOPClassUID).name}",
            where=where,
            fix="give a DICOM SEG file",
        )
    kind = text_of(dataset, "SegmentationType").upper()
    if kind not in ("BINARY", "FRACTIONAL", "LABELMAP"):
        raise InputError("does not say what type of segmentation it is", where=where, fix="export it again")
    return kind


def _require_in_patient(dataset: Dataset, where: Path) -> None:
    organization = text_of(dataset, "DimensionOrganizationType").upper()
    if "TotalPixelMatrixColumns" in dataset or organization.startswith("TILED"):
        raise InputError(
            "is a segmentation of a slide, cut into tiles, and no volume in a patient",
            where=where,
            fix="give a segmentation of CT, MR or another volume",
        )


def _require_frames(dataset: Dataset, where: Path) -> None:
    """Check counts and sizes against each other before anything is allocated by them."""
    announced = int(dataset.get("NumberOfFrames") or 1)
    if announced != len(frame_groups(dataset)):
        raise InputError(
            f"announces {announced} frames, but describes {len(frame_groups(dataset))}", where=where,
            fix="export or copy it again",
        )  # fmt: skip
    rows, columns, bits = int(dataset.Rows), int(dataset.Columns), int(dataset.BitsAllocated)
    if bits not in (1, 8, 16) or int(dataset.get("SamplesPerPixel") or 1) != 1:
        raise InputError(
            f"its voxels take {bits} bits, 1, 8 or 16 are needed", where=where, fix="export it again"
        )
    if dataset.get("PixelData") is None:
        raise InputError("holds no voxels", where=where, fix="export or copy it again")
    if not UID(dataset.file_meta.TransferSyntaxUID).is_compressed:
        needed = -(-announced * rows * columns * bits // 8)
        shape = (columns, rows, announced)
        require_in_file(needed, len(dataset.PixelData), compressed=False, shape=shape, where=where)


def _background_of(dataset: Dataset) -> frozenset[int]:
    padding = dataset.get("PixelPaddingValue")
    return frozenset([0] if padding is None else [0, int(padding)])


def _scheme_of(dataset: Dataset, background: frozenset[int], where: Path) -> LabelScheme:
    segments = []
    for item in dataset.get("SegmentSequence") or ():
        number = int(item.SegmentNumber)
        concept = concept_in(item.get("SegmentedPropertyTypeCodeSequence"))
        if number in background and (number != 0 or concept is None or _is_background(concept)):
            continue
        if number == 0:
            raise InputError("its segment 0 is a structure; 0 has to be the background", where=where,
                             fix="number its segments from 1")  # fmt: skip
        color = item.get("RecommendedDisplayCIELabValue")
        rgb = rgb_from_cielab(color) if color is not None and len(color) == 3 else None
        name = text_of(item, "SegmentLabel") or (concept.meaning if concept else "")
        segments.append((number, name, rgb, concept))
    return scheme_of_segments(segments, where)


def _is_background(concept: CodedConcept) -> bool:
    return (concept.scheme, concept.value) == _BACKGROUND or concept.meaning.lower() == "background"


def _segments_of_frames(dataset: Dataset, scheme: LabelScheme, where: Path) -> npt.NDArray[np.int64]:
    numbers = []
    for frame in frame_groups(dataset):
        group = group_of(dataset, frame, "SegmentIdentificationSequence")
        number = None if group is None else group.get("ReferencedSegmentNumber")
        if number is None or int(number) not in scheme.values[1:]:
            raise InputError(
                "a frame belongs to no segment that it describes", where=where, fix="export it again"
            )
        numbers.append(int(number))
    return np.array(numbers, dtype=np.int64)
