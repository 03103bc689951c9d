"""A live pipeline: genuine to the bit, sampled once for each content, and no trace in the process around it."""

from __future__ import annotations

import gc
import importlib
import logging
import shutil
import warnings
import weakref
from pathlib import Path

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel, DiffusionPipeline
from safetensors.torch import load_file, save_file

from pytest_genmodel.checkpoints.opening import open_checkpoint
from pytest_genmodel.errors import BadInputError
from pytest_genmodel.pipelines.library import dtype_keyword, quiet
from pytest_genmodel.pipelines.pipeline import Pipeline, UnbackedError
from pytest_genmodel.pipelines.placement import SMALL_MODEL, Placement, controlled
from pytest_genmodel.pipelines.probe import Probe
from pytest_genmodel.pipelines.probing import ProbeWishes, make_probe
from pytest_genmodel.pipelines.residents import Role, align, on_meta, residents, tie_groups
from pytest_genmodel.pipelines.sampling import Samples
from tests.editing import TO_Q, TRANSFORMER, drop_tensors, edit_json, edit_tensors

CPU = Placement("cpu", "float32")
FLOAT32 = {dtype_keyword("diffusers"): torch.float32}


def live(folder: Path, **options) -> Pipeline:
    return Pipeline(open_checkpoint(folder, "candidate"), CPU, **options)


def probe_for(pipeline: Pipeline, **wishes) -> Probe:
    wishes = {"steps": 1, **wishes}
    return make_probe(ProbeWishes(**wishes), pipeline.checkpoint, pipeline.family, full=False)


# --- sampling -------------------------------------------------------------------------------------------------------


def test_a_sample_is_that_of_the_genuine_pipeline_to_the_bit(healthy):
    pipeline = live(healthy)
    probe = probe_for(pipeline, steps=2)
    genuine = DiffusionPipeline.from_pretrained(healthy, **FLOAT32)
    genuine.set_progress_bar_config(disable=True)
    for name in (
        "transformer",
        "vae",
        "text_encoder",
    ):  # as align() lays them out: the kernels look at addresses
        align(getattr(genuine, name))
    latents = []

    def keep(_, step, timestep, tensors):
        latents.append(tensors["latents"].clone())
        return {}

    with controlled("cpu", 0):
        frames = genuine(
            image=probe.picture(),
            prompt=probe.prompt,
            negative_prompt="",
            height=probe.height,
            width=probe.width,
            num_frames=probe.frames,
            num_inference_steps=probe.steps,
            guidance_scale=probe.guidance,
            max_sequence_length=16,
            generator=torch.Generator("cpu").manual_seed(probe.seed),
            output_type="pt",
            callback_on_step_end=keep,
        ).frames[0]

    sample = pipeline.sample(probe)
    assert torch.equal(sample.frames, frames)
    assert torch.equal(sample.latents, torch.stack(latents))
    assert (sample.latents.shape[0], tuple(sample.frames.shape)) == (2, (9, 3, 16, 16))


def test_sampling_neither_reads_nor_moves_the_random_state(healthy):
    pipeline = live(healthy)
    torch.manual_seed(1)
    first = pipeline.sample(probe_for(pipeline))
    drawn = torch.rand(3)
    torch.manual_seed(1)

    assert torch.equal(torch.rand(3), drawn)
    torch.manual_seed(2)
    assert torch.equal(live(healthy).sample(probe_for(pipeline)).latents, first.latents)


def test_a_sample_is_computed_once_for_each_probe_and_transformation(healthy):
    pipeline = live(healthy)
    probe = probe_for(pipeline)

    first = pipeline.sample(probe)

    assert pipeline.sample(probe.but()) is first
    assert pipeline.samples.computed == 1
    assert pipeline.sample(probe, transformation="again") is not first
    assert not torch.equal(pipeline.sample(probe.but(seed=5)).latents, first.latents)
    assert pipeline.samples.computed == 3


def test_a_sample_that_failed_is_not_remembered():
    samples = Samples()

    with pytest.raises(ZeroDivisionError):
        samples.get(("key",), lambda: 1 / 0)
    assert samples.computed == 0
    assert samples.get(("key",), lambda: "sample") == "sample"


