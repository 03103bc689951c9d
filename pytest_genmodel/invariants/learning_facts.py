"""What a run at a positive rate shows beside movement: the gradients it used, its processes, and what it saved."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_genmodel.checkpoints.weights import open_weights
from pytest_genmodel.diagnosis.finding import Finding
from pytest_genmodel.diagnosis.rules import Severity
from pytest_genmodel.errors import GenmodelError
from pytest_genmodel.invariants.context import Context
from pytest_genmodel.invariants.cost import LARGEST_QUICK, denoiser_size
from pytest_genmodel.invariants.training_run import stored_differences, weights_of
from pytest_genmodel.training.observer import Observed
from pytest_genmodel.training.old_gradients import AGAIN
from pytest_genmodel.training.resuming import step_folders
from pytest_genmodel.transformations.train import Trained

if TYPE_CHECKING:
    import torch

    from pytest_genmodel.checkpoints.weight_set import WeightSet

Shape = tuple[int, ...]
_SHOWN = 4


def step_findings(observed: Observed) -> Iterator[Finding]:
    """Say so where a step used gradients of an earlier one."""
    for step, kind, share in observed.old_gradients[:1]:
        again = kind == AGAIN
        yield Finding(
            "GM717",
            f"step {step} of {observed.steps} used the gradients of the step before once more: no backward pass lies "
            "between them"
            if again
            else f"the gradients of step {step} are the sum of its own and of those of the step before, which make "
            f"{share:.0%} of it",
            location=f"step {step}",
            cause="the optimizer is stepped twice (once by a GradScaler, a closure or a wrapper, once by the loop)"
            if again
            else "zero_grad() is not called between the steps, or on another optimizer's parameters",
            evidence={"steps": [found for found, *_ in observed.old_gradients], "share": share},
        )


def process_findings(context: Context, trained: Trained) -> Iterator[Finding]:
    """Say so where processes that train side by side hold different models, or write the same file."""
    observed = trained.observed
    assert observed is not None
    if observed.world > 1:
        context.measure(processes=f"{observed.processes} of {observed.world} were watched")
    if observed.apart is not None and set(observed.apart_shapes) <= _shapes(context, trained):
        start = observed.apart == 1
        yield Finding(
            "GM718",
            f"{observed.processes} processes began step {observed.apart} with different weights"
            + (
                f" in {len(observed.apart_shapes)} of {len(observed.started_from)} parameters"
                if start
                else ""
            ),
            component=context.candidate.family.denoiser,
            location=f"step {observed.apart}",
            cause="each process draws initial values of its own (a LoRA that is put on after the model was wrapped, "
            "a seed for each device)"
            if start
            else "the processes were never connected: torch.distributed is not set up"
            if not observed.connected
            else "gradients are not averaged: the loop calls the bare model, and not the wrapped one",
        )
    for file, count in sorted(observed.shared_files.items())[:1]:
        more = len(observed.shared_files) - 1
        yield Finding(
            "GM729",
            f"{count} processes wrote {os.path.basename(file)}"
            + (f", and {more} other files" if more else ""),
            location=_below(file, trained),
            cause="nothing asks which process is the main one, or each takes itself for it (accelerate on CPUs needs "
            "ACCELERATE_USE_CPU=true under torchrun)",
            evidence={"files": [_below(name, trained) for name in sorted(observed.shared_files)]},
        )


def _below(file: str, trained: Trained) -> str:
    """The file's name below the output folder: a report carries no path of a machine."""
    root = os.path.realpath(trained.output) if trained.output is not None else ""
    return os.path.relpath(file, root) if root and file.startswith(root + os.sep) else os.path.basename(file)


def _shapes(context: Context, trained: Trained) -> set[Shape]:
    """Shapes of whole tensors: of the denoisers, and of what was written. A rank's part has none of them."""
    sets = [context.candidate.checkpoint.components[name].weights for name in context.candidate.denoisers]
    return {
        tuple(stored.shape)
        for weights in (*sets, *weights_of(trained).values())
        for stored in weights.tensors.values()
    }


