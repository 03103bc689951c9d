"""`python -m pytest_genmodel.cli` is the command `genmodel`."""

from __future__ import annotations

from pytest_genmodel.cli.main import main

raise SystemExit(main())
