"""The Python files of a bundle: the network's own source, and what MONAI has no transform for."""

from __future__ import annotations

import importlib.util
import inspect
import re
from pathlib import Path
from typing import Any

from medseg.bundle import carried
from medseg.files import write_text
from medseg.registry import NETWORKS
from medseg.runs import Plan

__all__ = ["network_definition", "write_scripts"]

_PACKAGE = "medseg.networks"
_CARRIED_PACKAGE = "scripts.networks"
_CARRIED_FILES = ("__init__", "cases", "mirroring", "postprocessing", "preprocessing", "writing")
_INIT = '"""The network that this bundle holds, as medseg has it."""\n'
_IMPORT = re.compile(r"^\s*(?:from|import)\s+medseg\b", re.MULTILINE)


def network_definition(plan: Plan) -> dict[str, Any]:
    """The plan's network as MONAI's configs have it: a ``_target_`` within the bundle, and its arguments.

    Example:
        >>> from types import SimpleNamespace
        >>> network = SimpleNamespace(name="unet", options={"features": (8, 16)})
        >>> network_definition(SimpleNamespace(network=network))
        {'_target_': 'scripts.networks.unet.UNet', 'features': [8, 16]}
    """
    target = NETWORKS.entry(plan.network.name).target
    module, _, kind = target.partition(":")
    options = _plain(plan.network.options)
    crf = options.pop("crf", None)
    own = inspect.signature(NETWORKS.resolve(plan.network.name)).parameters
    context = None if "context" in own else options.pop("context", None)
    definition = {"_target_": f"{module.replace(_PACKAGE, _CARRIED_PACKAGE)}.{kind}", **options}
    if context is not None:
        finest = (options.get("kernel_sizes") or [options.get("kernel_size", 3)])[0]
        wrapping = {"context": context, "kernel_size": finest}
        definition = {"_target_": f"{_CARRIED_PACKAGE}.blocks.WithContext", "network": definition, **wrapping}
    if crf is not None:
        definition = {"_target_": f"{_CARRIED_PACKAGE}.crf_rnn.WithCRF", "network": definition, **crf}
    return definition


def write_scripts(plan: Plan, folder: Path) -> None:
    """Write the folder ``scripts`` of a bundle.

    Args:
        plan: Whose network it is.
        folder: ``scripts``; made here.
    """
    modules = [NETWORKS.entry(plan.network.name).target.partition(":")[0]]
    if plan.network.options.get("crf") is not None:
        modules.append(f"{_PACKAGE}.crf_rnn")
    network = _source_of(modules[0])
    write_text(_INIT, folder / "networks" / "__init__.py")
    for source in map(_source_of, modules):
        write_text(_carried(source), folder / "networks" / source.name)
    for block in sorted((network.parent / "blocks").glob("*.py")):
        write_text(_carried(block), folder / "networks" / "blocks" / block.name)
    own = Path(inspect.getfile(carried)).parent
    for name in _CARRIED_FILES:
        write_text(_carried(own / f"{name}.py"), folder / f"{name}.py")


def _source_of(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(module)
    return Path(spec.origin)


def _carried(source: Path) -> str:
    """A file's text, with its imports as they are within the bundle."""
    text = source.read_text(encoding="utf-8").replace(f"{_PACKAGE}.", f"{_CARRIED_PACKAGE}.")
    text = text.replace("medseg.bundle.carried", "scripts")
    if _IMPORT.search(text):  # a contract of the layers forbids it
        raise ImportError(f"{source} imports more of medseg than a bundle carries")
    return text


def _plain(value: Any) -> Any:
    """Dictionaries, lists, numbers and text alone."""
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value
