"""Every option and its ini twin, once.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pytest_genmodel import option_values as values
from pytest_genmodel.expectations import EXPECTATIONS

LEVELS = ("static", "quick", "full")
ANNOTATIONS = ("auto", "github", "none")
DTYPES = ("auto", "float32", "bfloat16", "float16")
MOST_SEED = 2**63 - 1
"""What torch takes as a seed."""
MOST_STEPS = 1000
"""The length of the training schedule of every family so far."""


@dataclass(frozen=True)
class Option:
    """One option: `--genmodel-NAME` on the command line, `genmodel_NAME` in the ini file.

    `parse` turns text into the value and raises ValueError with what is accepted. `adds`: what the ini file says, one
    a line, is added to what the command line says.
    """

    name: str
    field: str
    help: str
    parse: Callable[[str], Any]
    metavar: str = "VALUE"
    action: str = "store"
    adds: bool = False

    @property
    def flag(self) -> str:
        """The option's spelling on the command line."""
        return f"--genmodel-{self.name}"

    @property
    def ini(self) -> str:
        """The option's spelling in the ini file."""
        return f"genmodel_{self.name.replace('-', '_')}"


OPTIONS = (
    Option(
        "ckpt",
        "candidates",
        "the candidate: a checkpoint to judge (a diffusers folder, a component, a LoRA, a weights file, "
        "a trainer's output folder@checkpoint-200, tiny:NAME); repeatable",
        values.text,
        "SPEC",
        "append",
    ),
    Option("ref", "reference", "the reference: the checkpoint that is trusted", values.text, "SPEC"),
    Option(
        "expect",
        "expect",
        "how the candidate may differ: identical, finetuned, adapter",
        values.one_of(*EXPECTATIONS),
        "HOW",
    ),
    Option(
        "level",
        "level",
        "static: files only; quick: a few short samples (default); full: whole clips",
        values.one_of(*LEVELS),
        "LEVEL",
    ),
    Option("device", "device", "where pipelines run (default: auto)", values.device, "DEVICE"),
    Option(
        "dtype",
        "dtype",
        "precision of a run: auto is float32 on the CPU, the stored one elsewhere",
        values.one_of(*DTYPES),
        "DTYPE",
    ),
    Option("seed", "seed", "the probe's seed (default: 0)", values.whole(0, MOST_SEED), "N"),
    Option("steps", "steps", "the probe's denoising steps", values.whole(1, MOST_STEPS), "N"),
    Option("frames", "frames", "the probe's frames", values.whole(1, 100_000), "N"),
    Option("size", "size", "the probe's size in pixels", values.size, "WIDTHxHEIGHT"),
    Option("image", "image", "the probe's image file", values.text, "FILE"),
    Option("prompt", "prompt", "the probe's prompt", values.text, "TEXT"),
    Option(
        "trainer",
        "trainer",
        "train with this function (package.module:function) instead of the built-in trainers",
        values.function_name,
        "FUNCTION",
    ),
    Option(
        "train-cmd",
        "train_command",
        "train with this command; {reference}, {output}, {lr}, {steps}, {seed}, {dataset} and {prompt} are filled in",
        values.train_command,
        "COMMAND",
    ),
    Option(
        "resume-args",
        "resume_args",
        "what the training command gets when a run goes on from an earlier one; {resume} is the newest saved state",
        values.resume_arguments,
        "ARGUMENTS",
    ),
    Option(
        "train-timeout",
        "train_timeout",
        "seconds that a training command may take (default: 1800)",
        values.whole(1, 1_000_000),
        "SECONDS",
    ),
    Option(
        "zero-lr",
        "zero_rate",
        "the rate that stands for zero, for a trainer that refuses 0: 1e-46 is zero in float32 (default: 0)",
        values.zero_rate,
        "RATE",
    ),
    Option(
        "lr-ladder",
        "ladder",
        "train a step at each of these rates, from 0 upwards, and see the drift grow: 0,1e-9,1e-7,1e-5",
        values.ladder,
        "RATES",
    ),
    Option(
        "train-result",
        "train_result",
        "which of the sets of weights that a trainer leaves is its result: a path below {output}, as "
        "checkpoint-{steps}, or @latest, @ema (default: the final one)",
        values.train_result,
        "RESULT",
    ),
    Option(
        "calibrate",
        "calibrate",
        "keep how far the pipeline is from itself on this machine in this file, or read it there",
        values.text,
        "FILE",
    ),
    Option(
        "keep",
        "keep",
        "keep the work files of the run, and say where they are",
        values.text,
        "",
        "store_true",
    ),
    Option(
        "sampler",
        "sampler",
        "compare our samples with those of this function of yours (package.module:function)",
        values.function_name,
        "FUNCTION",
    ),
    Option(
        "sample-cmd",
        "sample_command",
        "compare our samples with those of this command; {candidate} or {lora}, {output}, {image}, {prompt}, {seed}, "
        "{steps}, {frames}, {height}, {width} and {guidance} are filled in",
        values.sample_command,
        "COMMAND",
    ),
    Option(
        "cache",
        "cache",
        "encode items of this precomputed data set (text embeddings, latents; a file or folder) again, and compare",
        values.existing,
        "FILE",
    ),
    Option(
        "baseline",
        "baseline",
        "a small file that stands in for the reference, and holds golden values of tests",
        values.text,
        "FILE",
    ),
    Option(
        "update-baseline",
        "update_baseline",
        "make that file, or renew it: of the reference (--genmodel-ref) and of the golden values that tests check; "
        "what changes is shown before it is written",
        values.text,
        "",
        "store_true",
    ),
    Option(
        "allow",
        "allow",
        "findings that are there on purpose: 'GM412: why', 'GM301@vae: why'; repeatable, and added to the ini file's",
        values.text,
        "CODE: REASON",
        "append",
        adds=True,
    ),
    Option(
        "trace",
        "trace",
        "find where the candidate's sample parts from the reference's, module by module, and which difference "
        "carries the damage",
        values.text,
        "",
        "store_true",
    ),
    Option(
        "save-run",
        "save_run",
        "keep the run in this folder, to judge it again or accept a baseline from it (genmodel judge, accept)",
        values.text,
        "FOLDER",
    ),
    Option("json", "json", "write the report there as JSON", values.text, "FILE"),
    Option(
        "report", "report", "write the report there as one HTML page, with the videos", values.text, "FILE"
    ),
    Option("sarif", "sarif", "write the findings there as SARIF, for code scanning", values.text, "FILE"),
    Option("code-quality", "code_quality", "write the findings there for GitLab", values.text, "FILE"),
    Option("summary", "summary", "write a summary there in Markdown", values.text, "FILE"),
    Option(
        "annotations",
        "annotations",
        "findings as GitHub's annotations and its job summary: github, none, auto (default: where GitHub runs it)",
        values.one_of(*ANNOTATIONS),
        "WHERE",
    ),
    Option(
        "strict",
        "strict",
        "warnings fail, and tests without a candidate are errors",
        values.text,
        "",
        "store_true",
    ),
    Option("no-suite", "suite", "do not add the built-in suite", values.text, "", "store_false"),
    Option(
        "audit",
        "audit",
        "inject real faults into copies of the model, and count which of them the gate would catch",
        values.text,
        "",
        "store_true",
    ),
    Option(
        "audit-time",
        "audit_time",
        "seconds after which the audit begins no further fault (default: 600)",
        values.whole(1, 1_000_000),
        "SECONDS",
    ),
    Option(
        "audit-min",
        "audit_min",
        "fail if the audited gate catches a smaller share of the faults, as 0.9",
        values.share,
        "SHARE",
    ),
)

REPORTS = ("json", "report", "sarif", "code-quality", "summary", "save-run")
"""Options that name where a report of the run is written."""
WRITES = (*REPORTS, "annotations", "calibrate", "keep", "update-baseline")
"""Options that say where it is told, and have no say in what a verdict is."""
