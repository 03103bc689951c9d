"""Names of LoRA factors: PEFT's and diffusers' (`to_q.lora_A.weight`), kohya's and ComfyUI's (`lora_unet_...`)."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

PEFT_PREFIX = "base_model.model."
_DOTTED = ("model.diffusion_model.", "diffusion_model.")
"""What ComfyUI's trainers put before the denoiser's own names."""
_UNDERSCORED = ("lora_unet_", "lora_transformer_", "lycoris_")
"""What kohya's, OneTrainer's and LyCORIS' trainers put before the denoiser's names, whose dots become underscores."""
_DENOISERS = ("transformer.", "unet.")

_ROLES = {
    "lora_A": "lora_A",
    "lora_B": "lora_B",
    "lora_down": "lora_A",
    "lora_up": "lora_B",
    "lora.down": "lora_A",
    "lora.up": "lora_B",
    "lora_embedding_A": "lora_embedding_A",
    "lora_embedding_B": "lora_embedding_B",
    "lora_magnitude_vector": "lora_magnitude_vector",
}
_FACTOR = re.compile(
    rf"^(?P<module>.+)\.(?P<role>{'|'.join(map(re.escape, _ROLES))})"
    r"(?:\.(?!weight$|bias$)[^.]+)?(?P<leaf>\.weight|\.bias)?\Z"
)
_OTHER_KINDS = {
    "hada_w1_": "LoHa",
    "hada_w2_": "LoHa",
    "hada_t1": "LoHa",
    "hada_t2": "LoHa",
    "lokr_w": "LoKr",
    "lokr_t": "LoKr",
    "oft_": "OFT",
    "lora_mid": "LoCon with a middle factor",
    "dora_scale": "DoRA as LyCORIS keeps it",
    "diff": "whole differences of weights",
    "diff_b": "whole differences of biases",
}
_OTHER_KIND = re.compile(
    r"\.(?P<kind>hada_w[12]_|hada_t[12]|lokr_w|lokr_t|oft_|lora_mid|dora_scale|diff_b$|diff$)"
)


@dataclass(frozen=True)
class Factor:
    """A tensor of a LoRA: the layer it acts on, and what it is there (`lora_A`, `lora_B`, `alpha` ...)."""

    module: str
    role: str
    leaf: str = ""
    """`.weight` or `.bias`; some factors have none."""

    @property
    def name(self) -> str:
        """The factor's name in diffusers' words, without a prefix."""
        return f"{self.module}.{self.role}{self.leaf}"


def factor_of(name: str) -> Factor | None:
    """Take a factor's name apart; None where it is none of a LoRA. The module is called as the file calls it."""
    if name.endswith(".alpha"):
        return Factor(name.removesuffix(".alpha"), "alpha")
    match = _FACTOR.match(name)
    return Factor(match["module"], _ROLES[match["role"]], match["leaf"] or "") if match else None


def other_kind(name: str) -> str | None:
    """What kind of adapter other than LoRA a tensor of this name belongs to, in words; None for LoRA."""
    match = _OTHER_KIND.search(name)
    return _OTHER_KINDS[match["kind"]] if match else None


def bare_module(module: str) -> str:
    """The layer's name without what PEFT, ComfyUI or diffusers puts before the denoiser's own names."""
    module = module.removeprefix(PEFT_PREFIX)
    for prefixes in (_DOTTED, _DENOISERS):
        module = next((module[len(prefix) :] for prefix in prefixes if module.startswith(prefix)), module)
    return module


def is_kohyas(name: str) -> bool:
    """Whether the name is spelled as kohya's and ComfyUI's trainers do, which diffusers' loaders do not all read."""
    return name.startswith((*_UNDERSCORED, "lora_te", *_DOTTED)) or bool(
        re.search(r"\.lora_(down|up)\.|\.lora\.(down|up)\.|\.alpha$", name)
    )


@dataclass
class Resolved:
    """Kohya's names resolved against a model's: diffusers' name -> stored name, and those that match nothing."""

    names: dict[str, str] = field(default_factory=dict)
    unmatched: list[str] = field(default_factory=list)


def resolve(names: Iterable[str], modules: Collection[str], prefix: str) -> Resolved:
    """Give the factors `names` diffusers' names.

    Underscores stand for dots in kohya's names, and for themselves: only the model's own names tell which.

    Args:
        names: the stored names.
        modules: the names of the denoiser's layers.
        prefix: what diffusers puts before them ("transformer.").
    """
    underscored: dict[str, list[str]] = {}
    for module in modules:
        underscored.setdefault(module.replace(".", "_"), []).append(module)
    known, resolved = set(modules), Resolved()
    for name in names:
        factor = factor_of(name)
        layer = _module(factor.module, known, underscored) if factor is not None else None
        target = f"{prefix}{Factor(layer, factor.role, factor.leaf).name}" if factor and layer else None
        if target is None or target in resolved.names:
            resolved.unmatched.append(name)
        else:
            resolved.names[target] = name
    return resolved


def _module(stored: str, known: Collection[str], underscored: dict[str, list[str]]) -> str | None:
    bare = bare_module(stored)
    if bare in known:
        return bare
    for prefix in _UNDERSCORED:
        if stored.startswith(prefix):
            found = underscored.get(stored[len(prefix) :], [])
            return found[0] if len(found) == 1 else None
    return None
