"""Who belongs to whom, one to one: choosing among possible pairs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

__all__ = ["assign_pairs", "greedy_pairs"]


def assign_pairs(pairs: npt.NDArray[np.int64], gains: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    """Choose pairs such that nothing is in two of them and their gains have the largest sum.

    Pairs fall into groups that share no member, most of them of a single pair; each is solved by itself
    (Kuhn 1955, by ``scipy.optimize.linear_sum_assignment``), so that thousands of instances cost little.

    Args:
        pairs: Shape (N, 2), the positions of two partners, no pair twice.
        gains: Shape (N,), what each pair gains, above 0.

    Returns:
        The rows of ``pairs`` that are chosen, increasing.

    Example:
        >>> assign_pairs(np.array([[0, 0], [0, 1], [1, 0]]), np.array([0.4, 0.3, 0.3])).tolist()
        [1, 2]
    """
    if len(pairs) == 0:
        return np.zeros(0, dtype=np.intp)
    left, right = pairs.T
    nodes = int(left.max()) + 1 + int(right.max()) + 1
    graph = coo_array((np.ones(len(pairs)), (left, right + left.max() + 1)), shape=(nodes, nodes))
    _, group_of = connected_components(graph, directed=False)
    order = np.argsort(group_of[left], kind="stable")
    cuts = np.flatnonzero(np.diff(group_of[left][order])) + 1
    chosen = [_best_of_group(group, pairs, gains) for group in np.split(order, cuts)]
    return np.sort(np.concatenate(chosen))


def _best_of_group(
    group: npt.NDArray[np.intp], pairs: npt.NDArray[np.int64], gains: npt.NDArray[np.float64]
) -> npt.NDArray[np.intp]:
    if len(group) == 1:
        return group
    _, rows = np.unique(pairs[group, 0], return_inverse=True)
    _, columns = np.unique(pairs[group, 1], return_inverse=True)
    matrix = np.zeros((rows.max() + 1, columns.max() + 1))
    matrix[rows, columns] = gains[group]
    taken = np.zeros(matrix.shape, dtype=bool)
    taken[linear_sum_assignment(matrix, maximize=True)] = True
    return group[taken[rows, columns]]


def greedy_pairs(pairs: npt.NDArray[np.int64], gains: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    """Choose pairs by descending gain, leaving out those of which a partner is taken.

    Args:
        pairs: Shape (N, 2), the positions of two partners, no pair twice.
        gains: Shape (N,); among equals the smaller second position goes first, then the smaller first one.

    Returns:
        The rows of ``pairs`` that are chosen, increasing.

    Example:
        >>> greedy_pairs(np.array([[0, 0], [0, 1], [1, 0]]), np.array([0.4, 0.3, 0.3])).tolist()
        [0]
    """
    used: tuple[set[int], set[int]] = (set(), set())
    chosen = []
    for row in np.lexsort((pairs[:, 0], pairs[:, 1], -gains)):
        left, right = pairs[row].tolist()
        if left not in used[0] and right not in used[1]:
            used[0].add(left)
            used[1].add(right)
            chosen.append(row)
    return np.sort(np.array(chosen, dtype=np.intp))
