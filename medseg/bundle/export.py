"""From a run or bundle to a bundle: written beside its place, proven, and only then given its name."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from medseg import __version__
from medseg.bundle.archive import write_archive, write_checksums
from medseg.bundle.clean_process import CleanPython
from medseg.bundle.formats import FormatReport, NetworkOfFold, require_formats, write_formats
from medseg.bundle.of_others import BundleOfOthers
from medseg.bundle.of_runs import BundleOfRun
from medseg.bundle.options import Exported, ExportOptions
from medseg.bundle.verification import MARGIN, TOLERANCE, CaseAgreement, as_json
from medseg.errors import InputError, explain_os_errors
from medseg.files import remove_partials_of, require_writable_folder, write_json
from medseg.progress import Progress, SilentProgress
from medseg.runs.bundle import is_bundle
from medseg.segmenters.bundles.opening import open_bundle

__all__ = ["Source", "export_bundle"]


class Source(Protocol):
    """What a bundle is made of, read and checked."""

    @property
    def proof(self) -> str:
        """What is compared, in a sentence."""
        ...

    @property
    def hidden(self) -> tuple[str, ...]:
        """More packages that it is proven without."""
        ...

    def networks(self) -> Sequence[NetworkOfFold]:
        """What can be written in other formats."""
        ...

    def write(self, folder: Path) -> None:
        """Write all files that do not rest on running it; ``folder`` is made here."""
        ...

    def verify(self, folder: Path, python: CleanPython, scratch: Path) -> list[CaseAgreement]:
        """Run it where medseg cannot be imported, and compare; raises BundleError where it disagrees."""
        ...

    def describe(self, folder: Path, cases: Sequence[CaseAgreement], formats: Sequence[FormatReport]) -> None:
        """Write the model card."""
        ...


def export_bundle(
    model: str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: ExportOptions | None = None,
    progress: Progress | None = None,
) -> Exported:
    """Make a MONAI bundle of a run or of another bundle, and prove it.

    Args:
        model: The folder of a run or bundle, or a bundle's ``.zip``.
        out: The bundle's folder, which must not exist yet; its name is the bundle's.
        options: How.
        progress: Shows how far it has come.

    Returns:
        What was written. Of an export that fails, nothing is left.

    Raises:
        InputError: There is no run or bundle; no case to prove it on, or one that cannot be read; or there
            is something at ``out``.
        GeometryError: A case's geometry is invalid.
        ConfigError: A choice does not fit, or the interpreter lacks what MONAI needs.
        BundleError: The run or bundle is damaged, or would execute code and is not trusted; or the new bundle
            does not run without medseg, or gives something else.
    """
    chosen, shown = options or ExportOptions(), progress or SilentProgress()
    target = Path(out).absolute()
    archive = target.with_name(f"{target.name}.zip") if chosen.archive else None
    for path in (target, *(() if archive is None else (archive,))):
        if path.exists():
            raise InputError("is there already", where=path, fix="remove it, or choose another --out")
    require_formats(chosen.formats)
    source = _source(model, target.name, chosen)
    require_writable_folder(target.parent)

    with tempfile.TemporaryDirectory(prefix="medseg-export-") as scratch_name:
        scratch = Path(scratch_name)
        python = CleanPython.of(chosen.python, scratch, source.hidden)
        with _staged(target, archive) as staged:
            source.write(staged)
            networks = source.networks()
            with shown.task("Formats", len(chosen.formats) * len(networks)) as advance:
                formats = write_formats(networks, chosen.formats, staged, advance)
            with shown.task("Verification", 1) as advance:
                agreements = source.verify(staged, python, scratch)
                advance(1)
            write_json(
                _verification(source, python, agreements, formats), staged / "docs" / "verification.json"
            )
            source.describe(staged, agreements, formats)
            write_checksums(staged)
            if archive is not None:
                write_archive(staged, archive, target.name)
    return Exported(target, archive, tuple(agreements), tuple(formats))


def _source(model: str | os.PathLike[str], name: str, options: ExportOptions) -> Source:
    if is_bundle(model) and not open_bundle(model).is_run:
        return BundleOfOthers.read(model, options)
    return BundleOfRun.read(model, name, options)


@contextmanager
def _staged(target: Path, archive: Path | None) -> Iterator[Path]:
    """A folder that becomes the target if all goes well; otherwise it goes, and the archive too."""
    for path in (target, *(() if archive is None else (archive,))):
        remove_partials_of(path)
    staged = target.with_name(f".{secrets.token_hex(6)}.part.{target.name}")
    try:
        with explain_os_errors(target):
            yield staged
            staged.rename(target)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        if archive is not None and not target.exists():
            archive.unlink(missing_ok=True)
            archive.with_name(f"{archive.name}.sha256").unlink(missing_ok=True)
        raise


def _verification(
    source: Source, python: CleanPython, cases: Sequence[CaseAgreement], formats: Sequence[FormatReport]
) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "what": source.proof,
        "environment": python.environment(),
        "medseg": __version__,
        "largest_probability_difference_allowed": TOLERANCE,
        "near_tie_margin": MARGIN,
        "cases": as_json(cases),
        "formats": [report.as_json() for report in formats],
    }
