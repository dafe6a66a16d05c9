"""``medseg inspect`` on networks, papers' configurations, runs and the whole registry."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from medseg.cli.main import main
from medseg.networks import network_names

TINY = ["--option", "features=4,6,8"]


def test_a_network_as_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "unet", "--shape", "32,32,16", *TINY]) == 0
    shown = capsys.readouterr().out
    rows = {line.split("│")[1].strip(): line for line in shown.splitlines() if line.startswith("│")}
    first = [cell.strip() for cell in rows["encoder.levels.0.convs.0.conv"].split("│")[1:-1]]
    assert first[1:] == ["convolution", "3 x 3 x 3", "1 x 1 x 1", "4 x 32 x 32 x 16", "108", "3 x 3 x 3"]
    assert "│ 44 x 44 x 44" in rows["receptive field"]
    assert "│ 23 x 23 x 23" in rows["halo"]
    assert "│ 4 x 4 x 4" in rows["stride"]
    assert "no layer" in rows["looks at the whole image"]


def test_a_network_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--spatial-dims", "2", "--option", "norm=instance", "--option", "in_channels=3"]
    assert main(["inspect", "unet", "--json", *TINY, *options]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["network"], found["shape"]) == ("unet", [1, 3, 256, 256])
    assert found["receptive_field"] is None
    assert found["whole_layers"][0] == "encoder.levels.0.convs.0.norm"
    assert found["parameters"] == sum(layer["parameters"] for layer in found["layers"])
    assert found["layers"][0]["receptive_field"] == [3, 3]


def test_the_shape_tells_the_dimensions(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "unet", "--json", "--shape", "20,24", *TINY]) == 0
    assert json.loads(capsys.readouterr().out)["output_shapes"] == [[1, 2, 20, 24]]


def test_a_paper_s_configuration_at_a_size_that_fits_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "unet_2015", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["parameters"] == 31_030_658
    assert found["shape"] == [1, 1, 268, 268]
    assert main(["inspect", "unet_2015", "--json", "--shape", "572,572"]) == 0
    assert json.loads(capsys.readouterr().out)["output_shapes"] == [[1, 2, 388, 388]]


def test_a_run_at_its_patch(make_run: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(channel_names=("T1", "T2"), patch_size=(16, 24, 8))
    assert main(["inspect", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["shape"] == [1, 2, 16, 24, 8]
    assert found["output_shapes"] == [[1, 3, 16, 24, 8]]


def test_all_networks_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "--all", "--spatial-dims", "2", "--shape", "64,64", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["network"] for row in found] == list(network_names())
    assert all(row["output_shapes"] == [[1, 2, 64, 64]] for row in found)
    assert all(row["receptive_field"] for row in found)


def test_a_comparison_names_the_layer_that_is_not_local(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medseg.networks.network_names", lambda: ("segnet", "unet"))
    assert main(["inspect", "--all", "--shape", "64,64", "--option", "norm=group", *TINY]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert [row.split("│")[1].strip() for row in rows] == ["segnet", "unet"]
    assert all("no: encoder.levels.0.convs.0.norm" in row for row in rows)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["unte"], 5, "'unte' is no network, no configuration and no folder of a run; did you mean 'unet'?"),
        (["fcn8"], 5, "did you mean 'fcn8s'?"),
        ([], 5, "nothing to inspect, or two things; give one name or folder, or --all"),
        (["unet", "--all"], 5, "nothing to inspect, or two things; give one name or folder, or --all"),
        (["unet", "--shape", "32"], 5, "--shape: '32' is no shape; write it as 128,128,128"),
        (["unet", "--shape", "32,0,32"], 5, "--shape: '32,0,32' is no shape; write it as 128,128,128"),
        (
            ["unet", "--shape", "32,32", "--spatial-dims", "3"],
            5,
            "--shape: 2 numbers for a network of 3 axes; give 3",
        ),
        (["unet", "--option", "features"], 5, "'features' is no NAME=VALUE"),
        (["unet", "--option", "features=[4]"], 5, "network 'unet': features names 1 levels"),
        (["unet", "--option", "nrom=batch"], 5, "network 'unet': has no option 'nrom'; did you mean 'norm'?"),
        (["unet_2015", "--shape", "256,256"], 2, "cannot pool evenly; pad or crop it to 252 or 268"),
    ],
)
def test_refusals(arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", *arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_a_folder_without_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "--help"]) == 0
    assert "medseg inspect --all" in capsys.readouterr().out
