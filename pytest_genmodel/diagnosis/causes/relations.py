"""What explains what: each relation is one entry, and adding one is adding one.

A relation says which findings may be the cause (`cause`, a regular expression for what `stages.spelled` gives), which
are then explained (`effect`), how the two must lie to each other (`by`), and why, in words.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pytest_genmodel.diagnosis.causes.case import Case
from pytest_genmodel.diagnosis.causes.flow import comes_before, is_decoder, makes, role_of, shows_in
from pytest_genmodel.diagnosis.causes.group import Group

Link = Callable[[Group, Group, Case], bool]


@dataclass(frozen=True)
class Relation:
    """One entry; `given` are further conditions."""

    cause: str
    effect: str
    by: Link
    why: str
    given: tuple[Link, ...] = ()


def anywhere(cause: Group, effect: Group, case: Case) -> bool:
    """Whatever the components are."""
    return True


def same_component(cause: Group, effect: Group, case: Case) -> bool:
    """In one component; a cause in the pipeline as a whole is in all of them, an adapter in the denoiser."""
    if effect.component == "adapter" and cause.component is not None:
        return role_of(cause.component) == "denoiser"
    if effect.component is None and cause.component is not None:
        return any(place.startswith(f"{cause.component}.") for place in effect.locations)
    return cause.component in (None, effect.component)


def other_component(cause: Group, effect: Group, case: Case) -> bool:
    """In two components."""
    return cause.component != effect.component


def same_place(cause: Group, effect: Group, case: Case) -> bool:
    """About one tensor, file or key, or nothing but those that the cause names."""
    return bool(cause.names & effect.names)


def may_be_renamed(cause: Group, effect: Group, case: Case) -> bool:
    """As many tensors are missing as are too many, or their names end alike, or lie in the same modules."""
    if cause.count is not None and cause.count == effect.count:
        return True
    if any(name.endswith(f".{missing}") for name in effect.names for missing in cause.names):
        return True
    return {_around(name) for name in effect.names} <= {_around(name) for name in cause.names} - {""}


def _around(name: str) -> str:
    """The module that the tensor's own module lies in: `blocks.0.attn` of `blocks.0.attn.to_q.weight`."""
    return ".".join(name.split(".")[:-2])


def weights_identical(cause: Group, effect: Group, case: Case) -> bool:
    """The component's stored weights are the reference's."""
    return cause.component in case.identical


def here_or_before(cause: Group, effect: Group, case: Case) -> bool:
    """In one component, or in one whose output reaches the other."""
    return same_component(cause, effect, case) or (
        effect.component is not None
        and comes_before(cause.component, effect.component)
        and not (role_of(str(cause.component)) == "vae" and is_decoder(cause.names))
    )


def carried(cause: Group, effect: Group, case: Case) -> bool:
    """The cause's component reaches the effect's; where that names none, the place in the sample decides."""
    if effect.component is None:
        return shows_there(cause, effect, case)
    return here_or_before(cause, effect, case)


def uses_it(cause: Group, effect: Group, case: Case) -> bool:
    """The effect's component is given what the cause's puts out, or goes by its configuration."""
    return (
        cause.component != effect.component
        and role_of(str(cause.component)) != "denoiser"
        and here_or_before(cause, effect, case)
        and cause.stage.name in ("configuration", "schedule", "tokenizer")
    )


def makes_it(cause: Group, effect: Group, case: Case) -> bool:
    """The cause's component has a part in the argument that the effect names."""
    return any(makes(cause.component, place, takes_image=case.takes_image) for place in effect.locations)


def on_its_way(cause: Group, effect: Group, case: Case) -> bool:
    """The condition that the effect names goes through the cause's component."""
    is_denoiser = cause.component is None or role_of(cause.component) == "denoiser"
    return is_denoiser or any(makes(cause.component, place, takes_image=True) for place in effect.locations)


def shows_there(cause: Group, effect: Group, case: Case) -> bool:
    """The sample's place that the effect names lies behind the cause's component."""
    if effect.component is not None:
        return same_component(cause, effect, case)
    return all(
        shows_in(cause.component, cause.names, place, takes_image=case.takes_image)
        for place in effect.locations or (None,)
    )


FILES = r"GM10[1-59]"
LOST = r"GM201|GM203|GM205|GM208|GM21[01]"
AT_REST = r"GM10[1-579]|GM20\d|GM21[0-2]|GM30[13-9]|GM31[2-9]|GM32\d|GM33[0-3]|GM8[01]\d|GM40\d|GM43\d|GM412"
NOT_FINITE = r"GM304|GM313|GM504"
UNSTEADY = r"GM50[1-3]"
LIBRARY = r"GM41[01]|GM9[347]\d"

