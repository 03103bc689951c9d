"""The user's own inference as a command: a template with placeholders, run as a training command is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pytest_genmodel.errors import BadInputError
from pytest_genmodel.training.command import split_template

PLACEHOLDERS = {
    "candidate": "the folder of the model to sample from",
    "reference": "the folder of the reference, or of the model that a LoRA is for",
    "lora": "the LoRA's file or folder",
    "output": "the empty folder to write the video into",
    "image": "a picture (PNG) of the probe's size",
    "prompt": "the probe's prompt",
    "seed": "the seed",
    "steps": "the number of denoising steps",
    "frames": "the number of frames",
    "height": "the height in pixels",
    "width": "the width in pixels",
    "guidance": "the strength of guidance",
}
"""What a command may name in braces, and what stands there when it runs."""

_FIELD = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(frozen=True)
class SampleCommand:
    """A command line with placeholders, split into arguments."""

    text: str
    arguments: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> SampleCommand:
        """Split `text` as a POSIX shell would, without running one; `{name}` is a placeholder.

        Raises:
            BadInputError: quotes do not match, a placeholder is unknown, or one that is needed is not there.
        """
        command = cls(text, split_template(text, PLACEHOLDERS, "sampling command"))
        if not command.names("output"):
            raise BadInputError(
                f"the sampling command does not say where {{output}} goes ({PLACEHOLDERS['output']})"
            )
        if not command.names("candidate") and not (command.names("lora") and command.names("reference")):
            raise BadInputError(
                "the sampling command names neither {candidate} nor {reference} with {lora}: it would sample from "
                "another model than the one that is judged"
            )
        return command

    def names(self, placeholder: str) -> bool:
        """Whether the command names this placeholder."""
        return any(placeholder in _FIELD.findall(argument) for argument in self.arguments)

    def filled(self, values: Mapping[str, object]) -> list[str]:
        """The arguments with every placeholder replaced; a value with spaces stays one argument."""
        return [_FIELD.sub(lambda match: str(values[match[1]]), argument) for argument in self.arguments]
