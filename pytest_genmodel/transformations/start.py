"""Whether training began with the weights that it was given, by the digests that were taken before the first step."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_genmodel.pipelines.pipeline import Pipeline
from pytest_genmodel.training.observer import Observed


@dataclass(frozen=True)
class Start:
    """Of `compared` parameters, `unlike` had other values than the model at rest; `rounded` of those are its values
    cast to the dtype of training."""

    compared: int
    unlike: int
    rounded: int
    dtypes: tuple[str, ...]

    @property
    def text(self) -> str:
        """In words, for a report."""
        if not self.unlike:
            return f"{self.compared} trained parameters began as they are at rest"
        return f"{self.unlike} of {self.compared} trained parameters began with other values than at rest"

    @property
    def cause(self) -> str:
        """What the trainer's load has done."""
        if self.rounded == self.unlike:
            return f"the trainer loads the model in {' and '.join(self.dtypes)}, which cannot hold its values"
        return "the trainer does not load these weights: it starts from a new initialisation, or from another model"


def started_from(pipeline: Pipeline, observed: Observed) -> Start | None:
    """Compare what the optimizers were given with what lies at rest.

    None where it cannot be compared: what is trained is another thing (an adapter, a flat buffer of several ranks).
    A tensor is known by its values alone, as no process tells the names.
    """
    import torch

    from pytest_genmodel.tensors import digest

    dtypes = sorted({dtype for options in observed.options.values() for dtype in options.get("dtypes", ())})
    stored = [pipeline.checkpoint.components[name].weights for name in pipeline.denoisers]
    shapes = {tuple(tensor.shape) for weights in stored for tensor in weights.tensors.values()}
    began = [told for shape, told in observed.started_from if shape in shapes]
    if not began or 2 * len(began) < len(observed.started_from):
        return None
    exact: set[str] = set()
    cast: set[str] = set()
    for weights in stored:
        for name in weights.tensors:
            values = weights.read(name)
            if not values.is_floating_point():
                continue
            for dtype in dtypes:
                wanted = getattr(torch, dtype)
                told = digest(values.to(wanted) + 0.0)
                lossless = torch.promote_types(values.dtype, wanted) == wanted
                (exact if lossless else cast).add(told)
    unlike = [told for told in began if told not in exact]
    return Start(len(began), len(unlike), sum(told in cast for told in unlike), tuple(dtypes))
