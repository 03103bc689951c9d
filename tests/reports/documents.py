"""A report and footage as a run leaves them, made by hand: every kind of outcome, and names nobody should trust."""

from __future__ import annotations

from typing import Any

import torch

from pytest_genmodel.pipelines.probe import Probe
from pytest_genmodel.pipelines.sampling import Sample
from pytest_genmodel.reports.html.footage import film
from pytest_genmodel.reports.report import plain

HOSTILE = "<script>window.stolen=1</script></style><img src=x onerror=window.stolen=1>\"'`{{7*7}}$\\frac{1}{0}$\u202e"
"""A tensor name that breaks out of elements, attributes, styles, templates and mathematical text."""


def finding(code: str = "GM203", severity: str = "error", **changes: Any) -> dict[str, Any]:
    return {
        "code": code,
        "title": f"what {code} is",
        "severity": severity,
        "component": "transformer",
        "location": "transformer_blocks.0.attn1.to_q.weight",
        "message": "32 tensors are random",
        "cause": "saved with its LoRA attached",
        "action": "Save the bare model.",
        "evidence": {"count": 32, "tensors": ["a", "b"]},
        **changes,
    }


def verdict(invariant: str, outcome: str = "passed", label: str = "run-17", **changes: Any) -> dict[str, Any]:
    return {
        "invariant": invariant,
        "id": f"genmodel::{changes.pop('section', 'checkpoint')}::{invariant}",
        "candidate": label,
        "outcome": outcome,
        "seconds": 1.25,
        "reason": None,
        "parameters": {},
        "measurements": {},
        "samples_computed": 0,
        "findings": [],
        **changes,
    }


def ladder() -> list[dict[str, Any]]:
    rates = (0.0, 1e-9, 1e-7, 1e-5)
    return [
        {"rate": rate, "step": rate, "weights": rate * 5, "latents": rate * 200, "frames": "inf"}
        for rate in rates
    ]


def document(*labels: str, name: str = "transformer_blocks.0.attn1.to_q.weight") -> dict[str, Any]:
    labels = labels or ("run-17",)
    verdicts = [
        one
        for label in labels
        for one in (
            verdict(
                "sound_video",
                "failed",
                label,
                section="sampling",
                findings=[finding("GM920", "error", component=None, location="frame 5")],
            ),
            verdict(
                "coverage", "failed", label, findings=[finding(location=name, message=f"{name} is random")]
            ),
            verdict(
                "same_weights",
                "failed",
                label,
                measurements={
                    "transformer": {"compared": 3},
                    "drift_by_layer": {"transformer": {name: 0.5, "transformer_blocks.1": 0.01}},
                },
                findings=[
                    finding(location=name, message=f"{name} is random"),
                    finding("GM213", "note", evidence={name: name}),
                    finding("GM301", "warning", component="vae", location="vae/config.json:scaling_factor"),
                ],
            ),
            verdict("same_config", label=label),
            verdict(
                "seeded_sampling", "inconclusive", label, section="sampling", reason=f"no memory for {name}"
            ),
            verdict("adapter_identity", "skipped", label, section="adapters", reason="peft is not installed"),
            verdict(
                "lr_ladder",
                label=label,
                section="training",
                measurements={"trainer": "full", "ladder": ladder()},
            ),
        )
    ]
    return {
        "schema": 1,
        "tool": {"name": "pytest-genmodel", "version": "0.1.0"},
        "environment": {"python": "3.12", "packages": {"torch": "2.13"}, "seed": 0, "device": "auto"},
        "candidate": None,
        "candidates": [
            {"label": label, "spec": f"out/{label}", "digest": "a" * 64, "device": "cpu", "dtype": "float32"}
            for label in labels
        ],
        "reference": {"spec": "the/base", "digest": None},
        "verdicts": verdicts,
        "summary": {},
        "audit": None,
        "command": {"line": "pytest --genmodel-ckpt=out/run-17", "options": "--genmodel-ckpt=out/run-17"},
        "exit_status": 1,
        "complete": True,
    }


def probe(prompt: str = "a red square", frames: int = 9) -> Probe:
    return Probe(torch.zeros(3, 16, 24), prompt, "", 7, 4, frames, 16, 24, 2.0)


def sample(frames: int = 9, height: int = 16, width: int = 24, seed: int = 0) -> Sample:
    """Each frame of one grey of its own, so that a frame can be told by its pixels; `seed` lightens all."""
    grey = torch.linspace(0, 0.75, frames).view(-1, 1, 1, 1) + 0.125 * seed
    random = torch.Generator().manual_seed(seed)
    return Sample(
        torch.randn(4, 1, 2, 4, 2, 2, generator=random), grey.expand(frames, 3, height, width).clone()
    )


def footage(prompt: str = "a red square") -> dict[str, Any]:
    filmed: dict[str, Any] = plain(film(sample(seed=1), sample(), probe(prompt), 1_000_000))
    return {"candidate": "run-17", **filmed}
