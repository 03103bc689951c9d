"""absolute_checks: what is given to the denoiser in its first call, and what is made of what the VAE decodes.

That each kind of fault is found in CogVideoX is in the matrix of faults; here are the layouts of other families, and
the limits.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import WanImageToVideoPipeline

from pytest_genmodel.invariants.absolute.again import Again, ask_again, long_prompts
from pytest_genmodel.invariants.absolute.frames import _why, frame_findings
from pytest_genmodel.invariants.absolute.image_latents import image_latent_findings
from pytest_genmodel.invariants.absolute.initial_noise import (
    _moments,
    _repeated,
    initial_noise_findings,
    least_alike,
)
from pytest_genmodel.invariants.absolute.prompt_end import prompt_findings
from pytest_genmodel.invariants.absolute.told import _pixels
from pytest_genmodel.invariants.verdict import Outcome
from pytest_genmodel.pipelines.observed_run import ObservedRun, observe_run
from pytest_genmodel.pipelines.recording import kept
from pytest_genmodel.pipelines.sampling import Sample
from pytest_genmodel.session import GenmodelSession
from pytest_genmodel.settings import Settings


@pytest.fixture(scope="module")
def seen():
    """The context and the observed run of a tiny pipeline, by name."""
    made = {}

    def see(name):
        if name not in made:
            session = GenmodelSession(Settings(candidates=(f"tiny:{name}",)))
            context = session.context(0)
            made[name] = (session, context, observe_run(context.candidate, context.probe))
        return made[name][1:]

    yield see
    for session, *_ in made.values():
        session.close()


def given(run: ObservedRun, argument: str, change, number: int = 0) -> ObservedRun:
    """The run, as if this call of the denoiser had been given another value."""
    denoised = list(run.denoised)
    call = denoised[number].call
    arguments = {**call.arguments, argument: kept(change(call.arguments[argument].values.clone()))}
    denoised[number] = replace(denoised[number], call=replace(call, arguments=arguments))
    return replace(run, denoised=denoised)


def again_of(run: ObservedRun, factor: float = -1.0) -> Again:
    """Another seed's first call: here the first one's with other noise."""
    told = {
        path: kept(value.values * factor) if path in ("hidden_states", "sample") else value
        for path, value in run.denoised[0].call.arguments.items()
    }
    return Again(None, (told,), None, ())


def found(findings):
    return [(f.code, f.component, f.location) for f in findings]


def rolled(axis, *, channels=None, tokens=None):
    """Move by one along an axis: only these channels, or a frame's worth of tokens."""

    def change(value):
        if channels is None:
            return value.roll(tokens or 1, axis)
        part = value.narrow(3 - axis, *channels)
        return torch.cat([value.narrow(3 - axis, 0, channels[0]), part.roll(1, axis)], 3 - axis)

    return change


