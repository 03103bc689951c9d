"""Are two live components the same? Settled by their tensors, never by a sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_genmodel.pipelines.residents import residents

if TYPE_CHECKING:
    import torch

    from pytest_genmodel.tensors import Comparison


@dataclass(frozen=True)
class TensorDifference:
    """A tensor that two live models do not share: its values differ, or one side lacks it (`pair` None)."""

    name: str
    what: str
    pair: tuple[torch.Tensor, torch.Tensor] | None = None

    def detail(self) -> Comparison | None:
        """Compare the values in detail, with what the difference looks like; None where one side lacks it."""
        from pytest_genmodel.tensors import bitwise, compare

        return compare(*self.pair, bitwise) if self.pair is not None else None


def tensor_differences(ours: Any, theirs: Any) -> list[TensorDifference]:
    """Compare every parameter and buffer of two modules bit by bit; non-persistent buffers too."""
    from pytest_genmodel.tensors import bitwise, compare

    left, right = residents(ours), residents(theirs)
    found = [TensorDifference(name, "is missing") for name in left if name not in right]
    found += [TensorDifference(name, "is new") for name in right if name not in left]
    for name in left.keys() & right.keys():
        a, b = left[name].tensor, right[name].tensor
        if a.is_meta or b.is_meta:
            found.append(TensorDifference(name, "has no memory (meta device)"))
        elif not compare(b, a, bitwise, in_detail=False).passed:
            found.append(TensorDifference(name, "has other values", (b, a)))
    return sorted(found, key=lambda difference: difference.name)
