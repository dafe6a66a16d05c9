"""``medseg inspect``: what a network has, needs and sees; what a folder of DICOM files holds."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medseg.cli.console import DebugOption, JsonOption, TrustOption, print_json, print_table
from medseg.cli.inspect_dicom import show_dicom

if TYPE_CHECKING:
    from torch import nn

    from medseg.networks.summary import NetworkSummary

__all__ = ["command"]

_DEFAULT_SIZE = {2: 256, 3: 128}
_SIZES_TRIED = 64


def command(
    what: Annotated[
        str | None,
        typer.Argument(
            help="A network, a paper's configuration of one, the folder of a run, a MONAI bundle, nnU-Net's "
            "folder with plans.json, or a folder of DICOM files."
        ),
    ] = None,
    compare_all: Annotated[bool, typer.Option("--all", help="Compare all registered networks.")] = False,
    shape: Annotated[
        str | None, typer.Option(help="Voxels per axis, as 128,128,128; a run's is its patch.")
    ] = None,
    spatial_dims: Annotated[int | None, typer.Option(help="2 or 3.")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(help="An option of the network as NAME=VALUE, the value in JSON; may be repeated."),
    ] = None,
    image: Annotated[
        Path | None,
        typer.Option("--input", help="An image: show how the run's network would go through it."),
    ] = None,
    mode: Annotated[str | None, typer.Option(help="With --input: as for predict.")] = None,
    precision: Annotated[str, typer.Option(help="With --input: as for predict.")] = "float32",
    max_ram: Annotated[str | None, typer.Option(help="With --input: as for predict.")] = None,
    trust: TrustOption = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,  # noqa: ARG001
) -> None:
    """Show a network's layers, parameters, multiply-adds, memory and receptive field.

    Nothing is computed, so that no network and no shape is too large.

    Of DICOM files, show the volumes that they make, and for each whether its geometry can be trusted.

    Example: medseg inspect unet --shape 96,96,64 --option norm=instance --option features=16,32,64

    Example: medseg inspect fcn8s

    Example: medseg inspect runs/hippocampus

    Example: medseg inspect --all --spatial-dims 2

    Example: medseg inspect runs/chest --input ct.nii.gz --max-ram 4GB

    Example: medseg inspect archive/patient_12
    """
    from medseg.errors import ConfigError

    if compare_all == (what is not None):
        raise ConfigError("nothing to inspect, or two things", fix="give one name or folder, or --all")
    if image is not None:
        _show_plan(what, image, as_json, mode=mode, precision=precision, max_ram=max_ram, trust=trust)
        return
    if what is not None and _may_be_dicom(what):
        show_dicom(Path(what), as_json)
        return
    options = dict(_parsed_option(text) for text in option or ())
    size = None if shape is None else _parsed_shape(shape)
    if spatial_dims is not None or (size is not None and what is None):
        options["spatial_dims"] = spatial_dims or len(size or ())
    if what is None:
        _show_all(options, size, as_json)
        return
    network, own_size = _network(what, options, size, trust=trust)
    summary = _summary(network, size or own_size)
    if as_json:
        print_json({"network": what, **asdict(summary)})
    else:
        _show_one(what, summary)


def _may_be_dicom(what: str) -> bool:
    """Whether a name is that of a file, or of a folder that holds no run."""
    from medseg.runs.bundle import is_bundle
    from medseg.runs.nnunet import NnunetFolder

    path = Path(what)
    if not path.exists() or (path / "plan.json").is_file() or is_bundle(path) or NnunetFolder.is_one(path):
        return False
    if not what.isidentifier():
        return True
    # Where a folder is called as a network is, the network is meant. Asking takes PyTorch's import.
    from medseg.networks import configurations, network_names

    return what not in network_names() and what not in configurations()


def _show_plan(
    what: str | None,
    image: Path,
    as_json: bool,
    *,
    mode: str | None,
    precision: str,
    max_ram: str | None,
    trust: bool,
) -> None:
    """How a run's networks would go through an image, and the memory that takes."""
    from medseg.errors import ConfigError
    from medseg.io.sizes import parse_bytes
    from medseg.segmenters import load_segmenter, open_image

    if what is None:
        raise ConfigError("an image alone says nothing", where="--input", fix="name the folder of a run too")
    limit = None if max_ram is None else parse_bytes(max_ram, "--max-ram")
    segmenter = load_segmenter(what, precision=precision, mode=mode, max_ram_bytes=limit, trust=trust)
    with open_image(image, segmenter.channel_names) as opened:
        plan = segmenter.plan(opened)
    if as_json:
        print_json(plan.as_dict())
    else:
        print(plan)


def _network(
    what: str, options: dict[str, Any], size: tuple[int, ...] | None, *, trust: bool
) -> tuple[nn.Module, tuple[int, ...] | None]:
    """The network on the meta device, and the size that it is meant for if there is one."""
    from medseg.errors import ConfigError, did_you_mean
    from medseg.networks import configurations, network_names
    from medseg.runs import RunFolder
    from medseg.segmenters.foreign import foreign_network

    if what in network_names():
        dims = {"spatial_dims": len(size)} if size is not None else {}
        return _built(what, {**dims, **options}), None
    papers = configurations()
    if what in papers:
        name, own = papers[what]
        return _built(name, {**own, **options}), None
    if (found := foreign_network(what, trust=trust)) is not None:
        if options:
            raise ConfigError("the network's options are its own", where="--option", fix="leave them out")
        return found
    if Path(what).is_dir():
        plan = RunFolder.open(what).plan()
        return _built(plan.network.name, {**plan.network.options, **options}), plan.patch_size
    raise ConfigError(
        f"'{what}' is no network, no configuration and no folder of a run",
        fix=did_you_mean(what, {*network_names(), *papers}),
    )


