"""The objects that a foreign bundle is configured with."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from medseg.errors import BundleError
from medseg.runs.bundle import BundleFolder
from medseg.segmenters.bundles.trust import TARGET, referred, require_trust

__all__ = ["Configured", "configured"]

_NETWORK, _PREPROCESSING, _INFERER, _POSTPROCESSING = (
    ("network_def", "network"), "preprocessing", "inferer", "postprocessing",
)  # fmt: skip
_FILES = {"LoadImage", "SaveImage"}
_ROOT = "bundle_root"
_SCRIPTS = "scripts"
# Configurations are written by people, and evaluate what they like where they are trusted.
_FAILURES = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError, OSError,
    RuntimeError, SyntaxError, TypeError, ValueError,
)  # fmt: skip


@dataclass(frozen=True)
class Configured:
    """What a bundle's ``configs/inference`` makes of an image, reading and writing files left out.

    Attributes:
        network: With the weights that its constructor gave it.
        preprocessing: MONAI's ``Compose`` of dictionary transforms, for the key ``image``.
        inferer: Called ``(inputs, network)``.
        postprocessing: Dictionary transforms in order, for the key ``pred``.
    """

    network: nn.Module
    preprocessing: Any
    inferer: Any
    postprocessing: tuple[Any, ...]


def configured(bundle: BundleFolder, *, trust: bool) -> Configured:
    """Make the network and what stands around it, as the bundle says.

    Args:
        bundle: The bundle.
        trust: Whether it may execute code of its own. If not, and it would, nothing at all is made.

    Raises:
        BundleError: It would execute code, cannot be made, or lacks a part.
    """
    config = bundle.inference()
    network = next((name for name in _NETWORK if name in config), None)
    missing = [name for name in (_PREPROCESSING, _INFERER) if name not in config]
    if network is None or missing:
        raise BundleError(
            f"configs/inference says nothing of '{missing[0] if missing else _NETWORK[0]}'",
            where=bundle.name,
            fix="name it as MONAI's model zoo does",
        )
    parts = tuple(name for name in (network, _PREPROCESSING, _INFERER, _POSTPROCESSING) if name in config)
    if not trust:
        require_trust(bundle, config, referred(config, parts), _of_files(config, parts))
    config = {name: _without_files(value) if name in parts else value for name, value in config.items()}
    used = referred(config, parts)
    with _explained(bundle), _scripts_of(bundle, trust=trust):
        made = _made(config | {_ROOT: str(bundle.path)} if trust else used, parts, bundle, trust=trust)
    if not isinstance(made[network], nn.Module) or not callable(made[_INFERER]):
        what = "configs/inference does not configure a network and an inferer"
        raise BundleError(what, where=bundle.name, fix="correct it")
    return Configured(
        made[network],
        _composed(made[_PREPROCESSING]),
        made[_INFERER],
        tuple(_without_file_objects(made.get(_POSTPROCESSING))),
    )


def _made(
    config: Mapping[str, Any], parts: tuple[str, ...], bundle: BundleFolder, *, trust: bool
) -> dict[str, Any]:
    from monai.bundle import ConfigParser

    content = dict(config)
    metadata = bundle.metadata()
    if trust and metadata is not None:
        content[ConfigParser.meta_key] = metadata
    with warnings.catch_warnings(action="ignore"):
        parser = ConfigParser(content)
        return {name: parser.get_parsed_content(name) for name in parts}


def _without_files(part: Any) -> Any:
    """A part of the configuration without the transforms that read and write files."""
    if not isinstance(part, Mapping) or not isinstance(part.get("transforms"), list):
        return part
    return {**part, "transforms": [entry for entry in part["transforms"] if not _is_of_files(entry)]}


def _of_files(config: Mapping[str, Any], parts: tuple[str, ...]) -> list[str]:
    """Where the transforms stand that ``_without_files`` leaves out."""
    return [
        f"{name}#transforms#{index}"
        for name in parts
        if _without_files(config[name]) is not config[name]
        for index, entry in enumerate(config[name]["transforms"])
        if _is_of_files(entry)
    ]


def _is_of_files(entry: Any) -> bool:
    target = entry.get(TARGET) if isinstance(entry, Mapping) else None
    if not isinstance(target, str):
        return False
    name = target.rpartition(".")[2]
    return name.removesuffix("D").removesuffix("Dict").removesuffix("d") in _FILES


def _composed(preprocessing: Any) -> Any:
    from monai.transforms import Compose

    kept = _without_file_objects(preprocessing)
    if len(kept) == len(_transforms(preprocessing)) and isinstance(preprocessing, Compose):
        return preprocessing
    return Compose(kept)


def _without_file_objects(composed: Any) -> list[Any]:
    return [entry for entry in _transforms(composed) if not _is_of_files({TARGET: type(entry).__name__})]


def _transforms(composed: Any) -> tuple[Any, ...]:
    if composed is None:
        return ()
    inner = getattr(composed, "transforms", composed)
    return tuple(inner) if isinstance(inner, list | tuple) else (inner,)


@contextmanager
def _explained(bundle: BundleFolder) -> Iterator[None]:
    try:
        yield
    except _FAILURES as error:
        cause = error.__cause__ or error
        reason = str(cause).strip().partition("\n")[0]
        raise BundleError(
            f"configs/inference cannot be made ({type(cause).__name__}: {reason})",
            where=bundle.name,
            fix="correct it, or install what it needs",
        ) from error


@contextmanager
def _scripts_of(bundle: BundleFolder, *, trust: bool) -> Iterator[None]:
    """Let a trusted bundle import its own ``scripts``, and not those of another bundle."""
    if not trust:
        yield
        return
    sys.path.insert(0, str(bundle.path))
    others = _forget_scripts()
    try:
        yield
    finally:
        sys.path.remove(str(bundle.path))
        _forget_scripts()
        sys.modules.update(others)


def _forget_scripts() -> dict[str, Any]:
    names = [name for name in sys.modules if name.partition(".")[0] == _SCRIPTS]
    return {name: sys.modules.pop(name) for name in names}
