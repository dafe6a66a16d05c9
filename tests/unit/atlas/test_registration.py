"""Registration: known maps are found again, whatever the orientation; repeatable, cached, in processes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from medseg.atlas import register as register_module
from medseg.atlas.affine import register_affine
from medseg.atlas.cache import TransformCache, content_key
from medseg.atlas.choices import AffineChoice, DeformableChoice, RegistrationChoice
from medseg.atlas.deformable import register_deformable
from medseg.atlas.groupwise import build_template, mean_matrix
from medseg.atlas.intensities import standardized
from medseg.atlas.register import Pair, register, register_pairs
from medseg.atlas.transform import Transform
from medseg.errors import ConfigError, InputError
from medseg.geometry import Grid
from medseg.volume import Volume

SHAPE = (26, 30, 24)
GRID = Grid(SHAPE, np.diag([1.0, 1.0, 1.2, 1.0]))
QUICK = RegistrationChoice(deformable=DeformableChoice(iterations=(10, 5)))


def blobs(seed: int = 0, shift_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Volume:
    """A few soft ellipsoids of different brightness, with a texture; shifted as a whole."""
    rng = np.random.default_rng(seed)
    points = GRID.to_world(np.moveaxis(np.indices(SHAPE), 0, -1)) - shift_mm
    image = np.zeros(SHAPE)
    for _ in range(6):
        centre = GRID.to_world(np.array(SHAPE) / 2) + rng.uniform(-6.0, 6.0, 3)
        radii = rng.uniform(3.0, 6.0, 3)
        image += rng.uniform(0.5, 1.5) * np.exp(-(((points - centre) / radii) ** 2).sum(axis=-1))
    return Volume(image[np.newaxis].astype(np.float32), GRID)


def correlation(one: Volume, other: Volume) -> float:
    inner = (0, *(slice(4, -4),) * 3)
    return float(np.corrcoef(one.array[inner].ravel(), other.array[inner].ravel())[0, 1])


@pytest.mark.parametrize("axcodes", ["RAS", "LPS", "PIR"])
@pytest.mark.parametrize("metric", ["correlation", "mutual_information"])
def test_a_shift_is_found_in_any_orientation(metric: str, axcodes: str) -> None:
    fixed, moving = blobs(), blobs(shift_mm=(2.0, -1.5, 1.0)).reoriented(axcodes)
    choice = AffineChoice(metric=metric, shrink=(2, 1), smoothing_mm=(1.0, 0.0))
    found = register_affine(fixed, moving, choice)
    middle = np.append(GRID.to_world(np.array(SHAPE) / 2), 1.0)
    np.testing.assert_allclose((found @ middle - middle)[:3], (2.0, -1.5, 1.0), atol=0.4)
    laid = Transform(GRID, found).apply(moving)
    assert correlation(fixed, laid) > 0.99 > correlation(fixed, blobs(shift_mm=(2.0, -1.5, 1.0)))


def test_it_starts_where_it_is_told_to() -> None:
    fixed = blobs()
    far = Volume(fixed.array, Grid(SHAPE, GRID.affine + np.array([[0, 0, 0, 200.0]] + [[0.0] * 4] * 3)))
    known = np.eye(4)
    known[0, 3] = 200.0
    choice = AffineChoice(iterations=3)
    np.testing.assert_allclose(register_affine(fixed, far, choice, initial=known), known, atol=0.1)
    np.testing.assert_allclose(register_affine(fixed, far, choice), known, atol=0.1)  # their centres
    mask = np.zeros(SHAPE, bool)
    mask[8:18, 8:18, 8:18] = True
    masked = register_affine(fixed, far, choice, initial=known, fixed_mask=mask)
    np.testing.assert_allclose(masked, known, atol=0.1)
    with pytest.raises(InputError, match="cannot be laid onto each other"):
        register_affine(fixed, far, choice, initial=np.eye(4))


@pytest.mark.parametrize("method", ["demons", "diffeomorphic_demons", "bspline"])
def test_a_bent_image_is_unbent(method: str) -> None:
    fixed = blobs(3)
    rng = np.random.default_rng(4)
    bend = np.stack([ndimage.gaussian_filter(rng.normal(size=SHAPE), 4.0) for _ in range(3)])
    bend *= 1.5 / bend.std()
    moving = Transform(GRID, np.eye(4), bend.astype(np.float32)).apply(fixed)
    choice = DeformableChoice(method=method, iterations=(20, 10), control_spacing_mm=8.0)
    found = register_deformable(fixed, moving, np.eye(4), choice)
    before, after = (np.abs(image.array - fixed.array).mean() for image in (moving, found.apply(moving)))
    assert after < 0.4 * before
    assert found.jacobian_determinants().min() > 0.0
    none = register_deformable(fixed, moving, np.eye(4), DeformableChoice(method="none"))
    assert none.displacement_mm is None


def test_what_the_moving_image_does_not_show_is_left_alone() -> None:
    fixed = blobs(5)
    half = Volume(fixed.array[:, :13], GRID.cropped((0, 0, 0), (13, *SHAPE[1:])))
    found = register_deformable(fixed, half, np.eye(4), DeformableChoice())
    assert found.displacement_mm is not None
    assert np.abs(found.displacement_mm).max() < 0.5


def test_the_same_seed_gives_the_same_transform_in_any_number_of_processes() -> None:
    pairs = [Pair(blobs(), blobs(shift_mm=(shift, 0.0, 0.0))) for shift in (1.0, 2.0)]
    choice = QUICK.model_copy(update={"affine": AffineChoice(sampling=0.3, metric="mutual_information")})
    here = register_pairs(pairs, choice, seed=7)
    there = register_pairs(pairs, choice, seed=7, workers=2)
    for one, other in zip(here, there, strict=True):
        np.testing.assert_array_equal(one.matrix, other.matrix)
        np.testing.assert_array_equal(one.displacement_mm, other.displacement_mm)
    assert not np.array_equal(register(pairs[0], choice, seed=8).matrix, here[0].matrix)


def test_what_was_registered_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, pair = TransformCache(tmp_path), Pair(blobs(), blobs(1))
    first = register(pair, QUICK, cache=cache)
    monkeypatch.setattr(register_module, "_register", lambda *_: pytest.fail("registered again"))
    again = register(pair, QUICK, cache=cache)
    np.testing.assert_array_equal(first.matrix, again.matrix)
    np.testing.assert_array_equal(first.displacement_mm, again.displacement_mm)
    (kept,) = tmp_path.rglob("*.npz")
    monkeypatch.setattr(register_module, "_register", lambda *_: first)
    kept.write_bytes(kept.read_bytes()[:100])  # as a full disk might leave it: made anew
    register(pair, QUICK, cache=cache)
    assert len(kept.read_bytes()) > 100


def test_another_key_for_whatever_differs() -> None:
    image, other = blobs(), blobs(1)
    moved = Volume(image.array, Grid(SHAPE, GRID.affine + 1e-3 * np.eye(4, k=3)))
    keys = {
        content_key(image, other, QUICK, "0"),
        content_key(other, image, QUICK, "0"),
        content_key(image, other, QUICK, "1"),
        content_key(image, other, QUICK, "0", np.eye(4)),
        content_key(image, other, RegistrationChoice(), "0"),
        content_key(moved, other, QUICK, "0"),
        content_key(Volume(image.array + 1e-6, GRID), other, QUICK, "0"),
    }
    assert len(keys) == 7


def test_an_image_that_is_too_thin_is_refused() -> None:
    thin = Volume(np.random.default_rng(0).random((1, 20, 20, 6), np.float32), Grid((20, 20, 6), np.eye(4)))
    with pytest.raises(ConfigError, match=r"20 x 20 x 6 voxels, shrunk 2 times, is 3 voxels thick"):
        register_deformable(thin, thin, np.eye(4), DeformableChoice())


def test_choices_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="a number for each level"):
        AffineChoice(shrink=(2, 1))
    with pytest.raises(ValueError, match="a number for each level"):
        DeformableChoice(shrink=(4, 2, 1))


def test_constant_images_are_refused_and_sparse_ones_are_not() -> None:
    grid = Grid((10, 10, 10), np.eye(4))
    with pytest.raises(InputError, match="the same intensity"):
        standardized(Volume(np.ones((1, 10, 10, 10)), grid))
    sparse = np.zeros((1, 10, 10, 10))
    sparse[0, 4, 4, 4:6] = 7.0
    assert standardized(Volume(sparse, grid)).array.max() == 1.0


def test_scale_and_offset_of_intensities_do_not_matter() -> None:
    image = blobs()
    other = Volume(image.array * 300.0 - 1000.0, GRID)
    np.testing.assert_allclose(standardized(image).array, standardized(other).array, atol=1e-4)


def test_a_template_lies_in_the_middle_of_its_images() -> None:
    shifts = (-3.0, 0.0, 3.0, 0.0)
    images = [blobs(shift_mm=(shift, 0.0, 0.0)) for shift in shifts]
    found = build_template(images, QUICK, affine_rounds=2, deformable_rounds=1)
    assert correlation(found.image, blobs()) > 0.99
    middle = np.append(GRID.to_world(np.array(SHAPE) / 2), 1.0)
    moved = np.array([(transform.matrix @ middle - middle)[0] for transform in found.transforms])
    np.testing.assert_allclose(moved - moved.mean(), shifts, atol=0.5)
    fields = [transform.displacement_mm for transform in found.transforms]
    np.testing.assert_allclose(np.mean(fields, axis=0), 0.0, atol=1e-4)
    mean = mean_matrix([transform.matrix for transform in found.transforms])
    np.testing.assert_allclose(mean[:3, :3], np.eye(3), atol=1e-4)
    assert abs((mean @ middle - middle)[:3]).max() < 0.05
