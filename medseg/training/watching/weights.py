"""Weights and checkpoints on disk: plain tensors, whole or not there."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from medseg.errors import BundleError, explain_os_errors
from medseg.files import atomic_path
from medseg.runs import FoldFolder
from medseg.training.module import TrainingModule
from medseg.training.watching.divergence import Samples, diverged, samples_of

__all__ = ["Checkpoints", "load_resume_state", "save_weights"]


def save_weights(module: TrainingModule, path: Path) -> None:
    """Write the network's weights alone, atomically, in PyTorch's plain memory format."""
    weights = {
        name: tensor.detach().cpu().contiguous() for name, tensor in module.judged.state_dict().items()
    }
    _save(weights, path)


def load_resume_state(path: Path) -> dict[str, Any]:
    """Read what ``Checkpoints`` wrote.

    Raises:
        BundleError: The file is damaged.
    """
    try:
        with explain_os_errors(path):
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise BundleError(
            "is damaged", where=path, fix="delete it: the fold is then trained from its start"
        ) from error
    return state


def _save(content: dict[str, Any], path: Path) -> None:
    # In memory first: torch itself writes the temporary file's name into the file, so that the same weights
    # make other bytes, and forgets why a file could not be written, as on a full disk.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


class Checkpoints(Callback):  # type: ignore[misc]
    """Writes what ``--resume`` goes on from, atomically, once an epoch. Keep it last of the list."""

    def __init__(self, fold: FoldFolder) -> None:
        self._fold = fold
        self._last: Samples = ()

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: TrainingModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Keep in mind what this step learnt from."""
        del trainer, pl_module, outputs, batch_idx
        self._last = samples_of(batch)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: TrainingModule) -> None:
        """Write it, unless the last step has spoilt the weights, which the next step's loss would show."""
        del trainer
        if not all(bool(tensor.isfinite().all()) for tensor in pl_module.network.state_dict().values()):
            raise diverged("the weights became infinite or NaN", pl_module.step, self._last, self._fold)
        _save(pl_module.resume_state(), self._fold.resume_state)
