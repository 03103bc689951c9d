"""What converters, mergers and savers mix up: rows of a fused matrix, bits, bases, layers, a process's share."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from pytest_genmodel.checkpoints.checkpoint import Checkpoint, Kind
from pytest_genmodel.checkpoints.component import Component
from pytest_genmodel.checkpoints.diff import compare_components
from pytest_genmodel.checkpoints.opening import open_checkpoint
from pytest_genmodel.diagnosis.at_rest import adapter, adapter_size, files, latent_statistics, names, values
from pytest_genmodel.diagnosis.at_rest.part import Part
from pytest_genmodel.diagnosis.change import Change
from pytest_genmodel.diagnosis.difference import difference_findings
from pytest_genmodel.diagnosis.difference.merged import merged_findings

PARTS, WIDTH = ("to_q", "to_k", "to_v"), 8
Tensors = dict[str, torch.Tensor]


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.05


@pytest.fixture
def model() -> Tensors:
    tensors: Tensors = {"proj.weight": draw(1, 40, 4, 3, 2, 2)}
    for block in range(3):
        for number, part in enumerate((*PARTS, "ff")):
            tensors[f"blocks.{block}.attn.{part}.weight"] = draw(10 * block + number, 48, 32)
            tensors[f"blocks.{block}.attn.{part}.bias"] = draw(100 + 10 * block + number, 48)
        for number, norm in enumerate(("norm_q", "norm_k")):
            tensors[f"blocks.{block}.attn.{norm}.weight"] = 1 + 4 * draw(200 + 10 * block + number, 24)
    return tensors


@pytest.fixture
def component(tmp_path):
    def make(name: str, tensors: Tensors, **config: object) -> Component:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        save_file({n: t.contiguous() for n, t in tensors.items()}, folder / "w.safetensors")
        (folder / "config.json").write_text(json.dumps(config))
        return Component("transformer", folder, "", "", weights_file=folder / "w.safetensors")

    return make


def trained(tensors: Tensors, drift: float = 0.01) -> Tensors:
    return {
        n: t + drift * t.std() * 20 * draw(5000 + i, *t.shape) for i, (n, t) in enumerate(tensors.items())
    }


@pytest.fixture
def told(component, model):
    """The findings about `ours` against the model: their codes, severities and places."""

    def tell(ours: Tensors, change: Change = Change.REQUIRED):
        difference = compare_components(component("ours", ours), component("theirs", model))
        found = list(difference_findings("transformer", difference, change))
        return [(f.code, f.severity.value, f.location) for f in found], found

    return tell


def by_heads(tensors: Tensors, block: int, end: str, *, back: bool = False) -> Tensors:
    """q, k and v as thirds of a matrix that runs head by head; `back` as heads of one that runs by thirds."""
    stored = [f"blocks.{block}.attn.{part}.{end}" for part in PARTS]
    shape = tensors[stored[0]].shape
    if back:
        fused = torch.cat([tensors[n] for n in stored]).reshape(-1, 3, WIDTH, *shape[1:]).transpose(0, 1)
    else:
        fused = torch.stack([tensors[n].reshape(-1, WIDTH, *shape[1:]) for n in stored], 1)
    return dict(zip(stored, fused.reshape(-1, *shape[1:]).chunk(3), strict=True))


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("drift", [0.0, 0.01])
def test_fused_matrix_that_was_cut_at_the_wrong_rows(told, model, drift, back):
    mixed = {}
    for block in range(3):
        for end in ("weight", "bias"):
            mixed |= by_heads(model, block, end, back=back)

    codes, found = told(trained(model | mixed, drift))

    assert codes[0] == ("GM326", "error", "blocks.0.attn.to_k.weight")
    assert sorted(found[0].evidence["tensors"]) == sorted(mixed)
    assert f"in stretches of {WIDTH} rows" in found[0].message


LAYOUTS = {
    "GGUF": ("blocks.0.attn.to_q.weight", lambda t: t.T.reshape(t.shape), "1, 0"),
    "channels last": ("proj.weight", lambda t: t.permute(0, 2, 3, 4, 1).reshape(t.shape), "0, 2, 3, 4, 1"),
    "kernels first": ("proj.weight", lambda t: t.permute(2, 3, 4, 1, 0).reshape(t.shape), "2, 3, 4, 1, 0"),
}


@pytest.mark.parametrize("kind", LAYOUTS)
def test_values_in_the_layout_of_another_library(told, model, kind):
    name, change, words = LAYOUTS[kind]

    codes, found = told(trained(model | {name: change(model[name])}))

    assert codes[0] == ("GM318", "error", name)
    assert f"the axes in the order {words}" in found[0].message


BITS = {
    "bfloat16 as float16": (torch.bfloat16, torch.float16),
    "e4m3 as e5m2": (torch.float8_e4m3fn, torch.float8_e5m2),
}


@pytest.mark.parametrize("kind", BITS)
def test_bits_that_were_read_as_another_dtype(told, model, kind):
    written, read = BITS[kind]
    matrices = {n: t.to(written).view(read).float() for n, t in model.items() if n.endswith("weight")}

    codes, found = told(model | matrices)

    assert codes[0][:2] == ("GM327", "error")
    assert (found[0].evidence["written"], found[0].evidence["read"]) == tuple(
        str(dtype).removeprefix("torch.") for dtype in (written, read)
    )


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_factor_of_two_is_no_other_dtype(told, model, factor):
    name = next(n for n in model if n.endswith("to_q.weight"))

    codes, _ = told(model | {name: model[name] * factor})

    assert "GM327" not in {code for code, *_ in codes}


@pytest.mark.parametrize(
    ("factor", "words"), [(0.63, "started from zeros"), (2.0, "added up"), (-1.0, "the wrong way round")]
)
def test_one_number_far_from_one_for_every_tensor(told, model, factor, words):
    codes, found = told({n: factor * t for n, t in trained(model).items()})

    assert [code for code, *_ in codes] == ["GM316"]
    assert codes[0][1] == "error"
    assert found[0].evidence["factor"] == pytest.approx(factor, rel=0.01)
    assert words in found[0].cause


@pytest.mark.parametrize(("change", "severity"), [(Change.REQUIRED, "error"), (Change.ALLOWED, "warning")])
def test_another_model_and_a_difference_are_no_fine_tune(told, model, change, severity):
    other = {n: t.mean() + t.std() * 20 * draw(7000 + i, *t.shape) for i, (n, t) in enumerate(model.items())}
    change_alone = {n: t - model[n] for n, t in trained(model).items()}

    for ours, words in ((other, "another model's"), (change_alone, "the difference from the base")):
        codes, found = told(ours, change)

        assert codes[0][:2] == ("GM328", severity)
        assert words in found[0].cause


def test_short_tensors_of_all_blocks_are_known_together(told, model):
    swapped = {
        n: model[n.replace("norm_q", "norm_?").replace("norm_k", "norm_q").replace("norm_?", "norm_k")]
        for n in model
        if "norm_" in n
    }

    codes, found = told(trained(model | swapped))

    assert codes[0] == ("GM314", "error", "blocks.0.attn.norm_k.weight")
    assert sorted(found[0].evidence["tensors"]) == sorted(swapped)


@pytest.mark.parametrize("which", ["first", "last"])
def test_share_of_one_process(told, model, which):
    ours = trained(model)
    for name, base in model.items():
        if base.ndim > 1:
            half = len(base) // 2
            mine, rest = ours[name], base
            ours[name] = torch.cat(
                [rest[:half], mine[half:]] if which == "first" else [mine[:half], rest[half:]]
            )

    codes, found = told(ours)

    assert codes[0][:2] == ("GM329", "error")
    assert f"the {which} 50 %" in found[0].message


def test_training_that_moves_few_values_is_no_share(told, model):
    """In a narrow dtype a small step changes a part of the values, anywhere; a frozen block changes none."""
    ours = {
        n: torch.where(draw(9000 + i, *t.shape) > 0.02, t * 1.01, t) for i, (n, t) in enumerate(model.items())
    } | {n: t for n, t in model.items() if n.startswith("blocks.1.")}

    assert {code for code, *_ in told(ours)[0]} == {"GM306"}


@pytest.mark.parametrize("drift", [0.0, 0.01, 0.3, 0.8])
def test_training_mixes_nothing(told, model, drift):
    assert {code for code, *_ in told(trained(model, drift))[0]} <= {"GM306", "GM302"}


def examined(component: Component, check) -> list[tuple[str, str]]:
    return [(f.code, f.severity.value) for f in check(Part("transformer", component, lambda *_: None))]


def test_zeros_all_over(component, model):
    wide = {n: torch.cat([t] * 2) for n, t in model.items() if n.endswith("weight") and t.ndim > 1}
    pierced = {n: torch.where(draw(3, *t.shape) > 0, t, torch.zeros(())) for n, t in wide.items()}

    assert examined(component("ours", pierced), values.holes) == [("GM330", "warning")]
    assert examined(component("theirs", wide), values.holes) == []


def test_integers_need_a_configuration(component, model):
    name = "blocks.0.attn.to_q.weight"
    stored = model | {name: (model[name] * 500).to(torch.int8), "blocks.0.attn.to_q.SCB": draw(1, 48)}

    assert examined(component("ours", stored), names.scaled_8bit) == [("GM212", "error")]
    told_so = component("ours", stored, quantization_config={"load_in_8bit": True})
    assert examined(told_so, names.scaled_8bit) == []


LORA = "pytorch_lora_weights.safetensors"


@pytest.fixture
def factors(tmp_path) -> Tensors:
    made = {}
    for block in range(3):
        for part in PARTS:
            layer = f"transformer.blocks.{block}.attn.{part}"
            number = len(made)
            made |= {f"{layer}.lora_A.weight": draw(500 + number, 4, 32)}
            made |= {f"{layer}.lora_B.weight": draw(600 + number, 48, 4)}
    return made


@pytest.fixture
def lora(tmp_path):
    def write(factors: Tensors) -> None:
        header = json.dumps({"transformer.r": 4, "transformer.lora_alpha": 8})
        save_file(factors, tmp_path / LORA, {"format": "pt", "lora_adapter_metadata": header})

    return write


@pytest.mark.parametrize(("times", "severity"), [(1.0, "warning"), (2.0, "error"), (0.0, None)])
def test_adapter_beside_what_it_was_merged_into(component, model, factors, lora, tmp_path, times, severity):
    lora(factors)
    merged = trained(model, 1e-6) if not times else dict(model)
    for name, down in factors.items():
        if ".lora_A." in name:
            weight = name.removeprefix("transformer.").replace("lora_A.", "")
            merged[weight] = merged[weight] + times * 2 * factors[name.replace("lora_A", "lora_B")] @ down
    ours = component("ours", merged)
    difference = compare_components(ours, component("theirs", model))
    checkpoint = Checkpoint(
        "run", tmp_path, Kind.PIPELINE, components={"transformer": ours}, unread=(tmp_path / LORA,)
    )

    found = list(merged_findings("transformer", difference, checkpoint))

    assert [(f.code, f.severity.value) for f in found] == ([("GM810", severity)] if severity else [])
    if found:
        assert found[0].location == "blocks.0.attn.to_k.weight" or "to_q" in found[0].location
        assert found[0].evidence["times"] == pytest.approx(times, rel=0.01)


def test_factors_of_one_layer_in_several(factors, lora, tmp_path):
    def findings() -> list[tuple[str, str, str]]:
        stored = open_checkpoint(tmp_path / LORA, LORA).adapter
        part = Part("transformer", None, lambda *_: None, own_weights=stored.weights)
        return [(f.code, f.severity.value, f.location) for f in adapter.repeated(part, stored)]

    lora(factors)
    assert findings() == []
    copied = factors | {
        "transformer.blocks.1.attn.to_q.lora_B.weight": factors[
            "transformer.blocks.0.attn.to_q.lora_B.weight"
        ].clone()
    }
    lora(copied)
    assert findings() == [("GM811", "error", "blocks.1.attn.to_q.lora_B.weight")]


def sharded(tmp_path, name: str, *parts: Tensors) -> Component:
    folder = tmp_path / name
    folder.mkdir()
    placed = {}
    for number, part in enumerate(parts, 1):
        file = f"diffusion_pytorch_model-0000{number}-of-0000{len(parts)}.safetensors"
        save_file({n: t.contiguous() for n, t in part.items()}, folder / file)
        placed |= dict.fromkeys(part, file)
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    return Component("transformer", folder, "diffusers", "")


@pytest.mark.parametrize(("cut", "codes"), [(7, ["GM331", "GM306"]), (8, ["GM306"])])
def test_shard_of_another_save_cuts_a_block_and_frozen_blocks_do_not(component, model, tmp_path, cut, codes):
    """Blocks lie in order; the first shard is the base's: 7 tensors end within block 0, 10 with it."""
    order = sorted(name for name in model if name.startswith("blocks."))
    begin = cut if cut == 7 else 10
    ours = trained({name: model[name] for name in order})
    shards = ({n: model[n] for n in order[:begin]}, {n: ours[n] for n in order[begin:]})
    theirs = component("theirs", {name: model[name] for name in order})

    found = list(
        difference_findings(
            "transformer", compare_components(sharded(tmp_path, "ours", *shards), theirs), Change.REQUIRED
        )
    )

    assert [finding.code for finding in found] == codes
    if len(codes) > 1:
        assert found[0].location == "diffusion_pytorch_model-00001-of-00002.safetensors"


