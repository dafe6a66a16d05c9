"""How scores are shown on a terminal: readable in a hundred columns, failures first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from medseg.cli import console

if TYPE_CHECKING:
    from medseg.evaluation import ScoringOptions

__all__ = [
    "print_comparison",
    "print_instances",
    "print_lesions",
    "print_scores",
    "say_alone",
    "say_notes",
]

_WORST_SHOWN = 5
_NAMES_SHOWN = 5
_FAILURES = ("missed", "spurious", "no_prediction", "absent")


def print_scores(summary: dict[str, Any], options: ScoringOptions) -> None:
    """Overlap, surfaces and volumes by class, and the worst cases first."""
    title = f"Scores of {_count(summary['n_cases'], 'case')}"
    columns = ["class", "Dice", "95 % interval", "median", "min", "IoU", "n", "failures"]
    rows = [_overlap_row(f"{entry['label']} {entry['name']}", entry) for entry in summary["classes"]]
    if len(rows) > 1:
        rows.append(_overlap_row("mean over classes", summary["over_classes"]))
    console.print_table(title, columns, rows, text_columns=(0, len(columns) - 1))
    if options.surface is None:
        _print_volumes(summary)
    else:
        _print_surfaces(summary, options)
    _print_worst(summary, options.column("hd95_bound_mm"))


def _overlap_row(title: str, entry: dict[str, Any]) -> list[str]:
    if entry.get("status") == "not applicable":
        return [title, "-", "", "", "", "-", "0", "not applicable"]
    dice = entry["dice"]
    return [
        title,
        _ratio(dice["mean"]),
        _interval(dice["interval"], _ratio),
        _ratio(dice["median"]),
        _ratio(dice["min"]),
        _ratio(entry["iou"]["mean"]),
        str(dice["n_valid"]),
        _failures(entry),
    ]


def _print_surfaces(summary: dict[str, Any], options: ScoringOptions) -> None:
    distances = [options.column(f"{name}_mm") for name in ("hd95_bound", "hd95", "assd_bound", "assd")]
    rows = [
        [
            f"{entry['label']} {entry['name']}",
            *(_measure(entry[distance]["mean"]) for distance in distances),
            _ratio(entry["nsd"]["mean"]),
            *_volumes(entry),
        ]
        for entry in summary["classes"]
    ]
    console.print_table(
        f"Surface distances in mm, NSD at {options.tolerance_mm:g} mm, volumes in ml. A missed or invented\n"
        "structure counts as the image's diagonal; in 'found' it is left out.",
        ["class", f"HD{options.percentile:g}", "found", "ASSD", "found", "NSD", "reference", "predicted"],
        rows,
    )


def _print_volumes(summary: dict[str, Any]) -> None:
    rows = [[f"{entry['label']} {entry['name']}", *_volumes(entry)] for entry in summary["classes"]]
    console.print_table("Volumes in ml", ["class", "reference", "predicted"], rows)


def _volumes(entry: dict[str, Any]) -> list[str]:
    return [_measure(entry[volume]["mean"]) for volume in ("volume_ref_ml", "volume_pred_ml")]


def _print_worst(summary: dict[str, Any], distance: str) -> None:
    cases = [case for case in summary["cases"] if case["dice"] is not None]
    if len(cases) < 2:
        return
    has_surfaces = distance in cases[0]
    rows = [
        [
            case["case"],
            _ratio(case["dice"]),
            *([_measure(case[distance]), _ratio(case["nsd"])] if has_surfaces else []),
            f"{case['lowest']['class']} {_ratio(case['lowest']['dice'])}",
            _failures(case),
        ]
        for case in cases[:_WORST_SHOWN]
    ]
    surfaces = [distance.split("_")[0].upper(), "NSD"] if has_surfaces else []
    columns = ["case", "Dice", *surfaces, "lowest class", "failures"]
    last = len(columns) - 1
    console.print_table(
        "Worst cases first, means over classes", columns, rows, text_columns=(0, last - 1, last)
    )


def print_lesions(summary: dict[str, Any]) -> None:
    """Lesions by class: counts of all cases, means over cases."""
    rows = [
        [
            f"{entry['label']} {entry['name']}",
            *(str(entry[key]) for key in ("n_ref", "n_found", "n_missed", "n_invented")),
            *(_ratio(entry[key]["mean"]) for key in ("sensitivity", "precision", "f1", "mean_dice")),
        ]
        for entry in summary["lesions"]
    ]
    columns = ["lesions of", "all", "found", "missed", "invented", "sensitivity", "precision", "F1", "Dice"]
    console.print_table("Lesions: counts over all cases, means over cases", columns, rows)


def print_instances(summary: dict[str, Any]) -> None:
    """Measures of instances over cases, and the worst cases first."""
    rows = [
        [
            name,
            _ratio(entry["mean"]),
            _interval(entry["interval"], _ratio),
            _ratio(entry["median"]),
            _ratio(entry["min"]),
            str(entry["n_valid"]),
        ]
        for name, entry in summary["instances"].items()
    ]
    title = f"Instances of {_count(summary['n_cases'], 'case')}"
    console.print_table(title, ["measure", "mean", "95 % interval", "median", "min", "n"], rows)
    cases = summary["cases"][:_WORST_SHOWN]
    if len(cases) > 1:
        columns = ["case", "PQ", "F1", "AJI", "reference", "predicted", "matched", "status"]
        shown = [
            [
                case["case"],
                *(_ratio(case[key]) for key in ("pq", "rq", "aji")),
                *(str(case[key]) for key in ("n_ref", "n_pred", "n_matched")),
                case["status"].replace("_", " "),
            ]
            for case in cases
        ]
        console.print_table("Worst cases first", columns, shown, text_columns=(0, len(columns) - 1))


def print_comparison(summary: dict[str, Any]) -> None:
    """Both means, their difference and how sure it is, measure by measure."""
    names = summary["names"]
    rows = []
    for entry in summary["compared"]:
        show = _measure if entry["metric"].endswith("_mm") else _ratio
        rows.append(
            [
                entry["of"],
                entry["metric"].removesuffix("_mm").replace("_bound", ""),
                *(show(entry["mean"][name]) for name in names),
                _signed(entry["mean_difference"], show),
                _interval(entry["interval"], show),
                _probability(entry["p_holm"]),
                "-" if entry["effect_size"] is None else f"{entry['effect_size']:+.2f}",
                str(entry["n"]),
                "" if entry["favours"] is None else "AB"[names.index(entry["favours"])],
            ]
        )
    columns = ["", "metric", "A", "B", "A - B", "95 % interval", "p (Holm)", "effect", "n", "better"]
    title = f"A: {names[0]}, B: {names[1]}, on the {_count(summary['n_cases'], 'case')} that both have"
    console.print_table(title, columns, rows, text_columns=(0, 1))


def say_alone(summary: dict[str, Any]) -> None:
    """Warn of files that have no partner, and so no score."""
    _say_alone("reference", "has no prediction and is not scored", summary["without_prediction"])
    _say_alone("prediction", "has no reference and is not scored", summary["without_reference"])


def say_notes(summary: dict[str, Any]) -> None:
    """Warn of cases whose scores need an explanation."""
    for flip in summary["flipped"]:
        console.status(
            f"warning: {flip['case']}: the prediction looks {flip['description']}: its mean Dice is about "
            f"{flip['dice']:.2f}, and would be {flip['dice_unflipped']:.2f}"
        )
    resampled = [f"{entry['case']} ({entry['prediction']})" for entry in summary["resampled"]]
    if resampled:
        console.status(
            f"warning: {_count(len(resampled), 'prediction')} resampled onto the reference's grid by nearest "
            f"neighbour: {_shown(resampled)}"
        )
    if summary["sheared"]:
        console.status(
            "warning: distances are approximate where a grid's axes are not at right angles: "
            f"{_shown(summary['sheared'])}"
        )
    if summary["partly_labelled"]:
        console.status(
            "warning: where the reference is not labelled nothing is scored, and no surface is measured in: "
            f"{_shown(summary['partly_labelled'])}"
        )
    for picture in summary["overlays"]:
        if picture["note"] is not None:
            console.status(f"warning: {picture['file']} shows label maps alone: {picture['note']}")


def _say_alone(kind: str, what: str, names: Sequence[str]) -> None:
    if not names:
        return
    if len(names) > 1:
        kind, what = f"{kind}s", what.replace("has", "have", 1).replace(" is ", " are ")
    console.status(f"warning: {len(names)} {kind} {what}: {_shown(names)}")


def _failures(entry: dict[str, Any]) -> str:
    counts = [f"{entry[f'n_{kind}']} {kind}" for kind in _FAILURES if entry.get(f"n_{kind}")]
    return ", ".join(counts).replace("_", " ")


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMES_SHOWN]) + (", …" if len(names) > _NAMES_SHOWN else "")


def _count(number: int, what: str) -> str:
    return f"1 {what}" if number == 1 else f"{number} {what}s"


def _ratio(number: float | None) -> str:
    return "-" if number is None else f"{number:.3f}"


def _measure(number: float | None) -> str:
    if number is None:
        return "-"
    return f"{number:.2f}" if abs(number) < 100.0 else f"{number:.0f}"


def _signed(number: float | None, show: Callable[[float | None], str]) -> str:
    text = show(number)
    return f"+{text}" if number is not None and number > 0.0 else text


def _interval(ends: Sequence[float] | None, show: Callable[[float | None], str]) -> str:
    return "-" if ends is None else f"{show(ends[0])} … {show(ends[1])}"


def _probability(number: float | None) -> str:
    if number is None:
        return "-"
    return "< 0.001" if number < 0.001 else f"{number:.3f}"
