"""Which files of a folder make up a case."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

__all__ = ["find_images", "labelled_cases"]

_SUFFIXES = (".nii.gz", ".nii")
_CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")


def find_images(folder: str, channels: int) -> list[dict[str, Any]]:
    """The images of a folder, in the order of their names.

    A file is a case, with all its channels. Files that differ in a number of four digits at the end of their
    names alone, as in ``case_0000.nii.gz`` and ``case_0001.nii.gz``, are the channels of one case.

    Args:
        folder: Where NIfTI files lie.
        channels: How many the network takes.

    Returns:
        For each case ``{"image": path}``, or ``{"image": [path, …]}`` of one path a channel.

    Raises:
        FileNotFoundError: There is no NIfTI file in the folder.
        ValueError: Channels are missing of a case.
    """
    cases: list[dict[str, Any]] = [
        {"image": paths[0] if len(paths) == 1 else paths} for paths in _grouped(folder, channels).values()
    ]
    if not cases:
        raise FileNotFoundError(f"no NIfTI file in '{folder}'; give --dataset_dir FOLDER")
    return cases


def labelled_cases(folder: str, channels: int) -> list[dict[str, Any]]:
    """The labelled cases of a data set, in the order of their names.

    Args:
        folder: With images in ``imagesTr`` and label maps in ``labelsTr``, named as the Medical Segmentation
            Decathlon (``case.nii.gz`` in both) or nnU-Net (``case_0000.nii.gz`` for channels) names them.
        channels: How many the network takes.

    Returns:
        For each case ``{"image": …, "label": path}``, the image as ``find_images`` gives it.

    Raises:
        FileNotFoundError: There is no labelled case.
    """
    images = _grouped(str(Path(folder) / "imagesTr"), channels)
    labels = {name: path for path in _files(Path(folder) / "labelsTr") if (name := _stem(path))}
    cases: list[dict[str, Any]] = [
        {"image": paths[0] if len(paths) == 1 else paths, "label": str(labels[name])}
        for name, paths in images.items()
        if name in labels
    ]
    if not cases:
        raise FileNotFoundError(f"no labelled case in '{folder}'; give --dataset_dir FOLDER of a data set")
    return cases


def _files(folder: Path) -> list[Path]:
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in found if path.name.endswith(_SUFFIXES) and not path.name.startswith(".")]


def _stem(path: Path) -> str:
    suffix = next(suffix for suffix in _SUFFIXES if path.name.endswith(suffix))
    return path.name.removesuffix(suffix)


def _grouped(folder: str, channels: int) -> dict[str, list[str]]:
    """The files of each case, by its name."""
    files = _files(Path(folder))
    names = [_stem(path) for path in files]
    split = [_CHANNEL.fullmatch(name) for name in names]
    by_channel = (
        bool(files)
        and all(split)
        and {match["channel"] for match in split if match} == {f"{number:04}" for number in range(channels)}
    )
    grouped: dict[str, list[str]] = {}
    for path, name, match in zip(files, names, split, strict=True):
        grouped.setdefault(match["case"] if by_channel and match else name, []).append(str(path))
    for name, paths in grouped.items():
        if by_channel and len(paths) != channels:
            raise ValueError(f"case '{name}' of '{folder}' has {len(paths)} channels, {channels} needed")
    return grouped
