"""Torch pickles: what would be run is named and not run, and what is read lies where the file says."""

from __future__ import annotations

import argparse
import collections
import io
import os
import pickle
import pickletools
import random
import threading
import zipfile

import numpy as np
import pytest
import torch

from pytest_genmodel.checkpoints.damage import Damage, DamagedFileError
from pytest_genmodel.checkpoints.pickles import Inert, PickledWeights, load_pickle
from pytest_genmodel.checkpoints.pickles.allowed import is_dangerous
from pytest_genmodel.checkpoints.pickles.machine import MAX_OPCODES, MalformedPickleError, _Machine, effects
from pytest_genmodel.checkpoints.pickles.values import Call, Container, Global, described, tuple_of

WEIGHTS = {"a": torch.ones(2)}


class Calls:
    """Pickled, it is a call of `function`."""

    def __init__(self, function, *arguments):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


def refusal(tmp_path, content, **options) -> DamagedFileError:
    path = tmp_path / "m.pt"
    torch.save(content, path, **options)
    with pytest.raises(DamagedFileError) as caught:
        load_pickle(path)
    assert caught.value.damage is Damage.PICKLE
    assert "\n" not in str(caught.value)
    return caught.value


# --- what would be run ----------------------------------------------------------------------------------------------


def test_the_most_dangerous_comes_first_whatever_its_place(tmp_path):
    error = refusal(
        tmp_path,
        {
            **WEIGHTS,
            "args": argparse.Namespace(lr=0.1),
            "c": collections.deque([1]),
            "d": Calls(os.system, "rm -rf /tmp/nothing"),
        },
    )

    assert error.what.startswith(
        "not loaded: it would call posix.system('rm -rf /tmp/nothing'), call argparse.Namespace"
    )
    assert "holds a program" in error.action


def test_many_things_are_counted_and_not_listed(tmp_path):
    names = ("Counter", "deque", "ChainMap", "UserDict", "UserList", "UserString")
    error = refusal(tmp_path, {name: Calls(getattr(collections, name)) for name in names})

    assert error.what.endswith(", and 2 more")
    assert "Save the state dict alone" in error.action


@pytest.mark.parametrize("legacy", [False, True])
def test_a_whole_model_is_named_by_its_class(tmp_path, legacy):
    error = refusal(tmp_path, torch.nn.Linear(2, 2), _use_new_zipfile_serialization=not legacy)

    assert "call torch.nn.modules.linear.Linear()" in error.what


def test_arguments_are_shortened_and_printable(tmp_path):
    error = refusal(tmp_path, {"x": Calls(os.system, "\x1b[2J\n" + "x" * 100_000)})

    assert r"posix.system('\x1b[2J\nxxx" in error.what
    assert len(str(error)) < 400


def test_an_argument_that_is_a_list_is_shown(tmp_path):
    import subprocess

    error = refusal(tmp_path, {"x": Calls(subprocess.call, ["curl", "http://example.invalid"])})

    assert "subprocess.call(['curl', 'http://example.invalid'])" in error.what


def test_names_of_python_2_are_those_that_python_3_would_import(tmp_path):
    path = tmp_path / "m.bin"
    path.write_bytes(b"\x80\x02c__builtin__\neval\nX\x01\x00\x00\x001\x85R.")

    with pytest.raises(DamagedFileError, match=r"builtins.eval\('1'\)"):
        load_pickle(path)


@pytest.mark.parametrize(
    "name",
    [
        "posix.system",
        "builtins.eval",
        "builtins.getattr.x",
        "os.path.join",
        "subprocess.Popen",
        "__builtin__.open",
    ],
)
def test_what_runs_programs_is_dangerous(name):
    assert is_dangerous(name)


@pytest.mark.parametrize(
    "name", ["builtins.set", "numpy.dtype", "argparse.Namespace", "osgeo.ogr", "<extension 1>"]
)
def test_what_does_not_is_not(name):
    assert not is_dangerous(name)


def test_what_somebody_has_allowed_for_the_process_is_not_allowed_here(tmp_path):
    torch.save({**WEIGHTS, "x": argparse.Namespace(lr=1)}, tmp_path / "m.pt")
    with torch.serialization.safe_globals([argparse.Namespace]):
        assert torch.load(tmp_path / "m.pt", weights_only=True)["x"].lr == 1
        with pytest.raises(DamagedFileError, match=r"argparse\.Namespace"):
            load_pickle(tmp_path / "m.pt")
        assert argparse.Namespace in torch.serialization.get_safe_globals()


