"""From a path to a checkpoint: each kind is known by its content, and what is none is told what it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pytest_genmodel.checkpoints.checkpoint import Checkpoint, Kind
from pytest_genmodel.checkpoints.class_home import class_home
from pytest_genmodel.checkpoints.damage import Damage, DamagedFileError, UnreadableCheckpointError
from pytest_genmodel.checkpoints.opening import open_checkpoint
from tests.editing import TRANSFORMER, VAE, edit_json

FACTORS = {
    "transformer.transformer_blocks.0.attn1.to_q.lora_A.weight": torch.ones(4, 32),
    "transformer.transformer_blocks.0.attn1.to_q.lora_B.weight": torch.ones(32, 4),
}
PEFT_FACTORS = {f"base_model.model.{name.removeprefix('transformer.')}": t for name, t in FACTORS.items()}


def opened(path: Path) -> Checkpoint:
    return open_checkpoint(path, "what the user wrote")


def refusal(path: Path) -> str:
    with pytest.raises(UnreadableCheckpointError) as caught:
        opened(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("what the user wrote: ")
    return message.removeprefix("what the user wrote: ")


def damage(path: Path) -> DamagedFileError:
    with pytest.raises(DamagedFileError) as caught:
        opened(path)
    assert "\n" not in str(caught.value)
    return caught.value


def write_lora(file: Path, tensors=FACTORS, **config) -> Path:
    """Write LoRA factors; `config` goes into the header as diffusers keeps it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"format": "pt"}
    if config:
        metadata["lora_adapter_metadata"] = json.dumps({f"transformer.{k}": v for k, v in config.items()})
    save_file(tensors, file, metadata=metadata)
    return file


# --- what is a checkpoint -------------------------------------------------------------------------------------------


def test_a_pipeline_is_known_by_its_model_index(healthy):
    checkpoint = opened(healthy)

    assert (checkpoint.kind, checkpoint.is_partial) == (Kind.PIPELINE, False)
    assert checkpoint.spec == "what the user wrote"
    assert checkpoint.pipeline_class == "CogVideoXImageToVideoPipeline"
    assert sorted(checkpoint.components) == ["scheduler", "text_encoder", "tokenizer", "transformer", "vae"]
    assert checkpoint.components["text_encoder"].library == "transformers"
    assert checkpoint.components["vae"].class_name == "AutoencoderKLCogVideoX"
    assert (dict(checkpoint.foreign), checkpoint.adapter) == ({}, None)


def test_arguments_and_absent_components_of_the_index_are_told_apart(copy):
    edit_json(
        copy / "model_index.json", boundary_ratio=0.9, image_encoder=[None, None], extra=["mine", "Code"]
    )

    checkpoint = opened(copy)

    assert dict(checkpoint.pipeline_arguments) == {"boundary_ratio": 0.9}
    assert "image_encoder" not in checkpoint.components
    assert dict(checkpoint.foreign) == {"extra": "mine.Code"}


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("transformer", "transformer"),
        ("vae", "vae"),
        ("text_encoder", "text_encoder"),
    ],
)
def test_the_folder_of_one_component_is_named_by_its_class_wherever_it_lies(healthy, tmp_path, name, part):
    shutil.copytree(healthy / name, tmp_path / "checkpoint-500")

    checkpoint = opened(tmp_path / "checkpoint-500")

    assert (checkpoint.kind, checkpoint.is_partial) == (Kind.COMPONENTS, True)
    assert list(checkpoint.components) == [part]
    assert checkpoint.components[part].has_weights


def test_a_trainers_folder_gives_each_component_that_it_holds(healthy, tmp_path):
    for name in ("transformer", "vae"):
        shutil.copytree(healthy / name, tmp_path / "run" / name)
    (tmp_path / "run" / "optimizer.bin").write_bytes(b"x")
    (tmp_path / "run" / "logs").mkdir()

    checkpoint = opened(tmp_path / "run")

    assert checkpoint.kind is Kind.COMPONENTS
    assert list(checkpoint.components) == ["transformer", "vae"]


