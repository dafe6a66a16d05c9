from __future__ import annotations

import bz2
import gzip
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from medseg.errors import GeometryError, InputError, ResourceError
from medseg.geometry import Grid
from medseg.io import read_header, read_volume, write_volume
from medseg.volume import Volume

RAMP = np.arange(24, dtype=np.int16)
PLACE = "space directions: (1,0,0) (0,2,0) (0,0,3)\nspace origin: (10,20,30)\nkinds: domain domain domain\n"
NRRD = "NRRD0004\n# made by hand\ntype: short\ndimension: 3\nsizes: 2 3 4\nendian: little\nencoding: raw\n"
META = (
    "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
    "TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 10 20 30\nElementSpacing = 1 2 3\n"
    "DimSize = 2 3 4\nElementType = MET_SHORT\n"
)


def nrrd(folder: Path, head: str, data: bytes | None = None) -> Path:
    path = folder / "made.nrrd"
    path.write_bytes(head.encode() + b"\n" + (RAMP.astype("<i2").tobytes() if data is None else data))
    return path


def meta(folder: Path, head: str = META, data: bytes | None = None, where: str = "LOCAL") -> Path:
    path = folder / "made.mha"
    end = f"ElementDataFile = {where}\n".encode()
    path.write_bytes(head.encode() + end + (RAMP.astype("<i2").tobytes() if data is None else data))
    return path


@pytest.mark.parametrize(
    ("space", "signs"),
    [
        ("left-posterior-superior", (-1, -1, 1)),
        ("LPS", (-1, -1, 1)),
        ("right-anterior-superior", (1, 1, 1)),
        ("RAS", (1, 1, 1)),
        ("left-anterior-superior", (-1, 1, 1)),
    ],
)
def test_anatomical_spaces_become_ras(tmp_path: Path, space: str, signs: tuple[int, int, int]) -> None:
    volume = read_volume(nrrd(tmp_path, NRRD + f"space: {space}\n" + PLACE))
    np.testing.assert_allclose(volume.grid.to_world((0, 0, 0)), np.multiply((10, 20, 30), signs))
    np.testing.assert_allclose(volume.grid.to_world((1, 1, 1)), np.multiply((11, 22, 33), signs))
    np.testing.assert_array_equal(volume.array[0], RAMP.reshape(2, 3, 4, order="F"))


@pytest.mark.parametrize("space", ["space: scanner-xyz\n", "space dimension: 3\n", ""])
def test_a_nrrd_without_anatomical_space_is_refused(tmp_path: Path, space: str) -> None:
    with pytest.raises(GeometryError, match="does not say where the volume lies"):
        read_header(nrrd(tmp_path, NRRD + space + PLACE))


@pytest.mark.parametrize("name", ["space directions", "space origin"])
def test_a_nrrd_without_place_is_refused(tmp_path: Path, name: str) -> None:
    kept = "".join(line + "\n" for line in PLACE.splitlines() if not line.startswith(name))
    with pytest.raises(GeometryError, match=f"no '{name}'"):
        read_header(nrrd(tmp_path, NRRD + "space: LPS\n" + kept))


@pytest.mark.parametrize("field", ["TransformMatrix", "Offset", "ElementSpacing"])
def test_a_metaimage_without_place_is_refused(tmp_path: Path, field: str) -> None:
    kept = "".join(line + "\n" for line in META.splitlines() if not line.startswith(field))
    with pytest.raises(GeometryError, match=f"no '{field}'"):
        read_header(meta(tmp_path, kept))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("(0,2,0)", "(0,0,0)", "NaN|zero"),
        ("(0,2,0)", "(nan,nan,nan)", "finite numbers"),
        ("(10,20,30)", "(nan,20,30)", "finite numbers"),
        ("(0,2,0)", "(2,0,0)", "one plane"),
    ],
)
def test_a_nrrd_with_invalid_geometry_is_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(GeometryError, match=rf"made\.nrrd: .*({said})"):
        read_header(nrrd(tmp_path, NRRD + "space: LPS\n" + PLACE.replace(old, new)))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("Spacing = 1 2 3", "Spacing = 1 0 3", "zero"),
        ("Spacing = 1 2 3", "Spacing = nan 2 3", "finite numbers"),
        ("Offset = 10", "Offset = inf", "finite numbers"),
        ("Offset = 10", "Offset = left", "finite numbers"),
        ("Matrix = 1 0 0 0 1", "Matrix = 1 0 0 0 0", "zero|one plane"),
    ],
)
def test_a_metaimage_with_invalid_geometry_is_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(GeometryError, match=rf"made\.mha: .*({said})"):
        read_header(meta(tmp_path, META.replace(old, new)))


