"""Settings of the project's own tests; the plugin itself comes by its entry point."""

from __future__ import annotations

import os

# Spinning OpenMP threads cost up to ten times on shared cores; must stand before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

pytest_plugins = ["pytester", "tests.inner"]
