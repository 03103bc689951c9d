"""The expectation, spelled out: for each component, whether a change is forbidden, allowed or required."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pytest_genmodel.diagnosis.change import Change


@dataclass(frozen=True)
class Contract:
    """What may differ. `components` lists the exceptions, `otherwise` holds for all others."""

    components: Mapping[str, Change]
    otherwise: Change = Change.FORBIDDEN
    adapter: Change = Change.ALLOWED

    def of(self, component: str) -> Change:
        """What holds for `component`."""
        return self.components.get(component, self.otherwise)


def contract_for(expect: str | None, denoiser: str) -> Contract:
    """Spell out one of `expectations.EXPECTATIONS`, or None (denoiser allowed)."""
    if expect == "identical":
        return Contract({}, adapter=Change.FORBIDDEN)
    if expect == "finetuned":
        return Contract({denoiser: Change.REQUIRED})
    if expect == "adapter":
        return Contract({}, adapter=Change.REQUIRED)
    return Contract({denoiser: Change.ALLOWED})
