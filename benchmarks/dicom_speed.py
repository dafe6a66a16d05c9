"""A large CT from DICOM to NIfTI, and a tree of many files: how long, with how much memory, beside dcm2niix?

Writes 600 slices of 512 x 512 (three ellipsoids and noise) and a tree of 20,000 small files of 100 series,
both once. Then, in turn and several times: ``medseg inspect`` and ``medseg convert`` beside dcm2niix,
compressed and not; ``medseg inspect`` of the tree. The best of all times is shown. Prints Markdown:

    PYTHONPATH=. python benchmarks/dicom_speed.py --out runs/dicom_speed --dcm2niix BIN/dcm2niix [--cpus 0]

The files are in the system's cache after the first round. ``--cpus`` pins all commands (as ``taskset -c``).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from measured import MEDSEG, Place, Usage, run, table
from pydicom import dcmread
from pydicom.dataset import Dataset

from medseg.files import write_json
from tests.data.dicom import (
    affine_of,
    phantom_at,
    place_slice,
    series_dataset,
    set_pixels,
    uid_of,
    write_dataset,
    write_series,
)

TREE_SERIES = 100
NOISE = 12.0


def main() -> None:
    """Write, convert in turn, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--dcm2niix", type=Path)
    parser.add_argument("--size", default="512,512,600")
    parser.add_argument("--tree-files", default=20_000, type=int)
    parser.add_argument("--times", default=3, type=int)
    parser.add_argument("--cpus")
    chosen = parser.parse_args()
    shape = tuple(int(length) for length in chosen.size.split(","))
    source, tree = (
        chosen.out / f"ct_{chosen.size.replace(',', 'x')}",
        chosen.out / f"tree_{chosen.tree_files}",
    )
    once_whole(source, lambda folder: write_ct(folder, shape))
    once_whole(tree, lambda folder: write_tree(folder, chosen.tree_files))
    commands = commands_for(source, tree, chosen.out / "converted", chosen.dcm2niix)
    used: dict[str, list[Usage]] = {name: [] for name in commands}
    for _ in range(chosen.times):
        for name, command in commands.items():
            shutil.rmtree(chosen.out / "converted", ignore_errors=True)
            (chosen.out / "converted").mkdir()
            used[name].append(run(command, Place(chosen.cpus), chosen.out / "log.txt")[1])
    report(used, shape, chosen.tree_files, chosen.out)


def once_whole(folder: Path, write: Callable[[Path], None]) -> None:
    """Write a folder unless it is there; under another name until it is whole."""
    if folder.is_dir():
        return
    partial = folder.with_name(folder.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    write(partial)
    partial.rename(folder)


def write_ct(folder: Path, shape: Sequence[int]) -> None:
    """One CT series, oblique; slice by slice, for all of it would be some hundred megabytes."""
    columns, rows, slices = shape
    affine = affine_of(spacing_mm=(60 / columns, 45 / rows, 60 / slices), shape=(columns, rows, slices))
    shared = series_dataset("speed")
    plane = np.stack(np.meshgrid(np.arange(columns), np.arange(rows), indexing="ij"), axis=-1)
    places = plane @ affine[:3, :2].T + affine[:3, 3]
    rng = np.random.default_rng(0)
    for index in range(slices):
        dataset = Dataset()
        dataset.update(shared)
        dataset.SOPInstanceUID, dataset.InstanceNumber = uid_of("speed", index), index + 1
        place_slice(dataset, affine, index)
        dataset.RescaleSlope, dataset.RescaleIntercept = "1", "-1024"
        values = (
            1024 + phantom_at(places + index * affine[:3, 2]) + rng.normal(scale=NOISE, size=(columns, rows))
        )
        set_pixels(dataset, values.astype(np.int16))
        write_dataset(dataset, folder / f"{index:06d}.dcm")


def write_tree(folder: Path, files: int) -> None:
    """Many small series in nested folders: one is written, the others are its bytes with other UIDs."""
    per_series = files // TREE_SERIES
    shape = (16, 16, per_series)
    template = write_series(
        folder / "template", np.zeros(shape, np.int16), affine_of(shape=shape), name="tree"
    )
    contents = [path.read_bytes() for path in template.paths]
    header = dcmread(template.paths[0], stop_before_pixels=True)
    shared = [header.SeriesInstanceUID, header.StudyInstanceUID, header.FrameOfReferenceUID]
    uids = [
        [*shared, dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID] for path in template.paths
    ]
    shutil.rmtree(folder / "template")
    for number in range(TREE_SERIES):
        place = folder / f"{number // 10}" / f"{number:03d}"
        place.mkdir(parents=True)
        for index, content in enumerate(contents):
            for uid in uids[index]:
                content = content.replace(uid.encode(), f"{uid[:-6]}{100_000 + number}".encode())
            (place / f"{index:05d}").write_bytes(content)


def commands_for(source: Path, tree: Path, out: Path, dcm2niix: Path | None) -> dict[str, list[str | Path]]:
    commands: dict[str, list[str | Path]] = {
        "medseg inspect": [*MEDSEG, "inspect", source, "--json"],
        "medseg convert, .nii.gz": [*MEDSEG, "convert", source, out / "ct.nii.gz", "--quiet"],
        "medseg convert, .nii": [*MEDSEG, "convert", source, out / "ct.nii", "--quiet"],
    }
    if dcm2niix is not None:
        commands["dcm2niix -z y"] = [dcm2niix, "-z", "y", "-f", "ct", "-o", out, source]
        commands["dcm2niix -z i"] = [dcm2niix, "-z", "i", "-f", "ct", "-o", out, source]
        commands["dcm2niix -z n"] = [dcm2niix, "-z", "n", "-f", "ct", "-o", out, source]
    commands["medseg inspect, tree"] = [*MEDSEG, "inspect", tree, "--json"]
    return commands


def report(used: dict[str, list[Usage]], shape: Sequence[int], tree_files: int, out: Path) -> None:
    best = {name: min(runs, key=lambda usage: usage.wall_minutes) for name, runs in used.items()}
    volume_gib = 2 * np.prod(shape) / 2**30
    rows = [
        [
            name,
            f"{60 * usage.wall_minutes:.2f}",
            f"{60 * usage.cpu_minutes:.2f}",
            f"{usage.peak_gib:.2f}",
            None if "tree" in name else f"{usage.peak_gib / volume_gib:.2f}",
        ]
        for name, usage in best.items()
    ]
    print(table(["command", "seconds", "CPU seconds", "peak GiB", "peak, volumes"], rows))
    seconds = {name: 60 * usage.wall_minutes for name, usage in best.items()}
    print(f"\ntree: {tree_files / seconds['medseg inspect, tree']:.0f} files a second")
    for suffix, flags in ((".nii.gz", "-z y"), (".nii.gz", "-z i"), (".nii", "-z n")):
        if f"dcm2niix {flags}" in seconds:
            ours = seconds["medseg inspect"] + seconds[f"medseg convert, {suffix}"]
            print(
                f"inspect + convert, {suffix}: {ours / seconds[f'dcm2niix {flags}']:.2f} of dcm2niix {flags}"
            )
    write_json(
        {"platform": platform.platform(), "cores": os.cpu_count(), "seconds": seconds}, out / "results.json"
    )
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
