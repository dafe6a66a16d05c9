"""A bundle that was not made here, such as MONAI's model zoo has, as a segmenter."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from medseg.errors import BundleError, ConfigError
from medseg.geometry import Grid
from medseg.inference import Compute
from medseg.labels import LabelScheme
from medseg.runs.bundle import BundleFolder
from medseg.runs.postprocess import PostprocessChoice
from medseg.segmenters.bundles.configured import Configured, configured
from medseg.segmenters.bundles.metadata import NetworkFormat, network_format, require_network_as_told
from medseg.segmenters.weights import load_all_weights, named_like, read_any_weights
from medseg.segmenters.whole_image import WholeImageSegmenter, log_probabilities
from medseg.volume import Volume

__all__ = ["BundleSegmenter", "load_bundle_segmenter", "without_content"]

_IMAGE, _PRED = "image", "pred"
_COPIES = 3
"""Of image and scores that MONAI's transforms hold at their fullest moment, as observed."""
# What transforms and inferers raise where an image does not suit them.
_FAILURES = (
    ArithmeticError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)


class BundleSegmenter(WholeImageSegmenter):
    """Goes with an image the way that a bundle configures: its transforms, its inferer, its network.

    Reading and writing files is left to medseg. What comes out lies on the image's own grid, as the label map
    does that the bundle itself writes: where its own postprocessing does not lead back there, the label map
    is brought back by nearest neighbours, as MONAI's ``SaveImaged`` does.

    Args:
        parts: Network with its weights, transforms and inferer.
        labels: The classes.
        channel_names: The channels of an image.
        compute: The device.
        name: What the bundle is called in errors.
        postprocess: As ``WholeImageSegmenter``.
        max_ram_bytes: As ``WholeImageSegmenter``.
        shared_by: As ``WholeImageSegmenter``.
    """

    method = "the bundle's configuration"

    def __init__(
        self,
        parts: Configured,
        labels: LabelScheme,
        channel_names: Sequence[str],
        *,
        compute: Compute,
        name: str,
        postprocess: PostprocessChoice | None = None,
        max_ram_bytes: int | None = None,
        shared_by: int = 1,
    ) -> None:
        super().__init__(
            labels, channel_names, postprocess=postprocess, max_ram_bytes=max_ram_bytes, shared_by=shared_by
        )
        self.made = parts
        self.compute = compute
        self.name = name
        self.network = parts.network.to(compute.device).eval()

    def class_scores(self, image: Volume) -> npt.NDArray[np.float32]:
        """See ``WholeImageSegmenter``.

        Where the bundle's last step is to take the best of several classes, their probabilities before it;
        else the label map that it ends with, as probabilities 0 and 1.

        Raises:
            BundleError: The bundle fails on this image, or gives no label map.
        """
        try:
            with warnings.catch_warnings(action="ignore"), torch.no_grad():
                return self._scores(image)
        except _FAILURES as error:
            reason = str(error.__cause__ or error).strip().partition("\n")[0]
            raise BundleError(
                f"fails on the image ({type(error).__name__}: {reason})",
                where=self.name,
                fix="try another image",
            ) from error

    def working_bytes(self, grid: Grid) -> Mapping[str, int]:
        """See ``WholeImageSegmenter``; what the inferer takes beside is unknown."""
        values = len(self.channel_names) + len(self.labels)
        return {"the bundle's transforms": 4 * _COPIES * values * grid.voxel_count}

    def _scores(self, image: Volume) -> npt.NDArray[np.float32]:
        data = self._predicted(image)
        steps = list(self.made.postprocessing)
        takes_best = bool(steps) and _takes_best(steps[-1])
        softened = False
        for step in steps[:-1] if takes_best else steps:
            data = step(data)
            softened |= _softens(step)
        pred = data[_PRED]
        if takes_best and tuple(pred.shape) == (len(self.labels), *image.grid.shape):
            found = _plain(pred)
            logits = np.log(np.maximum(found, np.finfo(np.float32).tiny)) if softened else found
            return cast(npt.NDArray[np.float32], torch.log_softmax(torch.from_numpy(logits), dim=0).numpy())
        if takes_best:
            pred = steps[-1](data)[_PRED]
        return log_probabilities(self._one_hot(self._on(image.grid, pred)))

    def _predicted(self, image: Volume) -> dict[str, Any]:
        """Image and prediction after the network, as MONAI's evaluator hands them on."""
        from monai.data import decollate_batch, list_data_collate
        from monai.transforms import apply_transform

        prepared = apply_transform(self.made.preprocessing, {_IMAGE: _tensor(image)})
        batch = list_data_collate([prepared])
        inputs = batch[_IMAGE].to(self.compute.device)
        batch[_PRED] = self.made.inferer(inputs, self.network)
        (data,) = decollate_batch({_IMAGE: batch[_IMAGE], _PRED: batch[_PRED].cpu()})
        return cast(dict[str, Any], data)

    def _on(self, grid: Grid, pred: Any) -> npt.NDArray[np.float32]:
        """A label map (X, Y, Z) on the image's grid."""
        from monai.data import ImageWriter, MetaTensor

        if pred.ndim != 4 or pred.shape[0] != 1:
            raise BundleError(
                f"its postprocessing ends with {tuple(pred.shape)}, not with one label map",
                where=self.name,
                fix="end it with AsDiscreted and argmax, or with a threshold where there is one class",
            )
        affine = pred.affine if isinstance(pred, MetaTensor) else torch.from_numpy(grid.affine)
        if tuple(pred.shape[1:]) == grid.shape and torch.allclose(
            affine.cpu().double(), torch.from_numpy(grid.affine).double(), atol=1e-3
        ):
            return cast(npt.NDArray[np.float32], _plain(pred)[0])
        brought, _ = ImageWriter.resample_if_needed(
            _plain(pred)[0],
            affine.cpu().numpy(),
            grid.affine,
            grid.shape,
            mode="nearest",
            padding_mode="border",
        )
        return cast(npt.NDArray[np.float32], brought)

    def _one_hot(self, labels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        rounded = np.rint(labels)
        values = np.unique(rounded)
        if values[0] < 0 or values[-1] >= len(self.labels):
            raise BundleError(
                f"gives the label {values[-1]:g}, and names {len(self.labels)} classes",
                where=self.name,
                fix="correct channel_def in its metadata.json",
            )
        return np.stack([rounded == index for index in range(len(self.labels))]).astype(np.float32)


def load_bundle_segmenter(
    bundle: BundleFolder,
    compute: Compute,
    *,
    trust: bool = False,
    postprocess: PostprocessChoice | None = None,
    max_ram_bytes: int | None = None,
    shared_by: int = 1,
) -> BundleSegmenter:
    """Make a segmenter of a bundle's configuration, weights and metadata.

    Args:
        bundle: The bundle.
        compute: The device, in single precision.
        trust: Whether it may execute code of its own.
        postprocess: What medseg does to label maps after the bundle; nothing if left out.
        max_ram_bytes: Limit of the whole process; what is free, if left out.
        shared_by: How many segmenters share that memory.

    Raises:
        BundleError: It would execute code and is not trusted; weights, metadata and network do not belong
            together; it has no weights, or they hold more than that; or its classes overlap.
        ConfigError: ``postprocess`` names a class that is not there, or is yet to be chosen.
    """
    metadata = bundle.metadata()
    if metadata is None:
        raise BundleError("has no configs/metadata.json", where=bundle.name, fix="download it again")
    told = network_format(metadata, bundle.name)
    if postprocess is not None and postprocess.is_open:
        raise ConfigError(
            "nothing was chosen on validation cases for a bundle that was not trained here",
            where="--postprocess",
            fix="say what shall be done",
        )
    weights = bundle.only_weights()
    parts = configured(bundle, trust=trust)
    _require_one_class_a_voxel(parts, told, bundle.name)
    stored = named_like(parts.network.state_dict(), read_any_weights(weights))
    load_all_weights(
        parts.network, stored, bundle.name, of="bundle's network", fix="download the bundle again"
    )
    require_network_as_told(without_content(parts.network), told, bundle.name)
    return BundleSegmenter(
        parts,
        bundle.labels_of(told.class_names or tuple(f"class {index}" for index in range(told.classes))),
        told.channel_names or tuple(f"channel {index}" for index in range(told.channels)),
        compute=compute,
        name=bundle.name,
        postprocess=postprocess,
        max_ram_bytes=max_ram_bytes,
        shared_by=shared_by,
    )


def _require_one_class_a_voxel(parts: Configured, told: NetworkFormat, where: str) -> None:
    """Refuse several structures that may overlap: a label map has no place for them."""
    for step in parts.postprocessing:
        converter = getattr(step, "converter", step)
        several = told.classes > 1 and not any(_each(step, "argmax"))
        threshold = any(value is not None for value in _each(step, "threshold"))
        if several and threshold and type(converter).__name__ == "AsDiscrete":
            raise BundleError(
                f"its {told.classes} structures may overlap (each has a threshold of its own), and a label "
                "map holds one class a voxel",
                where=where,
                fix="run it by MONAI itself",
            )


def _tensor(image: Volume) -> Any:
    """As MONAI's ``LoadImaged`` and ``EnsureChannelFirstd`` would give it."""
    tensor = Volume(image.array.astype(np.float32), image.grid).to_metatensor()
    tensor.meta |= {
        "original_affine": torch.from_numpy(image.grid.affine.copy()),
        "spatial_shape": np.asarray(image.grid.shape),
        "original_channel_dim": 0,
        "space": "RAS",
    }
    return tensor


def _each(step: Any, name: str) -> tuple[Any, ...]:
    """An argument of a dictionary transform, which may be one for each key."""
    value = getattr(step, name, None)
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _takes_best(step: Any) -> bool:
    """Whether a transform takes the best class of each voxel, and nothing else."""
    others = [*_each(step, "to_onehot"), *_each(step, "threshold"), *_each(step, "rounding")]
    return (
        type(step).__name__ == "AsDiscreted"
        and all(_each(step, "argmax"))
        and not any(other is not None for other in others)
    )


def _softens(step: Any) -> bool:
    return type(step).__name__ == "Activationsd" and any((*_each(step, "softmax"), *_each(step, "sigmoid")))


def _plain(tensor: Any) -> npt.NDArray[np.float32]:
    plain = tensor.as_tensor() if hasattr(tensor, "as_tensor") else tensor
    array = plain.detach().cpu().numpy() if isinstance(plain, Tensor) else np.asarray(plain)
    return array.astype(np.float32, copy=False)


def without_content(network: nn.Module) -> nn.Module:
    """The same network on the meta device: shapes and no content."""
    memo = {id(tensor): tensor.to("meta") for tensor in network.buffers()}
    for parameter in network.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), requires_grad=False)
    return copy.deepcopy(network, memo)
