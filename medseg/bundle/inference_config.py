"""``configs/inference.yaml`` and ``evaluate.yaml``: from files to label maps, and to scores of them."""

from __future__ import annotations

from typing import Any

from medseg.bundle.content import BundleContent
from medseg.bundle.scripts import network_definition
from medseg.bundle.steps import Step, after_network, before_network, labels_to_indices, load_files
from medseg.labels import LabelScheme

__all__ = ["evaluation_config", "inference_config", "network_parts", "sliding_window"]

Config = dict[str, Any]

_IMPORTS = ["$import os", "$import torch", "$import monai"]
_DEVICE = "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')"


def inference_config(content: BundleContent) -> Config:
    """What ``python -m monai.bundle run`` needs to segment the images of a folder.

    With ``streaming: true`` it takes medseg's inferer that gives what one pass over a whole image gives,
    where medseg is installed; nothing else here needs medseg.
    """
    scores = _score_keys(content)
    save = _save(content.plan.labels)
    return {
        "imports": _IMPORTS,
        **_places("eval"),
        "save_probabilities": False,
        "streaming": False,
        "device": _DEVICE,
        **network_parts(content),
        "preprocessing": _compose(load_files("image") + before_network(content)),
        "dataset": _dataset("find_images", content),
        "dataloader": _dataloader("@dataset"),
        **_inferers(content),
        "postprocessing": _compose(after_network(content, scores) + save),
        "handlers": [{"_target_": "StatsHandler", "iteration_log": False}, *_loaders(content)],
        "evaluator": _evaluator(content, scores),
        "run": ["$@evaluator.run()"],
    }


def evaluation_config(content: BundleContent) -> Config:
    """What ``python -m monai.bundle run`` needs to score label maps by MONAI's mean Dice."""
    scores = _score_keys(content)
    to_classes = {"_target_": "AsDiscreted", "keys": ["pred", "label"], "to_onehot": content.classes}
    indices = labels_to_indices(content, "pred", "label")
    return {
        "imports": _IMPORTS,
        **_places("eval"),
        "save_probabilities": False,
        "streaming": False,
        "device": _DEVICE,
        **network_parts(content),
        "preprocessing": _compose(load_files("image", "label") + before_network(content)),
        "dataset": _dataset("labelled_cases", content),
        "dataloader": _dataloader("@dataset"),
        **_inferers(content),
        "postprocessing": _compose([*after_network(content, scores), *indices, to_classes]),
        "key_metric": {
            "val_mean_dice": {
                "_target_": "MeanDice",
                "include_background": False,
                "output_transform": "$monai.handlers.from_engine(['pred', 'label'])",
            }
        },
        "handlers": [
            {"_target_": "StatsHandler", "iteration_log": False},
            *_loaders(content),
            {
                "_target_": "MetricsSaver",
                "save_dir": "@output_dir",
                "metrics": ["val_mean_dice"],
                "metric_details": ["val_mean_dice"],
                "batch_transform": "$lambda batch: [case['image'].meta for case in batch]",
                "summary_ops": "*",
            },
        ],
        "evaluator": {**_evaluator(content, scores), "key_val_metric": "@key_metric"},
        "run": ["$@evaluator.run()"],
    }


def network_parts(content: BundleContent) -> Config:
    """The network of each fold: as defined, and on its device.

    Channels lie last in memory, as medseg has it: faster on processors, and the same sums in the same order.
    """
    parts: Config = {}
    for network in _network_ids(content):
        defined = network.replace("network", "network_def", 1)
        parts[defined] = network_definition(content.plan)
        parts[network] = f"$@{defined}.to(@device, memory_format=torch.channels_last_3d)"
    return parts


def sliding_window(content: BundleContent) -> Step:
    """MONAI's sliding window with the recipe's numbers."""
    choice = content.recipe.inference
    return {
        "_target_": "SlidingWindowInferer",
        "roi_size": [*content.plan.patch_size],
        "sw_batch_size": 1,
        "overlap": choice.overlap,
        "mode": choice.blend,
    }


