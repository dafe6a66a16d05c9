"""From a data set and any recipe to a run: networks are trained, other methods fitted."""

from medseg.fitting.fit import fit
from medseg.fitting.methods import fit_method
from medseg.fitting.options import FitOptions

__all__ = ["FitOptions", "fit", "fit_method"]
