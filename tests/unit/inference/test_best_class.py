"""The class of the highest score, however scores lie in memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medseg.inference.restore import best_class


@pytest.mark.parametrize("classes", [1, 2, 14, 256, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (1, 2, 3, 0), (3, 0, 2, 1)])
def test_equals_numpy_argmax_in_any_order_of_memory(
    classes: int, dtype: torch.dtype, order: tuple[int, ...]
) -> None:
    random = torch.Generator().manual_seed(classes)
    # Few different values: most voxels have several highest scores, of which the first counts.
    scores = torch.randint(-9, 9, (classes, 4, 5, 6), generator=random).to(dtype)
    back = torch.argsort(torch.tensor(order)).tolist()
    lying = scores.permute(order).contiguous().permute(back)
    expected = np.argmax(scores.float().numpy(), axis=0)
    made = best_class(lying)
    assert made.dtype == (torch.uint8 if classes <= 256 else torch.int32)
    assert np.array_equal(made.numpy(), expected)


def test_scores_of_a_line_and_of_one_voxel() -> None:
    scores = torch.tensor([[1.0, 5.0, 3.0], [2.0, 5.0, -1.0], [2.0, 6.0, 4.0]])
    assert best_class(scores).tolist() == [1, 2, 2]
    assert best_class(scores[:, 0]).item() == 1
