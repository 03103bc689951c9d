"""Which of the files in a component's folder count: what we read must be what the library itself would load."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pytest_genmodel.checkpoints.component import Component
from pytest_genmodel.checkpoints.damage import Damage, DamagedFileError
from pytest_genmodel.checkpoints.digest import component_digest
from pytest_genmodel.checkpoints.json_file import read_json
from pytest_genmodel.pipelines.loading import load_component
from pytest_genmodel.pipelines.placement import Placement
from tests.editing import edit_json

CPU = Placement("cpu", "float32")
KIND = {
    "diffusers": ("transformer", "CogVideoXTransformer3DModel", "diffusion_pytorch_model", "norm_final.bias"),
    "transformers": ("text_encoder", "T5EncoderModel", "model", "encoder.final_layer_norm.weight"),
}
"""For each library: component, class, base name of safetensors, and a tensor that tells one file from another."""


class Bench:
    """A component folder without weights, to be filled with sets that can be told apart by one tensor."""

    def __init__(self, library: str, healthy: Path, folder: Path) -> None:
        self.library, self.folder = library, folder
        self.name, self.class_name, self.base, self.tell = KIND[library]
        self.bin_base = "pytorch_model" if library == "transformers" else self.base
        shutil.copytree(healthy / self.name, folder)
        self.tensors = load_file(folder / f"{self.base}.safetensors")
        (folder / f"{self.base}.safetensors").unlink()

    @property
    def component(self) -> Component:
        return Component(self.name, self.folder, self.library, self.class_name)

    def write(self, name: str, mark: float, only: Callable[[int], bool] = lambda _: True) -> None:
        """Write (a part of) the model under `name`; `mark` is what its telling tensor holds."""
        tensors = {**self.tensors, self.tell: torch.full_like(self.tensors[self.tell], mark)}
        tensors = {key: t for number, (key, t) in enumerate(sorted(tensors.items())) if only(number)}
        if name.endswith(".safetensors"):
            save_file(tensors, self.folder / name, metadata={"format": "pt"})
        else:
            torch.save(tensors, self.folder / name)

    def write_shards(self, first: str, second: str, index: str, mark: float) -> None:
        self.write(first, mark, lambda number: number % 2 == 0)
        self.write(second, mark, lambda number: number % 2 == 1)
        names = sorted(self.tensors)
        weight_map = {name: (first, second)[number % 2] for number, name in enumerate(names)}
        (self.folder / index).write_text(
            json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map})
        )

    def what_the_library_loads(self) -> float:
        module = load_component(self.component, CPU).module
        return float(module.state_dict()[self.tell].flatten()[0])

    def what_we_read(self) -> float:
        return float(self.component.weights.read(self.tell).flatten()[0])


@pytest.fixture(params=["diffusers", "transformers"])
def bench(request, healthy, tmp_path):
    return Bench(request.param, healthy, tmp_path / "part")


def layouts(bench: Bench) -> dict[str, Callable[[float], None]]:
    """Ways to lay a whole weight set into the folder, by name."""
    base, bin_base = bench.base, bench.bin_base

    def shards(stem: str, ending: str, index: str, tail: str = "") -> Callable[[float], None]:
        first, second = (f"{stem}-0000{n}-of-00002{tail}.{ending}" for n in (1, 2))
        return lambda mark: bench.write_shards(first, second, index, mark)

    return {
        "single": lambda mark: bench.write(f"{base}.safetensors", mark),
        "index": shards(base, "safetensors", f"{base}.safetensors.index.json"),
        "bin": lambda mark: bench.write(f"{bin_base}.bin", mark),
        "bin index": shards(bin_base, "bin", f"{bin_base}.bin.index.json"),
        "variant": lambda mark: bench.write(f"{base}.fp16.safetensors", mark),
        "variant index": shards(f"{base}.fp16", "safetensors", f"{base}.safetensors.index.fp16.json"),
        "bin variant": lambda mark: bench.write(f"{bin_base}.fp16.bin", mark),
    }


NAMES = ("single", "index", "bin", "bin index", "variant", "variant index", "bin variant")


@pytest.mark.parametrize("layout", NAMES)
def test_every_layout_by_itself_is_read_as_the_library_reads_it(bench, layout):
    layouts(bench)[layout](7.0)

    assert bench.component.weights.tensors.keys() == bench.tensors.keys()
    assert bench.what_we_read() == bench.what_the_library_loads() == 7.0
    assert bench.component.second_sets == ()
    assert bench.component.unread_files == ()
    assert bench.component.variant == ("fp16" if "variant" in layout else None)


PAIRS = [(a, b) for n, a in enumerate(NAMES) for b in NAMES[n + 1 :]]


@pytest.mark.parametrize(("one", "other"), PAIRS, ids=lambda name: name.replace(" ", "_"))
def test_of_two_sets_the_one_that_the_library_takes_is_read_and_the_other_is_second(bench, one, other):
    layouts(bench)[one](1.0)
    layouts(bench)[other](2.0)

    assert bench.what_we_read() == bench.what_the_library_loads()
    component = bench.component
    assert len(component.file_sets) == 2
    same_variant = ("variant" in one) == ("variant" in other)
    assert len(component.second_sets) == (1 if same_variant else 0)
    assert component.unread_files == ()


def test_shards_of_a_variant_under_diffusers_legacy_names_are_read(healthy, tmp_path, monkeypatch):
    """`NAME-00001-of-00002.fp16.safetensors` with the variant before `index`: diffusers 0.2x wrote them."""
    monkeypatch.chdir(tmp_path)  # diffusers finds them only where no folder of the path has a dot
    bench = Bench("diffusers", healthy, Path("part"))
    first, second = (f"{bench.base}-0000{n}-of-00002.fp16.safetensors" for n in (1, 2))
    bench.write_shards(first, second, f"{bench.base}.safetensors.fp16.index.json", 5.0)

    assert bench.component.variant == "fp16"
    assert bench.what_we_read() == bench.what_the_library_loads() == 5.0
    assert bench.component.unread_files == ()


def test_the_other_librarys_names_are_files_that_nobody_reads(bench):
    """accelerate writes model.safetensors, whatever the model is; diffusers does not look at it."""
    layouts(bench)["single"](1.0)
    strange = {"diffusers": "model.safetensors", "transformers": "diffusion_pytorch_model.safetensors"}
    bench.write(strange[bench.library], 2.0)

    assert bench.what_we_read() == bench.what_the_library_loads() == 1.0
    assert [path.name for path in bench.component.unread_files] == [strange[bench.library]]
    assert bench.component.second_sets == ()


def test_weights_under_the_other_librarys_name_alone_are_no_weights(bench):
    strange = {"diffusers": "model.safetensors", "transformers": "diffusion_pytorch_model.safetensors"}
    bench.write(strange[bench.library], 2.0)

    assert not bench.component.has_weights
    with pytest.raises(DamagedFileError, match="holds no weights") as caught:
        _ = bench.component.weights
    assert caught.value.damage is Damage.MISSING_FILE


def test_shards_without_their_index_are_files_that_nobody_reads(bench):
    layouts(bench)["index"](1.0)
    (bench.folder / f"{bench.base}.safetensors.index.json").unlink()

    assert not bench.component.has_weights
    assert len(bench.component.unread_files) == 2


def test_a_shard_of_an_earlier_save_is_a_file_that_nobody_reads(bench):
    layouts(bench)["index"](1.0)
    bench.write(f"{bench.base}-00003-of-00003.safetensors", 2.0)

    assert bench.what_we_read() == 1.0
    assert [path.name for path in bench.component.unread_files] == [
        f"{bench.base}-00003-of-00003.safetensors"
    ]


def test_trainer_state_and_other_files_are_not_weights(bench):
    layouts(bench)["single"](1.0)
    for name in ("optimizer.bin", "scheduler.bin", "random_states_0.pkl", "training_args.bin", "README.md"):
        (bench.folder / name).write_bytes(b"x")
    (bench.folder / "old.safetensors").mkdir()

    assert bench.component.unread_files == ()


def test_a_checkpoint_of_another_format_beside_the_weights_is_unread(bench):
    layouts(bench)["single"](1.0)
    for name in ("last.ckpt", "model-q4.gguf", "ema.pt"):
        (bench.folder / name).write_bytes(b"x")

    assert [path.name for path in bench.component.unread_files] == ["ema.pt", "last.ckpt", "model-q4.gguf"]


def test_a_missing_shard_is_named_and_not_the_folder(bench):
    layouts(bench)["index"](1.0)
    lost = bench.folder / f"{bench.base}-00002-of-00002.safetensors"
    lost.unlink()

    with pytest.raises(DamagedFileError) as caught:
        _ = bench.component.weights
    assert (caught.value.damage, caught.value.path) == (Damage.MISSING_FILE, lost)


@pytest.mark.parametrize(
    "shard",
    ["../secret.safetensors", "/etc/passwd", "sub/x.safetensors", "..", ".", "", "x.bin", "config.json"],
)
def test_an_index_that_names_anything_but_a_plain_shard_is_refused(bench, shard):
    layouts(bench)["index"](1.0)
    shutil.copy(
        bench.folder / f"{bench.base}-00001-of-00002.safetensors", bench.folder.parent / "secret.safetensors"
    )
    index = bench.folder / f"{bench.base}.safetensors.index.json"
    edit_json(index, weight_map={bench.tell: shard})

    with pytest.raises(DamagedFileError) as caught:
        _ = bench.component.weights
    assert (caught.value.damage, caught.value.path) == (Damage.INDEX, index)
    assert repr(shard) in caught.value.what


@pytest.mark.parametrize("weight_map", [..., {}, [], None, "x"], ids=str)
def test_an_index_without_a_map_is_refused(bench, weight_map):
    layouts(bench)["index"](1.0)
    edit_json(bench.folder / f"{bench.base}.safetensors.index.json", weight_map=weight_map)

    with pytest.raises(DamagedFileError, match="no weight_map"):
        _ = bench.component.weights


def index_of(bench: Bench) -> Path:
    layouts(bench)["index"](1.0)
    return bench.folder / f"{bench.base}.safetensors.index.json"


def test_an_index_that_promises_a_tensor_that_no_file_has_is_refused(bench):
    """The library would leave it as it was initialised."""
    index = index_of(bench)
    weight_map = json.loads(index.read_text())["weight_map"]
    edit_json(index, weight_map={**weight_map, "one.more": weight_map[bench.tell]})

    with pytest.raises(DamagedFileError, match=r"1 of the \d+ tensors .* the first is 'one.more'") as caught:
        _ = bench.component.weights
    assert (caught.value.damage, caught.value.path) == (Damage.INDEX, index)


def test_where_an_index_is_wrong_without_harm_the_weights_are_read_and_the_difference_is_told(bench):
    index = index_of(bench)
    weight_map = json.loads(index.read_text())["weight_map"]
    first, second = sorted(set(weight_map.values()))
    here = next(name for name, file in weight_map.items() if file == first and name != bench.tell)
    edit_json(
        index,
        weight_map={name: file for name, file in weight_map.items() if name != bench.tell} | {here: second},
    )

    found = bench.component.index_disagreement

    assert bench.what_we_read() == bench.what_the_library_loads() == 1.0
    assert (found.unlisted, found.elsewhere) == ((bench.tell,), (here,))
    assert (found.claimed_size, found.size) == (1, sum(t.nbytes for t in bench.tensors.values()))


def test_an_index_that_tells_the_truth_disagrees_in_nothing(bench):
    index = index_of(bench)
    edit_json(index, metadata={"total_size": sum(t.nbytes for t in bench.tensors.values())})

    found = bench.component.index_disagreement

    assert (found.unlisted, found.elsewhere, found.claimed_size) == ((), (), None)
    layouts(bench)["single"](1.0)
    index.unlink()
    assert bench.component.index_disagreement is None


@pytest.mark.parametrize(
    "total", ["-Infinity", "Infinity", "NaN", "1e999", "-1e999", f"1{'0' * 30}", "[1]", '"1"']
)
def test_a_total_size_that_is_no_size_says_nothing(bench, total):
    index = index_of(bench)
    edit_json(index, metadata={"total_size": 374})
    index.write_text(index.read_text().replace("374", total))

    assert bench.component.index_disagreement.claimed_size is None


def test_a_link_into_the_cache_of_the_hub_is_followed(bench):
    """`snapshots/REVISION/transformer/x.safetensors` is a link to `blobs/HASH` there."""
    index = index_of(bench)
    blobs = bench.folder.parent / "blobs"
    blobs.mkdir()
    for number, file in enumerate([*bench.folder.glob("*.safetensors"), index]):
        file.rename(blobs / str(number))
        file.symlink_to(Path("..") / "blobs" / str(number))

    assert bench.what_we_read() == 1.0


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("model-00002-of-00004.safetensors", (2, 4)),
        ("model-00001-of-00001.bin", None),
        ("model.safetensors", None),
    ],
)
def test_a_lone_shard_is_known_by_its_name(tmp_path, name, place):
    assert Component("", tmp_path, "", "", weights_file=tmp_path / name).lone_shard == place


@pytest.mark.parametrize(
    ("config", "asked"),
    [
        ({"auto_map": {"AutoModel": "evil.Model"}}, {"auto_map": "evil.Model"}),
        ({"auto_map": "x"}, {"auto_map": "x"}),
        ({"_class_name": ["mine", "Model"]}, {"_class_name": "['mine', 'Model']"}),
        ({"custom_pipeline": "owner/code"}, {"custom_pipeline": "owner/code"}),
        ({"trust_remote_code": True}, {"trust_remote_code": "True"}),
        ({"trust_remote_code": False, "auto_map": None, "_class_name": "T5EncoderModel"}, {}),
    ],
    ids=str,
)
def test_code_that_a_configuration_asks_for_is_listed(tmp_path, config, asked):
    (tmp_path / "config.json").write_text(json.dumps(config))

    assert Component("vae", tmp_path, "diffusers", "X").code_asked_for == asked


@pytest.mark.parametrize("container", ["bin", "bin variant"])
def test_safetensors_under_the_name_of_a_pickle_are_refused_because_no_library_reads_them(bench, container):
    layouts(bench)[container](1.0)
    [path] = bench.component.file_sets[0].files
    save_file(torch.load(path), path)

    with pytest.raises(DamagedFileError, match=f"which {bench.library} cannot read"):
        _ = bench.component.weights


@pytest.mark.parametrize("container", ["bin", "bin variant"])
def test_a_pickle_whose_tensors_lie_under_a_key_is_refused_because_no_library_looks_there(bench, container):
    """diffusers loads it without a word and leaves every tensor on meta."""
    layouts(bench)[container](1.0)
    [path] = bench.component.file_sets[0].files
    torch.save({"state_dict": torch.load(path)}, path)

    with pytest.raises(DamagedFileError, match=f"'state_dict', where {bench.library} does not look"):
        _ = bench.component.weights


def test_a_lone_file_is_the_one_set_of_its_component(tmp_path):
    torch.save({"state_dict": {"a": torch.ones(1)}}, tmp_path / "model.pt")
    torch.save({"b": torch.ones(1)}, tmp_path / "other.pt")

    component = Component("", tmp_path, "", "", weights_file=tmp_path / "model.pt")

    assert list(component.weights.tensors) == ["a"]
    assert (component.second_sets, component.unread_files, component.variant) == ((), (), None)


# --- digests and configuration --------------------------------------------------------------------------------------


def test_the_digest_is_that_of_the_content_and_not_of_its_layout(bench):
    digests = set()
    for layout in ("single", "index", "bin", "variant index"):
        for path in [*bench.folder.glob("*.safetensors*"), *bench.folder.glob("*.bin*")]:
            path.unlink()
        layouts(bench)[layout](3.0)
        digests.add(component_digest(bench.component))
    assert len(digests) == 1


def test_version_fields_and_paths_are_not_in_the_digest_and_values_are(bench):
    layouts(bench)["single"](3.0)
    before = component_digest(bench.component)
    config = bench.folder / "config.json"
    edit_json(config, _name_or_path="elsewhere", _diffusers_version="9", transformers_version="9")
    assert component_digest(bench.component) == before
    edit_json(config, dropout_rate=0.5, dropout=0.5)
    assert component_digest(bench.component) != before


def test_a_tokenizer_is_identified_by_its_files(copy):
    def digest() -> str:
        return component_digest(Component("tokenizer", copy / "tokenizer", "transformers", "T5Tokenizer"))

    before = digest()
    (copy / "tokenizer" / "notes.md").write_text("no content")
    assert digest() == before
    file = copy / "tokenizer" / "tokenizer.json"
    file.write_text(file.read_text().replace("red", "rot"))
    assert digest() != before


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"a": ', "not valid JSON"),
        (b"", "not valid JSON"),
        (b"[1]", "not a JSON object"),
        (b"\xff\xfe{}", "not valid JSON"),
        (b'{"a":' * 100_000, "not valid JSON"),
        (b'{"a":' + b"9" * 5000 + b"}", "not valid JSON"),
        (b'{"\\ud800": 1}', "not valid JSON"),
        (b'{"a": ["\\uDFFF"]}', "not valid JSON"),
    ],
    ids=["torn", "empty", "list", "utf-16", "deep", "endless number", "half a name", "half a value"],
)
def test_a_configuration_that_is_no_json_object_is_an_error_with_its_file(tmp_path, content, said):
    path = tmp_path / "config.json"
    path.write_bytes(content)

    with pytest.raises(DamagedFileError, match=said) as caught:
        read_json(path)
    assert (caught.value.path, caught.value.damage) == (path, Damage.CONFIG)
    assert "\n" not in str(caught.value)


def test_a_configuration_that_cannot_be_opened_or_is_endless_is_an_error_with_its_file(tmp_path):
    (tmp_path / "folder").mkdir()
    with (tmp_path / "long.json").open("wb") as stream:
        stream.truncate(1 << 40)  # takes no room on the disk

    for name, said in (
        ("folder", "cannot be read"),
        ("gone", "cannot be read"),
        ("long.json", "1099511627776 bytes"),
    ):
        with pytest.raises(DamagedFileError, match=said) as caught:
            read_json(tmp_path / name)
        assert caught.value.path == tmp_path / name


def test_whole_characters_in_escapes_are_read(tmp_path):
    (tmp_path / "config.json").write_text('{"a": "\\ud83d\\ude00"}')

    assert read_json(tmp_path / "config.json") == {"a": "\U0001f600"}
