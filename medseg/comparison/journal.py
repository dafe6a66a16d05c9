"""The journal of a job: which of its cases were predicted."""

from __future__ import annotations

import json
import os
from typing import Any

from medseg.comparison.jobs import JobFolder

__all__ = ["finished_cases", "note_case"]


def finished_cases(folder: JobFolder) -> dict[str, dict[str, Any]]:
    """What is noted of the cases that were predicted, by id; those whose label map is gone are left out."""
    if not folder.cases.is_file():
        return {}
    found = {}
    for line in folder.cases.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue  # the line that was being written when the process was killed
        if entry["output"] is None or (folder.predictions / entry["output"]).is_file():
            found[entry["case"]] = entry
    return found


def note_case(entry: dict[str, Any], folder: JobFolder) -> None:
    """Note at once that a case was predicted; a line that a killed process left unfinished stays alone."""
    torn = folder.cases.is_file() and not folder.cases.read_bytes().endswith(b"\n")
    with folder.cases.open("a", encoding="utf-8") as handle:
        handle.write(("\n" if torn else "") + json.dumps(entry) + "\n")
        handle.flush()
        os.fsync(handle.fileno())
