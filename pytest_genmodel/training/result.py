"""Which of the sets of weights that a trainer left is its result."""

from __future__ import annotations

import re
from pathlib import Path

from pytest_genmodel.checkpoints.checkpoint import Checkpoint
from pytest_genmodel.checkpoints.damage import UnreadableCheckpointError
from pytest_genmodel.checkpoints.formats import lora_adapter
from pytest_genmodel.checkpoints.inventory import Inventory, SavedSet, inventory
from pytest_genmodel.checkpoints.opening import open_checkpoint
from pytest_genmodel.errors import BadInputError

_STEPS = re.compile(r"\{steps(?::0(\d{1,2})d)?\}")


class SeveralResultsError(UnreadableCheckpointError):
    """Several sets of weights lie in the output, and nothing says which is the result; `labels` name them."""

    def __init__(self, message: str, labels: tuple[str, ...]) -> None:
        super().__init__(message)
        self.labels = labels


def check_choice(text: str) -> str:
    """Check what `--genmodel-train-result` was given, and give it back.

    Raises:
        BadInputError: it is empty, leads out of the output folder, or has another placeholder than `{steps}`.
    """
    bare = _STEPS.sub("0", text)
    path = Path(bare.partition("@")[0])
    if not text.strip() or path.is_absolute() or ".." in path.parts or "{" in bare or "}" in bare:
        raise BadInputError(
            f"{text!r} names no result: a path below {{output}}, as checkpoint-{{steps}}, or a set of weights, as "
            "@latest, @ema or @final"
        )
    return text


def open_result(output: Path, spec: str, *, choice: str | None, steps: int) -> Checkpoint:
    """Open what a trainer left in `output`: what `choice` names, else its final result.

    Without a choice a pipeline, a component or an adapter at the top is the result; else the one that lies below, in
    a folder that the trainer has made. States to resume from are no result where there is a final one.

    Args:
        output: the folder, or the file, that the trainer wrote.
        spec: what to call it in messages.
        choice: `@latest`, `@ema` and the like, or a path below `output`; `{steps}` stands for `steps`.
        steps: the number of steps that were asked for.

    Raises:
        SeveralResultsError: several sets of weights lie there, and nothing says which is meant.
        UnreadableCheckpointError: nothing lies there that is read, or nothing that `choice` names.
        DamagedFileError: a file cannot be read.
    """
    if choice is not None:
        return _chosen(output, spec, _STEPS.sub(lambda match: f"{steps:0{match[1] or 0}d}", choice))
    if not output.is_dir():
        return open_checkpoint(output, spec)
    found = inventory(output)
    if found.final is not None:
        _refuse_lora_beside(found, found.final)
        return open_checkpoint(output, spec)
    below = _one_below(found)
    if below is not None:
        return below.open(spec)
    try:
        checkpoint = open_checkpoint(output, spec)
    except UnreadableCheckpointError as error:
        labels = tuple(one.label for one in found.sets) or _parts(output)
        if len(labels) > 1:
            raise SeveralResultsError(str(error).removeprefix(f"{spec}: "), labels) from None
        raise
    return checkpoint


def _chosen(output: Path, spec: str, choice: str) -> Checkpoint:
    path, _, which = choice.partition("@")
    folder = output / path if path else output
    if path and not folder.exists() and not which:
        return inventory(output).find(path, spec).open(spec)  # a label, as a file's name without its ending
    if not folder.exists():
        raise UnreadableCheckpointError(f"{spec}: the run left no {path} (it left {_left(output)})")
    if which:
        return inventory(folder).find(which, spec).open(spec)
    return open_checkpoint(folder, spec)


def _one_below(found: Inventory) -> SavedSet | None:
    """The only result in a folder of the trainer's own making (`run-2024-05-01/`), or the only set there is."""
    results = [one for one in found.sets if one.step is None]
    if not results:
        results = list(found.sets)
    return results[0] if len(results) == 1 else None


def _refuse_lora_beside(found: Inventory, final: SavedSet) -> None:
    """A whole model and a LoRA at the top: a library would read the one and pass over the other."""
    names = (lora_adapter.DIFFUSERS_NAME, lora_adapter.DIFFUSERS_PICKLE)
    lora = next((name for name in names if (found.root / name).is_file()), None)
    if lora is not None and final.what != "LoRA" and final.path == found.root:
        raise SeveralResultsError(
            f"a whole model ({final.what}) and a LoRA ({lora}) lie side by side", (".", lora)
        )


def _parts(output: Path) -> tuple[str, ...]:
    return tuple(sorted(path.name for path in output.iterdir() if not path.name.startswith(".")))


def _left(output: Path) -> str:
    names = _parts(output) if output.is_dir() else ()
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "nothing"
