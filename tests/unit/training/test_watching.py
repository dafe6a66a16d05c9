from __future__ import annotations

import csv
import errno
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from medseg.errors import BundleError, ConfigError, ResourceError
from medseg.runs import Recipe, RunFolder
from medseg.training.watching import (
    Checkpoints,
    StepLog,
    ValidationLog,
    append_rows,
    drop_rows_after,
    load_resume_state,
    save_weights,
)


def _rows(path: Path) -> list[list[str]]:
    return list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"))))


HEADER = ["step", "loss"]


def test_rows_are_appended_under_one_header(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    append_rows(path, HEADER, [[1, 0.5]])
    append_rows(path, HEADER, [[2, 0.25], [3, None]])
    assert path.read_text(encoding="utf-8") == "step,loss\n1,0.5\n2,0.25\n3,\n"


def test_rows_after_a_step_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    append_rows(path, HEADER, [[step, step / 2] for step in range(1, 6)])
    drop_rows_after(path, 3)
    assert [row[0] for row in _rows(path)] == ["step", "1", "2", "3"]
    drop_rows_after(path, 0)
    assert _rows(path) == [HEADER]
    append_rows(path, HEADER, [[1, 9]])
    assert _rows(path) == [HEADER, ["1", "9"]]


@pytest.mark.parametrize("cut", range(1, len("step,loss\n1,0.5\n2,0.25\n")))
def test_a_file_cut_anywhere_is_mended(cut: int, tmp_path: Path) -> None:
    whole = "step,loss\n1,0.5\n2,0.25\n"
    path = tmp_path / "table.csv"
    path.write_text(whole[:cut], encoding="utf-8")
    drop_rows_after(path, 2)
    kept = [line for line in whole.splitlines(keepends=True) if whole.index(line) + len(line) <= cut]
    assert (path.read_text(encoding="utf-8") if path.exists() else "") == "".join(kept)
    append_rows(path, HEADER, [[7, 1.0]])
    assert _rows(path)[0] == HEADER
    assert _rows(path)[-1] == ["7", "1.0"]


def test_an_empty_file_gets_its_header(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.touch()
    drop_rows_after(path, 5)
    path.touch()
    append_rows(path, HEADER, [[1, 2]])
    assert _rows(path) == [HEADER, ["1", "2"]]


def test_what_is_not_there_needs_no_mending(tmp_path: Path) -> None:
    drop_rows_after(tmp_path / "none.csv", 1)
    assert not (tmp_path / "none.csv").exists()


class _Module(SimpleNamespace):
    """What callbacks look at, without a trainer."""

    def __init__(self, **changes: Any) -> None:
        network = nn.Sequential(nn.Conv3d(1, 2, 1), nn.BatchNorm3d(2))
        state = {"step": 4, "network": network.state_dict()}
        defaults: dict[str, Any] = {
            "network": network,
            "judged": network,
            "recipe": Recipe(),
            "step": 4,
            "clock": SimpleNamespace(minutes=0.5),
            "progress": 0.4,
            "quality": 0.5,
            "columns": lambda: {"dice_liver": 0.5, "dice_spleen": None, "mean_dice": self.quality},
            "told": lambda: "as told",
            "best_quality": -1.0,
            "resume_state": lambda: state,
        }
        super().__init__(**(defaults | changes))


def _trainer() -> Any:
    return SimpleNamespace(should_stop=False, loggers=[])


def test_weights_come_back_as_plain_tensors(tmp_path: Path) -> None:
    module: Any = _Module()
    save_weights(module, tmp_path / "checkpoints" / "last.pt")
    weights = torch.load(tmp_path / "checkpoints" / "last.pt", weights_only=True)
    assert weights.keys() == module.network.state_dict().keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in module.network.state_dict().items())


def test_the_same_weights_make_the_same_bytes(tmp_path: Path) -> None:
    module: Any = _Module()
    save_weights(module, tmp_path / "one.pt")
    save_weights(module, tmp_path / "two.pt")
    assert (tmp_path / "one.pt").read_bytes() == (tmp_path / "two.pt").read_bytes()


def test_weights_are_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "best.pt"
    save_weights(_Module(), path)  # type: ignore[arg-type]
    before = path.read_bytes()

    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(ResourceError, match=r"best\.pt: no space left on the disk"):
        save_weights(_Module(), path)  # type: ignore[arg-type]
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["best.pt"]


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    fold = RunFolder(tmp_path).fold(0)
    module: Any = _Module()
    Checkpoints(fold).on_train_epoch_end(_trainer(), module)
    state = load_resume_state(fold.resume_state)
    assert state["step"] == 4
    assert torch.equal(state["network"]["0.weight"], module.network[0].weight)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_spoilt_weights_do_not_replace_a_good_checkpoint(value: float, tmp_path: Path) -> None:
    fold = RunFolder(tmp_path).fold(0)
    checkpoints = Checkpoints(fold)
    checkpoints.on_train_epoch_end(_trainer(), _Module())  # type: ignore[arg-type]
    before = fold.resume_state.read_bytes()
    spoilt: Any = _Module(step=6)
    batch = {"number": torch.tensor([10, 11]), "case": ["a", "b"]}
    checkpoints.on_train_batch_end(_trainer(), spoilt, {}, batch, 0)
    with torch.no_grad():
        spoilt.network[0].bias[0] = value
    with pytest.raises(ConfigError) as caught:
        checkpoints.on_train_epoch_end(_trainer(), spoilt)
    words = "the weights became infinite or NaN at step 6, on samples 10 (case a) and 11 (case b)"
    assert caught.value.what == words
    assert str(fold.resume_state) in str(caught.value.fix)
    assert fold.resume_state.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"PK", b"not a checkpoint at all", None])
