"""Binary energies with attracting links, minimised exactly by a minimum cut.

D. M. Greig, B. T. Porteous, A. H. Seheult, "Exact maximum a posteriori estimation for binary images", JRSS B
51, 1989. Most voxels are decided by their own costs alone; what is left goes to a maximum flow.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse import csgraph

from medseg.errors import ConfigError, did_you_mean

__all__ = ["CAPACITY", "SOLVERS", "Solver", "binary_energy", "choose_solver", "minimise"]

Solver: TypeAlias = Literal["auto", "scipy", "pymaxflow"]
SOLVERS: tuple[Solver, ...] = ("auto", "scipy", "pymaxflow")
FloatArray: TypeAlias = npt.NDArray[np.float64]
IntArray: TypeAlias = npt.NDArray[np.int32]
BoolArray: TypeAlias = npt.NDArray[np.bool_]

CAPACITY = 1 << 29
"""The largest capacity: flows are counted in whole numbers of 32 bits, and there are two for each link."""

_WORTH_ANOTHER_ROUND = 0.01


def minimise(
    cost: FloatArray, first: IntArray, second: IntArray, weight: FloatArray, solver: Solver = "auto"
) -> BoolArray:
    """The x of 0 and 1 that minimises the sum of cost x, and of the weight of each link whose ends differ.

    Costs and weights are rounded to 2^-28 of the largest of them, and of that the minimum is exact: the
    energy of the result is above the true minimum by at most the number of terms times that. Of several
    minima it is the one with fewest ones.

    Args:
        cost: Of a 1 at each of n places.
        first: One end of each of m links, from 0.
        second: The other.
        weight: Of the link, not negative.
        solver: ``"scipy"``; ``"pymaxflow"``, which must be installed; ``"auto"``: that if it is, else
            SciPy's. They give the same.

    Returns:
        Where x is 1, shape (n,).

    Raises:
        ConfigError: There is no such solver, or it is not installed.

    Example:
        >>> cost, ends = np.array([-3.0, 1.0, 1.0]), np.array([0, 1], np.int32)
        >>> minimise(cost, ends, ends + 1, np.array([2.0, 0.5])).tolist()
        [True, True, False]
    """
    flow = choose_solver(solver)
    places = np.arange(cost.size)
    result = np.zeros(cost.size, np.bool_)
    cost = cost.astype(np.float64)  # a copy: it gains what decided neighbours say
    while places.size:
        linked = np.bincount(first, weight, places.size) + np.bincount(second, weight, places.size)
        ones, decided = cost < -linked, np.abs(cost) >= linked
        # An equality decides for 0; at the other end it decides nothing.
        decided &= ones | (cost >= linked)
        result[places[ones]] = True
        if not decided.any():
            break
        _tell(cost, first, second, weight, ones, decided)
        _tell(cost, second, first, weight, ones, decided)
        left = ~decided
        number = (np.cumsum(left) - 1).astype(np.int32)
        kept = left[first] & left[second]
        first, second, weight = number[first[kept]], number[second[kept]], weight[kept]
        places, cost = places[left], cost[left]
        if np.count_nonzero(decided) < _WORTH_ANOTHER_ROUND * decided.size:
            break
    if places.size:
        largest = max(float(np.abs(cost).max()), float(weight.max(initial=0.0)))
        scale = 2.0 ** np.floor(np.log2(CAPACITY / largest))  # a power of 2 keeps equal sums equal
        whole = np.rint(cost * scale).astype(np.int32), np.rint(weight * scale).astype(np.int32)
        result[places] = flow(whole[0], first, second, whole[1])
    return result


def _tell(
    cost: FloatArray,
    ends: IntArray,
    others: IntArray,
    weight: FloatArray,
    ones: BoolArray,
    decided: BoolArray,
) -> None:
    """Let links to decided places become costs of those at the other end that are not."""
    chosen = ~decided[ends] & decided[others]
    signed = np.where(ones[others[chosen]], -weight[chosen], weight[chosen])
    cost += np.bincount(ends[chosen], signed, cost.size)


def binary_energy(
    x: BoolArray, cost: FloatArray, first: IntArray, second: IntArray, weight: FloatArray
) -> float:
    """What ``minimise`` minimises."""
    return float(cost[x].sum() + weight[x[first] != x[second]].sum())


def choose_solver(solver: Solver) -> Callable[[IntArray, IntArray, IntArray, IntArray], BoolArray]:
    """The function that cuts.

    Raises:
        ConfigError: There is no such solver, or it is not installed.
    """
    if solver not in SOLVERS:
        raise ConfigError(f"unknown solver '{solver}'", where="solver", fix=did_you_mean(solver, SOLVERS))
    installed = importlib.util.find_spec("maxflow") is not None
    if solver == "pymaxflow" and not installed:
        raise ConfigError("PyMaxflow is not installed", where="solver", fix="pip install PyMaxflow (GPL)")
    return _cut_by_pymaxflow if installed and solver != "scipy" else _cut_by_scipy


def _cut_by_scipy(cost: IntArray, first: IntArray, second: IntArray, weight: IntArray) -> BoolArray:
    """The side of the source, as small as can be: what it still reaches through what is not full."""
    count = cost.size
    source, sink = count, count + 1
    gains, losses = np.flatnonzero(cost < 0), np.flatnonzero(cost > 0)
    rows = np.concatenate([first, second, np.full(gains.size, source), losses]).astype(np.int32)
    columns = np.concatenate([second, first, gains, np.full(losses.size, sink)]).astype(np.int32)
    capacity = np.concatenate([weight, weight, -cost[gains], cost[losses]])
    graph = sparse.coo_array((capacity, (rows, columns)), shape=(count + 2, count + 2)).tocsr()
    del rows, columns, capacity
    flow = csgraph.maximum_flow(graph, source, sink, method="dinic").flow
    left = sparse.csr_array(graph - flow)
    left.eliminate_zeros()
    reached = csgraph.breadth_first_order(left, source, return_predecessors=False)
    side = np.zeros(count + 2, np.bool_)
    side[reached] = True
    return side[:count]


def _cut_by_pymaxflow(cost: IntArray, first: IntArray, second: IntArray, weight: IntArray) -> BoolArray:
    import maxflow  # type: ignore[import-not-found, unused-ignore]

    graph: Any = maxflow.GraphInt(cost.size, first.size)
    nodes = graph.add_grid_nodes((cost.size,))
    graph.add_edges(nodes[first], nodes[second], weight, weight)
    # What reaches neither end counts as the source's: with the ends exchanged that is the side of zeros.
    graph.add_grid_tedges(nodes, np.maximum(cost, 0), np.maximum(-cost, 0))
    graph.maxflow()
    return np.asarray(graph.get_grid_segments(nodes), np.bool_)
