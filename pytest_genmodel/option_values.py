"""What the text of an option may be: each parser gives the value, or raises ValueError with what is accepted.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

_DEVICE = re.compile(r"^(auto|cpu|mps|cuda(:\d+)?)$")


def text(text: str) -> str:
    """Anything but blanks."""
    if not text.strip():
        raise ValueError("a value")
    return text


def existing(text: str) -> str:
    """A path to something that is there."""
    if not text.strip() or not Path(text).exists():
        raise ValueError("a file or folder that is there")
    return text


def one_of(*accepted: str) -> Callable[[str], str]:
    """Make a parser of a choice."""

    def parse(text: str) -> str:
        if text not in accepted:
            raise ValueError(f"one of {', '.join(accepted)}")
        return text

    return parse


def whole(minimum: int, maximum: int) -> Callable[[str], int]:
    """Make a parser of a whole number within bounds."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,20}", text) or not minimum <= int(text) <= maximum:
            raise ValueError(f"a whole number from {minimum} to {maximum}")
        return int(text)

    return parse


def share(text: str) -> float:
    """A number between 0 and 1."""
    if not re.fullmatch(r"[01]|[01]?\.\d{1,9}", text) or float(text) > 1:
        raise ValueError("a number from 0 to 1, as 0.9")
    return float(text)


def size(text: str) -> tuple[int, int]:
    """Width and height in pixels, `WIDTHxHEIGHT`."""
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match or not int(match[1]) or not int(match[2]):
        raise ValueError("WIDTHxHEIGHT in pixels, as 720x480")
    return int(match[1]), int(match[2])


def function_name(text: str) -> str:
    """A function as `package.module:function`."""
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", text):
        raise ValueError("package.module:function")
    return text


def train_command(text: str) -> str:
    """A training command with its placeholders."""
    from pytest_genmodel.errors import BadInputError
    from pytest_genmodel.training.command import TrainCommand

    try:
        return TrainCommand.parse(text).text
    except BadInputError as error:
        raise ValueError(f"a command ({error})") from None


def sample_command(text: str) -> str:
    """A sampling command with its placeholders."""
    from pytest_genmodel.errors import BadInputError
    from pytest_genmodel.training.sample_command import SampleCommand

    try:
        return SampleCommand.parse(text).text
    except BadInputError as error:
        raise ValueError(f"a command ({error})") from None


def resume_arguments(text: str) -> str:
    """The arguments of a resumed run."""
    from pytest_genmodel.errors import BadInputError
    from pytest_genmodel.training.resuming import ResumeArguments

    try:
        return ResumeArguments.parse(text).text
    except BadInputError as error:
        raise ValueError(f"arguments ({error})") from None


def zero_rate(text: str) -> float:
    """A learning rate that is zero in float32."""
    from pytest_genmodel.training.habits import counts_as_zero

    accepted = "a number that is zero in float32: 0, or 1e-46 for a trainer that refuses it"
    try:
        rate = float(text)
    except ValueError:
        raise ValueError(accepted) from None
    if not counts_as_zero(rate) or rate < 0:
        raise ValueError(accepted)
    return rate


def ladder(text: str) -> tuple[float, ...]:
    """Learning rates from 0 upwards, with commas between them."""
    from pytest_genmodel.errors import BadInputError
    from pytest_genmodel.training.rates import parse_rates

    try:
        return parse_rates(text)
    except BadInputError as error:
        raise ValueError(str(error)) from None


def train_result(text: str) -> str:
    """Which of a trainer's results is meant."""
    from pytest_genmodel.errors import BadInputError
    from pytest_genmodel.training.result import check_choice

    try:
        return check_choice(text)
    except BadInputError as error:
        raise ValueError(f"a result ({error})") from None


def device(text: str) -> str:
    """A device of torch, or auto."""
    if not _DEVICE.match(text):
        raise ValueError("auto, cpu, mps, cuda or cuda:N")
    return text
