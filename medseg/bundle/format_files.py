"""The files of a network in other formats, and how each is run again."""

from __future__ import annotations

import importlib
import io
import itertools
import zipfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

__all__ = ["ONNX_OPSET", "FloatArray", "FormatFiles", "Run"]

FloatArray = npt.NDArray[np.float32]
Run = Callable[[FloatArray], FloatArray]

ONNX_OPSET = 20


class FormatFiles:
    """Writes one network in each format; what several formats start from is made once.

    Args:
        network: In evaluation mode.
        example: Of a batch of patches.
        stem: The files' path, without suffix.
    """

    def __init__(self, network: nn.Module, example: Tensor, stem: Path) -> None:
        self._network = network
        self._example = example
        self._stem = stem
        self._program: torch.export.ExportedProgram | None = None

    def torch_export(self) -> tuple[Path, str, Run]:
        """``model.pt2``: a graph for torch, of any size."""
        path = self._stem.with_suffix(".pt2")
        torch.export.save(self._exported(), path)
        module = torch.export.load(path).module()
        return path, "sizes and batch dynamic", _torch_run(module)

    def torchscript(self) -> tuple[Path, str, Run]:
        """``model.ts``: scripted."""
        path = self._stem.with_suffix(".ts")
        buffer = io.BytesIO()
        torch.jit.save(torch.jit.script(self._network), buffer)
        _without_sources(buffer, path)
        return path, "scripted", _torch_run(torch.jit.load(path))  # type: ignore[no-untyped-call]

    def onnx(self) -> tuple[Path, str, Run]:
        """``model.onnx``: for any runtime, of any size."""
        import onnxruntime

        path = self._onnx_file()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        detail = f"opset {ONNX_OPSET}; image (n, C, x, y, z) to pred (n, K, x, y, z)"
        return path, detail, lambda image: session.run(None, {"image": image})[0]

    def openvino(self) -> tuple[Path, str, Run]:
        """``model.xml`` and ``model.bin``: for OpenVINO, read from ONNX, which sends no telemetry."""
        import openvino

        core = openvino.Core()
        path = self._stem.with_suffix(".xml")
        model = core.read_model(self._onnx_file())
        _number_layers(model)
        openvino.save_model(model, path, compress_to_fp16=False)
        # Left to itself, OpenVINO computes in bfloat16 where a processor can.
        compiled = core.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return path, "single precision, weights beside it in .bin", lambda image: compiled(image)[0]

    def drop_what_was_not_asked_for(self, formats: Sequence[str]) -> None:
        """OpenVINO's starts from ONNX's."""
        if "onnx" not in formats:
            self._stem.with_suffix(".onnx").unlink(missing_ok=True)

    def _exported(self) -> torch.export.ExportedProgram:
        if self._program is None:
            free = torch.export.Dim.DYNAMIC
            shapes = {axis: free for axis in range(5) if axis != 1}
            with ExitStack() as stack:
                _ask_no_sizes(stack)
                self._program = torch.export.export(self._network, (self._example,), dynamic_shapes=(shapes,))
            for node in self._program.graph.nodes:
                node.meta.pop("stack_trace", None)  # paths of this machine
        return self._program

    def _onnx_file(self) -> Path:
        path = self._stem.with_suffix(".onnx")
        if not path.exists():
            program = torch.onnx.export(
                self._exported(),
                dynamo=True,
                opset_version=ONNX_OPSET,
                input_names=["image"],
                output_names=["pred"],
                verbose=False,
            )
            if program is None:
                raise RuntimeError("the exporter gave nothing")
            program.save(path)
            _strip_onnx(path)
        return path


def _ask_no_sizes(stack: ExitStack) -> None:
    """Let no branch of torch's own, on how voxels lie in memory, bind the graph to the example's sizes."""
    settings: Any = importlib.import_module("torch.fx.experimental._config")
    if hasattr(settings, "backed_size_oblivious"):
        stack.enter_context(settings.patch(backed_size_oblivious=True))


def _torch_run(module: Any) -> Run:
    def run(image: FloatArray) -> FloatArray:
        with torch.no_grad():
            scores: FloatArray = module(torch.from_numpy(image)).numpy()
        return scores

    return run


def _without_sources(archive: io.BytesIO, path: Path) -> None:
    """Copy a TorchScript archive without the records of where in which file its code was written.

    PyTorch declares a class's constants in the order of a set, another one in each process; here they are in
    the order of their names.
    """
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as target:
        for name in source.namelist():
            if name.endswith((".debug_pkl", "/.data/serialization_id")):
                continue
            content = source.read(name)
            if name.endswith(".py"):
                content = _sorted_constants(content.decode()).encode()
            target.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content)


def _sorted_constants(code: str) -> str:
    r"""Sort the lines of each block of constants.

    Example:
        >>> _sorted_constants("class A:\n  b : Final[int] = 2\n  a : Final[int] = 1\n  c : int\n")
        'class A:\n  a : Final[int] = 1\n  b : Final[int] = 2\n  c : int\n'
    """
    blocks = itertools.groupby(code.splitlines(keepends=True), lambda line: " : Final[" in line)
    return "".join(line for constant, lines in blocks for line in (sorted(lines) if constant else lines))


def _number_layers(model: Any) -> None:
    """Name OpenVINO's layers by their order: it numbers all that it has made since the process began."""
    for number, layer in enumerate(model.get_ordered_ops()):
        kind = layer.get_type_name()
        if kind not in ("Parameter", "Result"):
            layer.set_friendly_name(f"{kind}_{number}")


def _strip_onnx(path: Path) -> None:
    """Take out what tells of the machine that wrote it."""
    import onnx

    model = onnx.load(path)
    for graph in (model.graph, *model.functions):
        for node in graph.node:
            node.ClearField("metadata_props")
            node.ClearField("doc_string")
        for value in (*graph.value_info,):
            value.ClearField("metadata_props")
        graph.ClearField("metadata_props")
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        value.ClearField("metadata_props")
    onnx.save(model, path)
