"""GM930 and GM931: rotary tables, computed tables and time embeddings against their formulas in float64."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pytest_genmodel.diagnosis.finding import Finding
from pytest_genmodel.diagnosis.limit import against
from pytest_genmodel.diagnosis.rules import Severity
from pytest_genmodel.invariants.context import Context
from pytest_genmodel.pipelines.effective import effective_config
from pytest_genmodel.pipelines.observed_run import Denoised, ObservedRun
from pytest_genmodel.pipelines.positions import (
    ROTARY,
    Table,
    rotary_table,
    sinusoidal_positions,
    time_embedding,
)
from pytest_genmodel.pipelines.recording import Recorded, innermost

if TYPE_CHECKING:
    import torch

    from pytest_genmodel.pipelines.pipeline import Pipeline

ROUNDING = 2.0**-24
LEAST = 1e-5
"""Limits of a table made in float32: eight last places of its largest angle, and `LEAST` (measured: 3e-6 at 44)."""
EMBEDDING = 1e-3
"""Limit of a time embedding: its angles reach the timestep, 1,000 rad, in float32 (measured: 6e-5)."""
HALF = 2.0**-7
"""What a table rounded to 16 bits may be off by."""


def position_findings(context: Context, run: ObservedRun) -> Iterator[Finding]:
    """Tables that the denoisers were given or made, those that no file holds, and the embeddings of the timestep."""
    pipeline = context.candidate
    found = [*_computed(pipeline)]  # first: a table that a model holds is what it turns its tokens by
    for name in pipeline.denoisers:
        found += _rotary(pipeline, run, name)
    found += _of_the_text(pipeline, run)
    yield from (item for item in found if item is not None)
    yield from _embeddings(run)
    context.measure(position_tables=len(found), time_embeddings=len(run.embedded))


def _rotary(pipeline: Pipeline, run: ObservedRun, name: str) -> Iterator[Finding | None]:
    """None for each table that is right."""
    calls = [seen for seen in run.denoised if seen.call.model == name]
    component = pipeline.checkpoint.components[name]
    config = effective_config(component)
    if not calls:
        return
    if component.class_name == "CogVideoXTransformer3DModel":
        if config.get("use_rotary_positional_embeddings"):
            yield from _given(pipeline, calls[0], name, config)
        return
    own = [seen for seen in run.rotary if seen.component == name]
    if not own and component.class_name in ROTARY:
        yield Finding(
            "GM930",
            f"the {name} turns its tokens by their positions, and no table of them was made in its first call",
            component=name,
            location="rope",
            cause="every token stands at the same place: what the model knows of space and time is lost",
        )
    latents = calls[0].call.tensors.get("hidden_states")
    for seen in own[:4]:
        given = seen.arguments
        shape = _video_shape(given, latents, config)
        if shape is None and given.get("coords") is None:
            continue
        facts = {
            "module": seen.module,
            "told": calls[0].call.arguments,
            "shape": shape,
            "indices": given.get("frame_indices"),
            "scale": given.get("rope_interpolation_scale"),
            "coordinates": given.get("video_coords"),
        }
        expected = rotary_table(component.class_name, config, facts)
        if expected is not None:
            finding = _compared(pipeline, name, seen.module, expected, seen.cos, seen.sin)
            yield finding
            if finding is not None:
                return  # the other calls say the same


def _of_the_text(pipeline: Pipeline, run: ObservedRun) -> Iterator[Finding | None]:
    """LTX-2: between text encoder and transformer there are tables, too."""
    for seen in run.rotary:
        component = pipeline.checkpoint.components.get(seen.component)
        length = seen.arguments.get("pos")
        if component is None or seen.component in pipeline.denoisers or not isinstance(length, int):
            continue
        facts = {"module": seen.module, "length": length}
        expected = rotary_table(component.class_name, effective_config(component), facts)
        if expected is not None:
            yield _compared(pipeline, seen.component, seen.module, expected, seen.cos, seen.sin)


def _video_shape(
    given: Mapping[str, Any], latents: Recorded | None, config: Mapping[str, Any]
) -> tuple[int, ...] | None:
    """(batch, channel, frame, height, width) of what a table was made for; the frames may count for nothing."""
    if given.get("num_frames") is not None:
        return (1, 1, given["num_frames"], given["height"], given["width"])
    if given.get("video_coords") is not None:
        return (1, 1, 1, 1, 1)
    if given.get("frame_indices") is not None:
        return (1, 1, len(given["frame_indices"]) * config["patch_size_t"], given["height"], given["width"])
    shape: tuple[int, ...] | None = given.get("hidden_states", latents.shape if latents is not None else None)
    return shape if shape is not None and len(shape) == 5 else None


def _given(
    pipeline: Pipeline, seen: Denoised, name: str, config: Mapping[str, Any]
) -> Iterator[Finding | None]:
    """CogVideoX: the pipeline makes the tables, and hands them over."""
    tensors = seen.call.tensors
    tables = [tensors.get(f"image_rotary_emb[{place}]") for place in (0, 1)]
    cos, sin = tables
    if cos is None or sin is None:
        yield Finding(
            "GM930",
            f"the {name} turns its tokens by their positions, and is given no table of them",
            component=name,
            location="image_rotary_emb",
            cause="every token stands at the same place: what the model knows of space and time is lost",
        )
        return
    batch, frames, channels, height, width = tensors["hidden_states"].shape
    expected = rotary_table(
        "CogVideoXTransformer3DModel", config, {"shape": (batch, channels, frames, height, width)}
    )
    if expected is not None and cos.whole:
        yield _compared(pipeline, name, "image_rotary_emb", expected, cos.values, sin.values)


def _compared(
    pipeline: Pipeline, name: str, where: str, expected: Table, cos: torch.Tensor, sin: torch.Tensor
) -> Finding | None:
    if cos.ndim == 4:  # (batch, head, token, width)
        cos, sin = (table.transpose(1, 2).flatten(2) for table in (cos, sin))
    width = expected.cos.shape[1]
    actual = [table.double().reshape(-1, width)[-expected.length :] for table in (cos, sin)]
    if any(len(table) != expected.length for table in actual):
        return Finding(
            "GM930",
            f"the rotary table has {cos.numel() // width} rows, and the clip {expected.length} tokens",
            component=name,
            location=where,
        )
    limit = max(LEAST, 8 * ROUNDING * expected.largest)
    gaps = [
        (actual[0][expected.rows] - expected.cos).abs(),
        (actual[1][expected.rows] - expected.sin).abs(),
    ]
    error = max(float(gap.max()) for gap in gaps)
    if error <= limit:
        return None
    first = int(expected.rows[int((gaps[0] + gaps[1]).max(1).values.gt(limit).nonzero()[0])])
    rounded = error <= HALF and pipeline.placement.dtype != "float32"
    return Finding(
        "GM930",
        f"the rotary table differs from its formula from token {first} of {expected.length} on: by {error:.2g} "
        f"(limit {limit:.2g})",
        component=name,
        location=where,
        severity=Severity.WARNING if rounded else None,
        cause=_why(expected, actual, error),
        evidence={
            "token": first,
            "tokens": expected.length,
            **against(error, limit, "off in a sine or cosine"),
        },
    )


def _why(expected: Table, actual: list[torch.Tensor], error: float) -> str:
    import torch

    if error <= HALF:
        return "rounding of 16 bits: the table, or its angles, were made or kept in half precision"
    swapped = (actual[0][expected.rows] - expected.sin).abs().max()
    if float(swapped) <= HALF:
        return "sines and cosines have changed places"
    if len({tuple(row) for row in torch.round(actual[0] * 1e4).tolist()}) < len(
        {tuple(row) for row in torch.round(expected.cos * 1e4).tolist()}
    ):
        return "several tokens have one position: the table was made for another size, or stretched"
    return "the positions are those of another grid, another size or another base frequency"


def _computed(pipeline: Pipeline) -> Iterator[Finding | None]:
    """Tables that the installed classes compute and no file holds; None for each that is right."""
    import torch

    live = pipeline.diffusers
    for name, part in live.components.items():
        if not isinstance(part, torch.nn.Module):
            continue
        model = innermost(part)
        stored = set(model.state_dict())
        for key, buffer in model.named_buffers():
            if key in stored:
                continue
            expected = _expected_buffer(pipeline, name, model, key, buffer)
            if expected is None:
                continue
            error = (
                float((buffer.double().cpu() - expected).abs().max())
                if tuple(buffer.shape) == tuple(expected.shape)
                else float("inf")
            )
            if error <= LEAST or (error <= HALF and buffer.dtype in (torch.bfloat16, torch.float16)):
                yield None
                continue
            yield Finding(
                "GM931",
                f"{key} is computed when the model is made, and is not what its formula gives: off by {error:.2g}",
                component=name,
                location=key,
                cause="no file holds it: it was left as memory was, or made before its settings were known",
                evidence=against(min(error, 1e300), LEAST, "off in a value"),
            )


def _expected_buffer(
    pipeline: Pipeline, name: str, model: Any, key: str, buffer: torch.Tensor
) -> torch.Tensor | None:
    import torch

    last = key.rpartition(".")[2]
    if last == "position_ids":
        return torch.arange(buffer.shape[-1], dtype=torch.float64).expand(buffer.shape)
    if last in ("inv_freq", "original_inv_freq"):
        return _inverse_frequencies(model, key, buffer)
    component = pipeline.checkpoint.components[name]
    if key == "patch_embed.pos_embedding" and component.class_name == "CogVideoXTransformer3DModel":
        return sinusoidal_positions(effective_config(component), buffer.shape[-1])[None]
    if last in ("freqs_cos", "freqs_sin") and buffer.ndim == 2:
        config = effective_config(component)
        if config.get("attention_head_dim") != buffer.shape[1] or "patch_size" not in config:
            return None
        return _axes(config["attention_head_dim"], len(buffer), last == "freqs_cos")
    return None


def _axes(head: int, length: int, cosines: bool) -> torch.Tensor:
    """Wan's table: for each place the angles of all three axes beside each other."""
    import torch

    side = 2 * (head // 6)
    parts = []
    for width in (head - 2 * side, side, side):
        frequencies = 10_000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
        angles = torch.outer(torch.arange(length, dtype=torch.float64), frequencies)
        parts.append((angles.cos() if cosines else angles.sin()).repeat_interleave(2, 1))
    return torch.cat(parts, 1)


def _inverse_frequencies(model: Any, key: str, buffer: torch.Tensor) -> torch.Tensor | None:
    """Those of plain rotary embeddings (2104.09864); None for a scaled kind."""
    import torch

    owner = model.get_submodule(key.rpartition(".")[0])
    config = getattr(owner, "config", None)
    given = getattr(config, "rope_parameters", None) or {}
    kind = given.get("rope_type", "default") if isinstance(given, Mapping) else None
    theta = given.get("rope_theta") if isinstance(given, Mapping) else None
    theta = theta or getattr(config, "rope_theta", None)
    if (
        kind != "default"
        or not isinstance(theta, (int, float))
        or getattr(config, "rope_scaling", None)
        not in (
            None,
            {},
            given,
        )
    ):
        return None
    count = len(buffer)
    return float(theta) ** (-torch.arange(count, dtype=torch.float64) / count)


def _embeddings(run: ObservedRun) -> Iterator[Finding]:
    """One finding for each module whose sinusoids are wrong."""
    said: set[tuple[str, str]] = set()
    for seen in run.embedded:
        if (seen.component, seen.module) in said or seen.timesteps.ndim != 1 or not seen.timesteps.numel():
            continue
        settings = seen.settings
        expected = time_embedding(
            seen.timesteps,
            settings["num_channels"],
            cosines_first=settings["flip_sin_to_cos"],
            shift=settings["downscale_freq_shift"],
            scale=settings["scale"],
        )
        fits = tuple(seen.made.shape) == tuple(expected.shape)
        error = float((seen.made.double() - expected).abs().max()) if fits else float("inf")
        if not error <= EMBEDDING:
            said.add((seen.component, seen.module))
            yield Finding(
                "GM931",
                f"the embedding of timestep {float(seen.timesteps[0]):g} differs from its formula by {error:.2g} "
                f"(limit {EMBEDDING:g})",
                component=seen.component,
                location=seen.module,
                cause="the sinusoids of the timestep are made in half precision, or in another order",
                evidence=against(min(error, 1e300), EMBEDDING, "off in a sine or cosine"),
            )
