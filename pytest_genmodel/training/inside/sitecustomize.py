"""Started by Python itself in a trainer's process, whose PYTHONPATH names this folder: watches what trains there.

Standard library only, until the trainer imports torch's optimizers, or the denoiser's module; then the hooks are set,
and what they see is written to a file after every step or call, so that a process that is killed has still said what
it did. Nothing here may make a trainer fail: whatever goes wrong is written beside.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys

WATCHED = "torch.optim.optimizer"
REPORTS = "GENMODEL_OBSERVE"
CALLS_OF, CALLS = "GENMODEL_CALLS_OF", "GENMODEL_CALLS"


class _Finder(importlib.abc.MetaPathFinder):
    """Finds a module as everybody does, and has its loader call `then` with it afterwards."""

    def __init__(self, watched, then):  # type: ignore[no-untyped-def]
        self.watched, self.then = watched, then

    def find_spec(self, name, path, target=None):  # type: ignore[no-untyped-def]
        if name != self.watched:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_watch(module):  # type: ignore[no-untyped-def]
                execute(module)
                self.then(module)

            spec.loader.exec_module = execute_and_watch  # type: ignore[method-assign]
        return spec


def _watch_optimizers(module):  # type: ignore[no-untyped-def]
    folder = os.environ[REPORTS]
    try:
        from pytest_genmodel.training.reporting import report_to

        report_to(folder)
    except BaseException as error:
        _complain(folder, error)


def _watch_denoiser(module):  # type: ignore[no-untyped-def]
    try:
        from pytest_genmodel.training.calls import report_calls

        report_calls(module)
    except BaseException as error:
        _complain(os.environ[CALLS], error)


def _complain(folder: str, error: BaseException) -> None:
    with open(os.path.join(folder, f"{os.getpid()}.error"), "w", encoding="utf-8") as stream:
        stream.write(f"{type(error).__name__}: {error}")


def _run_the_hidden_one() -> None:
    """Run the sitecustomize that this file hides, if there is one (virtual environments, coverage, debuggers)."""
    here = os.path.dirname(os.path.abspath(__file__))
    others = [entry for entry in sys.path if os.path.abspath(entry or os.curdir) != here]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)


if os.environ.get(REPORTS):
    sys.meta_path.insert(0, _Finder(WATCHED, _watch_optimizers))  # type: ignore[no-untyped-call]
if os.environ.get(CALLS) and os.environ.get(CALLS_OF):
    module_of_denoiser = os.environ[CALLS_OF].partition(":")[0]
    sys.meta_path.insert(0, _Finder(module_of_denoiser, _watch_denoiser))  # type: ignore[no-untyped-call]
_run_the_hidden_one()
