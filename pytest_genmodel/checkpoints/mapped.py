"""A weight set under other names: each tensor is some rows of stored tensors, one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from pytest_genmodel.checkpoints.damage import Damage, DamagedFileError
from pytest_genmodel.checkpoints.placed import Placed, read_placed
from pytest_genmodel.checkpoints.safetensors_header import DTYPE_BITS
from pytest_genmodel.checkpoints.spans import Span, cut
from pytest_genmodel.checkpoints.weights import StoredTensor, WeightSet

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Rows:
    """Rows `begin` to `end` (exclusive) along dimension 0 of the stored tensor `name`; the whole of it by default."""

    name: str
    begin: int = 0
    end: int | None = None

    @property
    def is_whole(self) -> bool:
        """Whether the tensor is taken as it is, whatever its dimensions."""
        return self.begin == 0 and self.end is None


class MappedWeights(WeightSet):
    """A view of `source` under other names; nothing is read before a tensor is asked for.

    `targets` gives for each name here the rows that it is made of: one whole tensor where a trainer only calls it
    something else, a third of a fused projection, or several stretches joined along dimension 0. Stored names that
    no target takes, and that `unexplained` does not list, were left out by a rule.

    Raises:
        DamagedFileError: a stored tensor is not there, or does not have the rows, the dtype or the shape that the
            target asks for.
    """

    def __init__(
        self,
        source: WeightSet,
        targets: Mapping[str, Rows | Sequence[Rows]],
        unexplained: Iterable[str] = (),
    ) -> None:
        super().__init__()
        self.files = source.files
        self.metadata = source.metadata
        self.unexplained = (*source.unexplained, *unexplained)
        self._source = source
        self._pieces: dict[str, tuple[Rows, ...]] = {
            name: (rows,) if isinstance(rows, Rows) else tuple(rows) for name, rows in targets.items()
        }
        self.tensors = {name: self._joined(name, pieces) for name, pieces in self._pieces.items()}

    def spans(self, name: str) -> tuple[Span, ...] | None:
        """Where the bytes of `name` lie, where the source knows it of every piece."""
        found: list[Span] = []
        for piece in self._pieces[name]:
            spans = self._source.spans(piece.name)
            if spans is None:
                return None
            if piece.is_whole:
                found.extend(spans)
            else:
                size = _row_bytes(self._source.tensors[piece.name])
                found.extend(cut(spans, piece.begin * size, (piece.end or 0) * size))
        return tuple(found)

    def read(self, name: str) -> torch.Tensor:
        """Read the rows of `name`, and no others where the source says where they lie."""
        import torch

        pieces = self._pieces[name]
        if len(pieces) == 1 and pieces[0].is_whole:
            return self._source.read(pieces[0].name)
        stored = self.tensors[name]
        if (spans := self.spans(name)) is not None and stored.dtype in DTYPE_BITS:
            return read_placed(Placed(stored.dtype, stored.shape, spans))
        parts = (self._part(piece) for piece in pieces)
        return next(parts).clone() if len(pieces) == 1 else torch.cat(list(parts))

    def digest(self, name: str) -> str:
        """Give the sha256 of the tensor `name`; the source's own where it is one whole tensor."""
        pieces = self._pieces[name]
        if len(pieces) == 1 and pieces[0].is_whole:
            return self._source.digest(pieces[0].name)
        return super().digest(name)

    def _part(self, piece: Rows) -> torch.Tensor:
        tensor = self._source.read(piece.name)
        return tensor if piece.is_whole else tensor[piece.begin : piece.end]

    def _joined(self, name: str, pieces: tuple[Rows, ...]) -> StoredTensor:
        stored = [self._stored(name, piece) for piece in pieces]
        if len(pieces) == 1 and pieces[0].is_whole:
            return StoredTensor(name, stored[0].dtype, stored[0].shape, stored[0].file)
        rows = 0
        for piece, tensor in zip(pieces, stored, strict=True):
            first = stored[0]
            if not tensor.shape or (tensor.dtype, tensor.shape[1:]) != (first.dtype, first.shape[1:]):
                raise _misfit(
                    tensor,
                    f"{tensor.dtype} {list(tensor.shape)} cannot be joined with {first.name!r}, "
                    f"{first.dtype} {list(first.shape)}, to make {name!r}",
                )
            end = tensor.shape[0] if piece.end is None else piece.end
            if not 0 <= piece.begin <= end <= tensor.shape[0]:
                raise _misfit(
                    tensor, f"it has {tensor.shape[0]} rows, and {name!r} is its rows {piece.begin} to {end}"
                )
            if DTYPE_BITS.get(tensor.dtype, 8) < 8:
                raise _misfit(tensor, f"rows of {tensor.dtype} are not whole bytes and cannot be taken apart")
            rows += end - piece.begin
        return StoredTensor(name, stored[0].dtype, (rows, *stored[0].shape[1:]), stored[0].file)

    def _stored(self, name: str, piece: Rows) -> StoredTensor:
        try:
            return self._source.tensors[piece.name]
        except KeyError:
            raise DamagedFileError(
                self.files[0],
                Damage.HEADER,
                f"the tensor {piece.name!r} is not there, and {name!r} is made of it",
                action="Save the checkpoint again, whole.",
            ) from None


def _misfit(tensor: StoredTensor, what: str) -> DamagedFileError:
    return DamagedFileError(
        tensor.file,
        Damage.HEADER,
        f"tensor {tensor.name!r}: {what}",
        action="Save the checkpoint again; it is not laid out as its names say.",
    )


def _row_bytes(tensor: StoredTensor) -> int:
    return prod(tensor.shape[1:]) * DTYPE_BITS[tensor.dtype] // 8
