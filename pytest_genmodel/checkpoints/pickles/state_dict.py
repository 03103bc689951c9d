"""Which of the things in a pickle are the weights: trainers wrap a state dict in dictionaries of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_genmodel.checkpoints.damage import Damage, DamagedFileError

if TYPE_CHECKING:
    import torch

WRAPPERS = ("state_dict", "module", "model")
"""The keys under which trainers keep the model that is meant, before any other."""
_DEEPEST = 4


@dataclass(frozen=True)
class StateDict:
    """Tensors by name. `wrapper` and `passed_over` as in `PickledWeights`."""

    tensors: Mapping[str, torch.Tensor]
    wrapper: str | None
    passed_over: tuple[str, ...]


def state_dict_in(path: Path, loaded: object) -> StateDict:
    """Find the state dict.

    It is what lies at the top, under a key of `WRAPPERS`, or in the only dictionary of tensors that there is.

    Raises:
        DamagedFileError: there is none, there are several and no key says which is meant, or two names in it
            are spelled alike.
    """
    found = dict(_dictionaries(loaded))
    if not found:
        raise _not_weights(path, f"the pickle holds no named tensors, but {_contents(loaded)}")
    wrapper = _meant(found)
    if wrapper is None:
        listed = ", ".join(f"{name[:60]!r} ({len(inner)} tensors)" for name, inner in list(found.items())[:5])
        raise _not_weights(
            path, f"its tensors lie in {len(found)} dictionaries, and none is called a model: {listed}"
        )
    tensors: dict[str, torch.Tensor] = {}
    for key, tensor in found[wrapper].items():
        if str(key) in tensors:
            raise _not_weights(path, f"two of its tensors are called {str(key)[:60]!r}")
        if any("\ud800" <= sign <= "\udfff" for sign in str(key)):
            raise _not_weights(path, f"the tensor name {str(key)[:60]!r} is not valid Unicode")
        tensors[str(key)] = tensor
    inside = _below(found, wrapper) if wrapper else []
    others = tuple(name for name in found if name and name not in inside)
    return StateDict(tensors, wrapper or None, others)


def _meant(found: Mapping[str, object]) -> str | None:
    """The name of the dictionary that is the model, None where nothing says which."""
    name = ""
    while key := next((key for key in WRAPPERS if _below(found, _joined(name, key))), None):
        name = _joined(name, key)
        if name in found:
            return name
    if name in found:
        return name
    inside = _below(found, name)
    return inside[0] if len(inside) == 1 else None


def _below(found: Mapping[str, object], name: str) -> list[str]:
    return [other for other in found if not name or other == name or other.startswith(f"{name}.")]


def _joined(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


def _dictionaries(
    loaded: object, name: str = "", level: int = 0
) -> Iterator[tuple[str, dict[object, torch.Tensor]]]:
    """Give each dictionary that holds tensors, by the keys that lead to it ("" for the top)."""
    import torch

    if not isinstance(loaded, Mapping) or level > _DEEPEST:
        return
    tensors = {key: value for key, value in loaded.items() if isinstance(value, torch.Tensor)}
    if tensors:
        yield name, tensors
    for key, value in loaded.items():
        if isinstance(key, str) and isinstance(value, Mapping):
            yield from _dictionaries(value, _joined(name, key), level + 1)


def _not_weights(path: Path, what: str) -> DamagedFileError:
    return DamagedFileError(
        path, Damage.NOT_WEIGHTS, what, action="Give the file with the model's state dict."
    )


def _contents(loaded: object) -> str:
    if not isinstance(loaded, Mapping):
        return f"a {type(loaded).__name__}"
    return ", ".join(repr(str(name)[:40]) for name in list(loaded)[:5]) or "nothing"
