"""How far a pipeline is from itself on this machine, kept in a file together with the environment "
"that it holds for."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pytest_genmodel.errors import BadInputError
from pytest_genmodel.pipelines.placement import Placement
from pytest_genmodel.whole_file import write_whole

SCHEMA = 1
FACTOR = 4.0
"""A limit is so many times the measured floor: the controls are few, and the next kernel rounds elsewhere."""
ROUNDING = "rounding"
"""The control that says what another kernel does in 16 bits, where the others move nothing: each layer's output is
rounded elsewhere. Plain attention stays below it on the tiny pipelines."""
ROUNDING_FACTOR = 2.0
BUDGET = {"float32": 128.0, "bfloat16": 8.0, "float16": 8.0}
"""And never less than so many steps of the dtype at 1, relative to the largest value: in float32 1.5e-5. Measured on
every tiny pipeline; 16 bits round each layer's output, and float32 sums are rounded at every addition."""
EPSILON = {"float32": 2.0**-23, "bfloat16": 2.0**-7, "float16": 2.0**-10}
LARGEST = {"float32": 1e-3, "bfloat16": 0.25, "float16": 0.1}
"""A floor above this is no floor: the pipeline is not the same twice, and nothing can be held against it."""


@dataclass(frozen=True)
class Floor:
    """How far controls were from the base sample: max |a-b| over the largest value, by kind and by control.

    `by_kind` is {"latents": {"same again": 0.0, ...}, "frames": {...}}.
    """

    by_kind: Mapping[str, Mapping[str, float]]

    def largest(self, kind: str) -> float:
        """The largest of one kind, over the controls of one rounding; infinite where one of them is no number."""
        values = (value for name, value in self.by_kind.get(kind, {}).items() if name != ROUNDING)
        return max((math.inf if value != value else value for value in values), default=0.0)

    def limit(self, kind: str, dtype: str) -> float:
        """What a neutral transformation may do, relative to the largest value: `FACTOR` floors, or the budget.

        In 16 bits also `ROUNDING_FACTOR` times what other rounding does, but no more than a floor may be.
        """
        rounding = ROUNDING_FACTOR * self.by_kind.get(kind, {}).get(ROUNDING, 0.0)
        if not rounding <= LARGEST[dtype]:
            rounding = LARGEST[dtype]
        return max(FACTOR * self.largest(kind), rounding, budget(dtype))

    def problem(self, dtype: str) -> str | None:
        """Say which control failed, and by how much; None where the floor is one."""
        for kind, controls in self.by_kind.items():
            for control, value in controls.items():
                if control != ROUNDING and not value <= LARGEST[dtype]:
                    return (
                        f"the control {control!r} fails: the {kind} differ by {value:.3g} of their largest value "
                        f"(at most {LARGEST[dtype]:g} is rounding in {dtype}), so nothing can be held "
                        "against the rest"
                    )
        return None

    def to_json(self) -> dict[str, Any]:
        """As the file and the report hold it."""
        return {kind: dict(controls) for kind, controls in self.by_kind.items()}


def budget(dtype: str) -> float:
    """What rounding alone may do in this dtype, relative to the largest value."""
    return BUDGET[dtype] * EPSILON[dtype]


def surroundings(placement: Placement) -> dict[str, str]:
    """What the last digits of a sample depend on, beside the model: versions, device, dtype, threads, kernels."""
    import torch

    kernels: Any = torch.backends
    found = {name: version(name) for name in ("torch", "diffusers", "transformers", "numpy")}
    found |= {
        "device": placement.device.partition(":")[0],
        "dtype": placement.dtype,
        "threads": str(torch.get_num_threads()),
        "machine": platform.machine(),
        "cpu capability": kernels.cpu.get_cpu_capability(),
        "oneDNN": str(bool(kernels.mkldnn.is_available() and kernels.mkldnn.enabled)),
    }
    if found["device"] == "cuda":
        found["accelerator"] = torch.cuda.get_device_name(placement.device)
        found["cuDNN"] = str(kernels.cudnn.version())
    return found


@dataclass(frozen=True)
class CalibrationFile:
    """Floors on disk, by what was sampled; made by the first run that names the file, read by the others."""

    path: Path

    def read(self, key: str, placement: Placement) -> Floor | None:
        """Give the floor of `key`; None where the file, or the key, is not there yet.

        Raises:
            BadInputError: the file is none of these, or was made in another environment; names the key that differs.
        """
        content = self._content(placement)
        found = content["floors"].get(key)
        return None if found is None else Floor(found)

    def add(self, key: str, floor: Floor, placement: Placement) -> None:
        """Write the floor of `key` beside those that are there; whole or not at all.

        Raises:
            BadInputError: as `read`, or the file cannot be written.
        """
        content = self._content(placement)
        content["floors"][key] = floor.to_json()
        try:
            write_whole(self.path, json.dumps(content, indent=2, sort_keys=True) + "\n")
        except OSError as error:
            raise BadInputError(
                f"--genmodel-calibrate={self.path}: cannot be written ({error.strerror})"
            ) from None

    def _content(self, placement: Placement) -> dict[str, Any]:
        now = surroundings(placement)
        if not self.path.exists():
            return {"schema": SCHEMA, "environment": now, "floors": {}}
        content = _read(self.path)
        made: dict[str, Any] = content["environment"]
        for name in sorted(now.keys() | made.keys()):
            if now.get(name) != made.get(name):
                raise BadInputError(
                    f"--genmodel-calibrate={self.path}: measured with {name} {made.get(name)}, and here it is "
                    f"{now.get(name)}; measure again (give a new file)"
                )
        return content


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        floors = content["floors"]
        sound = (
            content["schema"] == SCHEMA
            and isinstance(content["environment"], dict)
            and all(
                isinstance(value, (int, float)) and value >= 0
                for kinds in floors.values()
                for controls in kinds.values()
                for value in controls.values()
            )
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise BadInputError(
            f"--genmodel-calibrate={path}: not a calibration file (delete it to measure anew)"
        )
    return dict(content)
