"""What a training leaves behind while it runs, what it shows, and when it stops."""

from __future__ import annotations

from medseg.training.watching.live_view import LiveView
from medseg.training.watching.pictures import Curves, WorstCasePicture
from medseg.training.watching.stopping import StopInTime
from medseg.training.watching.tables import (
    StepLog,
    ValidationLog,
    append_rows,
    drop_rows_after,
    log_numbers,
    read_rows,
)
from medseg.training.watching.weights import Checkpoints, load_resume_state, save_weights

__all__ = [
    "Checkpoints",
    "Curves",
    "LiveView",
    "StepLog",
    "StopInTime",
    "ValidationLog",
    "WorstCasePicture",
    "append_rows",
    "drop_rows_after",
    "load_resume_state",
    "log_numbers",
    "read_rows",
    "save_weights",
]
