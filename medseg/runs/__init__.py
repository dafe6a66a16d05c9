"""Recipes, plans and run folders: pure data."""

from medseg.runs.fingerprint import Fingerprint
from medseg.runs.folder import FoldFolder, RunFolder, software_versions, utc_now
from medseg.runs.method import MethodRecipe, Task, load_any_recipe
from medseg.runs.plan import NetworkPlan, Plan
from medseg.runs.preprocessing import Normalization, PreprocessingSpec
from medseg.runs.recipe import Augmentation, Recipe, load_recipe, recipe_names

__all__ = [
    "Augmentation",
    "Fingerprint",
    "FoldFolder",
    "MethodRecipe",
    "NetworkPlan",
    "Normalization",
    "Plan",
    "PreprocessingSpec",
    "Recipe",
    "RunFolder",
    "Task",
    "load_any_recipe",
    "load_recipe",
    "recipe_names",
    "software_versions",
    "utc_now",
]
