"""A library of atlases: written, read again, and searched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medseg.atlas.choices import AffineChoice
from medseg.atlas.intensities import standardized
from medseg.atlas.library import Atlas, AtlasLibrary
from medseg.data.phantoms import make_phantom
from medseg.errors import BundleError
from medseg.files import read_json, write_json

CHOICE = AffineChoice(iterations=10)


@pytest.fixture(scope="module")
def atlases() -> list[Atlas]:
    found = []
    for seed in range(5):
        phantom = make_phantom("mr", seed, shape=(24, 26, 20))
        indices = (phantom.label.array[0] > 0).astype(np.uint8)
        found.append(Atlas(f"case_{seed}", standardized(phantom.image), indices))
    return found


@pytest.fixture
def folder(atlases: list[Atlas], tmp_path: Path) -> Path:
    AtlasLibrary.build(atlases, tmp_path / "library", CHOICE, rounds=1)
    return tmp_path / "library"


def test_what_is_read_is_what_was_written(atlases: list[Atlas], folder: Path) -> None:
    library = AtlasLibrary.open(folder)
    assert library.names == tuple(atlas.name for atlas in atlases)
    atlas = library.read(3)
    np.testing.assert_array_equal(atlas.indices, atlases[3].indices)
    np.testing.assert_allclose(atlas.image.array, atlases[3].image.array, atol=1e-3)
    assert atlas.image.grid == atlases[3].image.grid
    assert library.region.any()
    assert not library.region.all()


def test_an_atlas_is_most_like_itself(atlases: list[Atlas], folder: Path) -> None:
    library = AtlasLibrary.open(folder)
    for number, atlas in enumerate(atlases):
        chosen = library.select(atlas.image, 2, CHOICE)
        assert len(chosen) == 2
        assert chosen[0].number == number
        # By way of the template it comes back to where it was.
        middle = np.append(atlas.image.grid.corners_mm().mean(axis=0), 1.0)
        assert np.abs(chosen[0].matrix @ middle - middle).max() < 2.0
    assert len(library.select(atlases[0].image, 99, CHOICE)) == len(library) == 5


@pytest.mark.parametrize("name", ["template.npz", "atlases/0001.npz"])
def test_damage_is_told(folder: Path, name: str) -> None:
    path = folder / name
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(BundleError, match="is damaged"):
        AtlasLibrary.open(folder).read(1)
    path.unlink()
    with pytest.raises(BundleError, match="is missing"):
        AtlasLibrary.open(folder).read(1)


def test_a_list_that_does_not_fit_is_told(folder: Path) -> None:
    write_json(read_json(folder / "atlases.json")[1:], folder / "atlases.json")
    with pytest.raises(BundleError, match="does not fit its list"):
        AtlasLibrary.open(folder)


def test_pickles_are_not_opened(folder: Path) -> None:
    np.savez(folder / "atlases" / "0000.npz", image=np.array([{}], dtype=object))
    with pytest.raises(BundleError, match="is damaged"):
        AtlasLibrary.open(folder).read(0)
    np.savez(folder / "atlases" / "0000.npz", image=np.full((1, 1, 1), np.nan), indices=[0], affine=np.eye(4))
    with pytest.raises(BundleError, match="not finite"):
        AtlasLibrary.open(folder).read(0)
