"""The sentence at the end: what is identical, and what is therefore left.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from pytest_genmodel.diagnosis.causes.case import Case
from pytest_genmodel.diagnosis.causes.group import Group
from pytest_genmodel.diagnosis.causes.stages import Nature

_SAID = (
    ("weights", "weights identical"),
    ("configuration", "configuration identical"),
    ("schedule", "schedule as configured"),
)
_LEFT = (
    ("weights", "the weights"),
    ("configuration", "the configuration"),
    ("schedule", "the schedule"),
)
_RUN = (("", "dtype"), ("", "device"), ("kernels", "kernels"), ("random state", "global random state"))
"""What a run consists of besides the model, and what rules each out."""


def conclusion_of(group: Group, case: Case) -> str:
    """What is proven, and where the difference then is, in one sentence.

    Nothing is said of what no verdict has proven.
    """
    proven = [text for subject, text in _SAID if case.proves(subject) and subject != group.stage.name]
    said = f"{', '.join(proven)}, so " if proven else ""
    what = "what stands out" if group.severity else f"the {'difference' if said else 'fault'}"
    if group.stage.nature is Nature.AT_REST:
        whose = f" of the {group.component}" if group.component else ""
        return f"{said}{what} is in {group.stage.noun}{whose}"
    if group.stage.nature is Nature.ALONE and group.stage.name != "sample":
        return f"{said}{what} is in {group.stage.noun}"
    left = [text for subject, text in _LEFT if not case.proves(subject)]
    run = [text for subject, text in _RUN if not subject or not case.proves(subject)]
    here = f"the library or the run ({', '.join(run)})"
    if not left:
        return f"{said}the difference is in {here}"
    return f"{said}what is left is {', '.join(left)}, or {here}"
