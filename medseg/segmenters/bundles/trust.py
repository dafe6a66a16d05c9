"""What a foreign bundle would execute, found without executing any of it.

MONAI's configuration language evaluates strings that begin with ``$``, calls whatever ``_target_`` names, and
takes in other files by ``%``. Strings and names are looked at as they stand in the document; each name is
looked up in the installed packages alone, and passes only if it is a class that is known to do nothing but
compute.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from importlib import import_module
from typing import Any

from medseg.errors import BundleError
from medseg.runs.bundle import BundleFolder

__all__ = ["located", "referred", "require_trust", "without_side_effects"]

TARGET = "_target_"
_MODE = "_mode_"
_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_REFERENCE = re.compile(r"@(?:#|::)*(\w+)")
_LISTED = 200
_PREFIXES = ("monai.", "torch.nn.", "medseg.")

# Of MONAI not every class is harmless: some fetch weights from an address and unpickle them, some run
# commands, read or write files. Those here compute, and nothing else.
_NETWORKS = {
    "AttentionUnet", "BasicUNet", "BasicUNetPlusPlus", "DiNTS", "DynUNet", "HighResNet", "MedNeXt",
    "SegResNet", "SegResNetDS", "SegResNetDS2", "SegResNetVAE", "SwinUNETR", "TopologyInstance", "UNETR",
    "UNet", "VNet",
}  # fmt: skip
_INFERERS = {"SimpleInferer", "SliceInferer", "SlidingWindowInferer", "SlidingWindowInfererAdapt"}
_TRANSFORMS = {
    "Activations", "AdjustContrast", "AsDiscrete", "BorderPad", "CastToType", "CenterSpatialCrop",
    "ClipIntensityPercentiles", "ConcatItems", "CopyItems", "CropForeground", "DeleteItems", "DivisiblePad",
    "EnsureChannelFirst", "EnsureType", "FillHoles", "Flip", "GaussianSmooth", "HistogramNormalize",
    "Identity", "Invert", "KeepLargestConnectedComponent", "LabelFilter", "MeanEnsemble", "MedianSmooth",
    "NormalizeIntensity", "Orientation", "RemoveSmallObjects", "RepeatChannel", "Resize",
    "ResizeWithPadOrCrop", "Rotate90", "ScaleIntensity", "ScaleIntensityRange",
    "ScaleIntensityRangePercentiles", "SelectItems", "ShiftIntensity", "Spacing", "SpatialCrop",
    "SpatialPad", "SplitDim", "SqueezeDim", "ThresholdIntensity", "ToTensor", "Transpose", "VoteEnsemble",
    "Zoom",
}  # fmt: skip
_MONAI = {"Compose"} | _NETWORKS | _INFERERS | _TRANSFORMS | {f"{name}d" for name in _TRANSFORMS}


def require_trust(
    bundle: BundleFolder, config: Mapping[str, Any], used: Mapping[str, Any], left_out: Collection[str]
) -> None:
    """Refuse a bundle that would execute something of its own, naming all of it.

    Args:
        bundle: The bundle.
        config: Its whole configuration, in which no expression may stand: MONAI evaluates imports wherever
            they are.
        used: The part that objects are made of.
        left_out: Places in it that no object is made of.

    Raises:
        BundleError: It would; the error lists everything.
    """
    places = [*_code(config), *_foreign(used)]
    found = [what for place, what in places if not any(f"{place}#".startswith(f"{p}#") for p in left_out)]
    if not found:
        return
    if any("scripts" in entry for entry in found):
        found += [f"file {name!r}" for name in bundle.scripts()]
    found = list(dict.fromkeys(found))
    more = f", and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    raise BundleError(
        f"would execute code of its own: {', '.join(found[:_LISTED])}{more}",
        where=bundle.name,
        fix="read it, and if you trust it, allow it by --trust (trust=True)",
    )


def referred(config: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """The entries of these names, and all that they refer to by ``@``: no other can be reached from them."""
    wanted, kept = list(names), {}
    while wanted:
        name = wanted.pop()
        if name in config and name not in kept:
            kept[name] = config[name]
            for _, _, text in _strings(config[name], name):
                wanted += _REFERENCE.findall(text)
    return kept


def located(target: str) -> Any:
    """What a name stands for in MONAI, PyTorch's ``nn`` or medseg; ``None`` of any other name."""
    if "." not in target:
        modules = _locator().get_component_module_name(target)
        if modules is None:
            return None
        target = f"{modules if isinstance(modules, str) else modules[0]}.{target}"
    if not target.startswith(_PREFIXES):
        return None
    found, parts = None, target.split(".")
    if any(part.startswith("_") for part in parts):  # a package's __main__ runs when it is imported
        return None
    for count in range(1, len(parts) + 1):
        name = ".".join(parts[:count])
        try:
            found = import_module(name) if found is None or hasattr(found, "__path__") else None
        except ImportError:
            found = None
        if found is None:
            return _attribute(".".join(parts[: count - 1]), parts[count - 1 :])
    return found


