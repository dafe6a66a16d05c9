"""Instances, boxes and lesions: do medseg and its peers agree, and how long does each take?

Agreement: panoptic quality with panoptica (random maps; with ``--data`` displaced nuclei and vertebrae),
box average precision with pycocotools in 2D and with MONAI's COCO metric in 3D, lesions with SciPy. Speed:
one process a row; its peak counts the making of maps and boxes, too. Prints Markdown:

    python benchmarks/instance_metrics.py --agreement [--data FOLDER] [--peers PYTHON]
    python benchmarks/instance_metrics.py --speed [--peers PYTHON]

``--peers`` names the interpreter of an environment with panoptica, pycocotools, h5py and MONAI beside medseg.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.metrics import Detections, References, lesion_metrics, mean_average_precision, panoptic_quality

Map = npt.NDArray[np.int64]
Scene = tuple[list[Detections], list[References]]
REAL = "PQ, SQ, RQ with panoptica, real instances"
VERTEBRAE = (
    "mr/vertebra/sub-mri_seg-vert_label-6_msk.nii.gz",
    "ct/vertebra/sub-ct_seg-vert_label-22_msk.nii.gz",
)
NUCLEI = ("plantseg_nuclei/1135_mini.h5", "plantseg_nuclei/1136_mini.h5", "plantseg_nuclei/sample_ovule.h5")


def main() -> None:
    """Print what is asked for, computed by the interpreter that has the peers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--agreement", action="store_true")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--data", type=Path, help="a folder with instances/, mr/vertebra and ct/vertebra")
    parser.add_argument("--peers", default=sys.executable, help="an interpreter that has the peers")
    parser.add_argument("--row", help="for the script's own use: one row, in this process")
    chosen = parser.parse_args()
    if chosen.row:
        print(json.dumps({**AGREEMENTS, **SPEEDS}[chosen.row](chosen.data)))
    if chosen.agreement:
        print("| what | pairs | largest difference |\n|---|---|---|")
        for name in (name for name in AGREEMENTS if chosen.data or name != REAL):
            row = in_a_process(name, chosen)
            print(f"| {name} | {row['pairs']} | {row['difference']:.1e} |", flush=True)
    if chosen.speed:
        print("| what | seconds | peak memory, GiB | result |\n|---|---|---|---|")
        for name in SPEEDS:
            row = in_a_process(name, chosen)
            print(
                f"| {name} | {row['seconds']:.3f} | {row['peak_gib']:.2f} | {row['result']:.6f} |", flush=True
            )
        print(f"\n{os.cpu_count()} cores, {platform.platform()}.")


def in_a_process(row: str, chosen: argparse.Namespace) -> dict[str, Any]:
    """What one row prints as its last line."""
    data = ["--data", str(chosen.data)] if chosen.data else []
    command = [chosen.peers, __file__, "--row", row, *data]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def cells(rng: np.random.Generator, size: int, instances: int, *, noise: float) -> tuple[Map, Map]:
    """Balls around random centres, and the same displaced; where they overlap, the nearest centre wins."""
    from scipy.spatial import cKDTree

    centres = rng.uniform(0, size, (instances, 3))
    radius = 0.7 * size / instances ** (1 / 3)
    grid = np.stack(np.meshgrid(*[np.arange(size, dtype=np.float64)] * 3, indexing="ij"), axis=-1)
    maps = []
    for points in (centres, centres + rng.normal(0, noise * radius, centres.shape)):
        nearest = cKDTree(points).query(grid.reshape(-1, 3), distance_upper_bound=radius)[1]
        maps.append(np.where(nearest == instances, 0, nearest + 1).reshape((size,) * 3).astype(np.int64))
    return maps[0], maps[1]


def random_pairs() -> Iterator[tuple[Map, Map]]:
    """Cells of all degrees of displacement, some lost, some invented, ids with gaps."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        pred, ref = cells(rng, 32, int(rng.integers(2, 60)), noise=float(rng.uniform(0, 0.6)))
        pred[pred % 7 == 3] = 0
        ref[ref % 11 == 5] = 0
        yield 3 * pred, ref


def real_pairs(data: Path) -> Iterator[tuple[Map, Map]]:
    """Real instances against themselves, displaced by up to three voxels along each axis."""
    for ref in real_instances(data):
        for step in (1, 2, 3):
            yield np.roll(ref, (step, -step, step), axis=(0, 1, 2)), ref


def real_instances(data: Path) -> Iterator[Map]:
    """Nuclei, an ovule's cells, vertebrae."""
    import h5py
    import nibabel as nib
    import tifffile

    yield tifffile.imread(data / "instances/stardist/mask3d.tif").astype(np.int64)
    for name in NUCLEI:
        with h5py.File(data / "instances" / name) as file:
            yield np.asarray(file["label"]).astype(np.int64)
    for name in VERTEBRAE:
        yield np.squeeze(np.asarray(nib.load(data / name).dataobj)).astype(np.int64)


