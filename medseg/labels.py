"""Which classes a label map holds: value in the file, index in the network, name, colour, side."""

from __future__ import annotations

import colorsys
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.errors import ConfigError, InputError

__all__ = ["BACKGROUND", "IGNORE_NAME", "CodedConcept", "LabelClass", "LabelScheme", "smallest_integer_dtype"]

BACKGROUND = 0
"""The value of voxels that belong to no class."""

IGNORE_NAME = "ignore"
"""What data sets call the value of voxels that nobody has labelled."""

_GOLDEN_RATIO = 0.618033988749895
_SIDES = (("left", "right"), ("l", "r"))


@dataclass(frozen=True)
class CodedConcept:
    """A term of a coding scheme, as DICOM knows it: ``("10200004", "SCT", "Liver")``."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True)
class LabelClass:
    """One class.

    Attributes:
        value: The integer that stands for it in files.
        name: What people call it.
        color: Red, green, blue in 0..255.
        concept: Its coded concept, where known.
    """

    value: int
    name: str
    color: tuple[int, int, int]
    concept: CodedConcept | None = None


@dataclass(frozen=True)
class LabelScheme:
    """All classes of a task, background first.

    Values in files need not be contiguous; indices (the network's channels) are, in the order of values.

    Attributes:
        classes: Background first, by increasing values.
        ignore: The value of voxels that nobody has labelled, where there are such: scribbles, or structures
            left out in some cases. It is no class; in indices it is ``ignore_index``.

    Example:
        >>> scheme = LabelScheme.from_names({0: "background", 7: "left kidney", 9: "right kidney"})
        >>> scheme.to_indices(np.array([0, 9, 7])).tolist()
        [0, 2, 1]
        >>> scheme.partner_index(1)
        2
        >>> LabelScheme.from_names({1: "liver"}, ignore=9).to_indices(np.array([0, 9, 1])).tolist()
        [0, 2, 1]
    """

    classes: tuple[LabelClass, ...]
    ignore: int | None = None

    def __post_init__(self) -> None:
        values = [entry.value for entry in self.classes]
        names = [entry.name for entry in self.classes]
        if values[:1] != [BACKGROUND] or values != sorted(set(values)):
            raise ConfigError(
                f"label values {values} are not increasing from 0", fix="declare the background as 0"
            )
        if len(set(names)) != len(names):
            raise ConfigError("two labels have the same name", fix="give each label a name of its own")
        if self.ignore is not None and (self.ignore < 1 or self.ignore in values):
            raise ConfigError(
                f"the value {self.ignore} of voxels to ignore is a class's, or below 1",
                fix="give them a value of their own, above those of the classes",
            )

    @classmethod
    def from_names(cls, names: Mapping[int, str], ignore: int | None = None) -> LabelScheme:
        """From ``{value: name}``; the background may be left out."""
        complete = {BACKGROUND: "background", **{int(value): name for value, name in names.items()}}
        return cls(
            tuple(
                LabelClass(value, complete[value], _color(index))
                for index, value in enumerate(sorted(complete))
            ),
            ignore,
        )

    @classmethod
    def from_dataset_json(cls, labels: Mapping[str, Any]) -> LabelScheme:
        """From the ``labels`` entry of a ``dataset.json``, MSD's ``{"1": name}`` or nnU-Net's ``{name: 1}``.

        The name ``"ignore"`` stands for voxels that nobody has labelled, as it does for nnU-Net.

        Raises:
            ConfigError: Neither form, nnU-Net's region form (a list of values for a name), a value declared
                twice, or nothing but the background.
        """
        if not isinstance(labels, Mapping):
            raise ConfigError("labels are not declared as names and values", fix="correct dataset.json")
        is_msd = all(_is_integer(key) and isinstance(name, str) for key, name in labels.items())
        pairs = [(name, value) for value, name in labels.items()] if is_msd else list(labels.items())
        names: dict[int, str] = {}
        for name, value in pairs:
            if not _is_integer(value):
                raise ConfigError(
                    f"label '{name}' is declared as {value!r}, one integer is needed",
                    fix="declare each label as a value of its own (regions are not supported)",
                )
            if int(value) in names:
                raise ConfigError(f"label value {int(value)} is declared twice", fix="correct dataset.json")
            names[int(value)] = name
        ignored = [value for value, name in names.items() if name == IGNORE_NAME]
        if len(ignored) > 1:
            raise ConfigError(f"'{IGNORE_NAME}' is declared twice", fix="give unlabelled voxels one value")
        for value in ignored:
            del names[value]
        if not set(names) - {BACKGROUND}:
            raise ConfigError("no label but the background is declared", fix="correct dataset.json")
        return cls.from_names(names, ignored[0] if ignored else None)

    @classmethod
    def from_entries(cls, entries: Sequence[Any]) -> LabelScheme:
        """From a list of classes: ``value`` and ``name``; ``color`` and ``concept`` where they are known.

        Raises:
            ConfigError: An entry lacks something, or is of the wrong kind; as ``from_dataset_json``.

        Example:
            >>> entry = {"value": 3, "name": "liver", "color": [200, 80, 60], "concept": None}
            >>> LabelScheme.from_entries([entry]).foreground[0].color
            (200, 80, 60)
        """
        known = [entry for entry in entries if isinstance(entry, Mapping) and {"value", "name"} <= set(entry)]
        if len(known) != len(entries):
            raise ConfigError("a label lacks its value or name", fix="list labels as {value, name}")
        plain = cls.from_dataset_json({str(entry["name"]): entry["value"] for entry in known})
        concepts = {str(entry["name"]): entry["concept"] for entry in known if entry.get("concept")}
        colors = {str(entry["name"]): _color_in(entry["color"]) for entry in known if entry.get("color")}
        classes = tuple(replace(entry, color=colors.get(entry.name, entry.color)) for entry in plain.classes)
        return replace(plain, classes=classes).with_concepts(concepts)

    def with_concepts(self, concepts: object) -> LabelScheme:
        """The same classes, with coded concepts for some of them, as a ``dataset.json`` gives them.

        Args:
            concepts: ``{name: {"value": …, "scheme": …, "meaning": …}}``; ``None`` for none.

        Raises:
            ConfigError: It is something else, or a name is that of no class.

        Example:
            >>> liver = {"value": "10200004", "scheme": "SCT", "meaning": "Liver"}
            >>> scheme = LabelScheme.from_names({1: "organ"}).with_concepts({"organ": liver})
            >>> scheme.classes[1].concept
            CodedConcept(value='10200004', scheme='SCT', meaning='Liver')
        """
        if concepts is None:
            return self
        if not isinstance(concepts, Mapping):
            raise ConfigError("'concepts' is no object of names and concepts", fix="correct dataset.json")
        stray = sorted(set(map(str, concepts)) - set(self.names[1:]))
        if stray:
            raise ConfigError(
                f"'concepts' names '{stray[0]}', which is no label", fix="name it as 'labels' does"
            )
        found = {str(name): _concept_in(name, concept) for name, concept in concepts.items()}
        classes = tuple(
            replace(entry, concept=found.get(entry.name, entry.concept)) for entry in self.classes
        )
        return replace(self, classes=classes)

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def values(self) -> tuple[int, ...]:
        """The values in files, background first."""
        return tuple(entry.value for entry in self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        """The names, background first."""
        return tuple(entry.name for entry in self.classes)

    @property
    def foreground(self) -> tuple[LabelClass, ...]:
        """All classes but the background."""
        return self.classes[1:]

    @property
    def dtype(self) -> np.dtype[Any]:
        """The smallest integer type that holds every value."""
        return smallest_integer_dtype(self._stored_values)

    @property
    def ignore_index(self) -> int | None:
        """The index of voxels that nobody has labelled: one past the last class; ``None`` if all are."""
        return None if self.ignore is None else len(self)

    @property
    def without_ignore(self) -> LabelScheme:
        """The classes alone, as a network's output has them."""
        return self if self.ignore is None else replace(self, ignore=None)

    @property
    def _stored_values(self) -> tuple[int, ...]:
        """By index, what files hold: the classes' values, then that of voxels to ignore, if any."""
        return self.values if self.ignore is None else (*self.values, self.ignore)

    @property
    def has_sides(self) -> bool:
        """Whether any class has a left/right partner."""
        return any(partner is not None for partner in self._partners)

    @property
    def sided(self) -> dict[int, str]:
        """Index and name of each class that has a side by its name, whether or not it has a partner.

        Example:
            >>> LabelScheme.from_names({1: "left atrium", 2: "aorta"}).sided
            {1: 'left atrium'}
        """
        return {i: name for i, name in enumerate(self.names) if _mirrored_name(name) is not None}

    @property
    def partners(self) -> tuple[int, ...]:
        """For each class index, that of the same structure on the other side of the body, else itself.

        Example:
            >>> LabelScheme.from_names({1: "left lung", 2: "heart", 3: "right lung"}).partners
            (0, 3, 2, 1)
        """
        return tuple(i if partner is None else partner for i, partner in enumerate(self._partners))

    def partner_index(self, index: int) -> int | None:
        """The index of the same structure on the other side of the body, found by name.

        Partners are mutual: exchanging all of them twice changes nothing.
        """
        return self._partners[index]

    @cached_property
    def _partners(self) -> tuple[int | None, ...]:
        names = [name.lower() for name in self.names]
        index_of = {name: index for index, name in enumerate(names) if names.count(name) == 1}
        mirrored = [index_of.get(_mirrored_name(name) or "") for name in names]
        return tuple(
            other if other is not None and mirrored[other] == index else None
            for index, other in enumerate(mirrored)
        )

    def to_indices(
        self, array: npt.NDArray[Any], *, where: str | None = None
    ) -> npt.NDArray[np.uint8 | np.uint16]:
        """Values in a file to class indices, and to ``ignore_index``, in the smallest type that holds them.

        Args:
            array: Label values, of any shape; floating-point files are fine if they hold whole numbers.
            where: The file, for the error.

        Raises:
            InputError: A value is not declared, or not a whole number.
        """
        stored = self._stored_values
        present = np.unique(array)
        if not np.isin(present, stored).all():
            stray = [f"{float(value):.12g}" for value in present[~np.isin(present, stored)]]
            shown = ", ".join(stray[:5]) + (", …" if len(stray) > 5 else "")
            raise InputError(
                f"label value {shown} is not declared (declared: {', '.join(map(str, stored))})",
                where=where,
                fix="declare it in dataset.json or correct the label map",
            )
        if self.dtype.itemsize > 2:
            order = np.argsort(stored)
            return order[np.searchsorted(stored, array, sorter=order)].astype(self._index_dtype)
        indices: npt.NDArray[np.uint8 | np.uint16] = self._index_table[array.astype(self.dtype, copy=False)]
        return indices

    def to_values(self, indices: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Class indices to the values that files hold, in the smallest type that holds them."""
        values: npt.NDArray[Any] = np.asarray(self._stored_values, dtype=self.dtype)[indices]
        return values

    @property
    def _index_dtype(self) -> type[np.uint8 | np.uint16]:
        return np.uint8 if len(self._stored_values) <= 256 else np.uint16

    @cached_property
    def _index_table(self) -> npt.NDArray[np.uint8 | np.uint16]:
        # A table needs no eight-byte integer per voxel, as a search would.
        stored = self._stored_values
        table = np.zeros(max(stored) + 1, dtype=self._index_dtype)
        table[list(stored)] = np.arange(len(stored))
        return table


def smallest_integer_dtype(values: Sequence[int] | npt.NDArray[Any]) -> np.dtype[Any]:
    """The smallest of uint8, int16, uint16, int32, uint32 and int64 that holds all ``values``.

    Signed 16 bit goes before unsigned, since more programs read it.

    Example:
        >>> smallest_integer_dtype([0, 104])
        dtype('uint8')
        >>> smallest_integer_dtype([0, 300])
        dtype('int16')
    """
    low, high = int(np.min(values)), int(np.max(values))
    for candidate in (np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64):
        info = np.iinfo(candidate)
        if info.min <= low and high <= info.max:
            return np.dtype(candidate)
    raise InputError(f"label values {low} to {high} do not fit any integer type")


def _color(index: int) -> tuple[int, int, int]:
    if index == 0:
        return (0, 0, 0)
    # Steps of the golden ratio keep neighbouring indices far apart in hue, for any number of classes.
    red, green, blue = colorsys.hsv_to_rgb((0.02 + (index - 1) * _GOLDEN_RATIO) % 1.0, 0.75, 0.95)
    return (round(255 * red), round(255 * green), round(255 * blue))


def _concept_in(name: object, given: object) -> CodedConcept:
    parts = [given.get(key) for key in ("value", "scheme", "meaning")] if isinstance(given, Mapping) else []
    value, scheme, meaning = [part.strip() if isinstance(part, str) else "" for part in parts] or [""] * 3
    if not (value and scheme and meaning):
        raise ConfigError(
            f"the concept of '{name}' is not complete",
            fix='give it as {"value": "10200004", "scheme": "SCT", "meaning": "Liver"}',
        )
    return CodedConcept(value, scheme, meaning)


def _color_in(given: object) -> tuple[int, int, int]:
    parts = given if isinstance(given, Sequence) and not isinstance(given, str) else ()
    if len(parts) != 3 or not all(isinstance(part, int) and 0 <= part <= 255 for part in parts):
        raise ConfigError(f"{given!r} is no colour", fix="give red, green and blue in 0 to 255")
    return int(parts[0]), int(parts[1]), int(parts[2])


def _is_integer(value: object) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, int) or (isinstance(value, str) and re.fullmatch(r"\d+", value) is not None)


def _mirrored_name(name: str) -> str | None:
    lowered = name.lower()
    for left, right in _SIDES:
        for side, other in ((left, right), (right, left)):
            pattern = rf"(?<![a-z0-9]){side}(?![a-z0-9])"
            if re.search(pattern, lowered):
                return re.sub(pattern, other, lowered)
    return None