def test_a_trainers_folder_gives_its_scheduler_and_tokenizer_too(healthy, tmp_path):
    for name in ("transformer", "scheduler", "tokenizer"):
        shutil.copytree(healthy / name, tmp_path / "run" / name)

    checkpoint = opened(tmp_path / "run")

    assert (checkpoint.kind, checkpoint.unread) == (Kind.COMPONENTS, ())
    assert {name: component.class_name for name, component in checkpoint.components.items()} == {
        "transformer": "CogVideoXTransformer3DModel",
        "scheduler": "CogVideoXDDIMScheduler",
        "tokenizer": "T5Tokenizer",
    }


@pytest.mark.parametrize("name", ["scheduler", "tokenizer"])
def test_a_scheduler_or_tokenizer_alone_is_no_checkpoint(healthy, tmp_path, name):
    shutil.copytree(healthy / name, tmp_path / "run" / name)

    assert f"it holds {name}" in refusal(tmp_path / "run")


@pytest.mark.parametrize("ending", ["safetensors", "bin", "pt", "pth"])
def test_a_file_of_weights_is_one_component_without_a_name(tmp_path, ending):
    path = tmp_path / f"weights.{ending}"
    tensors = {"a.weight": torch.ones(2)}
    save_file(tensors, path) if ending == "safetensors" else torch.save(tensors, path)

    checkpoint = opened(path)

    assert (checkpoint.kind, list(checkpoint.components)) == (Kind.WEIGHTS, [""])
    assert list(checkpoint.components[""].weights.tensors) == ["a.weight"]


def test_a_diffusers_lora_folder_is_an_adapter_with_its_configuration(tmp_path):
    file = write_lora(tmp_path / "run" / "pytorch_lora_weights.safetensors", r=4, lora_alpha=8)

    checkpoint = opened(tmp_path / "run")

    assert (checkpoint.kind, checkpoint.is_partial) == (Kind.ADAPTER, True)
    assert checkpoint.adapter.file == file
    assert dict(checkpoint.adapter.config) == {"r": 4, "lora_alpha": 8}
    assert checkpoint.adapter.weights.tensors.keys() == FACTORS.keys()


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_a_peft_folder_is_an_adapter_with_its_configuration(tmp_path, ending):
    path = tmp_path / f"adapter_model.{ending}"
    save_file(PEFT_FACTORS, path) if ending == "safetensors" else torch.save(PEFT_FACTORS, path)
    (tmp_path / "adapter_config.json").write_text('{"r": 4, "lora_alpha": 8}')

    for given in (tmp_path, path) if ending == "safetensors" else (tmp_path,):
        adapter = opened(given).adapter
        assert (adapter.file, dict(adapter.config)) == (path, {"r": 4, "lora_alpha": 8})
        assert adapter.weights.tensors.keys() == PEFT_FACTORS.keys()


def test_pefts_configuration_beside_diffusers_file_is_not_taken_for_what_acts(tmp_path):
    """diffusers does not read it: the LoRA runs at alpha = rank, which is for GM803 to say."""
    write_lora(tmp_path / "pytorch_lora_weights.safetensors")
    (tmp_path / "adapter_config.json").write_text('{"r": 4, "lora_alpha": 64}')

    assert dict(opened(tmp_path).adapter.config) == {}


@pytest.mark.parametrize("name", ["my_style.safetensors", "pytorch_lora_weights.safetensors"])
def test_a_lone_file_of_factors_is_an_adapter(tmp_path, name):
    file = write_lora(tmp_path / name, r=4, lora_alpha=16)

    adapter = opened(file).adapter

    assert (adapter.folder, adapter.file) == (tmp_path, file)
    assert adapter.config["lora_alpha"] == 16


@pytest.mark.parametrize(
    "extra",
    [
        "lora_unet_blocks_0_to_q.lora_down.weight",
        "lora_unet_blocks_0_to_q.alpha",
        "transformer.blocks.0.to_q.lora_magnitude_vector",
        "embed.lora_embedding_A",
    ],
)
def test_factors_of_other_spellings_make_an_adapter_too(tmp_path, extra):
    file = write_lora(tmp_path / "lora.safetensors", {**FACTORS, extra: torch.ones(1)})

    assert opened(file).kind is Kind.ADAPTER


