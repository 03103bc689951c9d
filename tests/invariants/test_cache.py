"""cache_is_fresh: a healthy cache passes in every layout, a stale one is named by its item and key."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import CogVideoXImageToVideoPipeline
from safetensors.torch import save_file

from pytest_genmodel.invariants.verdict import Outcome
from pytest_genmodel.pipelines.tiny.cogvideox_trained import FOLDER
from pytest_genmodel.training.caches import cache_items
from pytest_genmodel.training.clips import read_clip
from pytest_genmodel.training.dataset import write_dataset

NAME = "cache_is_fresh"
SCRIPT = Path(__file__).parents[2] / "examples" / "train_cogvideox_i2v.py"
FRAMES = 9


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    """A data set of three clips and what the shipped model's encoders give for it: (folder, captions, items)."""
    folder = write_dataset(tmp_path_factory.mktemp("clips") / "data", clips=3, frames=17, width=32, height=32)
    pipeline = CogVideoXImageToVideoPipeline.from_pretrained(FOLDER)
    captions = (folder / "prompts.txt").read_text().splitlines()
    items = []
    with torch.no_grad():
        for number, caption in enumerate(captions):
            clip = read_clip(folder / f"videos/{number}.mp4")[:FRAMES]
            video = (clip * 2 - 1).permute(1, 0, 2, 3).unsqueeze(0)
            posterior = pipeline.vae.encode(video).latent_dist
            prompt = pipeline.encode_prompt(
                caption, do_classifier_free_guidance=False, max_sequence_length=8
            )[0]
            items.append(
                {"prompt_embeds": prompt, "latents": posterior.mode() * 0.7, "moments": posterior.parameters}
            )
    return folder, captions, items


@pytest.fixture
def data(encoded, tmp_path):
    """A copy of the data set, to keep a cache in."""
    import shutil

    return Path(shutil.copytree(encoded[0], tmp_path / "data"))


def kept(data: Path, items, change=lambda item, number: item) -> Path:
    """Write a `.pt` for each item, changed, beside the videos."""
    (data / "cache").mkdir()
    for number, item in enumerate(items):
        given = {key: item[key].clone() for key in ("prompt_embeds", "latents")}
        torch.save(change(given, number), data / "cache" / f"{number}.pt")
    return data / "cache"


def outcome_of(judged, cache):
    verdict = judged(NAME, FOLDER, parameters={"cache": str(cache)})
    return verdict, [finding.code for finding in verdict.findings]


def test_fresh_cache_passes(judged, data, encoded):
    verdict, codes = outcome_of(judged, kept(data, encoded[2]))

    assert (verdict.outcome, codes, verdict.reason) == (Outcome.PASSED, [], None)
    assert (verdict.measurements["items"], verdict.measurements["compared"]) == (3, 6)


def cogvideo(data: Path, captions, items) -> Path:
    for number, (caption, item) in enumerate(zip(captions, items, strict=True)):
        for kind, key, name, value in (
            (
                "prompt_embeddings",
                "prompt_embedding",
                hashlib.sha256(caption.encode()).hexdigest(),
                item["prompt_embeds"][0],
            ),
            ("video_latent", "encoded_video", str(number), item["latents"][0]),
        ):
            folder = data / "cache" / kind
            folder.mkdir(parents=True, exist_ok=True)
            save_file({key: value.contiguous()}, folder / f"{name}.safetensors")
    return data / "cache"


def numpy_files(data: Path, captions, items) -> Path:
    (data / "cache").mkdir()
    for number, item in enumerate(items):
        np.savez(
            data / "cache" / f"{number}.npz",
            text=item["prompt_embeds"].numpy(), latents=item["latents"][0].transpose(0, 1).numpy(),
        )  # fmt: skip
    return data / "cache"


def with_captions(data: Path, captions, items) -> Path:
    (data / "cache").mkdir()
    for number, item in enumerate(items):
        stored = {"caption": captions[number], "encoded_prompt": item["prompt_embeds"]}
        torch.save(stored, data / "cache" / f"item-{number}.pt")
    return data / "cache"


@pytest.mark.parametrize("layout", [cogvideo, numpy_files, with_captions])
def test_layouts_of_real_caches_are_read(judged, data, encoded, layout):
    verdict, codes = outcome_of(judged, layout(data, encoded[1], encoded[2]))

    assert (verdict.outcome, codes, verdict.reason) == (Outcome.PASSED, [], None)
    assert verdict.measurements["compared"] >= 3


def test_moments_are_recognised(judged, data, encoded):
    (data / "cache").mkdir()
    torch.save({"moments": encoded[2][0]["moments"]}, data / "cache" / "0.pt")

    verdict, codes = outcome_of(judged, data / "cache")

    assert (verdict.outcome, codes) == (Outcome.PASSED, ["GM748"])
    assert verdict.measurements["moments"] == "0.pt:moments"


def changed(key, change):
    return lambda item, number: {**item, key: change(item[key])}


