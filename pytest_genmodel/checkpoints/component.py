"""One component of a checkpoint: its folder, its configuration, and which of its files a loader would read."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pytest_genmodel.checkpoints.damage import Damage, DamagedFileError
from pytest_genmodel.checkpoints.json_file import read_json
from pytest_genmodel.checkpoints.shard_index import (
    Disagreement,
    check_promises,
    disagreement,
    read_index,
    shard_of,
)
from pytest_genmodel.checkpoints.weights import PickledWeights, SafetensorsWeights, WeightSet, open_weights

_WEIGHT_NAME = re.compile(
    r"^(?P<base>diffusion_pytorch_model|pytorch_model|model)"
    r"(?P<variant>\.(?!safetensors|bin)[\w-]+?)?"
    r"(?P<shard>-\d{5}-of-\d{5})?"
    r"(?P<old_variant>\.(?!safetensors|bin)[\w-]+)?"
    r"\.(?P<container>safetensors|bin)"
    r"(?P<index>(?P<old_index_variant>\.(?!index\.)[\w-]+)?\.index(?P<index_variant>\.[\w-]+)?\.json)?$"
)
_INDEX_VARIANTS = ("index_variant", "old_index_variant")
_BASES = {
    ("diffusers", "safetensors"): "diffusion_pytorch_model",
    ("diffusers", "bin"): "diffusion_pytorch_model",
    ("transformers", "safetensors"): "model",
    ("transformers", "bin"): "pytorch_model",
}
"""The one name under which each library looks for weights of a container."""
WEIGHT_SUFFIXES = frozenset({".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf"})
"""How names of files that may hold weights end."""
_TRAINER_STATE = re.compile(
    r"^(optimizer|scheduler|random_states|rng_state|scaler|training_args|sampler|dataloader)"
)
_CONFIG_NAMES = (
    "config.json",
    "scheduler_config.json",
    "guider_config.json",
    "tokenizer_config.json",
    "preprocessor_config.json",
)


@dataclass(frozen=True)
class FileSet:
    """The files of one complete weight set, as the names say."""

    container: str
    variant: str | None
    index: Path | None
    files: tuple[Path, ...]

    @property
    def name(self) -> str:
        """What to call the set in a message: its index, or its first file."""
        return self.index.name if self.index else self.files[0].name


@dataclass(frozen=True)
class Component:
    """A named part of a pipeline at rest.

    `library` and `class_name` say what loads it; `folder` is where it lies. Files are looked at on first use.
    """

    name: str
    folder: Path
    library: str
    class_name: str
    weights_file: Path | None = field(default=None)
    """A lone file that stands for the component's weights (a candidate without configuration)."""
    source: Callable[[], WeightSet] | None = field(default=None)
    """Reads weights that a trainer keeps in a container or under names of its own, where no library would look."""
    module: str | None = field(default=None)
    """Where its class lies, if not at the top of `library` (`diffusers.pipelines.ltx2`)."""
    effective: Mapping[str, Any] | None = field(default=None)
    """The values that its class acts on, where they are on record and no class needs to be asked (a baseline's)."""

    @property
    def home(self) -> str:
        """The module that its class is taken from."""
        return self.module or self.library

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The component's configuration as stored; empty where it has none.

        Raises:
            DamagedFileError: the file is no JSON object.
        """
        path = self.config_path
        return read_json(path) if path else {}

    @cached_property
    def config_path(self) -> Path | None:
        """The configuration file, None where there is none."""
        paths = (self.folder / name for name in _CONFIG_NAMES)
        return next((path for path in paths if path.is_file()), None)

    @property
    def config_name(self) -> str:
        """The name of the configuration file; the usual one where there is none."""
        return self.config_path.name if self.config_path else "config.json"

    @cached_property
    def file_sets(self) -> tuple[FileSet, ...]:
        """Every weight set in the folder, the one that the library reads first; none where `source` reads them."""
        if self.source is not None:
            return ()
        if self.weights_file is not None:
            container = "safetensors" if self.weights_file.suffix == ".safetensors" else "bin"
            return (FileSet(container, None, None, (self.weights_file,)),)
        sets = _file_sets(self.folder, self.library)
        # diffusers prefers a shard index to a lone file, transformers the lone file; both prefer safetensors.
        prefers_index = self.library == "diffusers"
        return tuple(
            sorted(
                sets,
                key=lambda s: (
                    s.variant is not None,
                    s.container != "safetensors",
                    (s.index is None) == prefers_index,
                    s.variant or "",
                ),
            )
        )

    @property
    def index_disagreement(self) -> Disagreement | None:
        """How far the index and its files disagree where loading takes no harm; None without an index.

        Raises:
            DamagedFileError: as `weights`.
        """
        index = self.file_sets[0].index if self.file_sets else None
        return disagreement(read_index(index), self.weights) if index is not None else None

    @property
    def lone_shard(self) -> tuple[int, int] | None:
        """Number and count, where one shard of several stands for the component: (2, 4)."""
        return shard_of(self.weights_file) if self.weights_file is not None else None

    @cached_property
    def code_asked_for(self) -> Mapping[str, str]:
        """What the configuration wants imported from the checkpoint or from elsewhere, by its key; never imported."""
        found = {}
        if (auto_map := self.config.get("auto_map")) is not None:
            values = auto_map.values() if isinstance(auto_map, dict) else [auto_map]
            found["auto_map"] = ", ".join(str(value)[:100] for value in list(values)[:4])
        for key in ("_class_name", "custom_pipeline", "custom_pipelines", "trust_remote_code"):
            value = self.config.get(key)
            if value not in (None, False) and not (key == "_class_name" and isinstance(value, str)):
                found[key] = str(value)[:100]
        return found

    @property
    def has_weights(self) -> bool:
        """Whether there are weights, in whatever form."""
        return self.source is not None or bool(self.file_sets)

    @property
    def variant(self) -> str | None:
        """The variant a loader must be asked for (`fp16`), where no plain weights lie here."""
        return self.file_sets[0].variant if self.file_sets else None

    @property
    def second_sets(self) -> tuple[FileSet, ...]:
        """Weight sets of the same variant that the library passes over: one of them is stale."""
        return tuple(s for s in self.file_sets[1:] if s.variant == self.variant)

    @cached_property
    def unread_files(self) -> tuple[Path, ...]:
        """Weight-like files in the folder that belong to no set, so that nobody reads them."""
        if self.weights_file is not None or self.source is not None:
            return ()
        known = {path for s in self.file_sets for path in (*s.files, *([s.index] if s.index else []))}
        return tuple(
            path
            for path in sorted(self.folder.iterdir())
            if path.is_file()
            and path.suffix in WEIGHT_SUFFIXES
            and path not in known
            and not _TRAINER_STATE.match(path.name)
            and not path.name.startswith(".")  # what a file system leaves beside a file
            and not (path.suffix == ".bin" and path.with_suffix(".xml").is_file())  # OpenVINO's form of it
        )

    @cached_property
    def weights(self) -> WeightSet:
        """The tensors that a loader would read.

        Raises:
            DamagedFileError: a file is missing, damaged or unsafe.
        """
        if self.source is not None:
            return self.source()
        if not self.file_sets:
            raise DamagedFileError(
                self.folder,
                Damage.MISSING_FILE,
                "the folder holds no weights",
                action="Save the component again; a configuration alone is an untrained model.",
            )
        weights = open_weights(self.file_sets[0].files)
        if self.file_sets[0].index is not None:
            check_promises(read_index(self.file_sets[0].index), weights)
        if (
            self.file_sets[0].container == "bin"
            and self.weights_file is None
            and isinstance(weights, SafetensorsWeights)
        ):
            raise DamagedFileError(
                weights.files[0],
                Damage.NOT_WEIGHTS,
                f"a safetensors file under the name of a pickle, which {self.library} cannot read",
                action="Give the file the ending .safetensors.",
            )
        if self.weights_file is None and isinstance(weights, PickledWeights) and weights.wrapper is not None:
            raise DamagedFileError(
                weights.files[0],
                Damage.NOT_WEIGHTS,
                f"its tensors lie under the key {weights.wrapper!r}, where {self.library} does not look: it would "
                "load none of them",
                action=f"Save what lies under {weights.wrapper!r} by itself, best as safetensors.",
            )
        return weights


def library_name(library: str, container: str) -> str:
    """The file name under which `library` looks for weights in `container` (safetensors or bin)."""
    return f"{_BASES[library, container]}.{container}"


def _file_sets(folder: Path, library: str) -> list[FileSet]:
    groups: dict[tuple[str, str, str | None, bool], list[Path]] = {}
    indexes: dict[tuple[str, str, str | None], Path] = {}
    for path in sorted(folder.iterdir()):
        match = _WEIGHT_NAME.match(path.name)
        if not match or match["base"] != _BASES.get((library, match["container"])) or not path.is_file():
            continue
        variant = next(filter(None, match.group("variant", "old_variant", *_INDEX_VARIANTS)), None)
        key = (match["base"], match["container"], variant.lstrip(".") if variant else None)
        if match["index"]:
            indexes[key] = path
        else:
            groups.setdefault((*key, match["shard"] is not None), []).append(path)
    sets = []
    for (base, container, variant, sharded), files in groups.items():
        index = indexes.get((base, container, variant)) if sharded else None
        if sharded and index is None:
            continue  # shards without an index: no loader finds them, `unread_files` says so
        sets.append(FileSet(container, variant, index, read_index(index).files if index else tuple(files)))
    for (base, container, variant), index in indexes.items():
        if (base, container, variant, True) not in groups:
            sets.append(FileSet(container, variant, index, read_index(index).files))
    return sets
