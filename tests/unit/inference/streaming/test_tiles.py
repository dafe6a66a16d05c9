"""Tiles give what the whole plane gives."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from medseg.inference.streaming.captured import local_graph
from medseg.inference.streaming.tiles import Cut, cuts, is_part_of, tiles_of
from medseg.networks import build_network


def test_hand_computed_cut_of_one_convolution() -> None:
    graph = local_graph(nn.Conv2d(1, 1, 3, padding=1), (1, 1, 4, 12))
    two = next(cut for cut in cuts(graph, 1) if len(cut.starts) == 2)
    # A score is spoilt on each cut side, and neighbours share one: 8 + 8 voxels overlap by the least, 3 or 4.
    assert (two.length, two.starts) == (8, (0, 4))
    assert two.own == ((0, 6), (6, 12))
    assert two.scores == ((0, 7), (6, 12))


def test_starts_keep_to_the_stride() -> None:
    network = build_network("unet", 2, 1, 2, features=(4, 6, 8))
    graph = local_graph(network, (1, 1, 16, 136))
    found = cuts(graph, 1)
    assert len(found) > 2
    assert all(start % 4 == 0 for cut in found for start in cut.starts)
    assert [len(cut.starts) for cut in found] == sorted({len(cut.starts) for cut in found})


@pytest.mark.parametrize("name", ["unet", "dilated", "fc_densenet", "segnet"])
def test_tiles_make_up_the_whole(name: str) -> None:
    options = {"unet": {"features": (4, 6)}, "segnet": {"features": (4, 6)}}.get(name, {})
    graph = local_graph(build_network(name, 2, 1, 2, **options), (1, 1, 16, 400))
    for cut in cuts(graph, 1):
        borders = [edge for span in cut.own for edge in span]
        assert borders[0] == 0
        assert borders[-1] == 400
        assert borders[1:-1:2] == borders[2::2]
        assert cut.starts[-1] + cut.length == 400
        for (start, stop), (first, last), read in zip(cut.own, cut.scores, cut.starts, strict=True):
            assert read <= first == start < stop <= last <= read + cut.length


def test_what_looks_at_sizes_is_not_cut() -> None:
    corners = nn.Sequential(
        nn.Conv2d(1, 1, 3, padding=1), nn.Upsample(scale_factor=2, align_corners=True, mode="bilinear")
    )
    whole, part = (local_graph(corners, (1, 1, 8, length)) for length in (32, 24))
    assert not is_part_of(part, whole)


def test_circular_padding_is_not_cut() -> None:
    network = nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular")
    whole, part = (local_graph(network, (1, 1, 8, length)) for length in (32, 24))
    assert not is_part_of(part, whole)
    assert is_part_of(whole, whole)


def test_other_windows_are_noticed() -> None:
    whole = local_graph(nn.Conv2d(1, 1, 3, padding=1), (1, 1, 8, 32))
    part = local_graph(nn.Conv2d(1, 1, 5, padding=2), (1, 1, 8, 24))
    assert not is_part_of(part, whole)


def test_tiles_of_two_cut_axes() -> None:
    graph = local_graph(nn.Conv3d(1, 1, 3, padding=1), (1, 1, 6, 20, 24))
    along = [Cut.uncut(6, 6), cuts(graph, 1)[1], cuts(graph, 2)[2]]
    covered = torch.zeros(6, 20, 24, dtype=torch.int32)
    for tile in tiles_of(along):
        covered[tuple(slice(*span) for span in tile.own)] += 1
    assert len(tiles_of(along)) == 6
    assert (covered == 1).all()
    assert len(set(itertools.chain(tiles_of(along)))) == 6
