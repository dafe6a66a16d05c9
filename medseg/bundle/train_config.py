"""``configs/train.yaml``: fine-tuning with MONAI's engine, from the weights of the bundle."""

from __future__ import annotations

from typing import Any

from medseg.bundle.content import BundleContent
from medseg.bundle.inference_config import sliding_window
from medseg.bundle.scripts import carries_loss, loss_definition, network_definition
from medseg.bundle.steps import Step, before_network, labels_to_indices, load_files

__all__ = ["training_config"]

Config = dict[str, Any]

_FINE_TUNING = 0.1
"""Part of the recipe's learning rate, for weights that have learnt already."""


def training_config(content: BundleContent) -> Config:
    """What ``python -m monai.bundle run`` needs to train on.

    Every fifth case of the data set validates. The best weights go to ``models/finetuned.pt``; those that the
    bundle came with stay.
    """
    ignored = content.plan.labels.ignore_index if carries_loss(content) else None
    return {
        "imports": ["$import os", "$import torch", "$import monai"],
        "bundle_root": ".",
        "ckpt_dir": "$os.path.join(@bundle_root, 'models')",
        "dataset_dir": "$os.path.join(@bundle_root, 'data')",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "epochs": 100,
        "val_interval": 5,
        "learning_rate": content.recipe.optimizer.learning_rate * _FINE_TUNING,
        "cache_rate": 1.0,
        "cases": {
            "_target_": "scripts.cases.labelled_cases",
            "folder": "@dataset_dir",
            "channels": content.channels,
        },
        "network_def": network_definition(content.plan),
        "network": "$@network_def.to(@device)",
        "loss": loss_definition(content),
        "optimizer": {
            "_target_": "torch.optim.AdamW",
            "params": "$@network.parameters()",
            "lr": "@learning_rate",
            "weight_decay": content.recipe.optimizer.weight_decay,
        },
        "lr_scheduler": {
            "_target_": "torch.optim.lr_scheduler.PolynomialLR",
            "optimizer": "@optimizer",
            "total_iters": "@epochs",
            "power": 0.9,
        },
        "train": _train(content, _preprocessing(content, ignored)),
        "validate": _validate(content, _preprocessing(content)),
        "initialize": ["$monai.utils.set_determinism(seed=0)"],
        "run": ["$@train#trainer.run()"],
    }


def _train(content: BundleContent, preprocessing: list[Step]) -> Config:
    return {
        "preprocessing": _compose(preprocessing + _patches(content) + _augmentation(content)),
        "dataset": {
            "_target_": "CacheDataset",
            "data": "$[case for number, case in enumerate(@cases) if number % 5 or len(@cases) == 1]",
            "transform": "@train#preprocessing",
            "cache_rate": "@cache_rate",
            "progress": False,
        },
        "dataloader": {
            "_target_": "DataLoader",
            "dataset": "@train#dataset",
            "batch_size": 1,  # of cases, each of which gives as many patches as the plan has in a batch
            "shuffle": True,
            "num_workers": 0,
        },
        "inferer": {"_target_": "SimpleInferer"},
        "handlers": [
            {"_target_": "LrScheduleHandler", "lr_scheduler": "@lr_scheduler", "print_lr": False},
            {
                "_target_": "ValidationHandler",
                "validator": "@validate#evaluator",
                "epoch_level": True,
                "interval": "@val_interval",
            },
            {
                "_target_": "StatsHandler",
                "tag_name": "train_loss",
                "output_transform": "$monai.handlers.from_engine(['loss'], first=True)",
            },
            {
                "_target_": "CheckpointLoader",
                "load_path": "$os.path.join(@bundle_root, 'models/model.pt')",
                "load_dict": {"model": "@network"},
                "map_location": "@device",
            },
        ],
        "trainer": {
            "_target_": "SupervisedTrainer",
            "max_epochs": "@epochs",
            "device": "@device",
            "train_data_loader": "@train#dataloader",
            "network": "@network",
            "loss_function": "@loss",
            "optimizer": "@optimizer",
            "inferer": "@train#inferer",
            "train_handlers": "@train#handlers",
            "amp": False,
        },
    }