@pytest.mark.parametrize("change", [Change.REQUIRED, Change.FORBIDDEN])
def test_stretch_of_bytes_that_is_another_s(component, model, change):
    theirs, ours = component("theirs", model), component("ours", model)
    file = ours.weights.files[0]
    content = bytearray(file.read_bytes())
    begin, size = len(content) // 2 // 64 * 64, len(content) // 8 // 64 * 64
    content[begin : begin + size] = content[begin - size : begin]
    file.write_bytes(content)

    [finding] = difference_findings("transformer", compare_components(ours, theirs), change)

    assert (finding.code, finding.severity.value) == ("GM332", "error")
    assert abs(finding.evidence["begin"] - begin) < 16
    assert abs(finding.evidence["end"] - begin - size) < 16


def test_one_block_that_was_trained_is_no_stretch(told, model):
    trained_block = trained({n: t for n, t in model.items() if n.startswith("blocks.1.")})

    assert [code for code, *_ in told(model | trained_block)[0]] == ["GM306"]


@pytest.mark.parametrize(
    ("drift", "variant", "codes"), [(0.0, "fp16", []), (0.05, "fp16", ["GM105"]), (0.05, "ema", [])]
)
def test_variant_in_another_dtype_holds_these_weights_rounded(tmp_path, model, drift, variant, codes):
    stem = "diffusion_pytorch_model"
    save_file(trained(model, drift), tmp_path / f"{stem}.safetensors")
    save_file({n: t.half() for n, t in model.items()}, tmp_path / f"{stem}.{variant}.safetensors")

    found = list(files.other_variants(Component("transformer", tmp_path, "diffusers", "")))

    assert [(f.code, f.severity.value) for f in found] == [(code, "warning") for code in codes]


