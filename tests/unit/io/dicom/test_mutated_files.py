"""Files that lie end in a verdict, in a file set aside or in an error of medseg; soon, in little memory."""

from __future__ import annotations

import itertools
import shutil
import sys
from pathlib import Path

import pytest

from medseg.errors import MedsegError
from medseg.io.dicom import header_file
from medseg.io.dicom.scan import DicomScan, scan_dicom
from medseg.io.dicom.volumes import read_dicom_volume
from tests.data.dicom_mutations import empty_items, mutated, write_sound_series
from tests.data.limits import limited

CPU_SECONDS = 20.0
MORE_BYTES = 1 << 30
SEEDS = range(2, 16)
"""Number 1 is a sequence of 200,000 items, which takes seconds to read: one kind is enough for it."""

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are set by Linux's means"),
    pytest.mark.filterwarnings("ignore::UserWarning"),  # what pydicom says of such files
]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    return write_sound_series(tmp_path_factory.mktemp("sound"))


def spoken(scan: DicomScan) -> list[str]:
    """All words that a scan has for the user."""
    findings = [finding for volume in scan.volumes for finding in volume.verdict.findings]
    words = [word for finding in findings for word in (finding.what, finding.fix)]
    return [*words, *scan.warnings, *(f"{aside.kind} {aside.what}" for aside in scan.set_aside)]


def read_all(folder: Path) -> list[str]:
    """Scan a folder and read its volumes; what was said."""
    scan = scan_dicom(folder, processes=1)
    said = spoken(scan)
    for volume in scan.volumes:
        try:
            read_dicom_volume(volume)
        except MedsegError as error:
            said.append(str(error))
    return said


@pytest.mark.parametrize(
    ("kind", "seed"),
    [
        *itertools.product(
            ["explicit", "implicit", "deflated", "RLE", "JPEG-LS", "colours", "enhanced"], SEEDS
        ),
        ("explicit", 1),
    ],
)
def test_a_mutated_file_is_told_of(
    sound: dict[str, list[Path]], tmp_path: Path, kind: str, seed: int
) -> None:
    folder = shutil.copytree(sound[kind][0].parent, tmp_path / "series")
    path = folder / sound[kind][len(sound[kind]) // 2].name
    _, content = mutated(path.read_bytes(), seed)
    path.write_bytes(content)
    with limited(CPU_SECONDS, MORE_BYTES):
        said = read_all(folder)
    assert all("\n" not in line for line in said)
    assert "secret" not in " ".join(said).lower()


@pytest.mark.parametrize("kind", ["explicit", "enhanced"])
def test_a_file_of_empty_items_is_told_of_before_it_is_read_to_its_end(
    sound: dict[str, list[Path]], tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(header_file, "MOST_READS", header_file.MOST_READS // 20)
    path = tmp_path / "long.dcm"
    path.write_bytes(empty_items(sound[kind][0].read_bytes(), 1_000_000))
    with limited(CPU_SECONDS, MORE_BYTES // 2):
        assert [aside.kind for aside in scan_dicom(tmp_path, processes=1).set_aside] == ["damaged"]
