"""The probe: the fixed inputs of a run."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from pytest_genmodel.errors import BadInputError

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image


@dataclass(frozen=True, eq=False)
class Probe:
    """What the pipeline is asked for.

    `image` is a float32 tensor (3, height, width) in [0, 1] whose values are multiples of 1/255, so that the
    picture given to the pipeline is exactly this one; `height` and `width` are pixels, `guidance` is the
    classifier-free guidance scale.
    """

    image: torch.Tensor
    prompt: str
    negative_prompt: str
    seed: int
    steps: int
    frames: int
    height: int
    width: int
    guidance: float

    @property
    def key(self) -> str:
        """A digest of every input: two probes with one key ask the same."""
        outer = hashlib.sha256(self.image.numpy().tobytes())
        for field in fields(self):
            if field.name != "image":
                outer.update(f"{field.name}={getattr(self, field.name)!r};".encode())
        return outer.hexdigest()

    def but(self, **changes: Any) -> Probe:
        """Give this probe with some inputs changed (`probe.but(seed=7)`); None leaves an input as it is.

        Raises:
            BadInputError: no input has that name.
        """
        known = {field.name for field in fields(self)}
        if unknown := sorted(set(changes) - known):
            raise BadInputError(f"a probe has no {unknown[0]!r}; it has {', '.join(sorted(known))}")
        return replace(self, **{name: value for name, value in changes.items() if value is not None})

    def picture(self) -> Image:
        """The image as PIL, the form that every pipeline takes alike."""
        import torch
        from PIL import Image

        array = (self.image * 255).round().to(dtype=torch.uint8).permute(1, 2, 0).numpy()
        return Image.fromarray(array)