def _places(output: str) -> Config:
    return {
        "bundle_root": ".",
        "dataset_dir": "$os.path.join(@bundle_root, 'data')",
        "output_dir": f"$os.path.join(@bundle_root, '{output}')",
    }


def _compose(steps: list[Step]) -> Step:
    return {"_target_": "Compose", "transforms": steps}


def _dataset(finds: str, content: BundleContent) -> Step:
    return {
        "_target_": "Dataset",
        "data": {
            "_target_": f"scripts.cases.{finds}",
            "folder": "@dataset_dir",
            "channels": content.channels,
        },
        "transform": "@preprocessing",
    }


def _dataloader(dataset: str) -> Step:
    return {"_target_": "DataLoader", "dataset": dataset, "batch_size": 1, "shuffle": False, "num_workers": 0}


def _inferers(content: BundleContent) -> Config:
    return {
        "sliding_window": {**sliding_window(content), "_disabled_": "@streaming"},
        "medseg_streaming": {
            "_target_": "medseg.inference.StreamingInferer",
            "_disabled_": "$not @streaming",
        },
        "inferer": "$@medseg_streaming if @streaming else @sliding_window",
    }


def _network_ids(content: BundleContent) -> list[str]:
    return ["network", *(f"network_{fold}" for fold in content.folds[1:])]


def _score_keys(content: BundleContent) -> list[str]:
    if len(content.folds) == 1:
        return ["pred"]
    return [f"scores_{fold}" for fold in content.folds]


def _loaders(content: BundleContent) -> list[Step]:
    """Read weights alone: nothing in these files is executed."""
    return [
        {
            "_target_": "CheckpointLoader",
            "load_path": f"$os.path.join(@bundle_root, '{path}')",
            "load_dict": {"model": f"@{network}"},
            "map_location": "@device",
        }
        for path, network in zip(content.weight_files, _network_ids(content), strict=True)
    ]


def _evaluator(content: BundleContent, scores: list[str]) -> Step:
    seen: list[Any] = [_seen(content, network) for network in _network_ids(content)]
    which: Config = {"_target_": "SupervisedEvaluator", "network": seen[0]}
    if len(seen) > 1:
        which = {"_target_": "EnsembleEvaluator", "networks": seen, "pred_keys": scores}
    return {
        **which,
        "device": "@device",
        "val_data_loader": "@dataloader",
        "inferer": "@inferer",
        "postprocessing": "@postprocessing",
        "val_handlers": "@handlers",
        "amp": False,
    }


def _seen(content: BundleContent, network: str) -> str | Step:
    """The network itself, or asked about mirror images too."""
    axes = ["xyz".index(letter) for letter in content.recipe.inference.mirror]
    if not axes:
        return f"@{network}"
    codes = content.plan.preprocessing.axcodes
    return {
        "_target_": "scripts.mirroring.Mirrored",
        "network": f"@{network}",
        "axes": axes,
        "swapped": [*content.plan.labels.partners],
        "left_right_axis": next(axis for axis, code in enumerate(codes) if code in "LR"),
    }


def _save(labels: LabelScheme) -> list[Step]:
    """Files on the image's own grid, named as the image; probabilities, if they are asked for, beside."""
    common = {
        "_target_": "SaveImaged",
        "output_dir": "@output_dir",
        "separate_folder": False,
        "resample": False,
        "writer": "scripts.writing.AgreeingNiftiWriter",
    }
    return [
        {
            **common,
            "keys": "pred",
            "output_postfix": "",
            "output_dtype": labels.without_ignore.dtype.name,
            "output_ext": ".nii.gz",
        },
        {
            **common,
            "_disabled_": "$not @save_probabilities",
            "keys": "probabilities",
            "output_postfix": "probabilities",
            "output_dtype": "float32",
            "output_ext": ".nii",
        },
    ]
