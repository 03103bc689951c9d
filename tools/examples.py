"""Make docs/examples: the founding incident, judged, in every form in which a run is reported.

`python -m tools.examples` runs pytest as a user would, in a folder of its own, and writes what it left; about half a
minute. What is written names no machine: the checkpoint is given by a relative path, and the environment is bare.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tools.demo import HEALTHY, make_incident

OUT = Path(__file__).resolve().parent.parent / "docs/examples"
NAME = "incident-374"
CANDIDATE = f"outputs/{NAME}"
VIEWS = {
    "report": f"{NAME}.html",
    "json": f"{NAME}.json",
    "sarif": f"{NAME}.sarif",
    "code-quality": f"{NAME}-code-quality.json",
    "summary": f"{NAME}-summary.md",
}
TERMINAL = f"{NAME}.txt"
COMMAND = ("pytest", "-q", f"--genmodel-ckpt={CANDIDATE}", f"--genmodel-ref={HEALTHY}")
KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "OMP_NUM_THREADS", "VIRTUAL_ENV")
WIDTH = "100"


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "outputs").mkdir()
        make_incident(folder / CANDIDATE)
        shutil.rmtree(folder / "outputs" / "cogvideox-i2v-trained", ignore_errors=True)
        views = [f"--genmodel-{option}={file}" for option, file in VIEWS.items()]
        done = subprocess.run(
            [sys.executable, "-m", *COMMAND, "-p", "no:cacheprovider", *views],
            cwd=folder,
            env={name: os.environ[name] for name in KEPT if name in os.environ} | {"COLUMNS": WIDTH},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 1:
            print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
            return 1
        OUT.mkdir(parents=True, exist_ok=True)
        (OUT / TERMINAL).write_text(f"$ {' '.join(COMMAND)}\n{done.stdout}", encoding="utf-8")
        for file in VIEWS.values():
            text = (folder / file).read_text(encoding="utf-8")
            # A kernel's name says whose machine it was.
            (OUT / file).write_text(
                text.replace(platform.platform(terse=True), platform.system()), encoding="utf-8"
            )
    for file in (TERMINAL, *VIEWS.values()):
        print(f"{(OUT / file).relative_to(OUT.parent.parent)}: {(OUT / file).stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
