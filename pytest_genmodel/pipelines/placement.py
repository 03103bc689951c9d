"""Where and in what precision a pipeline runs, and the controlled conditions of a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_genmodel.errors import BadInputError
from pytest_genmodel.pipelines.torch_defaults import own_defaults

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "bfloat16", "float16")
_STORED = {"F32": "float32", "F64": "float32", "BF16": "bfloat16", "F16": "float16"}

SMALL_MODEL = 50_000_000
"""Parameters below which a model on the CPU runs under one thread: two threads on busy cores cost up to 90 times
and change the last bits; a larger model needs them."""


@dataclass(frozen=True)
class Placement:
    """`device` as torch spells it (never "auto"), `dtype` one of `DTYPES`."""

    device: str
    dtype: str

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype as torch's object."""
        import torch

        dtype = getattr(torch, self.dtype)
        assert isinstance(dtype, torch.dtype)
        return dtype


def resolve_placement(device: str, dtype: str, stored_dtype: str) -> Placement:
    """Settle `auto`: the accelerator if there is one, else the CPU; float32 there, else the stored dtype.

    Args:
        device: "auto", or a device as torch spells it.
        dtype: "auto" or one of `DTYPES`.
        stored_dtype: the denoiser's dtype at rest, as safetensors spells it.

    Raises:
        BadInputError: the device does not exist on this machine.
    """
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise BadInputError(f"--genmodel-device={device}: this machine has no CUDA device")
    if device == "mps" and not torch.backends.mps.is_available():
        raise BadInputError("--genmodel-device=mps: this machine has no MPS device")
    if dtype == "auto":
        dtype = "float32" if device == "cpu" else _STORED.get(stored_dtype, "float32")
    return Placement(device, dtype)


@contextmanager
def controlled(device: str, parameters: int) -> Iterator[None]:
    """Run under fixed threads, deterministic kernels and torch's own defaults; everything is put back afterwards.

    Args:
        device: where the run happens.
        parameters: size of the model; small ones on the CPU run under one thread.
    """
    import torch

    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    tf32 = _tf32_switches()
    before = [getattr(switch, name) for switch, name, _ in tf32]
    try:
        if device == "cpu" and parameters < SMALL_MODEL:
            torch.set_num_threads(1)
        torch.use_deterministic_algorithms(True, warn_only=True)
        for switch, name, off in tf32:
            setattr(switch, name, off)
        torch.backends.cudnn.benchmark = False
        with own_defaults(), torch.inference_mode(False):  # which turns gradients on
            yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        for (switch, name, _), value in zip(tf32, before, strict=True):
            setattr(switch, name, value)
        torch.backends.cudnn.benchmark = benchmark


def _tf32_switches() -> list[tuple[Any, str, Any]]:
    """Give the switches of reduced precision: the object, the attribute, and what turns it off.

    torch has two sets of names for them and refuses the old one in a process that has used the new.
    """
    import torch

    matmul: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    try:
        _ = matmul.allow_tf32, cudnn.allow_tf32
    except RuntimeError:
        return [(part, "fp32_precision", "ieee") for part in (matmul, cudnn.conv, cudnn.rnn)]
    return [(part, "allow_tf32", False) for part in (matmul, cudnn)]
