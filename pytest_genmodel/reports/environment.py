"""What a run depended on: versions, device, precision, threads, seed.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_genmodel.session import GenmodelSession

_PACKAGES = ("pytest", "torch", "diffusers", "transformers", "safetensors", "peft", "accelerate", "numpy")


def environment(genmodel: GenmodelSession) -> dict[str, Any]:
    """Describe this process; imports nothing that was not imported.

    `threads` are torch's, for large models; small ones on the CPU run under one (`pipelines.placement`).
    """
    torch = sys.modules.get("torch")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "packages": {name: _version(name) for name in _PACKAGES},
        "device": genmodel.settings.device,
        "dtype": genmodel.settings.dtype,
        "seed": genmodel.settings.seed,
        "level": genmodel.settings.level,
        "threads": torch.get_num_threads() if torch is not None else None,
        "threads_of_small_models": 1,
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
