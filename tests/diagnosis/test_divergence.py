"""The first divergence names exactly the module, the argument and the cause: faults at known places."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial

import pytest
import torch

from pytest_genmodel.diagnosis.divergence import find_divergence
from pytest_genmodel.diagnosis.divergence_finding import Allowed, divergence_finding, unseen_finding
from pytest_genmodel.diagnosis.rules import Severity
from pytest_genmodel.faults.copy import clone
from pytest_genmodel.faults.registry import all_faults
from pytest_genmodel.pipelines.tracing import Side
from pytest_genmodel.session import GenmodelSession
from pytest_genmodel.settings import Settings

FAULTS = all_faults()
ATTENTION = "transformer_blocks.1.attn1"


@pytest.fixture(scope="module")
def opened():
    sessions = []

    def opened(folder):
        """A context with live models of its own."""
        sessions.append(GenmodelSession(Settings(candidates=(str(folder),))))
        return sessions[-1].context(0)

    yield opened
    for session in sessions:
        session.close()


@pytest.fixture(scope="module")
def reference(opened, healthy):
    return opened(healthy)


@pytest.fixture(scope="module")
def candidate(opened, healthy):
    return opened(healthy).candidate


@pytest.fixture(scope="module")
def probe(reference):
    return reference.probe.but(steps=2)


@contextmanager
def changed(candidate, change):
    """Change live objects as long as the context lasts; `change` gives what takes it back."""
    undo = change(candidate.diffusers)
    try:
        yield
    finally:
        undo()


def values(path, edit):
    """Change a parameter or buffer in place."""

    def change(live):
        component, _, name = path.partition(":")
        owner, _, last = name.rpartition(".")
        tensor = getattr(getattr(live, component).get_submodule(owner), last)
        before = tensor.detach().clone()
        with torch.no_grad():
            tensor.copy_(edit(tensor))
        return lambda: tensor.data.copy_(before)

    return change


def attribute(path, name, value):
    """Set an attribute of a module, or of the pipeline for an empty path."""

    def change(live):
        component, _, inner = path.partition(":")
        part = getattr(live, component) if component else live
        owner = part.get_submodule(inner) if inner else part
        before = getattr(owner, name)
        setattr(owner, name, value)
        return partial(setattr, owner, name, before)

    return change


def hook(live):
    block = live.transformer.transformer_blocks[0].ff
    return block.register_forward_hook(lambda module, inputs, output: output * 1.01).remove


def processor(live):
    class Own(type(live.transformer.transformer_blocks[1].attn1.processor)):
        def __call__(self, attn, hidden_states, **options):
            return super().__call__(attn, hidden_states * 1.5, **options)

    return attribute(f"transformer:{ATTENTION}", "processor", Own())(live)


def mode(live):
    dropout = live.text_encoder.encoder.block[0].layer[1].dropout.train()
    return dropout.eval


def adapter(live):
    from peft import LoraConfig

    generator = torch.Generator().manual_seed(0)
    live.transformer.add_adapter(LoraConfig(r=2, target_modules=[f"{ATTENTION}.to_k"], lora_alpha=6))
    with torch.no_grad():
        for name, parameter in live.transformer.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return live.transformer.unload_lora


def twice(tensor):
    return tensor * 2


def rounded(tensor):
    return tensor.bfloat16().float()


def one_nan(tensor):
    tensor = tensor.clone()
    tensor.view(-1)[0] = torch.nan
    return tensor


LIVE = {
    "weight": (
        values(f"transformer:{ATTENTION}.to_v.weight", twice),
        ("GM950", "transformer", f"{ATTENTION}.to_v"),
        f"{ATTENTION}.to_v.weight differs",
    ),
    "bias of the last layer": (
        values("transformer:proj_out.bias", lambda bias: bias + 0.1),
        ("GM950", "transformer", "proj_out"),
        "proj_out.bias differs",
    ),
    "cast of one layer": (
        values("transformer:transformer_blocks.0.ff.net.0.proj.weight", rounded),
        ("GM950", "transformer", "transformer_blocks.0.ff.net.0.proj"),
        "rounded to bfloat16",
    ),
    "table that the module adds itself": (
        values("transformer:patch_embed.pos_embedding", torch.zeros_like),
        ("GM950", "transformer", "patch_embed"),
        "patch_embed.pos_embedding differs",
    ),
    "not a number": (
        values(f"transformer:{ATTENTION}.norm_q.weight", one_nan),
        ("GM950", "transformer", f"{ATTENTION}.norm_q"),
        "NaN",
    ),
    "text encoder": (
        values("text_encoder:encoder.block.1.layer.1.DenseReluDense.wo.weight", twice),
        ("GM950", "text_encoder", "encoder.block.1.layer.1.DenseReluDense.wo"),
        "times 2",
    ),
    "epsilon": (
        attribute("transformer:transformer_blocks.0.norm1.norm", "eps", 0.01),
        ("GM951", "transformer", "transformer_blocks.0.norm1.norm"),
        "eps is 0.01, the reference's 1e-05",
    ),
    "processor": (
        processor,
        ("GM951", "transformer", ATTENTION),
        "processor is",
    ),
    "activation": (
        attribute("transformer:transformer_blocks.1.ff.net.0", "approximate", "none"),
        ("GM951", "transformer", "transformer_blocks.1.ff.net.0"),
        "approximate is 'none', the reference's 'tanh'",
    ),
    "hook left behind": (
        hook,
        ("GM951", "transformer", "transformer_blocks.0.ff"),
        "hooked in: ",
    ),
    "dropout in training mode": (
        mode,
        ("GM951", "text_encoder", "encoder.block.0.layer.1.dropout"),
        "training is True, the reference's False",
    ),
    "adapter": (
        adapter,
        ("GM951", "transformer", f"{ATTENTION}.to_k"),
        "wears an adapter at scale 3.0",
    ),
    "scale of the image latents": (
        attribute("", "vae_scaling_factor_image", 0.2),
        ("GM952", "transformer", "hidden_states[frame 0, channels 4:8]"),
        "vae_scaling_factor_image is 0.2",
    ),
    "scheduler's table": (
        lambda live: attribute("scheduler", "alphas_cumprod", live.scheduler.alphas_cumprod * 0.99)(live),
        ("GM950", "scheduler", "scheduler:step"),
        "alphas_cumprod differs",
    ),
}
AT_REST = {
    "another_prediction_type": ("GM951", "scheduler", "scheduler:step", "prediction_type is 'epsilon'"),
    "schedule_of_a_tenth": ("GM951", "scheduler", "scheduler:set_timesteps", "num_train_timesteps"),
    "vocabulary_reversed": ("GM952", "text_encoder", "input_ids", "the first call whose inputs differ"),
    "scaling_factor_of_another_model": (
        *("GM952", "transformer", "hidden_states[frame 0, channels 4:8]"),
        "vae: scaling_factor is 1.15258426, the reference's 0.7",
    ),
    "one_layer_fewer": ("GM951", "transformer", "transformer", "num_layers is 1, the reference's 2"),
    "another_vae": ("GM950", "vae", "encoder.conv_in.conv", "encoder.conv_in.conv.weight differs"),
}
BROKEN = {
    "attention_not_scaled": (
        "GM954",
        "transformer",
        "transformer_blocks.0.attn1",
        "between norm_k and to_out.0",
    ),
    "convolution_wrong_for_large_inputs": ("GM954", "vae", "encoder.conv_in.conv", "times 1.05"),
    "image_from_0_to_1": ("GM952", "vae", "vae.encode: x", "[-1, 1] became [0, 1]"),
    "state_kept_between_calls": ("GM951", "scheduler", "scheduler:step", "step 2"),
}


def first(ours, theirs, probe, until=1, **allowed):
    found = find_divergence(ours, theirs, probe, until)
    return divergence_finding(found.divergences[0], **allowed)


def place(finding):
    return finding.code, finding.component, finding.location


@pytest.mark.parametrize("name", LIVE)
def test_change_of_a_live_model_is_found_at_its_place(candidate, reference, probe, name):
    change, wanted, words = LIVE[name]

    finding = first(Side(candidate, partial(changed, candidate, change)), Side(reference.candidate), probe)

    assert place(finding) == wanted, finding.message
    assert words in finding.message
    assert finding.severity is Severity.ERROR


@pytest.mark.parametrize("name", AT_REST)
def test_fault_of_a_checkpoint_is_found_at_its_place(opened, healthy, reference, probe, tmp_path, name):
    folder = clone(healthy, tmp_path / "faulty")
    FAULTS[name].inject(folder, healthy)

    finding = first(Side(opened(folder).candidate), Side(reference.candidate), probe)

    *wanted, words = AT_REST[name]
    assert place(finding) == tuple(wanted), finding.message
    assert words in finding.message
    assert str(tmp_path) not in str(finding.to_json())


@pytest.mark.parametrize("name", BROKEN)
def test_fault_of_a_library_is_found_at_its_place(candidate, healthy, reference, probe, name):
    broken = partial(FAULTS[name].broken, healthy)

    finding = first(Side(candidate, broken), Side(reference.candidate), probe, until=2)

    *wanted, words = BROKEN[name]
    assert place(finding) == tuple(wanted), finding.message
    assert words in finding.message


def test_decoder_is_found_behind_equal_latents(candidate, reference, probe):
    change = values("vae:decoder.norm_out.norm_layer.weight", twice)
    side = Side(candidate, partial(changed, candidate, change))

    found = find_divergence(side, Side(reference.candidate), probe, latents_agree=True)

    finding = divergence_finding(found.divergences[0])
    assert place(finding) == ("GM950", "vae", "decoder.norm_out.norm_layer")
    assert "after step 2" in finding.message


def test_difference_that_nobody_could_see_does_not_hide_a_large_one(candidate, reference, probe):
    def one_bit(tensor):
        return torch.nextafter(tensor, tensor + 1)

    small, large = values(f"transformer:{ATTENTION}.to_k.weight", one_bit), LIVE["bias of the last layer"][0]

    def both(live):
        undo = small(live), large(live)
        return lambda: [one() for one in undo]

    side = Side(candidate, partial(changed, candidate, both))

    findings = [
        divergence_finding(one)
        for one in find_divergence(side, Side(reference.candidate), probe, 1).divergences
    ]

    assert [(f.code, f.location) for f in findings] == [("GM950", f"{ATTENTION}.to_k"), ("GM950", "proj_out")]
    assert [f.evidence["within_rounding"] for f in findings] == [True, False]


def test_equal_models_have_no_divergence(candidate, reference, probe):
    found = find_divergence(Side(candidate), Side(reference.candidate), probe)

    assert found.divergences == ()
    assert found.compared > 1000
    assert unseen_finding(found.compared).code == "GM956"


def test_other_order_of_additions_is_rounding(candidate, reference, probe):
    """The same numbers added up otherwise: no module is to blame, however they grow."""

    def otherwise(live):
        linear = torch.nn.functional.linear

        def split(data, weight, bias=None):
            half = weight.shape[1] // 2
            result = linear(data[..., :half], weight[:, :half]) + linear(data[..., half:], weight[:, half:])
            return result if bias is None else result + bias

        torch.nn.functional.linear = split
        return partial(setattr, torch.nn.functional, "linear", linear)

    side = Side(candidate, partial(changed, candidate, otherwise))

    finding = first(side, Side(reference.candidate), probe, until=None)

    assert (finding.code, finding.severity) == ("GM955", Severity.NOTE), finding.message


def test_what_the_contract_allows_is_a_note(candidate, reference, probe):
    side = Side(candidate, partial(changed, candidate, LIVE["weight"][0]))
    worn = Side(candidate, partial(changed, candidate, adapter))
    allowed = Allowed(lambda component: component == "transformer", adapter=True)

    for ours in (side, worn):
        finding = first(ours, Side(reference.candidate), probe, allowed=allowed)
        assert finding.severity is Severity.NOTE
        assert finding.action.startswith("Nothing to do here")
    eps = Side(candidate, partial(changed, candidate, LIVE["epsilon"][0]))
    assert first(eps, Side(reference.candidate), probe, allowed=allowed).severity is Severity.ERROR


def test_setting_that_is_not_allowed_stands_out_from_weights_that_are(candidate, reference, probe):
    norm = "transformer:transformer_blocks.0.norm1.norm"
    weight, eps = values(f"{norm}.weight", twice), attribute(norm, "eps", 0.01)

    def both(live):
        undo = weight(live), eps(live)
        return lambda: [one() for one in undo]

    side = Side(candidate, partial(changed, candidate, both))
    allowed = Allowed(lambda component: component == "transformer")

    strict = first(side, Side(reference.candidate), probe)
    tuned = first(side, Side(reference.candidate), probe, allowed=allowed)

    assert (strict.code, tuned.code, tuned.severity) == ("GM950", "GM951", Severity.ERROR)


def test_evidence_says_it_in_numbers(candidate, reference, probe):
    side = Side(candidate, partial(changed, candidate, LIVE["weight"][0]))

    evidence = first(side, Side(reference.candidate), probe).evidence

    assert (evidence["kind"], evidence["call"], evidence["step"], evidence["class"]) == (
        "results",
        1,
        1,
        "Linear",
    )
    assert evidence["values"]["output"]["relative_difference"] == pytest.approx(1, abs=0.01)
    weight = evidence["differences"][f"{ATTENTION}.to_v.weight"]
    assert (weight["relative_difference"], weight["likeness"]) == (pytest.approx(1), "scaled")
    assert evidence["events_before"] > 300
