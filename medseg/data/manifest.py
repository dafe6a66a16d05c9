"""The catalogue of public datasets: ``data_manifest.json``, its schema, and where fetched data lives."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

import medseg
from medseg.errors import ConfigError, InputError, did_you_mean
from medseg.files import read_json

__all__ = ["Checksum", "DatasetEntry", "Manifest", "data_home", "load_manifest", "manifest_path"]

_HEX_DIGITS = {"md5": 32, "sha256": 64}


class Checksum(BaseModel):
    """A digest of the archive's bytes.

    Attributes:
        algorithm: The hash.
        value: Lower-case hexadecimal digits.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    algorithm: Literal["md5", "sha256"]
    value: Annotated[str, Field(pattern="^[0-9a-f]+$")]

    @model_validator(mode="after")
    def _length(self) -> Self:
        if len(self.value) != _HEX_DIGITS[self.algorithm]:
            raise ValueError(f"{self.algorithm} has {_HEX_DIGITS[self.algorithm]} hexadecimal digits")
        return self

    def hasher(self) -> hashlib._Hash:
        """A fresh hash object of this algorithm."""
        return hashlib.new(self.algorithm, usedforsecurity=False)


class DatasetEntry(BaseModel):
    """One dataset of the catalogue.

    Attributes:
        name: What the command line calls it; also the folder that its archive unpacks to.
        title: What it shows, for people.
        task: What is to be segmented.
        modality: ``"CT"`` or ``"MR"``.
        channels: Names of the image channels, in order.
        labels: ``{value: name}``, background included.
        licence: SPDX identifier.
        citation: Where it is described.
        layout: ``"msd"`` or ``"nnunet"`` for archives, ``"generated"`` for what medseg draws itself.
        training_cases: Labelled cases; ``None`` where not known.
        test_cases: Cases without public labels; ``None`` where not known.
        url: The archive (http or https); ``None`` for generated data.
        size_bytes: Size of the archive; ``None`` where not known.
        checksum: Digest of the archive; ``None`` for generated data only.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
    title: str
    task: str
    modality: Literal["CT", "MR"]
    channels: tuple[str, ...]
    labels: dict[int, str]
    licence: str
    citation: str | None = None
    layout: Literal["msd", "nnunet", "generated"]
    training_cases: int | None = None
    test_cases: int | None = None
    url: Annotated[str | None, Field(pattern=r"^https?://")] = None
    size_bytes: Annotated[int | None, Field(gt=0)] = None
    checksum: Checksum | None = None

    @model_validator(mode="after")
    def _archive_is_verifiable(self) -> Self:
        if self.layout != "generated" and (self.url is None or self.checksum is None):
            raise ValueError("an archive needs a url and a checksum")
        if self.layout == "generated" and self.url is not None:
            raise ValueError("generated data has no url")
        return self


class Manifest(BaseModel):
    """The catalogue.

    Attributes:
        schema_version: Version of the file's form.
        datasets: The entries; names are unique.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1]
    datasets: tuple[DatasetEntry, ...]

    @model_validator(mode="after")
    def _unique_names(self) -> Self:
        names = [entry.name.lower() for entry in self.datasets]
        if len(set(names)) != len(names):
            raise ValueError("two datasets have the same name")
        return self

    def names(self) -> tuple[str, ...]:
        """All names, in the file's order."""
        return tuple(entry.name for entry in self.datasets)

    def entry(self, name: str) -> DatasetEntry:
        """The dataset called ``name``, in any case of letters.

        Raises:
            ConfigError: There is none; the error suggests the nearest.

        Example:
            >>> load_manifest().entry("task04_hippocampus").labels[1]
            'Anterior'
        """
        for entry in self.datasets:
            if entry.name.lower() == name.lower():
                return entry
        raise ConfigError(f"unknown dataset '{name}'", fix=did_you_mean(name, self.names()))


def manifest_path() -> Path:
    """Where ``data_manifest.json`` lies: inside an installed package, or above it in a source checkout.

    Raises:
        InputError: It is in neither place.
    """
    package = Path(medseg.__file__).parent
    for candidate in (package / "data_manifest.json", package.parent / "data_manifest.json"):
        if candidate.is_file():
            return candidate
    raise InputError("does not exist", where=package / "data_manifest.json", fix="reinstall medseg")


def load_manifest(path: str | os.PathLike[str] | None = None) -> Manifest:
    """Read and check the catalogue.

    Args:
        path: A catalogue of your own; medseg's by default.

    Raises:
        InputError: The file is missing, malformed, or does not follow the schema.
    """
    source = manifest_path() if path is None else Path(path)
    try:
        return Manifest.model_validate(read_json(source))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise InputError(
            f"{place}: {first['msg']}", where=source, fix="see medseg.data.manifest for the schema"
        ) from error


def data_home() -> Path:
    """The folder in which datasets are found by name.

    ``MEDSEG_DATA`` where it is set, else ``~/.medseg/data``.
    """
    chosen = os.environ.get("MEDSEG_DATA")
    return Path(chosen) if chosen else Path.home() / ".medseg" / "data"
