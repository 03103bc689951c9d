"""A checkpoint: what lies under a path, recognised by its content."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, NoReturn

from pytest_genmodel.checkpoints.component import Component
from pytest_genmodel.checkpoints.damage import Damage, DamagedFileError
from pytest_genmodel.checkpoints.weights import WeightSet

INDEX = "model_index.json"
"""The file that names the components of a whole pipeline."""


class Kind(str, Enum):
    """How much of a pipeline a checkpoint holds."""

    PIPELINE = "pipeline"
    COMPONENTS = "components"
    WEIGHTS = "set of weights"
    """Without configuration: one component that the reference must name (""), or several that are named."""
    ADAPTER = "adapter"


@dataclass(frozen=True)
class Adapter:
    """A LoRA at rest: its folder, the weights file, and what is known of its scale."""

    folder: Path
    file: Path
    weights: WeightSet
    config: Mapping[str, Any]


class _Components(dict[str, Component]):
    """Components by name; one that is not there is damage of `file`, which should have named it."""

    def __init__(self, components: Mapping[str, Component], file: Path) -> None:
        super().__init__(components)
        self._file = file

    def __missing__(self, name: str) -> NoReturn:
        raise DamagedFileError(
            self._file,
            Damage.MISSING_FILE,
            f"the checkpoint has no {name} (it has {', '.join(self) or 'no component'})",
            action=f"Save the whole pipeline again, or copy the {name} from the model it started from.",
        )


@dataclass(frozen=True)
class Checkpoint:
    """Weights at rest under one path.

    `pipeline_class` and `pipeline_arguments` come from `model_index.json`. A checkpoint that is less than a
    pipeline (`kind`) is laid over the reference before it can be loaded. `components[name]` raises DamagedFileError
    for a component that is not there.
    """

    spec: str
    root: Path
    kind: Kind
    written_by: str = ""
    """What wrote it, in words, as far as its layout tells ("SwissArmyTransformer (SAT)")."""
    pipeline_class: str | None = None
    pipeline_arguments: Mapping[str, Any] = field(default_factory=dict)
    components: Mapping[str, Component] = field(default_factory=dict)
    adapter: Adapter | None = None
    foreign: Mapping[str, str] = field(default_factory=dict)
    """Components whose class comes from a library that is never imported: name -> "library.Class"."""
    unread: tuple[Path, ...] = ()
    """What lies beside the components like a result, weights files and components' folders, and is read by nobody."""
    scripts: tuple[Path, ...] = ()
    """Programs and pickles that lie in its folders (`zero_to_fp32.py`); never run."""

    def __post_init__(self) -> None:
        file = self.root / INDEX if self.kind is Kind.PIPELINE else self.root
        object.__setattr__(self, "components", _Components(self.components, file))

    @property
    def is_partial(self) -> bool:
        """Whether the rest must come from a reference."""
        return self.kind is not Kind.PIPELINE