def test_a_stub_comes_before_what_somebody_has_allowed_under_its_name(tmp_path):
    torch.save({**WEIGHTS, "x": Scaler()}, tmp_path / "m.pt")
    name = f"{Scaler.__module__}.Scaler"
    others = [(type(f"Other{number}", (), {}), name) for number in range(20)]
    with torch.serialization.safe_globals(others):
        assert type(load_pickle(tmp_path / "m.pt", stubs={name: Inert})["x"]) is Inert


# --- what may stand in a file of weights ----------------------------------------------------------------------------


def test_what_trainers_keep_beside_the_weights_is_read(tmp_path):
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.is_shared = True
    content = {
        "model": collections.OrderedDict(a=torch.ones(2), p=parameter),
        "milestones": collections.Counter({3: 1}),
        "names": {"a", "b"},
        "bytes": b"abc",
        "size": torch.Size([1, 2]),
        "device": torch.device("cpu"),
        "dtype": torch.bfloat16,
        "betas": (0.9, 0.95),
        "long": 1 << 80,
        "none": None,
        "nested": [{"x": [1.5, True]}],
    }
    torch.save(content, tmp_path / "m.pt")

    loaded = load_pickle(tmp_path / "m.pt")

    assert {key: value for key, value in loaded.items() if key != "model"} == {
        key: value for key, value in content.items() if key != "model"
    }
    assert torch.equal(loaded["model"]["p"], parameter)


@pytest.mark.parametrize(
    "dtype", [torch.float8_e4m3fn, torch.bfloat16, torch.uint16, torch.bool, torch.complex64]
)
def test_every_dtype_is_read_from_its_place(tmp_path, dtype):
    tensor = torch.tensor([1, 0, 1]).to(dtype)
    torch.save({"a": tensor}, tmp_path / "m.pt")
    weights = PickledWeights((tmp_path / "m.pt",))

    assert weights.read("a").view(torch.uint8).tolist() == tensor.view(torch.uint8).tolist()
    assert weights.spans("a") is not None


@pytest.mark.parametrize(
    "tensor", [torch.ones(2, dtype=torch.complex128), torch.eye(2).to_sparse()], ids=["c128", "sparse"]
)
def test_a_tensor_that_safetensors_cannot_hold_is_refused_by_name(tmp_path, tensor):
    torch.save({"odd": tensor}, tmp_path / "m.pt")

    with pytest.raises(DamagedFileError, match="'odd' is no plain tensor"):
        PickledWeights((tmp_path / "m.pt",))


# --- stubs ----------------------------------------------------------------------------------------------------------


class Scaler:
    """What a trainer's own library would define."""


def test_a_stub_takes_the_place_of_a_class_that_is_not_imported(tmp_path):
    before = set(torch.serialization.get_safe_globals())  # torch itself registers some
    scaler = Scaler()
    scaler.value = 3
    torch.save({**WEIGHTS, "scaler": scaler}, tmp_path / "m.pt")
    name = f"{Scaler.__module__}.Scaler"
    with pytest.raises(DamagedFileError, match=r"call .*Scaler"):
        load_pickle(tmp_path / "m.pt")

    loaded = load_pickle(tmp_path / "m.pt", stubs={name: Inert})

    assert type(loaded["scaler"]) is Inert
    assert loaded["scaler"].state == {"value": 3}
    with pytest.raises(DamagedFileError):  # the stub is gone again
        load_pickle(tmp_path / "m.pt")
    assert set(torch.serialization.get_safe_globals()) == before


def test_a_stub_allows_its_own_name_alone(tmp_path):
    torch.save({"s": Scaler(), "x": Calls(os.getcwd)}, tmp_path / "m.pt")

    with pytest.raises(DamagedFileError, match=r"call posix.getcwd\(\)$"):
        load_pickle(tmp_path / "m.pt", stubs={f"{Scaler.__module__}.Scaler": Inert})


