"""Names of converted volumes: stable, safe, and of nobody."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medseg.conversion.names import volume_digest, volume_label, volume_names
from medseg.io.dicom import DicomVolume
from medseg.io.dicom.frames import Frame, Series
from medseg.io.dicom.verdict import Verdict

SERIES = Series(
    "1.2.3", "1.2", None, "1.2.840.10008.5.1.4.1.1.2", "CT", number=4, description="Doe, John: T1"
)


def volume(path: Path | None = None, *, number: int = 0, traits: dict[str, Any] | None = None) -> DicomVolume:
    frame = Frame(
        path=path or Path("a.dcm"),
        sop_instance_uid="1.2.3.4",
        number=number,
        tile=None,
        series=SERIES,
        rows=1,
        columns=1,
        samples=1,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        position=None,
        orientation=None,
        spacing=None,
    )
    return DicomVolume(SERIES, (frame,), Verdict(), traits=traits or {})


def test_a_digest_has_twelve_digits_and_is_the_same_everywhere() -> None:
    found = volume_digest([volume(traits={"EchoTime": 4.5, "ImageType": ("A", "B")})])
    assert found == volume_digest([volume(Path("b"), traits={"ImageType": ("A", "B"), "EchoTime": 4.5})])
    assert len(found) == 12
    assert int(found, 16) >= 0
    assert volume_digest([volume()]) == "efe056b542e9"  # sha256 of [["1.2.3", []]]


def test_series_and_traits_change_the_digest() -> None:
    one = volume(traits={"EchoTime": 4.5})
    other = replace(one, series=replace(SERIES, uid="1.2.4"))
    digests = [volume_digest(group) for group in ([one], [other], [volume()], [one, volume()])]
    assert len(set(digests)) == 4


def test_hashed_names_of_nobody() -> None:
    assert volume_names([[volume()]], keep_names=False) == [volume_digest([volume()])]


@pytest.mark.parametrize(
    ("number", "description", "name"),
    [
        (4, "Doe, John: T1", "004_Doe_John_T1"),
        (None, "T1", "T1"),
        (12, "", "012"),
        (1, "../../etc/passwd", "001_etc_passwd"),
        (1, "Schädel\x00 ß|*?", "001_Schadel"),
        (1, "x" * 200, "001_" + "x" * 64),
    ],
)
def test_kept_names_are_safe(number: int | None, description: str, name: str) -> None:
    made = replace(volume(), series=replace(SERIES, number=number, description=description))
    assert volume_names([[made]], keep_names=True) == [name]


def test_a_series_without_number_and_description_gets_its_digest() -> None:
    made = replace(volume(), series=replace(SERIES, number=None, description="…"))
    assert volume_names([[made]], keep_names=True) == [volume_digest([made])]


def test_no_volume_takes_the_name_of_the_report(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(b"1")
    made = replace(volume(path), series=replace(SERIES, number=None, description="conversion"))
    (name,) = volume_names([[made]], keep_names=True)
    assert name.startswith("conversion_")


def test_what_nothing_tells_apart_is_told_apart_by_its_files(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in "abc"]
    for path, content in zip(paths, (b"1", b"2", b"1"), strict=True):
        path.write_bytes(content)
    one, other, copy, second = (
        volume(paths[0]),
        volume(paths[1]),
        volume(paths[2]),
        volume(paths[0], number=1),
    )
    names = volume_names([[one], [other], [copy], [second]], keep_names=True)
    assert names[0] == names[2]
    assert len(set(names)) == 3
    assert all(name.startswith("004_Doe_John_T1_") for name in names)


def test_label() -> None:
    assert volume_label(volume()) == "4 Doe, John: T1"
    assert volume_label(replace(volume(), series=replace(SERIES, number=None, description=""))) == ""
