from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.inference.margins import Margins, margins_up_to
from medseg.inference.slabs import Tile, slab_ranges

SIZES = st.tuples(*[st.integers(1, 7)] * 3)


def test_an_image_that_is_large_enough_is_left_alone() -> None:
    margins = margins_up_to((8, 9, 10), (8, 4, 10))
    assert margins == Margins((0, 0, 0), (8, 9, 10), (0, 0, 0))

    def read(start: int, stop: int) -> torch.Tensor:
        return torch.zeros(1, 1, 8, 9, stop - start)

    assert margins.around(read, 2) is read


def test_the_odd_voxel_is_put_behind() -> None:
    image = torch.tensor([3.0, 4.0]).reshape(1, 1, 1, 2)
    margins = margins_up_to((1, 2), (1, 5))
    padded = margins.around(lambda start, stop: image[..., start:stop], 1)
    assert padded(0, 5).ravel().tolist() == [0, 3, 4, 0, 0]
    assert padded(4, 5).ravel().tolist() == [0]


@settings(max_examples=60, deadline=None)
@given(SIZES, SIZES, st.integers(0, 2), st.integers(1, 4))
def test_in_slabs_as_at_once(
    size: tuple[int, int, int], smallest: tuple[int, int, int], axis: int, thickness: int
) -> None:
    image = torch.randn(1, 2, *size)
    margins = margins_up_to(size, smallest)
    assert margins.padded_size == tuple(map(max, size, smallest))
    read = margins.around(lambda start, stop: image.narrow(2 + axis, start, stop - start), axis)
    slabs = [(start, read(start, stop)) for start, stop in slab_ranges(margins.padded_size[axis], thickness)]
    padded = torch.cat([slab for _, slab in slabs], 2 + axis)
    assert padded.shape[2:] == margins.padded_size
    assert padded.sum() == image.sum() or torch.isclose(padded.sum(), image.sum(), atol=1e-5)

    pieces = list(margins.off(slabs, axis))
    torch.testing.assert_close(torch.cat([piece for _, piece in pieces], 2 + axis), image, rtol=0, atol=0)
    starts = [start for start, _ in pieces]
    assert starts == sorted(starts)
    assert starts[0] == 0


def test_tiles_lose_the_margins_too() -> None:
    margins = margins_up_to((5, 4), (5, 8))
    assert margins.before == (0, 2)
    image = torch.arange(20.0).reshape(1, 1, 5, 4)
    padded = torch.nn.functional.pad(image, (2, 2))
    parts = []
    for own, scores in (((0, 4), (0, 5)), ((4, 8), (4, 8))):
        tile = Tile(reads=((0, 5), own), scores=((0, 5), scores), own=((0, 5), own))
        slabs = [(0, padded[..., scores[0] : scores[1]])]
        ((_, cut),) = margins.off(slabs, 0, tile)
        inner = margins.without(tile)
        assert cut.shape[3] == inner.scores[1][1] - inner.scores[1][0]
        parts.append(cut[..., : inner.own[1][1] - inner.own[1][0]])
    assert torch.equal(torch.cat(parts, 3), image)
