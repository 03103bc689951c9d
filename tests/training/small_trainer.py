"""A trainer of a few lines, written as a script, for what can go wrong around it; edited by tests."""

from __future__ import annotations

import sys
from pathlib import Path

SCRIPT = """
import shutil, sys, torch
from pathlib import Path
from safetensors.torch import load_file, save_file

reference, output, rate = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
FILE = "transformer/diffusion_pytorch_model.safetensors"
# begin
tensors = load_file(reference / FILE)
parameters = {n: torch.nn.Parameter(t) for n, t in tensors.items() if t.dtype == torch.float32}
optimizer = torch.optim.AdamW(parameters.values(), lr=rate, weight_decay=0.0)
for step in range(2):
    for parameter in parameters.values():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()

def save(folder):
    shutil.copytree(reference, folder, dirs_exist_ok=True)
    (folder / FILE).unlink()
    save_file({**tensors, **{n: p.data for n, p in parameters.items()}}, folder / FILE)

save(output)
# end
"""
SAVE = "\nsave(output)\n"
STATE = (
    "\n(output / 'checkpoint-2').mkdir()\n"
    "torch.save(optimizer.state_dict(), output / 'checkpoint-2' / 'optimizer.bin')\n"
)


def write(folder: Path, *edits: tuple[str, str], watched: bool = True, script: str = SCRIPT) -> str:
    """Write the script, edited, into `folder`, and give the command that runs it.

    One that is not watched runs as in another environment: Python takes no notice of what pytest-genmodel sets.
    """
    for old, new in edits:
        assert script.count(old) == 1, old
        script = script.replace(old, new)
    file = folder / "train.py"
    file.write_text(script)
    isolated = "" if watched else " -I"
    return f"'{sys.executable}'{isolated} '{file}' {{reference}} {{output}} {{lr}}"
