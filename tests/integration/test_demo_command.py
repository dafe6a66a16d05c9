"""The demo, with fewer phantoms and steps than a person would get."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medseg import demo
from medseg.cli.main import main


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "TRAINING_CASES", 5)
    monkeypatch.setattr(demo, "TEST_CASES", 2)


@pytest.mark.slow
@pytest.mark.usefixtures("short")
def test_the_demo_leaves_a_run_scores_and_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, ran = tmp_path / "demo", []
    run_demo = demo.run_demo
    monkeypatch.setattr(
        demo, "run_demo", lambda *args, **options: ran.append(run_demo(*args, **options)) or ran[0]
    )
    assert main(["demo", "--out", str(out), "--max-steps", "2", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["network"]["n_cases"] == shown["otsu"]["n_cases"] == 2
    assert [entry["name"] for entry in shown["otsu"]["classes"]] == [
        "ventricles",
        "left nucleus",
        "right nucleus",
        "nodules",
    ]
    assert shown["otsu"]["mean"]["dice"] < 0.6, "thresholds must not do, or the demo shows nothing"
    assert (out / "overlay.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "run" / "fold_0" / "finished.json").is_file()
    assert len(list((out / "predictions").glob("*.nii.gz"))) == 2

    monkeypatch.setattr(demo, "run_demo", lambda *_args, **_options: ran[0])
    assert main(["demo", "--out", str(out)]) == 0
    table = capsys.readouterr().out
    assert "multi-Otsu" in table
    assert f"{shown['network']['mean']['dice']:.3f}" in table


def test_a_folder_that_holds_something_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    assert main(["demo", "--out", str(tmp_path)]) == 2
    assert "is not empty; choose another --out" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