@pytest.mark.parametrize(("unit", "scale"), [("mm", 1.0), ("um", 1e-3), ("m", 1e3)])
def test_units_of_length_are_converted(tmp_path: Path, unit: str, scale: float) -> None:
    head = NRRD + "space: RAS\n" + PLACE + f'space units: "{unit}" "{unit}" "{unit}"\n'
    np.testing.assert_allclose(
        read_header(nrrd(tmp_path, head)).grid.to_world((1, 0, 0)), [11 * scale, 20 * scale, 30 * scale]
    )


def test_unknown_or_mixed_units_are_refused(tmp_path: Path) -> None:
    for units in ('"inch" "inch" "inch"', '"mm" "mm" "m"'):
        with pytest.raises(GeometryError, match="unit of length"):
            read_header(nrrd(tmp_path, NRRD + "space: RAS\n" + PLACE + f"space units: {units}\n"))


@pytest.mark.parametrize("position", [0, 1, 3])
def test_the_channel_axis_may_stand_anywhere(tmp_path: Path, position: int) -> None:
    sizes, kinds, directions = ["2", "3", "4"], ["domain"] * 3, ["(1,0,0)", "(0,2,0)", "(0,0,3)"]
    for words, word in ((sizes, "5"), (kinds, "list"), (directions, "none")):
        words.insert(position, word)
    head = (
        f"NRRD0004\ntype: short\ndimension: 4\nspace: LPS\nsizes: {' '.join(sizes)}\n"
        f"kinds: {' '.join(kinds)}\n"
        f"space directions: {' '.join(directions)}\nspace origin: (10,20,30)\nendian: little\nencoding: raw\n"
    )
    path = nrrd(tmp_path, head, np.arange(120, dtype="<i2").tobytes())
    volume = read_volume(path)
    oracle = sitk.GetArrayFromImage(sitk.ReadImage(str(path))).transpose(3, 2, 1, 0)
    np.testing.assert_array_equal(volume.array, oracle)
    assert read_header(path).channels == 5


def test_a_fourth_dimension_of_a_metaimage_holds_channels(tmp_path: Path) -> None:
    array = np.arange(120, dtype=np.int16).reshape(5, 4, 3, 2)
    image = sitk.GetImageFromArray(array, isVector=False)
    image.SetSpacing((1.0, 2.0, 3.0, 1.0))
    sitk.WriteImage(image, str(tmp_path / "four.mha"))
    volume = read_volume(tmp_path / "four.mha")
    np.testing.assert_array_equal(volume.array, array.transpose(0, 3, 2, 1))
    assert volume.grid.spacing_mm == (1.0, 2.0, 3.0)


def test_space_may_not_turn_into_the_fourth_axis(tmp_path: Path) -> None:
    head = META.replace("NDims = 3", "NDims = 4").replace("2 3 4", "2 3 4 1").replace("30\n", "30 0\n")
    head = head.replace("1 2 3\n", "1 2 3 1\n").replace(
        "1 0 0 0 1 0 0 0 1", "1 0 0 0 0 1 0 0 0 0 0 1 0 0 1 0"
    )
    with pytest.raises(GeometryError, match="fourth axis"):
        read_header(meta(tmp_path, head))


