"""Installed and unused, the plugin costs nothing: no heavy module is imported."""

from __future__ import annotations

import subprocess
import sys

from tests.plugin.test_suite import IDS

HEAVY = ("torch", "diffusers", "transformers", "numpy", "safetensors", "peft", "PIL")


def imported_after(code: str) -> str:
    lines = f"import sys\n{code}\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    return subprocess.run([sys.executable, "-c", lines], check=True, capture_output=True, text=True).stdout


def test_importing_the_package_and_the_plugin_imports_nothing_heavy():
    assert imported_after("import pytest_genmodel, pytest_genmodel.plugin").strip() == "[]"


def test_collection_without_our_options_imports_nothing_heavy(tmp_path):
    (tmp_path / "test_empty.py").write_text("def test_it(): pass\n")
    (tmp_path / "conftest.py").write_text(
        "import sys\n"
        "def pytest_collection_finish(session):\n"
        "    assert session.config.pluginmanager.has_plugin('genmodel')\n"
        f"    loaded = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "    assert loaded == [], loaded\n"
        "    print('checked', len(session.items))\n"
    )

    command = [
        sys.executable,
        "-m",
        "pytest",
        "--collect-only",
        "-q",
        "-s",
        "-p",
        "no:cacheprovider",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "checked 1" in done.stdout


def test_collecting_the_suite_imports_no_torch(tmp_path, healthy):
    (tmp_path / "conftest.py").write_text(
        "import sys\n"
        "def pytest_collection_finish(session):\n"
        "    assert 'torch' not in sys.modules\n"
        "    print('checked', len(session.items))\n"
    )

    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-s", f"--genmodel-ckpt={healthy}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"checked {len(IDS)}" in done.stdout
