"""Torch pickles: looked through before they are loaded, and loaded by torch's restricted unpickler alone."""

from pytest_genmodel.checkpoints.pickles.loading import Inert, load_pickle
from pytest_genmodel.checkpoints.pickles.weights import PickledWeights

__all__ = ["Inert", "PickledWeights", "load_pickle"]