def test_a_file_with_factors_and_base_weights_is_a_file_of_weights(tmp_path):
    """The founding incident: a model that was saved with its LoRA attached."""
    file = write_lora(tmp_path / "x.safetensors", {**FACTORS, "a.base_layer.weight": torch.ones(2)})

    assert opened(file).kind is Kind.WEIGHTS


def test_opening_a_pipeline_reads_no_weights(copy):
    for file in (TRANSFORMER, VAE):
        (copy / file).write_bytes(b"damaged")

    assert opened(copy).kind is Kind.PIPELINE


# --- what is none ---------------------------------------------------------------------------------------------------


def test_a_path_to_nothing_is_told(tmp_path):
    assert refusal(tmp_path / "gone") == "no such file or folder"


def test_an_empty_folder_is_told(tmp_path):
    assert refusal(tmp_path) == "the folder is empty"


def test_a_file_of_another_kind_is_told_by_its_ending(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")

    message = refusal(tmp_path / "notes.txt")

    assert message.startswith("a .txt file is not a checkpoint")
    assert "model_index.json" in message


def test_a_file_without_an_ending_is_told(tmp_path):
    (tmp_path / "notes").write_text("hello")

    assert refusal(tmp_path / "notes").startswith("a nameless file")


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "LlamaForCausalLM"),
        ({"model_type": "bert"}, "bert"),
        ({}, "a model of another kind"),
        ({"architectures": 5}, "another kind"),
        ({"architectures": [5, None]}, "another kind"),
        ({"architectures": "T5EncoderModel"}, "another kind"),
        ({"architectures": []}, "another kind"),
        ({"_class_name": ["evil", "Code"]}, "another kind"),
    ],
    ids=str,
)
def test_a_model_of_another_kind_is_named(tmp_path, config, what):
    (tmp_path / "config.json").write_text(json.dumps(config))

    message = refusal(tmp_path)

    assert f"({what}" in message or what in message
    assert "not an image-to-video checkpoint" in message


def test_a_folder_of_something_else_is_told_by_what_it_holds(tmp_path):
    for name in ("b.txt", "a.txt", "f.txt", "c.txt", "d.txt", "e.txt"):
        (tmp_path / name).touch()

    assert "it holds a.txt, b.txt, c.txt, d.txt, e.txt)" in refusal(tmp_path)


def test_a_folder_of_checkpoints_is_told_by_what_it_holds(healthy, tmp_path):
    shutil.copytree(healthy, tmp_path / "checkpoint-500")

    assert "checkpoint-500" in refusal(tmp_path)


@pytest.mark.parametrize("lora", ["pytorch_lora_weights.safetensors", "adapter_model.safetensors"])
@pytest.mark.parametrize("part", ["transformer", "vae"])
def test_a_component_and_a_lora_in_one_folder_is_for_the_user_to_settle(healthy, tmp_path, part, lora):
    write_lora(tmp_path / lora)
    if lora.startswith("adapter"):
        (tmp_path / "adapter_config.json").write_text("{}")
    shutil.copytree(healthy / part, tmp_path / part)

    message = refusal(tmp_path)

    assert f"{part}/" in message
    assert lora in message
    assert f"what the user wrote/{part} or what the user wrote/{lora}" in message


def test_a_configuration_without_weights_beside_a_lora_is_no_second_result(healthy, tmp_path):
    write_lora(tmp_path / "pytorch_lora_weights.safetensors")
    (tmp_path / "transformer").mkdir()
    shutil.copy(healthy / "transformer" / "config.json", tmp_path / "transformer")

    assert opened(tmp_path).kind is Kind.ADAPTER


def test_a_component_that_is_not_there_is_told_with_those_that_are(healthy):
    with pytest.raises(DamagedFileError, match=r"the checkpoint has no unet .it has .*transformer") as caught:
        _ = opened(healthy).components["unet"]

    assert (caught.value.damage, caught.value.path.name) == (Damage.MISSING_FILE, "model_index.json")
    assert opened(healthy).components.get("unet") is None


# --- what is damaged or hostile -------------------------------------------------------------------------------------


@pytest.mark.parametrize("class_name", [["mine", "Pipe"], None, 5, ...], ids=str)
def test_a_pipeline_class_that_is_no_name_is_damage(copy, class_name):
    edit_json(copy / "model_index.json", _class_name=class_name)

    error = damage(copy)

    assert error.path.name == "model_index.json"
    assert error.damage in (Damage.FOREIGN_CLASS, Damage.CONFIG)


