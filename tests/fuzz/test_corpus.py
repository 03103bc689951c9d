"""The committed corpus: each hostile file is refused for the right reason, and nothing of it is run."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from pytest_genmodel.checkpoints.damage import Damage, DamagedFileError, UnreadableCheckpointError
from tests.fuzz.bench import watched
from tests.fuzz.make_corpus import CORPUS
from tests.fuzz.reading import open_and_read_everything

EXPECTED = {
    "safetensors/duplicate_name.safetensors": (Damage.HEADER, "the name 'a' stands twice"),
    "safetensors/leading_space.safetensors": (Damage.HEADER, "does not begin with '{'"),
    "safetensors/overlap.safetensors": (Damage.HEADER, "'b' overlaps its neighbour"),
    "safetensors/hole.safetensors": (Damage.HEADER, "'b' leaves a hole before it"),
    "safetensors/trailing_bytes.safetensors": (Damage.HEADER, "10 bytes follow the last tensor"),
    "safetensors/header_of_exabytes.safetensors": (Damage.HEADER, "exceeds the format's 100000000"),
    "safetensors/header_beyond_the_file.safetensors": (Damage.TRUNCATED, "the header needs 90000000 bytes"),
    "safetensors/deep_nesting.safetensors": (Damage.HEADER, "not valid JSON"),
    "safetensors/eight_terabytes.safetensors": (Damage.TRUNCATED, "8796093022200 are missing"),
    "safetensors/shape_that_overflows.safetensors": (Damage.HEADER, "is not 0 bytes"),
    "safetensors/metadata_of_numbers.safetensors": (Damage.HEADER, "__metadata__ is not a map of strings"),
    "safetensors/half_a_character.safetensors": (Damage.HEADER, "not valid Unicode"),
    "safetensors/cut_short.safetensors": (Damage.TRUNCATED, "5 are missing"),
    "safetensors/nothing.safetensors": (Damage.EMPTY, "empty"),
    "safetensors/lfs_pointer.safetensors": (Damage.NOT_WEIGHTS, "git-LFS pointer"),
    "safetensors/web_page.safetensors": (Damage.NOT_WEIGHTS, "web page"),
    "safetensors/really_a_pickle.safetensors": (Damage.NOT_WEIGHTS, "torch pickle under the name"),
    "pickles/system_in_zip.pt": (Damage.PICKLE, "it would call posix.system('echo')"),
    "pickles/system_in_legacy.bin": (Damage.PICKLE, "it would call posix.system('echo')"),
    "pickles/eval_by_stack_global.bin": (Damage.PICKLE, "it would call builtins.eval('1+1')"),
    "pickles/eval_in_zip_protocol_4.pt": (Damage.PICKLE, "it would call builtins.eval('1+1')"),
    "pickles/getattr_of_getattr.pt": (
        Damage.PICKLE,
        "call builtins.getattr(builtins.__import__('os'), 'system')('echo')",
    ),
    "pickles/dotted_global.pt": (Damage.PICKLE, "it would call torch.os.system('echo')"),
    "pickles/inst.bin": (Damage.PICKLE, "it would call os.system('echo')"),
    "pickles/obj.bin": (Damage.PICKLE, "it would call os.system('echo')"),
    "pickles/extension.pt": (Damage.PICKLE, "extension 1"),
    "pickles/import_alone.pt": (Damage.PICKLE, "it would import antigravity.fly"),
    "pickles/call_through_a_tensor_with_attributes.pt": (Damage.PICKLE, "it would import posix.system"),
    "pickles/build_of_what_it_did_not_make.pt": (Damage.PICKLE, "set up an object that it has not made"),
    "pickles/module_by_persistent_id.bin": (Damage.PICKLE, "ask its loader for something that is no storage"),
    "pickles/whole_model.pt": (Damage.PICKLE, "it would call torch.nn.modules.linear.Linear()"),
    "pickles/expanded_to_8_terabytes.pt": (
        Damage.PICKLE,
        "'bomb' claims 8796093022208 bytes of a storage of 4",
    ),
    "pickles/storage_of_8_gigabytes.pt": (Damage.PICKLE, "storage '0' claims 8589934588 bytes and has 16"),
    "pickles/legacy_storage_of_8_gigabytes.bin": (Damage.TRUNCATED, "its storages need 8589934596 bytes"),
    "pickles/storage_that_is_not_there.pt": (Damage.PICKLE, "storage '7' is not in the file"),
    "pickles/tensor_of_a_terabyte.pt": (Damage.PICKLE, "it would call torch.Tensor(2147483647)"),
    "pickles/bytearray_of_2_gigabytes.pt": (Damage.PICKLE, "it would call builtins.bytearray(2147483647)"),
    "pickles/codec_that_inflates.pt": (Damage.PICKLE, "it would call _codecs.encode('x', 'zip')"),
    "pickles/a_tuple_of_2_to_the_60.pt": (Damage.PICKLE, "nests tuples beyond all use"),
    "pickles/a_tuple_in_a_tuple_in_a_tuple.pt": (Damage.PICKLE, "nests tuples beyond all use"),
    "pickles/number_without_end_as_key.pt": (Damage.PICKLE, "a number beyond 64 bits"),
    "pickles/text_of_4_gigabytes.pt": (Damage.TRUNCATED, "it ends inside a pickle"),
    "pickles/value_never_stored.pt": (Damage.PICKLE, "recalls a value that it never stored"),
    "pickles/empty_stack.pt": (Damage.PICKLE, "takes a value from an empty stack"),
    "pickles/name_of_half_a_character.pt": (Damage.NOT_WEIGHTS, "not valid Unicode"),
    "pickles/text.bin": (Damage.NOT_WEIGHTS, "neither a torch file nor a pickle"),
    "pickles/plain_pickle.pkl.bin": (Damage.NOT_WEIGHTS, "a plain pickle"),
    "pickles/tar.bin": (Damage.NOT_WEIGHTS, "a tar"),
    "zips/pickle_twice.pt": (Damage.PICKLE, "'data.pkl' stands twice"),
    "zips/pickle_in_capitals.pt": (Damage.PICKLE, "'DATA.PKL' stands twice"),
    "zips/compressed.pt": (Damage.PICKLE, "is compressed"),
    "zips/bomb.pt": (Damage.PICKLE, "is compressed"),
    "zips/leads_out.pt": (Damage.PICKLE, "'archive/../../evil' does not lie in the folder"),
    "zips/other_folder.pt": (Damage.PICKLE, "'elsewhere/data/9' does not lie in the folder"),
    "zips/second_pickle.pt": (Damage.PICKLE, "'more.pkl' beside its data.pkl"),
    "zips/program.pt": (Damage.PICKLE, "a TorchScript archive"),
    "zips/no_pickle.pt": (Damage.NOT_WEIGHTS, "it has no data.pkl"),
    "zips/record_in_a_record.pt": (Damage.PICKLE, "record 'data/8' overlaps another"),
    "zips/size_too_large.pt": (Damage.PICKLE, "runs beyond the records"),
    "zips/names_contradict.pt": (Damage.PICKLE, "contradict each other"),
    "zips/second_directory.pt": (Damage.NOT_WEIGHTS, "it has no data.pkl"),
    "zips/comment.pt": (Damage.PICKLE, "5 bytes follow the end of the zip"),
    "zips/followed.pt": (Damage.PICKLE, "15 bytes follow the end of the zip"),
    "zips/cut_short.pt": (Damage.TRUNCATED, "cut short"),
    "zips/big_end_first.pt": (Damage.PICKLE, "big end first"),
    "folders/index_leads_out": (
        Damage.INDEX,
        "'../../secret.safetensors' is no .safetensors file of the folder",
    ),
    "folders/index_is_absolute": (Damage.INDEX, "'/etc/passwd.safetensors' is no"),
    "folders/index_with_backslash": (Damage.INDEX, "secret.safetensors' is no"),
    "folders/index_promises_more": (Damage.INDEX, "the first is 'b'"),
    "folders/index_of_absent_files": (Damage.MISSING_FILE, "gone.safetensors"),
    "folders/index_without_map": (Damage.INDEX, "no weight_map"),
    "folders/component_leads_out": (Damage.MISSING_FILE, "'..'"),
    "folders/code_as_pipeline": (Damage.FOREIGN_CLASS, "['mine', 'Pipe']"),
    "folders/half_a_character": (Damage.CONFIG, "not valid JSON"),
    "folders/deep": (Damage.CONFIG, "not valid JSON"),
    "gguf/strings_of_exabytes.gguf": (
        None,
        "a GGUF file (version 3, 1 tensors, with a header that cannot be read",
    ),
    "gguf/tensors_without_end.gguf": (None, "9223372036854775808 tensors"),
    "gguf/cut_short.gguf": (None, "a GGUF file (with a header that cannot be read"),
    "valid.gguf": (None, "a GGUF file (version 3, 'wan', 2 tensors, 1 Q8_0, 1 F32)"),
}


@pytest.fixture
def ran(monkeypatch):
    """What was run of the things that the corpus would run."""
    calls: list[object] = []
    for module in {os, sys.modules[os.system.__module__]}:
        monkeypatch.setattr(module, "system", lambda *arguments: calls.append(arguments))
    return calls


@pytest.mark.parametrize("case", EXPECTED)
def test_a_hostile_file_is_refused_for_the_right_reason_and_not_run(case, ran):
    damage, fragment = EXPECTED[case]
    with watched(), pytest.raises((DamagedFileError, UnreadableCheckpointError)) as caught:
        open_and_read_everything(CORPUS / case)

    assert fragment in str(caught.value)
    assert getattr(caught.value, "damage", None) is damage
    assert len(str(caught.value)) < 700
    assert "\n" not in str(caught.value)
    if damage is not None:
        assert caught.value.action
        size = caught.value.path.stat().st_size if caught.value.path.exists() else 0
        assert caught.value.offset is None or 0 <= caught.value.offset <= size
    assert ran == []


def test_every_file_of_the_corpus_has_its_expectation():
    families = [path for path in CORPUS.iterdir() if path.is_dir()]
    files = {f"{folder.name}/{path.name}" for folder in families for path in folder.iterdir()}
    assert files | {"valid.gguf"} == set(EXPECTED)


def test_the_corpus_is_small():
    assert sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()) < 300_000


@pytest.mark.parametrize("case", ["inst.bin", "obj.bin"])
def test_the_traps_are_real(case, ran):
    """What the package refuses, Python's own unpickler runs."""
    import pickle

    pickle.loads(Path(CORPUS / "pickles" / case).read_bytes())

    assert ran == [("echo",)]


def test_memory_is_not_claimed_because_a_file_says_so():
    """The corpus asks for petabytes."""
    import tracemalloc

    tracemalloc.start()
    try:
        for case in EXPECTED:
            with pytest.raises((DamagedFileError, UnreadableCheckpointError)):
                open_and_read_everything(CORPUS / case)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 48_000_000  # a lone pickle is looked at 32 MiB at a time
