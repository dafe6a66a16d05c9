"""The Python files of a bundle: the network's own source, its loss's, and what MONAI has no transform for."""

from __future__ import annotations

import importlib.util
import inspect
import re
from pathlib import Path
from typing import Any

from medseg.bundle import carried
from medseg.bundle.content import BundleContent
from medseg.files import write_text
from medseg.registry import LOSSES, NETWORKS
from medseg.runs import Plan
from medseg.training.parts import loss_options

__all__ = ["carries_loss", "loss_definition", "network_definition", "write_scripts"]

_PACKAGE = "medseg.networks"
_CARRIED_PACKAGE = "scripts.networks"
_CARRIED_FILES = ("__init__", "cases", "mirroring", "postprocessing", "preprocessing", "writing")
_MONAI_LOSSES = {"dice": "DiceLoss", "dice_ce": "DiceCELoss"}
_MONAI_OPTIONS = {
    *("softmax", "to_onehot_y", "include_background"),
    *("batch", "smooth_nr", "smooth_dr", "squared_pred"),
}
"""Options under which MONAI's losses of the same name are medseg's to the last digits."""

_OF_LOSSES = ("medseg.errors", "medseg.processes")
_INIT = '"""The network that this bundle holds, as medseg has it."""\n'
_LOSSES_INIT = '"""Losses, as medseg has them."""\n'
_RENAMED = {
    "medseg.networks.": "scripts.networks.",
    "medseg.losses import": "scripts.losses.modules import",
    "medseg.losses.": "scripts.losses.",
    "medseg.bundle.carried": "scripts",
    **{module: module.replace("medseg", "scripts") for module in _OF_LOSSES},
}
"""Modules as they are called within the bundle."""

_IMPORT = re.compile(r"^\s*(?:from|import)\s+medseg\b", re.MULTILINE)


def network_definition(plan: Plan) -> dict[str, Any]:
    """The plan's network as MONAI's configs have it: a ``_target_`` within the bundle, and its arguments.

    Example:
        >>> from types import SimpleNamespace
        >>> network = SimpleNamespace(name="unet", options={"features": (8, 16)})
        >>> network_definition(SimpleNamespace(network=network))
        {'_target_': 'scripts.networks.unet.UNet', 'features': [8, 16]}
    """
    options = _plain(plan.network.options)
    crf = options.pop("crf", None)
    own = inspect.signature(NETWORKS.resolve(plan.network.name)).parameters
    context = None if "context" in own else options.pop("context", None)
    definition = {"_target_": _within(NETWORKS.entry(plan.network.name).target), **options}
    if context is not None:
        finest = (options.get("kernel_sizes") or [options.get("kernel_size", 3)])[0]
        wrapping = {"context": context, "kernel_size": finest}
        definition = {"_target_": f"{_CARRIED_PACKAGE}.blocks.WithContext", "network": definition, **wrapping}
    if crf is not None:
        definition = {"_target_": f"{_CARRIED_PACKAGE}.crf_rnn.WithCRF", "network": definition, **crf}
    return definition


def carries_loss(content: BundleContent) -> bool:
    """Whether the bundle holds the source of medseg's losses, since MONAI has not the one of the recipe."""
    options = loss_options(content.recipe, content.plan)
    return content.recipe.loss.name not in _MONAI_LOSSES or not options.keys() <= _MONAI_OPTIONS


def loss_definition(content: BundleContent) -> dict[str, Any]:
    """The recipe's loss as MONAI's configs have it: MONAI's own where that is the same, else medseg's."""
    name, options = content.recipe.loss.name, _plain(loss_options(content.recipe, content.plan))
    if not carries_loss(content):
        return {"_target_": _MONAI_LOSSES[name], **options}
    return {"_target_": _within(LOSSES.entry(name).target), **options}


def write_scripts(content: BundleContent, folder: Path) -> None:
    """Write the folder ``scripts`` of a bundle.

    Args:
        content: Whose network and loss it is.
        folder: ``scripts``; made here.
    """
    plan = content.plan
    modules = [NETWORKS.entry(plan.network.name).target.partition(":")[0]]
    if plan.network.options.get("crf") is not None:
        modules.append(f"{_PACKAGE}.crf_rnn")
    network = _source_of(modules[0])
    write_text(_INIT, folder / "networks" / "__init__.py")
    for source in map(_source_of, modules):
        write_text(_carried(source), folder / "networks" / source.name)
    for block in sorted((network.parent / "blocks").glob("*.py")):
        write_text(_carried(block), folder / "networks" / "blocks" / block.name)
    if carries_loss(content):
        _write_losses(folder)
    own = Path(inspect.getfile(carried)).parent
    for name in _CARRIED_FILES:
        write_text(_carried(own / f"{name}.py"), folder / f"{name}.py")


def _write_losses(folder: Path) -> None:
    losses = _source_of("medseg.losses").parent
    write_text(_LOSSES_INIT, folder / "losses" / "__init__.py")
    for source in sorted(losses.glob("*/*.py")):
        write_text(_carried(source), folder / "losses" / source.relative_to(losses))
    for source in map(_source_of, _OF_LOSSES):
        write_text(_carried(source), folder / source.name)


def _source_of(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(module)
    return Path(spec.origin)


def _carried(source: Path) -> str:
    """A file's text, with its imports as they are within the bundle."""
    text = source.read_text(encoding="utf-8")
    for here, there in _RENAMED.items():
        text = text.replace(here, there)
    if _IMPORT.search(text):  # a contract of the layers forbids it
        raise ImportError(f"{source} imports more of medseg than a bundle carries")
    return text


def _within(target: str) -> str:
    """What a registry calls ``module:class``, as configs call it within the bundle."""
    return target.replace(":", ".").replace("medseg.", "scripts.", 1)


def _plain(value: Any) -> Any:
    """Dictionaries, lists, numbers and text alone."""
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value