def resharded(folder: Path) -> None:
    # Without a dtype diffusers keeps the position table in float64, and saves it so.
    model = CogVideoXTransformer3DModel.from_pretrained(folder / "transformer", **FLOAT32)
    (folder / TRANSFORMER).unlink()
    model.save_pretrained(folder / "transformer", max_shard_size="40KB")
    assert len(list((folder / "transformer").glob("*.safetensors"))) > 1


def other_metadata(folder: Path) -> None:
    save_file(load_file(folder / TRANSFORMER), folder / TRANSFORMER, metadata={"format": "pt", "step": "500"})
    edit_json(folder / "model_index.json", _diffusers_version="0.1", _name_or_path="elsewhere")
    edit_json(folder / "transformer" / "config.json", _name_or_path="elsewhere")


@pytest.mark.parametrize("change", [resharded, other_metadata], ids=lambda change: change.__name__)
def test_equal_content_in_another_folder_is_one_computation(healthy, copy, change):
    change(copy)
    samples = Samples()
    one, two = live(healthy, samples=samples), live(copy, samples=samples)
    probe = probe_for(one)

    assert one.known_digest is None
    assert one.digest == two.digest == one.known_digest
    assert one.sample(probe) is two.sample(probe)
    assert samples.computed == 1


def scale_a_weight(folder: Path) -> None:
    edit_tensors(folder / TRANSFORMER, lambda tensors: tensors | {TO_Q: tensors[TO_Q] * 3})


def change_the_schedule(folder: Path) -> None:
    edit_json(folder / "scheduler" / "scheduler_config.json", timestep_spacing="leading")


def change_a_tokenizer(folder: Path) -> None:
    file = folder / "tokenizer" / "tokenizer.json"
    file.write_text(file.read_text().replace("▁red", "▁rot"))


@pytest.mark.parametrize("change", [scale_a_weight, change_the_schedule, change_a_tokenizer])
def test_other_content_is_another_computation(healthy, copy, change):
    change(copy)
    samples = Samples()
    one, two = live(healthy, samples=samples), live(copy, samples=samples)
    probe = probe_for(one, prompt="a red square moves right")

    assert one.digest != two.digest
    assert not torch.equal(one.sample(probe).latents, two.sample(probe).latents)
    assert samples.computed == 2


# --- components -----------------------------------------------------------------------------------------------------


def test_derived_pipelines_share_equal_components_and_no_others(healthy, copy):
    scale_a_weight(copy)
    one = live(healthy)
    one.residency.limit = 2
    two = one.derive(open_checkpoint(copy, "other"))

    for name in ("vae", "text_encoder", "tokenizer"):
        assert one.component(name) is two.component(name)
    for name in ("transformer", "scheduler"):  # a scheduler has state: it is never shared
        assert one.component(name) is not two.component(name)


def test_entering_a_second_pipeline_lets_go_of_what_it_does_not_need(healthy, copy):
    scale_a_weight(copy)
    one = live(healthy)
    two = one.derive(open_checkpoint(copy, "other"))
    vae, transformer = one.component("vae"), one.component("transformer")

    two.component("transformer")

    assert one.component("vae") is vae
    assert one.component("transformer") is not transformer


def test_components_are_loaded_when_touched_and_kept(healthy, monkeypatch):
    loads = []
    load = CogVideoXTransformer3DModel.from_pretrained
    monkeypatch.setattr(
        CogVideoXTransformer3DModel, "from_pretrained", lambda *a, **k: loads.append(1) or load(*a, **k)
    )
    pipeline = live(healthy)
    pipeline.component("vae")
    assert loads == []
    assert pipeline.component("transformer") is pipeline.diffusers.transformer
    assert loads == [1]
    assert not pipeline.component("transformer").training


def test_attribute_of_a_diffusers_pipeline_says_how_a_component_is_asked_for(healthy):
    pipeline = live(healthy)

    with pytest.raises(AttributeError, match=r"no attribute 'vae': component\('vae'\) gives it live"):
        _ = pipeline.vae
    with pytest.raises(AttributeError, match="'Pipeline' object has no attribute 'vea'"):
        _ = pipeline.vea
    assert not pipeline._loaded