RELATIONS = (
    # files
    Relation(
        FILES, r"GM2\d\d|GM3\d\d|GM40\d|GM107", same_component, "what the files do not give is not there"
    ),
    Relation(AT_REST, r"GM108", same_component, "what is damaged does not load"),
    Relation(r"GM107", r"GM403", same_component, "a tokenizer without its vocabulary splits texts otherwise"),
    # names and shapes
    Relation(r"GM203|GM205", r"GM20[12478]", same_component, "the wrapper has renamed the tensors"),
    Relation(
        r"GM206",
        r"GM20[12457]|GM40[14]|GM432",
        same_component,
        "another class has other tensors and settings",
    ),
    Relation(r"GM211", r"GM20[27]", same_component, "the other component's tensors lie in this file"),
    Relation(
        r"GM212", r"GM20[247]|GM3\d\d", same_component, "the scales are tensors, and the values are divided"
    ),
    Relation(r"GM210", r"GM20[147]|GM3\d\d", same_component, "an empty placeholder stands for the tensor"),
    Relation(
        r"GM401|GM430",
        r"GM20[1247]",
        same_component,
        "the weights are the reference's, and this configuration makes another model for them",
        (weights_identical,),
    ),
    Relation(r"GM430", r"GM20[1247]", same_component, "the configuration makes other shapes"),
    Relation(r"GM430", r"GM401", same_component, "it is the same key", (same_place,)),
    Relation(r"GM401", r"GM43[23]", same_component, "the class takes other fields than the file names"),
    Relation(r"GM20[1248]", r"GM207", same_component, "the file does not hold what the model needs"),
    Relation(
        r"GM201", r"GM202", same_component, "what is missing may lie under another name", (may_be_renamed,)
    ),
    Relation(LOST, r"GM30[379]|GM317", same_component, "what no file fills keeps its initial values"),
    Relation(r"GM204", r"GM30[1379]|GM317", same_component, "what does not fit is not loaded"),
    # values
    Relation(r"GM209", r"GM30\d", same_component, "which of the two values counts is open"),
    Relation(r"GM43[16]", r"GM3\d\d", same_component, "the experts' folders are exchanged"),
    Relation(r"GM431", r"GM431", other_component, "it is the other half of the exchange"),
    Relation(
        r"GM304", r"GM305", same_component, "one narrower dtype rounds some values and makes Inf of others"
    ),
    Relation(
        r"GM30[45789]|GM31[3-9]|GM32[0135-9]",
        r"GM30[15789]|GM31[3-9]|GM32[0-35-9]",
        same_component,
        "it is about the same tensors",
        (same_place,),
    ),
    Relation(r"GM30[1-9]|GM31\d", r"GM106", same_place, "it lies beside the weights"),
    Relation(r"GM810", r"GM106|GM30[16]", anywhere, "it is the LoRA that lies beside, merged"),
    Relation(r"GM327", r"GM321", same_component, "bits read otherwise lie on few levels"),
    Relation(
        r"GM80[346]", r"GM30[15]|GM31[67]", same_component, "merged at another strength it moves the weights"
    ),
    # configuration
    Relation(r"GM40[14]|GM43[02-9]", r"GM402|GM41[0-2]", same_component, "the schedule is made from it"),
    # one call of the denoiser, and the sample
    Relation(AT_REST, r"GM90[4-7]", same_component, "a component answers as its files are"),
    Relation(
        rf"{AT_REST}|GM90[4-6]|{LIBRARY}", r"GM90[1-389]", makes_it, "it makes what the denoiser is given"
    ),
    Relation(rf"{AT_REST}|GM90[4-7]", r"GM91[013-6]", on_its_way, "the condition goes through it"),
    Relation(r"GM91[456]", r"GM91[3-6]", anywhere, "the padding is read there"),
    Relation(r"GM910", r"GM910", other_component, "guidance tells apart what is no longer different"),
    Relation(
        rf"{AT_REST}|GM910",
        r"GM911|GM912|GM706",
        here_or_before,
        "what comes after it gets nothing to work on",
    ),
    Relation(r"GM505", r"GM912", anywhere, "a sample without content depends on nothing"),
    Relation(
        rf"{AT_REST}|{LIBRARY}|GM90\d|GM91[01]",
        r"GM50[45]|GM92\d|GM021|GM83[0-3]",
        shows_there,
        "the sample is made with it",
    ),
    Relation(r"GM50[45]", r"GM50[45]|GM92\d|GM021", anywhere, "it is the same sample"),
    Relation(r"GM92\d|GM021", r"GM92\d|GM021", anywhere, "it is seen in the same videos"),
    # where the samples part
    Relation(AT_REST, r"GM96\d", same_component, "put right, it takes its share of the difference away"),
    Relation(rf"{AT_REST}|{LIBRARY}", r"GM95[0134]", same_component, "the samples part in it"),
    Relation(AT_REST, r"GM95[0-3]", uses_it, "the samples part where it is used"),
    Relation(r"GM95[0-4]", r"GM90\d|GM92\d|GM96\d|GM021", anywhere, "the samples part there"),
    # checks against a definition
    Relation(AT_REST, r"GM93[014-9]|GM9[47]\d", carried, "it is computed with what is damaged"),
    Relation(r"GM93[23]", r"GM93[23]", other_component, "it is the same kernel in another place"),
    Relation(r"GM93[0-3]", r"GM41[01]|GM93[4-9]|GM9[47]\d|GM91\d", anywhere, "it is computed with this"),
    Relation(r"GM97[123]", r"GM503", anywhere, "the samples begin with this noise"),
    Relation(r"GM97[046]", r"GM91[01]", anywhere, "it is how the condition reaches the denoiser"),
    # what spreads
    Relation(
        NOT_FINITE,
        r"GM50[1-9]|GM60\d|GM61\d|GM70[258]|GM73\d|GM82\d|GM90\d|GM91\d|GM9[3-57]\d|trained GM9\d\d",
        carried,
        "NaN and Inf spread to whatever is computed with them",
    ),
    Relation(LIBRARY, r"GM50[16]|GM61\d", anywhere, "what a call leaves behind changes the next one"),
    Relation(
        LOST,
        r"GM50[1-36-9]|GM604|GM61\d|GM705|GM82\d",
        carried,
        "what no file fills is drawn anew in every load",
    ),
    Relation(
        UNSTEADY,
        r"GM50[1-36-9]|GM604|GM61\d|GM70[2-57]|GM716|GM7[234]\d|GM8[23]\d|GM021|GM909|GM92\d|GM9[56]\d"
        r"|trained GM9\d\d",
        anywhere,
        "what does not repeat itself differs from itself",
    ),
    # saving, loading, training, adapters
    Relation(LOST, r"GM73[0-7]", makes_it, "what no file fills is drawn anew in every load"),
    Relation(LOST, r"GM60[1-3]", same_component, "what no file held is not what is saved"),
    Relation(r"GM60[1-3]", r"GM70[34]|GM72\d|trained .*", same_component, "a trainer saves in the same way"),
    Relation(r"GM60[1-3]", r"GM604|GM705|GM74\d", anywhere, "what was not saved is missing in the sample"),
    Relation(AT_REST, r"GM70[3-79]|GM716|trained .*", same_component, "training begins with these files"),
    Relation(
        r"GM829", r"GM82\d|GM705|GM716", anywhere, "the base is another one once an adapter is attached"
    ),
    Relation(
        r"GM820", r"GM82[1-5]|GM705|GM716", anywhere, "an adapter that acts from the start is not neutral"
    ),
    Relation(
        r"GM801|GM80[346]", r"GM82[3-7]|GM83[01]", same_component, "the adapter acts at another strength"
    ),
    Relation(r"GM826", r"GM82[35]", same_component, "the merged layers act at another strength"),
    # training
    Relation(
        r"GM71[014]",
        r"GM70[3-79]|GM719|GM72\d|GM73\d|GM74\d|trained .*",
        anywhere,
        "the trainer left no such result",
    ),
    Relation(
        r"GM701", r"GM702|GM70[5-7]|GM713|GM74\d", anywhere, "the optimizer acts at the rate that it is given"
    ),
    Relation(r"GM708", r"GM70[2-7]|GM72\d|GM74\d", anywhere, "nothing can be said of a model of NaN"),
    Relation(r"GM709", r"GM706|GM744", anywhere, "nothing was trained"),
    Relation(
        r"GM702|GM713|GM716", r"GM703|GM707", same_component, "the weights moved before they were saved"
    ),
    Relation(
        r"GM70[2-4]|GM71[356]|trained .*",
        r"GM705|GM74[0-2]",
        anywhere,
        "the weights are others after training",
    ),
    Relation(r"GM740|GM741", r"GM74[1-3]", anywhere, "the ladder does not begin where it should"),
    Relation(r"GM717", r"GM72[0-3]", anywhere, "gradients that stay from step to step are in no saved state"),
    Relation(r"GM718", r"GM72[0-4]", anywhere, "one of several models is saved, and each goes on from it"),
    Relation(r"GM721|GM72[2-4]", r"GM720", anywhere, "a run that goes on from another state ends elsewhere"),
    Relation(r"GM721|GM724", r"GM722|GM723", anywhere, "the state of the run was not found"),
    Relation(r"GM725", r"GM72[67]", anywhere, "an average that is not updated is not where it should be"),
    Relation(r"GM747", r"GM74[56]", anywhere, "the item is another clip's"),
)
"""Two findings that could explain each other: the one nearer to the root does."""


@dataclass(frozen=True)
class Block:
    """Why a claim could not be judged: `reason` is looked for in what it says.

    None: what is looked for is the cause's component, or its file.
    """

    cause: str
    reason: str | None
    why: str


BLOCKS = (
    Block(AT_REST, None, "each needs what is damaged"),
    Block(rf"{UNSTEADY}|{LIBRARY}", r"control|repeat itself|seed differ", "a control run must repeat itself"),
    Block(NOT_FINITE, r"NaN|Inf\b|finite|no numbers", "nothing can be judged of a NaN"),
)
