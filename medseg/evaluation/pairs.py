"""Which prediction belongs to which reference."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from medseg.errors import InputError
from medseg.io import SUFFIXES, split_suffix

__all__ = ["Pair", "Pairing", "find_images", "find_pairs"]

_FIRST_CHANNEL = re.compile(r"(?P<case>.+)_0000")


class Pair(NamedTuple):
    """A case's two label maps.

    Attributes:
        case: The case's id.
        prediction: The label map to be judged; ``None`` if there is none and the case counts all the same.
        reference: The label map to judge by.
    """

    case: str
    prediction: Path | None
    reference: Path


@dataclass(frozen=True)
class Pairing:
    """What was found in two folders.

    Attributes:
        pairs: Cases with a prediction and a reference, sorted by id.
        without_prediction: References that no prediction belongs to.
        without_reference: Predictions that no reference belongs to.
    """

    pairs: tuple[Pair, ...]
    without_prediction: tuple[Pair, ...] = ()
    without_reference: tuple[Path, ...] = ()

    def complete(self) -> tuple[Pair, ...]:
        """Every reference, those without a prediction too, sorted by id."""
        return tuple(sorted((*self.pairs, *self.without_prediction), key=lambda pair: pair.case))


def find_pairs(pred: str | os.PathLike[str], ref: str | os.PathLike[str]) -> Pairing:
    """Pair predictions with references by name, whatever their formats.

    A prediction belongs to the reference whose name without suffix is its own. A prediction may also be
    named as nnU-Net names the first channel of an image (``case_0000``) while its reference has the case's
    name (``case``).

    Args:
        pred: A folder of label maps, or one file.
        ref: A folder of label maps, or one file. Two files are a pair whatever their names.

    Raises:
        InputError: A folder is missing or holds no label map, two files in it have the same name, or not
            one prediction has a reference.
    """
    predictions, references = _files_by_name(Path(pred)), _files_by_name(Path(ref))
    if Path(pred).is_file() and Path(ref).is_file():
        return Pairing((Pair(next(iter(references)), Path(pred), Path(ref)),))
    paired: dict[str, Path] = {}
    unmatched = []
    for name, path in predictions.items():
        case = _case_of(name, references)
        if case is None or case in paired:
            unmatched.append(path)
        else:
            paired[case] = path
    if not paired:
        raise InputError(
            f"no prediction is named as a reference in {ref} (for example {unmatched[0].name} and "
            f"{next(iter(references.values())).name})",
            where=pred,
            fix="name each prediction as its reference; only the suffix may differ",
        )
    pairs = (Pair(case, paired[case], references[case]) for case in sorted(paired))
    missing = (Pair(case, None, references[case]) for case in sorted(references.keys() - paired.keys()))
    return Pairing(tuple(pairs), tuple(missing), tuple(unmatched))


def find_images(images: str | os.PathLike[str], cases: Sequence[str]) -> dict[str, Path]:
    """Find the images of cases: named as the case, or as nnU-Net names its first channel.

    Args:
        images: A folder of images, or one file, which is that of an only case whatever its name.
        cases: The cases' ids.

    Returns:
        The images that there are, by case.

    Raises:
        InputError: The folder is missing, or holds no image of any case.
    """
    files = _files_by_name(Path(images), "image")
    if Path(images).is_file() and len(cases) == 1:
        return {cases[0]: Path(images)}
    names = {case: next((n for n in (case, f"{case}_0000") if n in files), None) for case in cases}
    found = {case: files[name] for case, name in names.items() if name is not None}
    if cases and not found:
        raise InputError(
            f"holds the image of no case (no {cases[0]}, for example)",
            where=images,
            fix="name each image as its reference, or with _0000 behind",
        )
    return found


def _case_of(name: str, references: dict[str, Path]) -> str | None:
    match = _FIRST_CHANNEL.fullmatch(name)
    candidates = (name,) if match is None else (name, match["case"])
    return next((case for case in candidates if case in references), None)


def _files_by_name(path: Path, kind: str = "label map") -> dict[str, Path]:
    """Name without suffix → file, for the images of a folder (not of folders within) or one file."""
    if not path.exists():
        raise InputError("does not exist", where=path, fix="check the path")
    if path.is_file():
        return {split_suffix(path)[0]: path}
    found: dict[str, Path] = {}
    for file in sorted(path.iterdir()):
        if file.name.startswith(".") or not file.name.lower().endswith(SUFFIXES) or not file.is_file():
            continue
        name = split_suffix(file)[0]
        if name in found:
            raise InputError(
                f"has the same case name as {found[name].name}", where=file, fix="remove one of them"
            )
        found[name] = file
    if not found:
        raise InputError(f"holds no {kind}", where=path, fix=f"give a folder of {', '.join(SUFFIXES)} files")
    return found
