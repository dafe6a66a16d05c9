"""The image on the network grid: what is read of the stored one, and what memory that takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from medseg.geometry import Grid
from medseg.inference import NetworkImage, slab_ranges
from medseg.inference import image as module
from medseg.runs import Normalization, PreprocessingSpec
from medseg.transforms import preprocess
from medseg.volume import Volume

NONE = Normalization(scheme="none")


class Recording(Volume):
    """A volume that notes which slices are read of it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "asked", [])

    def slices(self, axis: int, start: int, stop: int) -> npt.NDArray[Any]:
        asked: list[tuple[int, int]] = self.asked  # type: ignore[attr-defined]
        asked += [(axis, index) for index in range(start, stop)]
        return super().slices(axis, start, stop)


def recording(shape: tuple[int, int, int] = (5, 6, 24), flip: float = 1.0) -> Recording:
    array = np.random.default_rng(0).integers(0, 99, (1, *shape)).astype(np.int16)
    return Recording(array, Grid(shape, np.diag([1.0, 1.0, flip, 1.0])))


@pytest.mark.parametrize("flip", [1.0, -1.0])
@pytest.mark.parametrize("spacing", [0.4, 1.0, 1.7, 3.3])
@pytest.mark.parametrize("thickness", [1, 2, 5, 100])
def test_each_native_slice_is_read_once(flip: float, spacing: float, thickness: int) -> None:
    image = recording(flip=flip)
    spec = PreprocessingSpec(spacing_mm=(1.0, 1.0, spacing), normalization=[NONE])
    seen = NetworkImage(image, spec, axis=2)

    for stretch in slab_ranges(seen.grid.shape[2], thickness):
        seen.read(*stretch)

    asked = image.asked  # type: ignore[attr-defined]
    assert len(asked) == len(set(asked))
    if spacing < 2.0:
        assert {index for _, index in asked} == set(range(24))


def test_slabs_in_any_order_are_right() -> None:
    image = recording(flip=-1.0)
    spec = PreprocessingSpec(spacing_mm=(1.3, 0.8, 1.7), normalization=[NONE])
    seen = NetworkImage(image, spec, axis=2)
    expected = preprocess(image, spec).array

    for start, stop in [(4, 9), (6, 11), (0, 3), (3, 4), (2, 14), (2, 14), (13, 14)]:
        np.testing.assert_allclose(seen.read(start, stop)[0].numpy(), expected[..., start:stop], atol=1e-5)


def test_thick_slabs_are_made_of_thin_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_NATIVE_BYTES", 4 * 30 * 4)  # four native slices
    image = recording()
    largest = 0

    def slices(axis: int, start: int, stop: int) -> npt.NDArray[Any]:
        nonlocal largest
        largest = max(largest, stop - start)
        return Volume.slices(image, axis, start, stop)

    object.__setattr__(image, "slices", slices)
    spec = PreprocessingSpec(spacing_mm=(1.0, 1.0, 1.5), normalization=[NONE])
    seen = NetworkImage(image, spec, axis=2)

    whole = seen.read(0, seen.grid.shape[2])[0].numpy()

    np.testing.assert_allclose(whole, preprocess(image, spec).array, atol=1e-5)
    assert largest <= 4


def test_the_image_is_left_as_it_is() -> None:
    array = np.random.default_rng(0).normal(size=(1, 4, 5, 6)).astype(np.float32)
    kept = array.copy()
    spec = PreprocessingSpec(normalization=[Normalization(scheme="zscore")])

    NetworkImage(Volume(array, Grid((4, 5, 6), np.eye(4))), spec, axis=0).read(0, 4).mul_(0)

    np.testing.assert_array_equal(array, kept)


PEAK = """
from medseg.geometry import Grid
from medseg.inference import NetworkImage, image_statistics
from medseg.runs import Normalization, PreprocessingSpec

class Image:
    channels, dtype, resident_bytes = 1, np.dtype(np.int16), 0
    def __init__(self, shape):
        self.grid = Grid(shape, np.diag([-0.8, -0.8, 1.0, 1.0]))
    def slices(self, axis, start, stop):
        shape = list(self.grid.shape)
        shape[axis] = stop - start
        return np.ones((1, *shape[::-1]), np.int16).transpose(0, 3, 2, 1)

def run(shape, slab, spacing):
    spec = PreprocessingSpec(spacing_mm=spacing, normalization=[Normalization(scheme="none")])
    image = Image(shape)
    statistics = image_statistics(image, spec)
    seen = NetworkImage(image, spec, 2, statistics)
    length = seen.grid.shape[2]

    def read():
        for start in range(0, length, slab):
            seen.read(start, min(start + slab, length))

    given = slab * seen.grid.shape[0] * seen.grid.shape[1] * 4
    return seen.planned_bytes(slab) + given, 0, measured(read)

mm = float(sys.argv[2])
run((40, 40, 12), 2, (mm, mm, mm))
print(*run((1024, 1024, 30), int(sys.argv[1]), (mm, mm, mm)))
"""


@pytest.mark.parametrize(("slab", "spacing"), [(8, 1.5), (24, 1.0)])
def test_the_memory_that_is_planned_is_what_it_takes(
    slab: int, spacing: float, peaks: Callable[..., list[Any]]
) -> None:
    [peak] = peaks(PEAK, slab, spacing)

    assert peak.holds(), peak
