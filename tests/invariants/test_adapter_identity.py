"""adapter_identity: healthy models and adapters pass; each way in which real loaders and savers break is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import CogVideoXImageToVideoPipeline as Pipeline
from peft import LoraConfig
from peft.tuners.lora.layer import Linear
from safetensors.torch import load_file, save_file

from pytest_genmodel.invariants.verdict import Outcome
from pytest_genmodel.pipelines.families.base import Family
from pytest_genmodel.training.lora import train_lora

TRAINED = "tiny:cogvideox-i2v-trained"
TO_Q = "transformer_blocks.0.attn1.to_q"
FILE = "pytorch_lora_weights.safetensors"


def codes(verdict):
    return [finding.code for finding in verdict.findings]


@pytest.fixture(scope="session")
def lora(healthy, tmp_path_factory) -> Path:
    """A LoRA of the tiny pipeline, trained a little, as diffusers saves it: rank 4, alpha 8."""
    return train_lora(healthy, lr=1e-3, steps=1, seed=0, output=tmp_path_factory.mktemp("lora"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_healthy_model_passes_in_every_dtype(judged, dtype):
    verdict = judged("adapter_identity", TRAINED, dtype=dtype)

    assert (verdict.outcome, verdict.findings) == (Outcome.PASSED, ())
    measured = verdict.measurements
    assert (measured["layers"], measured["denoiser_calls"], measured["pipeline_runs"]) == (16, 8, 1)
    assert 0.01 < measured["effect"] < 0.5
    assert measured["reload_error_over_effect"] == 0.0
    assert measured["alpha_without_metadata"].startswith("lost")


def kohya(tensors, folder):
    """The same adapter as kohya's trainers write it: underscores, lora_down and lora_up, an alpha a layer."""
    renamed = {}
    for name, tensor in tensors.items():
        layer, _, role = name.removeprefix("transformer.").rpartition(".lora_")
        stem = "lora_unet_" + layer.replace(".", "_")
        renamed[f"{stem}.lora_{'down' if role.startswith('A') else 'up'}.weight"] = tensor
        renamed[f"{stem}.alpha"] = torch.tensor(2.0)
    save_file(renamed, folder / "kohya.safetensors")
    return folder / "kohya.safetensors"


