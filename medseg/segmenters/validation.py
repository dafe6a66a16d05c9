"""The validation cases of a run, each with the fold that did not train on it."""

from __future__ import annotations

import os
from collections.abc import Sequence

from medseg.data import Split, load_dataset
from medseg.errors import BundleError, InputError, MedsegError
from medseg.files import read_json
from medseg.io import Case
from medseg.runs import RunFolder
from medseg.runs.bundle import is_bundle
from medseg.runs.nnunet import NnunetFolder

__all__ = ["validation_cases"]


def validation_cases(
    path: str | os.PathLike[str], folds: Sequence[int] | None = None
) -> dict[int, list[Case]]:
    """The cases that validate each trained fold of a run.

    Args:
        path: The run's folder.
        folds: Which folds; all that are trained if left out.

    Returns:
        Fold to cases.

    Raises:
        InputError: There is no run in this folder, it is a pretraining's, or its data set is not where it
            was.
        BundleError: The run is damaged, or its data set has lost a case.
    """
    if is_bundle(path) or NnunetFolder.is_one(path):
        raise InputError(
            "knows nothing of validation cases", where=path, fix="give images by --input, or the run itself"
        )
    run = RunFolder.open(path)
    run.require_segmentation()
    chosen = [fold.index for fold in run.trained_folds()] if folds is None else list(folds)
    try:
        split = Split.load(run.split_path)
        where = read_json(run.manifest_path)["data"]
    except (MedsegError, KeyError, TypeError) as error:
        what = error.what if isinstance(error, MedsegError) else "manifest.json does not name the data"
        raise BundleError(f"the run is damaged: {what}", where=run.path, fix="train it anew") from error
    cases = {case.id: case for case in load_dataset(where).cases}
    lost = [name for fold in chosen for name in split.validation(fold) if name not in cases]
    if lost:
        raise BundleError(
            f"case '{lost[0]}' of the run is not in {where} any more", where=run.path, fix="restore the data"
        )
    return {fold: [cases[name] for name in split.validation(fold)] for fold in chosen}
