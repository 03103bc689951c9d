"""A sample in a process of its own, with another hash seed and another global random state.

Run as `python -m pytest_genmodel.transformations.fresh FOLDER`; `FOLDER` holds what `sample_afresh` put there.
"""

from __future__ import annotations

import os
import pickle
import random
import subprocess
import sys
from pathlib import Path

from pytest_genmodel.errors import GenmodelError
from pytest_genmodel.pipelines.pipeline import Pipeline
from pytest_genmodel.pipelines.probe import Probe
from pytest_genmodel.pipelines.sampling import Sample

TIMEOUT = 1800
_REQUEST, _RESULT = "request.pickle", "sample.safetensors"


class FreshProcessError(GenmodelError):
    """The process came to no sample; says what it printed last."""


def sample_afresh(
    pipeline: Pipeline, probe: Probe, other: Probe, folder: Path, *, hash_seed: int, threads: int
) -> Sample:
    """Sample `other` and then `probe` in a new process that loads the checkpoint by itself; give the latter.

    Args:
        pipeline: says which checkpoint, where it runs and in which dtype.
        probe, other: what is sampled.
        folder: an empty folder of this call.
        hash_seed: the process's PYTHONHASHSEED, from 1; seeds its global random state too.
        threads: torch's number of threads there.

    Raises:
        FreshProcessError: it ended without a sample.
    """
    request = (pipeline.checkpoint, pipeline.placement, other, probe, hash_seed, threads)
    (folder / _REQUEST).write_bytes(pickle.dumps(request))
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed)}
    command = [sys.executable, "-m", __name__, str(folder)]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FreshProcessError(f"the fresh process does not come to its end ({error})") from error
    if done.returncode or not (folder / _RESULT).exists():
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise FreshProcessError(
            f"the fresh process ends with status {done.returncode}" + (f": {said[-1]}" if said else "")
        )
    from safetensors.torch import load_file

    tensors = load_file(folder / _RESULT)
    return Sample(tensors["latents"], tensors["frames"])


def main(folder: Path) -> None:
    """Do what the request in `folder` asks; the folder is this program's own, so that it may be unpickled."""
    checkpoint, placement, other, probe, seed, threads = pickle.loads((folder / _REQUEST).read_bytes())
    import numpy as np
    import torch
    from safetensors.torch import save_file

    torch.set_num_threads(threads)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    pipeline = Pipeline(checkpoint, placement)
    pipeline.sample(other)
    sample = pipeline.sample(probe)
    tensors = {"latents": sample.latents.contiguous(), "frames": sample.frames.contiguous()}
    save_file(tensors, str(folder / _RESULT))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
