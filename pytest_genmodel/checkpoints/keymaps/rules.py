"""Key maps as data: what a trainer calls a tensor, and which of the model's tensors it is, or they are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from pytest_genmodel.checkpoints.damage import Damage, DamagedFileError
from pytest_genmodel.checkpoints.mapped import MappedWeights, Rows
from pytest_genmodel.checkpoints.weights import StoredTensor, WeightSet

_FIELDS = {
    "i": r"(?P<i>0|[1-9][0-9]{0,5})",
    "j": r"(?P<j>0|[1-9][0-9]{0,5})",
    "leaf": r"(?P<leaf>weight|bias)",
    "side": r"(?P<side>encoder|decoder)",
    "factor": r"(?P<factor>[AB])",
    "rest": r"(?P<rest>.+)",
}
"""What may stand for a varying part of a name, in a rule's pattern and in the names that it gives."""


@dataclass(frozen=True)
class Part:
    """The model's tensor `name`: the `chunks` of a stored one that is cut into `of` equal parts along dimension 0."""

    name: str
    chunks: tuple[int, ...] = (0,)
    of: int = 1


@dataclass(frozen=True)
class Rule:
    """What becomes of stored names of the form `stored`; without parts they are left out.

    A form is a name with fields: `{i}` and `{j}` are numbers, `{leaf}` is weight or bias, `{side}` encoder or
    decoder, `{factor}` A or B, `{rest}` anything.
    """

    stored: str
    parts: tuple[Part, ...] = ()

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """The form as a regular expression over a whole name."""
        pieces = re.split(r"\{(\w+)\}", self.stored)
        fields = {name: _FIELDS[name] for name in pieces[1::2]}
        return re.compile(
            "".join(fields[piece] if n % 2 else re.escape(piece) for n, piece in enumerate(pieces)) + r"\Z"
        )


def renamed(stored: str, name: str) -> Rule:
    """The rule for a tensor that is only called something else."""
    return Rule(stored, (Part(name),))


def left_out(*stored: str) -> tuple[Rule, ...]:
    """Rules for what has no counterpart in the model, and is no part of what was trained."""
    return tuple(map(Rule, stored))


@dataclass(frozen=True)
class KeyMap:
    """The names of one trainer for one component: `marks` are parts of names that nobody else uses."""

    component: str
    marks: tuple[str, ...]
    rules: tuple[Rule, ...]

    def knows(self, names: Iterable[str]) -> bool:
        """Whether the names are this trainer's: one of them has one of its marks."""
        return any(mark in f".{name}" for name in names for mark in self.marks)


def map_weights(
    source: WeightSet,
    rules: Sequence[Rule],
    prefixes: Sequence[str] = ("",),
    give: str = "",
    foreign: Iterable[str] = (),
) -> MappedWeights:
    """View those tensors of `source` that start with one of `prefixes` under the model's names.

    Args:
        source: the weights under the trainer's names.
        rules: the first that fits a name (without its prefix) says what it is.
        prefixes: what stands before this component's names in the file.
        give: what to put before every name that is given.
        foreign: names of no component at all, to be said `unexplained` with this one.

    Returns:
        The view; names of this component that no rule fits are `unexplained`, those of others are not mentioned.

    Raises:
        DamagedFileError: a tensor cannot be cut as its rule says, or two of them are the same tensor.
    """
    targets: dict[str, tuple[Rows, ...]] = {}
    unexplained = list(foreign)
    for name, tensor in source.tensors.items():
        prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), None)
        if prefix is None:
            continue
        found = first_fit(name[len(prefix) :], rules)
        if found is None:
            unexplained.append(name)
            continue
        rule, fields = found
        for part in rule.parts:
            target = give + part.name.format_map(fields)
            if target in targets:
                other = targets[target][0].name
                raise DamagedFileError(
                    tensor.file,
                    Damage.INDEX,
                    f"the tensors {other!r} and {name!r} are both {target!r}",
                    action="Save the checkpoint again: it holds one tensor twice, under two names.",
                )
            targets[target] = _rows(tensor, part)
    return MappedWeights(source, targets, unexplained)


def first_fit(name: str, rules: Iterable[Rule]) -> tuple[Rule, dict[str, str]] | None:
    """The first rule whose form fits the whole of `name`, with the fields it found; None where none does."""
    for rule in rules:
        if match := rule.pattern.match(name):
            return rule, match.groupdict()
    return None


def _rows(tensor: StoredTensor, part: Part) -> tuple[Rows, ...]:
    if part.of == 1:
        return (Rows(tensor.name),)
    rows = tensor.shape[0] if tensor.shape else 0
    if not tensor.shape or rows % part.of:
        raise DamagedFileError(
            tensor.file,
            Damage.HEADER,
            f"tensor {tensor.name!r} of shape {list(tensor.shape)} does not fall into {part.of} equal parts, "
            "of which the model's tensors are made",
            action="Save the checkpoint again; a part of this tensor is missing.",
        )
    size = rows // part.of
    return tuple(Rows(tensor.name, begin * size, end * size) for begin, end in _runs(part.chunks))


def _runs(chunks: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Chunks that follow each other, joined: 0, 1, 2, 6, 7 are 0 to 3 and 6 to 8."""
    begin = 0
    for n in range(1, len(chunks) + 1):
        if n == len(chunks) or chunks[n] != chunks[n - 1] + 1:
            yield chunks[begin], chunks[n - 1] + 1
            begin = n
