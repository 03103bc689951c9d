"""A weight set under other names: what is read, where it lies, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pytest_genmodel.checkpoints.damage import DamagedFileError
from pytest_genmodel.checkpoints.mapped import MappedWeights, Rows
from pytest_genmodel.checkpoints.weights import SafetensorsWeights, WeightSet, open_weights
from pytest_genmodel.tensors import digest

TENSORS = {
    "fused": torch.arange(24, dtype=torch.float32).reshape(6, 4),
    "half": torch.arange(8, dtype=torch.bfloat16).reshape(2, 4),
    "other": torch.arange(8, dtype=torch.float32).reshape(2, 4) + 100,
    "vector": torch.arange(6, dtype=torch.float32),
    "scalar": torch.tensor(3.5),
    "none": torch.empty(0, 4),
}


@pytest.fixture(params=["safetensors", "pt"])
def source(request, tmp_path) -> WeightSet:
    file: Path = tmp_path / f"weights.{request.param}"
    if request.param == "pt":
        torch.save(TENSORS, file)
    else:
        save_file(TENSORS, file)
    return open_weights((file,))


def bytes_of(weights: WeightSet, name: str) -> bytes:
    spans = weights.spans(name)
    assert spans is not None
    return b"".join(span.path.read_bytes()[span.begin : span.end] for span in spans)


CASES = {
    "whole": (Rows("fused"), TENSORS["fused"]),
    "whole scalar": (Rows("scalar"), TENSORS["scalar"]),
    "whole of two bytes": (Rows("half"), TENSORS["half"]),
    "a third": (Rows("fused", 2, 4), TENSORS["fused"][2:4]),
    "rows of two bytes": (Rows("half", 1, 2), TENSORS["half"][1:]),
    "rows of a vector": (Rows("vector", 1, 3), TENSORS["vector"][1:3]),
    "two stretches": (
        (Rows("fused", 0, 1), Rows("fused", 4, 6)),
        torch.cat([TENSORS["fused"][:1], TENSORS["fused"][4:]]),
    ),
    "two tensors": (
        (Rows("other"), Rows("fused", 0, 2)),
        torch.cat([TENSORS["other"], TENSORS["fused"][:2]]),
    ),
    "no row": (Rows("fused", 3, 3), TENSORS["fused"][3:3]),
    "nothing and something": ((Rows("none"), Rows("other")), TENSORS["other"]),
}


@pytest.mark.parametrize("case", CASES)
def test_a_target_is_the_rows_it_is_said_to_be(source, case):
    rows, expected = CASES[case]

    mapped = MappedWeights(source, {"x": rows})

    assert list(mapped.tensors) == ["x"]
    stored = mapped.tensors["x"]
    assert (stored.name, stored.shape, stored.file) == ("x", tuple(expected.shape), source.files[0])
    assert stored.dtype == {torch.float32: "F32", torch.bfloat16: "BF16"}[expected.dtype]
    read = mapped.read("x")
    assert read.dtype == expected.dtype
    assert torch.equal(read, expected)
    assert mapped.digest("x") == digest(expected)


@pytest.mark.parametrize("case", CASES)
def test_the_bytes_lie_where_it_says(tmp_path, case):
    rows, expected = CASES[case]
    save_file(TENSORS, tmp_path / "weights.safetensors")
    mapped = MappedWeights(SafetensorsWeights((tmp_path / "weights.safetensors",)), {"x": rows})

    assert bytes_of(mapped, "x") == expected.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def test_the_bytes_of_a_source_in_pieces_are_found(tmp_path):
    save_file(TENSORS, tmp_path / "weights.safetensors")
    first = MappedWeights(
        SafetensorsWeights((tmp_path / "weights.safetensors",)),
        {"joined": (Rows("fused", 0, 2), Rows("other"), Rows("fused", 4, 6))},
    )

    second = MappedWeights(first, {"middle": Rows("joined", 1, 5)})

    expected = torch.cat([TENSORS["fused"][1:2], TENSORS["other"], TENSORS["fused"][4:5]])
    assert torch.equal(second.read("middle"), expected)
    assert len(second.spans("middle") or ()) == 3
    assert bytes_of(second, "middle") == expected.numpy().tobytes()


def test_only_the_rows_that_are_asked_for_are_read(tmp_path, monkeypatch):
    save_file(TENSORS, tmp_path / "weights.safetensors")
    source = SafetensorsWeights((tmp_path / "weights.safetensors",))
    monkeypatch.setattr(source, "read", lambda name: pytest.fail(f"the whole of {name} was read"))

    assert torch.equal(MappedWeights(source, {"x": Rows("fused", 1, 2)}).read("x"), TENSORS["fused"][1:2])


def test_what_is_read_may_be_written_to(source):
    mapped = MappedWeights(source, {"x": Rows("fused", 0, 2), "y": Rows("fused", 0, 2)})

    mapped.read("x").fill_(0)

    assert torch.equal(mapped.read("y"), TENSORS["fused"][:2])


def test_it_keeps_files_metadata_and_what_is_not_explained(tmp_path):
    save_file(TENSORS, tmp_path / "weights.safetensors", metadata={"who": "me"})
    source = SafetensorsWeights((tmp_path / "weights.safetensors",))

    inner = MappedWeights(source, {"a": Rows("fused")}, unexplained=["vector"])
    outer = MappedWeights(inner, {"b": Rows("a")}, unexplained=["scalar"])

    assert (outer.files, outer.metadata) == (source.files, {"who": "me"})
    assert outer.unexplained == ("vector", "scalar")


def test_the_content_is_that_of_the_plain_file(tmp_path):
    expected = {"q": TENSORS["fused"][:3], "k": TENSORS["fused"][3:], "s": TENSORS["scalar"]}
    save_file(TENSORS, tmp_path / "fused.safetensors")
    save_file({name: t.clone() for name, t in expected.items()}, tmp_path / "plain.safetensors")

    mapped = MappedWeights(
        SafetensorsWeights((tmp_path / "fused.safetensors",)),
        {"s": Rows("scalar"), "k": Rows("fused", 3, 6), "q": Rows("fused", 0, 3)},
    )

    plain = SafetensorsWeights((tmp_path / "plain.safetensors",))
    assert mapped.content_digest() == plain.content_digest()


REFUSED = {
    "a tensor that is not there": (Rows("gone"), "'gone' is not there"),
    "rows past the end": (Rows("fused", 4, 7), "it has 6 rows"),
    "rows that end before they begin": (Rows("fused", 4, 3), "rows 4 to 3"),
    "rows of a scalar": (Rows("scalar", 0, 1), "cannot be joined"),
    "two dtypes": ((Rows("other"), Rows("half")), "BF16"),
    "two widths": ((Rows("other"), Rows("vector")), "cannot be joined"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_damage_that_names_the_tensor(source, case):
    rows, message = REFUSED[case]

    with pytest.raises(DamagedFileError, match=message):
        MappedWeights(source, {"x": rows})


def test_a_file_that_is_cut_short_meanwhile_is_damage(tmp_path):
    file = tmp_path / "weights.safetensors"
    save_file(TENSORS, file)
    mapped = MappedWeights(SafetensorsWeights((file,)), {"x": Rows("vector", 2, 6)})
    file.write_bytes(file.read_bytes()[:-100])

    with pytest.raises(DamagedFileError, match="ended inside"):
        mapped.read("x")
