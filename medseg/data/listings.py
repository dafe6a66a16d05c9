"""What a JSON file says about a dataset: its classes, its channels, and the list of its cases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.data.splits import Split
from medseg.errors import ConfigError, InputError
from medseg.files import read_json
from medseg.io import Case, split_suffix
from medseg.labels import LabelScheme

__all__ = ["Document", "Listing", "read_listing"]

Resolve = Callable[[str], Path]
"""Turns a path as the JSON writes it into one that can be opened, or refuses it."""

_TEST_KEYS = ("test", "testing")


class Document:
    """A JSON object, and errors that name its file and key.

    Args:
        path: The file.
        labelled: Whether it must declare classes, and a label for each training case.

    Raises:
        InputError: The file is missing, or holds no JSON object.
    """

    def __init__(self, path: Path, *, labelled: bool = True) -> None:
        self.path = path
        self.labelled = labelled
        self.content: dict[str, Any] = read_json(path)
        if not isinstance(self.content, dict):
            raise self.error(f"is {_kind(self.content)}, an object is needed")

    def error(self, what: str, fix: str = "correct the file") -> InputError:
        """An error about this file."""
        return InputError(what, where=self.path, fix=fix)

    def wrong(self, place: str, value: object, needed: str) -> InputError:
        """An error about the type of what stands at ``place``."""
        return self.error(f"'{place}' is {_kind(value)}, {needed} is needed")

    def entries(self, key: str) -> list[Any]:
        """The list under ``key``; empty where there is none."""
        value = self.content.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.wrong(key, value, "a list")
        return value

    def name(self, default: str) -> str:
        """What the dataset calls itself."""
        name = self.content.get("name")
        return name if isinstance(name, str) and name else default

    def declared_count(self) -> int | None:
        """The number of training cases that the dataset says it has."""
        value = self.content.get("numTraining")
        if value is not None and not _is_integer(value):
            raise self.wrong("numTraining", value, "an integer")
        return value

    def labels(self) -> LabelScheme:
        """The classes, declared in either direction or as a list of names; the background if none need be."""
        if not self.labelled:
            return LabelScheme.from_names({})
        declared = self.content.get("labels")
        if declared is None:
            raise self.error("has no key 'labels'", 'declare the classes: "labels": {"0": "background", …}')
        if isinstance(declared, list) and all(isinstance(name, str) for name in declared):
            declared = {str(value): name for value, name in enumerate(declared)}
        if not isinstance(declared, dict) or not declared:
            raise self.wrong("labels", declared, "an object of values and names")
        try:
            return LabelScheme.from_dataset_json(declared).with_concepts(self.content.get("concepts"))
        except ConfigError as error:
            raise InputError(error.what, where=self.path, fix=error.fix) from error

    def channel_names(self) -> tuple[str, ...] | str | None:
        """Names by channel, or one name for however many channels there are, or ``None``."""
        key = "channel_names" if "channel_names" in self.content else "modality"
        value = self.content.get(key)
        if value is None or (isinstance(value, str) and value):
            return value
        if isinstance(value, list):
            value = {str(channel): name for channel, name in enumerate(value)}
        if not isinstance(value, dict) or not value or not all(isinstance(n, str) for n in value.values()):
            raise self.wrong(key, value, "an object of channels and names")
        if set(value) != {str(channel) for channel in range(len(value))}:
            raise self.error(f"'{key}' numbers its channels {', '.join(value)}", "number them 0, 1, 2, …")
        return tuple(value[str(channel)] for channel in range(len(value)))

    def required_channel_names(self, key: str) -> tuple[str, ...]:
        """Names by channel; ``key`` is what the error asks for."""
        names = self.channel_names()
        if names is None:
            raise self.error(f"has no key '{key}'", f'name the channels: "{key}": {{"0": "CT"}}')
        return (names,) if isinstance(names, str) else names


@dataclass(frozen=True)
class Listing:
    """The cases that a JSON file lists, sorted by id, and the split that it brings, if any."""

    cases: tuple[Case, ...]
    test_cases: tuple[Case, ...]
    split: Split | None


def read_listing(document: Document, resolve: Resolve, channels: int) -> Listing:
    """Read the lists ``training``, ``validation`` and ``test`` (or ``testing``).

    An entry has the keys ``image``, ``label``, ``instances`` (an instance map) and ``fold``; ``image`` alone
    must be there.

    Args:
        document: The JSON file.
        resolve: Applied to each path in it.
        channels: How many files nnU-Net version 1 keeps for a path that it lists.

    Raises:
        InputError: No training case, a malformed entry, a case listed twice, or folds that make no split.
    """
    if "training" not in document.content:
        raise document.error("has no key 'training'", "list the labelled cases under 'training'")

    def entries(key: str) -> list[_Entry]:
        return [
            _read_entry(document, f"{key}[{position}]", value, resolve, channels)
            for position, value in enumerate(document.entries(key))
        ]

    training, validation = entries("training"), entries("validation")
    tests = [entry for key in _TEST_KEYS for entry in entries(key)]
    if not training:
        raise document.error("lists no training case", "list the labelled cases under 'training'")
    for entry in (*training, *validation):
        if entry.label is None and document.labelled:
            raise document.error(
                f"'{entry.place}' has no key 'label'", "name its label map, or list it as 'test'"
            )
    cases = _name_cases(document, [*training, *validation])
    return Listing(
        cases=_sorted(cases),
        test_cases=_sorted(_name_cases(document, tests)),
        split=_declared_split(document, training, [case.id for case in cases]),
    )


@dataclass(frozen=True)
class _Entry:
    place: str
    images: tuple[Path, ...]
    label: Path | None
    instances: Path | None
    fold: int | None

    @property
    def stem(self) -> str:
        """The first image's name, without a channel number where that is what its last digits are."""
        stem = split_suffix(self.images[0])[0]
        bare = stem.removesuffix("_0000")
        if self.label is None:
            return bare if len(self.images) > 1 else stem
        return bare if split_suffix(self.label)[0] == bare else stem


