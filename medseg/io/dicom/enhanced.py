"""Enhanced multi-frame objects: functional groups, shared and per frame, to frames (PS3.3, section C.7.6.16).

A value that a frame's own group gives goes before the shared one. What differs between frames of one object
(stack, echo, b-value, time) becomes a trait, so that several volumes in one object come apart like those of
a series of slices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from pydicom.dataset import Dataset

from medseg.io.dicom.elements import integer, number, numbers, raw_bytes, text, texts
from medseg.io.dicom.frames import Frame, Trait
from medseg.io.dicom.header_file import DamagedFileError, Header
from medseg.io.dicom.plane import long_values, orientation, position, rescale, spacing, thickness
from medseg.io.dicom.traits import classic_traits, gradient_trait

__all__ = ["GROUP_TAGS", "enhanced_frames", "has_groups"]

_SHARED: Final = 0x52009229
_PER_FRAME: Final = 0x52009230
GROUP_TAGS: Final = (_SHARED, _PER_FRAME)
"""What has to be read of a header to see whether it has functional groups."""

_LONGEST_GROUP_BYTES: Final = 1 << 20
"""Of one group of one frame: a few hundred bytes are usual."""

_FRAME_CONTENT: Final = 0x00209111
_PLANE_POSITION: Final = 0x00209113
_PLANE_ORIENTATION: Final = 0x00209116
_PIXEL_MEASURES: Final = 0x00289110
_VALUE_TRANSFORMATION: Final = 0x00289145
_DIFFUSION: Final = 0x00189117
_DIFFUSION_DIRECTION: Final = 0x00189076
_CONVERTED: Final = (0x00209170, 0x00209171)
"""Unassigned attributes of legacy converted objects, shared and per frame: those of the classic header."""

Reader = Callable[[Dataset, int], Trait]


def _text(dataset: Dataset, tag: int) -> Trait:
    return text(dataset, tag) or None


def _texts(dataset: Dataset, tag: int) -> Trait:
    return texts(dataset, tag) or None


_TRAITS: Final[tuple[tuple[int, str, int, Reader], ...]] = (
    (_FRAME_CONTENT, "StackID", 0x00209056, _text),
    (_FRAME_CONTENT, "TemporalPositionIndex", 0x00209128, integer),
    (_FRAME_CONTENT, "AcquisitionNumber", 0x00209156, integer),
    (0x00189226, "ImageType", 0x00089007, _texts),
    (0x00189226, "ComplexImageComponent", 0x00089208, _text),
    (0x00189329, "ImageType", 0x00089007, _texts),
    (0x00189751, "ImageType", 0x00089007, _texts),
    (0x00189114, "EchoTime", 0x00189082, number),
    (0x00189115, "InversionTime", 0x00189079, number),
    (0x00189112, "FlipAngle", 0x00181314, number),
    (_DIFFUSION, "DiffusionBValue", 0x00189087, number),
    (0x00189118, "NominalPercentageOfCardiacPhase", 0x00209241, number),
    (0x00189118, "TriggerTime", 0x00209153, number),
    (0x00189314, "ConvolutionKernel", 0x00181210, _text),
    (0x00189325, "KVP", 0x00180060, number),
)
"""The group, the trait, the element in the group that tells it, and how it is read."""


@dataclass
class _Group:
    """What one item of the functional groups says; ``None`` and empty where it says nothing."""

    values: dict[str, object] = field(default_factory=dict)
    traits: dict[str, Trait] = field(default_factory=dict)
    long_values: tuple[str, ...] = ()


def has_groups(header: Header) -> bool:
    """Whether a header has functional groups."""
    return any(tag in header.dataset for tag in GROUP_TAGS)


def enhanced_frames(header: Header, first: Frame, planes: int) -> list[Frame]:
    """The frames of an enhanced object.

    Args:
        header: Its header.
        first: What the header says outside of the groups.
        planes: How many planes the header announces.

    Raises:
        DamagedFileError: There is not one item for each plane, or one cannot be read.
    """
    shared_items = header.items(header.dataset, _SHARED)
    shared = _group(header, shared_items[0]) if shared_items else _Group()
    items = header.items(header.dataset, _PER_FRAME)
    if len(items) != planes:
        raise DamagedFileError(f"it announces {planes} frames, but describes {len(items)}")
    return [_frame(first, shared, _group(header, item), index) for index, item in enumerate(items)]


def _frame(first: Frame, shared: _Group, own: _Group, index: int) -> Frame:
    values = {
        name: value for group in (shared, own) for name, value in group.values.items() if value is not None
    }
    return replace(
        first,
        number=index,
        traits={**first.traits, **shared.traits, **own.traits},
        long_values=tuple(sorted({*first.long_values, *shared.long_values, *own.long_values})),
        **values,  # type: ignore[arg-type]
    )


def _group(header: Header, item: Dataset) -> _Group:
    found = _Group()
    for tag, read in _PLANE_READERS.items():
        macro = _macro(header, item, tag)
        if macro is not None:
            found.values |= read(macro)
            found.long_values += long_values(macro)
    macros = {tag: _macro(header, item, tag) for tag in {entry[0] for entry in _TRAITS}}
    for tag, name, element, read_trait in _TRAITS:
        macro = macros[tag]
        value = None if macro is None else read_trait(macro, element)
        if value is not None:
            found.traits[name] = value
    diffusion = macros[_DIFFUSION]
    direction = None if diffusion is None else _macro(header, diffusion, _DIFFUSION_DIRECTION)
    gradient = () if direction is None else numbers(direction, 0x00189089)
    if gradient:
        found.traits["DiffusionGradientOrientation"] = gradient_trait(gradient)
    for tag in _CONVERTED:
        converted = _macro(header, item, tag)
        found.traits = {**(classic_traits(converted) if converted is not None else {}), **found.traits}
    return found


def _macro(header: Header, item: Dataset, tag: int) -> Dataset | None:
    """The one item of a group's sequence."""
    if tag not in item:
        return None
    if len(raw_bytes(item, tag)) > _LONGEST_GROUP_BYTES:
        raise DamagedFileError("a functional group is longer than any that is known")
    found = header.items(item, tag)
    return found[0] if found else None


def _pixel_measures(macro: Dataset) -> dict[str, object]:
    slice_thickness, spacing_between = thickness(macro)
    return {"spacing": spacing(macro), "thickness": slice_thickness, "spacing_between": spacing_between}


def _transformation(macro: Dataset) -> dict[str, object]:
    slope, intercept = rescale(macro)
    return {"slope": slope, "intercept": intercept}


_PLANE_READERS: Final[dict[int, Callable[[Dataset], dict[str, object]]]] = {
    _PLANE_POSITION: lambda macro: {"position": position(macro)},
    _PLANE_ORIENTATION: lambda macro: {"orientation": orientation(macro)},
    _PIXEL_MEASURES: _pixel_measures,
    _VALUE_TRANSFORMATION: _transformation,
}