def test_the_state_of_random_generators_is_read_without_numpy_doing_anything(tmp_path, monkeypatch):
    content = {**WEIGHTS, "np": np.random.get_state(), "py": random.getstate(), "x": np.float64(1.5)}
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(DamagedFileError, match="numpy"):
        load_pickle(tmp_path / "m.pt")

    loaded = load_pickle(tmp_path / "m.pt", numpy_state=True)

    assert isinstance(loaded["np"][1], Inert)
    assert loaded["py"] == random.getstate() or len(loaded["py"][1]) == 625
    assert torch.equal(loaded["a"], WEIGHTS["a"])


def test_two_threads_with_different_stubs_do_not_meet(tmp_path):
    for number in (0, 1):
        torch.save({**WEIGHTS, "x": Scaler()}, tmp_path / f"{number}.pt")
    kinds = [type(f"Stub{number}", (Inert,), {}) for number in (0, 1)]
    found: list[list[type]] = [[], []]

    def work(number: int) -> None:
        for _ in range(40):
            stubs = {f"{Scaler.__module__}.Scaler": kinds[number]}
            found[number].append(type(load_pickle(tmp_path / f"{number}.pt", stubs=stubs)["x"]))

    threads = [threading.Thread(target=work, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert found == [[kinds[0]] * 40, [kinds[1]] * 40]


# --- which of the dictionaries are the weights ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "wrapper", "passed_over"),
    [
        ({"state_dict": {"model": {"transformer": WEIGHTS}}}, "state_dict.model.transformer", ()),
        ({"state_dict": {"model": WEIGHTS}, "epoch": 3}, "state_dict.model", ()),
        ({"module": WEIGHTS, "ema": WEIGHTS}, "module", ("ema",)),
        ({"net": WEIGHTS, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}}, "net", ()),
        ({**WEIGHTS, "model": {"lr": 1}}, None, ()),
        ({**WEIGHTS, "extra": {"b": torch.ones(1)}}, None, ("extra",)),
        ({"model": {"config": {"x": 1}, "weights": WEIGHTS}}, "model.weights", ()),
    ],
    ids=lambda value: str(value)[:40] if not isinstance(value, dict) else "-".join(value),
)
def test_the_state_dict_is_found_and_what_is_passed_over_is_named(tmp_path, content, wrapper, passed_over):
    torch.save(content, tmp_path / "m.pt")

    weights = PickledWeights((tmp_path / "m.pt",))

    assert list(weights.tensors) == ["a"]
    assert (weights.wrapper, weights.passed_over) == (wrapper, passed_over)


def test_two_dictionaries_of_which_none_is_called_a_model_are_not_guessed_at(tmp_path):
    torch.save({"params": WEIGHTS, "params_ema": WEIGHTS}, tmp_path / "m.pt")

    with pytest.raises(
        DamagedFileError, match=r"'params' \(1 tensors\), 'params_ema' \(1 tensors\)"
    ) as caught:
        PickledWeights((tmp_path / "m.pt",))
    assert caught.value.damage is Damage.NOT_WEIGHTS


def test_an_optimizer_is_no_model(tmp_path):
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2)).sum().backward()
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.bin")

    with pytest.raises(DamagedFileError, match="no named tensors, but 'state', 'param_groups'"):
        PickledWeights((tmp_path / "optimizer.bin",))


def test_names_that_are_spelled_alike_are_refused(tmp_path):
    torch.save({1: torch.ones(1), "1": torch.ones(1)}, tmp_path / "m.pt")

    with pytest.raises(DamagedFileError, match="two of its tensors are called '1'"):
        PickledWeights((tmp_path / "m.pt",))


# --- where the bytes lie --------------------------------------------------------------------------------------------


def test_every_row_major_tensor_of_a_zip_lies_where_its_spans_say_and_is_read_from_there(tmp_path):
    base = torch.arange(100.0)
    content = {
        "whole": base,
        "part": base[10:20].reshape(2, 5),
        "scalar": torch.tensor(3.0),
        "half": torch.arange(6).half(),
        "parameter": torch.nn.Parameter(torch.ones(3)),
        "tied": base,
        "turned": torch.arange(12.0).reshape(3, 4).t(),
        "every third": base[::3],
        "expanded": torch.tensor([1.0, 2.0]).expand(1, 2),
        "none": torch.empty(0, 4),
    }
    path = tmp_path / "m.pt"
    torch.save({"module": content}, path)
    whole = path.read_bytes()

    weights = PickledWeights((path,))

    assert {name for name in content if weights.spans(name) is None} == {"turned", "every third"}
    for name, tensor in content.items():
        assert torch.equal(weights.read(name), tensor), name
        for span in weights.spans(name) or ():
            assert whole[span.begin : span.end] == tensor.detach().contiguous().numpy().tobytes(), name


