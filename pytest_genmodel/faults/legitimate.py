"""Legitimate differences: what a naive check would flag, and what is the same model all the same."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from pytest_genmodel.faults.copy import Copy
from pytest_genmodel.faults.files import shard
from pytest_genmodel.faults.values import ALIAS, embedding


@dataclass(frozen=True)
class Difference:
    """A change of a copy that no claim may flag; `treated` says how it is looked at."""

    name: str
    make: Callable[[Copy], None]
    treated: str
    entries: tuple[str, ...]

    @property
    def summary(self) -> str:
        """What differs, in one line."""
        return (inspect.getdoc(self.make) or self.name).splitlines()[0]


_DIFFERENCES: dict[str, Difference] = {}


def _legitimate(treated: str, *entries: str) -> Callable[[Callable[[Copy], None]], Callable[[Copy], None]]:
    def wrap(make: Callable[[Copy], None]) -> Callable[[Copy], None]:
        _DIFFERENCES[make.__name__] = Difference(make.__name__, make, treated, entries)
        return make

    return wrap


def all_differences() -> Mapping[str, Difference]:
    """Every legitimate difference by name."""
    return dict(_DIFFERENCES)


@_legitimate("tensors are compared by name, over all files of a set", "resharded-safetensors")
def other_shards(copy: Copy) -> None:
    """The denoiser lies in two files and an index."""
    shard(copy)


@_legitimate("order and place in a file mean nothing")
def other_order(copy: Copy) -> None:
    """The tensors and the keys of the configuration stand in another order."""
    copy.rewrite(
        copy.denoiser,
        lambda entries: {n: replace(entries[n], touched=True) for n in sorted(entries, reverse=True)},
    )
    path = copy.component(copy.denoiser).config_path
    if path is not None:
        copy.write(path, json.dumps(dict(reversed(list(copy.config(copy.denoiser).items())))))


@_legitimate("the header's own text is no part of the model")
def no_metadata(copy: Copy) -> None:
    """The file's header says nothing of the framework."""
    import os

    from safetensors.torch import save_file

    file = copy.first_file("vae")
    tensors = {name: entry.read() for name, entry in copy.tensors("vae").items()}
    beside = file.with_name(".unnamed")
    save_file(tensors, beside)
    os.replace(beside, file)


@_legitimate(
    "names of one tensor are one tensor; stored alike, they may both be there", "tied-weights-stored-once"
)
def tied_tensor_stored_twice(copy: Copy) -> None:
    """The tied token embedding is stored under both of its names, alike."""
    name = embedding(copy)
    copy.rewrite("text_encoder", lambda entries: entries | {ALIAS: replace(entries[name], touched=True)})


@_legitimate("any name of a tied tensor will do", "tied-weights-stored-once")
def tied_tensor_under_its_other_name(copy: Copy) -> None:
    """The tied token embedding is stored under its other name only."""
    name = embedding(copy)
    copy.rename("text_encoder", lambda n: ALIAS if n == name else n)


@_legitimate("underscored keys, versions and paths are bookkeeping", "version-and-path-fields")
def bookkeeping(copy: Copy) -> None:
    """Versions and paths in the configurations are others."""
    for name in copy.checkpoint.components:
        if copy.component(name, with_weights=False).config_path is not None:
            copy.set(
                name, _diffusers_version="0.30.0", _name_or_path="/elsewhere", transformers_version="4.44.0"
            )
    copy.set_index(_diffusers_version="0.30.0", _name_or_path="/elsewhere")


@_legitimate("both spellings say the same", "version-and-path-fields", "mixed-component-dtypes")
def dtype_spelled_as_before(copy: Copy) -> None:
    """The text encoder's configuration spells its dtype as older libraries do."""
    dtype = copy.config("text_encoder").get("dtype", "float32")
    copy.set("text_encoder", dtype=..., torch_dtype=dtype)


@_legitimate("a key that the class does not take has no effect", "inert-config-keys")
def leftover_key(copy: Copy) -> None:
    """The configuration has a key that no class takes."""
    copy.set(copy.denoiser, leftover_of_an_older_class=7)


@_legitimate("keys that the scheduler takes and never reads have no effect", "inert-config-keys")
def inert_key(copy: Copy) -> None:
    """The scheduler's configuration has another value of a key that its class never reads."""
    copy.set_known("scheduler", "clip_sample_range", lambda value: value + 1)


@_legitimate("defaults are filled in before values are compared")
def default_left_out(copy: Copy) -> None:
    """A value that is the class's default is not written."""
    copy.set(copy.denoiser, norm_eps=..., freq_shift=...)


