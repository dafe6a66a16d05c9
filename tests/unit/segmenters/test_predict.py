"""Networks, ensembles, and many cases of which some fail."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from medseg.errors import BundleError, ConfigError, InputError, MedsegError, ResourceError
from medseg.geometry import Grid
from medseg.inference import RestoredScores, choose_compute
from medseg.io import SUFFIXES, Case, read_header, read_volume, write_volume
from medseg.labels import LabelScheme
from medseg.registry import VOLUME_FORMATS
from medseg.runs import Normalization, PreprocessingSpec
from medseg.runs.postprocess import PostprocessChoice
from medseg.segmenters import (
    CaseOutcome,
    EnsembleSegmenter,
    NetworkSegmenter,
    exit_code,
    open_image,
    predict_cases,
    write_summary,
)
from medseg.segmenters.predict import output_paths
from medseg.volume import Volume

LABELS = LabelScheme.from_names({1: "low", 4: "high"})
GRID = Grid((10, 9, 8), np.diag([-1.0, 1.5, 2.0, 1.0]))
AS_STORED = PreprocessingSpec(spacing_mm=(1.1, 1.1, 1.1), normalization=[Normalization(scheme="none")])


def segmenter(network: nn.Module | None = None, labels: LabelScheme = LABELS) -> NetworkSegmenter:
    torch.manual_seed(0)
    return NetworkSegmenter(
        network or nn.Conv3d(1, len(labels), 1),
        labels=labels,
        channel_names=("MRI",),
        preprocessing=AS_STORED,
        patch_size=(8, 8, 8),
        compute=choose_compute("cpu", "float32"),
    )


def random_image(seed: int = 0) -> Volume:
    return Volume(np.random.default_rng(seed).normal(size=(1, *GRID.shape)).astype(np.float32), GRID)


@pytest.fixture
def images(tmp_path: Path) -> list[Case]:
    cases = []
    for index, name in enumerate("abc"):
        path = tmp_path / "images" / f"{name}.nii.gz"
        write_volume(random_image(index), path)
        cases.append(Case(name, (path,)))
    return cases


class Failing(nn.Module):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def forward(self, images: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        raise self.error


def test_every_form_of_a_case_gives_the_same_labels(images: list[Case]) -> None:
    path = images[0].images[0]
    expected = segmenter().segment(random_image(0)).array

    assert len(np.unique(expected)) > 1
    for form in (images[0], path, str(path), [path]):
        np.testing.assert_array_equal(segmenter().segment(form).array, expected)


def test_an_ensemble_is_the_mean_of_its_members_probabilities() -> None:
    members = [segmenter(), segmenter(), segmenter()]
    for index, member in enumerate(members):
        torch.manual_seed(index)
        member.network.load_state_dict({"weight": torch.randn(3, 1, 1, 1, 1), "bias": torch.randn(3)})
    image = random_image()
    ensemble = EnsembleSegmenter(members)

    plan = ensemble.plan(image, axis=2)
    stage = ensemble.scores(image, plan)

    assert (stage.axis, stage.length, stage.ascending) == (2, 8, True)
    one_by_one = [
        torch.softmax(member.scores(image, member.plan(image, 2)).read(2, 5), dim=0) for member in members
    ]
    torch.testing.assert_close(stage.read(2, 5), torch.stack(one_by_one).mean(dim=0))
    assert plan.by_part["network"] > members[0].plan(image, 2).by_part["network"]
    whole = ensemble.scores(image, plan)
    indices = whole.read(0, whole.length).argmax(dim=0).numpy()
    np.testing.assert_array_equal(ensemble.segment(image).array[0], np.array([0, 1, 4])[indices])


def test_members_of_an_ensemble_must_agree() -> None:
    with pytest.raises(ConfigError, match="needs a member"):
        EnsembleSegmenter([])
    with pytest.raises(BundleError, match="differ in classes or channels"):
        EnsembleSegmenter([segmenter(), segmenter(labels=LabelScheme.from_names({1: "other", 4: "high"}))])
    with pytest.raises(ConfigError, match="cannot be a member"):
        EnsembleSegmenter([EnsembleSegmenter([segmenter()])])


def test_the_network_is_the_one_in_evaluation() -> None:
    network = nn.Sequential(nn.Conv3d(1, 3, 1), nn.Dropout(0.9)).train()

    stages = [segmenter(network).scores(random_image()) for _ in range(2)]

    first, second = (stage.read(0, stage.length) for stage in stages)
    torch.testing.assert_close(first, second)
    assert all(isinstance(stage, RestoredScores) for stage in stages)


def test_a_network_that_answers_nonsense_is_refused() -> None:
    with pytest.raises(BundleError, match="gives 2 classes, 3 are declared"):
        segmenter(nn.Conv3d(1, 2, 1)).segment(random_image())
    broken = nn.Conv3d(1, 3, 1)
    nn.init.constant_(broken.weight, torch.inf)
    with pytest.raises(BundleError, match="NaN or infinite"):
        segmenter(broken).segment(random_image())


def test_wrong_images_are_refused(tmp_path: Path) -> None:
    two = Volume(np.zeros((2, *GRID.shape), np.float32), GRID)
    write_volume(two, tmp_path / "two.nii.gz")

    with pytest.raises(InputError, match=r"the image: has 2 channels, the model needs 1 \(MRI\)"):
        segmenter().segment(two)
    with pytest.raises(InputError, match=r"two.nii.gz: has 2 channels, the model needs 1 \(MRI\)"):
        segmenter().segment(tmp_path / "two.nii.gz")
    with (
        pytest.raises(InputError, match=r"has 1 channel, the model needs 2 \(T1, T2\)"),
        open_image(random_image(), ("T1", "T2")),
    ):
        pass
    holed = random_image()
    holed.array[0, 0, 0, 0] = np.nan
    with pytest.raises(InputError, match=r"the image: .*1 .*NaN"):
        segmenter().segment(holed)
    with pytest.raises(InputError, match="no file is given"):
        segmenter().segment([])


def test_cases_are_written_as_they_are_named(images: list[Case], tmp_path: Path) -> None:
    outcomes = predict_cases(segmenter(), images, tmp_path / "labels")

    assert [outcome.output for outcome in outcomes] == [tmp_path / "labels" / f"{n}.nii.gz" for n in "abc"]
    for case, outcome in zip(images, outcomes, strict=True):
        assert outcome.output is not None
        written = read_volume(outcome.output)
        assert written.grid == read_header(case.images[0]).grid
        assert written.array.dtype == np.uint8
        np.testing.assert_array_equal(written.array, segmenter().segment(case).array)
        counted = {name: int((written.array == value).sum()) for value, name in ((1, "low"), (4, "high"))}
        assert outcome.voxels == {name: count for name, count in counted.items() if count}
    assert exit_code(outcomes) == 0


WRITTEN = [suffix for suffix in SUFFIXES if VOLUME_FORMATS.resolve(suffix)().writes]


@pytest.mark.parametrize("suffix", sorted(set(SUFFIXES) - set(WRITTEN)))
def test_formats_that_are_only_read_give_nifti(suffix: str, tmp_path: Path) -> None:
    assert output_paths([Case("a", (tmp_path / f"a{suffix}",))], tmp_path) == [tmp_path / "a.nii.gz"]


@pytest.mark.parametrize("suffix", WRITTEN)
def test_labels_come_in_the_format_of_their_image(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / "images" / f"a{suffix}"
    write_volume(random_image(), path)

    (outcome,) = predict_cases(segmenter(), [Case("a", (path,))], tmp_path / "labels")

    assert outcome.output == tmp_path / "labels" / f"a{suffix}"
    assert read_header(path).grid.difference(read_header(outcome.output).grid) is None


def test_one_bad_case_leaves_the_others_alone(images: list[Case], tmp_path: Path) -> None:
    whole = images[1].images[0].read_bytes()
    images[1].images[0].write_bytes(whole[: len(whole) // 2])

    outcomes = predict_cases(segmenter(), images, tmp_path / "labels")

    assert [outcome.error is None for outcome in outcomes] == [True, False, True]
    assert sorted(path.name for path in (tmp_path / "labels").iterdir()) == ["a.nii.gz", "c.nii.gz"]
    assert outcomes[1].output is None
    assert outcomes[1].voxels == {}
    assert str(images[1].images[0]) in str(outcomes[1].error)
    assert exit_code(outcomes) == InputError.exit_code


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (RuntimeError("boom\ndetails"), MedsegError, r"failed unexpectedly \(RuntimeError: boom\)"),
        (ValueError("odd shape"), MedsegError, r"failed unexpectedly \(ValueError: odd shape\)"),
        (MemoryError(), ResourceError, "not enough memory"),
        (torch.OutOfMemoryError("CUDA out of memory"), ResourceError, "not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), ResourceError, "not enough memory"),
        (BundleError("broken"), BundleError, "broken"),
    ],
)
def test_whatever_happens_to_a_case_is_told_of_that_case(
    error: Exception, kind: type[MedsegError], message: str, images: list[Case], tmp_path: Path
) -> None:
    (outcome,) = predict_cases(segmenter(Failing(error)), images[:1], tmp_path / "labels")

    assert type(outcome.error) is kind
    with pytest.raises(kind, match=message):
        raise outcome.error
    assert not (tmp_path / "labels").exists()


def test_a_programming_error_is_not_swallowed(images: list[Case], tmp_path: Path) -> None:
    with pytest.raises(AttributeError):
        predict_cases(segmenter(Failing(AttributeError("typo"))), images, tmp_path / "labels")


def test_nothing_is_overwritten_or_written_twice(images: list[Case], tmp_path: Path) -> None:
    before = images[0].images[0].read_bytes()
    with pytest.raises(InputError, match=r"a.nii.gz: is an input and would be overwritten"):
        predict_cases(segmenter(), images, tmp_path / "images")
    labelled = Case("x", images[0].images, label=tmp_path / "labels" / "x.nii.gz")
    with pytest.raises(InputError, match=r"x.nii.gz: is an input and would be overwritten"):
        predict_cases(segmenter(), [labelled], tmp_path / "labels")
    with pytest.raises(InputError, match="would be written by two cases"):
        predict_cases(segmenter(), [images[0], Case("a", images[1].images)], tmp_path / "labels")
    with pytest.raises(InputError, match=r"case name '../a' is no file name"):
        predict_cases(segmenter(), [Case("../a", images[0].images)], tmp_path / "labels")
    assert not (tmp_path / "labels").exists()
    assert images[0].images[0].read_bytes() == before


def test_a_folder_that_cannot_be_written_is_refused_first(images: list[Case], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(ResourceError, match="is a file, a folder is needed"):
        predict_cases(segmenter(), images, tmp_path / "file")


def outcome_of(error: MedsegError | None) -> CaseOutcome:
    return CaseOutcome("a", 0.1, None if error else Path("a.nii"), {}, error=error)


def test_the_exit_code_is_that_of_all_failures_or_one() -> None:
    good, bad, worse = outcome_of(None), outcome_of(InputError("bad")), outcome_of(ResourceError("full"))

    assert exit_code([]) == 0
    assert exit_code([good, good]) == 0
    assert exit_code([good, bad, bad]) == InputError.exit_code
    assert exit_code([bad, worse]) == 1


def test_the_summary_tells_what_became_of_each_case(tmp_path: Path) -> None:
    done = CaseOutcome("a", 1.23456, Path("out/a.nii"), {"low": 3})
    failed = outcome_of(InputError("is cut", where="b.nii", fix="copy it again"))

    write_summary(
        [done, failed],
        tmp_path / "summary.json",
        model="runs/x",
        postprocess=PostprocessChoice(fill_holes="all"),
    )

    assert json.loads((tmp_path / "summary.json").read_text()) == {
        "model": "runs/x",
        "postprocess": PostprocessChoice(fill_holes="all").model_dump(mode="json"),
        "done": 1,
        "failed": 1,
        "cases": [
            {
                "case": "a",
                "status": "done",
                "seconds": 1.235,
                "output": "out/a.nii",
                "voxels": {"low": 3},
                "objects": None,
                "plan": None,
                "reason": None,
                "geometry": None,
                "notes": [],
            },
            {
                "case": "a",
                "status": "failed",
                "seconds": 0.1,
                "output": None,
                "voxels": {},
                "objects": None,
                "plan": None,
                "reason": "b.nii: is cut; copy it again",
                "geometry": None,
                "notes": [],
            },
        ],
    }