def test_nothing_of_a_zip_stays_in_memory_and_a_cut_file_is_an_error_with_its_place(tmp_path):
    path = tmp_path / "m.pt"
    torch.save({"a": torch.arange(1000.0), "t": torch.arange(6.0).reshape(2, 3).t()}, path)
    weights = PickledWeights((path,))
    [span] = weights.spans("a")
    os.truncate(path, span.begin + 100)

    for name in ("a", "t"):  # with a memory map this would be the end of the process
        with pytest.raises(DamagedFileError, match="ended inside a tensor") as caught:
            weights.read(name)
        assert caught.value.damage is Damage.TRUNCATED
    assert weights._kept == {}


def test_what_was_read_is_memory_of_its_own(tmp_path):
    path = tmp_path / "m.pt"
    torch.save(WEIGHTS, path)
    read = PickledWeights((path,)).read("a")
    path.write_bytes(b"gone")

    assert torch.equal(read, WEIGHTS["a"])


def test_a_zip_that_python_has_written_anew_is_read_alike(tmp_path):
    """Some tools rewrite the archive, without torch's alignment."""
    torch.save({"a": torch.arange(5.0), "b": torch.ones(2)}, tmp_path / "m.pt")
    with zipfile.ZipFile(tmp_path / "m.pt") as old, zipfile.ZipFile(tmp_path / "n.pt", "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))

    weights = PickledWeights((tmp_path / "n.pt",))

    assert torch.equal(weights.read("a"), torch.arange(5.0))
    assert weights.spans("b") is not None


# --- the machine ----------------------------------------------------------------------------------------------------


def test_every_opcode_of_python_is_known_to_the_machine():
    without_effect = {"PROTO", "FRAME", "READONLY_BUFFER"}
    unknown = []
    for opcode in pickletools.opcodes:
        handled = hasattr(_Machine, f"_{opcode.name.lower()}")
        pushed = opcode.stack_after and opcode.arg is not None
        if not handled and opcode.name not in without_effect and not pushed:
            unknown.append(opcode.name)
    assert set(unknown) <= {"NONE", "NEWTRUE", "NEWFALSE", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "value",
    [
        {"a": [1, 2.5, None, True, "x", b"y", (1, 2, 3, 4)], "b": {1, 2}, "c": frozenset([1]), "d": 10**30},
        [[]] * 3,
        {"deep": [{"x": {"y": (("z",),)}}]},
        bytearray(b"abc"),
        range(3),
    ],
    ids=["values", "shared", "deep", "bytearray", "range"],
)
def test_the_machine_runs_whatever_python_pickles(protocol, value):
    stream = io.BytesIO(pickle.dumps(value, protocol) + b"rest")

    found = effects(stream)

    assert stream.read() == b"rest"
    assert not found.strange
    assert all(isinstance(call.function, Global) for call in found.calls)


def test_the_machine_sees_each_call_with_its_arguments_in_every_protocol():
    for protocol in range(6):
        found = effects(io.BytesIO(pickle.dumps(Calls(os.system, "echo"), protocol)))
        assert [described(call) for call in found.calls] == ["posix.system('echo')"]
        assert list(found.imports) == ["posix.system"]


def test_a_program_without_end_is_stopped():
    with pytest.raises(MalformedPickleError, match=f"more than {MAX_OPCODES} steps"):
        effects(io.BytesIO(b"N0" * (MAX_OPCODES // 2 + 10) + b"N."))


def test_keys_that_take_for_ever_to_hash_are_counted_as_work():
    heavy = b"N" + b"2\x86" * 14  # 2**14 leaves
    with pytest.raises(MalformedPickleError, match="steps"):
        effects(io.BytesIO(b"}(" + (heavy + b"N") * 400 + b"u."))


def test_values_are_described_in_a_line_whatever_they_are():
    deep: object = Global("x")
    for _ in range(50):
        deep = Call(deep, tuple_of([deep]))
    endless = Container()
    endless.add([endless] * 3)

    for value in (deep, endless, 10**5000, -(10**5000), "\u202e" * 1000, b"\0" * 1000, 1e308, object()):
        assert len(described(value)) < 2500
        assert described(value).isprintable()
