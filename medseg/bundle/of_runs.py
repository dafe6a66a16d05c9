"""A bundle of a run, or of an earlier bundle that was made of one: every file of it is written here."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from medseg.bundle.card import model_card
from medseg.bundle.clean_process import CleanPython
from medseg.bundle.content import BundleContent, read_content
from medseg.bundle.evaluation import Scores, known_scores, read_scores
from medseg.bundle.formats import FormatReport, NetworkOfFold
from medseg.bundle.inference_config import evaluation_config, inference_config
from medseg.bundle.metadata import Statement, medseg_document, metadata, statement_of
from medseg.bundle.options import ExportOptions
from medseg.bundle.scripts import write_scripts
from medseg.bundle.train_config import training_config
from medseg.bundle.verification import CaseAgreement, verify_bundle
from medseg.errors import ConfigError, InputError, MedsegError, explain_os_errors
from medseg.files import write_json, write_text
from medseg.io import Case
from medseg.segmenters import open_image, validation_cases
from medseg.segmenters.whole_image import whole_volume

__all__ = ["BundleOfRun"]

_LOGGING = """[loggers]
keys=root

[handlers]
keys=consoleHandler

[formatters]
keys=fullFormatter

[logger_root]
level=INFO
handlers=consoleHandler

[handler_consoleHandler]
class=StreamHandler
level=INFO
formatter=fullFormatter
args=(sys.stdout,)

[formatter_fullFormatter]
format=%(asctime)s - %(name)s - %(levelname)s - %(message)s
"""

_HEADERS = {
    "inference": "Segments the images of --dataset_dir into --output_dir, each on its own grid.",
    "evaluate": "Segments the labelled cases of --dataset_dir and scores them; tables go to --output_dir.",
    "train": "Fine-tunes on the labelled cases of --dataset_dir; the best weights go to models/finetuned.pt.",
}
_OTHER_SIZE = (11, 5, 3)
"""Voxels by which the other size of a format's proof is larger: odd ones, so that levels do not divide
evenly."""


@dataclass(frozen=True)
class BundleOfRun:
    """See ``medseg.bundle.export.Source``.

    Attributes:
        content: The run.
        statement: What a person says.
        scores: How well it does.
        license_text: Of the bundle.
        cases: Images that it is proven on.
    """

    content: BundleContent
    statement: Statement
    scores: Scores
    license_text: str
    cases: tuple[Case, ...]

    @classmethod
    def read(cls, model: str | os.PathLike[str], name: str, options: ExportOptions) -> BundleOfRun:
        """Read all that goes into it, before anything is written.

        Raises:
            InputError: There is no run, or no case to prove the bundle on, or one that cannot be read.
            GeometryError: A case's geometry is invalid.
            ConfigError: A choice does not fit.
            BundleError: The run is damaged.
        """
        content = read_content(model, name, folds=options.folds, checkpoint=options.checkpoint)
        scores = known_scores(content) if options.scores is None else read_scores(options.scores, content)
        cases = options.cases or _first_validation_case(content)
        for case in cases:  # in medseg's words, before MONAI meets them
            with open_image(case, content.plan.channel_names) as image:
                whole_volume(image)
        statement = options.statement or statement_of(model, {})
        return cls(content, statement, scores, _license(content, options.license_file), cases)

    proof = (
        "label maps and probabilities of 'monai.bundle run' where medseg cannot be imported, against "
        "'medseg predict --mode sliding-window'"
    )

    @property
    def hidden(self) -> tuple[str, ...]:
        """Packages that the bundle does not need, and is proven without."""
        return () if self.content.cleans else ("scipy",)

    def networks(self) -> Sequence[NetworkOfFold]:
        """See ``Source``."""
        content, patch = self.content, self.content.plan.patch_size
        return [
            NetworkOfFold(
                fold=fold,
                weights=weights,
                load=lambda index=index: content.network(index),  # type: ignore[misc]
                channels=content.channels,
                size=patch,
                other_size=tuple(length + more for length, more in zip(patch, _OTHER_SIZE, strict=True)),
            )
            for index, (fold, weights) in enumerate(zip(content.folds, content.weight_files, strict=True))
        ]

    def write(self, folder: Path) -> None:
        """All that does not rest on running it."""
        content, configs = self.content, folder / "configs"
        write_json(metadata(content, self.statement, self.scores.as_metrics()), configs / "metadata.json")
        write_json(medseg_document(content), configs / "medseg.json")
        made = {
            "inference": inference_config(content),
            "evaluate": evaluation_config(content),
            "train": training_config(content),
        }
        for name, config in made.items():
            text = yaml.dump(config, Dumper=_Plain, sort_keys=False, allow_unicode=True, width=100)
            write_text(f"# {_HEADERS[name]}\n{text}", configs / f"{name}.yaml")
        write_text(_LOGGING, configs / "logging.conf")
        write_text(self.license_text, folder / "LICENSE")
        write_scripts(content, folder / "scripts")
        (folder / "models").mkdir()
        for path, weights in zip(content.weight_files, content.weights(), strict=True):
            torch.save({name: tensor.contiguous() for name, tensor in weights.items()}, folder / path)

    def verify(self, folder: Path, python: CleanPython, scratch: Path) -> list[CaseAgreement]:
        """See ``Source``."""
        return verify_bundle(folder, self.content, self.cases, python, scratch)

    def describe(self, folder: Path, cases: Sequence[CaseAgreement], formats: Sequence[FormatReport]) -> None:
        """See ``Source``."""
        card = model_card(self.content, self.statement, self.scores, cases, formats)
        write_text(card, folder / "docs" / "README.md")


class _Plain(yaml.SafeDumper):
    """Plain data, each thing written out: readers of configs need not know anchors."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


def _first_validation_case(content: BundleContent) -> tuple[Case, ...]:
    index = content.folds[0]
    try:
        cases = validation_cases(content.source, [index])[index]
    except MedsegError as error:
        raise InputError(
            f"no case to prove the bundle on: {error.what}",
            where=content.source,
            fix="give one by --input, an image of the kind that the run was trained on",
        ) from error
    if not cases:
        raise InputError("has no validation case", where=content.source, fix="give an image by --input")
    return (cases[0],)


def _license(content: BundleContent, path: Path | None) -> str:
    if path is None and content.earlier is not None and (content.earlier.path / "LICENSE").is_file():
        path = content.earlier.path / "LICENSE"
    if path is not None:
        with explain_os_errors(path):
            return path.read_text(encoding="utf-8")
    checked_out = Path(__file__).parents[2] / "LICENSE"
    if checked_out.is_file():
        return checked_out.read_text(encoding="utf-8")
    text = importlib.metadata.distribution("medseg").read_text("licenses/LICENSE")
    if text is None:
        raise ConfigError("medseg's own licence is not installed", fix="give a text by --license-file")
    return text