def by_panoptica(pred: Map, ref: Map) -> dict[str, float]:
    """PQ, SQ, RQ with its plain matching, made strict as the paper's is."""
    from panoptica import InputType, Metric, NaiveThresholdMatching, Panoptica_Evaluator

    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = Panoptica_Evaluator(
            expected_input=InputType.UNMATCHED_INSTANCE,
            instance_matcher=NaiveThresholdMatching(matching_threshold=0.5, strict_threshold=True),
            instance_metrics=[Metric.IOU],
            global_metrics=[],
        )
        result = evaluator.evaluate(pred.astype(np.uint32), ref.astype(np.uint32))["ungrouped"]
    return {"pq": result.pq, "sq": result.sq, "rq": result.rq}


def difference_of_quality(pairs: Iterator[tuple[Map, Map]]) -> dict[str, Any]:
    """The largest difference of PQ, SQ and RQ. Where nothing is matched, panoptica calls SQ undefined."""
    differences = []
    for pred, ref in pairs:
        theirs, ours = by_panoptica(pred, ref), panoptic_quality(pred, ref)
        names = ("pq", "sq", "rq") if ours.n_matched else ("pq", "rq")
        differences.append(max(abs(theirs[name] - getattr(ours, name)) for name in names))
    return {"pairs": len(differences), "difference": max(differences)}