def test_an_unknown_component_is_refused_with_the_known_ones(healthy):
    with pytest.raises(BadInputError, match=r"no component 'unet' .it has .*transformer"):
        live(healthy).component("unet")


def test_a_pipeline_with_tensors_that_have_no_memory_is_never_run(copy):
    drop_tensors(copy / TRANSFORMER, TO_Q)
    pipeline = live(copy)

    with pytest.raises(UnbackedError, match=f"1 tensors of the transformer were never loaded .{TO_Q} first"):
        pipeline.require_backed()
    with pytest.raises(UnbackedError):
        pipeline.sample(probe_for(pipeline))
    assert pipeline.samples.computed == 0


@pytest.mark.parametrize("part", ["vae", "scheduler", "transformer"])
def test_a_pipeline_that_lacks_a_component_is_never_run(copy, part):
    edit_json(copy / "model_index.json", **{part: [None, None]})
    pipeline = live(copy)

    assert pipeline.missing == (part,)
    for use in (pipeline.require_backed, lambda: pipeline.diffusers):
        with pytest.raises(BadInputError, match=f"candidate has no {part}, which CogVideoXImageToVideoPipe"):
            use()


def test_a_whole_pipeline_is_backed(healthy):
    live(healthy).require_backed()


# --- controlled conditions ------------------------------------------------------------------------------------------


class Trouble(Exception):
    """Raised in the middle of something."""


def flags() -> tuple[object, ...]:
    return (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.allow_tf32,
        torch.backends.cudnn.benchmark,
    )


@pytest.fixture
def odd_flags():
    """Settings of the user's own that a run must not lose."""
    before = flags()
    torch.set_num_threads(3)
    torch.use_deterministic_algorithms(False, warn_only=True)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    yield flags()
    torch.set_num_threads(before[0])
    torch.use_deterministic_algorithms(before[1], warn_only=before[2])
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before[3:5]
    torch.backends.cudnn.benchmark = before[5]


@pytest.mark.parametrize("fails", [False, True])
def test_a_run_is_controlled_and_everything_is_put_back(odd_flags, fails):
    def run():
        with controlled("cpu", 1000):
            inside.append(flags())
            if fails:
                raise Trouble

    inside = []
    if fails:
        with pytest.raises(Trouble):
            run()
    else:
        run()

    assert inside == [(1, True, True, False, False, False)]
    assert flags() == odd_flags


@pytest.mark.parametrize(("device", "parameters"), [("cpu", SMALL_MODEL), ("cuda", 1000)])
def test_a_large_model_and_an_accelerator_keep_their_threads(odd_flags, device, parameters):
    with controlled(device, parameters):
        assert torch.get_num_threads() == 3


@pytest.mark.skipif(
    not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="torch has the old names only"
)
def test_a_process_that_uses_torchs_newer_names_for_precision_is_controlled_too():
    """torch refuses the old names there, even to be read."""
    parts = (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn)
    before = [part.fp32_precision for part in parts]
    try:
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        torch.backends.cudnn.conv.fp32_precision = "ieee"
        torch.backends.cudnn.rnn.fp32_precision = "tf32"
        with pytest.raises(RuntimeError):
            _ = torch.backends.cudnn.allow_tf32
        with controlled("cpu", 1000):
            assert [part.fp32_precision for part in parts] == ["ieee"] * 3
        assert [part.fp32_precision for part in parts] == ["tf32", "ieee", "tf32"]
    finally:
        for part, precision in zip(parts, before, strict=True):
            part.fp32_precision = precision


def logging_state() -> list[tuple[object, ...]]:
    from diffusers.utils import logging as diffusers_logging
    from huggingface_hub.utils import are_progress_bars_disabled
    from transformers.utils import logging as transformers_logging

    loggers = [logging.getLogger(name) for name in ("diffusers", "transformers", "peft", "accelerate")]
    return [
        *((logger.name, tuple(logger.handlers), logger.propagate, logger.level) for logger in loggers),
        (diffusers_logging.is_progress_bar_enabled(), transformers_logging.is_progress_bar_enabled()),
        (are_progress_bars_disabled(), tuple(warnings.filters)),
    ]


