"""The part of a recipe that says what is done to scores and label maps before they are written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveFloat, field_validator, model_validator

from medseg.errors import ConfigError, did_you_mean
from medseg.runs.documents import load_yaml
from medseg.runs.part import Part
from medseg.runs.refine import RefineChoice

__all__ = ["InstanceChoice", "PostprocessChoice", "RefineChoice", "load_postprocess"]

_WORDS = ("auto", "instances", "none")


class InstanceChoice(Part):
    """Which objects of a class that touch are told apart, and how.

    Attributes:
        of: The class; may be left out where there is one alone, beside ``border``.
        markers: What stands for an object before it grows: ``"distance"``: the middle of its thickness;
            ``"border"``: what the network leaves inside the class ``border``.
        border: A class that the network predicts between objects and around them; it becomes theirs.
        smoothing_mm: Standard deviation of the Gaussian that smooths the distance to the outside; the
            smallest spacing if left out. Of markers distance.
        neck_depth_mm: Where an object is thinner than its two sides by more than this half-thickness, it is
            two; half the smallest spacing if left out. Of markers distance.
        smallest_volume_ml: Objects below are dropped.
    """

    of: str | None = None
    markers: Literal["distance", "border"] = "distance"
    border: str | None = None
    smoothing_mm: float | None = Field(default=None, ge=0.0)
    neck_depth_mm: float | None = Field(default=None, ge=0.0)
    smallest_volume_ml: float = Field(default=0.0, ge=0.0)

    @model_validator(mode="after")
    def _markers_known(self) -> InstanceChoice:
        if (self.border is not None) != (self.markers == "border"):
            raise ValueError("'markers: border' and the class 'border' belong together")
        if self.border is not None and self.border == self.of:
            raise ValueError("'border' and 'of' are the same class")
        if self.markers == "border" and (self.smoothing_mm, self.neck_depth_mm) != (None, None):
            raise ValueError("'smoothing_mm' and 'neck_depth_mm' are of 'markers: distance'")
        return self


class PostprocessChoice(Part):
    """What is done to scores and label maps, in this order; nothing, if all is left out.

    ``postprocess: instances`` is short for ``postprocess: {instances: {}}``, and ``postprocess: auto`` for
    ``postprocess: {chosen_by: validation}``.

    Attributes:
        refine: Draws the labels anew from all scores and the image together.
        smallest_volume_ml: For each class that is named, components below this volume become background.
        largest_component: Classes of which the largest component alone is kept; ``"all"``: of every class;
            ``"union"``: of all foreground together; ``"none"``.
        fill_holes: Classes whose holes are filled, where they hold background; ``"all"`` or ``"none"``.
        connectivity: Voxels belong together that share a face, an edge or a corner.
        instances: Tells objects apart; their map is written beside the label map.
        chosen_by: ``"recipe"``: the keys above say all. ``"validation"``: they are left out, and stand in the
            run's ``postprocess.json`` as soon as it is trained.
    """

    refine: RefineChoice | None = None
    smallest_volume_ml: dict[str, PositiveFloat] = Field(default_factory=dict)
    largest_component: tuple[str, ...] | Literal["all", "union"] = ()
    fill_holes: tuple[str, ...] | Literal["all"] = ()
    connectivity: Literal["faces", "edges", "corners"] = "faces"
    instances: InstanceChoice | None = None
    chosen_by: Literal["recipe", "validation"] = "recipe"

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        if value is None or value == "none":
            return {}
        if value == "instances":
            return {"instances": {}}
        if value == "auto":
            return {"chosen_by": "validation"}
        if not isinstance(value, dict | cls):
            raise ValueError("'auto', 'instances', 'none' or keys and values are needed")
        return value

    @model_validator(mode="after")
    def _chosen_once(self) -> PostprocessChoice:
        if self.is_open and self != PostprocessChoice.model_construct(chosen_by="validation"):
            raise ValueError("what 'chosen_by: validation' finds cannot be given as well")
        return self

    @field_validator("largest_component", mode="before")
    @classmethod
    def _classes_or_union(cls, value: Any) -> Any:
        return _class_names(value, "all", "union")

    @field_validator("fill_holes", mode="before")
    @classmethod
    def _classes_or_all(cls, value: Any) -> Any:
        return _class_names(value, "all")

    @property
    def does_nothing(self) -> bool:
        """Whether scores and label maps stay as they are."""
        return self == PostprocessChoice(connectivity=self.connectivity)

    @property
    def of_label_maps(self) -> PostprocessChoice:
        """What is done to label maps alone."""
        return self.model_copy(update={"refine": None})

    @property
    def is_open(self) -> bool:
        """Whether it is yet to be chosen."""
        return self.chosen_by == "validation"

    def told(self) -> str:
        """What is done, in a few words.

        Example:
            >>> PostprocessChoice(largest_component=("liver",), fill_holes="all").told()
            'largest component of liver; holes filled of all'
        """
        parts = [] if self.refine is None else [self.refine.told()]
        parts += [f"{name} from {volume:g} ml" for name, volume in self.smallest_volume_ml.items()]
        if self.largest_component:
            parts.append(f"largest component of {_names(self.largest_component)}")
        if self.fill_holes:
            parts.append(f"holes filled of {_names(self.fill_holes)}")
        if self.instances is not None:
            parts.append("objects told apart")
        return "; ".join(parts) or "nothing"


def _names(chosen: tuple[str, ...] | str) -> str:
    return chosen if isinstance(chosen, str) else ", ".join(chosen)


def _class_names(value: Any, *words: str) -> Any:
    """A list of names, one of ``words``, or none."""
    if value is None or value == "none":
        return ()
    if value in words:
        return value
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        known = ", ".join(f"'{word}'" for word in words)
        raise ValueError(f"a list of class names, {known} or 'none' is needed")
    return tuple(value)


def load_postprocess(word_or_path: str | os.PathLike[str]) -> PostprocessChoice:
    """``"auto"``, ``"none"``, ``"instances"``, or a YAML file with the keys of a recipe's ``postprocess``.

    Raises:
        ConfigError: Another word, or a key that does not exist or fit.
        InputError: The file cannot be read.

    Example:
        >>> load_postprocess("none").does_nothing, load_postprocess("instances").instances.markers
        (True, 'distance')
    """
    path = Path(word_or_path)
    if path.suffix in {".yaml", ".yml"}:
        return load_yaml(PostprocessChoice, path)
    if str(word_or_path) not in _WORDS:
        raise ConfigError(
            f"unknown way '{word_or_path}'",
            where="--postprocess",
            fix=f"{did_you_mean(str(word_or_path), _WORDS)} (or give a .yaml file)",
        )
    return PostprocessChoice.model_validate(str(word_or_path))