def peft(tensors, folder):
    names = {f"base_model.model.{name.removeprefix('transformer.')}": t for name, t in tensors.items()}
    save_file(names, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "r": 4,
        "lora_alpha": 32,
        "target_modules": ["to_q", "to_k", "to_v", "to_out.0"],
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def mixed(tensors, folder):
    """One layer has another rank, and nothing says alpha."""
    down, up = (f"transformer.{TO_Q}.lora_{half}.weight" for half in "AB")
    cut = {down: tensors[down][:1].contiguous(), up: tensors[up][:, :1].contiguous()}
    save_file(tensors | cut, folder / FILE, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("layout", [None, kohya, peft, mixed])
def test_healthy_adapter_passes_with_its_own_names_ranks_and_alpha(judged, healthy, lora, tmp_path, layout):
    candidate = layout(load_file(lora / FILE), tmp_path) if layout else lora

    verdict = judged("adapter_identity", candidate, healthy)

    assert (verdict.outcome, verdict.findings) == (Outcome.PASSED, ())
    assert (verdict.measurements["layers"], verdict.measurements["denoiser_calls"]) == (8, 9)


def test_shared_model_and_its_adapter_are_left_alone(judged, healthy):
    from pytest_genmodel.session import GenmodelSession
    from pytest_genmodel.settings import Settings
    from pytest_genmodel.transformations.adapters import state_of

    session = GenmodelSession(Settings(candidates=(str(healthy),)))
    pipeline = session.context(0).candidate
    before = state_of(pipeline.component("transformer"))
    state = torch.get_rng_state()
    session.judge(0, "adapter_identity", {})
    session.close()

    assert state_of(pipeline.component("transformer")).differences(before) == []
    assert torch.equal(torch.get_rng_state(), state)


# --- faults ---------------------------------------------------------------------------------------------------------


def no_zero_start(patch):
    original = LoraConfig.__init__
    patch.setattr(
        LoraConfig, "__init__", lambda self, *a, **k: original(self, *a, **{**k, "init_lora_weights": False})
    )


def pissa(patch):
    original = LoraConfig.__init__
    patch.setattr(
        LoraConfig,
        "__init__",
        lambda self, *a, **k: original(self, *a, **{**k, "init_lora_weights": "pissa"}),
    )


def disable_does_not_disable(patch):
    patch.setattr(Pipeline, "disable_lora", lambda self: None)


def weight_zero_is_taken_for_none(patch):
    original = Pipeline.set_adapters
    patch.setattr(
        Pipeline,
        "set_adapters",
        lambda self, names, weights: original(self, names, [w or 1.0 for w in weights]),
    )


def unload_leaves_the_wrapper(patch):
    patch.setattr(Pipeline, "unload_lora_weights", lambda self: self.transformer.disable_lora())


def unload_after_a_change_of_the_base(patch):
    original = Pipeline.unload_lora_weights

    def unload(self):
        original(self)
        with torch.no_grad():
            self.transformer.get_submodule(TO_Q).weight.mul_(1.01)

    patch.setattr(Pipeline, "unload_lora_weights", unload)


def unload_leaves_a_hook(patch):
    original = Pipeline.unload_lora_weights

    def unload(self):
        original(self)
        self.transformer.register_forward_hook(lambda *_: None)

    patch.setattr(Pipeline, "unload_lora_weights", unload)


def delta(patch, change):
    original = Linear.get_delta_weight
    patch.setattr(
        Linear, "get_delta_weight", lambda self, name: change(original(self, name), self.scaling[name], self)
    )


def merge_ignores_alpha(patch):
    delta(patch, lambda matrix, scale, _: matrix / scale)


def merge_adds_twice(patch):
    delta(patch, lambda matrix, scale, _: 2 * matrix)


def merge_applies_alpha_twice(patch):
    delta(patch, lambda matrix, scale, _: matrix * scale)


def merge_forgets_the_division(patch):
    delta(patch, lambda matrix, scale, layer: matrix * 4)


def merge_transposes(patch):
    delta(patch, lambda matrix, scale, _: matrix.T)


def merge_is_for_another_layer(patch):
    delta(patch, lambda matrix, scale, _: matrix.roll(1, 0))


def merged_and_attached(patch):
    """The merged layer still adds its factors: twice the adapter, with the right weights."""
    original = Linear.forward

    def forward(self, x, *arguments, **options):
        result = original(self, x, *arguments, **options)
        for name in self.merged_adapters:
            result = result + self.lora_B[name](self.lora_A[name](x)) * self.scaling[name]
        return result

    patch.setattr(Linear, "forward", forward)


def unfuse_does_nothing(patch):
    patch.setattr(Pipeline, "unfuse_lora", lambda self, components: None)


def unfuse_takes_out_half(patch):
    original = Linear.unmerge

    def unmerge(self):
        for name in self.merged_adapters:
            self.scaling[name] /= 2
        original(self)

    patch.setattr(Linear, "unmerge", unmerge)


def alpha_is_lost_by_the_save(patch):
    original = Family.save_lora
    patch.setattr(
        Family,
        "save_lora",
        lambda self, pipeline, folder, tensors, _: original(self, pipeline, folder, tensors, {}),
    )


def saved(patch, change):
    original = Family.save_lora
    patch.setattr(
        Family,
        "save_lora",
        lambda self, p, folder, tensors, config: original(self, p, folder, change(tensors), config),
    )


def save_exchanges_layers(patch):
    swap = {"to_q": "to_k", "to_k": "to_q"}

    def exchanged(name):
        head, _, tail = name.partition(".attn1.")
        layer, _, rest = tail.partition(".")
        return f"{head}.attn1.{swap.get(layer, layer)}.{rest}"

    saved(patch, lambda tensors: {exchanged(name): tensor for name, tensor in tensors.items()})


def save_rounds_to_eight_bits(patch):
    saved(patch, lambda tensors: {name: t.to(torch.float8_e5m2).to(t.dtype) for name, t in tensors.items()})


def loaded(patch, change):
    """diffusers' loader gets other tensors than the file holds."""
    original = Pipeline.lora_state_dict.__func__

    def state_dict(cls, *arguments, **options):
        result = original(cls, *arguments, **options)
        tensors, *rest = result if isinstance(result, tuple) else (result,)
        changed = change(tensors)
        return (changed, *rest) if isinstance(result, tuple) else changed

    patch.setattr(Pipeline, "lora_state_dict", classmethod(state_dict))


def load_passes_over_half(patch):
    loaded(patch, lambda tensors: {name: t for name, t in tensors.items() if "blocks.0" in name})


def load_exchanges_the_factors(patch):
    """A and B as each other's transposes: their shapes fit where a layer is square."""
    other = {"lora_A": "lora_B", "lora_B": "lora_A"}

    def exchange(tensors):
        found = {}
        for name, tensor in tensors.items():
            half = "lora_A" if "lora_A" in name else "lora_B"
            found[name.replace(half, other[half])] = tensor.T.contiguous()
        return found

    loaded(patch, exchange)


FAULTS = {
    no_zero_start: (["GM820"], "prediction", "lora_B does not start at zero"),
    pissa: (["GM829", "GM820", "GM821", "GM822"], ".attn1.", "PiSSA"),
    disable_does_not_disable: (["GM821"], "prediction", "switched off"),
    weight_zero_is_taken_for_none: (["GM821"], "prediction", "at weight 0"),
    unload_leaves_the_wrapper: (["GM822"], ".attn1.", "a Linear"),
    unload_after_a_change_of_the_base: (["GM822"], f"{TO_Q}.weight", "its values are others"),
    unload_leaves_a_hook: (["GM822"], "hooks", "1 are set (0 before)"),
    merge_ignores_alpha: (["GM826", "GM823"], ".attn1.", "alpha 12 / r 4 was lost"),
    merge_adds_twice: (["GM826", "GM823"], ".attn1.", "added twice"),
    merge_applies_alpha_twice: (["GM826", "GM823"], ".attn1.", "applied twice"),
    merge_forgets_the_division: (["GM826", "GM823"], ".attn1.", "not divided by the rank (4)"),
    merge_transposes: (["GM828", "GM823"], ".attn1.", "transpose"),
    merge_is_for_another_layer: (["GM828", "GM823"], ".attn1.", "something else"),
    merged_and_attached: (["GM823"], "prediction", "the merged weights are right"),
    unfuse_does_nothing: (["GM824"], ".attn1.", "up to 1 of what was merged"),
    unfuse_takes_out_half: (["GM824"], ".attn1.", "up to 0.5"),
    alpha_is_lost_by_the_save: (["GM825"], FILE, "1/3 of the strength"),
    save_exchanges_layers: (["GM825"], FILE, "exchanged"),
    save_rounds_to_eight_bits: (["GM825"], FILE, "cast"),
    load_passes_over_half: (["GM825", "GM827"], FILE, ""),
    load_exchanges_the_factors: (["GM825", "GM828"], FILE, ""),
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_fault_is_found_and_named(judged, monkeypatch, fault, dtype):
    wanted, location, said = FAULTS[fault]
    fault(monkeypatch)

    verdict = judged("adapter_identity", TRAINED, dtype=dtype)

    assert verdict.outcome is Outcome.FAILED
    assert list(dict.fromkeys(codes(verdict))) == wanted
    first = verdict.findings[0]
    assert location in first.location
    assert said in f"{first.message} {first.cause}"


def test_wrong_prefix_that_loads_nothing_is_found(judged, monkeypatch):
    loaded(
        monkeypatch, lambda tensors: {f"unet.{n.removeprefix('transformer.')}": t for n, t in tensors.items()}
    )

    verdict = judged("adapter_identity", TRAINED)

    assert verdict.outcome is Outcome.FAILED
    assert codes(verdict)[0] == "GM825"


def test_rank_of_the_first_layer_for_the_alpha_of_all_is_found(judged, healthy, lora, tmp_path, monkeypatch):
    """What diffusers did before 2026: the file has mixed ranks and no alpha."""
    from diffusers.loaders import peft as loader

    original = loader._create_lora_config

    def config(*arguments, **options):
        made = original(*arguments, **options)
        made.lora_alpha, made.alpha_pattern = 1, {}
        return made

    candidate = mixed(load_file(lora / FILE), tmp_path)
    monkeypatch.setattr(loader, "_create_lora_config", config)

    verdict = judged("adapter_identity", candidate, healthy)

    found = next(finding for finding in verdict.findings if finding.code == "GM826")
    assert "1/4 of the strength" in found.message
    assert found.evidence["count"] == 7


def test_family_without_lora_is_skipped_with_a_reason(judged):
    verdict = judged("adapter_identity", "tiny:svd")

    assert (verdict.outcome, "takes no LoRA" in verdict.reason) == (Outcome.SKIPPED, True)


def test_without_peft_it_is_skipped_with_the_extra(judged, healthy, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "peft" else find(name, *a)
    )

    verdict = judged("adapter_identity", healthy)

    assert (verdict.outcome, "pytest-genmodel[lora]" in verdict.reason) == (Outcome.SKIPPED, True)
