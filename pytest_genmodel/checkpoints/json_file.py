"""A file of JSON in a checkpoint, read so that damage has its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pytest_genmodel.checkpoints.damage import Damage, DamagedFileError

MAX_BYTES = 64 << 20
"""The index of the largest models is a few megabytes long."""
_RESTORE = "Restore the file from the checkpoint's source."


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        DamagedFileError: the file is no JSON object, or cannot be read; names the byte.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise _damaged(path, f"{size} bytes, which no configuration needs")
        text = path.read_text(encoding="utf-8")
        value = json.loads(text)
        if "\\ud" in text or "\\uD" in text:  # an escape may spell half a character, which nobody can print
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:  # ValueError: bad UTF-8, bad JSON, a number without end
        offset = getattr(error, "pos", getattr(error, "start", None))
        raise _damaged(
            path, "not valid JSON", None if isinstance(error, UnicodeEncodeError) else offset
        ) from None
    except OSError as error:
        raise _damaged(path, f"cannot be read ({error.strerror or error})") from None
    if not isinstance(value, dict):
        raise _damaged(path, "not a JSON object")
    return value


def _damaged(path: Path, what: str, offset: int | None = None) -> DamagedFileError:
    return DamagedFileError(path, Damage.CONFIG, what, action=_RESTORE, offset=offset)