def test_big_endian_voxels(tmp_path: Path) -> None:
    expected = RAMP.reshape(2, 3, 4, order="F")
    data = RAMP.astype(">i2").tobytes()
    path = meta(tmp_path, META.replace("MSB = False", "MSB = True"), data)
    np.testing.assert_array_equal(read_volume(path).array[0], expected)
    path = nrrd(tmp_path, NRRD.replace("little", "big") + "space: LPS\n" + PLACE, data)
    np.testing.assert_array_equal(read_volume(path).array[0], expected)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("suffix", [".mhd", ".nhdr"])
def test_two_files_are_read_but_not_written(tmp_path: Path, suffix: str, compressed: bool) -> None:
    image = sitk.GetImageFromArray(RAMP.reshape(4, 3, 2))
    path = tmp_path / f"two{suffix}"
    sitk.WriteImage(image, str(path), compressed)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array[0], RAMP.reshape(2, 3, 4, order="F"))
    with pytest.raises(InputError, match=r"two files.*; write \.(mha|nrrd)"):
        write_volume(volume, tmp_path / f"new{suffix}")
    assert not (tmp_path / f"new{suffix}").exists()
    (data,) = (other for other in tmp_path.iterdir() if other != path)
    data.write_bytes(data.read_bytes()[:-8])
    with pytest.raises(InputError, match="truncated"):
        read_volume(path)
    data.unlink()
    with pytest.raises(InputError, match=f"its voxels are in '{data.name}', which does not exist"):
        read_volume(path)


@pytest.mark.parametrize("name", ["../secret.raw", "/etc/passwd", "LIST", "slice%03d.raw 1 4 1", ""])
def test_a_header_may_not_reach_for_other_files(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="not in one file beside it"):
        read_volume(meta(tmp_path, where=name))
    if name:
        with pytest.raises(InputError, match="not in one file beside it"):
            read_volume(nrrd(tmp_path, NRRD + "space: LPS\n" + PLACE + f"data file: {name}\n"))


def test_rare_ways_of_storing_are_refused(tmp_path: Path) -> None:
    packed = bz2.compress(RAMP.tobytes())
    with pytest.raises(InputError, match="encoded as 'bzip2'"):
        read_volume(nrrd(tmp_path, NRRD.replace("raw", "bzip2") + "space: LPS\n" + PLACE, packed))
    with pytest.raises(InputError, match="skip"):
        read_volume(nrrd(tmp_path, NRRD + "byte skip: 4\nspace: LPS\n" + PLACE))
    for change in ("BinaryData = False", "HeaderSize = 8", "HeaderSize = many"):
        with pytest.raises(InputError, match="not supported"):
            read_volume(meta(tmp_path, change + "\n" + META.replace("BinaryData = True\n", "")))


@pytest.mark.parametrize("position", [-3, -20])
def test_corrupt_compressed_voxels_are_noticed(tmp_path: Path, position: int) -> None:
    """ITK reads such a MetaImage without a word."""
    voxels = np.random.default_rng(0).integers(0, 999, 24).astype("<i2").tobytes()
    for write, head, packed in (
        (meta, "CompressedData = True\n" + META, zlib.compress(voxels)),
        (nrrd, NRRD.replace("raw", "gzip") + "space: LPS\n" + PLACE, gzip.compress(voxels, mtime=0)),
    ):
        assert read_volume(write(tmp_path, head, packed)).array.tobytes("F") == voxels
        damaged = bytearray(packed)
        damaged[position] ^= 0xFF
        with pytest.raises(InputError, match=r"is corrupt|is truncated"):
            read_volume(write(tmp_path, head, bytes(damaged)))
        with pytest.raises(InputError, match="is truncated"):
            read_volume(write(tmp_path, head, packed[:position]))


