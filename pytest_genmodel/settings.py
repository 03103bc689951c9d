"""What the user asked for: the only reader of pytest's config.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_genmodel.options import OPTIONS, REPORTS, WRITES, Option

if TYPE_CHECKING:
    from pytest_genmodel.diagnosis.allowance import Allowance


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
    _require_own_ini(config)
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


_INI = {
    "pytest.toml": "",
    ".pytest.toml": "",
    "pytest.ini": "",
    ".pytest.ini": "",
    "pyproject.toml": "[tool.pytest",
    "tox.ini": "[pytest]",
    "setup.cfg": "[tool:pytest]",
}
"""Files that pytest takes its settings from, and what must stand in them."""


def _require_own_ini(config: pytest.Config) -> None:
    """To pytest, a path that follows its option after a space is a place to look for the ini file.

    Raises:
        pytest.UsageError: the project's ini file was passed over for that; its policy would be lost without a word.
    """
    words = [*shlex.split(os.environ.get("PYTEST_ADDOPTS", "")), *map(str, config.invocation_params.args)]
    flags = {option.flag for option in OPTIONS if option.metavar in ("SPEC", "FILE", "FOLDER")}
    here = config.invocation_params.dir
    spaced = [pair for pair in pairwise(words) if pair[0] in flags and os.path.exists(here / pair[1])]
    if not spaced or config.option.inifilename:
        return
    own = next((file for folder in (here, *here.parents) if (file := _ini_in(folder)) is not None), None)
    if own is not None and (config.inipath is None or config.inipath.parent != own.parent):
        flag, value = spaced[0]
        raise pytest.UsageError(
            f"{flag} {value}: with a space, pytest looks for its ini file beside that path and passes over {own}; "
            f"write {flag}={value}"
        )


def _ini_in(folder: Path) -> Path | None:
    for name, section in _INI.items():
        file = folder / name
        if file.is_file() and section in file.read_text(encoding="utf-8", errors="replace"):
            return file
    return None


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


def without_candidate(config: pytest.Config, settings: Settings, exit_status: int) -> str | None:
    """What to say where the command line asks something of a run that has no candidate; None where all is well."""
    if settings.candidates:
        return None
    said = [option for option in OPTIONS if config.getoption(option.ini) is not None]
    reports = [option.flag for option in said if option.name in REPORTS]
    if reports:
        return f"{', '.join(reports)}: not written, for no candidate was given (--genmodel-ckpt=SPEC)"
    if said and settings.baseline is None and exit_status == pytest.ExitCode.NO_TESTS_COLLECTED:
        return "nothing was judged: no candidate was given (--genmodel-ckpt=SPEC)"
    return None


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
