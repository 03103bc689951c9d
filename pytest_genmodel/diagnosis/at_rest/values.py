"""What the values show by themselves, from one pass over them: each check asks the figures, none reads again."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import takewhile
from math import prod

from pytest_genmodel.checkpoints.names import is_adapter_name
from pytest_genmodel.checkpoints.statistics import Statistics
from pytest_genmodel.diagnosis.at_rest.part import Part
from pytest_genmodel.diagnosis.finding import Finding, finding_of
from pytest_genmodel.diagnosis.rules import Severity

ENOUGH_VALUES = 1024
"""A tensor of fewer values is too small to tell an initialisation, or a cast, from chance."""
MANY_VALUES = 4096
"""What it takes where a single tensor is called fresh among trained ones."""
_EMBEDDING = re.compile(r"(^|\.)(shared|embed_tokens|token_embedding|word_embeddings|wte)\.weight$")
_MASK = re.compile(r"mask", re.IGNORECASE)
_NORM = re.compile(r"norm|(^|[._])ln[._\d]|layernorm", re.IGNORECASE)
_HOLES = 0.25
"""Share of exact zeros that no initialisation and no training leaves in a matrix of floating-point numbers."""
_CUT_OFF = 3
"""This many zero tensors at the end of a file are no coincidence."""


def not_finite(part: Part) -> Iterator[Finding]:
    """NaN or Inf. A mask may hold Inf: that is what it is for."""
    bad = [
        name
        for name, figures in part.statistics.items()
        if figures.nan or (figures.inf and not _MASK.search(name))
    ]
    if not bad:
        return
    part.told.update(bad)
    first, figures = bad[0], part.statistics[bad[0]]
    half = all(part.weights.tensors[name].dtype == "F16" and not part.statistics[name].nan for name in bad)
    yield finding_of(
        "GM304",
        bad,
        "hold NaN or Inf",
        of=len(part.weights.tensors),
        noun="factors" if part.is_adapter else "tensors",
        after=f"; in {first} {figures.nan + figures.inf} of {figures.numel} values",
        component=part.name or None,
        cause="values beyond 65504 became Inf when the weights were cast to float16" if half else None,
        evidence={"nan": figures.nan, "inf": figures.inf},
    )


def zeros(part: Part) -> Iterator[Finding]:
    """Matrices of zeros. A bias, a scale, or any other vector may be zero.

    An embedding of zeros, zeros at the end of a file (a copy that was broken off), in an encoder, and a file most of
    whose matrices are zero are errors; another matrix is a warning, as some are made so and not yet trained.
    """
    matrices = [n for n in part.statistics if _counts(part, n)]
    empty = [name for name in matrices if _is_zero(part.statistics[name])]
    if not empty:
        return
    part.told.update(empty)
    embeddings = [name for name in empty if _EMBEDDING.search(name)]
    tail = _zero_tail(part)
    most = 2 * len(empty) > len(matrices)
    encoder = part.name.startswith(
        ("text_encoder", "image_encoder")
    )  # published whole: nothing starts at zero there
    cause = None
    if len(tail) >= _CUT_OFF and set(tail) & set(empty):
        cause = f"the last {len(tail)} tensors of the file are zero: a download or copy was broken off"
    elif embeddings:
        cause = "the embedding was made anew without its tie, or its values were never loaded"
    yield finding_of(
        "GM307",
        embeddings + [name for name in empty if name not in embeddings],
        "are all zero",
        of=len(matrices),
        noun="matrices",
        component=part.name or None,
        severity=Severity.ERROR if cause or most or encoder else None,
        cause=cause,
        evidence={"zero_tensors_at_the_end": len(tail)},
    )


def holes(part: Part) -> Iterator[Finding]:
    """Exact zeros scattered over most matrices: a trained matrix has next to none."""
    matrices = [n for n, f in part.statistics.items() if _counts(part, n) and f.numel >= ENOUGH_VALUES]
    pierced = {
        n: share for n in matrices if (share := part.statistics[n].zeros / part.statistics[n].numel) >= _HOLES
    }
    if len(pierced) >= _CUT_OFF and 2 * len(pierced) > len(matrices):
        part.told.update(pierced)
        yield finding_of(
            "GM330",
            list(pierced),
            f"have zeros in {100 * min(pierced.values()):.0f} % of their places or more",
            of=len(matrices),
            noun="matrices",
            component=part.name or None,
            evidence={"least_share": min(pierced.values())},
        )


def constants(part: Part) -> Iterator[Finding]:
    """Matrices in which every value is the same number, and not zero."""
    same = [
        name
        for name, figures in part.statistics.items()
        if _counts(part, name) and figures.constant and figures.numel >= 16
    ]
    if same:
        part.told.update(same)
        yield finding_of(
            "GM308",
            same,
            "hold one number throughout",
            noun="matrices",
            after=f"; {same[0]} is {part.statistics[same[0]].mean:g} everywhere",
            component=part.name or None,
        )


def fresh(part: Part) -> Iterator[Finding]:
    """A whole component as its class makes it, or some matrices among trained ones.

    The whole: every norm still has weight 1 and bias 0, and the matrices are spread as a new layer's.
    Some: up to a quarter of the matrices fill the interval that torch initialises Linear and Conv in, to its ends.
    """
    matrices = [
        name
        for name, figures in part.statistics.items()
        if _counts(part, name) and figures.numel >= ENOUGH_VALUES
    ]
    if not matrices:
        return
    looks = {name: found for name in matrices if (found := initialisation(part, name))}
    if _norms_untouched(part) and 5 * len(looks) >= 4 * len(matrices):
        part.told.update(looks)
        yield finding_of(
            "GM309",
            list(looks),
            "are spread as a new layer's",
            of=len(matrices),
            noun="matrices",
            after="; and every norm still has weight 1 and bias 0",
            component=part.name or None,
            cause="the component was built from its configuration (from_config) and never loaded or trained",
            evidence={"looks_like": looks[next(iter(looks))]},
        )
        return
    large = [name for name in matrices if part.statistics[name].numel >= MANY_VALUES]
    some = [name for name in large if looks.get(name, "").startswith("uniform")]
    if some and 4 * len(some) <= len(large):
        part.told.update(some)
        yield finding_of(
            "GM309",
            some,
            "are spread as a new layer's, and the others are not",
            of=len(large),
            noun="matrices",
            after=f"; {some[0]} is {looks[some[0]]}",
            component=part.name or None,
            severity=Severity.WARNING,
            cause="these tensors were in no file when the model was loaded for training, and were not trained either",
        )


def initialisation(part: Part, name: str) -> str | None:
    """The initialisation that a matrix is spread as, None for none: by mean, spread and the largest value."""
    figures = part.statistics[name]
    fan_in = prod(part.weights.tensors[name].shape[1:])
    room = max(0.01, 3.0 / figures.numel**0.5)
    if figures.std == 0.0 or abs(figures.mean) > 5.0 * figures.std / figures.numel**0.5:
        return None
    bound = fan_in**-0.5
    if abs(figures.std * 3.0**0.5 / bound - 1.0) <= room and 0.97 <= figures.abs_max / bound <= 1.004:
        return f"uniform between -{bound:.3g} and {bound:.3g}, as torch initialises"
    for std in (0.02, 1.0, bound):
        if abs(figures.std / std - 1.0) <= room and 2.5 <= figures.abs_max / figures.std <= 7.0:
            return f"normal with std {std:.3g}"
    return None


def narrow_values(part: Part) -> Iterator[Finding]:
    """float32 whose every value is a bfloat16's. Tensors that are too small, or of one value, say nothing."""
    wide = [
        name
        for name, figures in part.statistics.items()
        if part.weights.tensors[name].dtype in ("F32", "F64")
        and figures.numel >= ENOUGH_VALUES
        and not figures.constant
        and name not in part.told
    ]
    exact = [name for name in wide if part.statistics[name].bf16_exact]
    if exact:
        yield finding_of(
            "GM312",
            exact,
            "hold nothing that bfloat16 would not hold",
            of=len(wide),
            noun="float32 tensors",
            component=part.name or None,
            cause="the weights were bfloat16 at some time, and were stored in float32 afterwards",
        )


