"""A MONAI bundle as a folder: its documents, read as data; nothing in it is executed.

::

    BUNDLE/
      configs/  medseg.json  metadata.json  inference.json or .yaml
      models/   model.pt
      docs/  scripts/  LICENSE

A bundle that ``medseg export`` wrote carries ``configs/medseg.json``: the recipe and the plan of the run that
it was made from, so that it can be read as a run. Others say by MONAI's configuration language what they do.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from medseg.errors import BundleError, ConfigError, InputError, MedsegError
from medseg.files import read_json
from medseg.labels import LabelScheme
from medseg.runs.documents import load_json, read_yaml
from medseg.runs.plan import Plan
from medseg.runs.postprocess import PostprocessChoice
from medseg.runs.recipe import Recipe

__all__ = ["ARCHIVE", "BundleFolder", "BundledRun", "channel_names", "is_bundle"]

ARCHIVE = ".zip"
"""How a bundle in one file ends."""

_DOCUMENT = Path("configs", "medseg.json")
_METADATA = Path("configs", "metadata.json")
_WEIGHTS = Path("models", "model.pt")
_SUFFIXES = (".json", ".yaml", ".yml")
_FIX = "export or download the bundle again"


class BundledRun(BaseModel):
    """``configs/medseg.json``: what makes a bundle a run. Keys that are not known are left to later versions.

    Attributes:
        schema_version: Version of the document's form.
        recipe: Of the run.
        plan: Of the run.
        postprocess: What is done to label maps; of the recipe if left out, where that says it.
        weights: Files within the bundle, one for each fold, averaged where there are several.
        folds: The folds' numbers in the run; counted from 0 if left out.
        checkpoint: Which of each fold's weights these are.
        steps: Of each fold's training, where they are known.
        seed: Of the training, where it is known.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    schema_version: Literal[1]
    recipe: Recipe
    plan: Plan
    postprocess: PostprocessChoice | None = None
    weights: tuple[str, ...] = Field(default=(_WEIGHTS.as_posix(),), min_length=1)
    folds: tuple[int, ...] | None = None
    checkpoint: Literal["last", "best"] = "last"
    steps: tuple[int, ...] = ()
    seed: int | None = None

    @field_validator("weights")
    @classmethod
    def _within(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            posix, windows = PurePosixPath(name), PureWindowsPath(name)
            if posix.is_absolute() or windows.drive or windows.is_absolute():
                raise ValueError(f"{name!r} is an absolute path")
            if ".." in posix.parts or ".." in windows.parts:
                raise ValueError(f"{name!r} leads out of the bundle")
        return value

    @model_validator(mode="after")
    def _as_many(self) -> BundledRun:
        if self.folds is not None and len(set(self.folds)) != len(self.weights):
            raise ValueError("folds and weights differ in number")
        return self


@dataclass(frozen=True)
class BundleFolder:
    """A bundle on disk. Nothing is read before it is asked for.

    Attributes:
        path: Its folder.
        name: What it is called in errors, such as the archive that it was unpacked from.
    """

    path: Path
    name: str

    @classmethod
    def open(cls, path: str | os.PathLike[str], name: str | None = None) -> BundleFolder:
        """An existing bundle.

        Raises:
            InputError: There is no bundle in this folder.
        """
        folder = Path(path)
        if not cls.is_one(folder):
            raise InputError(
                f"holds no bundle (neither {_DOCUMENT.as_posix()}, nor a configs/inference file)",
                where=name or folder,
                fix="give the folder or .zip of a MONAI bundle",
            )
        return cls(folder, name or str(folder))

    @staticmethod
    def is_one(folder: Path) -> bool:
        """Whether a folder looks like a bundle."""
        configs = [_DOCUMENT, *(_inference(suffix) for suffix in _SUFFIXES)]
        return any((folder / config).is_file() for config in configs) or (folder / _WEIGHTS).is_file()

    @property
    def is_run(self) -> bool:
        """Whether it can be read as a run of medseg."""
        return (self.path / _DOCUMENT).is_file()

    def run(self) -> BundledRun:
        """The run that it was made from.

        Raises:
            BundleError: ``configs/medseg.json`` is not there or damaged, or it names files out of the bundle.
        """
        try:
            return load_json(BundledRun, self.path / _DOCUMENT)
        except MedsegError as error:
            raise self.damaged(_DOCUMENT, error) from error

    def recipe(self) -> Recipe:
        """The recipe of the run that it was made from; errors as ``run``'s."""
        return self.run().recipe

    def plan(self) -> Plan:
        """The plan of the run that it was made from; errors as ``run``'s."""
        return self.run().plan

    def fold_weights(self) -> dict[int, Path]:
        """The file of weights of each fold, in order.

        Raises:
            BundleError: One is not there; or as ``run``.
        """
        run = self.run()
        folds = run.folds or range(len(run.weights))
        return {fold: self._weights(Path(file)) for fold, file in zip(folds, run.weights, strict=True)}

    def only_weights(self) -> Path:
        """``models/model.pt``.

        Raises:
            BundleError: It is not there.
        """
        return self._weights(_WEIGHTS)

    def chosen(self, choice: PostprocessChoice | None) -> PostprocessChoice:
        """What is done to label maps, of the run that it was made from unless something else is asked for.

        Raises:
            ConfigError: It is left to validation cases, which a bundle has none of.
            BundleError: As ``run``.
        """
        run = self.run()
        own = run.recipe.postprocess if run.postprocess is None else run.postprocess
        chosen = own if choice is None or choice.is_open else choice
        if chosen.is_open:
            raise ConfigError(
                "postprocessing was left to validation cases, and the bundle does not say what they chose",
                where=self.name,
                fix="give --postprocess none, or export the run again",
            )
        return chosen

    def metadata(self) -> dict[str, Any] | None:
        """``configs/metadata.json``; ``None`` without one.

        Raises:
            BundleError: It is damaged.
        """
        if not (self.path / _METADATA).is_file():
            return None
        return self._mapping(_METADATA)

    def inference(self) -> dict[str, Any]:
        """``configs/inference.json`` or ``.yaml``, as it is written: no expression in it is evaluated.

        Raises:
            BundleError: It is not there, or damaged.
        """
        return self._mapping(self.inference_file.relative_to(self.path))

    @property
    def inference_file(self) -> Path:
        """``configs/inference.json`` or ``.yaml``.

        Raises:
            BundleError: It is not there.
        """
        for suffix in _SUFFIXES:
            if (self.path / _inference(suffix)).is_file():
                return self.path / _inference(suffix)
        raise BundleError(
            "has no configs/inference.json or .yaml", where=self.name, fix="give a bundle that can segment"
        )

    def class_names(self) -> tuple[str, ...] | None:
        """The classes that the metadata say the network's channels are; ``None`` where they do not."""
        found = channel_names(self.metadata() or {}, "outputs", "pred")
        return None if found is None else tuple(found.values())

    def labels(self) -> LabelScheme:
        """The classes that its label maps hold.

        Raises:
            BundleError: They are not told, or in contradictions.
        """
        if self.is_run:
            return self.plan().labels
        names = self.class_names()
        if names is None:
            raise BundleError(
                "metadata.json does not name the classes", where=self.name, fix="add channel_def to its pred"
            )
        return self.labels_of(names)

    def labels_of(self, names: Sequence[str]) -> LabelScheme:
        """The classes of a prediction whose channels have these names; a single channel is a structure's.

        Raises:
            BundleError: Two have one name.
        """
        try:
            return LabelScheme.from_names({1: names[0]} if len(names) == 1 else dict(enumerate(names)))
        except ConfigError as error:
            what = f"metadata.json names the classes so that {error.what}"
            raise BundleError(what, where=self.name, fix="correct its channel_def") from error

    def scripts(self) -> tuple[str, ...]:
        """Python files anywhere in it, as paths within it."""
        return tuple(sorted(file.relative_to(self.path).as_posix() for file in self.path.rglob("*.py")))

    def damaged(self, file: Path, error: MedsegError) -> BundleError:
        """What is told where one of its documents is wrong."""
        return BundleError(
            f"the bundle's {file.as_posix()} is wrong: {error.what}", where=self.name, fix=error.fix or _FIX
        )

    def _mapping(self, file: Path) -> dict[str, Any]:
        try:
            content = read_json(self.path / file) if file.suffix == ".json" else read_yaml(self.path / file)
            if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
                raise InputError("does not hold keys and values")
        except MedsegError as error:
            raise self.damaged(file, error) from error
        return content

    def _weights(self, file: Path) -> Path:
        if not (self.path / file).is_file():
            raise BundleError(f"has no {file.as_posix()}", where=self.name, fix=_FIX)
        return self.path / file


def is_bundle(path: str | os.PathLike[str]) -> bool:
    """Whether there is a bundle's folder, or an archive that may hold one; nothing is unpacked."""
    place = Path(path)
    if place.is_dir():
        return not (place / "plan.json").is_file() and BundleFolder.is_one(place)
    return place.suffix.lower() == ARCHIVE and place.is_file()


def channel_names(metadata: dict[str, Any], side: str, tensor: str) -> dict[int, str] | None:
    """``channel_def`` of a tensor of the network, by channel; ``None`` where it is not told for each.

    Args:
        metadata: A bundle's.
        side: ``"inputs"`` or ``"outputs"``.
        tensor: Such as ``"image"`` or ``"pred"``.

    Example:
        >>> metadata = {"network_data_format": {"outputs": {"pred": {"channel_def": {"0": "all"}}}}}
        >>> channel_names(metadata, "outputs", "pred"), channel_names(metadata, "inputs", "image")
        ({0: 'all'}, None)
    """
    found: Any = metadata
    for key in ("network_data_format", side, tensor, "channel_def"):
        found = found.get(key) if isinstance(found, dict) else None
    if not isinstance(found, dict) or set(found) != {str(index) for index in range(len(found))}:
        return None
    return {index: str(found[str(index)]) for index in range(len(found))}


def _inference(suffix: str) -> Path:
    return Path("configs", f"inference{suffix}")