IMAGES = {
    "wan2.1-i2v": ("transformer", "hidden_states", rolled(2, channels=(20, 16)), "another frame"),
    "ltx-i2v": ("transformer", "hidden_states", rolled(1, tokens=4), "another frame"),
    "i2vgen-xl": ("unet", "image_latents", rolled(2), "another frame"),
    "hunyuan-framepack": ("transformer", "latents_clean", rolled(2), "another frame"),
    "svd": ("unet", "sample", lambda v: torch.cat([v[:, :1], v[:, 1:] * 0], 1), "another frame"),
    "hunyuan-i2v": ("transformer", "hidden_states", lambda v: v.roll(1, 1), "other channels"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_image_is_looked_for_where_the_family_puts_it(seen, name):
    context, run = seen(name)
    component, argument, change, cause = IMAGES[name]

    healthy = list(image_latent_findings(context, run))
    [finding] = image_latent_findings(context, given(run, argument, change))

    assert healthy == []
    assert found([finding]) == [("GM970", component, argument)]
    assert cause in finding.cause


def test_image_is_looked_for_in_the_second_step_too(seen):
    context, run = seen("ltx-i2v")
    lost = given(run, "hidden_states", lambda tokens: tokens.roll(4, 1), number=-1)

    [finding] = image_latent_findings(context, lost)

    assert found([finding]) == [("GM970", "transformer", "hidden_states")]
    assert "in the second step 0 does not" in finding.message


def test_family_that_does_not_say_where_its_image_stands_is_not_judged(seen, monkeypatch):
    context, run = seen("ltx-i2v")
    monkeypatch.setattr(type(context.candidate.family), "image_latents", lambda *_: None)

    assert list(image_latent_findings(context, run)) == []
    assert list(initial_noise_findings(context, run, again_of(run))) == []
    assert "not judged" in context.measurements["image_latents"]
    assert "not judged" in context.measurements["initial_noise"]


@pytest.mark.parametrize(
    ("name", "argument", "power", "cause"),
    [("svd", "sample", 1, "twice"), ("cogvideox1.5-i2v", "hidden_states", 1, "not multiplied")],
)
def test_image_latents_have_the_scale_of_their_family(seen, name, argument, power, cause):
    """SVD takes them as the VAE gives them, CogVideoX 1.5 divides them."""
    context, run = seen(name)
    scaling = context.candidate.diffusers.vae.config.scaling_factor

    def scaled(value):
        noise, image = value.chunk(2, 2)
        return torch.cat([noise, image * scaling**power], 2)

    [finding] = image_latent_findings(context, given(run, argument, scaled))

    assert finding.code == "GM976"
    assert finding.evidence["factor"] == pytest.approx(scaling**power, rel=1e-3)
    assert cause in str(finding.cause)


@pytest.mark.parametrize(
    ("name", "argument"), [("ltx-i2v", "hidden_states"), ("svd", "sample"), ("hunyuan-i2v", "hidden_states")]
)
def test_noise_is_what_was_drawn_in_every_layout(seen, name, argument):
    """Tokens, frames before channels, and with a share of the image."""
    context, run = seen(name)

    healthy = list(initial_noise_findings(context, run, again_of(run, -1.0)))
    tenth = list(initial_noise_findings(context, given(run, argument, lambda v: v * 0.9), again_of(run)))

    assert found(healthy) == [
        ("GM973", context.candidate.family.denoiser, argument)
    ]  # a sign is no other seed
    assert "GM971" in [finding.code for finding in tenth]
    [scaled] = [finding for finding in tenth if finding.code == "GM971"]
    assert scaled.evidence["factor"] == pytest.approx(0.9, abs=2e-3)


def test_noise_of_the_sound_is_what_was_drawn(seen):
    context, run = seen("ltx2-i2v")
    sound = "audio_hidden_states"
    louder = given(run, sound, lambda values: values * 1.1)

    assert found(initial_noise_findings(context, run, again_of(run))) == [
        ("GM973", "transformer", "hidden_states")
    ]
    [_, finding] = initial_noise_findings(context, louder, again_of(run))

    assert found([finding]) == [("GM971", "transformer", sound)]
    assert finding.evidence["factor"] == pytest.approx(1.1)


def test_levels_that_explode_leave_the_noise_its_share(seen, monkeypatch):
    """A first level of 3: the denoiser sees 3 / sqrt(10) of the noise, or all of it."""
    context, run = seen("svd")
    scheduler = context.candidate.diffusers.scheduler
    monkeypatch.setattr(scheduler, "sigmas", torch.tensor([3.0, 1.0, 0.0]))

    def codes(factor):
        scaled = given(run, "sample", lambda values: values * factor)
        return [finding.code for finding in initial_noise_findings(context, scaled, again_of(scaled))]

    assert codes(3 / 10**0.5) == codes(1.0) == ["GM973"]
    assert sorted(codes(0.9)) == ["GM971", "GM973"]


def test_noise_of_no_known_draw_is_judged_by_mean_and_spread():
    """As many values as a clip of the real size has: what no chance explains is found, what it explains is not."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn((16, 8, 60, 90), generator=generator, dtype=torch.float64)

    assert list(_moments(noise, "transformer", "hidden_states")) == []
    assert list(_repeated(noise, "transformer", "hidden_states")) == []
    for wrong, what in ((noise * 0.95, "mean square of 0.9 "), (noise + 0.05, "mean of +0.0499")):
        [finding] = _moments(wrong, "transformer", "hidden_states")
        assert finding.code == "GM971"
        assert what in finding.message
    half = torch.cat([noise[:, :1] * 0.5 + noise[:, 1:2] * 0.5**0.5, noise[:, 1:]], 1)
    [finding] = _repeated(half, "transformer", "hidden_states")
    assert finding.code == "GM972"
    assert "frames 0 and 1 " in finding.message


def test_healthy_noise_of_few_values_never_alarms():
    for seed in range(300):
        noise = torch.randn((4, 3, 2, 2), generator=torch.Generator().manual_seed(seed)).double()
        assert not list(_moments(noise, "", "")), seed
        assert not list(_repeated(noise, "", "")), seed


def test_limit_of_a_cosine_follows_the_size_and_the_number_of_pairs():
    assert least_alike(1, 1) == 1.0
    assert 0.9 < least_alike(16, 3) < 1.0
    assert least_alike(10_000, 1) < least_alike(10_000, 500) < 0.1


def test_prompts_fill_what_there_is_room_for_and_differ_in_the_last_word(seen):
    context, run = seen("hunyuan-i2v")
    tokenizer = context.candidate.diffusers.tokenizer

    prompts = long_prompts(context.candidate, run.probe)

    assert prompts.room == 32 - context.candidate.family.prompt_tail == prompts.tokens
    assert len(tokenizer(prompts.first).input_ids) == len(tokenizer(prompts.second).input_ids)
    assert prompts.first.split()[:-1] == prompts.second.split()[:-1]
    assert prompts.first != prompts.second


def test_pipeline_without_a_prompt_says_so(seen):
    context, run = seen("svd")

    again = ask_again(context, run)

    assert (again.prompts, again.rows) == (None, ())
    assert list(prompt_findings(context, again)) == []
    assert "not judged" in context.measurements["prompt"]


def test_exchanged_prompts_are_no_lost_end_where_each_has_a_call(judged, monkeypatch):
    """Wan calls its transformer twice a step: the first call is told of the wrong prompt."""
    encode = WanImageToVideoPipeline.encode_prompt
    monkeypatch.setattr(
        WanImageToVideoPipeline,
        "encode_prompt",
        lambda self, prompt, negative_prompt=None, *rest, **more: encode(
            self, negative_prompt, prompt, *rest, **more
        ),
    )

    verdict = judged("absolute_checks", "tiny:wan2.1-i2v")

    assert verdict.outcome is Outcome.FAILED
    assert found(verdict.findings) == [("GM936", None, "step 1")]
    assert "changed places" in verdict.findings[0].cause


def _turned(video):
    return {
        "red and blue": video.flip(1),
        "in reverse": video.flip(0),
        "mirrored": video.flip(3),
        "upside down": video.flip(2),
        "inverted": 1 - video,
        "1 frame early": torch.cat([video[1:], video[-1:]]),
        "2 frames late": torch.cat([video[:1], video[:1], video[:-2]]),
        "pale": video / 2 + 0.5,
    }


def test_what_was_done_to_the_frames_is_said():
    decoded = torch.randn((5, 3, 4, 6), generator=torch.Generator().manual_seed(0))
    video = (decoded / 2 + 0.5).clamp(0, 1)
    cases = {
        **_turned(video),
        "darker than grey": decoded.clamp(0, 1) / 2 + 0.5,
        "lies in -1 to 1": decoded.clamp(0, 1),
    }

    for words, frames in cases.items():
        assert words in str(_why(frames, video, decoded, 1e-4))
    assert _why(video * 0.5, video, decoded, 1e-4) is None


def test_frames_that_a_family_drops_are_no_shift(seen):
    context, run = seen("hunyuan-i2v")
    assert len(run.sample.frames) == 5
    moved = replace(run, sample=Sample(run.sample.latents, run.sample.frames.roll(1, 0)))

    assert list(frame_findings(context, run)) == []
    [finding] = frame_findings(context, moved)

    assert found([finding]) == [("GM975", None, "frame 0")]
    assert "1 frame late" in finding.cause


def test_image_of_one_colour_is_no_other_picture(seen):
    _, run = seen("ltx-i2v")
    black = replace(run.probe, image=run.probe.image * 0)

    assert list(_pixels(replace(run, probe=black, encoded=[run.encoded[0] * 0 - 1]))) == []
    for wrong, words in ((run.encoded[0], "another picture"), (run.encoded[0] * 0, None)):
        [finding] = _pixels(replace(run, probe=black, encoded=[wrong]))
        assert finding.code == "GM934"
        assert finding.cause is None or words in finding.cause


def test_prompt_of_one_word_or_none_is_made_longer(seen):
    context, run = seen("ltx-i2v")

    for prompt in ("red", ""):
        prompts = long_prompts(context.candidate, replace(run.probe, prompt=prompt))
        assert prompts.tokens == prompts.room == 128
