"""Precomputed text embeddings and latents of a data set: found, read without running code, and told apart.

Known layouts: one file an item (torch `.pt`, safetensors, `.npz`, `.npy`) as CogVideo's finetune folder, finetrainers
and the scripts of diffusers write them, and Arrow or parquet tables.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_genmodel.checkpoints.damage import DamagedFileError
from pytest_genmodel.checkpoints.pickles import load_pickle
from pytest_genmodel.errors import BadInputError

if TYPE_CHECKING:
    import torch

SUFFIXES = (".pt", ".pth", ".safetensors", ".npz", ".npy", ".arrow", ".parquet")
MOST_FILES = 2000
MOST_TENSORS = 16
"""A file with more tensors holds a model's state, and no item of a data set."""
_TEXT = ("prompt", "text", "caption", "encoder_hidden_states", "t5")
_LATENTS = ("latent", "encoded_video", "moments", "video")
_IMAGE = ("image_latent", "encoded_image", "image", "first_frame")
_OTHER = ("mask", "negative", "pooled", "ids", "noise", "null")
_CAPTIONS = ("caption", "prompt", "text")
_VIDEOS = ("file_name", "video", "video_path", "path", "filename")


@dataclass(frozen=True, eq=False)
class CacheItem:
    """One item: `name` is its file (and row), `tensors` and `texts` what lies in it, by key."""

    name: str
    tensors: Mapping[str, torch.Tensor]
    texts: Mapping[str, str] = field(default_factory=dict)

    def of_kind(self, kind: str) -> dict[str, torch.Tensor]:
        """The tensors that are "text", "image" or "latents" by their key, or by the folder they lie in."""
        folder = self.name.lower()
        return {key: value for key, value in self.tensors.items() if _kind(key, folder) == kind}

    @property
    def caption(self) -> str | None:
        """The caption, where the item holds it."""
        return next(
            (text for key, text in self.texts.items() if any(word in key.lower() for word in _CAPTIONS)), None
        )


@dataclass(frozen=True)
class Source:
    """A clip of the data set that a cache belongs to; `video` is where it lies."""

    caption: str
    video: Path

    def names(self, item: CacheItem) -> bool:
        """Whether the item says that it is this one's: by caption, by its hash, or by the video's name."""
        if item.caption is not None:
            return item.caption == self.caption
        stem = Path(item.name).stem
        digest = hashlib.sha256(self.caption.encode()).hexdigest()
        videos = [text for key, text in item.texts.items() if key.lower() in _VIDEOS]
        if videos:
            return any(Path(text).name == self.video.name for text in videos)
        return stem == self.video.stem or stem == digest or stem.split("-")[0] == self.video.stem


def _kind(key: str, folder: str) -> str | None:
    words = key.lower()
    if any(word in words for word in _OTHER):
        return None
    for kind, known in (("image", _IMAGE), ("latents", _LATENTS), ("text", _TEXT)):
        if any(word in words for word in known):
            return "text" if kind == "latents" and "prompt" in words else kind
    if key in ("", "0", "data", "tensor", "arr_0"):
        return next(
            (
                kind
                for kind, known in (("text", _TEXT), ("image", _IMAGE[:2]), ("latents", _LATENTS))
                if any(word in folder for word in known)
            ),
            None,
        )
    return None


def cache_items(path: Path, most: int) -> list[CacheItem]:
    """Up to `most` items below `path` (a file or a folder), in the order of their names.

    Raises:
        BadInputError: there is nothing at `path`.
    """
    if not path.exists():
        raise BadInputError(f"there is no cache at {path.name}")
    files = [path] if path.is_file() else sorted(_files(path))
    found = (item for file in files for item in _read(file, path))
    return list(
        islice((item for item in found if any(item.of_kind(k) for k in ("text", "image", "latents"))), most)
    )


def _files(folder: Path) -> list[Path]:
    files = (file for file in folder.rglob("*") if file.suffix in SUFFIXES and file.is_file())
    return list(islice(files, MOST_FILES))


def _read(file: Path, root: Path) -> Iterator[CacheItem]:
    """The items of one file; a file that cannot be read safely holds none."""
    name = file.name if root.is_file() else file.relative_to(root).as_posix()
    try:
        if file.suffix in (".arrow", ".parquet"):
            yield from _table(file, name)
            return
        content = _content(file)
    except (DamagedFileError, OSError, ValueError):
        return
    tensors, texts = _sorted_out(content)
    if tensors and len(tensors) <= MOST_TENSORS:
        yield CacheItem(name, tensors, texts)


