"""Thousands of DICOM files that lie: does each end in a verdict or in one line, soon and in little memory?

Mutates small sound series of seven kinds, a segmentation and a structure set (bits flipped, lengths changed,
truncated, elements removed, absurd numbers and texts, deep and endless sequences; see
``tests/data/dicom_mutations.py``), one file at a time, and gives it to the command line: ``medseg inspect``,
then ``medseg convert``. Prints Markdown; ``results.json`` of ``--out`` has every file that did not end well,
by its seed:

    PYTHONPATH=. python benchmarks/dicom_fuzz.py --out runs/fuzz [--files 5000] [--first-seed 0]

A process of its own does the work. A file may take ``--seconds`` of the processor's time, and the process's
address space may grow by ``--gib``. Not well are: an exception, an exit code without a line that says why or
with words that are no such line, words that tell who the patient is, partial files, a hang, a process that
died. Linux alone.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import platform
import shutil
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from measured import table

from medseg.cli.main import main as medseg
from medseg.files import write_json
from medseg.io.dicom import scan_dicom
from medseg.io.dicom.segmentations import FORMS, write_object
from medseg.io.dicom.volumes import read_dicom_volume
from medseg.labels import LabelScheme
from medseg.volume import Volume
from tests.data.dicom_mutations import mutated, write_sound_series
from tests.data.limits import TookTooLongError, limited

PATIENCE = 6
"""How many times its limit a file may take by the clock, where other processes compete for the cores."""
START_SECONDS = 60
WELL = ("exit code 0", *(f"exit code {code}" for code in range(2, 7)))


@dataclass(frozen=True)
class Trial:
    """What became of one mutated file.

    Attributes:
        seed: Of the mutation; the series' kind follows from it.
        kind: Of the series.
        mutation: What was done to the file.
        outcome: One of ``WELL``, else what went wrong.
        seconds: For inspection and conversion.
        peak_gib: Resident memory of the process until then.
        said: The last word.
    """

    seed: int
    kind: str
    mutation: str
    outcome: str
    seconds: float
    peak_gib: float
    said: str = ""


def main() -> None:
    """Mutate, try, count, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--files", default=5000, type=int)
    parser.add_argument("--first-seed", default=0, type=int)
    parser.add_argument("--seconds", default=20.0, type=float, help="of the processor's time, for one file")
    parser.add_argument("--gib", default=1.0, type=float, help="address space beyond that of the start")
    chosen = parser.parse_args()
    shutil.rmtree(chosen.out, ignore_errors=True)
    write_sound(chosen.out / "sound")
    seeds = list(range(chosen.first_seed, chosen.first_seed + chosen.files))
    trials = list(tried(seeds, chosen.out, chosen.seconds, int(chosen.gib * 2**30)))
    report(trials, chosen.out)


def write_sound(folder: Path) -> None:
    """What is mutated: series, and objects that were made on one of them."""
    write_sound_series(folder)
    files = sorted((folder / "explicit").iterdir())
    image = read_dicom_volume(scan_dicom(folder / "explicit").volumes[0])
    labels = Volume(np.zeros(image.array.shape, np.uint8), image.grid)
    labels.array[:, 1:6, 2:5, 1:3] = 1
    scheme = LabelScheme.from_names({1: "liver"})
    for form in FORMS:
        write_object(form, labels, scheme, files, folder / form / f"{form}.dcm")


def tried(seeds: list[int], out: Path, seconds: float, more_bytes: int) -> Iterator[Trial]:
    """Try all, by a process that is started again when a file hangs or kills it."""
    waiting = list(reversed(seeds))
    while waiting:
        with worker(out, seconds, more_bytes) as pipe:
            while waiting:
                seed = waiting.pop()
                started = time.monotonic()
                pipe.send(seed)
                outcome = "hang"
                try:
                    if pipe.poll(PATIENCE * seconds + START_SECONDS):
                        yield pipe.recv()
                        continue
                except (EOFError, ConnectionResetError):
                    outcome = "process died"
                kind, mutation, _ = lying_file(out, seed)
                yield Trial(seed, kind, mutation, outcome, time.monotonic() - started, 0.0)
                break


