"""From a run or bundle to a bundle: written beside its place, proven, and only then given its name."""

from __future__ import annotations

import importlib.metadata
import os
import secrets
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from medseg import __version__
from medseg.bundle.archive import write_archive, write_checksums
from medseg.bundle.card import model_card
from medseg.bundle.clean_process import CleanPython
from medseg.bundle.content import BundleContent, read_content
from medseg.bundle.evaluation import Scores, known_scores, read_scores
from medseg.bundle.formats import FormatReport, require_formats, write_formats
from medseg.bundle.inference_config import evaluation_config, inference_config
from medseg.bundle.metadata import Statement, medseg_document, metadata, statement_of
from medseg.bundle.scripts import write_scripts
from medseg.bundle.train_config import training_config
from medseg.bundle.verification import MARGIN, TOLERANCE, CaseAgreement, as_json, verify_bundle
from medseg.errors import ConfigError, InputError, MedsegError, explain_os_errors
from medseg.files import remove_partials_of, require_writable_folder, write_json, write_text
from medseg.io import Case
from medseg.progress import Progress, SilentProgress
from medseg.segmenters import open_image, validation_cases
from medseg.segmenters.whole_image import whole_volume

__all__ = ["ExportOptions", "Exported", "export_bundle"]

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


@dataclass(frozen=True)
class ExportOptions:
    """How a bundle is made.

    Attributes:
        folds: Which folds take part; all that are trained if left out.
        checkpoint: Weights of the ``"last"`` step, or the ``"best"`` validated.
        formats: Of ``medseg.bundle.FORMATS``, beside the weights.
        archive: Whether to write it as one file too.
        cases: Images that the bundle is proven on; a run's first validation case if left out.
        python: The interpreter that runs it; this one's, without medseg, if left out.
        scores: What ``medseg evaluate`` wrote; if left out, the last validation of the training, or what an
            earlier bundle says.
        statement: What a person says about it; what an earlier bundle says if left out.
        license_file: Text of the licence; that of an earlier bundle, or medseg's own if left out.
    """

    folds: tuple[int, ...] | None = None
    checkpoint: str = "last"
    formats: tuple[str, ...] = ()
    archive: bool = False
    cases: tuple[Case, ...] = ()
    python: str | None = None
    scores: Path | None = None
    statement: Statement | None = None
    license_file: Path | None = None


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        bundle: The folder.
        archive: The bundle as one file, if asked for.
        cases: How it agrees with medseg, on each case.
        formats: How each format agrees with the network.
    """

    bundle: Path
    archive: Path | None
    cases: tuple[CaseAgreement, ...]
    formats: tuple[FormatReport, ...]

    def cases_as_json(self) -> list[dict[str, Any]]:
        """As ``docs/verification.json`` holds them."""
        return as_json(self.cases)


def export_bundle(
    model: str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: ExportOptions | None = None,
    progress: Progress | None = None,
) -> Exported:
    """Make a MONAI bundle of a run, or of a bundle that was made of one, and prove it.

    Args:
        model: The folder of a run or bundle, or a bundle's ``.zip``.
        out: The bundle's folder, which must not exist yet; its name is the bundle's.
        options: How.
        progress: Shows how far it has come.

    Returns:
        What was written. Of an export that fails, nothing is left.

    Raises:
        InputError: There is no run, or a bundle of others; no case to prove the bundle on, or one that cannot
            be read; or something at ``out``.
        GeometryError: A case's geometry is invalid.
        ConfigError: A choice does not fit, or the interpreter lacks what MONAI needs.
        BundleError: The run is damaged; or the bundle does not run without medseg, or gives something else.
    """
    chosen, shown = options or ExportOptions(), progress or SilentProgress()
    target = Path(out).absolute()
    archive = target.with_name(f"{target.name}.zip") if chosen.archive else None
    for path in (target, *(() if archive is None else (archive,))):
        if path.exists():
            raise InputError("is there already", where=path, fix="remove it, or choose another --out")
    require_formats(chosen.formats)
    content = read_content(model, target.name, folds=chosen.folds, checkpoint=chosen.checkpoint)
    scores = known_scores(content) if chosen.scores is None else read_scores(chosen.scores, content)
    statement = chosen.statement or statement_of(model, {})
    license_text = _license(content, chosen.license_file)
    cases = chosen.cases or _first_validation_case(content)
    _require_readable(cases, content)
    require_writable_folder(target.parent)
    for path in (target, *(() if archive is None else (archive,))):
        remove_partials_of(path)

    with tempfile.TemporaryDirectory(prefix="medseg-export-") as scratch_name:
        scratch = Path(scratch_name)
        hidden = () if content.cleans else ("scipy",)
        python = CleanPython.of(chosen.python, scratch, hidden)
        staged = target.with_name(f".{secrets.token_hex(6)}.part.{target.name}")
        try:
            with explain_os_errors(target):
                _write(content, staged, statement, scores, license_text)
                with shown.task("Formats", len(chosen.formats) * len(content.folds)) as advance:
                    formats = write_formats(content, chosen.formats, staged, advance)
                with shown.task("Verification", 1) as advance:
                    agreements = verify_bundle(staged, content, cases, python, scratch)
                    advance(1)
                write_json(_verification(python, agreements, formats), staged / "docs" / "verification.json")
                card = model_card(content, statement, scores, agreements, formats)
                write_text(card, staged / "docs" / "README.md")
                write_checksums(staged)
                if archive is not None:
                    write_archive(staged, archive, target.name)
                staged.rename(target)
        except BaseException:
            shutil.rmtree(staged, ignore_errors=True)
            if archive is not None and not target.exists():
                archive.unlink(missing_ok=True)
                archive.with_name(f"{archive.name}.sha256").unlink(missing_ok=True)
            raise
    return Exported(target, archive, tuple(agreements), tuple(formats))


def _write(
    content: BundleContent, folder: Path, statement: Statement, scores: Scores, license_text: str
) -> None:
    """All that does not rest on running it."""
    configs = folder / "configs"
    write_json(metadata(content, statement, scores.as_metrics()), configs / "metadata.json")
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
    write_text(license_text, folder / "LICENSE")
    write_scripts(content, folder / "scripts")
    (folder / "models").mkdir()
    for path, weights in zip(content.weight_files, content.weights(), strict=True):
        torch.save({name: tensor.contiguous() for name, tensor in weights.items()}, folder / path)


class _Plain(yaml.SafeDumper):
    """Plain data, each thing written out: readers of configs need not know anchors."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


def _verification(
    python: CleanPython, cases: Sequence[CaseAgreement], formats: Sequence[FormatReport]
) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "what": "label maps and probabilities of 'monai.bundle run' where medseg cannot be imported, against "
        "'medseg predict --mode sliding-window'",
        "environment": python.environment(),
        "medseg": __version__,
        "largest_probability_difference_allowed": TOLERANCE,
        "near_tie_margin": MARGIN,
        "cases": as_json(cases),
        "formats": [report.as_json() for report in formats],
    }


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


def _require_readable(cases: Sequence[Case], content: BundleContent) -> None:
    """Refuse images that cannot be segmented in medseg's words, before MONAI meets them."""
    for case in cases:
        with open_image(case, content.plan.channel_names) as image:
            whole_volume(image)


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
