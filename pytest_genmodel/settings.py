"""Every option and its ini twin, once; the only reader of pytest's config.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_genmodel.expectations import EXPECTATIONS

if TYPE_CHECKING:
    from pytest_genmodel.diagnosis.allowance import Allowance

LEVELS = ("static", "quick", "full")
ANNOTATIONS = ("auto", "github", "none")
DTYPES = ("auto", "float32", "bfloat16", "float16")
MOST_SEED = 2**63 - 1
"""What torch takes as a seed."""
MOST_STEPS = 1000
"""The length of the training schedule of every family so far."""
_DEVICE = re.compile(r"^(auto|cpu|mps|cuda(:\d+)?)$")


@dataclass(frozen=True)
class Settings:
    """What the user asked for; None means "not said".

    `size` is (width, height) in pixels.
    """

    candidates: tuple[str, ...] = ()
    reference: str | None = None
    expect: str | None = None
    level: str = "quick"
    device: str = "auto"
    dtype: str = "auto"
    seed: int = 0
    steps: int | None = None
    frames: int | None = None
    size: tuple[int, int] | None = None
    image: str | None = None
    prompt: str | None = None
    save_run: str | None = None
    json: str | None = None
    report: str | None = None
    sarif: str | None = None
    code_quality: str | None = None
    summary: str | None = None
    annotations: str = "auto"
    strict: bool = False
    suite: bool = True
    trainer: str | None = None
    train_command: str | None = None
    train_timeout: int = 1800
    resume_args: str | None = None
    zero_rate: float = 0.0
    ladder: tuple[float, ...] | None = None
    train_result: str | None = None
    keep: bool = False
    calibrate: str | None = None
    sampler: str | None = None
    sample_command: str | None = None
    cache: str | None = None
    baseline: str | None = None
    update_baseline: bool = False
    allow: tuple[Allowance, ...] = ()
    trace: bool = False
    audit: bool = False
    audit_time: int = 600
    audit_min: float | None = None


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


def _text(text: str) -> str:
    if not text.strip():
        raise ValueError("a value")
    return text


def _existing(text: str) -> str:
    if not text.strip() or not Path(text).exists():
        raise ValueError("a file or folder that is there")
    return text


def _one_of(*accepted: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in accepted:
            raise ValueError(f"one of {', '.join(accepted)}")
        return text

    return parse


def _whole(minimum: int, maximum: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,20}", text) or not minimum <= int(text) <= maximum:
            raise ValueError(f"a whole number from {minimum} to {maximum}")
        return int(text)

    return parse


def _share(text: str) -> float:
    if not re.fullmatch(r"[01]|[01]?\.\d{1,9}", text) or float(text) > 1:
        raise ValueError("a number from 0 to 1, as 0.9")
    return float(text)


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match or not int(match[1]) or not int(match[2]):
        raise ValueError("WIDTHxHEIGHT in pixels, as 720x480")
    return int(match[1]), int(match[2])


def _function(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", text):
        raise ValueError("package.module:function")
    return text


def _command(text: str) -> str:
    from pytest_genmodel.errors import BadInputError
    from pytest_genmodel.training.command import TrainCommand

    try:
        return TrainCommand.parse(text).text
    except BadInputError as error:
        raise ValueError(f"a command ({error})") from None


def _sample_command(text: str) -> str:
    from pytest_genmodel.errors import BadInputError
    from pytest_genmodel.training.sample_command import SampleCommand

    try:
        return SampleCommand.parse(text).text
    except BadInputError as error:
        raise ValueError(f"a command ({error})") from None


def _resume_arguments(text: str) -> str:
    from pytest_genmodel.errors import BadInputError
    from pytest_genmodel.training.resuming import ResumeArguments

    try:
        return ResumeArguments.parse(text).text
    except BadInputError as error:
        raise ValueError(f"arguments ({error})") from None


def _zero_rate(text: str) -> float:
    from pytest_genmodel.training.habits import counts_as_zero

    accepted = "a number that is zero in float32: 0, or 1e-46 for a trainer that refuses it"
    try:
        rate = float(text)
    except ValueError:
        raise ValueError(accepted) from None
    if not counts_as_zero(rate) or rate < 0:
        raise ValueError(accepted)
    return rate


def _ladder(text: str) -> tuple[float, ...]:
    from pytest_genmodel.errors import BadInputError
    from pytest_genmodel.training.rates import parse_rates

    try:
        return parse_rates(text)
    except BadInputError as error:
        raise ValueError(str(error)) from None


def _train_result(text: str) -> str:
    from pytest_genmodel.errors import BadInputError
    from pytest_genmodel.training.result import check_choice

    try:
        return check_choice(text)
    except BadInputError as error:
        raise ValueError(f"a result ({error})") from None


def _device(text: str) -> str:
    if not _DEVICE.match(text):
        raise ValueError("auto, cpu, mps, cuda or cuda:N")
    return text


OPTIONS = (
    Option(
        "ckpt",
        "candidates",
        "the candidate: a checkpoint to judge (a diffusers folder, a component, a LoRA, a weights file, "
        "a trainer's output folder@checkpoint-200, tiny:NAME); repeatable",
        _text,
        "SPEC",
        "append",
    ),
    Option("ref", "reference", "the reference: the checkpoint that is trusted", _text, "SPEC"),
    Option(
        "expect",
        "expect",
        "how the candidate may differ: identical, finetuned, adapter",
        _one_of(*EXPECTATIONS),
        "HOW",
    ),
    Option(
        "level",
        "level",
        "static: files only; quick: a few short samples (default); full: whole clips",
        _one_of(*LEVELS),
        "LEVEL",
    ),
    Option("device", "device", "where pipelines run (default: auto)", _device, "DEVICE"),
    Option(
        "dtype",
        "dtype",
        "precision of a run: auto is float32 on the CPU, the stored one elsewhere",
        _one_of(*DTYPES),
        "DTYPE",
    ),
    Option("seed", "seed", "the probe's seed (default: 0)", _whole(0, MOST_SEED), "N"),
    Option("steps", "steps", "the probe's denoising steps", _whole(1, MOST_STEPS), "N"),
    Option("frames", "frames", "the probe's frames", _whole(1, 100_000), "N"),
    Option("size", "size", "the probe's size in pixels", _size, "WIDTHxHEIGHT"),
    Option("image", "image", "the probe's image file", _text, "FILE"),
    Option("prompt", "prompt", "the probe's prompt", _text, "TEXT"),
    Option(
        "trainer",
        "trainer",
        "train with this function (package.module:function) instead of the built-in trainers",
        _function,
        "FUNCTION",
    ),
    Option(
        "train-cmd",
        "train_command",
        "train with this command; {reference}, {output}, {lr}, {steps}, {seed}, {dataset} and {prompt} are filled in",
        _command,
        "COMMAND",
    ),
    Option(
        "resume-args",
        "resume_args",
        "what the training command gets when a run goes on from an earlier one; {resume} is the newest saved state",
        _resume_arguments,
        "ARGUMENTS",
    ),
    Option(
        "train-timeout",
        "train_timeout",
        "seconds that a training command may take (default: 1800)",
        _whole(1, 1_000_000),
        "SECONDS",
    ),
    Option(
        "zero-lr",
        "zero_rate",
        "the rate that stands for zero, for a trainer that refuses 0: 1e-46 is zero in float32 (default: 0)",
        _zero_rate,
        "RATE",
    ),
    Option(
        "lr-ladder",
        "ladder",
        "train a step at each of these rates, from 0 upwards, and see the drift grow: 0,1e-9,1e-7,1e-5",
        _ladder,
        "RATES",
    ),
    Option(
        "train-result",
        "train_result",
        "which of the sets of weights that a trainer leaves is its result: a path below {output}, as "
        "checkpoint-{steps}, or @latest, @ema (default: the final one)",
        _train_result,
        "RESULT",
    ),
    Option(
        "calibrate",
        "calibrate",
        "keep how far the pipeline is from itself on this machine in this file, or read it there",
        _text,
        "FILE",
    ),
    Option("keep", "keep", "keep the work files of the run, and say where they are", _text, "", "store_true"),
    Option(
        "sampler",
        "sampler",
        "compare our samples with those of this function of yours (package.module:function)",
        _function,
        "FUNCTION",
    ),
    Option(
        "sample-cmd",
        "sample_command",
        "compare our samples with those of this command; {candidate} or {lora}, {output}, {image}, {prompt}, {seed}, "
        "{steps}, {frames}, {height}, {width} and {guidance} are filled in",
        _sample_command,
        "COMMAND",
    ),
    Option(
        "cache",
        "cache",
        "encode items of this precomputed data set (text embeddings, latents; a file or folder) again, and compare",
        _existing,
        "FILE",
    ),
    Option(
        "baseline",
        "baseline",
        "a small file that stands in for the reference, and holds golden values of tests",
        _text,
        "FILE",
    ),
    Option(
        "update-baseline",
        "update_baseline",
        "make that file, or renew it: of the reference (--genmodel-ref) and of the golden values that tests check; "
        "what changes is shown before it is written",
        _text,
        "",
        "store_true",
    ),
    Option(
        "allow",
        "allow",
        "findings that are there on purpose: 'GM412: why', 'GM301@vae: why'; repeatable, and added to the ini file's",
        _text,
        "CODE: REASON",
        "append",
        adds=True,
    ),
    Option(
        "trace",
        "trace",
        "find where the candidate's sample parts from the reference's, module by module, and which difference "
        "carries the damage",
        _text,
        "",
        "store_true",
    ),
    Option(
        "save-run",
        "save_run",
        "keep the run in this folder: it can be judged again, or a baseline accepted from it (genmodel judge, accept)",
        _text,
        "FOLDER",
    ),
    Option("json", "json", "write the report there as JSON", _text, "FILE"),
    Option("report", "report", "write the report there as one HTML page, with the videos", _text, "FILE"),
    Option("sarif", "sarif", "write the findings there as SARIF, for code scanning", _text, "FILE"),
    Option("code-quality", "code_quality", "write the findings there for GitLab", _text, "FILE"),
    Option("summary", "summary", "write a summary there in Markdown", _text, "FILE"),
    Option(
        "annotations",
        "annotations",
        "findings as GitHub's annotations and its job summary: github, none, auto (default: where GitHub runs it)",
        _one_of(*ANNOTATIONS),
        "WHERE",
    ),
    Option(
        "strict", "strict", "warnings fail, and tests without a candidate are errors", _text, "", "store_true"
    ),
    Option("no-suite", "suite", "do not add the built-in suite", _text, "", "store_false"),
    Option(
        "audit",
        "audit",
        "inject real faults into copies of the model, and count which of them the gate would catch",
        _text,
        "",
        "store_true",
    ),
    Option(
        "audit-time",
        "audit_time",
        "seconds after which the audit begins no further fault (default: 600)",
        _whole(1, 1_000_000),
        "SECONDS",
    ),
    Option(
        "audit-min",
        "audit_min",
        "fail if the audited gate catches a smaller share of the faults, as 0.9",
        _share,
        "SHARE",
    ),
)


EXPLAIN = "genmodel_explain"
"""The option that shows a page and ends; it has no say in a run, and so no ini twin."""


def add_options(parser: pytest.Parser) -> None:
    """Declare every option and its ini twin."""
    group = parser.getgroup("genmodel", "generative-model invariants (pytest-genmodel)")
    group.addoption(
        "--genmodel-explain",
        dest=EXPLAIN,
        metavar="CODE",
        help="say what a rule means, why it matters and how to fix or allow it, as GM203, and run nothing",
    )
    for option in OPTIONS:
        is_flag = option.action in ("store_true", "store_false")
        extra = {} if is_flag else {"metavar": option.metavar}
        action = "store_true" if is_flag else option.action
        group.addoption(option.flag, dest=option.ini, action=action, default=None, help=option.help, **extra)
        several = "linelist" if option.adds else "args"
        ini_type: Any = "bool" if is_flag else several if option.action == "append" else "string"
        parser.addini(option.ini, f"see {option.flag}", type=ini_type, default=None)


def read(config: pytest.Config) -> Settings:
    """Read every option, the command line before the ini file.

    Raises:
        pytest.UsageError: a value is wrong; one line that names the option and what is accepted.
    """
    values: dict[str, Any] = {}
    for option in OPTIONS:
        if option.adds:
            values |= _allowances(config, option)
            continue
        given, source = config.getoption(option.ini), option.flag
        from_ini = given is None
        if from_ini:
            given, source = config.getini(option.ini), option.ini
        if given is None or (from_ini and given in ("", [])):
            continue
        if option.action == "append":
            texts = [_beside_ini(config, option, text) for text in given] if from_ini else given
            values[option.field] = tuple(_parse(option, source, text) for text in texts)
        elif option.action == "store":
            text = _beside_ini(config, option, str(given)) if from_ini else str(given)
            values[option.field] = _parse(option, source, text)
        else:
            values[option.field] = bool(given) == (option.action == "store_true")
    if "trainer" in values and "train_command" in values:
        raise pytest.UsageError(
            "--genmodel-trainer and --genmodel-train-cmd both name the trainer: give one of them"
        )
    if "sampler" in values and "sample_command" in values:
        raise pytest.UsageError(
            "--genmodel-sampler and --genmodel-sample-cmd both name the inference: give one of them"
        )
    if "resume_args" in values and "train_command" not in values:
        raise pytest.UsageError("--genmodel-resume-args belong to a command: give it as --genmodel-train-cmd")
    if values.get("update_baseline") and "baseline" not in values:
        raise pytest.UsageError("--genmodel-update-baseline writes a file: name it as --genmodel-baseline")
    return _audited(Settings(**values)) if values.get("audit") else Settings(**values)


def _allowances(config: pytest.Config, option: Option) -> dict[str, tuple[Allowance, ...]]:
    """What is allowed, by the command line and by the ini file; nothing is imported where there is none."""
    texts = [("option", option.flag, text) for text in config.getoption(option.ini) or ()]
    texts += [("ini", option.ini, text) for text in config.getini(option.ini) or ()]
    if not texts:
        return {}
    from pytest_genmodel.diagnosis.allowance import parse
    from pytest_genmodel.errors import BadInputError

    found = []
    for by, source, text in texts:
        try:
            found.append(parse(text, by))
        except BadInputError as error:
            raise pytest.UsageError(f"{source}={error}") from None
    return {option.field: tuple(found)}


WRITES = (
    *("json", "report", "sarif", "code-quality", "summary", "annotations"),
    *("calibrate", "keep", "update-baseline", "save-run"),
)
"""Options that say where it is told, and have no say in what a verdict is."""


def again(config: pytest.Config, settings: Settings) -> tuple[str, ...]:
    """The options under which pytest, in the same folder, judges an item again as this run does.

    They hold the seed in any case, and what the command line said, for the ini file may say something else.
    """
    said = [option.field for option in OPTIONS if config.getoption(option.ini) is not None]
    own = [f"-c={config.option.inifilename}"] if config.option.inifilename else []
    own += [f"--rootdir={config.rootpath}"] if config.option.rootdir else []
    own += [f"-o={entry}" for entry in config.option.override_ini or ()]
    own += [f"-p={name}" for name in config.option.plugins or () if not name.startswith("no:")]
    given = tuple(entry for entry in settings.allow if entry.by != "ini")
    judged = replace(settings, allow=given, audit=False, audit_time=Settings.audit_time, audit_min=None)
    return (*own, *spelled(judged, always=("seed", *(name for name in said if not name.startswith("audit")))))


def spelled(settings: Settings, always: Sequence[str] = ()) -> tuple[str, ...]:
    """The options that give these settings, wherever they came from, but for those in WRITES.

    What is as it would be without an option is left out, but for the fields in `always`.
    """
    nothing = Settings()
    options: list[str] = []
    for option in OPTIONS:
        value = getattr(settings, option.field)
        asked = option.field in always and option.action == "store" and value is not None
        if (value == getattr(nothing, option.field) and not asked) or option.name in WRITES:
            continue
        if option.action == "append":
            options += [f"{option.flag}={each}" for each in value]
        elif option.action == "store":
            joint = "x" if option.field == "size" else ","
            text = joint.join(f"{each:g}" for each in value) if isinstance(value, tuple) else str(value)
            options.append(f"{option.flag}={text}")
        else:
            options.append(option.flag)
    return tuple(options)


def _audited(settings: Settings) -> Settings:
    """The audit takes the reference for the candidate where none is given: its copies are what is damaged.

    Raises:
        pytest.UsageError: there is nothing to copy, or more than one.
    """
    if not settings.candidates and settings.reference is None:
        raise pytest.UsageError("--genmodel-audit damages copies of a model: give it as --genmodel-ref")
    if len(settings.candidates) > 1:
        raise pytest.UsageError(
            "--genmodel-audit takes one candidate, and several were given (--genmodel-ckpt)"
        )
    return replace(settings, candidates=settings.candidates or (str(settings.reference),))


def _beside_ini(config: pytest.Config, option: Option, text: str) -> str:
    """A path in the ini file is relative to it, wherever pytest was started; a SPEC may also be no path."""
    folder = config.inipath.parent if config.inipath else config.rootpath
    if option.metavar == "SPEC":
        from pytest_genmodel.pipelines.resolve import is_path

        return str(folder / text) if is_path(str(folder / text)) else text
    return str(folder / text) if option.metavar in ("FILE", "FOLDER") else text


def _parse(option: Option, source: str, text: str) -> Any:
    try:
        return option.parse(text)
    except ValueError as error:
        raise pytest.UsageError(f"{source}={text}: expected {error}") from None
