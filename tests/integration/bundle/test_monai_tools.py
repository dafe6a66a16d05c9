"""MONAI's own tools on a bundle, and what its model zoo asks of a submission, all without medseg."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from medseg.bundle import Exported, ExportOptions, export_bundle
from medseg.data import Dataset

SCHEMA = Path(__file__).parents[2] / "data" / "bundle_metadata_schema.json"


def test_metadata_fits_the_specification(exported: Exported, tmp_path: Path) -> None:
    pytest.importorskip("jsonschema", reason="MONAI's verify_metadata needs jsonschema")
    from monai.bundle import verify_metadata

    # MONAI downloads a schema only if there is no file of that name.
    there = tmp_path / "schema.json"
    there.write_text(SCHEMA.read_text(encoding="utf-8"), encoding="utf-8")
    meta = exported.bundle / "configs" / "metadata.json"
    verify_metadata(meta_file=str(meta), filepath=str(there))
    broken = json.loads(meta.read_text(encoding="utf-8"))
    del broken["network_data_format"]["outputs"]["pred"]["channel_def"]
    (tmp_path / "broken.json").write_text(json.dumps(broken), encoding="utf-8")
    with pytest.raises(ValueError, match="channel_def"):
        verify_metadata(meta_file=str(tmp_path / "broken.json"), filepath=str(there))


def test_metadata_has_what_the_schema_asks_for(exported: Exported) -> None:
    """The schema's required keys and types, without a package that reads schemas."""
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    found = json.loads((exported.bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    assert [key for key in schema["required"] if key not in found] == []
    tensor = schema["$defs"]["tensor"]
    for side, name in (("inputs", "image"), ("outputs", "pred")):
        described = found["network_data_format"][side][name]
        assert [key for key in tensor["required"] if key not in described] == []
        assert re.fullmatch(tensor["properties"]["dtype"]["pattern"], described["dtype"])
    described = found["network_data_format"]
    assert described["inputs"]["image"]["spatial_shape"] == [16, 16, 16]
    assert described["outputs"]["pred"]["channel_def"]["2"] == "left nucleus"
    assert described["outputs"]["pred"]["num_channels"] == 5


def test_the_model_zoos_checks_of_files_and_versions(exported: Exported) -> None:
    bundle = exported.bundle
    assert [
        name
        for name in ("LICENSE", "configs/metadata.json", "configs/inference.yaml", "models/model.pt")
        if not (bundle / name).is_file()
    ] == []
    meta = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    assert meta["version"] == "1.2.0"
    assert "1.2.0" in meta["changelog"]


TOOLS = """
import torch
from monai.bundle import ckpt_export, create_workflow, run, verify_net_in_out
torch.set_num_threads(1)
meta, cpu, data, out = "configs/metadata.json", "$torch.device('cpu')", "{data}", "{out}"
verify_net_in_out("network_def", meta_file=meta, config_file="configs/inference.yaml", device="cpu")
verify_net_in_out("network_def", meta_file=meta, config_file="configs/train.yaml", device="cpu")
ckpt_export("network_def", filepath=f"{{out}}/exported.ts", ckpt_file="models/model.pt", meta_file=meta,
            config_file="configs/inference.yaml", bundle_root=".")
assert torch.jit.load(f"{{out}}/exported.ts")(torch.zeros(1, 1, 19, 17, 16)).shape == (1, 5, 19, 17, 16)
for kind, name in (("inference", "inference"), ("inference", "evaluate"), ("train", "train")):
    folder = f"{{data}}/imagesTr" if name == "inference" else data
    workflow = create_workflow(config_file=f"configs/{{name}}.yaml", meta_file=meta, workflow_type=kind,
                               logging_file="configs/logging.conf", dataset_dir=folder)
    assert workflow.check_properties() == [], workflow.check_properties()
run(config_file="configs/evaluate.yaml", meta_file=meta, dataset_dir=data, output_dir=f"{{out}}/scores",
    device=cpu)
run(config_file="configs/train.yaml", meta_file=meta, dataset_dir=data, ckpt_dir=out, device=cpu,
    epochs=2, val_interval=1)
"""


def test_monais_tools_and_two_epochs_of_training(
    exported: Exported, phantoms: Dataset, without_medseg: Callable[..., str], tmp_path: Path
) -> None:
    said = without_medseg(TOOLS.format(out=tmp_path, data=phantoms.folder), exported.bundle)
    assert "data shape of network is verified with no error" in said
    losses = [float(loss) for loss in re.findall(r"train_loss: ([0-9.]+)", said)]
    assert len(losses) >= 2
    with (tmp_path / "scores" / "val_mean_dice_raw.csv").open() as table:
        rows = list(csv.reader(table))
    assert len(rows) == 1 + 3
    assert len(rows[0]) == 1 + 4 + 1
    assert all(0.0 <= float(field) <= 1.0 for field in rows[1][1:])
    assert (tmp_path / "finetuned.pt").is_file()


VERIFY = """
import sys
from monai.bundle import verify_metadata, verify_net_in_out
try:
    import medseg
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("medseg is here")
verify_metadata(meta_file="configs/metadata.json", filepath=sys.argv[1])
verify_net_in_out("network_def", meta_file="configs/metadata.json", config_file="configs/inference.yaml")
"""


def test_in_an_environment_of_monai_alone(run: Path, tmp_path: Path) -> None:
    python = os.environ.get("MEDSEG_BUNDLE_PYTHON")
    if not python:
        pytest.skip(
            "MEDSEG_BUNDLE_PYTHON is not set: no environment of MONAI alone ('make bundle' makes one)"
        )
    exported = export_bundle(run, tmp_path / "bundle", ExportOptions(python=python))
    assert exported.cases[0].agrees
    command = [python, "-c", "import sys; sys.path.insert(0, '.')\n" + VERIFY, str(SCHEMA)]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        command, cwd=exported.bundle, env=clean, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "metadata is verified with no error" in done.stdout + done.stderr
