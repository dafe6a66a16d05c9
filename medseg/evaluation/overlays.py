"""Pictures of the worst, the median and the best case."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.errors import ConfigError, MedsegError
from medseg.evaluation.pairs import Pair, find_images
from medseg.io import read_header, read_volume
from medseg.labels import LabelScheme
from medseg.pictures import can_draw, overlay
from medseg.volume import Volume

__all__ = ["OVERLAYS", "RANKS", "Pictures", "Ranked", "can_draw", "draw_overlays", "rank_cases"]

OVERLAYS = "overlays"
"""The folder of the pictures, within that of the evaluation."""

RANKS = ("worst", "best", "median")
"""The cases that are drawn, and their pictures' names; the first ones matter most if there are few cases."""


@dataclass(frozen=True)
class Pictures:
    """That overlays are drawn, and on what.

    Attributes:
        images: Folder of images named as the references; without one, overlays show the label maps alone.
    """

    images: str | os.PathLike[str] | None = None

    def find(self, pairs: Sequence[Pair]) -> dict[str, Path]:
        """The images by case, found before any work starts.

        Raises:
            ConfigError: matplotlib is not installed.
            InputError: The folder is missing, or holds no image of any case.
        """
        if not can_draw():
            raise ConfigError(
                "pictures need matplotlib, which is not installed",
                fix="pip install 'medseg[report]', or give --no-pictures",
            )
        return {} if self.images is None else find_images(self.images, [pair.case for pair in pairs])


@dataclass(frozen=True)
class Ranked:
    """A case to be drawn.

    Attributes:
        rank: Why it is drawn: ``"worst"``, ``"median"`` or ``"best"``.
        pair: Its files.
        title: What stands above the picture.
    """

    rank: str
    pair: Pair
    title: str


def rank_cases(scores: Mapping[str, float], pairs: Sequence[Pair], measure: str) -> list[Ranked]:
    """Choose the worst, the median and the best case; of fewer than three cases none is drawn twice.

    Args:
        scores: A number for each case, worst first; cases without anything to score are left out.
        pairs: The cases' files.
        measure: What the numbers are, for the titles.

    Example:
        >>> pairs = [Pair(case, None, Path(case)) for case in "abc"]
        >>> [entry.title for entry in rank_cases({"b": 0.1, "a": 0.5, "c": 0.9}, pairs, "Dice")]
        ['b, worst of 3: Dice 0.100', 'a, median of 3: Dice 0.500', 'c, best of 3: Dice 0.900']
    """
    cases = list(scores)
    files = {pair.case: pair for pair in pairs}
    places = {"worst": 0, "best": len(cases) - 1, "median": len(cases) // 2}
    taken: dict[int, str] = {}
    for rank in RANKS:
        taken.setdefault(places[rank], rank)
    return [
        Ranked(
            rank,
            files[cases[place]],
            f"{cases[place]}, {rank} of {len(cases)}: {measure} {scores[cases[place]]:.3f}",
        )
        for place, rank in sorted(taken.items())
        if cases
    ]


def draw_overlays(
    ranked: Sequence[Ranked],
    labels: LabelScheme,
    read: Callable[[Pair], tuple[Volume, Volume]],
    images: Mapping[str, Path],
    folder: Path,
) -> list[dict[str, Any]]:
    """Draw cases into ``overlays/``; former pictures there are replaced.

    Args:
        ranked: What to draw.
        labels: The classes.
        read: Gives a case's reference and prediction, on one grid.
        images: Images by case; a case without one, or with one on another grid, is drawn on black.
        folder: Of the evaluation.

    Returns:
        For each picture its ``rank``, ``case``, ``file`` (within ``folder``), ``image``, and why that was
        not used, if it was not (``note``).
    """
    drawn = []
    for entry in ranked:
        reference, prediction = read(entry.pair)
        image, note = _image_for(entry.pair.case, reference, images)
        file = f"{OVERLAYS}/{entry.rank}.png"
        overlay(folder / file, image, labels, reference, prediction, entry.title)
        path = None if image is None else str(images[entry.pair.case])
        drawn.append({"rank": entry.rank, "case": entry.pair.case, "file": file, "image": path, "note": note})
    return drawn


def _image_for(case: str, reference: Volume, images: Mapping[str, Path]) -> tuple[Volume | None, str | None]:
    if not images:
        return None, None
    if case not in images:
        return None, "there is no image of this case"
    try:
        difference = reference.grid.difference(read_header(images[case]).grid)
        if difference is not None:
            return None, f"the image lies on another grid: {difference}"
        return read_volume(images[case]), None
    except MedsegError as error:
        return None, str(error)  # a picture is no reason to lose the scores