def test_halves_of_two_ranks_do_not_break_the_check_of_their_size(component, model, factors, lora, tmp_path):
    name = "transformer.blocks.0.attn.to_q.lora_A.weight"
    lora(factors | {name: factors[name][:2].clone()})
    stored = open_checkpoint(tmp_path / LORA, LORA).adapter
    part = Part("transformer", component("theirs", model), lambda *_: None, own_weights=stored.weights)

    assert list(adapter_size.proportion(part, stored)) == []


def test_latent_statistics_that_are_those_of_a_new_autoencoder(tmp_path):
    def found(mean: torch.Tensor | None, spread: torch.Tensor | None, **config: object) -> list[str | None]:
        stored = {"decoder.weight": draw(1, 8, 8)}
        if mean is not None and spread is not None:
            stored |= {"latents_mean": mean, "latents_std": spread}
        save_file(stored, tmp_path / "w.safetensors")
        (tmp_path / "config.json").write_text(json.dumps(config))
        vae = Component("vae", tmp_path, "diffusers", "", weights_file=tmp_path / "w.safetensors")
        checked = latent_statistics.latent_statistics(Part("vae", vae, lambda *_: None))
        return [f.location for f in checked if f.code == "GM333"]

    assert found(torch.zeros(8), torch.ones(8)) == ["latents_mean"]
    assert found(draw(2, 8), torch.ones(8)) == []
    assert found(None, None, latents_mean=[0, 0], latents_std=[1.0, 1.0]) == ["config.json:latents_mean"]
    assert found(None, None, latents_mean=[0.1, 0], latents_std=[1.0, 1.0]) == []
    assert found(None, None) == []
