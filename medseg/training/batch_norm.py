"""Batch norm over a batch that is spread over processes."""

from __future__ import annotations

import functools
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from medseg.processes import gather_from_processes, process_count, sum_over_processes

__all__ = ["synchronise_batch_norms"]


def synchronise_batch_norms(network: nn.Module) -> tuple[str, ...]:
    """Let each batch norm take its statistics from the batches of all processes, while it trains.

    PyTorch's ``SyncBatchNorm`` does this on GPUs alone; this does it on any device, with the statistics of
    each process put together so that none of their digits is lost. Nothing but the layers' ``forward``
    changes: names, weights and what they do in evaluation mode stay. All processes must run the network at
    the same time, on batches of the same number of voxels or not.

    Args:
        network: Its batch norms are changed in place.

    Returns:
        The names of the layers that were changed.

    Example:
        >>> network = nn.Sequential(nn.Conv3d(1, 2, 3), nn.BatchNorm3d(2))
        >>> synchronise_batch_norms(network)
        ('1',)
        >>> list(network.state_dict())[2:4]
        ['1.weight', '1.bias']

    References:
        Chan, Golub, LeVeque, Updating formulae and a pairwise algorithm for computing sample variances,
        COMPSTAT 1982 (how means and variances of parts become those of the whole).
    """
    changed = []
    for name, layer in network.named_modules():
        if isinstance(layer, _BatchNorm):
            layer.forward = functools.partial(_forward, layer)  # type: ignore[method-assign]
            changed.append(name)
    return tuple(changed)


def _forward(layer: _BatchNorm, images: Tensor) -> Tensor:
    if not layer.training or process_count() == 1:
        plain: Tensor = type(layer).forward(layer, images)
        return plain
    result, mean, variance, count = cast(
        tuple[Tensor, Tensor, Tensor, Tensor],
        _NormalisedOverProcesses.apply(images, layer.weight, layer.bias, layer.eps),  # type: ignore[no-untyped-call]
    )
    _follow(layer, mean, variance * (count / (count - 1.0)))
    return result


@torch.no_grad()
def _follow(layer: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    """Move the running statistics towards those of a batch, as ``torch.nn.BatchNorm3d`` does."""
    if layer.running_mean is None or layer.running_var is None or layer.num_batches_tracked is None:
        return
    layer.num_batches_tracked.add_(1)
    share = 1.0 / float(layer.num_batches_tracked) if layer.momentum is None else layer.momentum
    layer.running_mean.lerp_(mean.to(layer.running_mean), share)
    layer.running_var.lerp_(variance.to(layer.running_var), share)


class _NormalisedOverProcesses(torch.autograd.Function):
    """Normalise by the mean and variance of all processes' voxels.

    The gradients of ``weight`` and ``bias`` are this process's part: those who train average them.
    """

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean, variance, count = _statistics(images)
        result = functional.batch_norm(
            images, mean, variance, weight, bias, training=False, momentum=0.0, eps=eps
        )
        ctx.save_for_backward(images, weight, mean, (variance + eps).rsqrt(), count)
        ctx.mark_non_differentiable(mean, variance, count)
        return result, mean, variance, count

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        images, weight, mean, inverse_deviation, count = ctx.saved_tensors
        shape = (1, -1, *(1,) * (images.dim() - 2))
        along = (0, *range(2, images.dim()))
        upstream = gradients[0].to(mean.dtype)
        normalised = (images.to(mean.dtype) - mean.view(shape)) * inverse_deviation.view(shape)
        of_bias, of_weight = upstream.sum(along), (upstream * normalised).sum(along)
        mean_bias, mean_weight = sum_over_processes(torch.stack([of_bias, of_weight])) / count
        of_images = upstream - mean_bias.view(shape) - normalised * mean_weight.view(shape)
        scale = inverse_deviation if weight is None else inverse_deviation * weight.to(mean.dtype)
        return (
            (of_images * scale.view(shape)).to(images.dtype),
            of_weight.to(weight.dtype) if ctx.needs_input_grad[1] else None,
            of_bias.to(weight.dtype) if ctx.needs_input_grad[2] else None,
            None,
        )


def _statistics(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variance and number of all processes' voxels, in at least single precision."""
    values = images if images.dtype == torch.float64 else images.float()
    along = (0, *range(2, images.dim()))
    variance, mean = torch.var_mean(values, along, correction=0)
    own = mean.new_full((1,), values.numel() // values.shape[1])
    parts = gather_from_processes(torch.cat([own, mean, variance]))
    channels = images.shape[1]
    counts, means, variances = parts[:, :1], parts[:, 1 : 1 + channels], parts[:, 1 + channels :]
    count = counts.sum()
    shares = counts / count
    mean = (shares * means).sum(0)
    variance = (shares * (variances + (means - mean).square())).sum(0)
    return mean, variance, count
