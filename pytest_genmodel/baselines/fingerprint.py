"""The fingerprint of one component's weights: digests that decide equality, figures and a sketch that say how far.

Equality is decided by digests and never by an estimate: of the values as they are stored, of the numbers (a zero of
either sign is one number), and of what a cast to 16 bits would make of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pytest_genmodel.baselines.sketch import SIZE, Facts, facts
from pytest_genmodel.baselines.store import BaselineError, Blob, Entry
from pytest_genmodel.checkpoints.progress import Progress, silent
from pytest_genmodel.checkpoints.safetensors_header import DTYPE_BITS
from pytest_genmodel.checkpoints.weight_set import StoredTensor, WeightSet, torch_dtype
from pytest_genmodel.checkpoints.windows import is_packed
from pytest_genmodel.tensors.threads import in_threads, one_thread

if TYPE_CHECKING:
    import torch

NARROW = ("BF16", "F16")
"""Casts that are on record of a tensor in float32 or float64: a copy in half precision is the same model, rounded."""
_WIDE = ("F32", "F64")


@dataclass(frozen=True)
class Fingerprint:
    """What is on record of one tensor.

    `digest` is that of `WeightSet.digest`; `numbers` that of `number_digest`, `casts` the same after a cast, by
    dtype as safetensors spells it. `facts` is None for values that share bytes (4-bit floats).
    """

    dtype: str
    shape: tuple[int, ...]
    digest: str
    numbers: str
    casts: Mapping[str, str] = field(default_factory=dict)
    facts: Facts | None = None


def fingerprints(weights: WeightSet, progress: Progress = silent) -> dict[str, Fingerprint]:
    """Read every tensor twice (three times where it is float32, or holds a zero) and give its fingerprint.

    Raises:
        DamagedFileError: a file cannot be read.
    """
    weights.content_digest(progress)
    known = facts(weights, None, progress)
    tensors = weights.tensors
    telling = [
        name
        for name, tensor in tensors.items()
        if name in known and (tensor.dtype in _WIDE or known[name].statistics.zeros)
    ]

    def further(name: str) -> tuple[str, dict[str, str]]:
        tensor = weights.read(name)
        casts = NARROW if tensors[name].dtype in _WIDE else ()
        return number_digest(tensor), {cast: number_digest(tensor, torch_dtype(cast)) for cast in casts}

    with one_thread():
        more = dict(zip(telling, in_threads(further, telling), strict=True))
    found = {}
    for name, tensor in tensors.items():
        digest = weights.digest(name)
        numbers, casts = more.get(name, ("", {}))
        found[name] = Fingerprint(
            tensor.dtype, tensor.shape, digest, numbers or digest, casts, known.get(name)
        )
    return found


def number_digest(tensor: torch.Tensor, dtype: torch.dtype | None = None) -> str:
    """The digest of a tensor's numbers, cast to `dtype` first: `digest` of the same with every -0.0 made 0.0.

    A block at a time; the bits of NaN stay what they are.
    """
    from pytest_genmodel.tensors.blocks import blocks, raw_bytes
    from pytest_genmodel.tensors.dtypes import dtype_name, kind_of

    dtype = dtype or tensor.dtype
    state = hashlib.sha256(f"{dtype_name(dtype)} {tuple(tensor.shape)}\n".encode())
    if tensor.numel():
        for block in blocks(tuple(tensor.shape)):
            values = block.of(tensor).to(dtype)
            if kind_of(dtype) == "float":
                values = values.masked_fill(values.float() == 0.0, 0.0)
            state.update(raw_bytes(values.contiguous()))
    return state.hexdigest()


def to_entry(prints: Mapping[str, Fingerprint], value: Mapping[str, Any]) -> Entry:
    """An entry of the store that holds `value` and the fingerprints."""
    import torch

    listed, rows = {}, []
    for name, one in sorted(prints.items()):
        fields: dict[str, Any] = {"dtype": one.dtype, "shape": list(one.shape), "digest": one.digest}
        if one.numbers != one.digest:
            fields["numbers"] = one.numbers
        if one.casts:
            fields["casts"] = dict(one.casts)
        if one.facts is not None:
            figures = asdict(one.facts.statistics)
            fields["figures"] = {key: figures[key] for key in _FIGURES if _is_telling(key, figures)}
            rows.append(one.facts.row[: _length(one.dtype, one.shape)])
        listed[name] = fields
    sketch = torch.cat(rows) if rows else torch.empty(0)
    return Entry({**value, "tensors": listed}, {"sketch": Blob.of(sketch)})


def from_entry(entry: Entry, path: Path) -> dict[str, Fingerprint]:
    """Read what `to_entry` made; sketches are cut out of their one row as they stand there.

    Raises:
        BaselineError: it is not what `to_entry` makes.
    """
    import torch

    from pytest_genmodel.tensors.moments import ValueStatistics

    found = {}
    try:
        row, place = entry.tensors["sketch"].tensor().float(), 0
        for name, fields in sorted(entry.value["tensors"].items()):
            dtype, shape = str(fields["dtype"]), tuple(map(int, fields["shape"]))
            known = None
            if dtype not in DTYPE_BITS or min(shape, default=0) < 0:
                raise ValueError(dtype)
            if (figures := fields.get("figures")) is not None:
                length = _length(dtype, shape)
                values = torch.zeros(SIZE)
                values[:length] = row[place : place + length]
                place += length
                known = Facts(
                    ValueStatistics(**{key: figures[key] for key in figures if key in _FIGURES}), values
                )
                _ = known.norm
            digest = str(fields["digest"])
            casts = {str(key): str(value) for key, value in fields.get("casts", {}).items()}
            found[name] = Fingerprint(dtype, shape, digest, str(fields.get("numbers", digest)), casts, known)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError):
        raise BaselineError(
            f"{path}: the fingerprint of a component is damaged; make the baseline again"
        ) from None
    return found


_FIGURES = (
    "numel",
    "nan",
    "positive_inf",
    "negative_inf",
    "zeros",
    "smallest",
    "largest",
    "mean",
    "square_deviation",
)


def _is_telling(key: str, figures: Mapping[str, Any]) -> bool:
    """Counts of nothing, and the extremes of no value, are left out."""
    value = figures[key]
    return bool(value) and abs(value) != float("inf")


def _length(dtype: str, shape: Sequence[int]) -> int:
    return min(SIZE, prod(shape) * (2 if dtype.startswith("C") else 1))


class PrintedWeights(WeightSet):
    """A weight set of which the fingerprints are on record, and no values."""

    def __init__(self, prints: Callable[[], Mapping[str, Fingerprint]], path: Path) -> None:
        super().__init__()
        self.files, self.metadata = (), {}
        self._path = path
        self.prints = prints()
        self.tensors = {
            name: StoredTensor(name, one.dtype, one.shape, path) for name, one in self.prints.items()
        }
        self._digests.update({name: one.digest for name, one in self.prints.items()})

    def read(self, name: str) -> NoReturn:
        """There is nothing to read.

        Raises:
            BaselineError: always.
        """
        raise BaselineError(f"{self._path.name} holds no weights: {name} is needed itself (--genmodel-ref)")


def is_float(weights: WeightSet, name: str) -> bool:
    """Whether a stored tensor holds floating-point numbers, each in bytes of its own."""
    stored = weights.tensors[name]
    return stored.dtype.startswith(("F", "BF")) and not is_packed(stored)