def scene(rng: np.random.Generator, axes: int, images: int, boxes: int) -> Scene:
    """Images of three classes: references, detections near them, doubles, false alarms, tied scores."""
    detections, references = [], []
    for _ in range(images):
        size = int(rng.integers(0, boxes + 1))
        lower = rng.integers(0, 300, (size, axes))
        truth = np.hstack([lower, lower + rng.integers(20, 90, (size, axes))])
        near = np.concatenate([truth, truth[: size // 3]])
        near = near + rng.integers(-4, 5, near.shape)
        far = rng.integers(0, 300, (5, axes))
        classes = rng.integers(0, 3, size)
        references.append(References(truth, classes))
        detections.append(
            Detections(
                np.concatenate([near, np.hstack([far, far + 40])]),
                rng.integers(0, 50, len(near) + 5) / 50,
                np.concatenate([classes, classes[: size // 3], rng.integers(0, 3, 5)]),
            )
        )
    return detections, references


def by_pycocotools(detections: list[Detections], references: list[References]) -> list[float]:
    """AP of each class at each threshold."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth, found = COCO(), COCO()
    shared = {
        "images": [{"id": image} for image in range(len(detections))],
        "categories": [{"id": k} for k in range(3)],
    }
    truth.dataset = {**shared, "annotations": coco_boxes(references)}
    found.dataset = {**shared, "annotations": coco_boxes(detections)}
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        found.createIndex()
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.params.maxDets = [10**6]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, 0]  # (thresholds, recalls, classes)
    return [float(number) for number in precision.mean(axis=1).T.ravel()]


def coco_boxes(images: list[Detections] | list[References]) -> list[dict[str, Any]]:
    """Boxes as COCO annotates them: corner and extent."""
    rows = []
    for number, image in enumerate(images):
        scores = getattr(image, "scores", np.zeros(len(image.boxes)))
        for box, value, score in zip(image.boxes, image.classes, scores, strict=True):
            width, height = box[2] - box[0], box[3] - box[1]
            rows.append(
                {
                    "id": len(rows) + 1,
                    "image_id": number,
                    "category_id": int(value),
                    "bbox": [float(box[0]), float(box[1]), float(width), float(height)],
                    "area": float(width * height),
                    "iscrowd": 0,
                    "score": float(score),
                }
            )
    return rows


def by_monai(detections: list[Detections], references: list[References]) -> list[float]:
    """AP of each class, over the thresholds."""
    from monai.apps.detection.metrics.coco import COCOMetric
    from monai.apps.detection.metrics.matching import matching_batch
    from monai.data.box_utils import box_iou

    metric = COCOMetric(["0", "1", "2"], iou_list=(0.5,), iou_range=(0.5, 0.95, 0.05), max_detection=(10**6,))
    matched = matching_batch(
        box_iou,
        metric.iou_thresholds,
        *([getattr(image, name) for image in detections] for name in ("boxes", "classes", "scores")),
        *([getattr(image, name) for image in references] for name in ("boxes", "classes")),
        max_detections=10**6,
    )
    results = metric(matched)[0]
    return [results[f"{value}_mAP_IoU_0.50_0.95_0.05_MaxDet_1000000"] for value in range(3)]


def by_medseg(detections: list[Detections], references: list[References]) -> list[float]:
    """AP of each class at each threshold."""
    found = mean_average_precision(detections, references)
    return [number for row in found.average_precisions for number in row]


def agree_with_pycocotools(_: Path) -> dict[str, Any]:
    """Each AP of random scenes, whose scores are tied on purpose."""
    rng = np.random.default_rng(1)
    scenes = [scene(rng, 2, images=12, boxes=15) for _ in range(40)]
    differences = [np.abs(np.subtract(by_medseg(*one), by_pycocotools(*one))).max() for one in scenes]
    return {"pairs": len(scenes), "difference": float(max(differences))}


def agree_with_monai(_: Path) -> dict[str, Any]:
    """The mean over thresholds of each class; only where MONAI's single precision does not shift a recall."""
    rng = np.random.default_rng(2)
    scenes = [one for one in (scene(rng, 3, 12, 15) for _ in range(200)) if coprime_with_100(one[1])]
    ours = [np.reshape(by_medseg(*one), (3, 10)).mean(axis=1) for one in scenes]
    differences = [np.abs(mine - by_monai(*one)).max() for mine, one in zip(ours, scenes, strict=True)]
    return {"pairs": len(scenes), "difference": float(max(differences))}


def coprime_with_100(references: list[References]) -> bool:
    """Whether no recall but 0 and 1 is a whole hundredth, in any class."""
    classes = np.concatenate([np.asarray(image.classes) for image in references])
    return bool(np.all(np.gcd(np.bincount(classes.astype(int), minlength=3), 100) == 1))


def agree_with_scipy(_: Path) -> dict[str, Any]:
    """Numbers of lesions, found and invented ones, by any overlap."""
    from scipy import ndimage

    rng = np.random.default_rng(3)
    differences = []
    for _ in range(200):
        pred, ref = ndimage.gaussian_filter(rng.normal(size=(2, 24, 24, 24)), (0, 1.2, 1.2, 1.2)) > 0.12
        score = lesion_metrics(pred, ref, (1, 1, 1), connectivity="faces")
        (pred_map, n_pred), (ref_map, n_ref) = ndimage.label(pred), ndimage.label(ref)
        found, true = (len(np.unique(numbers[pred & ref])) for numbers in (ref_map, pred_map))
        ours = (score.n_ref, score.n_pred, score.n_found, score.n_invented)
        differences.append(np.abs(np.subtract(ours, (n_ref, n_pred, found, n_pred - true))).max())
    return {"pairs": len(differences), "difference": float(max(differences))}


def timed(make: Callable[[], Any], compute: Callable[..., float]) -> dict[str, Any]:
    """The second of two runs, so that imports and compilation are not counted."""
    pair = make()
    compute(*pair)
    started = time.perf_counter()
    result = compute(*pair)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"seconds": seconds, "peak_gib": peak, "result": float(result)}


def few_cells() -> tuple[Map, Map]:
    """300 instances at 128^3."""
    return cells(np.random.default_rng(4), 128, 300, noise=0.2)


def many_cells() -> tuple[Map, Map]:
    """4000 instances at 256^3."""
    return cells(np.random.default_rng(5), 256, 4000, noise=0.2)


def planar_scene() -> Scene:
    """200 images with up to 60 boxes."""
    return scene(np.random.default_rng(6), 2, images=200, boxes=60)


def spatial_scene() -> Scene:
    """200 volumes with up to 60 boxes."""
    return scene(np.random.default_rng(7), 3, images=200, boxes=60)


Row = Callable[[Path], dict[str, Any]]
AGREEMENTS: dict[str, Row] = {
    "PQ, SQ, RQ with panoptica, random cells": lambda _: difference_of_quality(random_pairs()),
    REAL: lambda data: difference_of_quality(real_pairs(data)),
    "box AP with pycocotools, 2D": agree_with_pycocotools,
    "box AP with MONAI, 3D": agree_with_monai,
    "lesion counts with SciPy": agree_with_scipy,
}
SPEEDS: dict[str, Row] = {
    "PQ, 300 instances, 128^3: medseg": lambda _: timed(few_cells, lambda *pair: panoptic_quality(*pair).pq),
    "PQ, 300 instances, 128^3: panoptica": lambda _: timed(
        few_cells, lambda *pair: by_panoptica(*pair)["pq"]
    ),
    "PQ, 4000 instances, 256^3: medseg": lambda _: timed(
        many_cells, lambda *pair: panoptic_quality(*pair).pq
    ),
    "PQ, 4000 instances, 256^3: panoptica": lambda _: timed(
        many_cells, lambda *pair: by_panoptica(*pair)["pq"]
    ),
    "mAP, 2D, 200 images: medseg": lambda _: timed(planar_scene, lambda *pair: np.mean(by_medseg(*pair))),
    "mAP, 2D, 200 images: pycocotools": lambda _: timed(
        planar_scene, lambda *pair: np.mean(by_pycocotools(*pair))
    ),
    "mAP, 3D, 200 volumes: medseg": lambda _: timed(spatial_scene, lambda *pair: np.mean(by_medseg(*pair))),
    "mAP, 3D, 200 volumes: MONAI": lambda _: timed(spatial_scene, lambda *pair: np.mean(by_monai(*pair))),
}


if __name__ == "__main__":
    main()
