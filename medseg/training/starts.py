"""What each fold's network starts from: random weights, another run's encoder, or another network."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from medseg.files import read_json, write_json
from medseg.runs import Plan, Recipe, RunFolder
from medseg.training.fine_tuning import Match, Origin, load_matching, match_weights
from medseg.training.handover import EncoderSource, load_encoder, require_fitting_encoder

__all__ = ["Start", "starts_of", "write_reports"]


@dataclass(frozen=True)
class Start:
    """Weights that a fold starts from, proven to fit.

    Attributes:
        key: The recipe's key that names them: ``"init_encoder"`` or ``"init_from"``.
        weights: The file.
        origin: Of ``init_from``.
        match: Of ``init_from``: what is loaded of it.
    """

    key: str
    weights: Path
    origin: Origin | None = None
    match: Match | None = None

    def load(self, network: nn.Module, plan: Plan) -> None:
        """Give them to a network that was made by the plan."""
        if self.origin is None:
            load_encoder(network, self.weights)
        else:
            load_matching(network, plan, self.origin)

    @property
    def report(self) -> dict[str, Any] | None:
        """What is loaded and what is not, where not everything must fit."""
        if self.origin is None or self.match is None:
            return None
        return self.match.to_json(self.origin)

    @property
    def summary(self) -> str | None:
        """The report, for people."""
        if self.origin is None or self.match is None:
            return None
        return self.match.summary(self.origin)


def starts_of(recipe: Recipe, plan: Plan, folds: Iterable[int]) -> dict[int, Start]:
    """For each fold, the weights that it starts from; none if it starts at random.

    Raises:
        InputError: There is nothing where the recipe says that there is.
        ConfigError: An encoder does not fit, or nothing of a network does.
        BundleError: A file is damaged.
    """
    starts: dict[int, Start] = {}
    for fold in folds:
        origin = Origin.of(recipe, fold)
        if origin is not None:
            starts[fold] = Start("init_from", origin.weights, origin, match_weights(plan, origin))
        elif (source := EncoderSource.of(recipe)) is not None:
            starts[fold] = Start("init_encoder", source.weights(fold))
            require_fitting_encoder(plan, starts[fold].weights)
    return starts


def write_reports(run: RunFolder, starts: dict[int, Start]) -> None:
    """Write ``init_from.json``: for each fold, what is loaded and what is not, and why."""
    reports = {
        run.fold(fold).path.name: start.report for fold, start in starts.items() if start.report is not None
    }
    if reports:
        before = read_json(run.start_report) if run.start_report.is_file() else {}
        write_json(before | reports, run.start_report)
