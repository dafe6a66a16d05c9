"""Gaussian filtering of scattered points in many dimensions, on a permutohedral lattice.

A. Adams, J. Baek, M. A. Davis, "Fast high-dimensional filtering using the permutohedral lattice",
Eurographics 2010: values are spread over the corners of the simplex that holds a point, blurred along the
lattice's directions, and gathered again. d + 1 corners are enough in d dimensions, where a grid has 2^d.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["PermutohedralLattice"]

_POINTS_AT_A_TIME = 1 << 18
_MANY_VERTICES = 1 << 20
_TABLE_CELLS = 6
"""Cells of the box around all vertices, for each corner of a simplex, up to which their numbers are looked up
in a table of it; else they are sorted."""


class PermutohedralLattice:
    """Sums over all pairs of points, weighted by a Gaussian of their distance, in linear time.

    The filter is linear and symmetric but for the order of its blurs, so that its gradient is the filter in
    reverse order. It is 0 beyond about three deviations, and a little lower than a Gaussian at its top.

    Args:
        features: Positions of N points, shape (d, N), in deviations of the Gaussian; at least one point.
        passes: How many times the lattice is blurred. With more it is finer, slower and nearer to a Gaussian:
            sums over a random cloud in 4D scatter by 3.4 % around the true ones with 1, by 1.8 % with 2.

    Attributes:
        points: N.
        vertices: Number of lattice points that touch any of them.

    Example:
        >>> lattice = PermutohedralLattice(torch.tensor([[0.0, 0.1, 9.0]]))
        >>> near, also_near, far = lattice.filter(torch.ones(3, 1))[:, 0].tolist()
        >>> round(near), round(far)
        (2, 1)
    """

    def __init__(self, features: Tensor, passes: int = 1) -> None:
        dims, self.points = features.shape
        self.passes = passes
        steps = _direction_steps(features, passes)
        corners = torch.empty((self.points, dims + 1), dtype=torch.int32, device=features.device)
        self._weights = features.new_empty((self.points, dims + 1))
        numbering = _Numbering(steps, corners.numel())
        for start in range(0, self.points, _POINTS_AT_A_TIME):
            part = slice(start, start + _POINTS_AT_A_TIME)
            keys, weights = _simplices(features[:, part], steps)
            self._weights[part] = weights.T
            corners[part] = numbering.add(keys).T
        touched = numbering.finish(corners)
        keys = touched
        for _ in range(passes):  # ways from point to point lead over vertices that none touches
            if keys.numel() <= max(self.points, _MANY_VERTICES):
                keys = _with_neighbours(keys, steps)
        renumber = torch.searchsorted(keys, touched).to(torch.int32)
        for start in range(0, self.points, _POINTS_AT_A_TIME):
            block = corners[start : start + _POINTS_AT_A_TIME]
            block.copy_(renumber[block.long()])
        self._corners = corners
        self.vertices = int(keys.numel())
        self._neighbours = _neighbours(keys, steps)
        self._spread = _transposed(corners, self._weights, self.vertices)
        self._height = _height(dims, passes)

    def filter(self, values: Tensor) -> Tensor:
        """The weighted sum over all points, each point itself included; differentiable.

        Args:
            values: Shape (N, K), in the type of the features.

        Returns:
            Shape (N, K).
        """
        filtered: Tensor = _Filter.apply(values, self)  # type: ignore[no-untyped-call]
        return filtered

    def own_weights(self) -> Tensor:
        """How much each point weighs itself in ``filter``, shape (N,); about 1."""
        dims = self._weights.shape[1] - 1
        kernel = [_blur_weight(apart, dims, self.passes) for apart in range(dims + 1)]
        mixing = torch.tensor(
            [[kernel[abs(row - column)] for column in range(dims + 1)] for row in range(dims + 1)],
            dtype=self._weights.dtype,
            device=self._weights.device,
        )
        own = torch.empty_like(self._weights[:, 0])
        for start in range(0, self.points, _POINTS_AT_A_TIME):
            part = self._weights[start : start + _POINTS_AT_A_TIME]
            own[start : start + _POINTS_AT_A_TIME] = ((part @ mixing) * part).sum(dim=1)
        return own / self._height

    def _filtered(self, values: Tensor, *, backwards: bool) -> Tensor:
        table = functional.pad(self._spread @ values, (0, 0, 0, 1))  # a last vertex stands for none
        directions = reversed(self._neighbours) if backwards else self._neighbours
        for ahead, behind in [pair for pair in directions for _ in range(self.passes)]:
            moved = table.index_select(0, ahead)
            moved += table.index_select(0, behind)
            table[:-1].mul_(0.5).add_(moved, alpha=0.25)
        del moved
        table /= self._height
        return functional.embedding_bag(self._corners, table, per_sample_weights=self._weights, mode="sum")


class _Filter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, lattice: PermutohedralLattice) -> Tensor:
        ctx.lattice = lattice
        return lattice._filtered(values, backwards=False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.lattice._filtered(gradients[0].contiguous(), backwards=True), None


class _Steps:
    """The lattice around some points, and how its vertices are told by one number each.

    A vertex has d + 1 whole coordinates with sum 0, all of the same remainder by d + 1. Its key is built of
    the remainder and the quotients of the first d, as if they were digits.
    """

    def __init__(self, embedding: Tensor, lowest: Tensor, digits: Tensor) -> None:
        self.embedding = embedding
        self.lowest = lowest
        self.dims = embedding.shape[1]
        places = torch.ones_like(digits)
        for axis in range(self.dims - 2, -1, -1):
            places[axis] = places[axis + 1] * digits[axis + 1]
        self.places = places
        self.per_remainder: int = int(places[0] * digits[0])
        self.size = self.per_remainder * (self.dims + 1)


def _direction_steps(features: Tensor, passes: int) -> _Steps:
    dims = features.shape[0]
    # Spreading and gathering are as wide as a third of a blur: together they make a deviation of 1.
    scale = (dims + 1) * math.sqrt(passes / 2.0 + 1.0 / 6.0)
    embedding = features.new_zeros((dims + 1, dims))
    for axis in range(dims):
        length = scale / math.sqrt((axis + 1.0) * (axis + 2.0))
        embedding[: axis + 1, axis] = length
        embedding[axis + 1, axis] = -(axis + 1.0) * length
    low, high = features.amin(dim=1), features.amax(dim=1)
    # The box's image: each coordinate is least where each feature pulls it down most.
    pulls = torch.stack([embedding * low, embedding * high])
    margin = dims + 2 + passes
    least = (pulls.amin(dim=0).sum(dim=1) / (dims + 1)).floor().long()[:dims] - margin
    most = (pulls.amax(dim=0).sum(dim=1) / (dims + 1)).ceil().long()[:dims] + margin
    return _Steps(embedding, least, most - least + 1)


def _simplices(features: Tensor, steps: _Steps) -> tuple[Tensor, Tensor]:
    """The keys of the corners around each point and the point's barycentric coordinates, both (d + 1, n)."""
    dims = steps.dims
    elevated = steps.embedding @ features
    nearest = torch.round(elevated / (dims + 1))
    rest = elevated - nearest * (dims + 1)
    excess = nearest.sum(dim=0).to(torch.int64)
    rank = torch.zeros(rest.shape, dtype=torch.int64, device=rest.device)
    for first in range(dims):
        for second in range(first + 1, dims + 1):
            lower = rest[first] < rest[second]
            rank[first] += lower
            rank[second] += ~lower
    rank += excess
    turn = (rank < 0).to(torch.int64) - (rank > dims).to(torch.int64)
    rank += turn * (dims + 1)
    quotients = nearest.to(torch.int64) + turn
    rest -= turn * (dims + 1)

    # Corner r lies r steps further; of the d + 1 coordinates those of the r highest ranks have gone round.
    weights = rest.new_empty(rest.shape)
    rest /= dims + 1
    by_rank = torch.empty_like(rest).scatter_(0, rank, rest)
    weights[1:] = by_rank[:-1].flip(0) - by_rank[1:].flip(0)
    weights[0] = 1.0 - weights[1:].sum(dim=0)
    base = ((quotients[:dims] - steps.lowest[:, None]) * steps.places[:, None]).sum(dim=0)
    keys = torch.empty_like(rank)
    for corner in range(dims + 1):
        gone_round = ((rank[:dims] > dims - corner) * steps.places[:, None]).sum(dim=0)
        keys[corner] = base - gone_round + corner * steps.per_remainder
    return keys, weights


