"""MONAI bundles as tests need them: medseg's own, the model zoo's, and some that nobody should open."""

from __future__ import annotations

import os
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medseg.files import read_json, write_json
from medseg.runs import RunFolder
from medseg.runs.documents import read_yaml


def write_own_bundle(run: Path, folder: Path, **changes: Any) -> Path:
    """A bundle as ``medseg export`` writes it, of a run's folder; ``changes`` go over ``medseg.json``."""
    opened = RunFolder.open(run)
    plan = opened.plan()
    names = []
    for fold, weights in opened.fold_weights().items():
        names.append("models/model.pt" if not names else f"models/fold_{fold}.pt")
        (folder / names[-1]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(weights, folder / names[-1])
    document = {
        "schema_version": 1,
        "recipe": opened.recipe().model_dump(mode="json"),
        "plan": plan.model_dump(mode="json"),
        "postprocess": opened.recipe().postprocess.model_dump(mode="json"),
        "weights": names,
    }
    write_json(document | changes, folder / "configs" / "medseg.json")
    metadata = network_metadata(plan.channel_names, plan.labels.names, plan.patch_size)
    write_json(metadata, folder / "configs" / "metadata.json")
    return folder


def network_metadata(
    channels: tuple[str, ...], classes: tuple[str, ...], shape: tuple[int, ...]
) -> dict[str, Any]:
    """The part of ``metadata.json`` that tells of the network."""

    def tensor(names: tuple[str, ...]) -> dict[str, Any]:
        return {
            "type": "image",
            "num_channels": len(names),
            "spatial_shape": list(shape),
            "dtype": "float32",
            "channel_def": {str(index): name for index, name in enumerate(names)},
        }

    data_format = {"inputs": {"image": tensor(channels)}, "outputs": {"pred": tensor(classes)}}
    return {"version": "0.1.0", "name": "a test's", "network_data_format": data_format}


def edit_json(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a document in its place."""
    content = read_json(path)
    change(content)
    write_json(content, path)


def zipped(folder: Path, archive: Path, *, within: str = "") -> Path:
    """A folder as a ``.zip``; ``within`` is put before each name."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                target.write(file, within + file.relative_to(folder).as_posix())
    return archive


def with_member(archive: Path, name: str, content: bytes = b"x", *, link: bool = False) -> Path:
    """Add one more member to a ``.zip``."""
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK if link else stat.S_IFREG) << 16
    info.compress_type = zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(archive, "a") as target:
        target.writestr(info, content)
    return archive


class Betrayal:
    """What, unpickled, makes a file: ``fired`` tells whether that happened."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.flag),)

    @property
    def fired(self) -> bool:
        return self.flag.exists()


def write_zoo_bundle(
    folder: Path,
    network: dict[str, Any],
    *,
    classes: tuple[str, ...] = ("background", "spleen"),
    channels: tuple[str, ...] = ("image",),
    expressions: bool = False,
    inverted: str = "scores",
    spacing: tuple[float, float, float] = (1.5, 1.5, 2.0),
    normalization: dict[str, Any] | None = None,
    more: dict[str, Any] | None = None,
    yaml: bool = False,
) -> Path:
    """A bundle as MONAI's model zoo has them (``spleen_ct_segmentation``), with random weights.

    Args:
        folder: Where it goes.
        network: Its ``network_def``.
        classes: Of the prediction; a single one has a threshold.
        channels: Of the image.
        expressions: Whether it is written with Python in it, as the zoo's are.
        inverted: ``"scores"`` before the best class is taken, ``"labels"`` after it, or ``"not"`` at all.
        spacing: In millimetres.
        normalization: The transform that scales intensities.
        more: Other keys of the configuration.
        yaml: Write it as YAML.
    """
    import torch
    import yaml as writer
    from monai.bundle import ConfigParser

    torch.manual_seed(0)
    made = ConfigParser({"network_def": network}).get_parsed_content("network_def")
    (folder / "models").mkdir(parents=True)
    torch.save(made.state_dict(), folder / "models" / "model.pt")
    scale = {
        "_target_": "ScaleIntensityRanged",
        "keys": "image",
        "a_min": -2,
        "a_max": 3,
        "b_min": 0,
        "b_max": 1,
    }
    output = "$@bundle_root + '/eval'" if expressions else "eval"
    best: dict[str, Any] = {"argmax": True} if len(classes) > 1 else {"threshold": 0.5}
    soften = {"softmax": True} if len(classes) > 1 else {"sigmoid": True}
    invert = {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "image"}
    invert |= {"nearest_interp": inverted == "labels", "to_tensor": True}
    after = [
        {"_target_": "Activationsd", "keys": "pred", **soften},
        *([invert] if inverted == "scores" else []),
        {"_target_": "AsDiscreted", "keys": "pred", **best},
        *([invert] if inverted == "labels" else []),
        {"_target_": "SaveImaged", "keys": "pred", "output_dir": output, "output_postfix": "seg"}
        | {"separate_folder": False, "print_log": False},
    ]
    config: dict[str, Any] = {
        "bundle_root": ".",
        "network_def": network,
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "image"},
                {"_target_": "EnsureChannelFirstd", "keys": "image"},
                {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
                {"_target_": "Spacingd", "keys": "image", "pixdim": list(spacing), "mode": "bilinear"},
                normalization or scale,
                {"_target_": "EnsureTyped", "keys": "image"},
            ],
        },
        "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [16, 16, 16], "sw_batch_size": 2}
        | {"overlap": 0.5, "mode": "gaussian"},
        "postprocessing": {"_target_": "Compose", "transforms": after},
    }
    if expressions:
        config |= {
            "imports": ["$import glob"],
            "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
            "network": "$@network_def.to(@device)",
        }
    config |= more or {}
    if yaml:
        (folder / "configs").mkdir()
        (folder / "configs" / "inference.yaml").write_text(writer.safe_dump(config), encoding="utf-8")
    else:
        write_json(config, folder / "configs" / "inference.json")
    write_json(network_metadata(channels, classes, (16, 16, 16)), folder / "configs" / "metadata.json")
    return folder


UNET = {
    "_target_": "UNet",
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 2,
    "channels": [4, 8],
    "strides": [2],
    "num_res_units": 1,
    "norm": "batch",
}
SEGRESNET = {
    "_target_": "monai.networks.nets.SegResNet",
    "spatial_dims": 3,
    "in_channels": 2,
    "out_channels": 3,
    "init_filters": 8,
    "blocks_down": [1, 1],
    "blocks_up": [1],
}


def run_by_monai(bundle: Path, images: list[str], out: Path, *, resample: bool = True) -> Path:
    """Run a bundle's own inference workflow by MONAI, and give the label map that it writes.

    Args:
        bundle: The bundle.
        images: A file a channel.
        out: Where the label map goes.
        resample: Whether it is brought back to the image's affine, where transforms have not done so.
    """
    from monai.bundle import ConfigWorkflow

    workflow_parts = {
        "device": "$torch.device('cpu')",
        "network": "$@network_def.to(@device)",
        "dataset": {
            "_target_": "Dataset",
            "data": [{"image": images[0] if len(images) == 1 else images}],
            "transform": "@preprocessing",
        },
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1},
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
        },
        "initialize": [
            f"$@network.load_state_dict(torch.load({str(bundle / 'models/model.pt')!r}, weights_only=True))"
        ],
        "run": ["$@evaluator.run()"],
    }
    config = next(bundle.glob("configs/inference.*"))
    content = read_yaml(config)
    for step in content["postprocessing"]["transforms"]:
        if step["_target_"] == "SaveImaged":
            step |= {"output_dir": str(out), "resample": resample}
    settings = bundle.parent / f"{bundle.name}_by_monai.json"
    write_json(content | workflow_parts, settings)
    workflow = ConfigWorkflow(
        config_file=str(settings),
        meta_file=str(bundle / "configs/metadata.json"),
        workflow_type="inference",
        logging_file=False,
    )
    workflow.initialize()
    workflow.run()
    (written,) = out.glob("*.nii.gz")
    return written
