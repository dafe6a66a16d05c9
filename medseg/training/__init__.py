"""From labelled cases and a recipe to a run."""

from medseg.training.budget import Budget
from medseg.training.distributed import is_first_process
from medseg.training.fingerprint import fingerprint
from medseg.training.options import TrainingOptions
from medseg.training.plan_picture import draw_plan
from medseg.training.planning import plan_from_dataset
from medseg.training.postprocess_choice import choose_postprocessing
from medseg.training.seeds import SeedRuns, train_seeds
from medseg.training.train import train

__all__ = [
    "Budget",
    "SeedRuns",
    "TrainingOptions",
    "choose_postprocessing",
    "draw_plan",
    "fingerprint",
    "is_first_process",
    "plan_from_dataset",
    "train",
    "train_seeds",
]