def _read_entry(document: Document, place: str, value: object, resolve: Resolve, channels: int) -> _Entry:
    entry = {"image": value} if isinstance(value, str) else value
    if not isinstance(entry, dict):
        raise document.wrong(place, value, "an object with 'image' and 'label'")
    if "image" not in entry:
        raise document.error(f"'{place}' has no key 'image'")
    images, fold = entry["image"], entry.get("fold")
    label, instances = entry.get("label"), entry.get("instances")
    images = images if isinstance(images, list) else [images]
    if not images or not all(_is_text(path) for path in images):
        raise document.wrong(f"{place}.image", entry["image"], "a path or a list of paths")
    for key, path in (("label", label), ("instances", instances)):
        if path is not None and not _is_text(path):
            raise document.wrong(f"{place}.{key}", path, "a path")
    if fold is not None and not _is_integer(fold):
        raise document.wrong(f"{place}.fold", fold, "an integer")
    paths = tuple(resolve(path) for path in images)
    if len(paths) == 1:
        paths = _channel_files(paths[0], channels)
    label, instances = (None if path is None else resolve(path) for path in (label, instances))
    return _Entry(place, paths, label, instances, fold)


def _channel_files(image: Path, channels: int) -> tuple[Path, ...]:
    """The files of one image: nnU-Net version 1 lists ``x.nii.gz`` and stores ``x_0000.nii.gz`` and so on."""
    stem, suffix = split_suffix(image)
    files = tuple(image.with_name(f"{stem}_{channel:04d}{suffix}") for channel in range(channels))
    return files if files[0].is_file() and not image.exists() else (image,)


def _name_cases(document: Document, entries: Sequence[_Entry]) -> list[Case]:
    """Name each case by its image; by folder and image where files of several cases share a name."""
    ids = [entry.stem for entry in entries]
    if len(set(ids)) < len(ids):
        ids = [f"{entry.images[0].parent.name}_{entry.stem}" for entry in entries]
    counts = Counter(ids)
    for case_id, entry in zip(ids, entries, strict=True):
        if counts[case_id] > 1:
            raise document.error(f"'{entry.place}' names a case that is listed twice", "list each case once")
    return [
        Case(case_id, entry.images, entry.label, entry.instances)
        for case_id, entry in zip(ids, entries, strict=True)
    ]


def _sorted(cases: Sequence[Case]) -> tuple[Case, ...]:
    return tuple(sorted(cases, key=lambda case: case.id))


def _declared_split(document: Document, training: Sequence[_Entry], ids: Sequence[str]) -> Split | None:
    """The split in a datalist; ``ids`` name its training cases, then its validation cases."""
    held_out = ids[len(training) :]
    folds: dict[int, list[str]] = {}
    training_only = []
    for case_id, entry in zip(ids, training, strict=False):
        if entry.fold is None:
            training_only.append(case_id)
        else:
            folds.setdefault(entry.fold, []).append(case_id)
    if held_out and folds:
        raise document.error("has both a 'validation' list and 'fold' numbers", "keep one of them")
    if held_out:
        folds = {0: list(held_out)}
    if not folds:
        return None
    if set(folds) != set(range(len(folds))):
        numbers = ", ".join(map(str, sorted(folds)))
        raise document.error(f"numbers its folds {numbers}", "number them 0, 1, 2, …")
    if len(folds) == 1 and not training_only:
        raise document.error("puts every case into fold 0", "leave cases to train on")
    return Split(
        seed=None,
        folds=tuple(tuple(sorted(folds[fold])) for fold in range(len(folds))),
        training_only=tuple(sorted(training_only)),
    )


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    if value in ([], {}, ""):
        return "empty"
    return names.get(type(value), "a number")
