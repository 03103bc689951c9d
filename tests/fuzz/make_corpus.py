"""Writes the committed corpus of hostile files: `python -m tests.fuzz.make_corpus`. All are harmless in effect."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

CORPUS = Path(__file__).parent / "corpus"
F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
PLAIN = {"a": torch.ones(4)}


def header(fields: Any, data: bytes = bytes(8), length: int | None = None) -> bytes:
    raw = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


class Calls:
    """Pickled, it is a call of `function`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.reduced = (function, arguments)

    def __reduce__(self) -> Any:
        return self.reduced


def saved(content: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(content, stream, **options)
    return stream.getvalue()


def legacy(content: Any) -> bytes:
    return saved(content, _use_new_zipfile_serialization=False)


def records() -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(saved(PLAIN))) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(
    entries: dict[str, bytes] | list[tuple[str, bytes]],
    method: int = zipfile.ZIP_STORED,
    comment: bytes = b"",
) -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "w", method) as archive:
        warnings.simplefilter("ignore")  # of two records of one name
        for name, content in entries.items() if isinstance(entries, dict) else entries:
            archive.writestr(zipfile.ZipInfo(name), content, method)
        archive.comment = comment
    return stream.getvalue()


def with_pickle(program: bytes) -> bytes:
    """A torch zip whose pickle is `program`."""
    return zipped(
        {name: program if name.endswith("data.pkl") else record for name, record in records().items()}
    )


def with_replaced(old: bytes, new: bytes) -> bytes:
    """A torch zip whose pickle says `new` where torch wrote `old`."""
    program = next(record for name, record in records().items() if name.endswith("data.pkl"))
    assert program.count(old) == 1, program
    return with_pickle(program.replace(old, new))


def safetensors_files() -> dict[str, bytes]:
    two = {"a": F32, "b": {**F32, "data_offsets": [8, 16]}}
    return {
        "duplicate_name": header(
            b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
            b'"a":{"dtype":"I32","shape":[2],"data_offsets":[0,8]}}'
        ),
        "leading_space": header(b" " + json.dumps({"a": F32}).encode()),
        "overlap": header({**two, "b": {**F32, "data_offsets": [4, 12]}}, bytes(12)),
        "hole": header({**two, "b": {**F32, "data_offsets": [12, 20]}}, bytes(20)),
        "trailing_bytes": header({"a": F32}, bytes(8) + b"#!/bin/sh\n"),
        "header_of_exabytes": header({"a": F32}, length=2**62),
        "header_beyond_the_file": header({"a": F32}, length=90_000_000),
        "deep_nesting": header(b'{"a":' + b"[" * 3_000),
        "eight_terabytes": header({"a": {"dtype": "F32", "shape": [2**41], "data_offsets": [0, 2**43]}}),
        "shape_that_overflows": header(
            {"a": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 0]}}, b""
        ),
        "metadata_of_numbers": header({"__metadata__": {"a": 1}, "a": F32}),
        "half_a_character": header(b'{"\\ud800":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'),
        "cut_short": header(two, bytes(16))[:-5],
        "nothing": b"",
        "lfs_pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:"
        + b"0" * 64
        + b"\nsize 99\n",
        "web_page": b"\n<!DOCTYPE html><html><body>403 Forbidden</body></html>\n",
        "really_a_pickle": saved(PLAIN),
    }