def test_trailing_bytes_do_not_matter(tmp_path: Path) -> None:
    path = meta(tmp_path, data=RAMP.astype("<i2").tobytes() + b"more")
    np.testing.assert_array_equal(read_volume(path).array[0], RAMP.reshape(2, 3, 4, order="F"))


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    for name, content, said in (
        ("a.nrrd", b"", "is empty"),
        ("a.mha", b"", "is empty"),
        ("a.nrrd", b"hello world", "is no NRRD file"),
        ("a.mha", b"hello world", "is no MetaImage file"),
        ("a.nrrd", (NRRD + "space: LPS\n" + PLACE).encode(), "ends within its header"),
        ("a.mha", META.encode(), "ends within its header"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=said):
            read_volume(tmp_path / name)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("DimSize = 2 3 4", "DimSize = 2 3 -4", "sizes"),
        ("DimSize = 2 3 4", "DimSize = 2 0 4", "sizes"),
        ("DimSize = 2 3 4", "DimSize = 2 ² 4", "sizes"),
        ("DimSize = 2 3 4", "DimSize = 30000 30000 30000", "30000x30000x30000"),
        ("MET_SHORT", "MET_NONSENSE", "damaged|voxels are"),
        ("DimSize = 2 3 4", "DimSize = 2 3 4 1", "contradicts itself|damaged"),
    ],
)
def test_damaged_metaimage_headers_are_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_volume(meta(tmp_path, META.replace(old, new)))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("type: short", "type: nonsense", "damaged"),
        ("sizes: 2 3 4", "sizes: 2 3", "2D|damaged"),
        ("sizes: 2 3 4", "sizes: a", "sizes"),
    ],
)
def test_damaged_nrrd_headers_are_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_volume(nrrd(tmp_path, NRRD.replace(old, new) + "space: LPS\n" + PLACE))


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_complex_voxels_and_planes_are_refused(tmp_path: Path, suffix: str) -> None:
    path = str(tmp_path / f"a{suffix}")
    if suffix == ".nrrd":
        sitk.WriteImage(sitk.Image(2, 3, 4, sitk.sitkComplexFloat32), path)
        with pytest.raises(InputError, match=r"complex|contradicts"):
            read_volume(path)
    plane = sitk.Image(2, 3, sitk.sitkUInt8)
    sitk.WriteImage(plane, path)
    with pytest.raises((InputError, GeometryError)):
        read_volume(path)


def test_a_sheared_grid_is_refused_for_writing(tmp_path: Path) -> None:
    affine = np.eye(4)
    affine[1, 2] = 0.3
    for name in ("a.mha", "a.nrrd"):
        with pytest.raises(GeometryError, match=rf"{name}: .*sheared; write \.nii\.gz"):
            write_volume(Volume(RAMP.reshape(1, 2, 3, 4), Grid((2, 3, 4), affine)), tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_the_reason_of_a_failed_write_is_the_systems(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = Volume(RAMP.reshape(1, 2, 3, 4), Grid((2, 3, 4), np.eye(4)))

    def fail(_writer: sitk.ImageFileWriter, _image: sitk.Image) -> None:
        raise RuntimeError("first line\nITK ERROR: no idea")

    monkeypatch.setattr(sitk.ImageFileWriter, "Execute", fail)
    with pytest.raises(InputError, match=r"could not be written .*no idea"):
        write_volume(volume, tmp_path / f"a{suffix}")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ResourceError, match="no space left"):
        write_volume(volume, tmp_path / f"a{suffix}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_slabs_are_written_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, channels: int
) -> None:
    monkeypatch.setattr("medseg.io.voxels._SLAB_BYTES", 50)
    array = np.random.default_rng(0).integers(0, 99, (channels, 2, 3, 7)).astype(np.int16)
    write_volume(Volume(array, Grid((2, 3, 7), np.eye(4))), tmp_path / f"a{suffix}")
    read = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / f"a{suffix}")))
    np.testing.assert_array_equal(read, array[0].T if channels == 1 else array.transpose(3, 2, 1, 0))
