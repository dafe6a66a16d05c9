"""Names of everything that can be chosen by name, without importing any of it.

A registry maps a name to ``"module:attribute"``. It is the one source for recipes, the command line and
the documentation; a class is imported only when it is asked for.
"""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass
from typing import Any

from medseg.errors import ConfigError, did_you_mean

__all__ = ["LOSSES", "METHODS", "NETWORKS", "VOLUME_FORMATS", "Entry", "Registry"]


@dataclass(frozen=True)
class Entry:
    """One registered thing.

    Attributes:
        target: ``"module:attribute"``, imported on demand.
        summary: One line for ``--help`` and tables.
    """

    target: str
    summary: str


class Registry:
    """A table of names of one kind.

    Args:
        kind: What the names stand for, in the singular, as it shall read in errors.
        entries: The built-in names.

    Example:
        >>> registry = Registry("codec", {"json": Entry("json:loads", "JSON text")})
        >>> registry.resolve("json")("[1]")
        [1]
    """

    def __init__(self, kind: str, entries: dict[str, Entry]) -> None:
        self.kind = kind
        self._entries = dict(entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        return tuple(sorted(self._entries))

    def entry(self, name: str) -> Entry:
        """The entry called ``name``.

        Raises:
            ConfigError: The name is unknown; the error suggests the nearest.
        """
        try:
            return self._entries[name]
        except KeyError:
            raise ConfigError(
                f"unknown {self.kind} '{name}'", fix=did_you_mean(name, self._entries)
            ) from None

    def resolve(self, name: str) -> Any:
        """Import and return what ``name`` stands for.

        Raises:
            ConfigError: The name is unknown.
        """
        module, attribute = self.entry(name).target.split(":")
        return getattr(importlib.import_module(module), attribute)

    def options(self, name: str) -> tuple[str, ...]:
        """The options that what ``name`` stands for takes.

        Raises:
            ConfigError: The name is unknown.

        Example:
            >>> Registry("sum", {"all": Entry("math:fsum", "exact")}).options("all")
            ('seq',)
        """
        return tuple(inspect.signature(self.resolve(name)).parameters)

    def build(self, name: str, **options: Any) -> Any:
        """Call what ``name`` stands for with ``options``.

        Raises:
            ConfigError: The name or an option is unknown, or a value is invalid (the thing's own
                ``ValueError`` or ``TypeError``, written as "what is wrong; how to fix it").

        Example:
            >>> registry = Registry("number", {"half": Entry("fractions:Fraction", "a fraction")})
            >>> registry.build("half", numerator=1, denominator=2)
            Fraction(1, 2)
            >>> registry.build("half", numertor=1)
            Traceback (most recent call last):
            medseg.errors.ConfigError: number 'half': has no option 'numertor'; did you mean 'numerator'?
        """
        make = self.resolve(name)
        where = f"{self.kind} '{name}'"
        known = self.options(name)
        for option in options:
            if option not in known:
                raise ConfigError(f"has no option '{option}'", where=where, fix=did_you_mean(option, known))
        try:
            return make(**options)
        except (TypeError, ValueError) as error:
            what, _, fix = str(error).partition("; ")
            raise ConfigError(what, where=where, fix=fix or "check the options") from error

    def register(self, name: str, target: str, summary: str) -> None:
        """Add a name, so that recipes and the command line know it.

        Raises:
            ConfigError: The name is taken, or ``target`` is not ``"module:attribute"``.
        """
        if name in self._entries:
            raise ConfigError(f"{self.kind} '{name}' is registered already", fix="choose another")
        module, _, attribute = target.partition(":")
        if not module or not attribute or ":" in attribute:
            raise ConfigError(f"'{target}' does not name a {self.kind}", fix="write it as 'module:attribute'")
        self._entries[name] = Entry(target, summary)


NETWORKS = Registry(
    "network",
    {
        "deconvnet": Entry("medseg.networks.deconvnet:DeconvNet", "DeconvNet (Noh 2015)"),
        "deeplab": Entry(
            "medseg.networks.deeplab:DeepLab", "DeepLab (Chen 2017), with atrous spatial pyramid pooling"
        ),
        "dilated": Entry("medseg.networks.dilated:DilatedNet", "dilated net and context module (Yu 2016)"),
        "fc_densenet": Entry("medseg.networks.fc_densenet:FCDenseNet", "FC-DenseNet (Jegou 2017)"),
        "fcn": Entry("medseg.networks.fcn:FCN", "FCN-32s, 16s, 8s (Long 2015)"),
        "highresnet": Entry("medseg.networks.highresnet:HighResNet", "HighRes3DNet (Li 2017)"),
        "refinenet": Entry("medseg.networks.refinenet:RefineNet", "RefineNet (Lin 2017), in cascaded blocks"),
        "segnet": Entry("medseg.networks.segnet:SegNet", "SegNet and SegNet-Basic (Badrinarayanan 2017)"),
        "unet": Entry("medseg.networks.unet:UNet", "U-Net (Ronneberger 2015), 3D U-Net (Cicek 2016)"),
        "vnet": Entry("medseg.networks.vnet:VNet", "V-Net (Milletari 2016)"),
    },
)

LOSSES = Registry(
    "loss",
    {
        "boundary": Entry(
            "medseg.losses.modules:BoundaryLoss", "errors by their distance to the border (Kervadec 2019)"
        ),
        "dice": Entry("medseg.losses.modules:DiceLoss", "soft Dice (Milletari 2016)"),
        "dice_boundary": Entry("medseg.losses.modules:DiceBoundaryLoss", "soft Dice plus boundary loss"),
        "dice_ce": Entry("medseg.losses.modules:DiceCELoss", "soft Dice plus cross-entropy, in equal parts"),
        "dice_focal": Entry("medseg.losses.modules:DiceFocalLoss", "soft Dice plus focal loss"),
        "dice_hausdorff_dt": Entry(
            "medseg.losses.modules:DiceHausdorffDTLoss", "soft Dice plus Hausdorff loss"
        ),
        "focal": Entry(
            "medseg.losses.modules:FocalLoss", "cross-entropy that dwells on hard voxels (Lin 2017)"
        ),
        "generalized_dice": Entry(
            "medseg.losses.modules:GeneralizedDiceLoss",
            "Dice of all classes, weighted against their volumes (Sudre 2017)",
        ),
        "hausdorff_dt": Entry(
            "medseg.losses.modules:HausdorffDTLoss",
            "squared errors by their distance to both borders (Karimi 2020)",
        ),
        "jaccard": Entry("medseg.losses.modules:JaccardLoss", "soft intersection over union"),
        "top_k": Entry(
            "medseg.losses.modules:TopKLoss", "cross-entropy of the hardest voxels alone (Wu 2016)"
        ),
        "tversky": Entry(
            "medseg.losses.modules:TverskyLoss", "Dice with a price for each kind of error (Salehi 2017)"
        ),
        "weighted_cross_entropy": Entry(
            "medseg.losses.modules:WeightedCrossEntropyLoss",
            "cross-entropy with a weight for every voxel (Ronneberger 2015)",
        ),
    },
)

METHODS = Registry(
    "method",
    {
        "multi_atlas": Entry(
            "medseg.segmenters.methods.multi_atlas:MultiAtlasSegmenter",
            "labels of the most similar cases, registered and fused",
        ),
        "multi_otsu": Entry(
            "medseg.segmenters.methods.multi_otsu:MultiOtsuSegmenter",
            "thresholds by Otsu, with a class for each band of intensity",
        ),
        "probabilistic_atlas": Entry(
            "medseg.segmenters.methods.probabilistic_atlas:ProbabilisticAtlasSegmenter",
            "where classes are expected, and what intensities say of them",
        ),
        "shape_model": Entry(
            "medseg.segmenters.methods.shape_model:ShapeModelSegmenter",
            "the shape that fits a probabilistic atlas's map best",
        ),
    },
)
"""Ways to segment without a network of one's own; see ``medseg.segmenters.methods``."""

VOLUME_FORMATS = Registry(
    "volume format",
    {
        ".mha": Entry("medseg.io.sitk:MetaImageFormat", "MetaImage"),
        ".mhd": Entry("medseg.io.sitk:DetachedMetaImageFormat", "MetaImage in two files, read only"),
        ".nhdr": Entry("medseg.io.sitk:DetachedNrrdFormat", "NRRD in two files, read only"),
        ".nii": Entry("medseg.io.nifti:NiftiFormat", "NIfTI"),
        ".nii.gz": Entry("medseg.io.nifti:NiftiFormat", "NIfTI, compressed"),
        ".nrrd": Entry("medseg.io.sitk:NrrdFormat", "NRRD"),
    },
)
"""Formats of images and label maps, by the suffix of the file's name."""
