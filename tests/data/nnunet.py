"""Folders of trained models as nnU-Net v2 leaves them, tiny and with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from medseg.files import write_json
from medseg.networks.nnunet import NnunetUNet
from medseg.runs.nnunet import Architecture
from medseg.segmenters.nnunet.architecture import build_nnunet

LABELS = {"background": 0, "anterior": 1, "posterior": 2}


def architecture(dims: int = 3, *, residual: bool = False, **changes: Any) -> dict[str, Any]:
    """The ``architecture`` of a plan with two stages."""
    name = "ResidualEncoderUNet" if residual else "PlainConvUNet"
    options = {
        "n_stages": 2,
        "features_per_stage": [4, 6],
        "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
        "kernel_sizes": [[3] * dims] * 2,
        "strides": [[1] * dims, [2] * dims],
        "n_blocks_per_stage" if residual else "n_conv_per_stage": [1, 2],
        "n_conv_per_stage_decoder": [1],
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dims}d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    return {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{name}",
        "arch_kwargs": {**options, **changes},
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def write_nnunet_folder(
    folder: Path,
    *,
    patch: tuple[int, ...] = (16, 16, 16),
    spacing: tuple[float, ...] = (1.0, 1.0, 1.0),
    channels: tuple[str, ...] = ("MRI",),
    labels: dict[str, Any] | None = None,
    folds: tuple[int | str, ...] = (0,),
    mirrored: tuple[int, ...] | None = (0, 1, 2),
    network: dict[str, Any] | None = None,
    plans: dict[str, Any] | None = None,
    **configuration: Any,
) -> Path:
    """A model as nnU-Net writes it; other options go over the plan's configuration."""
    resampling = {"is_seg": False, "order_z": 0, "force_separate_z": None}
    described = network or architecture(len(patch))
    chosen = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(patch),
        "spacing": list(spacing),
        "normalization_schemes": ["ZScoreNormalization"] * len(channels),
        "use_mask_for_norm": [False] * len(channels),
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {**resampling, "order": 3},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {**resampling, "order": 1},
        "architecture": described,
        **configuration,
    }
    facts = {"mean": 2.0, "std": 3.0, "percentile_00_5": -5.0, "percentile_99_5": 9.0, "median": 1.0}
    document = {
        "dataset_name": "Dataset001_Toy",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "foreground_intensity_properties_per_channel": {str(i): facts for i in range(len(channels))},
        "configurations": {"base": {}, "3d_fullres": chosen},
        **(plans or {}),
    }
    write_json(document, folder / "plans.json")
    dataset = {"channel_names": {str(i): name for i, name in enumerate(channels)}, "labels": labels or LABELS}
    write_json({**dataset, "numTraining": 2, "file_ending": ".nii.gz"}, folder / "dataset.json")
    made = build_nnunet(Architecture.model_validate(described), len(channels), len(LABELS))
    for fold in folds:
        torch.manual_seed(0 if fold == "all" else int(fold))
        for parameter in made.parameters():
            torch.nn.init.normal_(parameter, std=0.4)
        torch.nn.init.zeros_(made.decoder.seg_layers[-1].bias)  # type: ignore[arg-type]  # no class wins everywhere
        place = folder / f"fold_{fold}" / "checkpoint_final.pth"
        place.parent.mkdir(parents=True)
        torch.save(checkpoint(made, document, dataset, mirrored), place)
    return folder


def checkpoint(
    network: NnunetUNet, plans: dict[str, Any], dataset: dict[str, Any], mirrored: tuple[int, ...] | None
) -> dict[str, Any]:
    """What nnU-Net saves: weights under two names each, losses as NumPy's numbers, and how it was made."""
    weights = network.state_dict()
    twice = {f"decoder.{name}": tensor for name, tensor in weights.items() if name.startswith("encoder.")}
    twice |= {
        name.replace(".conv.", ".all_modules.0."): tensor
        for name, tensor in weights.items()
        if ".conv." in name
    }
    return {
        "network_weights": {**weights, **twice},
        "optimizer_state": {"state": {}, "param_groups": [{"lr": 0.01}]},
        "grad_scaler_state": None,
        "logging": {"train_losses": [np.float32(0.5)], "ema_fg_dice": [np.float64(0.1)], "lrs": [0.01]},
        "_best_ema": np.float64(0.1),
        "current_epoch": 2,
        "init_args": {
            "plans": plans,
            "configuration": "3d_fullres",
            "fold": 0,
            "dataset_json": dataset,
            "device": torch.device("cpu"),
        },
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": mirrored,
    }
