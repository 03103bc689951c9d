"""What the last lines of a trainer's output complain of: why it failed, and what to do about it.

Trainers fail for few reasons that are no fault of the model: something is not installed, no GPU, no memory, no
room, no network. Whoever reads the report should not have to find that in a traceback.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pytest_genmodel.training.habits import SMALLEST_RATE, refused_zero


@dataclass(frozen=True)
class Complaint:
    """Why a trainer failed, and what to do."""

    cause: str
    action: str


@dataclass(frozen=True)
class _Known:
    pattern: re.Pattern[str]
    complaint: Callable[[re.Match[str]], Complaint]


def _known(pattern: str, cause: str, action: str) -> _Known:
    """`{0}` in the texts is the pattern's first group."""
    return _Known(
        re.compile(pattern),
        lambda match: Complaint(cause.format(*_said(match)), action.format(*_said(match))),
    )


def _said(match: re.Match[str]) -> list[str]:
    return [group for group in match.groups() if group is not None]


_INSTALL = (
    "Install it where the trainer runs (pip install {0}), or start the trainer with the Python of its own "
    "environment: the command's first word decides which that is."
)
_CPU = "Run the gate on a machine with a GPU, or let it run on the CPU (accelerate launch --cpu, in float32)."
_SMALLER = (
    "Give it a smaller model (a tiny one of the same class: --genmodel-ckpt=tiny:NAME), fewer "
    "frames or a smaller size, "
    "gradient checkpointing, or a larger machine."
)

_KNOWN = (
    _known(
        r"ModuleNotFoundError: No module named '([\w.]+)'",
        "{0} is not installed where the trainer runs",
        _INSTALL,
    ),
    _known(
        r"(?:ImportError|ModuleNotFoundError|RuntimeError|ValueError): "
        r".*?[`']?\b(accelerate|peft|[Dd]eep[Ss]peed|bitsandbytes|"
        r"datasets|transformers|diffusers|decord|xformers|wandb|tensorboard)\b[`']?.{0,60}?"
        r"(?:is not installed|not found in your environment|to be installed|is not "
        r"available|requires? .{0,20}install)",
        "{0} is not installed where the trainer runs",
        _INSTALL,
    ),
    _known(
        r"CUDA out of memory|OutOfMemoryError|MPS backend out of memory|HIP out of memory",
        "the GPU's memory is full",
        _SMALLER,
    ),
    _known(
        r"DefaultCPUAllocator: (?:can't|not enough) (?:allocate )?memory|\bMemoryError\b|Cannot allocate memory",
        "the machine's memory is full",
        _SMALLER,
    ),
    _known(
        r"Torch not compiled with CUDA enabled|No CUDA GPUs are available|Found no NVIDIA driver|"
        r"no CUDA-capable device is detected|CUDA driver version is insufficient|invalid device ordinal|"
        r"CUDA is not available|torch\.cuda\.is_available\(\) is False|No NVIDIA GPU found",
        "the trainer needs a GPU, and this machine has none that torch can use",
        _CPU,
    ),
    _known(
        r"(bf16|fp16|bfloat16|float16|fp8) mixed precision "
        r"requires|(?:[Bb]f16|BF16|bfloat16).{0,40}(?:not supported|isn't "
        r"supported)|doesn't support bf16|\"\w+\" not implemented for '(?:Half|BFloat16)'",
        "this device does not do the precision that the trainer asks for",
        "Ask for another: --mixed_precision no, or the trainer's own option, in the training command.",
    ),
    _known(
        r"No space left on device|Disk quota exceeded|\[Errno 28\]|\[Errno 122\]",
        "there is no room left on the disk",
        "The run needs a copy of the model and room for every checkpoint: set TMPDIR to a larger "
        "disk, or let the trainer "
        "save less often.",
    ),
    _known(
        r"Signal 9 \(SIGKILL\)|exitcode *: -9\b|<Signals\.SIGKILL: 9>",
        "one of its processes was killed, most likely by the system as memory ran out",
        _SMALLER,
    ),
    _known(
        r"[Aa]ddress already in use|EADDRINUSE|\[Errno 98\]",
        "the port that its processes talk over is taken by another run",
        "Give a free one in the training command (--main_process_port 0 for accelerate, "
        "--rdzv-endpoint localhost:0 for "
        "torchrun).",
    ),
    _known(
        r"outgoing traffic has been disabled|LocalEntryNotFoundError|OfflineModeIsEnabled|"
        r"HF_HUB_OFFLINE|offline mode is enabled|couldn't connect to 'https://huggingface\.co'|"
        r"Couldn't reach .{0,80}on the Hub \(|ConnectionError: .*huggingface\.co",
        "the trainer asks the hub for something, and the run is offline so that it is the same each time",
        "Give it {{reference}} where it names a model, {{dataset}} where it names a data set, and "
        "fetch what else it needs "
        "beforehand.",
    ),
    _known(
        r"((?:the following arguments are required|unrecognized arguments|invalid choice): .+)",
        "the trainer does not take these arguments: {0}",
        "Correct the training command; the trainer's --help says what it takes.",
    ),
    _known(
        r"can't open file '(?:.*/cwd/)?([^']+)': \[Errno 2\]|python[\d.]*: No module named ([\w.]+)",
        "{0} does not lie where pytest was started",
        "Start pytest where it lies, or name it by its full path: the command runs in a folder of its own. A module "
        "(python -m) is found through PYTHONPATH.",
    ),
)

_LAUNCHER = re.compile(
    r"subprocess\.CalledProcessError: Command|torch\.distributed\.elastic\..*ChildFailedError"
)
_ELASTIC = re.compile(r"[EWI]\d{4} .*torch/distributed/elastic/")
"""What torchrun logs beside it."""

_SIGNALS = {
    9: (
        "the process was killed, most likely by the system as memory ran out",
        _SMALLER,
    ),
    6: ("the process aborted itself", "Read the last lines it printed, and run the command by hand."),
    11: (
        "the process crashed inside a library (segmentation fault)",
        "Run the command by hand with PYTHONFAULTHANDLER=1, and look for a library built for "
        "another version of torch.",
    ),
}


def own_lines(lines: Sequence[str]) -> list[str]:
    """What the trainer itself printed: the traceback that its launcher adds when it has failed is left out.

    accelerate ends with a CalledProcessError, torchrun with a ChildFailedError; both hide the trainer's last words.
    """
    end = next((n for n, line in enumerate(lines) if _LAUNCHER.match(line)), None)
    if end is None:
        return list(lines)
    starts = [n for n, line in enumerate(lines[:end]) if line.startswith("Traceback (most recent call last)")]
    return [line for line in lines[: starts[-1] if starts else end] if not _ELASTIC.match(line)] or list(
        lines
    )


def complaint_of(
    lines: Sequence[str], status: int | None = None, *, rate: float | None = None
) -> Complaint | None:
    """Recognise why a trainer failed; None where the lines say nothing that is known.

    Args:
        lines: the last lines that it printed.
        status: its exit status; negative is the signal that ended it, 128 + n what a shell makes of that.
        rate: the learning rate that it was given.
    """
    if rate == 0 and (refusal := refused_zero(lines)) is not None:
        return Complaint(
            refusal,
            f"Run with --genmodel-zero-lr={SMALLEST_RATE:g}: that is what {{lr}} stands for then.",
        )
    for line in reversed(lines):  # what is said last is nearest to the end
        for known in _KNOWN:
            if match := known.pattern.search(line):
                return known.complaint(match)
    if status is not None:
        number = -status if status < 0 else status - 128
        if number in _SIGNALS:
            return Complaint(*_SIGNALS[number])
    return None