def _content(file: Path) -> Any:
    if file.suffix in (".pt", ".pth"):
        return load_pickle(file)
    if file.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(str(file), framework="pt") as stored:
            names = list(stored.keys())
            if len(names) > MOST_TENSORS:
                return {}
            return {**(stored.metadata() or {}), **{name: stored.get_tensor(name) for name in names}}
    import numpy as np

    loaded = np.load(file, allow_pickle=False)
    return dict(loaded) if file.suffix == ".npz" else {"": loaded}


def _sorted_out(content: Any, prefix: str = "") -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    import numpy as np
    import torch

    tensors: dict[str, torch.Tensor] = {}
    texts: dict[str, str] = {}
    pairs: Any = content.items() if isinstance(content, Mapping) else [("", content)]
    for key, value in pairs:
        name = f"{prefix}{key}"
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            value = torch.from_numpy(value)
        if isinstance(value, torch.Tensor) and value.is_floating_point() and value.ndim >= 2:
            tensors[name] = value
        elif isinstance(value, str):
            texts[name] = value
        elif isinstance(value, (list, tuple)) and len(value) == 1:
            inner, said = _sorted_out({key: value[0]}, prefix)
            tensors.update(inner)
            texts.update(said)
        elif isinstance(value, Mapping):
            inner, said = _sorted_out(value, f"{name}.")
            tensors.update(inner)
            texts.update(said)
    return tensors, texts


def _table(file: Path, name: str) -> Iterator[CacheItem]:
    """The rows of an Arrow or parquet table, where pyarrow is installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        return
    import numpy as np

    try:
        if file.suffix == ".parquet":
            table = pyarrow.parquet.read_table(file)
        else:
            with pyarrow.memory_map(str(file)) as stream:
                table = pyarrow.ipc.open_stream(stream).read_all()
    except pyarrow.ArrowException:
        return
    for place in range(table.num_rows):
        row: dict[str, Any] = {}
        for column in table.column_names:
            value = table[column][place].as_py()
            row[column] = (
                value
                if isinstance(value, str)
                else np.asarray(value, dtype=np.float32)
                if _is_array(value)
                else None
            )
        tensors, texts = _sorted_out(row)
        if tensors:
            yield CacheItem(f"{name}:{place}", tensors, texts)


def _is_array(value: Any) -> bool:
    """Whether a table's value is nested lists of numbers, all rows of one length."""
    if not isinstance(value, list) or not value:
        return False
    if isinstance(value[0], list):
        return len({len(row) if isinstance(row, list) else -1 for row in value}) == 1 and _is_array(value[0])
    return isinstance(value[0], (int, float))


def sources_beside(path: Path) -> list[Source]:
    """The clips of the data set that a cache lies in or beside: the nearest folder with captions and videos."""
    start = path if path.is_dir() else path.parent
    for folder in (start, *list(start.parents)[:4]):
        found = _listed(folder)
        if found:
            return found
    return []


def _listed(folder: Path) -> list[Source]:
    pairs: list[tuple[str, str]] = []
    texts = [folder / name for name in ("prompts.txt", "prompt.txt")]
    captions = next((file for file in texts if file.is_file()), None)
    if captions is not None and (folder / "videos.txt").is_file():
        lines = (
            captions.read_text("utf-8").splitlines(),
            (folder / "videos.txt").read_text("utf-8").splitlines(),
        )
        pairs = list(zip(*lines, strict=False))
    elif (folder / "metadata.jsonl").is_file():
        rows = [
            json.loads(line) for line in (folder / "metadata.jsonl").read_text("utf-8").splitlines() if line
        ]
        pairs = [pair for row in rows if (pair := _pair(row))]
    elif (folder / "metadata.csv").is_file():
        with (folder / "metadata.csv").open(encoding="utf-8", newline="") as stream:
            pairs = [pair for row in csv.DictReader(stream) if (pair := _pair(row))]
    return [Source(caption, folder / video) for caption, video in pairs if (folder / video).is_file()]


def _pair(row: Mapping[str, Any]) -> tuple[str, str] | None:
    caption = next((row[key] for key in _CAPTIONS if isinstance(row.get(key), str)), None)
    video = next((row[key] for key in _VIDEOS if isinstance(row.get(key), str)), None)
    return (caption, video) if caption is not None and video is not None else None


def is_hash(name: str) -> bool:
    """Whether a file is named by a sha256: of the caption, in CogVideo's finetune folder."""
    return re.fullmatch(r"[0-9a-f]{64}", Path(name).stem) is not None
