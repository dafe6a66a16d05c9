from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from medseg.labels import LabelScheme
from medseg.runs import Augmentation
from medseg.transforms import Augmenter

NOTHING: dict[str, Any] = {
    **{name: 0.0 for name in Augmentation.model_fields if name.endswith("_probability")},
    "mirror": "none",
}


@pytest.fixture
def make_augmenter() -> Callable[..., Augmenter]:
    """Makes one that draws nothing but what is asked for; of one MR channel, if not told otherwise."""

    def make(
        patch_size: tuple[int, int, int] = (8, 9, 10),
        *,
        names: tuple[str, ...] = ("liver",),
        axcodes: str = "RAS",
        ct_channels: tuple[bool, ...] = (False,),
        spacing_mm: tuple[float, float, float] | None = None,
        **options: Any,
    ) -> Augmenter:
        return Augmenter(
            Augmentation(**{**NOTHING, **options}),
            patch_size,
            axcodes=axcodes,
            labels=LabelScheme.from_names(dict(enumerate(names, 1))),
            ct_channels=ct_channels,
            spacing_mm=spacing_mm,
        )

    return make
