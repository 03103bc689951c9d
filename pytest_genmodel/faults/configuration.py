"""Faults of configuration: the weights are right, and a value beside them is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pytest_genmodel.faults.copy import Copy
from pytest_genmodel.faults.registry import Place, fault

_SCALING = "https://github.com/huggingface/diffusers/issues/6923"


def _doubled(value: Any) -> Any:
    return [2 * one for one in value] if isinstance(value, list) else 2 * value


def _set(copy: Copy, component: str, key: str, change: Callable[[Any], Any]) -> Place:
    return Place(component, copy.set_known(component, key, change))


def _first_known(copy: Copy, component: str, *keys: str) -> str:
    """The first of these keys that the configuration states."""
    for key in keys:
        if copy.config(component).get(key) is not None:
            return key
    return copy.does_not_apply(f"the {component} states none of {', '.join(keys)}")


@fault(
    "GM401",
    "same_config",
    layer="vae",
    needs_reference=True,
    entries=("vae-scaling-factor-overridden",),
    seen_in=_SCALING,
)
def scaling_factor_of_another_model(copy: Copy) -> Place:
    """The converter wrote the default of another model as the VAE's scaling factor."""
    if copy.config("vae").get("scaling_factor") == 1.15258426:
        copy.does_not_apply("the VAE has this scaling factor itself")
    return _set(copy, "vae", "scaling_factor", lambda _: 1.15258426)


@fault("GM401", "same_config", layer="vae", needs_reference=True, seen_in=_SCALING)
def scaling_factor_not_written(copy: Copy) -> Place:
    """The VAE's configuration lost its scaling factor: the class's default takes its place."""
    key = "scaling_factor"
    if copy.config("vae").get(key) is None:
        copy.does_not_apply("the VAE states no scaling_factor")
    return Place("vae", f"{copy.set('vae', **{key: ...})}:{key}")


@fault(
    "GM401",
    "same_config",
    layer="vae",
    needs_reference=True,
    entries=("cogvideo-236-converted-pipeline-blurry",),
    seen_in="https://github.com/zai-org/CogVideo/issues/236",
)
def defaults_of_the_converter(copy: Copy) -> Place:
    """The converter's defaults, those of the 2B model, were written for a 5B model: scaling and shift."""
    copy.set_known("vae", "scaling_factor", lambda _: 1.15258426)
    return _set(copy, "scheduler", "snr_shift_scale", lambda _: 3.0)


@fault(
    "GM401",
    "same_config",
    layer="vae",
    needs_reference=True,
    entries=("cogvideo-15-i2v-image-latent-scale",),
    seen_in="https://github.com/huggingface/finetrainers/issues/110",
)
def image_latents_scaled_the_other_way(copy: Copy) -> Place:
    """The image's latents are divided by the scaling factor where they must be multiplied, or the reverse."""
    return _set(copy, "vae", "invert_scale_latents", lambda value: not value)


@fault(
    "GM401",
    "same_config",
    layer="image-conditioning",
    model="wan2.1-i2v",
    needs_reference=True,
    entries=("wan-latent-mean-std-on-posterior",),
    seen_in="https://github.com/huggingface/diffusers/pull/11007",
)
def latent_statistics_lost(copy: Copy) -> Place:
    """The VAE's latents are no longer divided by their spread: every `latents_std` is one."""
    return _set(copy, "vae", "latents_std", lambda value: [1.0] * len(value))


@fault("GM401", "same_config", layer="vae", needs_reference=True)
def groups_of_the_vae_changed(copy: Copy) -> Place:
    """The norms of the VAE work in twice as many groups as they were trained with."""
    return _set(copy, "vae", "norm_num_groups", _doubled)


