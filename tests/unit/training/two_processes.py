"""One of two processes that work on one batch: computes its share and writes it down.

Started by test_distributed.py with what a launcher would tell it.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medseg.errors import InputError, MedsegError, ResourceError
from medseg.losses import SegmentationLoss, build_loss
from medseg.training.batch_norm import synchronise_batch_norms
from medseg.training.distributed import Processes, SharedClock, is_first_process, join_processes

CLASSES = 3
LOSSES: dict[str, tuple[str, dict[str, Any]]] = {
    "boundary": ("boundary", {}),
    "boundary of a sum": ("boundary", {"reduction": "sum"}),
    "dice": ("dice", {}),
    "dice of a sum": ("dice", {"reduction": "sum"}),
    "dice of the batch": ("dice", {"batch": True, "include_background": False}),
    "dice of the batch, of a sum": ("dice", {"batch": True, "reduction": "sum"}),
    "dice_ce of the batch": ("dice_ce", {"batch": True, "include_background": False}),
    "dice_ce without a class": ("dice_ce", {"batch": True, "ignore_index": 2}),
    "focal": ("focal", {"weight": (1.0, 2.0, 3.0)}),
    "generalized_dice of the batch": ("generalized_dice", {"batch": True}),
    "top_k": ("top_k", {"fraction": 0.2}),
    "tversky of the batch": ("tversky", {"batch": True, "alpha": 0.3, "beta": 0.7}),
    "weighted_cross_entropy": ("weighted_cross_entropy", {"weight": (1.0, 0.5, 2.0)}),
    "weighted_cross_entropy of a sum": ("weighted_cross_entropy", {"reduction": "sum"}),
}
"""By a name, a registered loss and options of it."""


def loss_of(name: str) -> nn.Module:
    """One of ``LOSSES``."""
    registered, options = LOSSES[name]
    return build_loss(registered, softmax=True, to_onehot_y=True, **options)


def whole_batch() -> tuple[Tensor, Tensor, Tensor]:
    """Scores (4, C, X, Y, Z) in float64, class indices and weights of voxels: images differ in all."""
    generator = torch.Generator().manual_seed(3)
    scores = torch.randn(4, CLASSES, 5, 4, 3, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, CLASSES, (4, 1, 5, 4, 3), generator=generator)
    labels[0] = 2  # one process alone has voxels that a loss ignores
    weights = torch.rand(4, 1, 5, 4, 3, generator=generator, dtype=torch.float64)
    weights[3] *= 5.0
    return scores, labels, weights


def normalising_network() -> nn.Module:
    """Two batch norms, one that averages over all batches and has no weights of its own; float64."""
    torch.manual_seed(1)
    layers = (
        nn.Conv3d(2, 3, 3, padding=1, bias=False),
        nn.BatchNorm3d(3),
        nn.ReLU(),
        nn.Conv3d(3, 2, 1),
        nn.BatchNorm3d(2, momentum=None, affine=False),
    )
    return nn.Sequential(*layers).double()


def images() -> tuple[Tensor, Tensor]:
    """Images (4, 2, X, Y, Z) far from zero mean, and factors of the network's results; float64."""
    generator = torch.Generator().manual_seed(5)
    made = torch.randn(4, 2, 4, 3, 5, generator=generator, dtype=torch.float64) * 3.0 + 100.0
    return made, torch.randn(4, 2, 4, 3, 5, generator=generator, dtype=torch.float64)


def normalised(network: nn.Module, batch: Tensor, factors: Tensor, steps: int = 2) -> dict[str, Tensor]:
    """Results, gradients (of a sum over images) and running statistics after some passes."""
    batch = batch.clone().requires_grad_()
    for _ in range(steps):
        network.zero_grad()
        batch.grad = None
        result = network(batch)
        (result * factors).sum().backward()
    assert batch.grad is not None
    found = {"result": result.detach(), "of images": batch.grad}
    found |= {f"of {name}": p.grad for name, p in network.named_parameters() if p.grad is not None}
    return found | {name: value.clone() for name, value in network.named_buffers()}


def _losses(number: int) -> dict[str, tuple[Tensor, Tensor]]:
    found = {}
    for name in LOSSES:
        scores, labels, weights = (part.chunk(2)[number] for part in whole_batch())
        scores = scores.clone().requires_grad_()
        loss = loss_of(name)
        for part in loss.modules():
            if isinstance(part, SegmentationLoss):
                part.over_processes = True
        value = loss(scores, labels, weights)
        value.backward()
        assert scores.grad is not None
        found[name] = (value.detach(), scores.grad)
    return found


def _refused() -> None:
    raise InputError("is not there", where="here", fix="put it there")


def _told(processes: Processes) -> str:
    try:
        processes.by_first(_refused)
    except MedsegError as error:
        return str(error)
    return ""


def work(folder: Path) -> None:
    """Compute one process's share, with the other; then lose the other.

    Args:
        folder: For the results.
    """
    with join_processes("cpu") as processes:
        number = processes.number
        network = normalising_network()
        synchronise_batch_norms(network)
        share = slice(0, 3) if number == 0 else slice(3, 4)  # not as many images in each
        batch, factors = (part[share] for part in images())
        clock = SharedClock(processes)
        clock.tick()
        rows = np.array([[case, case**2] for case in processes.share_of(5)], dtype=float)
        found = {
            "count": processes.count,
            "local": processes.local,
            "per_machine": processes.per_machine,
            "first": (processes.first, is_first_process()),
            "by_first": processes.by_first(lambda: f"from {number}"),
            "told": _told(processes),
            "minutes": (clock.minutes, clock.cpu_minutes),
            "rows": torch.from_numpy(processes.all_rows(rows, 5)),
            "few": torch.from_numpy(processes.all_rows(np.full((1, 1), float(number)), 1)),
            "losses": _losses(number),
            "normalised": normalised(network, batch, factors),
        }
        torch.save(found, folder / f"{number}.pt")
    os.environ["MASTER_PORT"] = os.environ["NEXT_PORT"]
    if number == 0:
        try:
            with join_processes("cpu") as processes:
                processes.by_first(lambda: None)
                processes.all_rows(np.zeros((1, 1)), 2)
        except ResourceError as error:
            (folder / "lost.txt").write_text(str(error), encoding="utf-8")
    else:
        with join_processes("cpu") as processes:
            processes.by_first(lambda: None)
            time.sleep(0.2)
            os._exit(0)  # as if killed
