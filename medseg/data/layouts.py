"""Dataset folders and lists, whatever their layout, as one ``Dataset``.

Read are the layouts of the Medical Segmentation Decathlon (a ``dataset.json`` that lists its cases), of
nnU-Net (version 2: ``channel_names`` and ``file_ending``, cases found by their names; version 1: as the
Decathlon, with one file a channel) and MONAI's datalists (any other ``.json`` file, as Auto3DSeg writes).
A case may have an instance map as well: a file of its label's name in ``instancesTr`` beside ``labelsTr``, or
what the list has under ``instances``.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath, PureWindowsPath

from medseg.data.listings import Document, read_listing
from medseg.data.manifest import data_home, load_manifest
from medseg.data.splits import Split, make_split
from medseg.errors import ConfigError, InputError, did_you_mean
from medseg.io import Case, read_header, split_suffix
from medseg.labels import LabelScheme

__all__ = ["DATASET_JSON", "Dataset", "case_files", "load_dataset", "read_dataset", "split_dataset"]

DATASET_JSON = "dataset.json"
"""The file that makes a folder a dataset."""

_CHANNEL_SUFFIX = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")


@dataclass(frozen=True)
class Dataset:
    """Labelled cases of one task, and perhaps unlabelled ones to test on.

    Attributes:
        name: What the dataset calls itself, or its folder's name.
        folder: Where it lies.
        source: The ``.json`` file that declares it; ``load_dataset`` of it gives the dataset again.
        cases: The labelled cases, sorted by id.
        labels: The classes.
        channel_names: Modality of each image channel, such as ``("CT",)``.
        test_cases: Cases that nobody trains on, sorted by id.
        declared_split: The split that the dataset brings along (a datalist's ``fold`` or ``validation``).
        declared_count: The number of training cases that the dataset says it has.
    """

    name: str
    folder: Path
    source: Path
    cases: tuple[Case, ...]
    labels: LabelScheme
    channel_names: tuple[str, ...]
    test_cases: tuple[Case, ...] = ()
    declared_split: Split | None = None
    declared_count: int | None = None

    def without_labels(self) -> Dataset:
        """The same cases as images alone, for what must not see a label."""
        return replace(
            self,
            cases=tuple(replace(case, label=None, instances=None) for case in self.cases),
            test_cases=tuple(replace(case, label=None, instances=None) for case in self.test_cases),
            labels=LabelScheme.from_names({}),
        )


def load_dataset(where: str | os.PathLike[str], *, labelled: bool = True) -> Dataset:
    """Read a dataset whose training files are all there; no voxel is read.

    Args:
        where: A folder with a ``dataset.json``, a MONAI datalist (``.json``), or a name that ``medseg data
            list`` shows and ``medseg data fetch`` has fetched.
        labelled: Whether training cases need labels, and the dataset classes. If not, images are all that
            is taken, also where there are labels.

    Returns:
        The dataset. The same cases in another layout differ in paths only.

    Raises:
        InputError: Nothing there, malformed, or a training file is missing.
        ConfigError: A datalist that declares no labels.
    """
    dataset = read_dataset(where, labelled=labelled)
    missing = [path for case in dataset.cases for path in case_files(case) if not path.is_file()]
    if missing:
        others = f" (nor do {len(missing) - 1} others)" if len(missing) > 1 else ""
        raise InputError(
            f"does not exist{others}", where=missing[0], fix=f"see them all with 'medseg data check {where}'"
        )
    return dataset


def read_dataset(where: str | os.PathLike[str], *, labelled: bool = True) -> Dataset:
    """Read what a dataset declares, whether its files exist or not; otherwise as ``load_dataset``."""
    source = _find_json(where)
    document = Document(source, labelled=labelled)
    if source.name != DATASET_JSON:
        dataset = _read_datalist(document)
    elif "file_ending" in document.content:
        dataset = _read_nnunet(document)
    else:
        dataset = _read_decathlon(document)
    return dataset if labelled else dataset.without_labels()


def split_dataset(dataset: Dataset, folds: int | None = None, seed: int = 0) -> Split:
    """The dataset's own split if it brings one, else ``make_split`` of its case ids.

    Args:
        dataset: The dataset.
        folds: Number of folds; by default as many as the dataset declares, or as ``make_split`` chooses.
        seed: For ``make_split``.

    Raises:
        ConfigError: The dataset declares another number of folds, or has fewer cases than folds, or one.
    """
    declared = dataset.declared_split
    if declared is None:
        return make_split((case.id for case in dataset.cases), folds, seed)
    if folds not in (None, len(declared.folds)):
        raise ConfigError(
            f"{folds} folds are asked for, the dataset declares {len(declared.folds)}",
            where="--folds",
            fix="leave the number out, or remove the folds from the datalist",
        )
    return declared


def case_files(case: Case) -> tuple[Path, ...]:
    """All files of a case: images, then the label, then the instance map."""
    return (*case.images, *(path for path in (case.label, case.instances) if path is not None))


def _find_json(where: str | os.PathLike[str]) -> Path:
    path = Path(where)
    if not path.exists():
        path = _fetched(os.fspath(where))
    if path.is_dir():
        path = path / DATASET_JSON
        if not path.is_file():
            raise InputError(
                f"holds no {DATASET_JSON}",
                where=path.parent,
                fix="give a folder laid out as the Medical Segmentation Decathlon's or nnU-Net's raw data, "
                "or a MONAI datalist (.json)",
            )
    elif path.suffix != ".json":
        cure = f"give a folder with a {DATASET_JSON}, or a MONAI datalist (.json)"
        raise InputError("is no dataset", where=path, fix=cure)
    return path


def _fetched(name: str) -> Path:
    names = {known.lower(): known for known in load_manifest().names()}
    known = names.get(name.lower())
    if known is None:
        hint = did_you_mean(name, names.values()) if re.fullmatch(r"[\w-]+", name) else "check the path"
        raise InputError("is neither a folder, nor a datalist, nor a known dataset", where=name, fix=hint)
    folder = data_home() / known
    if not folder.is_dir():
        raise InputError(
            f"is not fetched yet (no {folder})", where=known, fix=f"run 'medseg data fetch {known}'"
        )
    return folder


def _read_decathlon(document: Document) -> Dataset:
    channel_names = document.required_channel_names("modality")

    def resolve(text: str) -> Path:
        return document.path.parent / _inside(text, document)

    listing = read_listing(document, resolve, len(channel_names))
    return Dataset(
        name=document.name(document.path.resolve().parent.name),
        folder=document.path.parent,
        source=document.path,
        cases=tuple(_with_instances(case) for case in listing.cases),
        labels=document.labels(),
        channel_names=channel_names,
        test_cases=tuple(_with_held_back_label(case) for case in listing.test_cases),
        declared_split=listing.split,
        declared_count=document.declared_count(),
    )


def _with_held_back_label(case: Case) -> Case:
    """The test case with its label, where someone has put one into ``labelsTs``, as nnU-Net's folders may."""
    image = case.images[0]
    label = image.parent.parent / "labelsTs" / f"{case.id}{split_suffix(image)[1]}"
    if case.label is None and image.parent.name == "imagesTs" and label.is_file():
        return replace(case, label=label)
    return case


def _with_instances(case: Case) -> Case:
    """The case with its instance map, where ``instancesTr`` beside its ``labelsTr`` holds one."""
    if case.instances is not None or case.label is None or case.label.parent.name != "labelsTr":
        return case
    path = case.label.parent.with_name("instancesTr") / case.label.name
    return replace(case, instances=path) if path.is_file() else case


def _read_datalist(document: Document) -> Dataset:
    base = document.path.parent
    # Auto3DSeg's datalists leave classes and modality to the dataset.json beside them.
    beside = base / DATASET_JSON
    fallback = Document(beside, labelled=document.labelled) if beside.is_file() else None
    if document.labelled and "labels" not in document.content and fallback is None:
        raise ConfigError(
            "declares no labels",
            where=document.path,
            fix='add {"labels": {"0": "background", …}} to it, or put a dataset.json with labels beside it',
        )
    labels = document if "labels" in document.content or fallback is None else fallback
    names = document.channel_names()
    if names is None and fallback is not None:
        names = fallback.channel_names()

    def resolve(text: str) -> Path:
        return base / text

    listing = read_listing(document, resolve, len(names) if isinstance(names, tuple) else 1)
    if not isinstance(names, tuple):
        channels = _count_channels(listing.cases[0])
        names = (names,) * channels if names else tuple(f"channel_{channel}" for channel in range(channels))
    return Dataset(
        name=document.name(document.path.stem),
        folder=base,
        source=document.path,
        cases=listing.cases,
        labels=labels.labels(),
        channel_names=names,
        test_cases=listing.test_cases,
        declared_split=listing.split,
        declared_count=document.declared_count(),
    )


def _read_nnunet(document: Document) -> Dataset:
    folder = document.path.parent
    channel_names = document.required_channel_names("channel_names")
    suffix = document.content["file_ending"]
    if not isinstance(suffix, str) or not suffix.startswith("."):
        raise document.error(f"'file_ending' is {suffix!r}", "write it as in '.nii.gz'")
    channels = len(channel_names)
    image_ids = _image_ids(folder / "imagesTr", suffix)
    label_ids = {name.removesuffix(suffix) for name in _file_names(folder / "labelsTr", suffix)}

    def case(case_id: str, part: str, *, labelled: bool) -> Case:
        images = (folder / f"images{part}" / f"{case_id}_{c:04d}{suffix}" for c in range(channels))
        label = folder / f"labels{part}" / f"{case_id}{suffix}"
        return Case(case_id, tuple(images), label if labelled or label.is_file() else None)

    case_ids = image_ids | label_ids if document.labelled else image_ids
    cases = tuple(_with_instances(case(case_id, "Tr", labelled=True)) for case_id in sorted(case_ids))
    if not cases:
        raise document.error(f"no file in imagesTr or labelsTr ends in '{suffix}'", "check 'file_ending'")
    return Dataset(
        name=document.name(document.path.resolve().parent.name),
        folder=folder,
        source=document.path,
        cases=cases,
        labels=document.labels(),
        channel_names=channel_names,
        test_cases=tuple(
            case(case_id, "Ts", labelled=False) for case_id in sorted(_image_ids(folder / "imagesTs", suffix))
        ),
        declared_count=document.declared_count(),
    )


def _file_names(folder: Path, suffix: str) -> list[str]:
    if not folder.is_dir():
        return []
    names = (path.name for path in folder.iterdir())
    # Archives made on a Mac carry a hidden twin of each file.
    return [name for name in names if name.endswith(suffix) and not name.startswith(".")]


def _image_ids(folder: Path, suffix: str) -> set[str]:
    matches = (_CHANNEL_SUFFIX.fullmatch(name.removesuffix(suffix)) for name in _file_names(folder, suffix))
    return {match["case"] for match in matches if match is not None}


def _inside(text: str, document: Document) -> PurePosixPath:
    """A relative path that stays in its folder: a dataset folder may come from a stranger's archive."""
    path = PurePosixPath(text)
    if path.is_absolute() or PureWindowsPath(text).is_absolute() or ".." in PureWindowsPath(text).parts:
        raise document.error(f"'{text}' leads out of the folder", "use relative paths without '..'")
    return path


def _count_channels(case: Case) -> int:
    return sum(read_header(image).channels for image in case.images)