@pytest.mark.parametrize("name", ["", ".", "..", "../vae", "a/b", "/etc"])
def test_a_component_outside_the_checkpoint_is_not_opened(copy, name):
    shutil.copytree(copy / "vae", copy.parent / "vae")
    edit_json(copy / "model_index.json", **{name: ["diffusers", "AutoencoderKLCogVideoX"]})

    error = damage(copy)

    assert (error.damage, error.path.name) == (Damage.MISSING_FILE, "model_index.json")
    assert repr(name) in error.what


def test_a_component_without_its_folder_is_named(copy):
    shutil.rmtree(copy / "vae")

    error = damage(copy)

    assert "'vae' (AutoencoderKLCogVideoX)" in error.what
    assert "vae/" in error.action


@pytest.mark.parametrize("file", ["model_index.json", "config.json"])
def test_broken_json_is_damage_of_the_file(tmp_path, file):
    (tmp_path / file).write_text("{")

    assert damage(tmp_path).path == tmp_path / file


def test_a_damaged_lone_file_is_damage_with_its_place(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"12345678{")

    error = damage(tmp_path / "x.safetensors")

    assert (error.path.name, error.offset) == ("x.safetensors", 0)


def test_a_peft_folder_without_its_weights_is_damage(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")

    error = damage(tmp_path)

    assert (error.damage, error.path.name) == (Damage.MISSING_FILE, "adapter_model.safetensors")


@pytest.mark.parametrize("text", ["{", "[1]", "5", "", '{"a":' * 100_000])
def test_a_lora_whose_stored_configuration_is_no_object_is_damage(tmp_path, text):
    file = tmp_path / "pytorch_lora_weights.safetensors"
    save_file(FACTORS, file, metadata={"lora_adapter_metadata": text})

    error = damage(tmp_path)

    assert (error.damage, error.path) == (Damage.CONFIG, file)
    assert "lora_adapter_metadata" in error.what


# --- programs in a checkpoint ---------------------------------------------------------------------------------------


def test_programs_and_pickles_in_a_checkpoint_are_listed_and_a_trainers_state_is_not(copy):
    for name in ("zero_to_fp32.py", "vae/evil.so", "transformer/kernels/run.sh", "data.pkl"):
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_text("print('never run')")
    for name in ("random_states_0.pkl", ".git/hooks.py", "notes.md", "optimizer.pkl"):
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).touch()

    found = [path.relative_to(copy).as_posix() for path in opened(copy).scripts]

    assert found == ["data.pkl", "transformer/kernels/run.sh", "vae/evil.so", "zero_to_fp32.py"]


def test_a_checkpoint_without_programs_lists_none(healthy, tmp_path):
    assert opened(healthy).scripts == ()
    assert opened(healthy / "vae" / "diffusion_pytorch_model.safetensors").scripts == ()


@pytest.mark.parametrize("name", ["model.safetensors.download", "weights", "x.sft"])
def test_a_file_of_weights_is_known_by_its_content_under_any_name(tmp_path, name):
    for save in (save_file, torch.save):
        save({"a.weight": torch.ones(2)}, tmp_path / name)
        assert list(opened(tmp_path / name).components[""].weights.tensors) == ["a.weight"]


@pytest.mark.parametrize(
    ("named", "config", "home"),
    [
        ("diffusers", "{}", ("diffusers", None)),
        ("ltx2", '{"_class_name": "LTX2Vocoder"}', ("diffusers", "diffusers.pipelines.ltx2")),
        (
            "stable_diffusion",
            '{"architectures": ["StableDiffusionSafetyChecker"]}',
            ("transformers", "diffusers.pipelines.stable_diffusion"),
        ),
        ("pipelines.ltx2", "{}", None),
        ("os", "{}", None),
        ("../evil", "{}", None),
        (7, "{}", None),
    ],
)
def test_a_class_is_taken_from_the_libraries_and_from_diffusers_own_pipelines_alone(
    tmp_path, named, config, home
):
    (tmp_path / "config.json").write_text(config)

    assert class_home(named, tmp_path) == home