@pytest.fixture
def odd_logging():
    """A user's own handlers, levels and switches."""
    import huggingface_hub.utils as hub
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    before = logging_state()
    handler = logging.NullHandler()
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    logger.setLevel(logging.ERROR)
    logger.propagate = True
    transformers_logging.enable_progress_bar()
    hub.disable_progress_bars()
    diffusers_logging.disable_progress_bar()
    yield
    logger.removeHandler(handler)
    logger.setLevel(before[1][3])
    logger.propagate = before[1][2]
    (diffusers_logging.enable_progress_bar if before[4][0] else diffusers_logging.disable_progress_bar)()
    (
        transformers_logging.enable_progress_bar
        if before[4][1]
        else transformers_logging.disable_progress_bar
    )()
    (hub.disable_progress_bars if before[5][0] else hub.enable_progress_bars)()


@pytest.mark.parametrize("fails", [False, True])
def test_quiet_collects_what_is_said_and_puts_everything_back(odd_logging, capfd, fails):
    def say():
        with quiet() as lines:
            said.append(lines)
            logging.getLogger("diffusers.models").warning("missing %d keys", 3)
            logging.getLogger("transformers.modeling_utils").info("not worth a line")
            warnings.warn("old", FutureWarning, stacklevel=1)
            with quiet() as inner:
                logging.getLogger("peft").error("inner")
            assert inner == ["inner"]
            if fails:
                raise Trouble

    said: list[list[str]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = logging_state()
        if fails:
            with pytest.raises(Trouble):
                say()
        else:
            say()
        assert logging_state() == before

    assert said == [["missing 3 keys"]]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("fixed", [True, False])
def test_quiet_is_quiet_where_the_environment_has_fixed_the_hubs_bars(monkeypatch, fixed):
    """The hub warns of every attempt to turn its switch; a run under -W error would end there."""
    hub = importlib.import_module("huggingface_hub.utils.tqdm")
    monkeypatch.setattr(hub, "HF_HUB_DISABLE_PROGRESS_BARS", fixed)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with quiet():
            pass


def test_loading_and_sampling_say_nothing_and_show_no_bars(copy, capfd):
    drop_tensors(copy / "text_encoder/model.safetensors", "encoder.block.1.layer.0.SelfAttention.q.weight")
    pipeline = live(copy)
    pipeline.sample(probe_for(pipeline))

    assert capfd.readouterr() == ("", "")
    assert any("SelfAttention.q" in line for line in pipeline.loaded("text_encoder").log)


# --- what lives in a model ------------------------------------------------------------------------------------------


class Odd(torch.nn.Module):
    """Ties, a transposed view of one memory, buffers of both kinds, an empty tensor and a tensor on meta."""

    def __init__(self) -> None:
        super().__init__()
        self.a = torch.nn.Parameter(torch.arange(9.0).reshape(3, 3))
        self.tied = self.a
        self.view = torch.nn.Parameter(self.a.data.view(3, 3))
        self.turned = torch.nn.Parameter(self.a.data.t())
        self.meta = torch.nn.Parameter(torch.empty(2, device="meta"))
        self.register_buffer("empty", torch.empty(0))
        self.register_buffer("table", torch.ones(2))
        self.register_buffer("cache", torch.zeros(2), persistent=False)


def test_every_tensor_is_listed_under_each_of_its_names_with_its_role():
    roles = {name: resident.role for name, resident in residents(Odd()).items()}

    assert roles == {
        **dict.fromkeys(("a", "tied", "view", "turned", "meta"), Role.PARAMETER),
        **dict.fromkeys(("empty", "table"), Role.BUFFER),
        "cache": Role.TRANSIENT,
    }


def test_names_of_one_tensor_are_a_tie_and_its_transpose_is_not():
    assert tie_groups(residents(Odd())) == [("a", "tied", "view")]


def test_the_text_encoders_tie_is_found_live_and_on_meta(healthy):
    from pytest_genmodel.pipelines.loading import skeleton

    checkpoint = open_checkpoint(healthy, "x")
    tie = {"shared.weight", "encoder.embed_tokens.weight"}
    loaded = residents(live(healthy).component("text_encoder"))

    assert [set(group) for group in tie_groups(loaded)] == [tie]
    assert [set(g) for g in tie_groups(residents(skeleton(checkpoint.components["text_encoder"])))] == [tie]


def test_aligning_keeps_values_and_ties_and_gives_each_its_own_memory():
    model = Odd()
    before = {name: r.tensor.clone() for name, r in residents(model).items() if not r.tensor.is_meta}
    place = model.a.data_ptr()

    align(model)

    after = residents(model)
    assert all(torch.equal(after[name].tensor, tensor) for name, tensor in before.items())
    assert after["turned"].tensor.tolist() == before["a"].t().tolist()
    assert after["a"].tensor.data_ptr() != place
    assert tie_groups(after) == [("a", "tied", "view")]
    assert model.a is model.tied
    assert after["meta"].tensor.is_meta


def test_aligning_moves_tensors_from_odd_addresses():
    model = torch.nn.Linear(8, 8)
    memory = bytearray(8 * 8 * 4 + 4)
    odd = torch.frombuffer(memory, dtype=torch.float32, count=64, offset=4).reshape(8, 8)
    odd.copy_(model.weight.data)
    model.weight.data = odd

    align(model)

    assert model.weight.data_ptr() % 64 == 0
    assert torch.equal(model.weight, odd)


def test_every_loaded_tensor_is_aligned(healthy):
    for name in ("transformer", "vae", "text_encoder"):
        for resident in residents(live(healthy).component(name)).values():
            assert resident.tensor.data_ptr() % 64 == 0, resident.name


def test_tensors_on_meta_are_named():
    assert on_meta(Odd()) == ("meta",)
    assert on_meta(torch.nn.Linear(2, 2)) == ()


def test_a_module_that_accelerate_has_offloaded_is_not_missing():
    from accelerate import cpu_offload

    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    cpu_offload(model, execution_device=torch.device("cpu"))

    assert all(parameter.is_meta for parameter in model.parameters())
    assert on_meta(model) == ()


def test_loading_writes_nothing_into_the_checkpoint(copy):
    before = {
        path: (path.read_bytes(), path.stat().st_mtime_ns) for path in copy.rglob("*") if path.is_file()
    }

    pipeline = live(copy)
    pipeline.sample(probe_for(pipeline))

    after = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in copy.rglob("*") if path.is_file()}
    assert after == before


