"""Jobs in processes of their own, some at a time; one that fails leaves the others alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

from medseg.comparison.jobs import Job, JobFolder, Key
from medseg.comparison.journal import finished_cases
from medseg.errors import MedsegError
from medseg.evaluation import Pair, ScoringOptions, evaluate, summary_of, write_metrics
from medseg.evaluation.tables import METRICS_CSV, SUMMARY_JSON
from medseg.files import remove_partial_files, write_json
from medseg.io import Case
from medseg.labels import LabelScheme
from medseg.progress import Progress
from medseg.runs.documents import save_json

__all__ = ["JobFailed", "PlannedJob", "Runner", "Scoring"]

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_PHASES = 3  # fit, predict, score


@dataclass(frozen=True)
class PlannedJob:
    """A job and where its results go."""

    key: Key
    job: Job
    folder: JobFolder


@dataclass(frozen=True)
class Scoring:
    """How held-out cases are scored, and by what.

    Attributes:
        cases: By id, with their references.
        labels: The classes.
        options: What is measured.
    """

    cases: dict[str, Case]
    labels: LabelScheme
    options: ScoringOptions


class JobFailed(Exception):
    """A process ended otherwise than it should."""


@dataclass
class Runner:
    """Runs jobs.

    Attributes:
        scoring: Of predictions.
        threads: That a process may compute with.
        progress: Shows how far it is.
    """

    scoring: Scoring
    threads: int
    progress: Progress
    _running: set[subprocess.Popen[bytes]] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stopped: threading.Event = field(default_factory=threading.Event)

    def run(self, chains: Sequence[Sequence[PlannedJob]], at_a_time: int) -> None:
        """Run chains of jobs, several chains at a time, the jobs of each one after the other.

        Args:
            chains: The jobs that share a run's folder are one chain.
            at_a_time: How many chains.
        """
        total = _PHASES * sum(map(len, chains))
        with self.progress.task("Comparing", total) as advance, ThreadPoolExecutor(at_a_time) as pool:
            try:
                futures = [pool.submit(self._run_chain, chain, advance) for chain in chains]
                for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                    future.result()
            except BaseException:
                self._stop()
                raise

    def _run_chain(self, chain: Iterable[PlannedJob], advance: Callable[[float], None]) -> None:
        for planned in chain:
            if self._stopped.is_set():
                return
            try:
                self._run_job(planned, advance)
            except JobFailed as failure:
                if self._stopped.is_set():
                    return
                self.progress.note(f"{planned.key} failed: {failure}")
                write_json({"reason": str(failure)}, planned.folder.failed)

    def _run_job(self, planned: PlannedJob, advance: Callable[[float], None]) -> None:
        folder = planned.folder
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.failed.unlink(missing_ok=True)
        save_json(planned.job, folder.job)
        for phase, mark in (("fit", folder.fit), ("predict", folder.predict)):
            if not mark.is_file():
                if phase == "predict":
                    remove_partial_files(folder.path)
                self._call_worker(phase, folder)
            advance(1)
        if not all((folder.path / name).is_file() for name in (METRICS_CSV, SUMMARY_JSON)):
            try:
                self._score(planned)
            except MedsegError as error:
                raise JobFailed(f"scoring: {error}") from error
        advance(1)

    def _call_worker(self, phase: str, folder: JobFolder) -> None:
        command = [sys.executable, "-m", "medseg.comparison.worker", phase, str(folder.job)]
        environment = os.environ | dict.fromkeys(_THREADS, str(self.threads))
        with folder.log(phase).open("wb") as log:
            with self._lock:
                if self._stopped.is_set():
                    raise JobFailed("stopped")
                process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment
                )
                self._running.add(process)
            try:
                code = process.wait()
            finally:
                with self._lock:
                    self._running.discard(process)
                if process.stdin is not None:
                    process.stdin.close()
        if code != 0:
            raise JobFailed(f"{phase}: {_reason(code, folder.log(phase))}")

    def _score(self, planned: PlannedJob) -> None:
        folder, scoring = planned.folder, self.scoring
        done = finished_cases(folder)
        pairs = []
        for name in planned.job.held_out:
            label, output = scoring.cases[name].label, done.get(name, {}).get("output")
            if label is not None:
                pairs.append(Pair(name, None if output is None else folder.predictions / output, label))
        table = evaluate(pairs, scoring.labels, options=scoring.options, jobs=1)
        summary = summary_of(table) | {
            "predictions": str(folder.predictions),
            "references": str(pairs[0].reference.parent),
            "labels": "the data set's",
            "overlays": [],
        }
        write_metrics(table, folder.path, summary)

    def _stop(self) -> None:
        with self._lock:
            self._stopped.set()
            for process in self._running:
                process.terminate()


def _reason(code: int, log: Path) -> str:
    """The last thing that a process said, or the signal that ended it."""
    if code < 0:
        why = ", perhaps for want of memory" if -code == signal.SIGKILL else ""
        return f"the process was ended by signal {-code}{why}"
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("medseg: ") if lines else f"the process ended with code {code}"
