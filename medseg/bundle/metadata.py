"""``configs/metadata.json``, as MONAI's bundle specification has it, and ``configs/medseg.json``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from medseg import __version__
from medseg.bundle.content import BundleContent
from medseg.errors import ConfigError
from medseg.runs.bundle import is_bundle
from medseg.segmenters.bundles.opening import open_bundle

__all__ = ["Statement", "medseg_document", "metadata", "statement_of"]

SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
)
_NEEDED = ("nibabel", "pytorch-ignite")
_DOCUMENT_VERSION = 1
_SAID = ("version", "authors", "copyright", "license", "intended_use", "data_source")
_EXPRESSION_SIGNS = ("$", "@", "%", "#")


@dataclass(frozen=True)
class Statement:
    """What a person says about a bundle; the rest is taken from the run.

    Attributes:
        version: Of the bundle, as ``1.0.0``.
        authors: Who answers for it.
        copyright: Of the weights.
        license: Name of the licence, whose text is the bundle's LICENSE.
        intended_use: What it is for.
        data_source: Where the training data came from, and under which licence.
        changes: What is new in this version.
        earlier: Changes of earlier versions, the latest first.
    """

    version: str = "0.1.0"
    authors: str = "not stated"
    copyright: str = "not stated"
    license: str = "Apache-2.0"
    intended_use: str = "Research. Not a medical device, not for diagnosis."
    data_source: str = "not stated"
    changes: str = "exported from a training with medseg"
    earlier: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        parts = self.version.split(".")
        if len(parts) != 3 or not all(part.isdigit() for part in parts):
            raise ConfigError(
                f"'{self.version}' is no version", where="--version", fix="write three numbers, as in 1.0.0"
            )


def statement_of(model: str | os.PathLike[str], said: Mapping[str, str]) -> Statement:
    """What a person says now, and of the rest what the bundle says already that another is made of.

    Args:
        model: A run, or a bundle.
        said: By attribute of :class:`Statement`.

    Raises:
        ConfigError: A version is not three numbers.
        BundleError: The bundle's metadata are damaged.
    """
    document = (open_bundle(model).metadata() or {}) if is_bundle(model) else {}
    before = {key: document[key] for key in _SAID if isinstance(document.get(key), str)}
    now = {**before, **said}
    log = document.get("changelog")
    changelog = {str(version): str(text) for version, text in (log if isinstance(log, dict) else {}).items()}
    known = changelog.pop(now.get("version", ""), "exported again with medseg" if before else None)
    if known is not None:
        now.setdefault("changes", known)
    return Statement(**now, earlier=changelog)


def metadata(content: BundleContent, statement: Statement, evaluation: dict[str, Any]) -> dict[str, Any]:
    """The content of ``metadata.json``.

    Args:
        content: The run.
        statement: What a person says.
        evaluation: Mean Dice on validation cases, by class and of all, and intervals where they are known.
    """
    plan, facts = content.plan, content.plan.fingerprint
    names = [_inert(name) for name in plan.labels.names]
    structures = ", ".join(names[1:])
    folds = "" if len(content.folds) == 1 else f" Mean of {len(content.folds)} folds' probabilities."
    needed = [*_NEEDED, *(["scipy"] if content.cleans else [])]
    return {
        "schema": SCHEMA,
        "version": statement.version,
        "changelog": {statement.version: statement.changes, **statement.earlier},
        "monai_version": _release("monai"),
        "pytorch_version": _release("torch"),
        "numpy_version": _release("numpy"),
        "required_packages_version": {package: _release(package) for package in needed},
        "optional_packages_version": {"medseg": __version__},
        "name": content.name,
        "task": f"Segmentation of {structures} in {_modalities(content)}",
        "description": (
            f"{plan.network.name} trained with medseg {__version__} on {facts.cases} cases of "
            f"{_inert(plan.dataset)}, segmenting {structures}.{folds}"
        ),
        "authors": _inert(statement.authors),
        "copyright": _inert(statement.copyright),
        "license": _inert(statement.license),
        "intended_use": _inert(statement.intended_use),
        "data_source": _inert(statement.data_source),
        "data_type": "nibabel",
        "image_classes": f"channels: {', '.join(_inert(name) for name in plan.channel_names)}",
        "label_classes": _told_values(content),
        "pred_classes": f"{content.classes} channels of scores, whose softmax is probabilities: "
        f"{', '.join(names)}",
        "eval_metrics": evaluation,
        "references": [],
        "network_data_format": _data_format(content),
    }


def medseg_document(content: BundleContent) -> dict[str, Any]:
    """``configs/medseg.json``: what medseg needs to read the bundle as a run; plain data, no expressions."""
    return {
        "schema_version": _DOCUMENT_VERSION,
        "medseg_version": __version__,
        "recipe": content.recipe.model_dump(mode="json"),
        "plan": content.plan.model_dump(mode="json"),
        "postprocess": content.postprocess.model_dump(mode="json"),
        "folds": [*content.folds],
        "checkpoint": content.checkpoint,
        "weights": [*content.weight_files],
        "steps": [*content.steps],
        "seed": content.seed,
    }


def _data_format(content: BundleContent) -> dict[str, Any]:
    plan, shape = content.plan, [*content.plan.patch_size]
    image = {
        "type": "image",
        "format": "hounsfield" if _is_ct(content) else "magnitude",
        "modality": _modalities(content),
        "num_channels": content.channels,
        "spatial_shape": shape,
        "dtype": "float32",
        "value_range": _value_range(content),
        "is_patch_data": True,
        "channel_def": {str(index): _inert(name) for index, name in enumerate(plan.channel_names)},
    }
    pred = {
        "type": "image",
        "format": "segmentation",
        "num_channels": content.classes,
        "spatial_shape": shape,
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": True,
        "channel_def": {str(index): _inert(name) for index, name in enumerate(plan.labels.names)},
    }
    return {"inputs": {"image": image}, "outputs": {"pred": pred}}


def _value_range(content: BundleContent) -> list[float]:
    """What the network sees of intensities that are clipped; unknown otherwise."""
    ends = [
        ((how.lower - how.mean) / how.std, (how.upper - how.mean) / how.std)
        for how in content.plan.preprocessing.normalization
        if how.lower is not None and how.upper is not None and how.mean is not None and how.std is not None
    ]
    if len(ends) < content.channels:
        return []
    return [min(low for low, _ in ends), max(high for _, high in ends)]


def _told_values(content: BundleContent) -> str:
    labels = content.plan.labels
    pairs = zip(labels.values, labels.names, strict=True)
    return "single channel, " + ", ".join(f"{value} is {_inert(name)}" for value, name in pairs)


def _modalities(content: BundleContent) -> str:
    return ", ".join(dict.fromkeys(_modality(name) for name in content.plan.channel_names))


def _modality(channel: str) -> str:
    known = {"mri": "MR", "mr": "MR", "ct": "CT", "us": "US"}
    return known.get(channel.lower(), _inert(channel))


def _is_ct(content: BundleContent) -> bool:
    return all(name.lower() == "ct" for name in content.plan.channel_names)


def _release(package: str) -> str:
    return version(package).partition("+")[0]


def _inert(text: str) -> str:
    """Text that MONAI's parser does not take for an expression or a reference."""
    return f"'{text}'" if text.startswith(_EXPRESSION_SIGNS) else text
