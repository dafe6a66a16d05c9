"""Greedy training of an autoencoder, level by level. Imports torch and the autoencoder alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from medseg.networks.autoencoder import Autoencoder, PlainCode

__all__ = ["StackedStages"]


class StackedStages:
    """Trains an autoencoder level by level, each as a small denoising autoencoder on the codes below.

    In stage k the k-th map's layers and the decoder's step k learn to mend the map below, or the image in
    stage 0; everything else is frozen. What the layers below give is spoilt on its way in, and the target is
    what it was before.

    Args:
        autoencoder: With a plain code.

    Raises:
        ValueError: The code is not plain, or a map of the encoder is neither given nor taken by a module.

    References:
        Vincent et al., Stacked denoising autoencoders, JMLR 2010.
    """

    def __init__(self, autoencoder: Autoencoder) -> None:
        if not isinstance(autoencoder.code, PlainCode):
            raise ValueError("levels are stacked with a plain code; choose code='plain'")
        taps = [tap for tap in autoencoder.layout.taps[:-1] if tap is not None]
        if len(taps) < len(autoencoder.layout.taps) - 1:
            raise ValueError(
                "a map of the encoder lies between modules, so that its levels cannot be told apart; "
                "choose another method of pretraining"
            )
        self._autoencoder = autoencoder
        self._taps = taps

    def __len__(self) -> int:
        """Number of stages: one a map."""
        return len(self._autoencoder.layout.taps)

    def enter(self, stage: int | None) -> None:
        """Let the layers of one stage learn, or all of them with ``None``; call it before every step."""
        parts = self._autoencoder
        for name, module in parts.encoder.named_modules():
            _let_learn(module, stage is None or parts.layout.level_of.get(name) == stage)
        for level, step in enumerate(parts.decoder.steps):
            for module in step.modules():
                _let_learn(module, stage in (None, level))
        _let_learn(parts.decoder.head, stage in (None, 0))

    def loss(self, stage: int, images: Tensor, spoil: Callable[[Tensor], Tensor]) -> Tensor:
        """Mean squared error of the map below ``stage``, mended.

        Args:
            stage: From 0.
            images: Shape (B, C, X, Y[, Z]), clean.
            spoil: Applied to the image, or to the code below at a deviation of 1, for codes have no unit.
        """
        parts = self._autoencoder
        if stage == 0:
            target, maps = images, parts.encoder(spoil(images))
        else:
            target, maps = self._run(stage, images, spoil)
        mended = parts.decoder.step(stage, maps[stage], tuple(target.shape[2:]))
        return (mended.float() - target.float()).square().mean()

    def _run(
        self, stage: int, images: Tensor, spoil: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        clean: list[Tensor] = []

        def spoil_code(code: Tensor) -> Tensor:
            clean.append(code.detach().clone())  # what follows may work in place
            deviation = clean[0].std().clamp_min(torch.finfo(code.dtype).eps)
            return spoil(clean[0] / deviation) * deviation

        handle = self._tap(stage - 1, spoil_code)
        try:
            maps: list[Tensor] = self._autoencoder.encoder(images)
        finally:
            handle.remove()
        return clean[0], maps

    def _tap(self, level: int, change: Callable[[Tensor], Tensor]) -> RemovableHandle:
        """Change a map where it passes."""
        tap = self._taps[level]
        module = self._autoencoder.encoder.get_submodule(tap.module)
        if tap.at_input:
            return module.register_forward_pre_hook(lambda _module, args: (change(args[0]), *args[1:]))
        return module.register_forward_hook(lambda _module, _args, given: change(given))


def _let_learn(module: nn.Module, learns: bool) -> None:
    """Of this module alone, not of those within it: whether weights move and norms follow the batch."""
    module.training = learns
    for parameter in module.parameters(recurse=False):
        parameter.requires_grad_(learns)