def test_a_damaged_checkpoint_is_told_in_one_line(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "resume.ckpt"
    if content is None:  # cut off
        torch.save({"step": 1, "x": torch.zeros(1000)}, path)
        content = path.read_bytes()[:2000]
    path.write_bytes(content)
    with pytest.raises(BundleError) as caught:
        load_resume_state(path)
    assert str(caught.value) == f"{path}: is damaged; delete it: the fold is then trained from its start"


def test_a_checkpoint_cannot_bring_code(tmp_path: Path) -> None:
    made = tmp_path / "made"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (made,)

    torch.save({"step": Evil()}, tmp_path / "resume.ckpt")
    with pytest.raises(BundleError):
        load_resume_state(tmp_path / "resume.ckpt")
    assert not made.exists()


def test_each_step_has_one_row_also_after_a_resume(tmp_path: Path) -> None:
    path = tmp_path / "steps.csv"

    def train(steps: range, resumed_from: int) -> None:
        log, module = StepLog(path), _Module(step=resumed_from)
        module.optimizers = lambda: SimpleNamespace(param_groups=[{"lr": 0.1}])
        log.on_train_start(_trainer(), module)  # type: ignore[arg-type]
        for step in steps:
            module.step = step
            log.on_train_batch_end(_trainer(), module, {"loss": step / 8}, None, 0)  # type: ignore[arg-type]
        log.on_train_epoch_end(_trainer(), module)  # type: ignore[arg-type]

    train(range(1, 6), 0)
    train(range(4, 7), 3)
    assert _rows(path) == [
        ["step", "loss", "learning_rate"],
        *([str(step), str(step / 8), "0.1"] for step in range(1, 7)),
    ]


def test_a_validation_is_one_row_and_the_best_is_kept(tmp_path: Path) -> None:
    notes: list[str] = []
    fold = RunFolder(tmp_path).fold(0)
    fold.path.mkdir()
    log = ValidationLog(fold, SimpleNamespace(note=notes.append))  # type: ignore[arg-type]
    module: Any = _Module()
    log.on_validation_end(_trainer(), module)
    assert module.best_quality == 0.5
    first = fold.weights("best").read_bytes()
    for step, quality in ((5, 0.25), (6, 0.75), (6, 0.75)):  # the last one as after a kill at the very end
        module.step, module.quality = step, quality
        log.on_validation_end(_trainer(), module)
        if step == 5:
            with torch.no_grad():
                module.network[0].bias += 1
            assert fold.weights("best").read_bytes() == first
    assert fold.weights("best").read_bytes() != first
    assert fold.metrics.read_text(encoding="utf-8") == (
        "step,minutes,dice_liver,dice_spleen,mean_dice\n4,0.5,0.5,,0.5\n5,0.5,0.5,,0.25\n6,0.5,0.5,,0.75\n"
    )
    assert notes[0] == "step 4, 0.5 min: as told"
