"""Names as transformers itself translates them while it loads: it has renamed parts of its models over time."""

from __future__ import annotations

from typing import Any

from pytest_genmodel.checkpoints.mapped import MappedWeights, Rows
from pytest_genmodel.checkpoints.weights import WeightSet


def as_library_names(module: Any, weights: WeightSet) -> WeightSet:
    """Give `weights` under the names that transformers reads them as into `module` (a skeleton will do).

    A name that the module has stays as it is, and so does everything where the installed version has no translation,
    or one under which two tensors would have one name.
    """
    known = module.state_dict()
    translation = _translation(module)
    if not translation or not (weights.tensors.keys() - known.keys()):
        return weights
    from transformers.core_model_loading import rename_source_key

    renamed = {}
    for name in weights.tensors:
        read_as = name
        if name not in known:
            read_as = rename_source_key(name, translation, [], module.base_model_prefix, known)[0]
        renamed[read_as if read_as in known else name] = Rows(name)
    return MappedWeights(weights, renamed) if len(renamed) == len(weights.tensors) else weights


def _translation(module: Any) -> list[Any]:
    """The renamings of the module's class; none for diffusers, and where transformers keeps them elsewhere."""
    try:
        from transformers import PreTrainedModel
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightRenaming
    except ImportError:
        return []
    if not isinstance(module, PreTrainedModel):
        return []
    return [each for each in get_model_conversion_mapping(module) if isinstance(each, WeightRenaming)]
