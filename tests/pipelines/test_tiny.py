"""The tiny pipelines: known by name, equal everywhere, and alive."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pytest_genmodel.errors import BadInputError
from pytest_genmodel.pipelines import tiny
from pytest_genmodel.pipelines.tiny.tokenizers import t5_tokenizer

NAME = "cogvideox-i2v"
CALL = {
    "height": 16,
    "width": 16,
    "num_frames": 9,
    "num_inference_steps": 2,
    "max_sequence_length": 16,
    "output_type": "pt",
}


def weights(pipeline) -> dict[str, torch.Tensor]:
    return {
        f"{part}/{name}": tensor
        for part in ("transformer", "vae", "text_encoder")
        for name, tensor in getattr(pipeline, part).state_dict().items()
    }


def digest(pipeline) -> str:
    whole = hashlib.sha256()
    for name, tensor in sorted(weights(pipeline).items()):
        whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        whole.update(tensor.contiguous().numpy().tobytes())
    whole.update(repr(pipeline.tokenizer("a red square moves right, zebra").input_ids).encode())
    return whole.hexdigest()


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def pipeline():
    built = tiny.build(NAME)
    built.set_progress_bar_config(disable=True)
    return built


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny.materialise(NAME, tmp_path_factory.mktemp("tiny"))


def sample(pipeline, *, image: float = 0.2, prompt: str = "a red square moves right", seed: int = 0):
    return pipeline(
        torch.full((1, 3, 16, 16), image),
        prompt=prompt,
        generator=torch.Generator().manual_seed(seed),
        guidance_scale=2.0,
        **CALL,
    ).frames


def run_python(code: str) -> str:
    """Run `code` in a fresh interpreter that finds the package where this one found it."""
    root = Path(tiny.__file__).parents[3]
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=root).stdout


def test_names_and_descriptions_need_no_torch() -> None:
    code = (
        "import sys; from pytest_genmodel.pipelines import tiny; "
        "lines = [tiny.describe(n) for n in tiny.names()]; "
        "assert all(l and '\\n' not in l for l in lines); "
        "print({'torch', 'diffusers', 'transformers', 'numpy'} & set(sys.modules), *tiny.names())"
    )
    out = run_python(code)
    assert out.startswith("set()")
    assert NAME in out.split()


@pytest.mark.parametrize(
    "call", [tiny.build, tiny.describe, lambda name: tiny.materialise(name, Path("nowhere"))]
)
def test_an_unknown_name_is_bad_input_that_names_the_nearest(call) -> None:
    with pytest.raises(
        tiny.UnknownTinyPipelineError, match=f"Did you mean '{NAME}'.*Known: .*{NAME}"
    ) as caught:
        call("tiny:cogvideo-i2v")
    assert isinstance(caught.value, BadInputError)
    assert not Path("nowhere").exists()


def test_the_prefix_is_optional() -> None:
    assert tiny.describe(f"tiny:{NAME}") == tiny.describe(NAME)


def test_two_builds_are_equal_and_leave_random_state_alone(pipeline) -> None:
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    expected = torch.rand(3), np.random.rand(), random.random()
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    again = tiny.build(NAME)
    assert torch.equal(torch.rand(3), expected[0])
    assert np.random.rand() == expected[1]
    assert random.random() == expected[2]
    assert digest(again) == digest(pipeline)


def test_a_caller_with_another_default_dtype_gets_the_same_pipeline(pipeline) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        again = tiny.build(NAME)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert digest(again) == digest(pipeline)


def test_another_process_builds_the_same(pipeline) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); "
        f"import test_tiny; print(test_tiny.digest(test_tiny.tiny.build({NAME!r})))"
    )
    out = run_python(code)
    assert out.split()[-1] == digest(pipeline)


def test_it_is_the_genuine_layout_in_float32_and_eval_mode(pipeline) -> None:
    config = pipeline.transformer.config
    assert type(pipeline).__name__ == "CogVideoXImageToVideoPipeline"
    assert config.use_rotary_positional_embeddings
    assert config.use_learned_positional_embeddings
    assert pipeline.vae.config.scaling_factor == 0.7
    scheduler = pipeline.scheduler.config
    assert (scheduler.prediction_type, scheduler.timestep_spacing) == ("v_prediction", "trailing")
    assert scheduler.rescale_betas_zero_snr
    assert scheduler.snr_shift_scale == 1.0
    assert {tensor.dtype for tensor in weights(pipeline).values()} == {torch.float32}
    for part in ("transformer", "vae", "text_encoder"):
        assert not any(module.training for module in getattr(pipeline, part).modules())


def test_learned_positions_are_not_the_sines_that_the_constructor_makes(pipeline) -> None:
    learned = pipeline.transformer.patch_embed.pos_embedding
    rebuilt = type(pipeline.transformer).from_config(pipeline.transformer.config).patch_embed.pos_embedding
    assert learned.shape == rebuilt.shape
    assert (learned != rebuilt).float().mean() > 0.9


def test_no_parameter_is_constant_and_no_two_are_alike(pipeline) -> None:
    tensors = weights(pipeline)
    tensors.pop("text_encoder/encoder.embed_tokens.weight", None)  # tied to text_encoder/shared.weight
    assert not [name for name, tensor in tensors.items() if tensor.numel() > 1 and tensor.std() == 0]
    assert len({tensor.numpy().tobytes() for tensor in tensors.values()}) == len(tensors)


def test_no_denoiser_parameter_is_dead(pipeline) -> None:
    transformer = tiny.build(NAME).transformer
    generator = torch.Generator().manual_seed(0)
    rotary = pipeline._prepare_rotary_positional_embeddings(16, 16, 3, torch.device("cpu"))
    out = transformer(
        hidden_states=torch.randn(1, 3, 8, 2, 2, generator=generator),
        encoder_hidden_states=torch.randn(1, 16, 32, generator=generator),
        timestep=torch.tensor([500]),
        image_rotary_emb=rotary,
    ).sample
    out.square().mean().backward()
    assert not [name for name, p in transformer.named_parameters() if p.grad is None or not p.grad.any()]


def test_sample_is_finite_repeats_and_hears_image_prompt_and_seed(pipeline) -> None:
    frames = sample(pipeline)
    assert frames.shape == (1, 9, 3, 16, 16)
    assert torch.isfinite(frames).all()
    assert torch.equal(frames, sample(pipeline))
    for change in ({"image": 0.9}, {"prompt": "a blue circle moves left"}, {"seed": 1}):
        assert (sample(pipeline, **change) - frames).abs().max() > 1e-3, change


def test_round_trip_is_bit_exact_and_samples_alike(pipeline, folder: Path) -> None:
    from diffusers import CogVideoXImageToVideoPipeline

    loaded = CogVideoXImageToVideoPipeline.from_pretrained(folder, dtype=torch.float32)
    loaded.set_progress_bar_config(disable=True)
    assert digest(loaded) == digest(pipeline)
    assert type(loaded.tokenizer) is type(pipeline.tokenizer)
    assert (sample(loaded) - sample(pipeline)).abs().max() < 1e-5


def test_a_complete_folder_is_left_alone_and_a_torn_one_is_replaced(folder: Path, tmp_path: Path) -> None:
    first = tiny.materialise(NAME, tmp_path)
    weight_file = first / "transformer" / "diffusion_pytorch_model.safetensors"
    stamp = weight_file.stat().st_mtime_ns
    assert tiny.materialise(NAME, tmp_path) == first == tmp_path / NAME
    assert weight_file.stat().st_mtime_ns == stamp

    whole = weight_file.read_bytes()
    weight_file.write_bytes(whole[:-100])
    tiny.materialise(NAME, tmp_path)
    assert weight_file.read_bytes() == whole
    (first / "tokenizer" / "tokenizer.json").unlink()
    tiny.materialise(NAME, tmp_path)
    assert (first / "tokenizer" / "tokenizer.json").is_file()
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    from pytest_genmodel.pipelines.tiny.folders import write_once

    class Failing:
        def save_pretrained(self, target: str) -> None:
            Path(target).mkdir()
            (Path(target) / "model_index.json").write_text("{}")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_once(tmp_path / "x", Failing)
    assert list(tmp_path.iterdir()) == []


def test_tokenizer_gives_each_word_an_id_and_spells_the_rest() -> None:
    words = ["red", "square", "moves", "right", "left"]
    tokenizer = t5_tokenizer(words, max_length=8)
    ids = [tuple(tokenizer(word).input_ids) for word in words]
    assert all(len(pair) == 2 and pair[1] == tokenizer.eos_token_id for pair in ids)
    assert len(set(ids)) == len(words)
    spelt = [tuple(tokenizer(word).input_ids) for word in ("zebra", "zebras", "Zebra", "7%")]
    assert len(set(spelt)) == 4
    assert tokenizer.unk_token_id not in {token for word in spelt for token in word}


def test_writers_that_arrive_together_all_get_a_whole_folder(pipeline, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor
    from threading import Barrier

    from pytest_genmodel.pipelines.tiny.folders import is_complete, write_once

    together = Barrier(4)

    built = []

    def build():
        together.wait(timeout=30)
        built.append(tiny.build(NAME))
        return built[-1]

    (tmp_path / NAME).mkdir()
    (tmp_path / NAME / "model_index.json").write_text("{", encoding="utf-8")
    with ThreadPoolExecutor(4) as pool:
        targets = list(pool.map(lambda _: write_once(tmp_path / NAME, build), range(4)))
    assert set(targets) == {tmp_path / NAME}
    assert is_complete(tmp_path / NAME)
    assert {digest(one) for one in built} == {digest(pipeline)}
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
