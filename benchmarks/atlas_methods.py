"""Atlas methods on held-out cases: Dice, seconds a case, and how both go with the number of atlases.

    python benchmarks/atlas_methods.py --data Task04_Hippocampus --out runs/atlases [--cases 40]

Multi-atlas fusion registers the most similar atlases once, as many as ``--atlases`` names at most, and fuses
the labels of the best few of them by each method. Of each the labels of the best expected Dice are taken, as
the recipe says, and the most likely ones beside them. Registered atlases of the first ``--keep`` cases are
written to ``OUT/registered``, for ``benchmarks/joint_fusion.py``, which has ANTs fuse the same ones. The
other methods are fitted and segment as they are; the shape model finds the transforms of the probabilistic
atlas's fit again in ``OUT/transforms``. One process, one thread: seconds are CPU time.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from medseg.atlas.fuse import fuse
from medseg.atlas.intensities import standardized
from medseg.classical import best_dice_labels
from medseg.data import load_dataset
from medseg.data.reading import read_labelled_case
from medseg.files import write_json
from medseg.fitting import FitOptions, fit
from medseg.labels import LabelScheme
from medseg.metrics import overlap_metrics
from medseg.runs import MethodRecipe, load_any_recipe
from medseg.segmenters import RefinedSegmenter, load_segmenter, validation_cases
from medseg.segmenters.methods.multi_atlas import MultiAtlasSegmenter
from medseg.segmenters.whole_image import log_probabilities

FUSIONS = ("majority", "staple", "local", "joint")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=40)
    parser.add_argument("--atlases", default="5,10,20,30")
    parser.add_argument("--methods", default="multi_atlas,probabilistic_atlas,shape_model")
    parser.add_argument("--keep", type=int, default=5)
    given = parser.parse_args()
    for method in given.methods.split(","):
        result = given.out / f"{method}.json"
        if not result.is_file():
            run, minutes = fitted(method, given.data, given.out / method)
            if method == "multi_atlas":
                counts = [int(number) for number in given.atlases.split(",")]
                table = by_number(run, given.cases, counts, given.out / "registered", given.keep)
            else:
                table = as_it_is(run, given.cases)
            write_json({"fit_cpu_minutes": minutes, "rows": table}, result)
        show(method, json.loads(result.read_text(encoding="utf-8")))


def fitted(method: str, data: str, out: Path) -> tuple[Path, float]:
    recipe = cast(MethodRecipe, load_any_recipe(method))
    if method == "shape_model":  # what the probabilistic atlas has registered to fit is not registered again
        recipe = recipe.model_copy(update={"options": {**recipe.options, "atlas": cached(out.parent)}})
    elif method == "probabilistic_atlas":
        recipe = recipe.model_copy(update={"options": {**recipe.options, **cached(out.parent)}})
    run = fit(load_dataset(data), recipe, out, folds=[0], options=FitOptions(resume=True))
    finished: dict[str, float] = json.loads(run.fold(0).finished_mark.read_text(encoding="utf-8"))
    return run.path, finished["cpu_minutes"]


def cached(folder: Path) -> dict[str, str]:
    return {"cache_folder": str(folder / "transforms")}


def dice(found: npt.NDArray[Any], reference: npt.NDArray[Any], labels: LabelScheme) -> list[float]:
    return [
        score.dice for score in overlap_metrics(labels.to_values(found), labels.to_values(reference), labels)
    ]


def by_number(run: Path, cases: int, counts: list[int], kept: Path, keep: int) -> list[dict[str, Any]]:
    """Fusion of the best 5, 10, … of the atlases that were registered."""
    recipe = cast(RefinedSegmenter, load_segmenter(run))
    segmenter = cast(MultiAtlasSegmenter, recipe.segmenter)
    segmenter.options = segmenter.options.model_copy(update={"atlases": max(counts)})
    scores, likely, seconds = defaultdict(list), defaultdict(list), defaultdict(list)
    for number, case in enumerate(validation_cases(run)[0][:cases]):
        image, label = read_labelled_case(case, segmenter.labels, len(segmenter.channel_names))
        started = time.process_time()
        target = standardized(image)
        images, probabilities = segmenter.registered(target)
        registering = (time.process_time() - started) / max(counts)
        if number < keep:
            kept.mkdir(parents=True, exist_ok=True)
            np.savez(
                kept / f"{case.id}.npz",
                target=target.array[0],
                images=images,
                probabilities=probabilities,
                label=label.array[0],
            )
        for count in counts:
            for method in FUSIONS:
                started = time.process_time()
                fused = fuse(
                    target.array[0],
                    images[:count],
                    probabilities[:count],
                    segmenter.options.fusion.model_copy(update={"method": method}),
                )
                found = best_dice_labels(log_probabilities(fused))
                key = (method, count)
                seconds[key].append((registering * count, time.process_time() - started))
                scores[key].append(dice(found, label.array[0], segmenter.labels))
                likely[key].append(dice(fused.argmax(axis=0), label.array[0], segmenter.labels))
    return [
        {
            "method": method,
            "atlases": count,
            "cases": len(scores[method, count]),
            "dice": np.mean(scores[method, count], axis=0).tolist(),
            "mean": float(np.mean(scores[method, count])),
            "mean_of_likely": float(np.mean(likely[method, count])),
            "lowest": float(np.mean(scores[method, count], axis=1).min()),
            "seconds": np.mean(seconds[method, count], axis=0).tolist(),
        }
        for method in FUSIONS
        for count in counts
    ]


def as_it_is(run: Path, cases: int) -> list[dict[str, Any]]:
    """A method that segments by its recipe."""
    segmenter: Any = load_segmenter(run)
    atlas = getattr(segmenter, "atlas", None)
    registering = atlas if hasattr(atlas, "options") else segmenter
    registering.options = registering.options.model_copy(update={"cache_folder": None})  # time is measured
    scores, seconds = [], []
    for case in validation_cases(run)[0][:cases]:
        image, label = read_labelled_case(case, segmenter.labels, len(segmenter.channel_names))
        started = time.process_time()
        found = segmenter.labels.to_indices(segmenter.segment(image).array[0])
        seconds.append(time.process_time() - started)
        scores.append(dice(found, label.array[0], segmenter.labels))
    return [
        {
            "method": run.name,
            "atlases": 0,
            "cases": len(scores),
            "dice": np.mean(scores, axis=0).tolist(),
            "mean": float(np.mean(scores)),
            "mean_of_likely": None,
            "lowest": float(np.mean(scores, axis=1).min()),
            "seconds": [float(np.mean(seconds)), 0.0],
        }
    ]


def show(method: str, content: dict[str, Any]) -> None:
    print(f"{method}: fitted in {content['fit_cpu_minutes']:.2f} CPU-minutes")
    for row in content["rows"]:
        classes = " | ".join(f"{value:.4f}" for value in row["dice"])
        likely = "" if row["mean_of_likely"] is None else f"{row['mean_of_likely']:.4f}"
        register, fusing = row["seconds"]
        print(
            f"| {row['method']} | {row['atlases'] or ''} | {classes} | {row['mean']:.4f} | {likely} "
            f"| {row['lowest']:.3f} | {register:.2f} | {fusing:.2f} | ({row['cases']} cases)"
        )


if __name__ == "__main__":
    main()
