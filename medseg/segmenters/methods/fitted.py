"""What segmenters have in common that look at the whole image and are read from what a fit wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from medseg.runs import Task
from medseg.runs.postprocess import PostprocessChoice
from medseg.segmenters.methods.base import Running
from medseg.segmenters.whole_image import WholeImageSegmenter

__all__ = ["FittedSegmenter"]


class FittedSegmenter(WholeImageSegmenter):
    """A whole-image segmenter whose model lies in a folder.

    Args:
        folder: What ``fit`` wrote; a subclass reads it.
        task: Classes and channels.
        options: As they were fitted with.
        running: Processes and memory.
        postprocess: What is done to a label map.

    Raises:
        ConfigError: ``postprocess`` names a class that is not there.
    """

    def __init__(
        self,
        folder: Path,  # noqa: ARG002
        task: Task,
        options: Any,  # noqa: ARG002
        *,
        running: Running,
        postprocess: PostprocessChoice | None = None,
    ) -> None:
        super().__init__(
            task.labels.without_ignore,
            task.channel_names,
            postprocess=postprocess,
            max_ram_bytes=running.max_ram_bytes,
            shared_by=running.shared_by,
        )

    @classmethod
    def load(
        cls, folder: Path, task: Task, options: Any, *, postprocess: PostprocessChoice, running: Running
    ) -> Self:
        """From the files that ``fit`` wrote; see ``Method.load``."""
        return cls(folder, task, options, running=running, postprocess=postprocess)
