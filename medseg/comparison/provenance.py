"""What was run: recipe, plan, versions, seeds and hashes of a run, as blocks of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from medseg.comparison.page import NOTHING, Block, Folded, Table, Text
from medseg.errors import MedsegError
from medseg.files import read_json, sha256_of

__all__ = ["flattened", "folder_name", "hash_table", "run_blocks", "version_table"]

_RUN_DOCUMENTS = ("recipe.yaml", "plan.json", "task.json", "split.json", "postprocess.json")
_WEIGHTS = "fold_*/checkpoints/last.pt"
_MODELS = "fold_*/model/*"
_SHOWN_OF_PLAN = ("dataset", "channel_names", "preprocessing", "patch_size", "batch_size", "network")
_LONGEST_VALUE = 300


def run_blocks(run: Path, name: str = "") -> list[Block]:
    """What a run's documents say; of what is missing or damaged, that it is.

    Args:
        run: The run's folder.
        name: Stands before each summary line, where there are several runs.
    """
    prefix = f"{name}: " if name else ""
    if not run.is_dir():
        return [Text(f"{prefix}the run {run} is not where it was, so nothing is told of it.", "note")]
    blocks: list[Block] = []
    recipe = _read_yaml(run / "recipe.yaml")
    if recipe is not None:
        blocks.append(Folded(f"{prefix}recipe", [_key_table(flattened(recipe), "recipe.yaml")]))
    plan = _read(run / "plan.json")
    if plan is not None:
        chosen = {key: plan[key] for key in _SHOWN_OF_PLAN if key in plan}
        inner: list[Block] = [_key_table(flattened(chosen), "plan.json")]
        reasons = plan.get("reasons")
        if isinstance(reasons, Mapping):
            rows = [[str(key), str(value)] for key, value in reasons.items()]
            inner.append(Table(["decision", "why"], rows, "Reasons", text_columns=(0, 1)))
        blocks.append(Folded(f"{prefix}plan", inner))
    manifest = _read(run / "manifest.json")
    if manifest is not None:
        inputs = manifest.pop("inputs_sha256", None)
        versions = manifest.pop("versions", None)
        told = flattened(manifest)
        if isinstance(inputs, Mapping):
            told.append(("inputs", f"{len(inputs)} cases, the SHA-256 of each file is in manifest.json"))
        inner = [_key_table(told, "manifest.json")]
        if isinstance(versions, Mapping):
            inner.append(version_table(versions))
        blocks.append(Folded(f"{prefix}seed, budget, data, versions", inner))
    files = [run / document for document in _RUN_DOCUMENTS]
    files += [*sorted(run.glob(_WEIGHTS)), *sorted(path for path in run.glob(_MODELS) if path.is_file())]
    hashes = hash_table([path for path in files if path.is_file()], run)
    if hashes.rows:
        blocks.append(Folded(f"{prefix}hashes", [hashes]))
    return blocks or [Text(f"{prefix}{run} holds no run's documents.", "note")]


def version_table(versions: Mapping[str, Any]) -> Table:
    """Versions of what the numbers depend on."""
    rows = [[str(name), str(value)] for name, value in versions.items()]
    return Table(["software", "version"], rows, "Versions", text_columns=(0, 1))


def hash_table(paths: Sequence[Path], below: Path) -> Table:
    """SHA-256 of files.

    Args:
        paths: The files.
        below: Their names are told as seen from here.
    """
    rows = [[path.relative_to(below).as_posix(), sha256_of(path)] for path in paths]
    return Table(
        ["file", "SHA-256"], rows, f"SHA-256 of files in {below.resolve().name}", text_columns=(0, 1)
    )


def folder_name(told: Mapping[str, Any], key: str) -> str:
    """The name of a folder whose whole path ``What was run`` tells; a dash where there is none.

    Example:
        >>> folder_name({"references": "/data/liver/labelsTs"}, "references")
        'labelsTs'
    """
    return Path(str(told[key])).name if key in told else NOTHING


def flattened(content: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested keys as one list of names and values; what is empty or left out is not told.

    Example:
        >>> flattened({"network": {"name": "unet", "sizes": [1, 2]}, "note": None})
        [('network.name', 'unet'), ('network.sizes', '1, 2')]
    """
    if isinstance(content, Mapping):
        return [
            row
            for key, value in content.items()
            for row in flattened(value, f"{prefix}.{key}" if prefix else str(key))
        ]
    if isinstance(content, list) and any(isinstance(value, Mapping | list) for value in content):
        return [row for place, value in enumerate(content) for row in flattened(value, f"{prefix}.{place}")]
    if isinstance(content, list):
        content = ", ".join(map(str, content))
    if content is None or content == "":
        return []
    text = str(content)
    return [(prefix, text if len(text) <= _LONGEST_VALUE else text[:_LONGEST_VALUE] + " …")]


def _key_table(rows: Sequence[tuple[str, str]], caption: str) -> Table:
    return Table(["key", "value"], rows, caption, text_columns=(0, 1))


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = read_json(path)
    except MedsegError:
        return None
    return content if isinstance(content, dict) else None


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_bytes())
    except (OSError, yaml.YAMLError, RecursionError):
        return None
