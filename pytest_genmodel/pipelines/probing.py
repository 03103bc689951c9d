"""Which probe a run asks: the user's wishes, then the checkpoint's own, then the family's defaults."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_genmodel.checkpoints.damage import Damage, DamagedFileError
from pytest_genmodel.checkpoints.json_file import read_json
from pytest_genmodel.errors import BadInputError, first_line
from pytest_genmodel.pipelines.probe import Probe
from pytest_genmodel.pipelines.tiny.scene import render

if TYPE_CHECKING:
    import torch

    from pytest_genmodel.checkpoints.checkpoint import Checkpoint
    from pytest_genmodel.pipelines.families.base import Family

PROBE_FILE = "probe.json"
"""A checkpoint folder may say what to ask of it: prompt, guidance, frames, height, width, steps."""

QUICK_STEPS = 4
QUICK_FRAMES = 9
FULL_STEPS = 25


@dataclass(frozen=True)
class ProbeWishes:
    """What the user asked of the probe; None means "as the checkpoint or the family has it"."""

    prompt: str | None = None
    image: str | None = None
    seed: int = 0
    steps: int | None = None
    frames: int | None = None
    size: tuple[int, int] | None = None
    """Width and height in pixels."""

    @classmethod
    def of_training(cls, prompt: str, seed: int, width: int, height: int, frames: int) -> ProbeWishes:
        """What the built-in trainers train on, by the run's probe: its prompt and size, and a short clip.

        A checkpoint of an unusual size may not say it (Wan's configuration holds none): the run's probe knows it,
        from the reference or from the user.
        """
        return cls(prompt, seed=seed, frames=min(frames, QUICK_FRAMES), size=(width, height))


def make_probe(
    wishes: ProbeWishes,
    checkpoint: Checkpoint,
    family: Family,
    *,
    full: bool,
    base: Checkpoint | None = None,
) -> Probe:
    """Settle every input: the user's wish first, then the checkpoint's own probe file, then the family's default.

    At the quick level four steps are taken and at most nine frames made (claims about equality need no more);
    `full` asks for the whole clip. Where the checkpoint has no probe file, that of `base` counts, the model that it
    is held against: what a trainer or diffusers saves has none.

    Raises:
        BadInputError: the size or frame count is one that the family cannot make, or the image cannot be read.
        DamagedFileError: the checkpoint's probe file cannot be read, or holds a value of the wrong kind.
    """
    stored = _stored(checkpoint, base)
    width, height, frames = settle_size(wishes, checkpoint, family, full=full, base=base)
    return Probe(
        image=_image(wishes.image, height, width),
        prompt=wishes.prompt
        if wishes.prompt is not None
        else stored.get("prompt", "a red square moves right"),
        negative_prompt="",
        seed=wishes.seed,
        steps=wishes.steps or (stored.get("steps", FULL_STEPS) if full else QUICK_STEPS),
        frames=frames,
        height=height,
        width=width,
        guidance=stored.get("guidance", family.guidance),
    )


def settle_size(
    wishes: ProbeWishes,
    checkpoint: Checkpoint,
    family: Family,
    *,
    full: bool,
    base: Checkpoint | None = None,
) -> tuple[int, int, int]:
    """Settle width, height and frames, as `make_probe` does; raises as it does, and reads no picture."""
    stored = _stored(checkpoint, base)
    geometry = family.geometry(checkpoint)
    width, height = wishes.size or (
        stored.get("width", geometry.width),
        stored.get("height", geometry.height),
    )
    frames = wishes.frames
    if frames is None:
        frames = stored.get("frames", geometry.frames)
        frames = frames if full else min(frames, QUICK_FRAMES)
    family.check_size(checkpoint, height=height, width=width, frames=frames)
    return width, height, frames


def check_image(path: str) -> None:
    """Find out early whether a file is a picture.

    Raises:
        BadInputError: it is not there, or no picture.
    """
    _read_picture(Path(path), 1, 1)


def _stored(checkpoint: Checkpoint, base: Checkpoint | None = None) -> dict[str, Any]:
    """The checkpoint's own probe file, else that of `base`; empty where neither has one."""
    path = checkpoint.root / PROBE_FILE
    if not path.is_file():
        return _stored(base) if base is not None else {}
    stored = read_json(path)
    for name in ("width", "height", "frames", "steps"):
        if name in stored and (type(stored[name]) is not int or stored[name] < 1):
            raise _wrong_value(path, name, "a whole number, 1 or more")
    if not isinstance(stored.get("prompt", ""), str):
        raise _wrong_value(path, "prompt", "text")
    if type(guidance := stored.get("guidance", 1)) not in (int, float) or not isfinite(guidance):
        raise _wrong_value(path, "guidance", "a number")
    return stored


def _wrong_value(path: Path, name: str, wanted: str) -> DamagedFileError:
    return DamagedFileError(
        path, Damage.CONFIG, f"its {name} is not {wanted}", action=f"Correct the {name}, or leave it out."
    )


def _image(path: str | None, height: int, width: int) -> torch.Tensor:
    import numpy as np
    import torch

    array = render(height, width) if path is None else _read_picture(Path(path), height, width)
    levels = torch.from_numpy(np.ascontiguousarray(array)).clamp(0, 1).mul(255).round()
    return levels.div(255).permute(2, 0, 1).contiguous()


def _read_picture(path: Path, height: int, width: int) -> Any:
    import numpy as np
    from PIL import Image

    try:
        with Image.open(path) as picture:
            resized = picture.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    except Exception as error:  # whatever PIL raises for a bad file: its decoders do not agree on a kind
        raise BadInputError(
            f"--genmodel-image={path}: cannot be read as a picture ({first_line(error)})"
        ) from None
    return np.asarray(resized, dtype=np.float32) / 255.0
