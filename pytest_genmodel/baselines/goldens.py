"""Golden values of a project's own tests, kept in the baseline: `baseline.check("name", tensor, tolerance=...)`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_genmodel.baselines.store import BaselineError, Blob, Entry, Store
from pytest_genmodel.errors import BadInputError, GenmodelError

if TYPE_CHECKING:
    import torch

    from pytest_genmodel.tensors import Tolerance

MOST_BYTES = 16 << 20
"""Bytes of one golden value: a baseline is committed, and read by every run."""
_VALUE = "value"


class GoldenError(GenmodelError, AssertionError):
    """A golden value is not there, or the value checked is another; an AssertionError."""


def entry_name(test: str, name: str) -> str:
    """The store's name for the golden value `name` of the test with this id."""
    return f"golden/{test}/{name}"


def test_of(entry: str) -> str:
    """The id of the test that an entry belongs to."""
    return entry.removeprefix("golden/").rpartition("/")[0]


@dataclass
class Goldens:
    """The golden values of one test.

    `store` is the baseline as it was when the run began. With `update` a value is taken down in `taken` and not
    judged; nothing is written here. `checked` names the entries that the test asked for. With `keep` every value is
    put into `seen`, so that it can be accepted from the saved run. `made_with` are the options of this run that a
    sample depends on, `command` renews the values.
    """

    store: Store
    test: str
    command: str
    update: bool = False
    made_with: Mapping[str, str] = field(default_factory=dict)
    checked: list[str] = field(default_factory=list)
    taken: dict[str, Entry] = field(default_factory=dict)
    keep: bool = False
    seen: dict[str, Entry] = field(default_factory=dict)

    def check(
        self,
        name: str,
        value: Any,
        tolerance: Tolerance | str | None = None,
        *,
        names: Sequence[str] | None = None,
        equal_nan: bool = False,
    ) -> None:
        """Assert that `value` is close to the golden value `name` of this test; shape and dtype must be equal too.

        With `--genmodel-update-baseline` it is kept as the golden value instead.

        Args:
            name: what to call it; each name once in a test, without a slash.
            value: what `assert_close` takes as one tensor: a tensor, an array, a picture, numbers.
            tolerance: as in `assert_close`: by dtype where none is given.
            names: one name for each axis, for the message.
            equal_nan: whether NaN equals NaN.

        Raises:
            GoldenError: the value is another, or there is no golden value of that name; an AssertionError.
            BadInputError: the name or the value cannot be used, or the value is larger than `MOST_BYTES`.
        """
        __tracebackhide__ = True
        from pytest_genmodel.tensors import Tolerance
        from pytest_genmodel.tensors.inputs import as_tensor

        if isinstance(tolerance, str):
            tolerance = Tolerance.parse(tolerance)
        entry = self._entry(name)
        tensor = as_tensor(value, "baseline.check()").detach().cpu()
        size = tensor.numel() * tensor.element_size()
        if size > MOST_BYTES:
            raise BadInputError(
                f"{name!r} takes {size / 2**20:.1f} MiB, and a golden value may have {MOST_BYTES >> 20}: check "
                "a part of it, or figures of it"
            )
        if self.update:
            self._take(entry, name, tensor, equal_nan)
            return
        if self.keep:
            self.seen[entry] = self._made(tensor)
        kept = self.store.get(entry)
        if kept is None:
            raise GoldenError(
                f"the baseline has no golden value {name!r} of this test; make it: {self.command}"
            )
        self._compare(name, tensor, kept, tolerance, names=names, equal_nan=equal_nan)

    def _entry(self, name: str) -> str:
        if not isinstance(name, str) or not name or "/" in name:
            raise BadInputError(f"baseline.check: {name!r} is no name: a text without a slash")
        entry = entry_name(self.test, name)
        if entry in self.checked:
            raise BadInputError(
                f"baseline.check: {name!r} was checked in this test before; give each value its name"
            )
        self.checked.append(entry)
        return entry

    def _take(self, entry: str, name: str, tensor: torch.Tensor, equal_nan: bool) -> None:
        if tensor.is_floating_point() and not equal_nan and bool(tensor.isnan().any()):
            raise BadInputError(
                f"{name!r} holds NaN, which equals nothing: look into it, or give equal_nan=True"
            )
        self.taken[entry] = self._made(tensor)

    def _made(self, tensor: torch.Tensor) -> Entry:
        made = {"made_with": dict(self.made_with)} if self.made_with else None
        return Entry(made, {_VALUE: Blob.of(tensor)})

    def _compare(
        self, name: str, tensor: torch.Tensor, kept: Entry, tolerance: Tolerance | str | None, **options: Any
    ) -> None:
        __tracebackhide__ = True
        from pytest_genmodel.tensors import assert_close
        from pytest_genmodel.tensors.asserts import TensorMismatchError

        if _VALUE not in kept.tensors:
            raise BaselineError(
                f"{self.store.path}: the golden value {name!r} is damaged; make it: {self.command}"
            )
        try:
            assert_close(
                tensor, kept.tensors[_VALUE].tensor(), tolerance, label=(name, "the golden value"), **options
            )
        except TensorMismatchError as error:
            lines = [str(error), *self._hints(kept)]
            raise GoldenError("\n".join(lines)) from None

    def _hints(self, kept: Entry) -> list[str]:
        made = kept.value.get("made_with", {}) if isinstance(kept.value, dict) else {}
        lines = []
        if isinstance(made, dict) and made != dict(self.made_with):
            keys = sorted(made.keys() | self.made_with.keys())
            apart = [
                f"{key} {made.get(key, 'by default')}, now {self.made_with.get(key, 'by default')}"
                for key in keys
                if made.get(key) != self.made_with.get(key)
            ]
            lines.append(f"the golden value was made with {'; '.join(apart)}")
        return [*lines, f"if this is meant: {self.command}"]


def unused(
    store: Store, checked: Collection[str], judged: Mapping[str, bool], is_asked: Callable[[str], bool]
) -> list[str]:
    """Golden values that nothing asks for any more.

    Args:
        store: the baseline.
        checked: entries that tests asked for.
        judged: of each test that ran, by its id, whether it came to its end without a failure or a skip.
        is_asked: says of a test's id whether this run was to run it, if it exists.
    """
    found = []
    for entry in store.names("golden"):
        test = test_of(entry)
        ran = judged.get(test)
        if entry not in checked and ran is not False and (ran or is_asked(test)):
            found.append(entry)
    return found