# what the fault is -> (what is done to an item, code, key of the first finding, part of the cause)
FAULTS = {
    "latents are scaled twice": (changed("latents", lambda x: x * 0.7), "GM746", "latents", "scaled twice"),
    "latents are divided": (changed("latents", lambda x: x / 0.49), "GM746", "latents", "divided by"),
    "embeddings are of another encoder": (
        changed("prompt_embeds", lambda x: x.roll(1, -1)), "GM745", "prompt_embeds", "another text encoder",
    ),
    "embeddings are of another width": (
        changed("prompt_embeds", lambda x: x[..., :16].contiguous()), "GM745", "prompt_embeds", "text encoder",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_stale_item_is_named(judged, data, encoded, fault):
    change, code, key, cause = FAULTS[fault]
    verdict, codes = outcome_of(judged, kept(data, encoded[2], change))

    assert verdict.outcome is Outcome.FAILED
    assert set(codes) == {code}
    assert verdict.findings[0].location == f"0.pt:{key}"
    assert cause in (verdict.findings[0].cause or "")


def test_latents_of_other_pixels_are_a_warning_where_crop_and_frames_are_the_users(judged, data, encoded):
    verdict, codes = outcome_of(judged, kept(data, encoded[2], changed("latents", lambda x: x.flip(-1))))

    assert (verdict.outcome, set(codes)) == (Outcome.PASSED, {"GM746"})
    assert {finding.severity for finding in verdict.findings} == {"warning"}


@pytest.mark.parametrize("key", ["prompt_embeds", "latents"])
def test_items_that_are_swapped_are_told_from_stale_ones(judged, data, encoded, key):
    items = encoded[2]
    cache = kept(data, items, lambda item, number: {**item, key: items[(number + 1) % 3][key]})

    verdict, codes = outcome_of(judged, cache)

    assert (verdict.outcome, codes) == (Outcome.FAILED, ["GM747"] * 3)


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (changed("latents", lambda x: x / 0.7), "GM748"),
        (changed("prompt_embeds", lambda x: x.to(torch.bfloat16)), "GM749"),
    ],
    ids=["latents are scaled later", "kept in bfloat16"],
)
def test_what_may_be_meant_is_a_note(judged, data, encoded, change, note):
    verdict, codes = outcome_of(judged, kept(data, encoded[2], change))

    assert (verdict.outcome, set(codes)) == (Outcome.PASSED, {note})


def test_cache_that_says_nothing_of_its_clips_cannot_be_judged(judged, tmp_path, encoded):
    torch.save({"latents": encoded[2][0]["latents"]}, tmp_path / "0.pt")

    verdict, _ = outcome_of(judged, tmp_path / "0.pt")

    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "does not say which caption or clip" in verdict.reason


def test_folder_without_a_cache_cannot_be_judged(judged, tmp_path):
    torch.save({"weight": torch.ones(2, 2)}, tmp_path / "model.pt")

    assert outcome_of(judged, tmp_path)[0].outcome is Outcome.INCONCLUSIVE


def test_program_in_a_cache_is_not_run(tmp_path):
    import pickle

    class Bomb:
        def __reduce__(self):
            return exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",)

    (tmp_path / "0.pt").write_bytes(pickle.dumps({"prompt_embeds": Bomb()}))

    assert cache_items(tmp_path, 4) == []
    assert not (tmp_path / "ran").exists()


def command(script: Path) -> str:
    return (
        f"'{sys.executable}' '{script}' --pretrained_model_name_or_path {{reference}} "
        "--instance_data_root {dataset} --output_dir {output} --learning_rate {lr} --max_train_steps {steps} "
        "--cache_dir {output}/cache"
    )


def test_cache_of_a_training_run_is_found_and_judged(judged):
    verdict = judged(NAME, FOLDER, parameters={"trainer": command(SCRIPT)})

    assert (verdict.outcome, verdict.findings, verdict.reason) == (Outcome.PASSED, (), None)
    assert verdict.measurements["compared"] == 6  # text, clip and image of both steps


def test_cache_whose_key_tells_no_items_apart_is_found(judged, tmp_path):
    text = SCRIPT.read_text(encoding="utf-8")
    old = "    file = cache / f\"{item['index']}.pt\"\n"
    assert text.count(old) == 1
    script = tmp_path / "train.py"
    broken = (
        "    import shutil\n    first = sorted(cache.glob('*.pt'))\n"
        "    if first and not file.is_file():\n        shutil.copy(first[0], file)\n"
    )
    script.write_text(text.replace(old, old + broken), encoding="utf-8")

    verdict = judged(NAME, FOLDER, parameters={"trainer": command(script)})

    assert verdict.outcome is Outcome.FAILED
    assert {finding.code for finding in verdict.findings} == {"GM747"}
    assert all(finding.location.startswith("cache/1.pt") for finding in verdict.findings)


def test_run_without_a_cache_is_skipped(judged):
    verdict = judged(NAME, FOLDER, parameters={"trainer": "full"})

    assert verdict.outcome is Outcome.SKIPPED
