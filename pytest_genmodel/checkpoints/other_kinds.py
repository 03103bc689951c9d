"""Files that stand where weights should, and are something else: named by their first bytes."""

from __future__ import annotations

from pathlib import Path

from pytest_genmodel.checkpoints.damage import Damage, DamagedFileError

RELOAD = "Copy or download the file again, and compare its size and checksum with the source."


def refuse_other_kinds(path: Path, size: int, start: bytes) -> None:
    """Refuse an empty file, a git-LFS pointer, a web page or a GGUF file.

    Raises:
        DamagedFileError: it is one of them.
    """
    if size == 0:
        raise DamagedFileError(path, Damage.EMPTY, "the file is empty", action=RELOAD, offset=0)
    if start.startswith(b"version https://git-lfs.github.com/spec/"):
        raise DamagedFileError(
            path,
            Damage.NOT_WEIGHTS,
            "a git-LFS pointer, not the weights it points to",
            action="Run `git lfs pull` in the folder the checkpoint was cloned into.",
        )
    if start.lstrip()[:15].lower().startswith((b"<!doctype", b"<html")):
        raise DamagedFileError(
            path,
            Damage.NOT_WEIGHTS,
            "a web page, not weights (a download that was refused?)",
            action=RELOAD,
            offset=0,
        )
    if start.startswith(b"GGUF"):
        raise DamagedFileError(
            path,
            Damage.NOT_WEIGHTS,
            "a GGUF file under another name",
            action="Give the checkpoint that it was quantised from, as safetensors.",
            offset=0,
        )
