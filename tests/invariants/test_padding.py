"""padding_is_ignored: families that mask padding pass over it, those that read it by design are left out."""

from __future__ import annotations

import pytest

from pytest_genmodel.invariants.verdict import Outcome
from pytest_genmodel.pipelines.families import FAMILIES


@pytest.mark.parametrize("name", ["wan2.1-i2v", "hunyuan-i2v", "ltx-i2v", "ltx2-i2v", "sana-video-i2v"])
def test_family_that_masks_passes_over_padding(judged, name):
    verdict = judged("padding_is_ignored", f"tiny:{name}")

    assert (verdict.outcome, verdict.findings) == (Outcome.PASSED, ())
    counts = [int(part.split()[1]) for part in verdict.measurements["padding"].split(", ")]
    assert len(counts) == len(_family(name).masks_padding)
    assert min(counts) > 10


def _family(name):
    known = {
        "wan2.1-i2v": "wan",
        "hunyuan-i2v": "hunyuan-video",
        "ltx-i2v": "ltx",
        "ltx2-i2v": "ltx2",
        "sana-video-i2v": "sana-video",
    }
    return next(family for family in FAMILIES if family.name == known[name])


def test_family_that_reads_padding_is_left_out_with_its_reason(judged, healthy):
    verdict = judged("padding_is_ignored", healthy)

    assert verdict.outcome is Outcome.SKIPPED
    assert "by design" in verdict.reason


def test_denoiser_whose_mask_covers_the_padding_is_found(judged, monkeypatch):
    from diffusers import LTXVideoTransformer3DModel as Transformer

    call = Transformer.__call__

    def without(self, *given, encoder_attention_mask=None, **more):
        return call(self, *given, encoder_attention_mask=encoder_attention_mask * 0 + 1, **more)

    monkeypatch.setattr(Transformer, "__call__", without, raising=False)

    [finding] = judged("padding_is_ignored", "tiny:ltx-i2v").findings

    assert (finding.code, finding.component, finding.location) == (
        "GM915",
        "transformer",
        "encoder_attention_mask",
    )
    assert "a mask that covers the prompt's padding" in finding.message
