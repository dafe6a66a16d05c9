"""Which cases train and which validate: folds that anyone can recompute from the case ids and a seed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from medseg.errors import ConfigError, InputError
from medseg.files import read_json, write_json

__all__ = ["DEFAULT_FOLDS", "Split", "make_split"]

DEFAULT_FOLDS = 5
"""Where neither a person nor the data set chooses."""


class Split(BaseModel):
    """A cross-validation split.

    Attributes:
        schema_version: Version of the file's form.
        seed: What it was drawn with; ``None`` where the dataset brought its own split.
        folds: For each fold, the case ids that validate in it, sorted.
        training_only: Cases that train in every fold and validate in none; only a dataset that brings its
            own split has any.

    Example:
        >>> split = make_split(["a", "b", "c", "d"], folds=2)
        >>> split.training(0) == split.validation(1)
        True
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    seed: int | None
    folds: tuple[tuple[str, ...], ...]
    training_only: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _each_case_once(self) -> Self:
        if not self.folds or not all(self.folds):
            raise ValueError("a fold has no validation case")
        if len(self.folds) == 1 and not self.training_only:
            raise ValueError("no case is left to train on")
        seen: set[str] = set()
        for case_id in self.case_ids:
            if case_id in seen:
                raise ValueError(f"case '{case_id}' appears twice")
            seen.add(case_id)
        return self

    @property
    def case_ids(self) -> tuple[str, ...]:
        """All case ids, sorted."""
        return tuple(sorted([*self.training_only, *(case_id for fold in self.folds for case_id in fold)]))

    @property
    def leaves_one_out(self) -> bool:
        """Whether each fold validates on one case and trains on all others."""
        return not self.training_only and all(len(fold) == 1 for fold in self.folds)

    def validation(self, fold: int) -> tuple[str, ...]:
        """The case ids that validate in ``fold`` (from 0), sorted.

        Raises:
            ConfigError: There is no such fold.
        """
        if not 0 <= fold < len(self.folds):
            raise ConfigError(
                f"there is no fold {fold}", where="--fold", fix=f"choose one of 0 to {len(self.folds) - 1}"
            )
        return self.folds[fold]

    def training(self, fold: int) -> tuple[str, ...]:
        """The case ids that train in ``fold``, sorted: all that do not validate in it.

        Raises:
            ConfigError: There is no such fold.
        """
        held_out = set(self.validation(fold))
        return tuple(case_id for case_id in self.case_ids if case_id not in held_out)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the split as JSON, atomically."""
        write_json(self.model_dump(mode="json"), path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Split:
        """Read a split that ``save`` wrote.

        Raises:
            InputError: The file is missing, malformed, or lists a case twice.
        """
        try:
            return cls.model_validate(read_json(path))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            what = f"is not a split ({f'{place}: ' if place else ''}{first['msg']})"
            raise InputError(what, where=path, fix="make it anew with 'medseg data split'") from error


def make_split(case_ids: Iterable[str], folds: int | None = None, seed: int = 0) -> Split:
    """Deal cases to folds, reproducibly.

    Cases are ordered by the SHA-256 of ``"{seed}:{case id}"`` (UTF-8) and dealt out like cards: the n-th goes
    to fold n modulo ``folds``. Nothing else enters, no random generator and no order of files, so that any
    machine and any version deals alike; sizes differ by at most one.

    Args:
        case_ids: The cases, in any order.
        folds: Number of folds, two at least; if left out ``DEFAULT_FOLDS``, or with fewer cases as many as
            there are: each is then left out once.
        seed: Another seed gives another deal.

    Returns:
        The split; each case validates in exactly one fold.

    Raises:
        ConfigError: Fewer than two folds, more folds than cases, a single case, or a case id given twice.

    Example:
        >>> make_split(["a", "b", "c", "d", "e"], folds=2).folds
        (('c', 'd', 'e'), ('a', 'b'))
    """
    ids = list(case_ids)
    if len(set(ids)) != len(ids):
        twice = next(case_id for case_id in ids if ids.count(case_id) > 1)
        raise ConfigError(f"case '{twice}' is given twice", fix="give each case an id of its own")
    if len(ids) == 1:
        raise ConfigError(
            f"case '{ids[0]}' is the only one: with it left out to validate on, none is left to train on",
            fix="add a case, or cut this one into two",
        )
    if folds is None:
        folds = min(DEFAULT_FOLDS, max(2, len(ids)))
    if folds < 2:
        raise ConfigError(f"{folds} folds leave nothing to train on", where="--folds", fix="use 2 or more")
    if folds > len(ids):
        raise ConfigError(f"{folds} folds for {len(ids)} cases", where="--folds", fix="use fewer folds")

    def rank(case_id: str) -> bytes:
        return hashlib.sha256(f"{seed}:{case_id}".encode(errors="surrogateescape")).digest()

    dealt = sorted(ids, key=rank)
    return Split(seed=seed, folds=tuple(tuple(sorted(dealt[fold::folds])) for fold in range(folds)))
