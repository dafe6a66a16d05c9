"""Recipes, plans and run folders: pure data."""

from medseg.runs.fingerprint import Fingerprint
from medseg.runs.folder import FoldFolder, RunFolder, software_versions, utc_now
from medseg.runs.plan import NetworkPlan, Plan
from medseg.runs.preprocessing import Normalization, PreprocessingSpec
from medseg.runs.recipe import Augmentation, Recipe, load_recipe, recipe_names

__all__ = [
    "Augmentation",
    "Fingerprint",
    "FoldFolder",
    "NetworkPlan",
    "Normalization",
    "Plan",
    "PreprocessingSpec",
    "Recipe",
    "RunFolder",
    "load_recipe",
    "recipe_names",
    "software_versions",
    "utc_now",
]
