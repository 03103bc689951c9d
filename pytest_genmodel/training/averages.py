"""Running averages (EMA) that a trainer wrote beside its raw weights, and where their decay should have put them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_genmodel.checkpoints.checkpoint import Checkpoint
from pytest_genmodel.checkpoints.formats import accelerate_state
from pytest_genmodel.checkpoints.inventory import Inventory, SavedSet, inventory
from pytest_genmodel.checkpoints.keymaps.lora import factor_of
from pytest_genmodel.checkpoints.names import unwrapped
from pytest_genmodel.checkpoints.weight_set import WeightSet
from pytest_genmodel.errors import GenmodelError
from pytest_genmodel.training.state_files import averages_in

if TYPE_CHECKING:
    import torch

Tensors = Mapping[str, "Callable[[], torch.Tensor]"]
"""Tensors by the bare model's names, each read when it is asked for."""


@dataclass(frozen=True)
class Schedule:
    """The decay of diffusers' `EMAModel` (diffusers 0.42, training_utils.py, `get_decay`), as it saves it.

    `updates` is how often the average was updated.
    """

    decay: float
    updates: int
    min_decay: float = 0.0
    update_after_step: int = 0
    use_ema_warmup: bool = False
    inv_gamma: float = 1.0
    power: float = 2 / 3

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Schedule | None:
        """Take it out of a saved state or a configuration; None where it does not stand there."""
        if not isinstance(values.get("decay"), (int, float)) or "optimization_step" not in values:
            return None
        names = ("min_decay", "update_after_step", "use_ema_warmup", "inv_gamma", "power")
        known = {name: values[name] for name in names if isinstance(values.get(name), (bool, int, float))}
        return cls(decay=float(values["decay"]), updates=int(values["optimization_step"]), **known)

    def at(self, update: int) -> float:
        """The decay of update number `update`, the first being 1."""
        after = update - self.update_after_step - 1
        if after <= 0:
            return 0.0
        if self.use_ema_warmup:
            value = 1 - float((1 + after / self.inv_gamma) ** -self.power)
        else:
            value = (1 + after) / (10 + after)
        return max(min(value, self.decay), self.min_decay)

    @property
    def shares(self) -> tuple[float, ...]:
        """How much of the average is what training started from, then the weights of each update; sums to 1."""
        shares = [1.0]
        for update in range(1, self.updates + 1):
            decay = self.at(update)
            shares = [share * decay for share in shares] + [1 - decay]
        return tuple(shares)


@dataclass(frozen=True)
class Average:
    """An average and the raw weights that were saved with it.

    `label` says where it lies below the output folder. `raw` may hold more tensors than the average: those are
    `lost` where the average was saved as a model. `is_beside` says that they were saved together; if not, `raw` is
    the final result, which may be the average itself.
    """

    label: str
    component: str
    values: Tensors
    raw: Tensors
    schedule: Schedule | None
    lost: tuple[str, ...] = ()
    is_beside: bool = True


def averages_of(
    output: Path, final: Checkpoint | None, parameters: Sequence[str]
) -> tuple[list[Average], list[str]]:
    """Find every average of the last step, or beside the final result.

    Args:
        output: what the trainer wrote.
        final: its final result, which stands for the raw weights where none lie beside the average.
        parameters: names of the denoiser's parameters in the order of the module, which is that of a saved
            `EMAModel`.

    Returns:
        The averages, and one line for each that lies there and cannot be matched with raw weights.
    """
    found: list[Average] = []
    unmatched: list[str] = []
    listed = inventory(output)
    last = max((one.step for one in listed.sets if one.step is not None), default=None)
    for one in listed.sets:
        if one.is_ema and one.step in (None, last):
            found += _of_set(one, listed, final)
    newest = [one.path for one in listed.sets if one.step is not None and one.step == last]
    for file, values in averages_in(output):
        above = {parent for parent in file.parents if parent.is_relative_to(output)}
        if newest and not above.intersection(newest) and file.parent != output:
            continue  # of an earlier step
        label = file.relative_to(output).as_posix()
        matched = _of_state(label, file, values, final, parameters)
        if matched is None:
            unmatched.append(f"{label} holds {len(values['shadow_params'])} tensors that fit no raw weights")
        else:
            found.append(matched)
    return found, unmatched


