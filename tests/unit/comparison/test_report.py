"""The report of an evaluation: what it says, that it needs nothing else, and what it refuses."""

from __future__ import annotations

import base64
import re
import shutil
import sys
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from medseg.comparison import write_report
from medseg.errors import ConfigError, InputError
from medseg.evaluation import (
    ScoringOptions,
    compare_folders,
    evaluate_folders,
    evaluate_instance_folders,
)
from medseg.evaluation.tables import read_metrics
from medseg.files import read_json, write_json
from medseg.geometry import Grid
from medseg.io import write_volume
from medseg.volume import Volume

MARKUP = "a<script>alert(1)<b> & 'b'"  # a case of the fixture
VOID = {"meta", "link", "img", "source"}


class Reader(HTMLParser):
    """Collects tags, addresses and the text of each section; proves that tags are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.sections: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = dict(attrs)
        self.addresses += [str(given[key]) for key in ("src", "srcset", "href") if key in given]
        if tag == "section":
            self.sections.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.sections:
            self.sections[-1] += data


def read(path: Path) -> Reader:
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    reader.close()
    assert reader.open == []
    return reader


@pytest.fixture(scope="module")
def report(evaluation: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(evaluation, tmp_path_factory.mktemp("report") / "r.html")


def test_nothing_is_fetched_and_no_markup_of_a_name_is_obeyed(report: Path) -> None:
    found = read(report)
    assert {address[:5] for address in found.addresses} <= {"data:", "#sect"}
    assert "script" not in found.tags
    assert "b" not in found.tags
    assert MARKUP in found.text
    assert "http" not in re.sub(r'(?:src|srcset)="[^"]*"|http-equiv', "", report.read_text(encoding="utf-8"))


def test_failures_come_first_and_each_is_there(report: Path, evaluation: Path) -> None:
    failures = read(report).sections[0]
    scores = read_metrics(evaluation / "metrics.csv")
    failed = [score for score in scores if score.status in ("missed", "spurious", "no_prediction")]
    assert len(failed) == 5
    assert f"{len(failed)} structures were missed or invented" in failures
    for score in failed:
        assert score.case in failures
        assert score.name in failures


def test_numbers_are_those_of_the_summary(report: Path, evaluation: Path) -> None:
    scores = read(report).sections[1]
    for entry in read_json(evaluation / "summary.json")["classes"]:
        low, high = entry["dice"]["interval"]
        assert f"{entry['dice']['mean']:.3f} [{low:.3f}, {high:.3f}]" in scores


def test_pictures_and_charts_are_whole(report: Path) -> None:
    found = read(report)
    kinds = {}
    for address in found.addresses:
        if address.startswith("data:image/"):
            media_type, _, content = address[5:].partition(";base64,")
            kinds.setdefault(media_type, []).append(base64.b64decode(content, validate=True))
    assert len(kinds["image/png"]) == 3
    assert all(content.startswith(b"\x89PNG") for content in kinds["image/png"])
    # Three distributions and four classes' volumes, each for light and dark.
    assert len(kinds["image/svg+xml"]) == 2 * (3 + 4)
    assert all(b"</svg>" in content for content in kinds["image/svg+xml"])


def test_the_same_evaluation_gives_the_same_bytes(report: Path, evaluation: Path, tmp_path: Path) -> None:
    again = write_report(evaluation, tmp_path / "again.html")
    assert again.read_bytes() == report.read_bytes()


def test_without_label_maps_the_evaluations_own_pictures_are_shown(evaluation: Path, tmp_path: Path) -> None:
    shutil.copytree(evaluation, tmp_path / "scores")
    summary = read_json(tmp_path / "scores" / "summary.json")
    write_json({**summary, "predictions": "gone"}, tmp_path / "scores" / "summary.json")
    found = read(write_report(tmp_path / "scores"))
    assert (tmp_path / "scores" / "report.html").is_file()
    assert "no error maps can be drawn" in found.text
    assert sum(address.startswith("data:image/png") for address in found.addresses) == 3


def test_what_is_no_evaluation_is_refused(evaluation: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no folder"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"holds no metrics\.csv"):
        write_report(tmp_path)
    folder = shutil.copytree(evaluation, tmp_path / "scores")
    content = (folder / "metrics.csv").read_text(encoding="utf-8")
    (folder / "metrics.csv").write_text(content.replace(",missed,", ",mist,"), encoding="utf-8")
    with pytest.raises(InputError, match=r"is not the metrics\.csv of an evaluation \(line \d+: 'mist'"):
        write_report(folder)
    (folder / "metrics.csv").write_text(content[:-60], encoding="utf-8")
    with pytest.raises(InputError, match=r"\(line \d+: the row is cut off\)"):
        write_report(folder)
    (folder / "metrics.csv").write_text("".join(content.splitlines(keepends=True)[:-1]), encoding="utf-8")
    with pytest.raises(InputError, match=r"it does not belong to metrics\.csv"):
        write_report(folder)
    (folder / "metrics.csv").write_text(content, encoding="utf-8")
    write_json({"n_cases": 4}, folder / "summary.json")
    with pytest.raises(InputError, match="is not the summary of an evaluation"):
        write_report(folder)
    assert not (folder / "report.html").exists()


def test_two_predictions_are_reported_side_by_side(evaluation: Path, tmp_path: Path) -> None:
    folder = evaluation.parent
    (tmp_path / "again").symlink_to(folder / "predictions")
    comparison = compare_folders(
        [folder / "predictions", tmp_path / "again"],
        folder / "labels",
        tmp_path / "both",
        evaluate_one=partial(evaluate_folders, options=ScoringOptions(surface=None)),
    )
    found = read(write_report(tmp_path / "both", images=folder / "images"))
    assert [text.split("\n")[1] for text in found.sections][:2] == ["Failures", "Which is better"]
    for entry in comparison.compared:
        assert f"{entry.first_mean:.3f}" in found.sections[1]
    assert "neither" in found.sections[1]
    assert MARKUP in found.sections[0]
    assert sum(address.startswith("data:image/png") for address in found.addresses) == 3
    write_json({"names": ["predictions", "again"]}, tmp_path / "both" / "comparison.json")
    with pytest.raises(InputError, match=r"is not the comparison of two evaluations \('compared' is missing"):
        write_report(tmp_path / "both")


def test_objects_that_were_missed_and_invented_are_counted(tmp_path: Path) -> None:
    grid = Grid((12, 12, 12), np.eye(4))
    reference = np.zeros((1, 12, 12, 12), np.uint8)
    reference[:, 1:5, 1:5, 1:5], reference[:, 7:11, 7:11, 7:11] = 1, 2
    prediction = np.where(reference == 2, 0, reference)
    prediction[:, 7:11, 1:5, 1:5] = 9
    prediction[:, 1:4, 8:10, 8:10] = 4
    for folder, array in (("ref", reference), ("pred", prediction)):
        write_volume(Volume(array, grid), tmp_path / folder / "<i>.nii.gz", labels=True)
    evaluate_instance_folders(tmp_path / "pred", tmp_path / "ref", tmp_path / "scores")
    found = read(write_report(tmp_path / "scores"))
    assert "1 objects were missed and 2 invented" in found.sections[0]
    assert "<i>" in found.text
    assert "i" not in found.tags
    path = tmp_path / "scores" / "instances.csv"
    path.write_text(path.read_text(encoding="utf-8").replace("n_matched", "n_lost"), encoding="utf-8")
    with pytest.raises(InputError, match="is not the table of an evaluation of objects"):
        write_report(tmp_path / "scores")


def test_a_missing_package_is_named(evaluation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "jinja2" else name)
    with pytest.raises(ConfigError, match=r"reports need jinja2.*; pip install 'medseg\[report\]'"):
        write_report(evaluation)
