"""What a converter, a merge or a quantizer leaves: order within a tensor, arithmetic, narrow levels, copies."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from pytest_genmodel.checkpoints.component import Component
from pytest_genmodel.checkpoints.diff import compare_components
from pytest_genmodel.diagnosis.at_rest import quantized, repeated
from pytest_genmodel.diagnosis.at_rest.part import Part
from pytest_genmodel.diagnosis.change import Change
from pytest_genmodel.diagnosis.difference import difference_findings

Q, BIAS, NORM, CONV, NARROW = (
    "blocks.0.to_q.weight",
    "blocks.0.to_q.bias",
    "blocks.0.norm.weight",
    "proj.weight",
    "out.weight",
)


@pytest.fixture
def model() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * 0.05

    matrices = {
        f"blocks.{i}.{kind}.weight": draw(48, 32) for i in range(3) for kind in ("to_q", "to_k", "ff")
    }
    biases = {f"blocks.{i}.{kind}.bias": draw(48) for i in range(3) for kind in ("to_q", "to_k", "ff")}
    norms = {f"blocks.{i}.norm.weight": 1 + draw(32) for i in range(3)}
    return matrices | biases | norms | {CONV: draw(48, 8, 3, 2, 2), NARROW: draw(8, 32)}


@pytest.fixture
def component(tmp_path):
    def make(name: str, tensors: dict[str, torch.Tensor]) -> Component:
        file = tmp_path / f"{name}.safetensors"
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, file)
        return Component("transformer", tmp_path, "", "", weights_file=file)

    return make


@pytest.fixture
def told(component, model):
    """Findings about a change of `model` that was trained on since; the names that changed, to what."""

    def tell(changes: dict[str, torch.Tensor], change: Change = Change.REQUIRED, drift: float = 0.01):
        generator = torch.Generator().manual_seed(6)
        trained = {
            name: tensor + drift * tensor.std() * torch.randn(tensor.shape, generator=generator)
            for name, tensor in (model | changes).items()
        }
        difference = compare_components(component("ours", trained), component("theirs", model))
        return list(difference_findings("transformer", difference, change))

    return tell


def pairs_in_halves(tensor: torch.Tensor, width: int = 8) -> torch.Tensor:
    return tensor.reshape(-1, 2, width // 2, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)


ORDERS = {
    "halves of heads": (Q, pairs_in_halves, "the two halves of each 8 rows are interleaved"),
    "halves": (Q, lambda t: t.roll(24, 0), "its two halves of rows are exchanged"),
    "thirds": (Q, lambda t: t.roll(16, 0), "its 3 parts of 16 rows stand in the order 2, 0, 1"),
    "backwards": (Q, lambda t: t.flip(0), "its rows run backwards"),
    "one rank twice": (Q, lambda t: torch.cat([t[:24], t[:24]]), "some rows lie there more than once"),
    "columns": (Q, lambda t: t.roll(16, 1), "its two halves of columns are exchanged"),
    "time": (CONV, lambda t: t.flip(2), "axis 2 runs backwards"),
    "height and width": (CONV, lambda t: t.transpose(3, 4), "axes 3 and 4 are exchanged"),
}


@pytest.mark.parametrize("change", [Change.REQUIRED, Change.FORBIDDEN])
@pytest.mark.parametrize("kind", ORDERS)
def test_order_is_named_though_the_model_was_trained_on(told, model, kind, change):
    name, order, words = ORDERS[kind]

    found = told({name: order(model[name])}, change)

    assert (found[0].code, found[0].severity.value, found[0].location) == ("GM318", "error", name)
    assert words in found[0].message


def test_bias_goes_with_its_weight_and_other_blocks_with_the_first(told, model):
    names = [name for name in model if "to_q" in name]

    found = told({name: pairs_in_halves(model[name]) for name in names})

    assert found[0].code == "GM318"
    assert sorted(found[0].evidence["tensors"]) == sorted(names)
    assert found[0].location == Q


@pytest.mark.parametrize("drift", [0.0, 0.01, 0.3, 1.0])
def test_training_makes_no_order(told, drift):
    assert {finding.code for finding in told({}, drift=drift)} <= {"GM306", "GM302"}


def test_arithmetic_is_named(told, model):
    norms = {name: model[name] - 1 for name in model if "norm" in name}

    [off, *_] = told(norms, drift=0.001)
    assert (off.code, off.severity.value, off.location) == ("GM319", "error", NORM)
    assert "off by -1" in off.message


@pytest.mark.parametrize(
    ("factor", "codes"), [(8.0, ["GM319", "GM306"]), (-1.0, ["GM319", "GM306"]), (1.5, ["GM306"])]
)
def test_a_number_times_one_tensor(told, model, factor, codes):
    assert [finding.code for finding in told({Q: model[Q] * factor}, drift=0.001)] == codes


def test_vector_that_was_reset(component, model):
    reset = model | {NORM: torch.ones(32)}
    difference = compare_components(component("ours", reset), component("theirs", model))

    [finding] = difference_findings("transformer", difference, Change.ALLOWED)

    assert (finding.code, finding.location) == ("GM319", NORM)
    assert "is 1 everywhere" in finding.message


def examined(component: Component, check) -> list:
    return list(check(Part("transformer", component, lambda *_: None)))


def float8(tensor: torch.Tensor, *, scaled: bool = True) -> torch.Tensor:
    scale = tensor.abs().max() / 448
    codes = (tensor / scale).to(torch.float8_e4m3fn).float()
    return codes * scale if scaled else codes


def integers(tensor: torch.Tensor, most: int, group: int) -> torch.Tensor:
    groups = tensor.reshape(-1, group)
    scale = groups.abs().amax(1, keepdim=True) / most
    return ((groups / scale).round() * scale).reshape(tensor.shape)


NARROW_FORMATS = {
    "float8": (lambda t: t.to(torch.float8_e4m3fn).float(), "float8_e4m3fn can hold"),
    "scaled float8": (float8, "float8_e4m3fn times one number"),
    "8 bits by rows": (lambda t: integers(t, 127, t.shape[-1]), "8-bit integers"),
    "8 bits by tensor": (lambda t: integers(t, 127, t.numel()), "8-bit integers"),
    "4 bits": (lambda t: integers(t, 7, 32), "4 bits"),
}


@pytest.fixture
def wide() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return {f"blocks.{i}.ff.weight": torch.randn((96, 128), generator=generator) * 0.03 for i in range(4)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", NARROW_FORMATS)
def test_quantized_on_the_way(component, wide, kind, dtype):
    through, words = NARROW_FORMATS[kind]
    stored = component("ours", {name: through(tensor).to(dtype) for name, tensor in wide.items()})

    [finding] = examined(stored, quantized.quantized)

    assert (finding.code, finding.severity.value) == ("GM321", "warning")
    assert words in finding.message
    assert finding.evidence["count"] == len(wide)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_wide_weights_are_not_called_quantized(component, wide, dtype):
    assert examined(component("ours", {n: t.to(dtype) for n, t in wide.items()}), quantized.quantized) == []


def test_codes_without_their_scales(component, wide):
    stored = component("ours", {n: float8(t, scaled=False).bfloat16() for n, t in wide.items()})

    [finding] = examined(stored, quantized.quantized)

    assert (finding.code, finding.severity.value) == ("GM320", "error")
    assert "448" in finding.message


def test_one_matrix_under_two_names(component, wide):
    first, second = list(wide)[:2]

    [finding] = examined(component("ours", wide | {second: wide[first].clone()}), repeated.repeated)

    assert (finding.code, finding.location) == ("GM322", second)
    assert f"{second} is {first}" in finding.message


def test_shared_embedding_is_no_copy(component, wide):
    shared = {
        "shared.weight": wide["blocks.0.ff.weight"].clone(),
        "encoder.embed_tokens.weight": next(iter(wide.values())),
    }

    assert (
        examined(
            component("ours", {**shared, "blocks.1.ff.weight": wide["blocks.1.ff.weight"]}), repeated.repeated
        )
        == []
    )
