"""Learned models: ensembles, how they are fitted, and how planners see them."""

from mbrl.models.ensemble_dynamics import EnsembleDynamics, EnsembleState
from mbrl.models.fit import FitReport, fit
from mbrl.models.gaussian_ensemble import GaussianEnsemble, Prediction

__all__ = ["EnsembleDynamics", "EnsembleState", "FitReport", "GaussianEnsemble", "Prediction", "fit"]
