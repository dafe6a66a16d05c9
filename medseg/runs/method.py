"""Recipes of methods that are not networks, such as atlases, and the task that a method was fitted to."""

from __future__ import annotations

import os
from typing import Literal

from pydantic import Field, JsonValue, field_validator

from medseg.errors import did_you_mean
from medseg.labels import LabelScheme
from medseg.registry import METHODS
from medseg.runs.documents import load_yaml, yaml_keys
from medseg.runs.part import Part
from medseg.runs.postprocess import PostprocessChoice
from medseg.runs.recipe import Recipe, load_recipe, recipe_path

__all__ = ["MethodRecipe", "Task", "load_any_recipe"]


class Task(Part):
    """What a method tells apart, and in what.

    Attributes:
        schema_version: Version of the document's form.
        dataset: The data set's name.
        channel_names: One per channel of the image, as the data set calls them.
        labels: The classes.
    """

    schema_version: Literal[1] = 1
    dataset: str
    channel_names: tuple[str, ...]
    labels: LabelScheme


class MethodRecipe(Part):
    """All that a person chooses about a method that is not a network.

    Attributes:
        description: In a few words.
        method: A registered one.
        options: The method's own, which it checks itself.
        folds: As of a network's recipe.
        split_seed: As of a network's recipe.
        postprocess: What is done to scores and label maps.
    """

    description: str = ""
    method: str
    options: dict[str, JsonValue] = Field(default_factory=dict)
    folds: int | None = Field(default=None, ge=2)
    split_seed: int = 0
    postprocess: PostprocessChoice = PostprocessChoice()

    @field_validator("method")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in METHODS:
            raise ValueError(f"unknown method '{value}', {did_you_mean(value, METHODS.names())}")
        return value

    @field_validator("postprocess")
    @classmethod
    def _not_left_open(cls, value: PostprocessChoice) -> PostprocessChoice:
        if value.is_open:
            raise ValueError("'auto' is chosen while a network trains; say what shall be done")
        return value


def load_any_recipe(name_or_path: str | os.PathLike[str]) -> Recipe | MethodRecipe:
    """A recipe of a network, or where it has the key ``method`` of another method; by name or from a file.

    Raises:
        ConfigError: No such recipe (the nearest name is suggested), or a key that does not exist or fit.
        InputError: The file cannot be read.

    Example:
        >>> load_any_recipe("unet").network.name
        'unet'
    """
    path = recipe_path(name_or_path)
    if "method" in yaml_keys(path):
        return load_yaml(MethodRecipe, path)
    return load_recipe(name_or_path)