def _built(name: str, options: dict[str, Any]) -> nn.Module:
    import torch

    from medseg.networks import build_network

    with torch.device("meta"):
        return build_network(name, **options)


def _summary(network: nn.Module, size: tuple[int, ...] | None) -> NetworkSummary:
    from medseg.errors import ConfigError
    from medseg.networks import summarize
    from medseg.networks.receptive_fields import input_channels

    dims = int(getattr(network, "spatial_dims", 3))
    if size is None:
        return _summary_at_a_size_that_fits(network, dims)
    if len(size) != dims:
        raise ConfigError(
            f"{len(size)} numbers for a network of {dims} axes", where="--shape", fix=f"give {dims}"
        )
    return summarize(network, (1, input_channels(network), *size))


def _summary_at_a_size_that_fits(network: nn.Module, dims: int) -> NetworkSummary:
    """With valid convolutions few sizes fit, and the usual one may not be one of them."""
    from medseg.errors import InputError
    from medseg.networks import summarize
    from medseg.networks.receptive_fields import input_channels

    refusals: list[InputError] = []
    usual = _DEFAULT_SIZE[dims]
    for length in range(usual, usual + _SIZES_TRIED):
        try:
            return summarize(network, (1, input_channels(network), *(length,) * dims))
        except InputError as error:
            refusals.append(error)
    raise refusals[0]


def _show_one(what: str, summary: NetworkSummary) -> None:
    rows = [
        [
            layer.name,
            layer.kind.replace("_", " "),
            _times(layer.kernel_size),
            _times(layer.stride),
            _times(layer.shape[1:]),
            f"{layer.parameters:,}" if layer.parameters else "",
            _times(layer.receptive_field) or "whole image",
        ]
        for layer in summary.layers
    ]
    columns = ["layer", "kind", "kernel", "stride", "output", "parameters", "receptive field"]
    print_table(f"{what}, input {_times(summary.shape[1:])}", columns, rows, text_columns=(0, 1))
    frozen = summary.parameters - summary.trainable_parameters
    totals = [
        ["parameters", f"{summary.parameters:,}" + (f", of which {frozen:,} are fixed" if frozen else "")],
        *_figures(summary),
        ["halo", _times(summary.halo) or "whole image"],
        ["looks at the whole image", ", ".join(summary.whole_layers) or "no layer"],
    ]
    print_table("In all", ["", ""], totals, text_columns=(0, 1))


def _figures(summary: NetworkSummary) -> list[list[str]]:
    from medseg.io.sizes import format_bytes

    return [
        ["multiply-adds", f"{summary.multiply_adds / 1e9:,.4g} G"],
        ["activations, evaluation", format_bytes(summary.peak_bytes)],
        ["activations, training", format_bytes(summary.training_bytes)],
        ["receptive field", _times(summary.receptive_field) or "whole image"],
        ["stride", _times(summary.total_stride)],
    ]


def _show_all(options: dict[str, Any], size: tuple[int, ...] | None, as_json: bool) -> None:
    from medseg.cli.console import bars
    from medseg.networks import network_names

    found: dict[str, NetworkSummary] = {}
    with bars() as progress, progress.task("networks", len(network_names())) as advance:
        for name in network_names():
            found[name] = _summary(_built(name, options), size)
            advance(1)
    if as_json:
        print_json([{"network": name, **_without_layers(summary)} for name, summary in found.items()])
        return
    rows = [
        [
            name,
            f"{summary.parameters:,}",
            *(value for _, value in _figures(summary)),
            f"no: {summary.whole_layers[0]}" if summary.whole_layers else "yes",
        ]
        for name, summary in found.items()
    ]
    first = next(iter(found.values()))
    columns = ["network", "parameters", *(key for key, _ in _figures(first)), "local"]
    print_table(f"All networks, input {_times(first.shape[1:])}", columns, rows, text_columns=(0, 7))


def _without_layers(summary: NetworkSummary) -> dict[str, Any]:
    return {key: value for key, value in asdict(summary).items() if key != "layers"}


def _parsed_option(text: str) -> tuple[str, Any]:
    from medseg.errors import ConfigError

    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ConfigError(f"'{text}' is no NAME=VALUE", where="--option", fix="write it as features=16,32")
    # Brackets and quotes are a nuisance in a shell: numbers with commas are a list, a word alone is text.
    for written in (value, f"[{value}]"):
        try:
            return name, json.loads(written)
        except ValueError:
            continue
    return name, value


def _parsed_shape(text: str) -> tuple[int, ...]:
    from medseg.errors import ConfigError

    parts = text.replace("x", ",").split(",")
    if len(parts) not in _DEFAULT_SIZE or not all(
        part.strip().isdecimal() and int(part) > 0 for part in parts
    ):
        raise ConfigError(f"'{text}' is no shape", where="--shape", fix="write it as 128,128,128")
    return tuple(int(part) for part in parts)


def _times(numbers: tuple[int, ...] | None) -> str:
    return " x ".join(str(number) for number in numbers or ())