def pickles() -> dict[str, bytes]:
    laughs = b"\x80\x02}q\x00N" + b"q\x01h\x01\x86" * 60 + b"K\x01s."
    return {
        "system_in_zip.pt": saved({**PLAIN, "b": Calls(os.system, "echo")}),
        "system_in_legacy.bin": legacy({**PLAIN, "b": Calls(os.system, "echo")}),
        "eval_by_stack_global.bin": pickle.dumps({"b": Calls(eval, "1+1")}, protocol=4),
        "eval_in_zip_protocol_4.pt": saved({**PLAIN, "b": Calls(eval, "1+1")}, pickle_protocol=4),
        "getattr_of_getattr.pt": with_pickle(
            b"\x80\x02cbuiltins\ngetattr\n(cbuiltins\n__import__\nX\x02\x00\x00\x00os\x85RX\x06\x00\x00\x00systemtR"
            b"X\x04\x00\x00\x00echo\x85R."
        ),
        "dotted_global.pt": with_pickle(b"\x80\x02ctorch\nos.system\nX\x04\x00\x00\x00echo\x85R."),
        "inst.bin": b"(S'echo'\nios\nsystem\n.",
        "obj.bin": b"\x80\x02(cos\nsystem\nX\x04\x00\x00\x00echoo.",
        "extension.pt": with_pickle(b"\x80\x02\x82\x01)R."),
        "import_alone.pt": with_pickle(b"\x80\x02}X\x01\x00\x00\x00acantigravity\nfly\ns."),
        "call_through_a_tensor_with_attributes.pt": with_pickle(
            b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\n(cposix\nsystem\nctorch\nTensor\n"
            b"X\x04\x00\x00\x00echo\x85NtR."
        ),
        "build_of_what_it_did_not_make.pt": with_pickle(b"\x80\x02ctorch\nTensor\n}b."),
        "module_by_persistent_id.bin": _legacy_with(
            b"\x80\x02(X\x06\x00\x00\x00modulectorch.nn\nLinear\nX\x01\x00\x00\x00fX\x01\x00\x00\x00stQ."
        ),
        "whole_model.pt": saved(torch.nn.Linear(2, 2)),
        "expanded_to_8_terabytes.pt": saved({"bomb": torch.zeros(1).expand(2**41)}),
        "storage_of_8_gigabytes.pt": with_replaced(b"K\x04tq", b"J\xff\xff\xff\x7ftq"),
        "legacy_storage_of_8_gigabytes.bin": legacy(PLAIN).replace(b"K\x04Nt", b"J\xff\xff\xff\x7fNt", 1),
        "storage_that_is_not_there.pt": with_replaced(b"X\x01\x00\x00\x000", b"X\x01\x00\x00\x007"),
        "tensor_of_a_terabyte.pt": with_pickle(b"\x80\x02ctorch\nTensor\nJ\xff\xff\xff\x7f\x85R."),
        "bytearray_of_2_gigabytes.pt": with_pickle(b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R."),
        "codec_that_inflates.pt": with_pickle(
            b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00xX\x03\x00\x00\x00zip\x86R."
        ),
        "a_tuple_of_2_to_the_60.pt": with_pickle(laughs),
        "a_tuple_in_a_tuple_in_a_tuple.pt": with_pickle(b"\x80\x02})" + b"\x85" * 3_000 + b"K\x01s."),
        "number_without_end_as_key.pt": with_pickle(b"\x80\x02}\x8a\x20" + b"\x7f" * 32 + b"K\x01s."),
        "text_of_4_gigabytes.pt": with_pickle(b"\x80\x02X\xff\xff\xff\xffx."),
        "value_never_stored.pt": with_pickle(b"\x80\x02h\x07."),
        "empty_stack.pt": with_pickle(b"\x80\x02R."),
        "name_of_half_a_character.pt": with_replaced(b"X\x01\x00\x00\x00a", b"X\x03\x00\x00\x00\xed\xa0\x80"),
        "text.bin": b"these are no weights\n",
        "plain_pickle.pkl.bin": pickle.dumps({"a": [1, 2]}, protocol=2),
        "tar.bin": _tar(),
    }


def _legacy_with(program: bytes) -> bytes:
    """A legacy torch file whose object is `program`."""
    stream = io.BytesIO(legacy(PLAIN))
    heads = []
    for _ in range(3):
        begin = stream.tell()
        pickle.load(stream)
        heads.append(stream.getvalue()[begin : stream.tell()])
    return b"".join(heads) + program + pickle.dumps([], protocol=2)


def _tar() -> bytes:
    import tarfile

    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    return stream.getvalue()


def zips() -> dict[str, bytes]:
    whole = records()
    data = next(name for name in whole if name.endswith("data.pkl"))
    folder = data.split("/")[0]
    size = struct.pack("<II", len(whole[data]), len(whole[data]))
    plain = zipped(whole)
    return {
        "pickle_twice.pt": zipped([*whole.items(), (data, whole[data])]),
        "pickle_in_capitals.pt": zipped([*whole.items(), (f"{folder}/DATA.PKL", whole[data])]),
        "compressed.pt": zipped(whole, zipfile.ZIP_DEFLATED),
        "bomb.pt": zipped({**whole, data: whole[data] + bytes(5_000_000)}, zipfile.ZIP_DEFLATED),
        "leads_out.pt": zipped({**whole, f"{folder}/../../evil": b"x"}),
        "other_folder.pt": zipped({**whole, "elsewhere/data/9": b"x"}),
        "second_pickle.pt": zipped({**whole, f"{folder}/more.pkl": whole[data]}),
        "program.pt": zipped({**whole, f"{folder}/code/__torch__.py": b"print('hello')"}),
        "no_pickle.pt": zipped({f"{folder}/data/0": b"x"}),
        "record_in_a_record.pt": _nested(whole, folder),
        "size_too_large.pt": plain.replace(size, struct.pack("<II", 1 << 28, 1 << 28)),
        "names_contradict.pt": plain.replace(data.encode(), data.encode()[:-1] + b"X", 1),
        "second_directory.pt": zipped(whole, comment=b"PK\x05\x06" + bytes(18)),
        "comment.pt": zipped(whole, comment=b"hello"),
        "followed.pt": plain + b"#!/bin/sh\necho\n",
        "cut_short.pt": plain[:-30],
        "big_end_first.pt": zipped({**whole, f"{folder}/byteorder": b"big"}),
    }


def _nested(whole: dict[str, bytes], folder: str) -> bytes:
    """The directory's entry for one record points into the bytes of another."""
    inner = f"{folder}/data/8".encode()
    head = struct.pack("<4s5H3I2H", b"PK\x03\x04", 20, 0, 0, 0, 0, 0, 4, 4, len(inner), 0) + inner
    made = zipped({**whole, f"{folder}/data/9": head + b"xxxx", inner.decode(): b"xxxx"})
    entry = made.rindex(inner) - 4
    assert made[entry - 42 : entry - 38] == b"PK\x01\x02"
    return made[:entry] + struct.pack("<I", made.index(head)) + made[entry + 4 :]


def folders() -> dict[str, bytes]:
    """Checkpoints of several files, by their paths."""
    component = json.dumps({"_class_name": "WanTransformer3DModel"}).encode()
    name = "diffusion_pytorch_model.safetensors.index.json"
    shard = "diffusion_pytorch_model-00001-of-00001.safetensors"
    found = {}
    for case, weight_map in {
        "index_leads_out": {"a": "../../secret.safetensors"},
        "index_is_absolute": {"a": "/etc/passwd.safetensors"},
        "index_with_backslash": {"a": "..\\secret.safetensors"},
        "index_promises_more": {"a": shard, "b": shard},
        "index_of_absent_files": {"a": "gone.safetensors"},
        "index_without_map": {},
    }.items():
        found[f"{case}/config.json"] = component
        found[f"{case}/{name}"] = json.dumps({"weight_map": weight_map}).encode()
        found[f"{case}/{shard}"] = header({"a": F32})
    index = {"_class_name": "WanImageToVideoPipeline", "..": ["diffusers", "WanTransformer3DModel"]}
    found["component_leads_out/model_index.json"] = json.dumps(index).encode()
    found["code_as_pipeline/model_index.json"] = json.dumps({"_class_name": ["mine", "Pipe"]}).encode()
    found["code_as_pipeline/mine.py"] = b"print('never run')\n"
    found["half_a_character/model_index.json"] = b'{"_class_name": "A", "\\ud800": ["diffusers", "B"]}'
    found["deep/config.json"] = b'{"a":' * 3_000
    return found


def ggufs() -> dict[str, bytes]:
    return {
        "strings_of_exabytes.gguf": b"GGUF" + struct.pack("<IQQQ", 3, 1, 1, 2**63),
        "tensors_without_end.gguf": b"GGUF" + struct.pack("<IQQ", 3, 2**63, 0),
        "cut_short.gguf": b"GGUF\x03",
    }


FAMILIES: dict[str, tuple[Callable[[], dict[str, bytes]], str]] = {
    "safetensors": (safetensors_files, ".safetensors"),
    "pickles": (pickles, ""),
    "zips": (zips, ""),
    "folders": (folders, ""),
    "gguf": (ggufs, ""),
}


def main() -> None:
    for family, (build, ending) in FAMILIES.items():
        for name, content in build().items():
            path = CORPUS / family / f"{name}{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


if __name__ == "__main__":
    main()
