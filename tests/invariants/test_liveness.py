"""conditions_matter and tensors_matter: a healthy model uses all it has; branches that are dead are found."""

from __future__ import annotations

import diffusers
import pytest
import torch

from pytest_genmodel.invariants import cost
from pytest_genmodel.invariants.verdict import Outcome
from pytest_genmodel.pipelines import tiny
from pytest_genmodel.pipelines.alive import dead_tensors, signed
from tests.editing import TRANSFORMER, edit_tensors

TEXT = "text_encoder/model.safetensors"


@pytest.mark.parametrize("name", tiny.names())
@pytest.mark.parametrize("claim", ["conditions_matter", "tensors_matter"])
def test_healthy_family_is_alive(judged, claim, name):
    verdict = judged(claim, f"tiny:{name}")

    assert (verdict.outcome, verdict.findings, verdict.reason) == (Outcome.PASSED, (), None)


def test_image_channels_of_zero_ignore_the_image(judged, copy):
    def zero(tensors):
        weight = tensors["patch_embed.proj.weight"]
        weight[:, weight.shape[1] // 2 :] = 0
        return tensors

    edit_tensors(copy / TRANSFORMER, zero)

    [finding] = judged("conditions_matter", copy).findings

    assert (finding.code, finding.component, finding.location) == ("GM910", "vae", "image")


def test_encoder_that_says_nothing_ignores_the_prompt(judged, copy):
    edit_tensors(
        copy / TEXT, lambda tensors: {n: t * 0 if "final_layer_norm" in n else t for n, t in tensors.items()}
    )

    findings = judged("conditions_matter", copy).findings

    assert [(f.code, f.component, f.location) for f in findings] == [
        ("GM910", "text_encoder", "prompt"),
        ("GM910", "text_encoder", "negative prompt"),
        ("GM910", None, "guidance scale"),
    ]


def test_condition_that_fades_is_weaker_than_the_references(judged, copy, healthy):
    def fade(tensors):
        weight = tensors["patch_embed.proj.weight"]
        weight[:, weight.shape[1] // 2 :] *= 0.01
        return tensors

    edit_tensors(copy / TRANSFORMER, fade)

    [finding] = judged("conditions_matter", copy, healthy).findings

    assert (finding.code, finding.location) == ("GM911", "image")
    assert finding.evidence["effect"] < 0.1 * finding.evidence["reference"]
    assert judged("conditions_matter", copy).outcome is Outcome.PASSED


def test_table_that_is_loaded_and_not_read_is_dead(judged, healthy, monkeypatch):
    from diffusers.models.embeddings import CogVideoXPatchEmbed

    def without_table(self, text, image):
        self.use_positional_embeddings = self.use_learned_positional_embeddings = False
        return forward(self, text, image)

    forward = CogVideoXPatchEmbed.forward
    monkeypatch.setattr(CogVideoXPatchEmbed, "forward", without_table)

    [finding] = judged("tensors_matter", healthy).findings

    assert (finding.code, finding.component, finding.location) == (
        "GM912",
        "transformer",
        "patch_embed.pos_embedding",
    )


def test_zeros_hide_what_stands_before_them(judged, copy):
    def close(tensors):
        return {n: t * 0 if n.startswith("transformer_blocks.1.ff.net.2") else t for n, t in tensors.items()}

    edit_tensors(copy / TRANSFORMER, close)

    [finding] = judged("tensors_matter", copy).findings

    assert (finding.code, finding.location) == ("GM912", "transformer_blocks.1.ff.net.0.proj.bias")
    assert "transformer_blocks.1.ff.net.2.weight hold nothing but zeros" in finding.cause


def test_decoder_layer_that_is_skipped_is_dead(judged, healthy, monkeypatch):
    block = diffusers.models.autoencoders.autoencoder_kl_cogvideox.CogVideoXMidBlock3D
    monkeypatch.setattr(block, "forward", lambda self, hidden, *_, **__: (hidden, {}))

    verdict = judged("tensors_matter", healthy)

    assert [(f.code, f.component) for f in verdict.findings] == [("GM912", "vae")]


def test_large_model_needs_the_full_level(judged, healthy, monkeypatch):
    monkeypatch.setattr(cost, "LARGEST_QUICK", 1000)

    assert "--genmodel-level=full" in judged("tensors_matter", healthy).reason


def test_no_step_is_no_sample(judged, healthy):
    assert "at least one step" in judged("conditions_matter", healthy, parameters={"steps": 0}).reason


def test_model_is_left_as_it_was():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    model[0].requires_grad_(False)
    model[1].weight.grad = torch.ones(3, 3)

    dead = dead_tensors(model, lambda: signed(model[1](torch.ones(1, 3))))

    assert dead == ("0.bias", "0.weight")
    assert not any(p.requires_grad for p in model[0].parameters())
    assert torch.equal(model[1].weight.grad, torch.ones(3, 3))
    assert model[1].bias.grad is None


def test_guidance_without_a_second_call_is_not_asked_for(judged):
    measured = judged("conditions_matter", "tiny:hunyuan-i2v").measurements

    assert set(measured["effects"]) == {"image", "prompt"}
