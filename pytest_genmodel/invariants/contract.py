"""The expectation, spelled out: for each component, whether a change is forbidden, allowed or required."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pytest_genmodel.diagnosis.change import Change


@dataclass(frozen=True)
class Contract:
    """What may differ. `components` lists the exceptions, `otherwise` holds for all others.

    Of the components in `one_of` at least one must differ: of two experts a run may train either.
    """

    components: Mapping[str, Change]
    otherwise: Change = Change.FORBIDDEN
    adapter: Change = Change.ALLOWED
    one_of: tuple[str, ...] = ()

    def of(self, component: str) -> Change:
        """What holds for `component`."""
        return self.components.get(component, self.otherwise)


def contract_for(expect: str | None, denoiser: str, *experts: str, wears_adapter: bool = False) -> Contract:
    """Spell out one of `expectations.EXPECTATIONS`, or None (denoiser allowed); `experts` are further denoisers.

    A LoRA is a fine-tune: of a candidate that `wears_adapter` it is the adapter that must change the denoiser.
    """
    allowed = dict.fromkeys((denoiser, *experts), Change.ALLOWED)
    if expect == "identical":
        return Contract({}, adapter=Change.FORBIDDEN)
    if expect == "finetuned" and wears_adapter:
        return Contract(allowed, adapter=Change.REQUIRED)
    if expect == "finetuned":
        return Contract(allowed, one_of=tuple(allowed)) if experts else Contract({denoiser: Change.REQUIRED})
    if expect == "adapter":
        return Contract({}, adapter=Change.REQUIRED)
    return Contract(allowed)
