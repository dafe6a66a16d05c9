"""The network in other formats, each compared with PyTorch's own, on the example's size and on another."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medseg.bundle.format_files import FloatArray, FormatFiles, Run
from medseg.errors import BundleError, ConfigError, did_you_mean
from medseg.networks.blocks import MaxUnpool

__all__ = ["FORMATS", "FormatReport", "NetworkOfFold", "require_formats", "write_formats"]

FORMATS = ("torch-export", "torchscript", "onnx", "openvino")
"""The formats that a network can be written in, beside its weights."""

_NEEDS = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("onnx", "onnxscript", "openvino")}
_EXTRAS = {"onnx": "onnx", "openvino": "onnx,openvino"}
_LARGEST_DIFFERENCE = 1e-3
"""Of logits, as a part of the largest one: voxels above are other ones."""

# Whatever a network or an exporter does not like ends in one of these.
_FAILURES = (RuntimeError, ValueError, TypeError, AssertionError, NotImplementedError)

_OTHERS_OF_UNPOOLING = 0.1
_LABELS_OF_UNPOOLING = 0.01
"""Parts of the voxels that may have other logits, and another best class, where a network unpools: of two
maxima that are equal but for rounding, a format may take the other, and what lies around them moves: of a
small image thousands of voxels, if it is on the coarsest level. Without unpooling there are none."""


@dataclass(frozen=True)
class NetworkOfFold:
    """A network that is written in other formats.

    Attributes:
        fold: Whose weights these are.
        weights: Their file within the bundle; other formats go beside it.
        load: Gives the network, in evaluation mode, on the CPU.
        channels: Of an image.
        size: Voxels along each axis of the example.
        other_size: Of the image that the format is proven on beside.
    """

    fold: int
    weights: str
    load: Callable[[], nn.Module]
    channels: int
    size: tuple[int, ...]
    other_size: tuple[int, ...]


@dataclass(frozen=True)
class FormatReport:
    """How the network in one format differs from PyTorch's own.

    Attributes:
        format: One of :data:`FORMATS`.
        fold: Whose weights these are.
        file: Within the bundle.
        detail: What else must be known, such as the opset.
        largest_logit: Of PyTorch's own, on both sizes.
        difference: Largest of the logits, on the size of the example.
        other_labels: Voxels with another best class there.
        voxels: How many there are.
        other_size: Voxels along each axis of the other size.
        other_size_difference: Largest of the logits there.
        other_size_labels: Voxels with another best class there.
        others: Part of the voxels whose logits differ by more than a thousandth of the largest one, on the
            size where it is larger.
        relabelled: Part of the voxels with another best class, on the size where it is larger.
        unpools: Whether the network goes back up by the places of maxima.
    """

    format: str
    fold: int
    file: str
    detail: str
    largest_logit: float
    difference: float
    other_labels: int
    voxels: int
    other_size: tuple[int, ...]
    other_size_difference: float
    other_size_labels: int
    others: float
    relabelled: float
    unpools: bool

    @property
    def agrees(self) -> bool:
        """Whether it gives what the network gives."""
        if not self.unpools:
            return self.others == 0.0
        return self.others <= _OTHERS_OF_UNPOOLING and self.relabelled <= _LABELS_OF_UNPOOLING

    def as_json(self) -> dict[str, Any]:
        """For ``docs/verification.json``."""
        return asdict(self)


def require_formats(formats: Sequence[str]) -> None:
    """Refuse formats that there are not, or that lack a package, before work starts.

    Raises:
        ConfigError: One is unknown, or a package is not installed.
    """
    for name in formats:
        if name not in FORMATS:
            raise ConfigError(f"unknown format '{name}'", fix=did_you_mean(name, FORMATS))
        lacking = [package for package in _NEEDS.get(name, ()) if importlib.util.find_spec(package) is None]
        if lacking:
            raise ConfigError(
                f"needs the package {lacking[0]}",
                where=f"--{name}",
                fix=f"pip install 'medseg[{_EXTRAS[name]}]'",
            )


def write_formats(
    networks: Sequence[NetworkOfFold],
    formats: Sequence[str],
    folder: Path,
    advance: Callable[[float], None],
) -> list[FormatReport]:
    """Write each fold's network in each format into ``models`` of a bundle, read it again, and compare.

    Args:
        networks: Of the folds.
        formats: Of :data:`FORMATS`.
        folder: The bundle's.
        advance: Called after each file.

    Raises:
        BundleError: A network cannot be written in a format, or differs there.
    """
    reports = []
    for network in networks if formats else ():
        comparison, stem = _Comparison.of(network), folder / Path(network.weights).with_suffix("")
        files = FormatFiles(comparison.network, comparison.images[0], stem)
        for name in (known for known in FORMATS if known in formats):
            report = _written(files, comparison, name, network.fold)
            if not report.agrees:
                raise BundleError(
                    f"logits differ by {report.difference:.2g}, on another size by "
                    f"{report.other_size_difference:.2g}, and too much in {report.others:.2%} of the voxels",
                    where=f"format {name}",
                    fix=f"export without --{name}, and report this",
                )
            reports.append(report)
            advance(1)
        files.drop_what_was_not_asked_for(formats)
    return reports


def _written(files: FormatFiles, comparison: _Comparison, name: str, fold: int) -> FormatReport:
    write = {
        "torch-export": files.torch_export,
        "torchscript": files.torchscript,
        "onnx": files.onnx,
        "openvino": files.openvino,
    }[name]
    try:
        with _quietly():
            path, detail, run = write()
        return comparison.report(name, fold, f"models/{path.name}", detail, run)
    except _FAILURES as error:
        raise BundleError(
            f"the network cannot be written: {_first_line(error)}",
            where=f"format {name}",
            fix=f"export without --{name}",
        ) from error


@dataclass(frozen=True)
class _Comparison:
    """A network, two images, and what it makes of them.

    Attributes:
        network: In evaluation mode.
        images: Of the example's size, two of them; and one of another size.
        scores: What the network makes of each.
    """

    network: nn.Module
    images: tuple[Tensor, Tensor]
    scores: tuple[FloatArray, FloatArray]

    @classmethod
    def of(cls, exported: NetworkOfFold) -> _Comparison:
        generator, network = torch.Generator().manual_seed(0), exported.load()
        # Two, for torch.export takes a batch of one for one that is always one.
        images = (
            torch.randn((2, exported.channels, *exported.size), generator=generator),
            torch.randn((1, exported.channels, *exported.other_size), generator=generator),
        )
        try:
            with torch.no_grad():
                scores = tuple(network(image).numpy() for image in images)
        except _FAILURES as error:
            sizes = " or ".join(" x ".join(map(str, size)) for size in (exported.size, exported.other_size))
            raise BundleError(
                f"the network does not take {sizes} voxels: {_first_line(error)}",
                where=exported.weights,
                fix="export without other formats",
            ) from error
        return cls(network, images, scores)

    def report(self, name: str, fold: int, file: str, detail: str, run: Run) -> FormatReport:
        largest = float(max(np.abs(scores).max() for scores in self.scores))
        apart, labels, others = [], [], []
        for image, own in zip(self.images, self.scores, strict=True):
            made = run(image.numpy())
            by_voxel = np.abs(own - made).max(axis=1)
            apart.append(float(by_voxel.max()))
            labels.append(int((own.argmax(axis=1) != made.argmax(axis=1)).sum()))
            others.append(float((by_voxel > _LARGEST_DIFFERENCE * max(1.0, largest)).mean()))
        return FormatReport(
            format=name,
            fold=fold,
            file=file,
            detail=detail,
            largest_logit=largest,
            difference=apart[0],
            other_labels=labels[0],
            voxels=self.scores[0][:, 0].size,
            other_size=tuple(self.images[1].shape[2:]),
            other_size_difference=apart[1],
            other_size_labels=labels[1],
            others=max(others),
            relabelled=max(count / own[:, 0].size for count, own in zip(labels, self.scores, strict=True)),
            unpools=any(isinstance(module, MaxUnpool) for module in self.network.modules()),
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep to itself what exporters say of packages that are not needed, and of their own future."""
    log = logging.getLogger("torch.onnx._internal.exporter")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        log.setLevel(before)
