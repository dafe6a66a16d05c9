"""A bundle that others made, as MONAI's model zoo has: its files as they are, proven, in other formats."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg.bundle.clean_process import CleanPython
from medseg.bundle.formats import FormatReport, NetworkOfFold
from medseg.bundle.metadata import Statement
from medseg.bundle.options import ExportOptions
from medseg.bundle.verification import CaseAgreement, compare_case, placed_case, require_agreement
from medseg.errors import BundleError, ConfigError, InputError, explain_os_errors
from medseg.files import read_json, write_json, write_text
from medseg.inference import choose_compute
from medseg.io import Case, read_volume
from medseg.runs.bundle import BundleFolder
from medseg.segmenters import open_image
from medseg.segmenters.bundles.metadata import network_format
from medseg.segmenters.bundles.opening import open_bundle
from medseg.segmenters.bundles.zoo import BundleSegmenter, load_bundle_segmenter
from medseg.segmenters.whole_image import whole_volume

__all__ = ["BundleOfOthers"]

_LARGER = 32
"""Voxels along the first axis by which the other size of a format's proof is larger: networks of others
seldom take sizes that their levels do not divide."""

_RUNS = ("run", "evaluating")
_METADATA = Path("configs", "metadata.json")
_SAID = ("authors", "copyright", "license", "intended_use", "data_source")


@dataclass(frozen=True)
class BundleOfOthers:
    """See ``medseg.bundle.export.Source``.

    Attributes:
        bundle: The bundle.
        segmenter: What medseg makes of it.
        size: Voxels along each axis of an image that its metadata tell of; ``None`` where they do not.
        statement: What a person says; ``None`` if nothing.
        license_text: Of the bundle; its own if left out.
        cases: Images that it is proven on.
    """

    bundle: BundleFolder
    segmenter: BundleSegmenter
    size: tuple[int, ...] | None
    statement: Statement | None
    license_text: str | None
    cases: tuple[Case, ...]

    proof = "label maps of 'monai.bundle run' where medseg cannot be imported, against 'medseg predict'"
    hidden = ()

    @classmethod
    def read(cls, model: str | os.PathLike[str], options: ExportOptions) -> BundleOfOthers:
        """Make its network, and read the images, before anything is written.

        Raises:
            InputError: There is no image to prove it on, or one cannot be read.
            GeometryError: An image's geometry is invalid.
            ConfigError: A choice does not fit.
            BundleError: It would execute code and is not trusted; or it is damaged, or cannot be run.
        """
        bundle = open_bundle(model)
        for option, chosen in (
            ("--fold", options.folds is not None),
            ("--checkpoint", options.checkpoint != "last"),
            ("--scores", options.scores is not None),
        ):
            if chosen:
                raise ConfigError(
                    f"says nothing of {bundle.name}, which medseg did not train",
                    where=option,
                    fix="leave it out",
                )
        if not options.cases:
            raise InputError(
                "knows no case to prove it on", where=bundle.name, fix="give an image by --input"
            )
        segmenter = load_bundle_segmenter(bundle, choose_compute("cpu"), trust=options.trust)
        _require_ways_in(bundle)
        for case in options.cases:
            with open_image(case, segmenter.channel_names) as image:
                whole_volume(image)
        size = network_format(bundle.metadata() or {}, bundle.name).input_shape
        if options.formats and size is None:
            raise BundleError(
                "metadata.json tells no size of an image to trace the network by",
                where=bundle.name,
                fix="write numbers into the spatial_shape of its image",
            )
        text = None
        if options.license_file is not None:
            with explain_os_errors(options.license_file):
                text = options.license_file.read_text(encoding="utf-8")
        return cls(bundle, segmenter, size, options.statement, text, options.cases)

    def networks(self) -> Sequence[NetworkOfFold]:
        """See ``Source``."""
        if self.size is None:
            return []
        return [
            NetworkOfFold(
                fold=0,
                weights="models/model.pt",
                load=lambda: self.segmenter.network,
                channels=len(self.segmenter.channel_names),
                size=self.size,
                other_size=(self.size[0] + _LARGER, *self.size[1:]),
            )
        ]

    def write(self, folder: Path) -> None:
        """A copy of every file, with what is said now."""
        if any(path.is_symlink() for path in self.bundle.path.rglob("*")):
            raise BundleError("holds links", where=self.bundle.name, fix="replace them by what they lead to")
        shutil.copytree(self.bundle.path, folder, ignore=shutil.ignore_patterns("__pycache__"))
        if self.license_text is not None:
            write_text(self.license_text, folder / "LICENSE")
        if self.statement is not None:
            _say(self.statement, folder / _METADATA)

    def verify(self, folder: Path, python: CleanPython, scratch: Path) -> list[CaseAgreement]:
        """Its own run of each image against medseg's; of probabilities nothing is known."""
        found = []
        for number, case in enumerate(self.cases, start=1):
            files = placed_case(case, f"case_{number}", scratch / "images")
            labels = self._run(folder, files, python, scratch / "results" / str(number))
            found.append(compare_case(self.segmenter, files, read_volume(labels)))
            require_agreement(found[-1], number)
        return found

    def describe(self, folder: Path, cases: Sequence[CaseAgreement], formats: Sequence[FormatReport]) -> None:
        """Its model card stays its authors'."""

    def _run(self, folder: Path, files: Sequence[Path], python: CleanPython, results: Path) -> Path:
        config = self.bundle.inference()
        image = str(files[0]) if len(files) == 1 else [str(file) for file in files]
        name = next(name for name in _RUNS if name in config)
        logging = folder / "configs" / "logging.conf"
        python.bundle(
            folder,
            *("run", name),
            *("--config_file", str(self.bundle.inference_file.relative_to(self.bundle.path))),
            *("--meta_file", str(_METADATA)),
            *(("--logging_file", str(logging)) if logging.is_file() else ()),
            *("--bundle_root", str(folder)),
            *("--output_dir", str(results)),
            *(("--device", "$torch.device('cpu')") if "device" in config else ()),
            *("--dataset#data", f"$[{{'image': {image!r}}}]"),
            fix="correct its configs, or install what they need",
        )
        written = sorted(results.rglob("*.nii*"))
        if len(written) != 1:
            raise BundleError(
                f"wrote {len(written)} label maps of an image",
                where=self.bundle.name,
                fix="correct its configs",
            )
        return written[0]


def _require_ways_in(bundle: BundleFolder) -> None:
    """Refuse a bundle that an image cannot be given to, as those of the zoo can."""
    config = bundle.inference()
    dataset = config.get("dataset")
    if (
        "output_dir" not in config
        or not (isinstance(dataset, dict) and "data" in dataset)
        or not any(name in config for name in _RUNS)
    ):
        raise BundleError(
            "configs/inference lacks dataset#data, output_dir or run, by which an image is given to it",
            where=bundle.name,
            fix="name them as MONAI's model zoo does",
        )


def _say(statement: Statement, path: Path) -> None:
    """Write what is said, and nothing that was not: the bundle is others'."""
    metadata, silent = read_json(path), Statement()
    metadata["version"] = statement.version
    metadata["changelog"] = {statement.version: statement.changes, **statement.earlier}
    for key in _SAID:
        said = getattr(statement, key)
        if key in metadata or said != getattr(silent, key):
            metadata[key] = said
    write_json(metadata, path)
