"""Thousands of DICOM files that lie: does each end in a verdict or in one line, soon and in little memory?

Mutates small sound series of five kinds (bits flipped, lengths changed, truncated, elements removed, absurd
numbers and texts, deep and endless sequences; see ``tests/data/dicom_mutations.py``), one file of each series
at a time, and gives the folder to ``scan_dicom`` (what ``medseg inspect`` shows) and to ``convert``. Prints
Markdown; ``results.json`` of ``--out`` has every file that did not end well, by its seed:

    PYTHONPATH=. python benchmarks/dicom_fuzz.py --out runs/fuzz [--files 5000] [--first-seed 0]

A process of its own does the work. A file may take ``--seconds`` of the processor's time, and the process's
address space may grow by ``--gib``. Not well are: another exception than medseg's, a message of several
lines, words that tell who the patient is, a hang, a process that died. Linux alone.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import shutil
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from measured import table

from medseg.conversion import convert
from medseg.errors import MedsegError
from medseg.files import write_json
from medseg.io.dicom import scan_dicom
from tests.data.dicom_mutations import mutated, write_sound_series
from tests.data.limits import TookTooLongError, limited

PATIENCE = 6
"""How many times its limit a file may take by the clock, where other processes compete for the cores."""
START_SECONDS = 60
WELL = ("written", "refused", "set aside", "error")


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
    write_sound_series(chosen.out / "sound")
    seeds = list(range(chosen.first_seed, chosen.first_seed + chosen.files))
    trials = list(tried(seeds, chosen.out, chosen.seconds, int(chosen.gib * 2**30)))
    report(trials, chosen.out)


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
            outcome, said = inspect_and_convert(folder, converted)
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


def inspect_and_convert(folder: Path, out: Path) -> tuple[str, str]:
    scan = scan_dicom(folder, processes=1)
    words = [f"{aside.kind}: {aside.what}" for aside in scan.set_aside]
    words += [
        word for volume in scan.volumes for one in volume.verdict.findings for word in (one.what, one.fix)
    ]
    outcome = "set aside" if scan.set_aside else "written"
    try:
        report = convert(folder, out, processes=1)
    except MedsegError as error:
        outcome = "error"
        words.append(str(error))
    else:
        errors = [volume.error for volume in report.volumes if volume.error is not None]
        words += map(str, errors)
        outcome = "refused" if errors else outcome
    if any("\n" in word for word in words):
        outcome = "several lines"
    if "secret" in " ".join(words).lower():
        outcome = "names the patient"
    return outcome, words[-1] if words else ""


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
