"""Code that comes with a checkpoint stays switched off in diffusers, whatever imports it first."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pytest_genmodel.errors import BadInputError
from pytest_genmodel.pipelines.library import class_named

FIRST_IMPORTS = {
    "the door to diffusers": "from pytest_genmodel.pipelines.library import diffusers; diffusers()",
    "a tiny pipeline": "from pytest_genmodel.pipelines.tiny import cogvideox; cogvideox.scheduler()",
}
SWITCH = "import diffusers.utils.constants as c; print(c.DIFFUSERS_DISABLE_REMOTE_CODE)"


def switch(first: str, **environment: str) -> str:
    clean = {name: value for name, value in os.environ.items() if name != "DIFFUSERS_DISABLE_REMOTE_CODE"}
    code = f"{first}; {SWITCH}"
    run = subprocess.run(
        [sys.executable, "-c", code], env={**clean, **environment}, capture_output=True, text=True, check=True
    )
    return run.stdout.strip()


@pytest.mark.parametrize("first", FIRST_IMPORTS)
def test_remote_code_is_off_before_diffusers_is_imported(first):
    assert switch(FIRST_IMPORTS[first]) == "True"


def test_the_process_s_own_setting_stands():
    assert switch(FIRST_IMPORTS["the door to diffusers"], DIFFUSERS_DISABLE_REMOTE_CODE="0") == "False"


def test_the_switch_is_what_this_package_sets():
    assert switch("pass") == "False"


@pytest.mark.parametrize("name", ["load_image", "__version__", "utils", "os", ""])
def test_a_name_from_a_checkpoint_that_is_no_class_is_refused(name):
    with pytest.raises(BadInputError, match="has no class"):
        class_named("diffusers", name)