@fault("GM401", "same_config", layer="vae", needs_reference=True)
def time_compression_halved(copy: Copy) -> Place:
    """The VAE says half its compression in time: clips come out in another length."""
    return _set(copy, "vae", "temporal_compression_ratio", lambda value: value // 2)


@fault(
    "GM404",
    "same_config",
    layer="config",
    severity="warning",
    model="cogvideox1.5-i2v",
    needs_reference=True,
    entries=("cogvideox15-sample-size-config",),
    seen_in="https://github.com/huggingface/diffusers/pull/9877",
)
def size_of_another_model(copy: Copy) -> Place:
    """The denoiser's sample size is that of another model, from which the position grid is made."""
    return _set(copy, copy.denoiser, "sample_width", _doubled)


@fault(
    "GM430",
    "coverage",
    layer="config",
    entries=("cogvideo-355-t2v-weights-for-i2v",),
    seen_in="https://github.com/zai-org/CogVideo/issues/355",
)
def channels_of_text_to_video(copy: Copy) -> Place:
    """The configuration is that of the text-to-video model: half of the input channels."""
    return _set(copy, copy.denoiser, "in_channels", lambda value: value // 2)


@fault("GM202", "coverage", layer="config")
def one_layer_fewer(copy: Copy) -> Place:
    """The configuration asks for one layer fewer than the file holds."""
    key = _first_known(copy, copy.denoiser, "num_layers")
    copy.set_known(copy.denoiser, key, lambda value: value - 1)
    return Place(copy.denoiser)


@fault("GM201", "coverage", layer="config")
def one_layer_more(copy: Copy) -> Place:
    """The configuration asks for one layer more than the file holds."""
    key = _first_known(copy, copy.denoiser, "num_layers")
    copy.set_known(copy.denoiser, key, lambda value: value + 1)
    return Place(copy.denoiser)


@fault("GM401", "same_config", layer="config", needs_reference=True)
def epsilon_of_the_norms(copy: Copy) -> Place:
    """The norms of the denoiser have another epsilon."""
    key = _first_known(copy, copy.denoiser, "norm_eps", "eps")
    return _set(copy, copy.denoiser, key, lambda _: 1e-2)


@fault("GM401", "same_config", layer="config", needs_reference=True)
def sine_and_cosine_exchanged(copy: Copy) -> Place:
    """The halves of the time embedding are exchanged."""
    return _set(copy, copy.denoiser, "flip_sin_to_cos", lambda value: not value)


@fault("GM401", "same_config", layer="config", needs_reference=True)
def another_activation(copy: Copy) -> Place:
    """The feed-forward layers have another activation function."""
    return _set(copy, copy.denoiser, "activation_fn", lambda value: "gelu" if value != "gelu" else "silu")


@fault(
    "GM202",
    "coverage",
    layer="positional-embedding",
    entries=("cogvideo-323-learned-posembed-ignored",),
    seen_in="https://github.com/zai-org/CogVideo/issues/323",
)
def learned_positions_switched_off(copy: Copy) -> Place:
    """The flag of the learned positions is off: the table lies in the file and nobody reads it."""
    key = "use_learned_positional_embeddings"
    if not copy.config(copy.denoiser).get(key):
        copy.does_not_apply("the denoiser learns no positions")
    copy.set(copy.denoiser, **{key: False})
    return Place(copy.denoiser, "patch_embed.pos_embedding")


@fault(
    "GM432",
    "known_fields",
    severity="warning",
    layer="version-skew",
    entries=("config-attr-ignored-by-older-library",),
    seen_in="https://github.com/huggingface/diffusers/issues/12889",
)
def field_of_a_newer_library(copy: Copy) -> Place:
    """The configuration has a field that the installed library does not know, and passes over."""
    file = copy.set(copy.denoiser, zero_cond_t=True)
    return Place(copy.denoiser, f"{file}:zero_cond_t")


@fault(
    "GM206",
    "same_weights",
    layer="config",
    expect="identical",
    entries=("videoxfun-297-wrong-vae-class-and-subpath",),
    seen_in="https://github.com/aigc-apps/VideoX-Fun/pull/297",
)
def class_of_another_vae(copy: Copy) -> Place:
    """The model index names the VAE class of another model."""
    here = copy.component("vae", with_weights=False).class_name
    copy.set_index(
        vae=["diffusers", "AutoencoderKLWan" if here != "AutoencoderKLWan" else "AutoencoderKLCogVideoX"]
    )
    return Place("vae")


@fault(
    "GM401",
    "same_config",
    layer="scheduler",
    needs_reference=True,
    entries=("mindone-455-edm-flag",),
    seen_in="https://github.com/mindspore-lab/mindone/issues/455",
)
def another_prediction_type(copy: Copy) -> Place:
    """The scheduler takes the prediction for noise, and the model was trained to predict velocity, or the reverse."""
    return _set(
        copy,
        "scheduler",
        "prediction_type",
        lambda value: "v_prediction" if value == "epsilon" else "epsilon",
    )


@fault("GM401", "same_config", layer="scheduler", needs_reference=True)
def prediction_type_not_written(copy: Copy) -> Place:
    """The scheduler's configuration lost its prediction type: the class's default takes its place."""
    if copy.config("scheduler").get("prediction_type") in (None, "epsilon", "flow_prediction"):
        copy.does_not_apply("the scheduler states no prediction_type of its own")
    return Place("scheduler", f"{copy.set('scheduler', prediction_type=...)}:prediction_type")


@fault(
    "GM401",
    "same_config",
    layer="scheduler",
    needs_reference=True,
    entries=("cogvideox-scheduler-class-swapped",),
    seen_in="https://github.com/huggingface/finetrainers/issues/82",
)
def another_scheduler(copy: Copy) -> Place:
    """The scheduler that trains was saved for sampling: it passes over the shift of the noise levels."""
    if not copy.component("scheduler", with_weights=False).class_name.startswith("CogVideoX"):
        copy.does_not_apply("the scheduler has no counterpart without the shift")
    copy.set_known("scheduler", "snr_shift_scale", lambda value: value)
    copy.set("scheduler", _class_name="DDIMScheduler")
    copy.set_index(scheduler=["diffusers", "DDIMScheduler"])
    return Place("scheduler", "model_index.json:scheduler")


@fault("GM401", "same_config", layer="scheduler", needs_reference=True)
def noise_levels_shifted(copy: Copy) -> Place:
    """The shift of the noise levels is that of another model."""
    key = _first_known(copy, "scheduler", "snr_shift_scale", "flow_shift", "shift", "base_shift")
    return _set(copy, "scheduler", key, lambda value: 3 * value)


@fault("GM401", "same_config", layer="scheduler", needs_reference=True)
def last_step_keeps_signal(copy: Copy) -> Place:
    """The schedule no longer ends in pure noise (`rescale_betas_zero_snr`), as training had it."""
    return _set(copy, "scheduler", "rescale_betas_zero_snr", lambda value: not value)


@fault("GM401", "same_config", layer="scheduler", needs_reference=True)
def steps_spaced_otherwise(copy: Copy) -> Place:
    """The steps of sampling are spread over the schedule in another way."""
    return _set(
        copy, "scheduler", "timestep_spacing", lambda value: "leading" if value != "leading" else "trailing"
    )


@fault("GM401", "same_config", layer="scheduler", needs_reference=True)
def schedule_of_a_tenth(copy: Copy) -> Place:
    """The schedule has a tenth of the steps that the model was trained with."""
    return _set(copy, "scheduler", "num_train_timesteps", lambda value: value // 10)


@fault("GM433", "known_fields", layer="version-skew", entries=("config-attr-ignored-by-older-library",))
def field_of_a_newer_library_that_decides(copy: Copy) -> Place:
    """A later version wrote the configuration, with a field that decides how tokens are placed."""
    file = copy.set(copy.denoiser, _diffusers_version="99.0.0", rope_axes_dim_2=[4, 6, 6])
    return Place(copy.denoiser, f"{file}:rope_axes_dim_2")


@fault("GM434", "known_fields", layer="version-skew", severity="note")
def written_by_a_newer_library(copy: Copy) -> Place:
    """A later version than the installed one wrote the configuration; every field of it is known."""
    file = copy.set("vae", _diffusers_version="99.0.0")
    return Place("vae", f"{file}:_diffusers_version")


@fault("GM941", "sound_prediction", layer="scheduler", level="quick", model="cogvideox-i2v-trained")
def prediction_type_of_another_model(copy: Copy) -> Place:
    """Both sides say that the model predicts the clean latents; it was trained to predict velocity."""
    return Place("scheduler", copy.set_known("scheduler", "prediction_type", lambda _: "sample"))


@fault(
    "GM943",
    "sound_autoencoder",
    layer="vae",
    severity="warning",
    level="quick",
    model="cogvideox-i2v-trained",
)
def scaling_factor_of_another_autoencoder(copy: Copy) -> Place:
    """Both sides scale latents by the factor of another autoencoder, an eighth of the right one."""
    return Place("vae", copy.set_known("vae", "scaling_factor", lambda value: value / 8))
