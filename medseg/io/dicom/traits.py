"""Traits: what tells two frames at the same place apart, from a classic header or a functional group."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pydicom.dataset import Dataset

from medseg.io.dicom.elements import integer, number, numbers, raw_bytes, text, texts
from medseg.io.dicom.frames import Trait

__all__ = ["TECHNICAL_TRAITS", "TRAITS", "TRAIT_TAGS", "classic_traits", "gradient_trait"]

TRAITS: Final = (
    "StackID",
    "ImageType",
    "ComplexImageComponent",
    "EchoTime",
    "EchoNumbers",
    "InversionTime",
    "FlipAngle",
    "KVP",
    "ConvolutionKernel",
    "DiffusionBValue",
    "DiffusionGradientOrientation",
    "TemporalPositionIndex",
    "TemporalPositionIdentifier",
    "NominalPercentageOfCardiacPhase",
    "TriggerTime",
    "ContrastBolusAgent",
    "SequenceName",
    "AcquisitionNumber",
    "AcquisitionTime",
)
"""In the order in which a series is split by them: first what changes an image's meaning, last when it was
acquired."""

TECHNICAL_TRAITS: Final = frozenset(TRAITS) - {"StackID", "ContrastBolusAgent", "AcquisitionTime"}
"""Those that say how an image was taken. The others, times of day and free text, may tell of whom."""

_TEXTS: Final = {
    "ComplexImageComponent": 0x00089208,
    "ConvolutionKernel": 0x00181210,
    "ContrastBolusAgent": 0x00180010,
    "SequenceName": 0x00180024,
    "AcquisitionTime": 0x00080032,
    "StackID": 0x00209056,
}
_NUMBERS: Final = {
    "EchoTime": 0x00180081,
    "InversionTime": 0x00180082,
    "FlipAngle": 0x00181314,
    "KVP": 0x00180060,
    "DiffusionBValue": 0x00189087,
    "NominalPercentageOfCardiacPhase": 0x00209241,
    "TriggerTime": 0x00181060,
}
_INTEGERS: Final = {
    "EchoNumbers": 0x00180086,
    "TemporalPositionIndex": 0x00209128,
    "TemporalPositionIdentifier": 0x00200100,
    "AcquisitionNumber": 0x00200012,
}
_IMAGE_TYPE: Final = 0x00080008
_GRADIENT: Final = 0x00189089

# Before PS3.3 had a place for diffusion, each maker had its own; a private block is known by its creator.
_SIEMENS: Final = (0x00190010, b"SIEMENS MR HEADER")
_GE_PARAMETERS: Final = (0x00430010, b"GEMS_PARM_01")
_GE_ACQUISITION: Final = (0x00190010, b"GEMS_ACQU_01")
_PHILIPS: Final = (0x20010010, b"Philips Imaging DD 001")
_SIEMENS_B_VALUE: Final = 0x0019100C
_SIEMENS_GRADIENT: Final = 0x0019100E
_GE_B_VALUE: Final = 0x00431039
_GE_GRADIENT: Final = (0x001910BB, 0x001910BC, 0x001910BD)
_PHILIPS_B_VALUE: Final = 0x20011003
_GE_B_VALUE_OFFSET: Final = 1_000_000_000
"""GE adds this to b-values of some sequences."""

TRAIT_TAGS: Final = (
    _IMAGE_TYPE,
    _GRADIENT,
    *_TEXTS.values(),
    *_NUMBERS.values(),
    *_INTEGERS.values(),
    _SIEMENS[0],
    _GE_PARAMETERS[0],
    _PHILIPS[0],
    _SIEMENS_B_VALUE,
    _SIEMENS_GRADIENT,
    _GE_B_VALUE,
    *_GE_GRADIENT,
    _PHILIPS_B_VALUE,
)
"""What has to be read of a header for ``classic_traits``."""


def classic_traits(dataset: Dataset) -> dict[str, Trait]:
    """The traits that a header of one slice gives, by DICOM keyword; those that are missing are left out."""
    found: dict[str, Trait] = {"ImageType": texts(dataset, _IMAGE_TYPE) or None}
    found |= {name: text(dataset, tag) or None for name, tag in _TEXTS.items() if tag in dataset}
    found |= {name: number(dataset, tag) for name, tag in _NUMBERS.items() if tag in dataset}
    found |= {name: integer(dataset, tag) for name, tag in _INTEGERS.items() if tag in dataset}
    if _GRADIENT in dataset:
        found["DiffusionGradientOrientation"] = gradient_trait(numbers(dataset, _GRADIENT))
    missing = {name: value for name, value in _private_diffusion(dataset).items() if found.get(name) is None}
    return {name: value for name, value in {**found, **missing}.items() if value is not None}


def gradient_trait(direction: tuple[float, ...]) -> Trait:
    """A gradient direction as a trait: equal where directions are equal to the fourth decimal."""
    # Adding 0.0 turns -0.0 into 0.0, which is written otherwise.
    return tuple(f"{round(x, 4) + 0.0:.4f}" for x in direction) or None


def _private_diffusion(dataset: Dataset) -> Mapping[str, Trait]:
    if _made_by(dataset, _SIEMENS):
        return {
            "DiffusionBValue": number(dataset, _SIEMENS_B_VALUE, "IS"),
            "DiffusionGradientOrientation": gradient_trait(numbers(dataset, _SIEMENS_GRADIENT, "FD")),
        }
    if _made_by(dataset, _GE_PARAMETERS):
        value = number(dataset, _GE_B_VALUE, "IS")
        direction = [number(dataset, tag, "DS") for tag in _GE_GRADIENT if _made_by(dataset, _GE_ACQUISITION)]
        known = tuple(x for x in direction if x is not None)
        return {
            "DiffusionBValue": None if value is None else value % _GE_B_VALUE_OFFSET,
            "DiffusionGradientOrientation": gradient_trait(known) if len(known) == 3 else None,
        }
    if _made_by(dataset, _PHILIPS):
        return {"DiffusionBValue": number(dataset, _PHILIPS_B_VALUE, "FL")}
    return {}


def _made_by(dataset: Dataset, creator: tuple[int, bytes]) -> bool:
    return raw_bytes(dataset, creator[0]).rstrip(b" \0") == creator[1]
