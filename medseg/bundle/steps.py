"""Preprocessing and postprocessing of a run as MONAI transforms, in the form of a config."""

from __future__ import annotations

from typing import Any

from medseg.bundle.content import BundleContent
from medseg.runs import Normalization

__all__ = ["after_network", "before_network", "labels_to_indices", "load_files"]

Step = dict[str, Any]

_RAS_PLUS = [["L", "R"], ["P", "A"], ["I", "S"]]


def load_files(*keys: str) -> list[Step]:
    """Files to (C, X, Y, Z) in single precision."""
    return [{"_target_": "LoadImaged", "keys": [*keys], "ensure_channel_first": True, "image_only": True}]


def before_network(content: BundleContent, label: str | None = None) -> list[Step]:
    """From a loaded image, and its label map if there is one, to what a network sees."""
    spec = content.plan.preprocessing
    keys = ["image"] if label is None else ["image", label]
    steps: list[Step] = [
        {"_target_": "scripts.preprocessing.RequireImaged", "keys": "image", "channels": spec.channels},
        *_normalization(spec.normalization),
    ]
    if spec.spacing_mm is not None:
        steps.append(
            {
                "_target_": "scripts.preprocessing.EnclosingSpacingd",
                "keys": keys,
                "spacing_mm": [*spec.spacing_mm],
                "axcodes": spec.axcodes,
                "interpolation": ["linear", "nearest"][: len(keys)],
            }
        )
    turned = {"_target_": "Orientationd", "keys": keys, "axcodes": spec.axcodes, "labels": _RAS_PLUS}
    return [*steps, turned]


def _normalization(schemes: tuple[Normalization, ...]) -> list[Step]:
    """To the last bit: where a network decides by maxima, as unpooling does, rounding would become labels.

    MONAI's own transforms take means in single precision, and scale in another order.
    """
    if all(scheme.scheme == "none" for scheme in schemes):
        return []
    own = [scheme.model_dump(mode="json", exclude_none=True) for scheme in schemes]
    return [{"_target_": "scripts.preprocessing.NormalizeChannelsd", "keys": "image", "normalization": own}]


def after_network(content: BundleContent, scores: list[str]) -> list[Step]:
    """From class scores on the network's grid to a label map on the image's own, under the key ``pred``.

    Args:
        content: The run.
        scores: Keys of each member's scores.
    """
    steps: list[Step] = [
        {
            "_target_": "Invertd",
            "keys": scores,
            "transform": "@preprocessing",
            "orig_keys": "image",
            "nearest_interp": False,
            "to_tensor": True,
        },
        {"_target_": "Activationsd", "keys": scores, "softmax": True},
    ]
    if len(scores) > 1:
        steps.append({"_target_": "MeanEnsembled", "keys": scores, "output_key": "pred"})
    steps.append(
        {
            "_target_": "CopyItemsd",
            "_disabled_": "$not @save_probabilities",
            "keys": "pred",
            "names": "probabilities",
        }
    )
    steps.append({"_target_": "AsDiscreted", "keys": "pred", "argmax": True})
    values = content.plan.labels.values
    if values != tuple(range(content.classes)):
        steps.append(_mapped("pred", [*range(content.classes)], [*values]))
    if content.cleans:
        steps.append(_cleaning(content))
    return steps


def labels_to_indices(content: BundleContent, *keys: str, ignored: int = 0) -> list[Step]:
    """Label values to class indices; what nobody has labelled becomes ``ignored``, by default background."""
    labels = content.plan.labels
    values, indices = [*labels.values], [*range(content.classes)]
    if labels.ignore is not None:
        values, indices = [*values, labels.ignore], [*indices, ignored]
    return [] if values == indices else [_mapped(key, values, indices) for key in keys]


def _mapped(key: str, before: list[int], after: list[int]) -> Step:
    return {
        "_target_": "MapLabelValued",
        "keys": key,
        "orig_labels": before,
        "target_labels": after,
        "dtype": "$torch.float32",
    }


def _cleaning(content: BundleContent) -> Step:
    choice, labels = content.postprocess, content.plan.labels
    value_of = dict(zip(labels.names, labels.values, strict=True))

    def values(chosen: tuple[str, ...] | str) -> list[int] | str:
        if chosen == "union":
            return "union"
        names = labels.names[1:] if isinstance(chosen, str) else chosen
        return [value_of[name] for name in names]

    return {
        "_target_": "scripts.postprocessing.CleanLabelsd",
        "keys": "pred",
        "smallest_volume_ml": {value_of[name]: ml for name, ml in choice.smallest_volume_ml.items()},
        "largest_component": values(choice.largest_component),
        "fill_holes": values(choice.fill_holes),
        "connectivity": choice.connectivity,
    }
