"""What a method that is not a network must offer to be fitted, and to segment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from medseg.errors import BundleError, ConfigError, MedsegError
from medseg.io import Case
from medseg.progress import Progress
from medseg.registry import METHODS
from medseg.runs import FoldFolder, MethodRecipe, RunFolder, Task
from medseg.runs.documents import parse
from medseg.runs.part import Part
from medseg.runs.postprocess import PostprocessChoice
from medseg.segmenters.protocol import Segmenter

__all__ = ["Method", "Running", "load_method", "method_of", "options_of", "require_channel"]


@dataclass(frozen=True)
class Running:
    """Where a method works.

    Attributes:
        jobs: Processes that may work on one image, or on the cases of a fit.
        max_ram_bytes: Limit of the whole process; what is free, if ``None``.
        shared_by: How many segmenters share that memory.
    """

    jobs: int = 1
    max_ram_bytes: int | None = None
    shared_by: int = 1


class Method(Protocol):
    """A method is a class: nothing of it is kept between fitting and segmenting but files.

    Attributes:
        Options: All that a person chooses about it.
    """

    Options: ClassVar[type[Part]]

    @classmethod
    def fit(
        cls,
        cases: Sequence[Case],
        task: Task,
        options: Part,
        folder: Path,
        *,
        seed: int,
        running: Running,
        progress: Progress,
    ) -> None:
        """Learn from labelled cases, and write all that segmenting needs.

        Args:
            cases: Those that train.
            task: Classes and channels.
            options: An instance of ``Options``.
            folder: Exists and is empty; becomes the run's ``fold_K/model`` once all is written.
            seed: Of whatever is drawn.
            running: Processes and memory.
            progress: Shows how far it has come.

        Raises:
            InputError: A case cannot be learnt from.
            ConfigError: The options do not suit the data.
        """
        ...

    @classmethod
    def load(
        cls,
        folder: Path,
        task: Task,
        options: Part,
        *,
        postprocess: PostprocessChoice,
        running: Running,
    ) -> Segmenter:
        """What segments, from the files that ``fit`` wrote.

        Raises:
            MedsegError: They are damaged.
        """
        ...


def method_of(recipe: MethodRecipe) -> type[Method]:
    """The class of a recipe's method."""
    found: type[Method] = METHODS.resolve(recipe.method)
    return found


def options_of(recipe: MethodRecipe) -> Part:
    """A recipe's options, checked by its method.

    Raises:
        ConfigError: One is unknown, or does not fit.
    """
    return parse(method_of(recipe).Options, dict(recipe.options), f"options of {recipe.method}")


def load_method(
    run: RunFolder, fold: FoldFolder, running: Running, postprocess: PostprocessChoice | None = None
) -> Segmenter:
    """The segmenter of one fold of a run.

    Args:
        run: That of a method.
        fold: One that is finished.
        running: Processes and memory.
        postprocess: What is done to label maps; the recipe's if left out.

    Raises:
        BundleError: The run is damaged.
        ConfigError: A class that ``postprocess`` names is not there.
    """
    recipe, task = run.method_recipe(), run.task()
    chosen = recipe.postprocess if postprocess is None else postprocess
    if chosen.is_open:
        raise ConfigError(
            "postprocessing is chosen on validation cases while a network trains, and this is none",
            where="--postprocess",
            fix="say what shall be done",
        )
    try:
        options = options_of(recipe)
        return method_of(recipe).load(fold.model, task, options, postprocess=chosen, running=running)
    except ConfigError:
        raise
    except MedsegError as error:
        raise BundleError(
            f"the run is damaged: {error.what}", where=error.where or fold.model, fix="fit it anew"
        ) from error


def require_channel(task: Task, channel: int) -> None:
    """Refuse a channel that images do not have.

    Raises:
        ConfigError: There is no such channel.
    """
    if channel >= len(task.channel_names):
        raise ConfigError(
            f"there is no channel {channel}",
            where="options.channel",
            fix=f"choose one of 0 to {len(task.channel_names) - 1} ({', '.join(task.channel_names)})",
        )
