"""The tensors of torch's own files as a weight set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pytest_genmodel.checkpoints.damage import Damage, DamagedFileError
from pytest_genmodel.checkpoints.pickles.loading import Loaded, load
from pytest_genmodel.checkpoints.pickles.state_dict import state_dict_in
from pytest_genmodel.checkpoints.placed import Placed, read_placed
from pytest_genmodel.checkpoints.spans import Span
from pytest_genmodel.checkpoints.weight_set import StoredTensor, WeightSet, dtype_name, twice

if TYPE_CHECKING:
    import torch


class PickledWeights(WeightSet):
    """Tensors of torch `.bin`/`.pt` files, through torch's restricted unpickler and nothing else.

    `wrapper` is the key under which the tensors lay, where they were not at the top ("state_dict", or
    "state_dict.model" for one level more): no library's loader looks under one. `passed_over` are the keys of other
    dictionaries of tensors in the files ("ema"), which nobody reads.

    Of a zip nothing stays in memory, and each tensor is read from its place in the file; of the older container
    the tensors are kept. `numpy_state` says whether the state of numpy's random generators may lie beside them.

    Raises:
        DamagedFileError: torch is older than 2.10, whose restricted unpickler could be broken out of
            (CVE-2025-32434, CVE-2026-24747), the file is no pickle of plain tensors, a tensor claims more than
            its storage holds, or two files hold the same name.
    """

    def __init__(self, files: tuple[Path, ...], *, numpy_state: bool = False) -> None:
        super().__init__()
        self.files = files
        self.metadata = {}
        self.wrapper: str | None = None
        self.passed_over: tuple[str, ...] = ()
        self._kept: dict[str, torch.Tensor] = {}
        self._places: dict[str, Placed] = {}
        tensors: dict[str, StoredTensor] = {}
        for path in files:
            loaded = load(path, numpy_state=numpy_state)
            found = state_dict_in(path, loaded.value)
            self.wrapper = self.wrapper or found.wrapper
            self.passed_over += found.passed_over
            for name, tensor in found.tensors.items():
                if name in tensors:
                    raise twice(path, name, tensors[name].file)
                stored = StoredTensor(name, _checked(path, name, tensor), tuple(tensor.shape), path)
                tensors[name] = stored
                place = _place(stored, tensor, loaded)
                if place is None:
                    self._kept[name] = tensor.detach()
                else:
                    self._places[name] = place
        self.tensors = tensors

    def spans(self, name: str) -> tuple[Span, ...] | None:
        """Where the bytes of `name` lie; None for the older container, and for a tensor that is stored transposed."""
        place = self._places.get(name)
        return place.spans if place is not None and place.stride is None else None

    def read(self, name: str) -> torch.Tensor:
        """Read the bytes of `name` into memory of its own; of the older container the tensor that is kept."""
        place = self._places.get(name)
        return self._kept[name] if place is None else read_placed(place)


def _checked(path: Path, name: str, tensor: torch.Tensor) -> str:
    """Give the name of the tensor's dtype, if it is a plain tensor that its storage can fill."""
    import torch

    dtype = dtype_name(tensor.dtype)
    kind = None
    if tensor.is_quantized:
        kind = "quantized"
    elif tensor.layout is not torch.strided or tensor.device.type != "cpu":
        kind = f"{tensor.layout}, {tensor.device.type}"
    elif dtype is None:
        kind = f"{tensor.dtype}, which safetensors does not know"
    if kind is not None or dtype is None:
        raise DamagedFileError(
            path,
            Damage.PICKLE,
            f"tensor {name!r} is no plain tensor ({kind})",
            action="Save dense tensors from the CPU, best as safetensors.",
        )
    claimed, held = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
    if claimed > held:
        raise DamagedFileError(
            path,
            Damage.PICKLE,
            f"tensor {name!r} claims {claimed} bytes of a storage of {held}",
            action="Do not load this file; ask for a safetensors export.",
        )
    return dtype


def _place(stored: StoredTensor, tensor: torch.Tensor, loaded: Loaded) -> Placed | None:
    """Where the tensor lies, if it lies inside one record of the zip."""
    if tensor.numel() == 0:
        return Placed(stored.dtype, stored.shape, ())
    if loaded.mapped_at is None:
        return None
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    begin = tensor.data_ptr() - loaded.mapped_at
    span = Span(stored.file, begin, begin + (last + 1) * tensor.element_size())
    if not loaded.holds(span.begin, span.end):
        return None
    stride = None if tensor.is_contiguous() else tuple(tensor.stride())
    return Placed(stored.dtype, stored.shape, (span,), stride)