@cache
def _locator() -> Any:
    """Finds MONAI's classes by their names alone, as its configurations call them."""
    from monai.bundle.config_item import ComponentLocator

    return ComponentLocator()


def _attribute(module: str, names: list[str]) -> Any:
    found: Any = import_module(module)
    for name in names:
        found = getattr(found, name, None)
    return found


def without_side_effects(found: Any) -> bool:
    """Whether making an object of it does nothing but compute, whatever the arguments."""
    if not isinstance(found, type):
        return False
    if found.__module__.startswith("monai."):
        return found.__name__ in _MONAI
    from monai.inferers import Inferer
    from monai.transforms import Transform
    from torch import nn

    if found.__module__.startswith("torch.nn.modules."):
        return issubclass(found, nn.Module)
    return found.__module__.startswith("medseg.") and issubclass(found, nn.Module | Inferer | Transform)


def _code(config: Any) -> Iterator[tuple[str, str]]:
    """Places of expressions, of files taken in, and of names from elsewhere, and what is told of each."""
    for place, key, text in _strings(config):
        if text.startswith("$"):
            yield place, f"{place}: {text!r}"
        elif text.startswith("%"):
            yield place, f"{place}: takes in {text!r}"
        elif key == TARGET and not _is_known_package(text):
            yield place, f"{place}: calls {text!r}"
        elif key == _MODE and text not in ("default", "callable"):
            yield place, f"{place}: {text!r}"


def _is_known_package(target: str) -> bool:
    """Whether a name is one, and not of a package that nothing is taken from."""
    return _NAME.fullmatch(target) is not None and ("." not in target or target.startswith(_PREFIXES))


def _foreign(used: Any) -> Iterator[tuple[str, str]]:
    """Places of names in what is used that are not known to be harmless, and what is told of each."""
    for place, key, text in _strings(used):
        if key == TARGET and _NAME.fullmatch(text) and not without_side_effects(located(text)):
            yield place, f"{place}: calls {text!r}"
    for place, target in _targets_that_are_no_text(used):
        yield place, f"{place}: calls {target!r}"


def _strings(config: Any, place: str = "", key: str = "") -> Iterator[tuple[str, str, str]]:
    """Each text in a document, with its place and the key that it stands under."""
    if isinstance(config, str):
        yield place, key, config
    elif isinstance(config, Mapping):
        for name, value in config.items():
            yield from _strings(value, f"{place}#{name}".lstrip("#"), str(name))
    elif isinstance(config, list | tuple):
        for index, value in enumerate(config):
            yield from _strings(value, f"{place}#{index}")


def _targets_that_are_no_text(config: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(config, Mapping):
        for name, value in config.items():
            if name == TARGET and not isinstance(value, str):
                yield f"{place}#{name}".lstrip("#"), value
            yield from _targets_that_are_no_text(value, f"{place}#{name}".lstrip("#"))
    elif isinstance(config, list | tuple):
        for index, value in enumerate(config):
            yield from _targets_that_are_no_text(value, f"{place}#{index}")
