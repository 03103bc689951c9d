"""What a pickle of plain weights needs, and how dangerous the rest is.

The list is shorter than that of torch's own restricted unpickler: nothing on it allocates what its arguments ask
for (`torch.Tensor(10**12)`, `bytearray(10**12)`), and nothing on it runs code of the file's choice.
"""

from __future__ import annotations

from collections.abc import Mapping

from pytest_genmodel.checkpoints.pickles.values import Container, Global, Tuple

STORAGE_BYTES: Mapping[str, int] = {
    f"torch.{name}Storage": size
    for size, names in {
        1: "Char Byte Bool QUInt8 QInt8 QUInt4x2 QUInt2x4 Untyped",
        2: "Half BFloat16 Short",
        4: "Float Int QInt32",
        8: "Double Long ComplexFloat",
        16: "ComplexDouble",
    }.items()
    for name in names.split()
} | {"torch.storage.UntypedStorage": 1}
"""Bytes of an element by the storage's class, as it stands in a persistent id."""

_DTYPES = (
    *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
    *("float16", "bfloat16", "float32", "float64", "complex32", "complex64", "complex128"),
    *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
    *("float4_e2m1fn_x2", "quint8", "qint8", "qint32"),
)
REBUILD = frozenset(
    f"torch._utils._rebuild_{name}"
    for name in (
        *("tensor", "tensor_v2", "tensor_v3", "parameter", "parameter_with_state"),
        *("sparse_tensor", "meta_tensor_no_storage"),
    )
)
"""What makes a tensor of its storage."""
NAMES = frozenset(
    (
        *STORAGE_BYTES,
        *(f"torch.{name}" for name in _DTYPES),
        *("torch.Tensor", "torch.nn.parameter.Parameter"),
    )
)
"""Names that may be looked up and not called."""
CALLS = frozenset(
    (
        *REBUILD,
        *(
            "torch.Size",
            "torch.device",
            "torch.serialization._get_layout",
            "torch._tensor._rebuild_from_type_v2",
        ),
        *(
            "collections.OrderedDict",
            "collections.Counter",
            "builtins.set",
            "builtins.complex",
            "_codecs.encode",
        ),
    )
)
"""Names that may be looked up and called."""

NUMPY = frozenset(
    (
        *(
            f"numpy.{core}.multiarray.{name}"
            for core in ("core", "_core")
            for name in ("_reconstruct", "scalar")
        ),
        *("numpy.ndarray", "numpy.dtype"),
        *(
            f"numpy.dtypes.{name}DType"
            for name in ("UInt32", "UInt64", "Int32", "Int64", "Float32", "Float64")
        ),
    )
)
"""The names in which numpy pickles the state of a random generator."""

_DANGEROUS = frozenset(
    (
        *(
            "os",
            "posix",
            "nt",
            "posixpath",
            "ntpath",
            "subprocess",
            "_posixsubprocess",
            "pty",
            "shutil",
            "sys",
        ),
        *(
            "runpy",
            "importlib",
            "pkgutil",
            "imp",
            "code",
            "codeop",
            "pdb",
            "bdb",
            "timeit",
            "cProfile",
            "profile",
        ),
        *(
            "ctypes",
            "_ctypes",
            "socket",
            "ssl",
            "http",
            "urllib",
            "ftplib",
            "smtplib",
            "webbrowser",
            "asyncio",
        ),
        *(
            "multiprocessing",
            "concurrent",
            "threading",
            "_thread",
            "signal",
            "platform",
            "tempfile",
            "pathlib",
        ),
        *("pickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "types", "operator"),
        *(
            "functools",
            "inspect",
            "gc",
            "pip",
            "setuptools",
            "requests",
            "_interpreters",
            "distutils",
            "io",
            "_io",
        ),
    )
)
_DANGEROUS_BUILTINS = frozenset(
    (
        *(
            "eval",
            "exec",
            "compile",
            "open",
            "__import__",
            "getattr",
            "setattr",
            "delattr",
            "globals",
            "vars",
        ),
        *("breakpoint", "input", "apply", "execfile", "file", "memoryview", "locals"),
    )
)


def is_dangerous(name: str) -> bool:
    """Whether what is called `name` runs programs or code, reaches files or the network, or leads to what does."""
    module, _, attribute = name.partition(".")
    if module in ("builtins", "__builtin__"):
        return attribute.split(".")[0] in _DANGEROUS_BUILTINS
    return module in _DANGEROUS


def allows_call(name: str, arguments: object) -> bool:
    """Whether `name`, which is in `CALLS`, may be called with these arguments."""
    if not isinstance(arguments, Tuple):
        return False
    items = arguments.items
    if name == "_codecs.encode":  # how protocol 2 spells bytes; other codecs inflate
        return len(items) == 2 and isinstance(items[0], str) and items[1] == "latin1"
    if (
        name == "torch._tensor._rebuild_from_type_v2"
    ):  # calls the first of its arguments: a tensor with attributes
        function, _, inner, *_ = (*items, None, None, None)
        return isinstance(function, Global) and function.name in REBUILD and allows_call(function.name, inner)
    if name in ("collections.OrderedDict", "collections.Counter", "builtins.set"):
        return all(isinstance(item, Container) for item in items)
    if name == "torch.serialization._get_layout":
        return all(isinstance(item, str) for item in items)
    return True
