"""What names, shapes and dtypes show by themselves, before a value is read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from math import prod

from pytest_genmodel.checkpoints.names import is_adapter_name, unwrapped, wrapper_of
from pytest_genmodel.checkpoints.weights import WeightSet
from pytest_genmodel.diagnosis.at_rest.part import Part
from pytest_genmodel.diagnosis.finding import Finding, finding_of, name_evidence

_PREFIXES_OF = {
    "vae": ("vae.", "first_stage_model."),
    "text_encoder": ("text_encoder.", "text_encoders.", "conditioner.", "cond_stage_model."),
    "image_encoder": ("image_encoder.",),
    "transformer": ("transformer.", "unet.", "model.diffusion_model."),
}
"""Under which prefixes a file of several components keeps each."""
_KIN = {"unet": "transformer", "transformer_2": "transformer", "text_encoder_2": "text_encoder"}
_TIED = ("shared.weight", "encoder.embed_tokens.weight")
"""The two names of the token embedding in T5 and its kin."""
_STATE = re.compile(r"\.(SCB|weight\.(absmax|quant_map|nested_absmax|quant_state\.bitsandbytes__\w+))$")
"""What bitsandbytes stores beside integers of 8 bits (SCB: the largest value of each row), and of 4."""
_SCALE = re.compile(r"(^|[._])(scale_weight|weight_scale|scale_input|input_scale|scaled_fp8)$")


def empty_tensors(stored: WeightSet) -> list[str]:
    """The names of tensors that hold no value at all, though a model's tensors do."""
    return [name for name, tensor in stored.tensors.items() if prod(tensor.shape) == 0]


def placeholders(part: Part) -> Iterator[Finding]:
    """Tensors of shape [0]: ZeRO stage 3 saved without gathering."""
    if empty := empty_tensors(part.weights):
        part.told.update(empty)
        yield empty_finding(part.name, empty, len(part.weights.tensors))


def empty_finding(component: str, empty: list[str], total: int) -> Finding:
    """Say which of the `total` tensors of the file are empty."""
    return finding_of(
        "GM210",
        empty,
        "are empty",
        of=total,
        noun="stored tensors",
        after=f"; the file holds no value of {'it' if len(empty) == 1 else 'them'}",
        component=component,
        cause="the model was saved while its parameters were divided among processes (ZeRO stage 3, FSDP)",
    )


def wrapped_names(part: Part) -> Iterator[Finding]:
    """Names that a LoRA or a training wrapper has changed; what that does to the model is coverage's to say."""
    stored = part.weights.tensors
    if wrapped := [name for name in stored if is_adapter_name(name)]:
        part.told.update(name for name in wrapped if ".base_layer." not in name)
        bases = sum(".base_layer." in name for name in wrapped)
        yield Finding(
            "GM203",
            f"the file is adapter-wrapped: {bases} tensors are named *.base_layer.*, and {len(wrapped) - bases} LoRA "
            "factors lie among the model's own tensors",
            component=part.name or None,
            location=wrapped[0],
            cause="the model was saved while its LoRA was still attached",
            evidence={"base_layers": bases, **name_evidence(wrapped)},
        )
    elif prefixed := [name for name in stored if wrapper_of(name) is not None]:
        prefix, who = wrapper_of(prefixed[0]) or ("", "")
        yield Finding(
            "GM205",
            f"{len(prefixed)} of {len(stored)} stored names carry {prefix!r}, which {who} puts there",
            component=part.name or None,
            location=prefixed[0],
            cause=f"the wrapped model was saved, not the model inside it ({who})",
            evidence={"prefix": prefix, **name_evidence(prefixed)},
        )


def others_inside(component: str, names: Iterable[str]) -> dict[str, list[str]]:
    """The names that belong to another component than `component`, by that component.

    A set of weights that is not named ("") may be anything, and holds nothing foreign.
    """
    own = _KIN.get(component, component)
    found: dict[str, list[str]] = {}
    if own not in _PREFIXES_OF:
        return found
    for name in names:
        bare = unwrapped(name)
        for other, prefixes in _PREFIXES_OF.items():
            if other != own and bare.startswith(prefixes):
                found.setdefault(other, []).append(name)
    return found