def _of_set(one: SavedSet, listed: Inventory, final: Checkpoint | None) -> Iterator[Average]:
    """The averages of a set that a library reads, component by component."""
    try:
        parts = _parts(one.open(one.label))
        paired = next((raw.open(raw.label) for raw, ema in listed.pairs if ema == one), None)
    except GenmodelError:
        return  # a state of another kind (`ema.pt`), or damage, which whoever judges the files says
    raw = paired or final
    if raw is None:
        return
    theirs = _parts(raw)
    for name, (weights, config) in parts.items():
        if name not in theirs and len(theirs) != 1:
            continue
        other, _ = theirs[name] if name in theirs else next(iter(theirs.values()))
        values, raws = _readers(weights), _readers(other)
        lost = tuple(sorted(raws.keys() - values.keys())) if values.keys() & raws.keys() else ()
        yield Average(one.label, name, values, raws, Schedule.from_values(config), lost, paired is not None)


def _parts(checkpoint: Checkpoint) -> dict[str, tuple[WeightSet, Mapping[str, Any]]]:
    found: dict[str, tuple[WeightSet, Mapping[str, Any]]] = {}
    for name, part in checkpoint.components.items():
        if part.has_weights:
            found[name] = (part.weights, _config_of(part.config_path))
    if checkpoint.adapter is not None:
        found["adapter"] = (checkpoint.adapter.weights, {})
    return found


def _config_of(file: Path | None) -> Mapping[str, Any]:
    if file is None:
        return {}
    values = json.loads(file.read_text(encoding="utf-8"))
    return values if isinstance(values, dict) else {}


def _readers(weights: WeightSet) -> Tensors:
    return {unwrapped(name): partial(weights.read, name) for name in weights.tensors}


def _of_state(
    label: str, file: Path, values: Mapping[str, Any], final: Checkpoint | None, parameters: Sequence[str]
) -> Average | None:
    """An `EMAModel` that was saved as a list: its tensors are those of the optimizer, in the model's order."""
    shadow = values["shadow_params"]
    for raw, is_beside in _raws(file, final):
        for component, (weights, _) in _parts(raw).items():
            readers = _readers(weights)
            shapes = {unwrapped(name): tuple(stored.shape) for name, stored in weights.tensors.items()}
            for names in ([name for name in parameters if name in readers], _factors(readers, parameters)):
                fits = len(names) == len(shadow) and all(
                    shapes[name] == tuple(tensor.shape) for name, tensor in zip(names, shadow, strict=True)
                )
                if fits:
                    averaged = {
                        name: partial(_as_it_is, tensor) for name, tensor in zip(names, shadow, strict=True)
                    }
                    schedule = Schedule.from_values(values)
                    return Average(label, component, averaged, readers, schedule, is_beside=is_beside)
    return None


def _as_it_is(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def _raws(file: Path, final: Checkpoint | None) -> Iterator[tuple[Checkpoint, bool]]:
    """What may hold the raw weights of an average: its own folder, then (False) the final result."""
    folder = file.parent
    if accelerate_state.recognises(
        folder
    ):  # as a whole the folder is raw weights and an average, and so neither
        with suppress(GenmodelError):
            yield accelerate_state.read(folder, folder.name), True
    for one in inventory(folder).sets:
        if not one.is_ema:
            with suppress(GenmodelError):  # a state of another kind
                yield one.open(one.label), True
    if final is not None:
        yield final, False


def _factors(names: Tensors, parameters: Sequence[str]) -> list[str]:
    """An adapter's factors in the order in which the wrapped model has them: by module, down before up."""
    modules = {name.rpartition(".")[0]: number for number, name in reversed(list(enumerate(parameters)))}
    placed = []
    for name in names:
        factor = factor_of(name)
        if factor is not None:
            module = next(
                (number for module, number in modules.items() if _is_of(name, module)), len(parameters)
            )
            placed.append((module, factor.role, name))
    return [name for _, _, name in sorted(placed)]


def _is_of(name: str, module: str) -> bool:
    return name.startswith(f"{module}.") or f".{module}." in name
