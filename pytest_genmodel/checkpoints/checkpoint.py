"""A checkpoint: what lies under a path, recognised by its content."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from pytest_genmodel.checkpoints.component import Component
from pytest_genmodel.checkpoints.weights import WeightSet


class Kind(str, Enum):
    """How much of a pipeline a checkpoint holds."""

    PIPELINE = "pipeline"
    COMPONENTS = "components"
    WEIGHTS_FILE = "weights file"
    ADAPTER = "adapter"


@dataclass(frozen=True)
class Adapter:
    """A LoRA at rest: its folder, the weights file, and what is known of its scale."""

    folder: Path
    file: Path
    weights: WeightSet
    config: Mapping[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """Weights at rest under one path.

    `pipeline_class` and `pipeline_arguments` come from `model_index.json`. A checkpoint that is less than a
    pipeline (`kind`) is laid over the reference before it can be loaded.
    """

    spec: str
    root: Path
    kind: Kind
    pipeline_class: str | None = None
    pipeline_arguments: Mapping[str, Any] = field(default_factory=dict)
    components: Mapping[str, Component] = field(default_factory=dict)
    adapter: Adapter | None = None
    foreign: Mapping[str, str] = field(default_factory=dict)
    """Components whose class comes from a library that is never imported: name -> "library.Class"."""

    @property
    def is_partial(self) -> bool:
        """Whether the rest must come from a reference."""
        return self.kind is not Kind.PIPELINE
