"""From a file that cannot be trusted to the finding that says so."""

from __future__ import annotations

from pytest_genmodel.checkpoints.damage import Damage, DamagedFileError
from pytest_genmodel.diagnosis.finding import Finding

_CODES = {
    Damage.EMPTY: "GM101",
    Damage.TRUNCATED: "GM101",
    Damage.HEADER: "GM101",
    Damage.INDEX: "GM101",
    Damage.CONFIG: "GM101",
    Damage.NOT_WEIGHTS: "GM102",
    Damage.MISSING_FILE: "GM103",
    Damage.PICKLE: "GM104",
    Damage.FOREIGN_CLASS: "GM104",
}


def damage_finding(error: DamagedFileError, component: str | None = None) -> Finding:
    """Say what is wrong with the file, where, and what to do."""
    place = f":{error.offset}" if error.offset is not None else ""
    return Finding(
        _CODES[error.damage],
        str(error),
        component=component,
        location=f"{error.path.name}{place}",
        action=error.action,
        evidence={"file": error.path.name, "offset": error.offset, "damage": error.damage.value},
    )