def _validate(content: BundleContent, preprocessing: list[Step]) -> Config:
    to_classes = [
        {"_target_": "AsDiscreted", "keys": "pred", "argmax": True, "to_onehot": content.classes},
        {"_target_": "AsDiscreted", "keys": "label", "to_onehot": content.classes},
    ]
    return {
        "preprocessing": _compose(preprocessing),
        "dataset": {
            "_target_": "CacheDataset",
            "data": "$@cases[::5]",
            "transform": "@validate#preprocessing",
            "cache_rate": "@cache_rate",
            "progress": False,
        },
        "dataloader": {
            "_target_": "DataLoader",
            "dataset": "@validate#dataset",
            "batch_size": 1,
            "shuffle": False,
            "num_workers": 0,
        },
        "inferer": sliding_window(content),
        "postprocessing": _compose(to_classes),
        "key_metric": {
            "val_mean_dice": {
                "_target_": "MeanDice",
                "include_background": False,
                "output_transform": "$monai.handlers.from_engine(['pred', 'label'])",
            }
        },
        "handlers": [
            {"_target_": "StatsHandler", "iteration_log": False},
            {
                "_target_": "CheckpointSaver",
                "save_dir": "@ckpt_dir",
                "save_dict": {"model": "@network"},
                "save_key_metric": True,
                "key_metric_filename": "finetuned.pt",
            },
        ],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@validate#dataloader",
            "network": "@network",
            "inferer": "@validate#inferer",
            "postprocessing": "@validate#postprocessing",
            "key_val_metric": "@validate#key_metric",
            "val_handlers": "@validate#handlers",
            "amp": False,
        },
    }


def _compose(steps: list[Step]) -> Step:
    return {"_target_": "Compose", "transforms": steps}


def _preprocessing(content: BundleContent, ignored: int | None = None) -> list[Step]:
    """Image and label map on the network's grid, the label map as class indices.

    Args:
        content: The run.
        ignored: Index of voxels that nobody has labelled; the background's if left out.
    """
    return [
        *load_files("image", "label"),
        *before_network(content, label="label"),
        *labels_to_indices(content, "label", ignored=ignored or 0),
    ]


def _patches(content: BundleContent) -> list[Step]:
    """As many patches of a case as the plan has in a batch, a part of them about one of the structures."""
    keys = ["image", "label"]
    size = [*content.plan.patch_size]
    about, structures = content.recipe.training.foreground_fraction, content.classes - 1
    return [
        {"_target_": "SpatialPadd", "keys": keys, "spatial_size": size},
        {
            "_target_": "RandCropByLabelClassesd",
            "keys": keys,
            "label_key": "label",
            "spatial_size": size,
            "num_classes": content.classes,
            "ratios": [1.0 - about, *[about / structures] * structures],
            "warn": False,  # of structures that a case does not have
            "num_samples": content.plan.batch_size,
        },
    ]


def _augmentation(content: BundleContent) -> list[Step]:
    """The changes of the recipe that MONAI has too; medseg draws more of them."""
    choice = content.recipe.augmentation
    if choice is None:
        return []
    keys, radians = ["image", "label"], choice.rotation_degrees * 3.141592653589793 / 180.0
    steps: list[Step] = [
        {"_target_": "RandFlipd", "keys": keys, "prob": 0.5, "spatial_axis": axis}
        for axis in _flipped_axes(content)
    ]
    return [
        *steps,
        {
            "_target_": "RandAffined",
            "keys": keys,
            "prob": choice.spatial_probability,
            "rotate_range": [radians] * 3,
            "scale_range": [choice.scale] * 3,
            "mode": ["bilinear", "nearest"],
            "padding_mode": "zeros",
        },
        {
            "_target_": "RandGaussianNoised",
            "keys": "image",
            "prob": choice.noise_probability,
            "std": choice.noise_std,
        },
        {
            "_target_": "RandScaleIntensityd",
            "keys": "image",
            "prob": choice.brightness_probability,
            "factors": choice.brightness,
        },
    ]


def _flipped_axes(content: BundleContent) -> list[int]:
    """Axes that may be flipped without exchanging labels."""
    choice, codes = content.recipe.augmentation, content.plan.preprocessing.axcodes
    left_right = next(axis for axis, code in enumerate(codes) if code in "LR")
    if choice is None or choice.mirror == "none":
        return []
    axes = [left_right] if choice.mirror == "left_right" else [0, 1, 2]
    sided = bool(content.plan.labels.sided) and choice.mirror_sides != "keep"
    return [axis for axis in axes if not (sided and axis == left_right)]