@contextmanager
def worker(out: Path, seconds: float, more_bytes: int) -> Iterator[Connection]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(theirs, out, seconds, more_bytes), daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()
        process.kill()
        process.join()


def work(pipe: Connection, out: Path, seconds: float, more_bytes: int) -> None:
    """Try the seeds that come through the pipe, until it is closed."""
    warnings.simplefilter("ignore")  # pydicom's words about such files
    while True:
        try:
            seed = pipe.recv()
        except EOFError:
            return
        pipe.send(trial(seed, out, seconds, more_bytes))


def trial(seed: int, out: Path, seconds: float, more_bytes: int) -> Trial:
    kind, mutation, folder = lying_file(out, seed)
    converted = out / "converted"
    shutil.rmtree(converted, ignore_errors=True)
    started = time.monotonic()
    try:
        with limited(seconds, more_bytes):
            outcome, said = inspect_and_convert(kind, folder, converted, out / "sound" / "explicit")
    except TookTooLongError as error:
        outcome, said = "hang", str(error)
    except Exception as error:  # noqa: BLE001 - whatever comes is what we look for
        place = traceback.extract_tb(error.__traceback__)[-1]
        outcome, said = (
            f"crash: {type(error).__name__}",
            f"{error} ({Path(place.filename).name}:{place.lineno})",
        )
    return Trial(seed, kind, mutation, outcome, time.monotonic() - started, peak_gib(), said)


def lying_file(out: Path, seed: int) -> tuple[str, str, Path]:
    """Write the series with one file mutated: its kind, the mutation, the folder."""
    sources = sorted((out / "sound").iterdir())
    source = sources[seed % len(sources)]
    folder = out / "mutated"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder)
    files = sorted(folder.iterdir())
    path = files[seed // len(sources) % len(files)]
    mutation, content = mutated(path.read_bytes(), seed)
    path.write_bytes(content)
    return source.name, mutation, folder


def inspect_and_convert(kind: str, folder: Path, out: Path, images: Path) -> tuple[str, str]:
    """Both commands in this process; how the second ended, and what it said last."""
    is_object = kind in FORMS
    given = next(folder.iterdir()) if is_object else folder
    source = ["--source", images] if is_object else ["--jobs", 1]
    code = 0
    for arguments in (["inspect", given], ["convert", given, out, *source]):
        printed, told = io.StringIO(), io.StringIO()
        with redirect_stdout(printed), redirect_stderr(told):
            code = medseg([str(argument) for argument in arguments])
        lines = told.getvalue().splitlines()
        if code and not lines:
            return f"{arguments[0]}: no reason", printed.getvalue()
        if any(not line.startswith("medseg: ") for line in lines):
            return f"{arguments[0]}: other words", told.getvalue()
        if "secret" in (printed.getvalue() + told.getvalue()).lower():
            return f"{arguments[0]}: names the patient", told.getvalue()
    if out.is_dir() and any(path.name.startswith(".") for path in out.iterdir()):
        return "partial files", lines[-1] if lines else ""
    return f"exit code {code}", lines[-1] if lines else ""


def peak_gib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 2**20


def report(trials: list[Trial], out: Path) -> None:
    counts = Counter(trial.outcome for trial in trials)
    print(table(["outcome", "files"], [[outcome, count] for outcome, count in counts.most_common()]))
    bad = [trial for trial in trials if trial.outcome not in WELL]
    slowest = sorted(trials, key=lambda trial: -trial.seconds)[:5]
    print("\nslowest:")
    print(
        table(["seconds", "series", "mutation"], [[f"{t.seconds:.1f}", t.kind, t.mutation] for t in slowest])
    )
    print(f"\nlargest peak of resident memory: {max(trial.peak_gib for trial in trials):.2f} GiB")
    if bad:
        print("\nnot well:")
        print(table(["seed", "series", "mutation", "outcome", "said"], [
            [trial.seed, trial.kind, trial.mutation, trial.outcome, trial.said[:100]] for trial in bad
        ]))  # fmt: skip
    write_json(
        {"platform": platform.platform(), "outcomes": counts, "bad": [asdict(trial) for trial in bad]},
        out / "results.json",
    )
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
