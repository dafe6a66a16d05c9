"""``docs/README.md``: what the model is, what it was trained on, how well it does, and how it is run."""

from __future__ import annotations

from collections.abc import Sequence

from medseg import __version__
from medseg.bundle.content import BundleContent
from medseg.bundle.evaluation import Scores
from medseg.bundle.formats import FormatReport
from medseg.bundle.metadata import Statement
from medseg.bundle.verification import MARGIN, TOLERANCE, CaseAgreement

__all__ = ["model_card"]


def model_card(
    content: BundleContent,
    statement: Statement,
    scores: Scores,
    cases: Sequence[CaseAgreement],
    formats: Sequence[FormatReport],
) -> str:
    """The model card, as Markdown."""
    parts = [
        f"# {content.name}",
        _overview(content, statement),
        _data(content, statement),
        _training(content),
        _scores(scores),
        _running(content),
        _verification(cases),
        _formats(formats),
        _limits(content),
        f"## Licence\n\n{statement.license}, see LICENSE. Copyright: {statement.copyright}.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _overview(content: BundleContent, statement: Statement) -> str:
    labels = content.plan.labels
    rows = [f"| {entry.value} | {_cell(entry.name)} |" for entry in labels.classes]
    table = "\n".join(["| value | structure |", "|---|---|", *rows])
    members = "" if len(content.folds) == 1 else f", {len(content.folds)} folds averaged"
    return (
        f"A {content.plan.network.name}{members}, trained with medseg {__version__}. It takes "
        f"{', '.join(content.plan.channel_names)} and writes label maps on each image's own grid:\n\n"
        f"{table}\n\n"
        f"Authors: {statement.authors}. Intended use: {statement.intended_use}"
    )


def _data(content: BundleContent, statement: Statement) -> str:
    facts, plan = content.plan.fingerprint, content.plan
    return (
        "## Data\n\n"
        f"Planned on {facts.cases} cases of {plan.dataset}; each fold trained without those that validate "
        f"it. Median: {_by(facts.median_shape)} voxels of "
        f"{_by(facts.median_spacing_mm)} mm. Source: {statement.data_source}.\n\n"
        f"The network sees images in {plan.preprocessing.axcodes} orientation"
        + (
            ""
            if plan.preprocessing.spacing_mm is None
            else f", resampled to {_by(plan.preprocessing.spacing_mm)} mm"
        )
        + f"; intensities: {_normalization(content)}."
    )


def _normalization(content: BundleContent) -> str:
    told = []
    for name, how in zip(content.plan.channel_names, content.plan.preprocessing.normalization, strict=True):
        if how.scheme == "none":
            told.append(f"{name} as stored")
        elif how.scheme == "zscore":
            of = "the image" if how.background is None else f"all voxels that are not {how.background:g}"
            told.append(f"{name} to mean 0 and deviation 1 over {of}")
        else:
            told.append(
                f"{name} clipped to {how.lower:g} to {how.upper:g}, minus {how.mean:g}, by {how.std:g}"
            )
    return "; ".join(told)


def _training(content: BundleContent) -> str:
    recipe = content.recipe
    steps = ", ".join(map(str, content.steps))
    seed = "not stated" if content.seed is None else str(content.seed)
    return (
        "## Training\n\n"
        f"Loss {recipe.loss.name}, {recipe.optimizer.name} at {recipe.optimizer.learning_rate:g}, patches of "
        f"{_by(content.plan.patch_size)} voxels, {content.plan.batch_size} a step"
        + (f", {steps} steps" if steps else "")
        + f"; seed {seed}; weights of the {content.checkpoint} step. "
        "The whole recipe and plan stand in configs/medseg.json."
    )


def _scores(scores: Scores) -> str:
    rows = []
    for score in scores.classes:
        interval = "" if score.interval is None else f"{score.interval[0]:.3f} to {score.interval[1]:.3f}"
        rows.append(f"| {_cell(score.name)} | {_number(score.mean)} | {interval} | {_number(score.lowest)} |")
    head = ["| structure | mean Dice | 95 % interval | lowest |", "|---|---|---|---|"]
    table = "\n".join([*head, *rows])
    counted = "" if scores.cases is None else f" {scores.cases} cases."
    unsure = "" if any(score.interval for score in scores.classes) else " No intervals are known."
    mean = "" if scores.mean is None else f" Mean of the structures: {scores.mean:.3f}."
    return f"## Scores\n\nMeasured on: {scores.where}.{counted}{mean}{unsure}\n\n{table}"


def _running(content: BundleContent) -> str:
    scipy = " scipy" if content.cleans else ""
    channels = (
        ""
        if content.channels == 1
        else " Channels lie in one file, or in files named case_0000.nii.gz, case_0001.nii.gz, …, in the "
        f"order {', '.join(content.plan.channel_names)}."
    )
    return f"""## How to run

From this folder, with `pip install monai nibabel pytorch-ignite fire PyYAML{scipy}` and nothing else:

```sh
python -m monai.bundle run --config_file configs/inference.yaml --meta_file configs/metadata.json \\
    --logging_file configs/logging.conf --dataset_dir IMAGES --output_dir LABELS
```

IMAGES holds NIfTI files.{channels} `--save_probabilities True` writes class probabilities too;
`--streaming True` takes medseg's streaming inferer, where medseg is installed.

`configs/evaluate.yaml` scores and `configs/train.yaml` fine-tunes on a folder with imagesTr and labelsTr:

```sh
python -m monai.bundle run --config_file configs/evaluate.yaml --dataset_dir DATA --output_dir SCORES
python -m monai.bundle run --config_file configs/train.yaml --dataset_dir DATA --epochs 20
```"""


def _verification(cases: Sequence[CaseAgreement]) -> str:
    rows = [
        f"| {number} | {_by(case.shape)} | {_by(case.spacing_mm)} | {case.axcodes}"
        f"{' oblique' if case.oblique else ''} | {case.differing} | {case.differing_near_ties} of "
        f"{case.near_ties} | {case.probability_difference or 0.0:.1e} |"
        for number, case in enumerate(cases, start=1)
    ]
    head = [
        "| case | voxels | spacing, mm | stored as | other labels | at near ties | probabilities |",
        "|---|---|---|---|---|---|---|",
    ]
    return (
        "## Verification\n\n"
        "Before this bundle got its name, MONAI ran it where medseg cannot be imported, and the results were "
        "compared with `medseg predict --mode sliding-window`. No label may differ where the probabilities "
        f"of the two best classes are further apart than {MARGIN:g}, and no probability by more than "
        f"{TOLERANCE:g}. Versions stand in verification.json.\n\n" + "\n".join([*head, *rows])
    )


def _formats(formats: Sequence[FormatReport]) -> str:
    if not formats:
        return ""
    rows = [
        f"| {report.file} | {report.detail} | {report.difference:.1e} | {report.other_labels} | "
        f"{_by(report.other_size)} | {report.other_size_difference:.1e} | {report.other_size_labels} |"
        for report in formats
    ]
    head = [
        "| file | | logits | labels | other size | logits | labels |",
        "|---|---|---|---|---|---|---|",
    ]
    return (
        "## Other formats\n\nLargest difference of logits from PyTorch's, and voxels of another best class, "
        "on patches of noise and on another size. These are the network alone: what stands before and "
        "behind it is in the configs.\n\n" + "\n".join([*head, *rows]) + _about_unpooling(formats)
    )


def _about_unpooling(formats: Sequence[FormatReport]) -> str:
    if not any(report.unpools for report in formats):
        return ""
    most = max(report.others for report in formats)
    return (
        "\n\nThis network goes back up by the places of maxima. Of two that are equal but for rounding, "
        "another format or processor may take the other, which moves the scores around them: by more than a "
        f"thousandth of the largest logit in at most {most:.2%} of the voxels here."
    )


def _limits(content: BundleContent) -> str:
    limits = [
        "MONAI holds the whole image and the scores of all classes in memory; medseg goes slab by slab.",
        "Images that are not like those of the training may be segmented badly, and nothing here notices.",
    ]
    if content.postprocess.instances is not None:
        limits.append(
            "medseg tells objects of a class apart for this run; this bundle writes the label map alone."
        )
    if content.plan.labels.ignore is not None:
        limits.append(
            f"Label {content.plan.labels.ignore} stands for voxels that nobody has labelled. medseg "
            "and train.yaml leave them out; evaluate.yaml and the validation of train.yaml take them for "
            "background."
        )
    if content.recipe.loss.border_weights is not None:
        limits.append("In the training, voxels near borders counted more; in train.yaml all count alike.")
    return "## Limits\n\n" + "\n".join(f"- {limit}" for limit in limits)


def _by(numbers: Sequence[float]) -> str:
    return " x ".join(f"{number:.4g}" for number in numbers)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