def beyond_float16(part: Part) -> Iterator[Finding]:
    """Finite values that float16 cannot hold. A mask's are meant to be extreme."""
    large = [
        name
        for name, figures in part.statistics.items()
        if figures.beyond_fp16 and part.is_float(name) and name not in part.told and not _MASK.search(name)
    ]
    if large:
        worst = max(large, key=lambda name: part.statistics[name].abs_max)
        figures = part.statistics[worst]
        yield finding_of(
            "GM313",
            large,
            "hold values beyond 65504",
            of=len(part.weights.tensors),
            after=f"; up to {figures.abs_max:.6g}, {figures.beyond_fp16} of {figures.numel} values of {worst}: "
            "float16 makes Inf of them, bfloat16 and float32 do not",
            component=part.name or None,
            evidence={"largest": figures.abs_max},
        )


def _counts(part: Part, name: str) -> bool:
    """Whether the tensor is one of the model's own matrices that no check has spoken of, and no mask."""
    return (
        not _MASK.search(name)
        and part.is_matrix(name)
        and part.is_float(name)
        and name not in part.told
        and not is_adapter_name(name)
    )


def _is_zero(figures: Statistics) -> bool:
    return figures.zeros == figures.numel


def _norms_untouched(part: Part) -> bool:
    """Whether there are norms, and none has moved: a trained model has none that is exactly 1 in every place."""
    weights: list[Statistics] = []
    biases: list[Statistics] = []
    for name, figures in part.statistics.items():
        module = name.removesuffix(".weight")
        if module != name and _NORM.search(name) and not part.is_matrix(name) and figures.numel > 1:
            weights.append(figures)
            if f"{module}.bias" in part.statistics:
                biases.append(part.statistics[f"{module}.bias"])
    return (
        len(weights) >= 2
        and all(w.constant and w.mean == 1.0 for w in weights)
        and all(map(_is_zero, biases))
    )


def _zero_tail(part: Part) -> list[str]:
    """The tensors at the end of a file, counted backwards, that are zero; the longest run of any file."""
    files: dict[object, list[tuple[int, str]]] = {}
    for name in part.statistics:
        if spans := part.weights.spans(name):
            files.setdefault(spans[-1].path, []).append((spans[-1].end, name))
    runs = [
        list(
            takewhile(lambda name: _is_zero(part.statistics[name]), (name for _, name in sorted(ends)[::-1]))
        )
        for ends in files.values()
    ]
    return max(runs, key=len, default=[])
