"""Writing the shipped folder: half precision, no trace of the machine that made it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import CogVideoXImageToVideoPipeline

# Written by the libraries, true of this machine only or of no use to a reader.
_PRIVATE_KEYS = ("_name_or_path", "name_or_path", "local_files_only", "is_local")
WEIGHT_LIMIT = 5_000_000


def write(parts: dict[str, Any], folder: Path) -> None:
    """Write the pipeline made of `parts` to `folder` in float16, learned positions included."""
    for part in ("transformer", "vae", "text_encoder"):
        parts[part] = parts[part].to(torch.float16)
    pipeline = CogVideoXImageToVideoPipeline(**parts)
    pipeline.save_pretrained(folder)
    for path in sorted(folder.rglob("*.json")):
        _clean(path)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def size(folder: Path) -> int:
    """Return the bytes of all files in `folder`; raise if they are more than a package should carry."""
    total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if total > WEIGHT_LIMIT:
        raise SystemExit(f"the folder has {total} bytes, more than {WEIGHT_LIMIT}")
    return total


def _clean(path: Path) -> None:
    value = json.loads(path.read_text(encoding="utf-8"))
    for key in _PRIVATE_KEYS:
        value.pop(key, None)
    if path.name == "config.json":
        # The files are half precision to be small; on a CPU the model is meant to run in single precision, and
        # transformers would otherwise load its part in the precision named here, unlike diffusers.
        for key in ("dtype", "torch_dtype"):
            if key in value:
                value[key] = "float32"
    write_json(path, value)
