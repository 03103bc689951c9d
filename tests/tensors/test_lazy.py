from __future__ import annotations

import subprocess
import sys

import pytest

import pytest_genmodel.tensors as package


def run(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_importing_the_package_and_the_tolerances_loads_nothing_heavy():
    code = (
        "import sys, pytest_genmodel.tensors as t; t.psnr(25), t.default_tolerance('float32'), t.one_thread;"
        "print([name for name in ('torch', 'numpy', 'diffusers', 'pytest', 'PIL') if name in sys.modules])"
    )
    assert run(code) == "[]"


def test_star_import_gives_the_functions_and_not_their_modules():
    code = "from pytest_genmodel.tensors import *; print(digest.__name__, compare.__name__, explain.__name__)"
    assert run(code) == "digest compare explain"


def test_every_exported_name_exists():
    for name in package.__all__:
        assert getattr(package, name) is not None
    assert dir(package) == sorted(package.__all__)


def test_unknown_name():
    with pytest.raises(AttributeError, match="no attribute 'assert_near'"):
        package.assert_near  # noqa: B018


def test_the_floor_stands_on_nothing_but_the_errors():
    code = (
        "import sys, pytest_genmodel.tensors as t; [getattr(t, name) for name in t.__all__];"
        "print(sorted({n.split('.')[1] for n in sys.modules if n.startswith('pytest_genmodel.')} - {'_version'}))"
    )
    assert run(code) == "['errors', 'tensors']"
