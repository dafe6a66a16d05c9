"""``medseg plan``: what the data decides, before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medseg.cli.console import DebugOption, JsonOption, QuietOption, bars, print_table, status

__all__ = ["command"]


def command(
    data: Annotated[str, typer.Option(help="Name of a data set, folder with a dataset.json, or datalist.")],
    out: Annotated[Path, typer.Option(help="Where the plan goes, a .json file.")],
    recipe: Annotated[str, typer.Option(help="Recipe: a name, or a .yaml file.")] = "unet",
    as_json: JsonOption = False,
    quiet: QuietOption = False,  # noqa: ARG001
    debug: DebugOption = False,  # noqa: ARG001
) -> None:
    """Read a training set, decide spacing, normalisation, patch and network, and say why.

    Beside the plan goes a picture of the data and of the patch, plan.png.

    Example: medseg plan --data Task04_Hippocampus --out plan.json
    """
    from medseg.data import load_dataset
    from medseg.runs import load_recipe
    from medseg.runs.documents import save_json
    from medseg.training import draw_plan, plan_from_dataset

    chosen = load_recipe(recipe)
    with bars() as progress:
        dataset = load_dataset(data, labelled=chosen.pretrain is None)
        plan = plan_from_dataset(dataset, chosen, progress)
    save_json(plan, out)
    picture = out.with_suffix(".png")
    drawn = draw_plan(plan, dataset, picture)
    if as_json:
        print(plan.model_dump_json(indent=2))
        return
    facts = plan.fingerprint
    rows = [
        ["cases", str(facts.cases), f"median shape {_times(facts.median_shape)}"],
        ["labels", str(len(plan.labels) - 1), ", ".join(plan.labels.names[1:]) or "pretraining needs none"],
        ["spacing", f"{_times(plan.preprocessing.spacing_mm or ())} mm", plan.reasons["spacing_mm"]],
        *(
            [f"{name} intensities", channel.scheme, plan.reasons[f"normalization of {name}"]]
            for name, channel in zip(plan.channel_names, plan.preprocessing.normalization, strict=True)
        ),
        ["patch", _times(plan.patch_size), plan.reasons["patch_size"]],
        ["batch", str(plan.batch_size), plan.reasons.get("batch_size", "given by the recipe")],
        ["network", plan.network.name, plan.reasons["network"]],
    ]
    if plan.class_sampling:
        rows.append(["classes", _shares(plan.class_sampling), plan.reasons["class_sampling"]])
    if plan.inference_mode is not None:
        rows.append(["inference", plan.inference_mode, plan.reasons["inference_mode"]])
    print_table(f"Plan for {plan.dataset}", ["", "decision", "why"], rows, text_columns=(0, 2))
    written = f"{out} and {picture}" if drawn else f"{out}; pip install 'medseg[report]' for a picture"
    status(f"Written to {written}")


def _times(values: tuple[float, ...]) -> str:
    return " x ".join(f"{value:.4g}" for value in values)


def _shares(values: tuple[float, ...]) -> str:
    low, high = (f"{value:.3g}" for value in (min(values), max(values)))
    return f"{low} each" if low == high else f"{low} to {high}"
