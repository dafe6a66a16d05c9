from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from medseg.errors import BundleError, InputError
from medseg.runs import RunFolder, software_versions


def test_open_reads_nothing(make_run: Callable[..., Path]) -> None:
    path = make_run()
    (path / "plan.json").write_text("nonsense", encoding="utf-8")
    assert RunFolder.open(path).path == path


def test_open_refuses_what_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none: is no folder; give the --out folder of a training"):
        RunFolder.open(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file: is no folder"):
        RunFolder.open(tmp_path / "file")


def test_open_refuses_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no run \(no plan\.json or task\.json\)"):
        RunFolder.open(tmp_path)


def test_documents_come_back(make_run: Callable[..., Path]) -> None:
    run = RunFolder.open(make_run(trained=(0, 1)))
    assert run.plan().dataset == "toy"
    assert run.recipe().network.name == "unet"
    assert run.manifest() == {"data": "None"}
    assert [fold.index for fold in run.trained_folds()] == [0, 1]


@pytest.mark.parametrize("name", ["plan.json", "recipe.yaml", "manifest.json"])
@pytest.mark.parametrize("content", [None, b"", b"{", b"[1, 2]", b"\xff\xfe\x00", b'{"surprise": 1}'])
def test_a_damaged_document_is_told_in_one_line(
    name: str, content: bytes | None, make_run: Callable[..., Path]
) -> None:
    path = make_run()
    (path / name).unlink()
    if content is not None:
        (path / name).write_bytes(content)
    run = RunFolder(path)
    read = {"plan.json": run.plan, "recipe.yaml": run.recipe, "manifest.json": run.manifest}[name]
    if name == "manifest.json" and content == b'{"surprise": 1}':
        assert read() == {"surprise": 1}  # a manifest has no schema
        return
    with pytest.raises(BundleError) as caught:
        read()
    line = str(caught.value)
    assert line.startswith(f"{path / name}: the run is damaged: ")
    assert line.endswith("; restore the file from a backup")
    assert "\n" not in line


def test_folds_without_weights_do_not_count(make_run: Callable[..., Path]) -> None:
    path = make_run(trained=(1,))
    (path / "fold_0" / "checkpoints").mkdir(parents=True)
    (path / "fold_x").mkdir()
    assert [fold.index for fold in RunFolder(path).trained_folds()] == [1]


def test_folds_are_ordered_by_number(make_run: Callable[..., Path]) -> None:
    path = make_run(folds=[[str(number)] for number in range(12)], trained=(10, 2))
    assert [fold.index for fold in RunFolder(path).trained_folds()] == [2, 10]


def test_a_run_without_weights_says_so(make_run: Callable[..., Path]) -> None:
    with pytest.raises(BundleError, match="has no trained weights yet"):
        RunFolder(make_run(trained=())).trained_folds()


def test_places_of_a_fold(tmp_path: Path) -> None:
    fold = RunFolder(tmp_path).fold(3)
    relative = [
        path.relative_to(tmp_path).as_posix()
        for path in (
            fold.resume_state,
            fold.weights(),
            fold.weights("best"),
            fold.metrics,
            fold.steps,
            fold.finished_mark,
            fold.tensorboard,
        )
    ]
    assert relative == [
        "fold_3/checkpoints/resume.ckpt",
        "fold_3/checkpoints/last.pt",
        "fold_3/checkpoints/best.pt",
        "fold_3/metrics.csv",
        "fold_3/steps.csv",
        "fold_3/finished.json",
        "fold_3/tensorboard",
    ]
    assert not fold.finished
    fold.finished_mark.parent.mkdir()
    fold.finished_mark.touch()
    assert fold.finished


def test_versions_name_what_results_depend_on() -> None:
    import torch

    import medseg

    versions = software_versions()
    assert versions["medseg"] == medseg.__version__
    assert torch.__version__.startswith(versions["torch"].split("+")[0])
    assert {"python", "platform", "monai", "lightning", "numpy"} <= versions.keys()


def test_a_package_that_is_not_there_is_said_to_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medseg.runs.folder._REPORTED_PACKAGES", ("no-such-package",))
    assert software_versions()["no-such-package"] == "not installed"
