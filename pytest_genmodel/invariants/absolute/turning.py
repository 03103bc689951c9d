"""GM946: tables of positions that are right, and that no attention turns its tokens by."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_genmodel.diagnosis.finding import Finding
from pytest_genmodel.invariants.context import Context
from pytest_genmodel.pipelines.curves import distance
from pytest_genmodel.pipelines.denoiser_call import DenoiserCall
from pytest_genmodel.pipelines.recording import innermost

if TYPE_CHECKING:
    import torch

GIVEN = "image_rotary_emb"


def turning_findings(context: Context, call: DenoiserCall) -> Iterator[Finding]:
    """The same call of the denoiser with tables that turn nothing must give another prediction."""
    pipeline = context.candidate
    name = pipeline.family.denoiser
    model = pipeline.component(name)
    parts = [part for part in innermost(model).modules() if "RotaryPosEmbed" in type(part).__name__]
    tables = call.options.get(GIVEN)
    if tables is None and not parts:
        return
    before = call.run(model)
    after, turned = _without(call, tables, parts, model)
    if not turned:
        return  # one token, or tables of a kind that is not known here
    gap = distance(after, before)
    context.measure(positions_effect=round(gap, 6))
    if gap == 0.0:
        yield Finding(
            "GM946",
            f"the {name} predicts the same, bit for bit, when its rotary tables turn nothing",
            component=name,
            location="rope" if parts else GIVEN,
            cause="the attention does not use the tables: a processor that was exchanged, or a branch that is off",
        )


def _without(call: DenoiserCall, tables: Any, parts: list[Any], model: Any) -> tuple[torch.Tensor, bool]:
    """The prediction with a cosine of 1 and a sine of 0 for every token; and whether that is another table."""
    turned = False

    def still(_: Any, arguments: Any, output: Any) -> Any:
        nonlocal turned
        if not isinstance(output, (tuple, list)) or len(output) != 2:
            return output
        turned = turned or bool(output[1].any())
        return tuple(table * 0 + value for table, value in zip(output, (1, 0), strict=True))

    with ExitStack() as stack:
        for part in parts:
            stack.callback(part.register_forward_hook(still).remove)
        if tables is not None:
            call = replace(call, options={**call.options, GIVEN: still(None, None, tables)})
        return call.run(model), turned