def unsaved_findings(context: Context, trained: Trained) -> Iterator[Finding]:
    """Say so where some trained parameters are written as they are in memory, and others not at all.

    Where none is found (an average, a cast, a merge is written) or something else was written that they may have
    become, nothing is said.
    """
    observed, written = trained.observed, weights_of(trained)
    if observed is None or not observed.complete or len(observed.ended_with) != len(observed.started_from):
        return
    if "adapter" not in written and not context.is_full and denoiser_size(context) > LARGEST_QUICK:
        return
    shapes = [shape for shape, _ in observed.started_from]
    began = [told for _, told in observed.started_from]
    moved = [n for n, ended in enumerate(observed.ended_with) if ended != began[n]]
    look = _Look(observed)
    told = look.digests(written, {shapes[n] for n in moved})
    lost = [n for n in moved if observed.ended_with[n] not in told]
    if not moved or len(lost) == len(moved):
        return
    if lost:
        try:
            told |= look.digests(dict(_saved_elsewhere(trained, observed, written)))
        except GenmodelError:
            return  # a file that is not read here may hold them
        lost = [n for n in lost if observed.ended_with[n] not in told]
    context.measure(saved=f"{len(moved) - len(lost)} of {len(moved)} trained parameters are in the files")
    if not lost:
        return
    parts = context.candidate.checkpoint.components.items()
    base = {name: part.weights for name, part in parts if part.has_weights}
    origin = {digest: name for name in base for digest in look.digests({name: base[name]})}
    if look.unexplained(_new_tensors(context, trained, written, base), {*origin, *observed.ended_with}):
        return
    homes = {origin[began[n]] for n in lost if began[n] in origin}
    kept = {origin[began[n]] for n in moved if n not in lost and began[n] in origin}
    is_factor = any(began[n] in look.zeros(shapes[n]) for n in lost)
    is_factor |= "adapter" in written and all(len(shapes[n]) == 1 for n in lost)  # DoRA's magnitudes
    where = next(iter(homes)) if len(homes) == 1 else None
    examples = list(dict.fromkeys("x".join(map(str, shapes[n])) for n in lost))[:_SHOWN]
    of_text = " (a LoRA of the text encoder beside the transformer's)" if is_factor and not homes else ""
    yield Finding(
        "GM719",
        f"{len(lost)} of {len(moved)} parameters that were trained, and moved, are in no file that was written "
        f"(shapes {', '.join(examples)})" + (f": they are the {where}'s" if where else ""),
        # A copy that is trained to help (a critic, a teacher) is not meant to be saved.
        severity=Severity.ERROR if homes - kept or (is_factor and not homes) else Severity.WARNING,
        component=where or ("adapter" if is_factor else None),
        location="output",
        cause=f"the save call is given one of several parts that are trained{of_text}",
        evidence={"shapes": [list(shapes[n]) for n in lost[:20]], "lost": len(lost), "moved": len(moved)},
    )


def _saved_elsewhere(
    trained: Trained, observed: Observed, written: Mapping[str, WeightSet]
) -> Iterator[tuple[str, WeightSet]]:
    """Other files that the process wrote tensors to: a part may lie beside the result, in a folder of its own.

    A state to resume from (`checkpoint-N`) is none: whoever loads the result does not read it.
    """
    states = (
        {folder.resolve() for folder in step_folders(trained.output)} if trained.output is not None else set()
    )
    final = {str(file.resolve()) for weights in written.values() for file in weights.files}
    for file in sorted(observed.saves.keys() - final):
        if Path(file).is_file() and not states & set(Path(file).parents):
            yield file, open_weights((Path(file),))


def _new_tensors(
    context: Context, trained: Trained, written: Mapping[str, WeightSet], base: Mapping[str, WeightSet]
) -> Iterator[torch.Tensor]:
    """What was written and is not the base's: changed tensors, and those of names that it has not."""
    same = dict(stored_differences(context, trained)) if "adapter" not in written else {}
    for component, weights in written.items():
        difference = same.get(component)
        known = base[component].tensors if component in base else {}
        for name in weights.tensors:
            if (
                name not in known
                or difference is None
                or name in {**difference.changed, **difference.rounded}
            ):
                yield weights.read(name)


class _Look:
    """Reads stored tensors as the watch saw those that were trained: in the dtypes of training."""

    def __init__(self, observed: Observed) -> None:
        import torch

        named = {dtype for options in observed.options.values() for dtype in options.get("dtypes", ())}
        self._dtypes = [getattr(torch, name) for name in sorted(named)]

    def digests(self, sets: Mapping[str, WeightSet], shapes: set[Shape] | None = None) -> set[str]:
        """What the watch would have told of each tensor; of those of some shapes alone, where they are given."""
        return {
            told
            for weights in sets.values()
            for name, stored in weights.tensors.items()
            if shapes is None or tuple(stored.shape) in shapes
            for told in self._told(weights.read(name))
        }

    def unexplained(self, tensors: Iterator[torch.Tensor], known: set[str]) -> bool:
        """Whether a tensor, but for single numbers, is none that is known: a parameter may be a part of it."""
        return any(values.numel() > 1 and not known & set(self._told(values)) for values in tensors)

    def zeros(self, shape: Shape) -> set[str]:
        """What the watch tells of an up factor (lora_B) that is new."""
        import torch

        return set(self._told(torch.zeros(shape, dtype=self._dtypes[0])))

    def _told(self, values: torch.Tensor) -> Iterator[str]:
        import torch

        from pytest_genmodel.tensors import digest

        for dtype in self._dtypes:
            if values.is_floating_point() and torch.promote_types(values.dtype, dtype) == dtype:
                yield digest(values.to(dtype) + 0.0)
