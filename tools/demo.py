"""`make demo`: the main job on the embedded model. A healthy checkpoint is green, the founding incident red.

Writes under --out: the incident's checkpoint, both JSON reports, and a contact sheet of both videos. Exit status 0
says that both verdicts were what they must be.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HEALTHY = "tiny:cogvideox-i2v-trained"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo-out"))
    out: Path = parser.parse_args().out
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)

    print("1. A healthy model: everything must hold.\n", flush=True)
    healthy = judge(out, "healthy.json", f"--genmodel-ckpt={HEALTHY}")

    print(
        "\n2. The same model as zai-org/CogVideo issue 374 most likely saved it: trained at learning rate zero,"
    )
    print("   no value changed, saved while its LoRA was attached. It must be caught.\n", flush=True)
    damaged = make_incident(out / "incident-374")
    incident = judge(
        out, "incident.json", f"--genmodel-ckpt={damaged}", f"--genmodel-ref={HEALTHY}", "--tb=no", "-q"
    )

    print("\n3. What both look like.\n", flush=True)
    sheet = draw(damaged, out / "contact_sheet.png")
    print(f"   contact sheet: {sheet}\n   reports:       {out / 'healthy.json'}, {out / 'incident.json'}")

    codes = {finding["code"] for verdict in incident["verdicts"] for finding in verdict["findings"]}
    right = healthy["summary"]["failed"] == healthy["summary"]["inconclusive"] == 0 and "GM203" in codes
    print(
        f"\n{'As it must be: the healthy model passed, the incident was caught.' if right else 'NOT AS IT MUST BE.'}"
    )
    return 0 if right else 1


def judge(out: Path, report: str, *arguments: str) -> dict:
    """Run pytest as a user would, in an empty folder, and give the JSON report."""
    path = (out / report).resolve()
    command = ["-m", "pytest", "-p", "no:cacheprovider", *arguments, f"--genmodel-json={path}"]
    print(f"$ pytest {' '.join(arguments)}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, *command], cwd=folder, check=False)
    return json.loads(path.read_text(encoding="utf-8"))


def make_incident(target: Path) -> Path:
    from pytest_genmodel.faults.adapter_wrapped import adapter_wrapped
    from pytest_genmodel.pipelines import tiny

    return adapter_wrapped(tiny.materialise(HEALTHY, target.parent), target.resolve())


def draw(damaged: Path, sheet: Path) -> Path:
    """Sample the healthy model, and the incident as its inference code loaded it, with one seed."""
    from pytest_genmodel.checkpoints.opening import open_checkpoint
    from pytest_genmodel.checkpoints.progress import silent
    from pytest_genmodel.faults.adapter_wrapped import load_as_the_incident_did
    from pytest_genmodel.pipelines import tiny
    from pytest_genmodel.pipelines.families import family_of
    from pytest_genmodel.pipelines.probing import ProbeWishes, make_probe
    from pytest_genmodel.pipelines.sampling import run_pipeline
    from pytest_genmodel.reports.contact_sheet import write_contact_sheet

    rows = []
    for title, folder in (("healthy", tiny.materialise(HEALTHY, sheet.parent)), ("incident 374", damaged)):
        checkpoint = open_checkpoint(folder, title)
        family = family_of(checkpoint)
        probe = make_probe(ProbeWishes(), checkpoint, family, full=True)
        pipeline = load_as_the_incident_did(folder)
        sample = run_pipeline(pipeline, family, checkpoint, probe, "cpu", silent)
        rows.append((f"{title}: {probe.prompt!r}, seed {probe.seed}", sample.frames))
    write_contact_sheet([("the probe's image", probe.image.unsqueeze(0)), *rows], sheet)
    return sheet


if __name__ == "__main__":
    sys.exit(main())