class _Numbering:
    """Numbers the vertices that occur from 0."""

    def __init__(self, steps: _Steps, corners: int) -> None:
        self._occurs: Tensor | None = None
        self._found: list[Tensor] = []
        self._size = steps.size
        self._by_table = steps.size <= _TABLE_CELLS * corners

    def add(self, keys: Tensor) -> Tensor:
        """Take keys in; gives what ``finish`` turns into numbers."""
        if self._by_table:
            if self._occurs is None:
                self._occurs = torch.zeros(self._size, dtype=torch.bool, device=keys.device)
            self._occurs[keys.flatten()] = True
            return keys.to(torch.int32)
        unique, inverse = torch.unique(keys, return_inverse=True)
        self._found.append(unique)
        local: Tensor = inverse.to(torch.int32)
        return local

    def finish(self, corners: Tensor) -> Tensor:
        """Turn ``corners``, as ``add`` gave them part by part, into numbers; gives the keys, ascending."""
        if self._occurs is not None:
            keys = self._occurs.nonzero()[:, 0]
            numbers = torch.cumsum(self._occurs, dim=0, dtype=torch.int32).sub_(1)
            for start in range(0, len(corners), _POINTS_AT_A_TIME):
                part = corners[start : start + _POINTS_AT_A_TIME]
                part.copy_(numbers[part.long()])
            return keys
        every: Tensor = torch.unique(torch.cat(self._found))
        for index, unique in enumerate(self._found):
            part = corners[index * _POINTS_AT_A_TIME : (index + 1) * _POINTS_AT_A_TIME]
            part.copy_(torch.searchsorted(every, unique).to(torch.int32)[part.long()])
        return every


