"""How near to the root a finding is: the stages from the bytes of a file to the video, as data.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum


class Nature(str, Enum):
    """How a finding was made, which decides how sure a cause can be.

    `AT_REST`: read from files, and exact. `ALONE`: seen in a run of the candidate by itself, which no reference has a
    part in. `COMPARED`: seen in a run beside the reference's.
    """

    AT_REST = "at rest"
    ALONE = "alone"
    COMPARED = "compared"


@dataclass(frozen=True)
class Stage:
    """One stage: `codes` is a regular expression for its rules, `noun` what a sentence calls its subject.

    `settled_by` names what must be ruled out before a finding of this stage has one explanation left.
    """

    name: str
    codes: str
    nature: Nature
    noun: str
    settled_by: tuple[str, ...] = ()


_FILES = ("names", "values")
_EQUAL = ("weights", "configuration", "schedule")
STAGES = (
    Stage("files", r"GM10[1-69]|GM11\d", Nature.AT_REST, "the files"),
    Stage("names", r"GM20[1-8]|GM21\d", Nature.AT_REST, "the names and shapes of the stored tensors"),
    Stage("ties", r"GM209", Nature.AT_REST, "the tied tensors"),
    Stage("weights", r"GM30[1245678]|GM3[123]\d|GM43[16]", Nature.AT_REST, "the weights"),
    Stage("initial values", r"GM309", Nature.AT_REST, "the weights"),
    Stage("adapter", r"GM8[01]\d", Nature.AT_REST, "the adapter"),
    Stage("configuration", r"GM40[14]|GM43[02-57-9]", Nature.AT_REST, "the configuration"),
    Stage("schedule", r"GM402|GM412", Nature.AT_REST, "the schedule"),
    Stage("tokenizer", r"GM107|GM403", Nature.AT_REST, "the tokenizer"),
    Stage("loading", r"GM108|GM303", Nature.AT_REST, "the loading"),
    Stage("library", r"GM41[01]|GM9[347]\d", Nature.ALONE, "the installed library", _FILES),
    Stage("determinism", r"GM50[1-3]", Nature.ALONE, "what draws random numbers in the run", _FILES),
    Stage("round trip", r"GM60\d", Nature.ALONE, "saving and loading", _FILES),
    Stage("divergence", r"GM95\d|GM96\d", Nature.COMPARED, "where the samples part", _EQUAL),
    Stage("denoiser call", r"GM90\d", Nature.COMPARED, "what happens in one call", _EQUAL),
    Stage("conditions", r"GM91\d", Nature.ALONE, "how the conditions are used", _FILES),
    Stage("sample", r"GM50[4-9]", Nature.ALONE, "the run", _FILES),
    Stage("neutrality", r"GM61\d", Nature.ALONE, "a transformation that must not matter", _FILES),
    Stage("adapter operations", r"GM82\d", Nature.ALONE, "what the library does with an adapter", _FILES),
    Stage("training", r"GM7\d\d|trained .*", Nature.ALONE, "the trainer"),
    Stage("own inference", r"GM83\d", Nature.ALONE, "your own inference", _FILES),
    Stage("video", r"GM92\d|GM021", Nature.COMPARED, "the video", _EQUAL),
    Stage("other", r".*", Nature.ALONE, "what this claim looks at", _FILES),
)
"""The nearest to the root first. What a finding of an early stage leaves behind is seen in the later ones."""

MARKS = re.compile(
    r"GM30[79]|GM308|GM310|GM31[2367]|GM32[123]|GM33[03]|GM80[2-57-9]|GM810|GM106|GM110|GM404|GM43[27]"
)
"""Marks that a fault leaves and that something meant may leave too: read exactly, and no proof of a fault."""

TRAINED = frozenset(
    {
        "zero_lr_identity",
        "learning_moves",
        "resume_is_exact",
        "ema_contracts",
        "lr_ladder",
        "training_conditions",
    }
)
"""Invariants whose findings are about what a trainer wrote, even where they carry a code of files or values."""


def spelled(code: str, invariant: str) -> str:
    """What the tables know a finding by: its code, `trained GM401` where it is about what a trainer wrote."""
    return f"trained {code}" if invariant in TRAINED and not code.startswith("GM7") else code


def stage_of(kind: str) -> int:
    """The place of a finding in `STAGES`, by what `spelled` gives."""
    return next(place for place, stage in enumerate(STAGES) if re.fullmatch(stage.codes, kind))
