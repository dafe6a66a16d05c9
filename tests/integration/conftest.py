"""Fixtures for tests of whole commands."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def without_pictures() -> Iterator[None]:
    """Trainings of this process draw nothing, which takes longer than they do; others test what is drawn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("medseg.training.fold.can_draw", lambda: False)
        yield
