"""difference_findings: marks of a fault first, each with the tensors it explains; then one summary."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from pytest_genmodel.checkpoints.component import Component
from pytest_genmodel.checkpoints.diff import compare_components
from pytest_genmodel.diagnosis.change import Change
from pytest_genmodel.diagnosis.difference import difference_findings
from pytest_genmodel.diagnosis.finding import Finding


@pytest.fixture
def told(tmp_path):
    """Compare two dictionaries of tensors, and give the findings under a Change."""

    def tell(ours, theirs, change=Change.ALLOWED) -> list[Finding]:
        parts = []
        for name, tensors in (("ours", ours), ("theirs", theirs)):
            file = tmp_path / f"{name}.safetensors"
            save_file({n: t.contiguous() for n, t in tensors.items()}, file)
            parts.append(Component("transformer", tmp_path, "", "", weights_file=file))
        return list(difference_findings("transformer", compare_components(*parts), change))

    return tell


@pytest.fixture
def model() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = {
        "attn.to_q.weight": (32, 32),
        "attn.to_k.weight": (32, 32),
        "ff.weight": (64, 32),
        "ff.bias": (64,),
    }
    return {
        f"blocks.{block}.{name}": torch.randn(shape, generator=generator)
        for block in range(4)
        for name, shape in shapes.items()
    }


def trained(tensors, size=0.01):
    generator = torch.Generator().manual_seed(5)
    return {n: t + size * t.std() * torch.randn(t.shape, generator=generator) for n, t in tensors.items()}


def codes(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(f.code, f.severity.value if f.severity else "") for f in findings]


def test_fine_tune_is_one_note_with_a_summary_of_the_drift(told, model):
    [finding] = told(trained(model), model)

    assert codes([finding]) == [("GM306", "note")]
    assert finding.evidence["drift"]["median"] == pytest.approx(0.01, rel=0.1)
    assert "half of all tensors moved by at most 0.0" in finding.message
    assert set(finding.evidence["drift"]["groups"]) == {
        f"blocks.*.{n}" for n in ("attn.to_q.weight", "attn.to_k.weight", "ff.weight", "ff.bias")
    }


Q, K = "blocks.0.attn.to_q.weight", "blocks.0.attn.to_k.weight"


@pytest.mark.parametrize("size", [0.0, 0.05], ids=["exactly", "and fine-tuned"])
def test_swap_is_named_with_both_tensors(told, model, size):
    swapped = model | {Q: model[K], K: model[Q]}

    findings = told(trained(swapped, size) if size else swapped, model)

    first = findings[0]
    assert (first.code, first.evidence["pairs"]) == ("GM314", [[K, Q]])
    assert ("changed a little since" in first.message) == bool(size)
    assert codes(findings[1:]) == ([("GM306", "note")] if size else [])
    assert not set(first.evidence["tensors"]) & set(findings[-1].evidence["tensors"]) or len(findings) == 1


def test_short_tensors_are_swapped_only_if_exactly(told, model):
    """The correlation of few values is easily high by chance; equality is not."""
    small = {name: tensor for name, tensor in model.items() if name.endswith("bias")}
    short = {name: tensor[:16] for name, tensor in small.items()}
    a, b = list(short)[:2]

    assert [f.code for f in told(short | {a: short[b], b: short[a]}, short)] == ["GM314"]
    near = {a: short[b] + 0.001, b: short[a] + 0.001}
    assert [f.code for f in told(short | near, short)] == ["GM306"]


def test_tensors_of_one_make_are_not_taken_for_each_other(told, model):
    """What is like its siblings, and a little more like one of them, has not moved."""
    base = 3 * torch.randn(32, 32, generator=torch.Generator().manual_seed(7))
    alike = {name: base + tensor for name, tensor in model.items() if tensor.shape == base.shape}
    ours = alike | {Q: (alike[Q] + 1.2 * alike[K]) / 2.2}

    assert [f.code for f in told(ours, alike)] == ["GM306"]


def test_layer_that_holds_anothers_content_is_named_with_its_origin(told, model):
    [finding] = told(model | {Q: model["blocks.1.attn.to_q.weight"].clone()}, model)

    assert finding.code == "GM314"
    assert finding.evidence["origins"] == {Q: "blocks.1.attn.to_q.weight"}


@pytest.mark.parametrize("shift", [2, -3, 1])
def test_shift_is_told_with_its_size(told, model, shift):
    flat = torch.cat([t.flatten() for t in model.values()])
    moved = flat.roll(shift)
    sizes = [t.numel() for t in model.values()]
    cut = dict(
        zip(
            model,
            (p.reshape(t.shape) for p, t in zip(moved.split(sizes), model.values(), strict=True)),
            strict=True,
        )
    )

    findings = told(cut, model)

    assert codes(findings) == [("GM315", "error")]
    assert findings[0].evidence["shift"] == shift
    assert findings[0].evidence["count"] == len(model)


@pytest.mark.parametrize(
    ("change", "severity"),
    [(Change.FORBIDDEN, "error"), (Change.REQUIRED, "error"), (Change.ALLOWED, "warning")],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_one_factor_for_all_weighs_as_the_contract_says(told, model, change, severity, dtype):
    base = {name: tensor.to(dtype) for name, tensor in model.items()}

    findings = told({name: (t.double() * 0.98).to(dtype) for name, t in base.items()}, base, change)

    assert codes(findings) == [("GM316", severity)]
    assert findings[0].evidence["factor"] == pytest.approx(0.98, rel=1e-3)
    assert findings[0].evidence["count"] == len(model)


def test_different_factors_are_no_weight_decay(told, model):
    ours = {name: tensor * (0.9 + 0.01 * i) for i, (name, tensor) in enumerate(model.items())}

    assert [f.code for f in told(ours, model)] == ["GM306"]


@pytest.mark.parametrize(("change", "severity"), [(Change.FORBIDDEN, "error"), (Change.ALLOWED, "warning")])
def test_outlier_that_was_made_anew_is_named(told, model, change, severity):
    ours = trained(model) | {Q: torch.randn(32, 32, generator=torch.Generator().manual_seed(9))}

    findings = told(ours, model, change)

    assert codes(findings)[0] == ("GM317", severity)
    assert findings[0].evidence["tensors"] == [Q]
    assert Q not in findings[1].evidence["tensors"]


def test_another_model_altogether_is_not_a_few_outliers(told, model):
    other = {
        n: torch.randn(t.shape, generator=torch.Generator().manual_seed(i))
        for i, (n, t) in enumerate(model.items())
    }

    assert [f.code for f in told(other, model, Change.FORBIDDEN)] == ["GM301"]


def test_zeroed_tensor_was_not_made_anew(told, model):
    assert [f.code for f in told(trained(model) | {Q: model[Q] * 0}, model)] == ["GM306"]


def test_equal_numbers_in_another_dtype_are_listed(told, model):
    half = {name: tensor.half() for name, tensor in model.items()}

    [finding] = told({name: tensor.float() for name, tensor in half.items()}, half, Change.FORBIDDEN)

    assert codes([finding]) == [("GM213", "note")]
    assert finding.evidence["casts"] == {"F16 to F32": len(model)}


def test_nothing_differs(told, model):
    assert told(model, model, Change.FORBIDDEN) == []
    assert [f.code for f in told(model, model, Change.REQUIRED)] == ["GM302"]
