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