def test_code_beside_a_component_is_not_run(copy, tmp_path):
    marker = tmp_path / "ran"
    for folder in (copy, copy / "transformer"):
        (folder / "diffusers.py").write_text(f"open({str(marker)!r}, 'w')")
        (folder / "modeling.py").write_text(f"open({str(marker)!r}, 'w')")
    edit_json(copy / "transformer" / "config.json", auto_map={"AutoModel": "modeling.Evil"})
    shutil.copy(copy / "transformer" / "modeling.py", copy / "pipeline.py")

    _ = live(copy).diffusers

    assert not marker.exists()


def test_key_of_the_model_index_that_the_class_does_not_take_is_passed_over(judged, copy, healthy):
    edit_json(copy / "model_index.json", left_by_another_tool=True)

    for name in ("coverage", "same_config", "seeded_sampling"):
        assert judged(name, copy, healthy).findings == ()


def test_a_large_model_that_is_let_go_of_leaves_the_memory_at_once(healthy, monkeypatch):
    monkeypatch.setattr("pytest_genmodel.pipelines.pipeline.WORTH_COLLECTING", 1)
    pipeline = live(healthy)
    pipeline.sample(probe_for(pipeline))
    held = weakref.ref(pipeline.component("transformer"))

    gc.disable()
    try:
        pipeline.release()
        assert held() is None
    finally:
        gc.enable()
