"""An evaluation of small phantoms, one of whose names is markup."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medseg.data.phantoms import make_phantom, phantom_labels
from medseg.evaluation import Pictures, evaluate_folders
from medseg.files import write_json
from medseg.io import write_volume
from medseg.volume import Volume

MARKUP = "a<script>alert(1)<b> & 'b'"


@pytest.fixture(scope="session")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four cases in ``scores/``: one right, one shifted, one without nodules, one without a prediction."""
    folder = tmp_path_factory.mktemp("evaluation")
    labels = {str(entry.value): entry.name for entry in phantom_labels("mr").classes}
    write_json({"labels": labels}, folder / "dataset.json")
    for number, case in enumerate(("right", "shifted", MARKUP, "unpredicted")):
        phantom = make_phantom("mr", number, shape=(24, 24, 20))
        guess = np.roll(phantom.label.array, number, axis=1)
        if case == MARKUP:
            guess[guess == 4] = 0
        name = f"{case}.nii.gz"
        write_volume(phantom.image, folder / "images" / name)
        write_volume(phantom.label, folder / "labels" / name, labels=True)
        if case != "unpredicted":
            write_volume(Volume(guess, phantom.label.grid), folder / "predictions" / name, labels=True)
    evaluate_folders(
        folder / "predictions",
        folder / "labels",
        folder / "scores",
        require_all=True,
        pictures=Pictures(folder / "images"),
    )
    return folder / "scores"