def foreign_components(part: Part) -> Iterator[Finding]:
    """Tensors of a VAE or a text encoder in the file of a denoiser, and the like."""
    for other, names in others_inside(part.name, part.weights.tensors).items():
        part.told.update(names)
        yield foreign_finding(part.name, other, names, len(part.weights.tensors))


def foreign_finding(component: str, other: str, names: list[str], total: int) -> Finding:
    """Say that so many of the `total` tensors in the file of `component` are those of `other`."""
    return finding_of(
        "GM211",
        names,
        f"are those of a {other}, in the file of the {component}",
        of=total,
        noun="stored tensors",
        component=component,
        cause="the whole engine was saved in one file, where one component was asked for",
    )


def untranslated(part: Part) -> Iterator[Finding]:
    """Names that the translation from the trainer's names to the model's does not know."""
    if lost := list(part.weights.unexplained):
        yield finding_of(
            "GM208",
            lost,
            "have no counterpart in the model",
            noun="stored names",
            component=part.name or None,
            evidence={"translated": len(part.weights.tensors)},
        )


def lost_ties(part: Part) -> Iterator[Finding]:
    """A T5 encoder's file without its token embedding under either of its names."""
    cls = part.component.class_name if part.component else ""
    if re.search(r"T5EncoderModel$", cls):
        bare = {unwrapped(name) for name in part.weights.tensors}
        if not bare & set(_TIED):
            yield Finding(
                "GM201",
                f"the token embedding is stored under neither of its names ({' and '.join(_TIED)}): the text encoder "
                "makes a random one",
                component=part.name,
                location=_TIED[0],
                cause="a converter removed one name of the tied tensor, and a later one the other",
            )


def different_ties(part: Part) -> Iterator[Finding]:
    """Both names of a tied tensor stored, with different values."""
    stored = {unwrapped(name): name for name in part.weights.tensors}
    one, other = (stored.get(name) for name in _TIED)
    if one is None or other is None or part.weights.digest(one) == part.weights.digest(other):
        return
    part.told.update((one, other))
    empty = [name for name in (one, other) if part.statistics[name].zeros == part.statistics[name].numel]
    shapes = {name: list(part.weights.tensors[name].shape) for name in (one, other)}
    yield Finding(
        "GM209",
        f"{one} and {other} are two names of the token embedding, and the file gives them different values"
        + (f"; {empty[0]} is all zero: every prompt means the same" if empty else ""),
        component=part.name or None,
        location=empty[0] if empty else other,
        cause="the tie was broken while loading or saving, and one of the two was never filled"
        if empty
        else "the tie was broken while loading or saving, and one of the two was trained alone",
        evidence={"tensors": [one, other], "shapes": shapes, "all_zero": empty},
    )


def scaled_8bit(part: Part) -> Iterator[Finding]:
    """float8 weights with their scales beside them, which a plain loader does not apply; integers of bitsandbytes."""
    yield from _bitsandbytes(part)
    stored = part.weights.tensors
    eight = [name for name, tensor in stored.items() if tensor.dtype.startswith("F8")]
    scales = [name for name in stored if _SCALE.search(name)]
    if eight and scales:
        part.told.update(scales)
        yield finding_of(
            "GM212",
            eight,
            "are 8-bit floats divided by scales",
            of=len(stored),
            noun="stored tensors",
            after=f"; the scales are {scales[0]} and {len(scales) - 1} more" if len(scales) > 1 else "",
            component=part.name or None,
            evidence={"scales": scales[:4]},
        )


def _bitsandbytes(part: Part) -> Iterator[Finding]:
    """Integers of 8 or 4 bits that no configuration speaks of: who loads them takes each for a weight."""
    stored = part.weights.tensors
    state = [name for name in stored if _STATE.search(name)]
    spoken_of = part.component is not None and part.component.config.get("quantization_config")
    if not state or spoken_of:
        return
    layers = {_STATE.sub("", name) for name in state}
    names = [n for n in stored if n.removesuffix(".weight") in layers and stored[n].dtype in ("I8", "U8")]
    if names:
        part.told.update((*names, *state))
        yield finding_of(
            "GM212",
            names,
            "are integers of bitsandbytes, and the configuration does not say so",
            of=len(stored),
            noun="stored tensors",
            after=f"; {state[0]} belongs to them",
            component=part.name or None,
            cause="the configuration was written without its quantization_config, which tells a loader what they are",
            evidence={"state": state[:4]},
        )
