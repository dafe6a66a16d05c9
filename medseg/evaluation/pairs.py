"""Which prediction belongs to which reference."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from medseg.errors import InputError
from medseg.io import SUFFIXES, split_suffix

__all__ = ["Pair", "Pairing", "find_pairs"]

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
    predictions, references = _label_maps(Path(pred)), _label_maps(Path(ref))
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


def _case_of(name: str, references: dict[str, Path]) -> str | None:
    match = _FIRST_CHANNEL.fullmatch(name)
    candidates = (name,) if match is None else (name, match["case"])
    return next((case for case in candidates if case in references), None)


def _label_maps(path: Path) -> dict[str, Path]:
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
        raise InputError(
            "holds no label map", where=path, fix=f"give a folder of {', '.join(SUFFIXES)} files"
        )
    return found
