"""Probes: inputs that a checkpoint's family can make."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import strategies as st

if TYPE_CHECKING:
    from pytest_genmodel.pipelines.probe import Probe

PROMPTS = ("a red square moves right", "a blue circle turns slowly", "", "a cat", "the video of a green boat")


def probes(checkpoint: str | Path, *, most_steps: int = 4) -> st.SearchStrategy[Probe]:
    """Probes for a checkpoint: any seed, a few prompts, any picture, as many steps; its own size and frames.

    Args:
        checkpoint: a folder, or `tiny:NAME`, which is written to a temporary folder.
        most_steps: the largest number of steps.
    """
    return st.builds(
        _probe,
        st.just(str(checkpoint)),
        prompt=st.sampled_from(PROMPTS),
        seed=st.integers(0, 2**63 - 1),
        steps=st.integers(2, most_steps),
        guidance=st.sampled_from([1.0, 2.5, 6.0]),
        picture=st.integers(0, 2**32 - 1),
    )


def _probe(checkpoint: str, *, prompt: str, seed: int, steps: int, guidance: float, picture: int) -> Probe:
    import tempfile

    import torch

    from pytest_genmodel.pipelines.families import family_of
    from pytest_genmodel.pipelines.probing import ProbeWishes, make_probe
    from pytest_genmodel.pipelines.resolve import resolve

    with tempfile.TemporaryDirectory(prefix="genmodel-probe-") as folder:
        opened = resolve(checkpoint, Path(folder))
        family = family_of(opened)
        probe = make_probe(ProbeWishes(prompt=prompt, seed=seed, steps=steps), opened, family, full=False)
    generator = torch.Generator("cpu").manual_seed(picture)
    image = torch.randint(0, 256, probe.image.shape, generator=generator).float() / 255
    return probe.but(image=image, guidance=guidance)
