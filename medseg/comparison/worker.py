"""A process that fits one job's method, or predicts its held-out cases, and measures what that takes.

``python -m medseg.comparison.worker fit|predict JOB.json``. It ends when its standard input is closed, so
that nothing goes on when the comparison that started it was killed.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from medseg.comparison.jobs import Job, JobFolder
from medseg.errors import MedsegError

__all__ = ["main"]


def main(arguments: list[str]) -> int:
    """Do one phase of one job.

    Args:
        arguments: ``"fit"`` or ``"predict"``, and the job's file.

    Returns:
        The exit code.
    """
    phase, path = arguments
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # Not above: the processes that a method starts import this module again.
    from medseg.comparison.phases import fit_job, predict_job
    from medseg.runs.documents import load_json

    folder = JobFolder(Path(path).parent)
    try:
        {"fit": fit_job, "predict": predict_job}[phase](load_json(Job, path), folder)
    except MedsegError as error:
        print(f"medseg: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    return 0


def _end_with_parent() -> None:
    # Not sys.stdin, whose lock would be held for ever.
    while os.read(0, 1024):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
