"""Reading and writing the small documents of a run: typed, strict, with errors that help."""

from __future__ import annotations

import os
import reprlib
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from medseg.errors import ConfigError, did_you_mean, explain_os_errors
from medseg.files import read_json, write_text

__all__ = ["load_json", "load_yaml", "parse", "read_yaml", "save_json", "save_yaml", "yaml_keys"]

Document = TypeVar("Document", bound=BaseModel)


def parse(kind: type[Document], content: Any, where: str | os.PathLike[str]) -> Document:
    """Check ``content`` against the document type ``kind``.

    Raises:
        ConfigError: The first thing that is wrong; a misspelt key comes with the nearest one that exists.
    """
    if not isinstance(content, dict):
        raise ConfigError("does not hold keys and values", where=where, fix="write 'key: value' lines")
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        # A misspelt key often leaves another one missing: the misspelling is what helps.
        first = min(error.errors(), key=lambda item: item["type"] != "extra_forbidden")
        location = [part for part in first["loc"] if part != "__root__"]
        name = ".".join(str(part) for part in location)
        if first["type"] == "extra_forbidden":
            known = _fields_at(kind, location[:-1])
            what, fix = f"unknown key '{name}'", did_you_mean(str(location[-1]), known)
        elif first["type"] == "missing":
            what, fix = f"key '{name}' is missing", "add it"
        else:
            message = first["msg"].removeprefix("Value error, ")
            given = "" if isinstance(first["input"], dict) else f" (given: {reprlib.repr(first['input'])})"
            what, fix = (f"key '{name}': " if name else "") + message + given, "correct it"
        raise ConfigError(what, where=where, fix=fix) from None


def _fields_at(kind: type[BaseModel], location: list[int | str]) -> list[str]:
    model: Any = kind
    for part in location:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        candidates = [annotation, *get_args(annotation)]
        model = next(item for item in candidates if isinstance(item, type) and issubclass(item, BaseModel))
    return list(model.model_fields)


class _PlainLoader(yaml.SafeLoader):
    """Plain data in which each thing is written once.

    Aliases of aliases fill any memory from a few lines, and of a key given twice one value would be lost.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise ComposerError(None, None, "aliases are not allowed", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if (name := str(key.value)) in seen:
                raise ConstructorError(None, None, f"key '{name}' is given twice", key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


def load_yaml(kind: type[Document], path: str | os.PathLike[str]) -> Document:
    """Read a YAML document (only plain data: no tags, no code).

    Raises:
        InputError: The file cannot be read.
        ConfigError: It is not YAML, or does not fit ``kind``.
    """
    return parse(kind, read_yaml(path), path)


def yaml_keys(path: str | os.PathLike[str]) -> frozenset[str]:
    """The keys of a YAML document's first level, by which its kind is told; errors as ``load_yaml``'s."""
    content = read_yaml(path)
    return frozenset(map(str, content)) if isinstance(content, dict) else frozenset()


def read_yaml(path: str | os.PathLike[str]) -> Any:
    """Read plain data from a YAML file, whatever it is.

    Raises:
        InputError: The file cannot be read.
        ConfigError: It is not YAML.
    """
    with explain_os_errors(path):
        text = Path(path).read_bytes()
    try:
        return yaml.load(text, Loader=_PlainLoader)  # a SafeLoader
    except RecursionError:
        raise ConfigError("is nested too deeply", where=path, fix="correct the file") from None
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", "")
        place = "" if mark is None else f" (line {mark.line + 1}: {problem})"
        raise ConfigError(f"is not valid YAML{place}", where=path, fix="correct the file") from error


def load_json(kind: type[Document], path: str | os.PathLike[str]) -> Document:
    """Read a JSON document; errors as ``load_yaml``'s."""
    return parse(kind, read_json(path), path)


def save_yaml(document: BaseModel, path: str | os.PathLike[str]) -> None:
    """Write a document as YAML, atomically, keys in the order of the model."""
    content = document.model_dump(mode="json")
    write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), path)


def save_json(document: BaseModel, path: str | os.PathLike[str]) -> None:
    """Write a document as indented JSON, atomically."""
    write_text(document.model_dump_json(indent=2) + "\n", path)