def _with_neighbours(keys: Tensor, steps: _Steps) -> Tensor:
    """The vertices of these keys and all that are one step away, ascending."""
    around = [_moved(keys, steps, direction, way) for direction in range(steps.dims + 1) for way in (1, -1)]
    joined: Tensor = torch.unique(torch.cat([keys, *around]))
    return joined


def _neighbours(keys: Tensor, steps: _Steps) -> list[tuple[Tensor, Tensor]]:
    """For each direction the vertices one step ahead and one behind; the number behind the last if none."""
    count = keys.numel()
    found = []
    for direction in range(steps.dims + 1):
        pair = []
        for way in (1, -1):
            wanted = _moved(keys, steps, direction, way)
            place = torch.searchsorted(keys, wanted).clamp_(max=count - 1)
            pair.append(torch.where(keys[place] == wanted, place, count).to(torch.int32))
        found.append((pair[0], pair[1]))
    return found


def _moved(keys: Tensor, steps: _Steps, direction: int, way: int) -> Tensor:
    """The keys of the vertices that are one step away."""
    # A step adds 1 to each coordinate, and takes d + 1 from one: its quotient falls by 1.
    loss = int(steps.places[direction]) if direction < steps.dims else 0
    remainder = keys // steps.per_remainder
    turned = (remainder + way) // (steps.dims + 1)  # beyond the last remainder all quotients change
    around = int(steps.places.sum()) - (steps.dims + 1) * steps.per_remainder
    return keys + way * (steps.per_remainder - loss) + turned * around


def _transposed(corners: Tensor, weights: Tensor, vertices: int) -> Tensor:
    """The matrix (vertices, points) that spreads values, in compressed rows: deterministic on any device."""
    each = corners.shape[1]
    vertex, order = torch.sort(corners.flatten(), stable=True)
    counts = torch.bincount(vertex, minlength=vertices)
    rows = functional.pad(torch.cumsum(counts, dim=0), (1, 0)).to(torch.int32)
    del vertex, counts
    ordered = weights.flatten()[order]
    points = order.div_(each, rounding_mode="floor").to(torch.int32)
    shape = (vertices, len(corners))
    with warnings.catch_warnings(action="ignore"):  # PyTorch calls its compressed rows a beta
        return torch.sparse_csr_tensor(rows, points, ordered, size=shape, check_invariants=False)


def _blur_weight(apart: int, dims: int, passes: int) -> float:
    """How much of a vertex's value the blurs bring to one ``apart`` directions away."""
    width = 2 * passes

    def step(way: int) -> float:
        return math.comb(width, passes + way) / float(1 << width) if abs(way) <= passes else 0.0

    # One step along each of the d + 1 directions leads back: ways that differ by that are the same.
    ways = range(-passes - 1, passes + 1)
    return math.fsum(
        math.pow(step(1 + around), apart) * math.pow(step(around), dims + 1 - apart) for around in ways
    )


def _height(dims: int, passes: int) -> float:
    """Height that a Gaussian of deviation 1 has on the lattice, if blurs neither gain nor lose."""
    # Vertices per unit of volume, of a lattice in steps of the embedding.
    scale = (dims + 1) * math.sqrt(passes / 2.0 + 1.0 / 6.0)
    volume = math.sqrt(dims + 1.0) * math.pow(dims + 1.0, dims - 1) / math.pow(scale, dims)
    return volume / math.pow(2.0 * math.pi, dims / 2.0)