@_legitimate("the library's own choice of files is followed", "variant-files-side-by-side")
def variant_beside_the_weights(copy: Copy) -> None:
    """The VAE's weights lie there in float16 too, as a variant."""
    from pytest_genmodel.checkpoints.writing import write_safetensors
    from pytest_genmodel.faults.stored import weight_set

    file = copy.first_file("vae")
    beside = file.with_name(f"{file.stem}.fp16{file.suffix}")
    halved = {
        name: replace(entry, file=beside).changed(lambda tensor: tensor.half(), dtype="F16")
        for name, entry in copy.tensors("vae").items()
    }
    write_safetensors(beside, weight_set(halved))


@_legitimate("a component named [null, null] is a component that is not there", "optional-null-components")
def component_that_is_null(copy: Copy) -> None:
    """The model index names a component of which there is none."""
    copy.set_index(image_encoder=[None, None])


@_legitimate("a tokenizer is judged by the ids that it gives", "tokenizer-reserialisation")
def tokenizer_saved_again(copy: Copy) -> None:
    """The tokenizer was loaded and saved by the installed library."""
    from pytest_genmodel.pipelines.library import class_named, quiet

    component = copy.component("tokenizer", with_weights=False)
    with quiet():
        loaded = class_named(component.home, component.class_name).from_pretrained(str(component.folder))
        copy.delete(component.folder)
        loaded.save_pretrained(str(component.folder))


@_legitimate("what is no weights and no program is passed over")
def papers_beside_the_model(copy: Copy) -> None:
    """A readme, a licence and a picture lie in the folder."""
    copy.write(copy.folder / "README.md", "# A model\n")
    copy.write(copy.folder / "LICENSE", "Apache 2.0\n")
    copy.write(copy.folder / "sample.png", b"\x89PNG\r\n")
    copy.write(copy.path(copy.denoiser) / ".gitattributes", "*.safetensors filter=lfs\n")


@_legitimate("a pickle of tensors is read as they would be from safetensors")
def pickled(copy: Copy) -> None:
    """The denoiser is stored as a pickle: in another layout in memory, as parameters, in an ordered dict."""
    from collections import OrderedDict

    import torch

    tensors = {name: entry.read() for name, entry in copy.tensors(copy.denoiser).items()}
    copy.delete(copy.first_file(copy.denoiser))
    turned = {n: t.t().contiguous().t() if t.ndim == 2 else t for n, t in tensors.items()}
    parameters = OrderedDict(
        (name, torch.nn.Parameter(tensor, requires_grad=tensor.is_floating_point()))
        for name, tensor in turned.items()
    )
    torch.save(parameters, copy.path(copy.denoiser) / "diffusion_pytorch_model.bin")


@_legitimate("a second set that holds the same tensors is a note", "variant-files-side-by-side")
def pickle_of_the_same_beside(copy: Copy) -> None:
    """The VAE's weights lie there as a pickle too, tensor for tensor the same."""
    import torch

    tensors = {name: entry.read() for name, entry in copy.tensors("vae").items()}
    torch.save(tensors, copy.path("vae") / "diffusion_pytorch_model.bin")


@_legitimate("weights for other programs, and what file systems leave, are passed over")
def other_programs_files(copy: Copy) -> None:
    """Exports for OpenVINO, ONNX, Flax and TensorFlow lie there, and the shadow files of a Mac."""
    for name in ("openvino_model.bin", "openvino_model.xml", "model.onnx", "diffusion_flax_model.msgpack"):
        copy.write(copy.path("vae") / name, b"\0")
    copy.write(copy.path("text_encoder") / "tf_model.h5", b"\x89HDF")
    copy.write(copy.path(copy.denoiser) / "._diffusion_pytorch_model.safetensors", b"\0\5\x16\7")


@_legitimate("a tokenizer is judged by the ids that it gives", "tokenizer-reserialisation")
def tokenizer_named_auto(copy: Copy) -> None:
    """The model index leaves it to the library which class reads the tokenizer."""
    copy.set_index(tokenizer=["transformers", "AutoTokenizer"])


@_legitimate("what a class does not act on is left out", "inert-config-keys")
def generation_keys(copy: Copy) -> None:
    """The text encoder's configuration has the keys of text generation that transformers 4 wrote into each."""
    values = {"max_length": 20, "num_beams": 1, "temperature": 1.0, "top_k": 50, "tie_encoder_decoder": False}
    copy.set("text_encoder", **values, pruned_heads={}, id2label={"0": "LABEL_0"}, label2id={"LABEL_0": 0})


@_legitimate(
    "shards, fields that another class reads and null components are no part of the model",
    "resharded-safetensors",
    "inert-config-keys",
    "optional-null-components",
)
def folder_as_the_hub_has_older_ones(copy: Copy) -> None:
    """The text encoder lies in two files, the scheduler has fields of other classes, a safety checker is null."""
    shard(copy, "text_encoder")
    copy.set("scheduler", skip_prk_steps=True, dynamic_thresholding_ratio=0.995, flow_shift=1.0)
    copy.set("vae", force_upcast=True, shift_factor=None, latents_mean=None)
    copy.set_index(safety_checker=[None, None], requires_safety_checker=False)
