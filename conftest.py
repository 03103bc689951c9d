"""Settings of the project's own tests; the plugin itself comes by its entry point."""

from __future__ import annotations

import os

# Spinning OpenMP threads cost up to ten times on shared cores; must stand before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# Runs within the tests look alike everywhere: pytest cuts no line under CI, and GitHub's runner would be written to.
for name in ("CI", "BUILD_NUMBER", "GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
    os.environ.pop(name, None)

pytest_plugins = ["pytester", "tests.inner"]
