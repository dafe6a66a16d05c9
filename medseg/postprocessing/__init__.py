"""What is done to label maps after a segmentation: components, holes, and objects told apart."""

from medseg.postprocessing.label_maps import (
    PostprocessMemory,
    find_instances,
    postprocess,
    postprocess_memory,
    require_classes,
)
from medseg.postprocessing.masks import fill_holes, largest_component, remove_small
from medseg.postprocessing.objects import separate_objects

__all__ = [
    "PostprocessMemory",
    "fill_holes",
    "find_instances",
    "largest_component",
    "postprocess",
    "postprocess_memory",
    "remove_small",
    "require_classes",
    "separate_objects",
]
