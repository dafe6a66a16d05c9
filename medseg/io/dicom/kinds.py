"""Which DICOM objects may be slices of a volume, and what the others are called (PS3.4, table B.5-1)."""

from __future__ import annotations

from typing import Final

__all__ = ["DIRECTORY", "LOCALIZER", "SECONDARY_CAPTURE", "is_secondary_capture", "kind_of_other_object"]

DIRECTORY: Final = "directory"
LOCALIZER: Final = "localizer"
SECONDARY_CAPTURE: Final = "secondary capture"

_ROOT: Final = "1.2.840.10008.5.1.4.1.1."

_KINDS: Final = {
    "1.2.840.10008.1.3.10": DIRECTORY,
    f"{_ROOT}66.4": "segmentation",
    f"{_ROOT}66.7": "segmentation",
    f"{_ROOT}66.5": "surfaces",
    f"{_ROOT}66.6": "tracts",
    f"{_ROOT}66": "raw data",
    f"{_ROOT}66.1": "registration",
    f"{_ROOT}66.2": "fiducials",
    f"{_ROOT}66.3": "registration",
    f"{_ROOT}67": "value mapping",
    f"{_ROOT}30": "parametric map",
    f"{_ROOT}4.2": "spectra",
    f"{_ROOT}481.2": "dose",
    f"{_ROOT}481.3": "contours",
    f"{_ROOT}481.5": "treatment plan",
    f"{_ROOT}481.8": "treatment plan",
    f"{_ROOT}481.1": "radiograph",
    f"{_ROOT}1": "radiograph",
    f"{_ROOT}3.1": "ultrasound",
    f"{_ROOT}6.1": "ultrasound",
    f"{_ROOT}12.1": "angiogram",
    f"{_ROOT}12.1.1": "angiogram",
    f"{_ROOT}12.2": "angiogram",
    f"{_ROOT}12.2.1": "angiogram",
}
_KINDS_BY_PREFIX: Final = {
    f"{_ROOT}88.": "report",
    f"{_ROOT}104.": "document",
    f"{_ROOT}11.": "presentation state",
    f"{_ROOT}9.": "waveform",
    f"{_ROOT}1.1": "radiograph",
    f"{_ROOT}1.2": "radiograph",
    f"{_ROOT}1.3": "radiograph",
    f"{_ROOT}77.1.": "photograph",
    f"{_ROOT}481.": "radiotherapy record",
}


def kind_of_other_object(sop_class_uid: str) -> str | None:
    """What an object is called that is no image of slices; ``None`` where it may be one.

    Example:
        >>> kind_of_other_object("1.2.840.10008.5.1.4.1.1.66.4")
        'segmentation'
        >>> kind_of_other_object("1.2.840.10008.5.1.4.1.1.2") is None
        True
    """
    if sop_class_uid in _KINDS:
        return _KINDS[sop_class_uid]
    found = [kind for prefix, kind in _KINDS_BY_PREFIX.items() if sop_class_uid.startswith(prefix)]
    return found[0] if found else None


def is_secondary_capture(sop_class_uid: str) -> bool:
    """Whether an image was captured from a screen or film, by its class."""
    return sop_class_uid == f"{_ROOT}7" or sop_class_uid.startswith(f"{_ROOT}7.")
