"""The scale of a LoRA: the five places of alpha, each by a file as its trainer writes it, and their quarrels."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pytest_genmodel.checkpoints.alpha import Scales, sat_configuration, scales
from pytest_genmodel.checkpoints.checkpoint import Adapter
from pytest_genmodel.checkpoints.damage import DamagedFileError
from pytest_genmodel.checkpoints.opening import open_checkpoint

Q, K = "transformer_blocks.0.attn1.to_q", "transformer_blocks.1.attn1.to_k"
RANKS = {Q: 4, K: 8}


def factors(
    prefix: str = "transformer.", down: str = "lora_A", up: str = "lora_B"
) -> dict[str, torch.Tensor]:
    tensors = {}
    for layer, rank in RANKS.items():
        stem = f"{prefix}{layer.replace('.', '_') if prefix.startswith('lora_') else layer}"
        tensors[f"{stem}.{down}.weight"] = torch.ones(rank, 32)
        tensors[f"{stem}.{up}.weight"] = torch.ones(32, rank)
    return tensors


def adapter_of(path: Path) -> Adapter:
    adapter = open_checkpoint(path, "adapter").adapter
    assert adapter is not None
    return adapter


def diffusers(folder: Path, **metadata: object) -> Scales:
    folder.mkdir(parents=True, exist_ok=True)
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
    save_file(factors(), folder / "pytorch_lora_weights.safetensors", metadata={"format": "pt", **texts})
    return scales(adapter_of(folder))


def peft(folder: Path, **config: object) -> Scales:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(factors("base_model.model."), folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **config}))
    return scales(adapter_of(folder))


def kohya(folder: Path, alphas: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> Scales:
    tensors = factors("lora_unet_", "lora_down", "lora_up")
    for layer, alpha in alphas.items():
        tensors[f"lora_unet_{layer.replace('.', '_')}.alpha"] = alpha
    save_file(tensors, folder / "kohya.safetensors", metadata=metadata)
    return scales(adapter_of(folder / "kohya.safetensors"))


KOHYAS = {layer: f"lora_unet_{layer.replace('.', '_')}" for layer in RANKS}


def test_nothing_is_known_where_nothing_says_it(tmp_path):
    found = diffusers(tmp_path)

    assert found.by_module == {Q: None, K: None}
    assert found.rank_by_module == RANKS
    assert found.ranks == (4, 8)
    assert (found.sources, found.conflicts, found.unread) == ({}, (), ())
    assert found.applied(Q) == 1.0


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32]
)
def test_kohyas_alpha_is_a_tensor_beside_the_factors(tmp_path, dtype):
    found = kohya(tmp_path, {Q: torch.tensor(2, dtype=dtype), K: torch.tensor([16], dtype=dtype)})

    assert found.by_module == {KOHYAS[Q]: 0.5, KOHYAS[K]: 2.0}
    assert set(found.sources.values()) == {"alpha tensor"}
    assert found.applied(KOHYAS[K]) == 2.0


def test_a_layer_of_which_the_tensor_is_missing_is_not_known(tmp_path):
    found = kohya(tmp_path, {Q: torch.tensor(2.0), K: torch.ones(2)})

    assert found.by_module == {KOHYAS[Q]: 0.5, KOHYAS[K]: None}
    assert list(found.sources) == [KOHYAS[Q]]


def test_an_alpha_in_a_pickle_is_read_too(tmp_path):
    tensors = factors("lora_unet_", "lora_down", "lora_up")
    torch.save({**tensors, f"{KOHYAS[Q]}.alpha": torch.tensor(2.0)}, tmp_path / "kohya.pt")

    assert scales(adapter_of(tmp_path / "kohya.pt")).by_module[KOHYAS[Q]] == 0.5


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"r": 4, "lora_alpha": 8}, {Q: 2.0, K: 1.0}),
        ({"r": 4, "lora_alpha": 8, "use_rslora": True}, {Q: 4.0, K: 8 / math.sqrt(8)}),
        ({"r": 4, "lora_alpha": 8, "alpha_pattern": {K: 4}}, {Q: 2.0, K: 0.5}),
        ({"r": 4, "lora_alpha": 8, "alpha_pattern": {"to_k": 4}}, {Q: 2.0, K: 0.5}),
        ({"r": 4, "lora_alpha": 8, "alpha_pattern": {f"^{Q}": 4}}, {Q: 1.0, K: 1.0}),
        ({"r": 4, "lora_alpha": 8, "alpha_pattern": {r"transformer_blocks\.1\..*": 4}}, {Q: 2.0, K: 0.5}),
        (
            {"r": 4, "lora_alpha": 8, "alpha_pattern": {"o_k": 4}},
            {Q: 2.0, K: 1.0},
        ),  # a whole part of the name
        ({"r": 4, "lora_alpha": 8, "alpha_pattern": {"(": 4}}, {Q: 2.0, K: 1.0}),
        ({"r": 4, "lora_alpha": 8, "alpha_pattern": {"(a+)+": 4}}, {Q: None, K: None}),
        ({"r": 4}, {Q: None, K: None}),
        ({"lora_alpha": "8"}, {Q: 2.0, K: 1.0}),
        ({"lora_alpha": None}, {Q: None, K: None}),
        ({"lora_alpha": [8]}, {Q: None, K: None}),
        ({"lora_alpha": True}, {Q: None, K: None}),
        ({"lora_alpha": "nan"}, {Q: None, K: None}),
    ],
)
def test_pefts_configuration_says_it_for_all_layers_and_for_some(tmp_path, config, expected):
    found = peft(tmp_path / "peft", **config)

    assert found.by_module == expected
    assert set(found.sources.values()) <= {"adapter_config.json"}
    assert (found.conflicts, found.unread) == ((), ())


@pytest.mark.parametrize("case", ["plain", "rank of its own", "alpha of its own", "rank stabilised"])
def test_the_scale_is_that_at_which_peft_itself_acts(healthy, tmp_path, case):
    from diffusers import CogVideoXTransformer3DModel
    from peft import LoraConfig, PeftModel, get_peft_model

    from pytest_genmodel.pipelines.library import quiet

    own = {
        "plain": {},
        "rank of its own": {"rank_pattern": {r"transformer_blocks\.1\.attn1\.to_q": 2}},
        "alpha of its own": {"alpha_pattern": {"transformer_blocks.0.attn1.to_v": 32, "to_q": 3}},
        "rank stabilised": {"use_rslora": True},
    }[case]
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["to_q", "to_v"], **own)
    with quiet():
        base = CogVideoXTransformer3DModel.from_pretrained(healthy / "transformer")
        get_peft_model(base, config).save_pretrained(tmp_path / "peft")
        again = CogVideoXTransformer3DModel.from_pretrained(healthy / "transformer")
        live = PeftModel.from_pretrained(again, tmp_path / "peft").base_model.model

    found = scales(adapter_of(tmp_path / "peft"))

    assert len(found.by_module) == 4
    for module, scale in found.by_module.items():
        assert scale == pytest.approx(live.get_submodule(module).scaling["default"])


def test_diffusers_keeps_it_in_the_header(tmp_path):
    found = diffusers(
        tmp_path,
        lora_adapter_metadata={
            "text_encoder.lora_alpha": 99,
            "transformer.r": 4,
            "transformer.lora_alpha": 8,
            "transformer.alpha_pattern": {f"^{K}": 4},
        },
    )

    assert found.by_module == {Q: 2.0, K: 0.5}
    assert found.sources == dict.fromkeys(RANKS, "lora_adapter_metadata")
    assert found.applied(K) == 0.5


def test_finetrainers_keeps_it_where_diffusers_does_not_look(tmp_path):
    found = diffusers(tmp_path, lora_config={"r": 4, "lora_alpha": 8, "target_modules": ["to_q"]})

    assert found.by_module == {Q: 2.0, K: 1.0}
    assert found.unread == ("lora_config",)
    assert found.applied(Q) == 1.0  # alpha = rank, whatever it says


def test_kohyas_notes_say_it_and_nobody_reads_them(tmp_path):
    found = kohya(tmp_path, {}, {"ss_network_alpha": "2.0", "ss_network_dim": "4"})

    assert found.by_module == {KOHYAS[Q]: 0.5, KOHYAS[K]: 0.25}
    assert set(found.sources.values()) == {"ss_network_alpha"}
    assert found.unread == ("ss_network_alpha",)
    assert found.applied(KOHYAS[Q]) == 1.0


@pytest.mark.parametrize("text", ["None", "Dynamic", "", "inf"])
def test_notes_that_are_no_number_say_nothing(tmp_path, text):
    assert set(kohya(tmp_path, {}, {"ss_network_alpha": text}).by_module.values()) == {None}


def test_a_configuration_that_lies_beside_a_file_of_diffusers_is_read_by_nobody(tmp_path):
    tmp_path.joinpath("adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 8}))

    found = diffusers(tmp_path)

    assert found.by_module == {Q: 2.0, K: 1.0}
    assert found.unread == ("adapter_config.json",)
    assert found.applied(Q) == 1.0


# --- quarrels -------------------------------------------------------------------------------------------------------


def test_sources_that_disagree_are_a_conflict_of_the_layers_where_they_do(tmp_path):
    tmp_path.joinpath("adapter_config.json").write_text(
        json.dumps({"r": 4, "lora_alpha": 64, "alpha_pattern": {"to_k": 8}})
    )

    found = diffusers(tmp_path, lora_adapter_metadata={"transformer.lora_alpha": 8})

    assert found.by_module == {Q: 2.0, K: 1.0}
    [conflict] = found.conflicts
    assert conflict.module == Q
    assert conflict.said == {"lora_adapter_metadata": 2.0, "adapter_config.json": 16.0}


def test_kohyas_tensors_and_notes_can_disagree(tmp_path):
    alphas = {Q: torch.tensor(4.0), K: torch.tensor(2.0)}

    found = kohya(tmp_path, alphas, {"ss_network_alpha": "2"})

    assert [conflict.module for conflict in found.conflicts] == [KOHYAS[Q]]
    assert found.by_module == {KOHYAS[Q]: 1.0, KOHYAS[K]: 0.25}


def test_an_alpha_that_was_rounded_to_16_bits_is_no_conflict(tmp_path):
    found = kohya(tmp_path, {Q: torch.tensor(0.3, dtype=torch.bfloat16)}, {"ss_network_alpha": "0.3"})

    assert found.conflicts == ()


def test_an_alpha_of_zero_and_one_that_is_not_are_a_conflict(tmp_path):
    found = kohya(tmp_path, {Q: torch.tensor(0.0)}, {"ss_network_alpha": "1"})

    assert found.by_module[KOHYAS[Q]] == 0.0
    assert [conflict.module for conflict in found.conflicts] == [KOHYAS[Q]]


def test_an_alpha_that_is_no_number_does_not_disagree_with_itself(tmp_path):
    found = kohya(tmp_path, {layer: torch.tensor(float("nan")) for layer in RANKS})

    assert found.conflicts == ()
    assert all(math.isnan(scale) for scale in found.by_module.values())


def test_notes_are_not_about_convolutions(tmp_path):
    tensors = factors("lora_unet_", "lora_down", "lora_up")
    tensors["lora_unet_conv.lora_down.weight"] = torch.ones(4, 3, 2, 2)
    tensors["lora_unet_conv.alpha"] = torch.tensor(1.0)
    save_file(tensors, tmp_path / "x.safetensors", metadata={"ss_network_alpha": "4"})

    found = scales(adapter_of(tmp_path / "x.safetensors"))

    assert (found.by_module["lora_unet_conv"], found.by_module[KOHYAS[Q]]) == (0.25, 1.0)
    assert found.conflicts == ()


# --- SAT's notes ----------------------------------------------------------------------------------------------------

YAML = """\
model:
  network_config:
    params:
      modules:
        lora_config:
          target: sat.model.finetune.lora2.LoraMixin
          params:
{parameters}
"""


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ("            r: 128", {"lora_alpha": 1.0, "r": 128.0}),
        ("            r: 128\n            lora_alpha: 64", {"lora_alpha": 64.0, "r": 128.0}),
        ("            lora_alpha: 64", {"lora_alpha": 64.0}),
        ("            r: many", {"lora_alpha": 1.0}),
    ],
)
def test_sats_configuration_is_read(tmp_path, parameters, expected):
    (tmp_path / "1000").mkdir()
    (tmp_path / "training_config.yaml").write_text(YAML.format(parameters=parameters))

    assert sat_configuration(tmp_path) == expected
    assert sat_configuration(tmp_path / "1000") == expected


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 40)
)


@pytest.mark.parametrize(
    "text",
    [
        "model: {}",
        "[",
        "x: !!python/object/apply:os.system ['false']",
        "lora_config: [1]",
        "&a [*a]",
        "[" * 100_000,
        LAUGHS,
        "\x00",
    ],
    ids=["no lora", "cut short", "code", "a list", "circle", "deep", "laughs", "binary"],
)
def test_a_configuration_without_a_lora_or_without_sense_says_nothing(tmp_path, text):
    (tmp_path / "training_config.yaml").write_text(text)

    assert sat_configuration(tmp_path) is None


def test_a_configuration_that_is_too_long_to_be_one_is_not_read(tmp_path):
    text = YAML.format(parameters="            r: 128")
    (tmp_path / "training_config.yaml").write_text(text + "#" * (1 << 20))

    assert sat_configuration(tmp_path) is None


# --- hostile ones ---------------------------------------------------------------------------------------------------


def test_a_metadata_that_is_no_object_is_damage(tmp_path):
    with pytest.raises(DamagedFileError, match="lora_adapter_metadata"):
        diffusers(tmp_path, lora_adapter_metadata="[]")


@pytest.mark.parametrize("text", ["[]", "{", "[" * 100_000])
def test_finetrainers_notes_without_sense_say_nothing(tmp_path, text):
    assert diffusers(tmp_path, lora_config=text).unread == ()


def test_no_torch_is_needed(tmp_path):
    kohya(tmp_path, {Q: torch.tensor(2.0)})
    code = (
        "import sys; from pathlib import Path; from pytest_genmodel.checkpoints.opening import open_checkpoint; "
        "from pytest_genmodel.checkpoints.alpha import scales; "
        f"a = open_checkpoint(Path({str(tmp_path / 'kohya.safetensors')!r}), 'x').adapter; "
        "assert 0.5 in scales(a).by_module.values(); assert 'torch' not in sys.modules"
    )

    subprocess.run([sys.executable, "-c", code], check=True)
