from __future__ import annotations

import time

import pytest
from torch.utils.data import Dataset

from medseg.training.waiting import WaitingLoader


class _Slow(Dataset[int]):
    def __init__(self, clock: list[float]) -> None:
        self._clock = clock

    def __len__(self) -> int:
        return 4

    def __getitem__(self, number: int) -> int:
        self._clock[0] += 2.0
        return number


def test_what_making_batches_takes_is_waited_for_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    loader = WaitingLoader(_Slow(clock), batch_size=2)
    found = []
    for epoch in range(2):
        for batch in loader:
            clock[0] += 100.0  # a step
            found.append(batch.tolist())
        assert loader.waited_seconds == 8.0 * (epoch + 1)
    assert found == [[0, 1], [2, 3]] * 2
    assert len(loader) == 2


def test_an_error_passes_and_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    class Broken(_Slow):
        def __getitem__(self, number: int) -> int:
            super().__getitem__(number)
            raise ValueError("broken")

    loader = WaitingLoader(Broken(clock))
    with pytest.raises(ValueError, match="broken"):
        next(iter(loader))
    assert loader.waited_seconds == 2.0
