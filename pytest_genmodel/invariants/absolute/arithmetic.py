"""GM932 and GM933: calls of kernels that are not what their definition says."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_genmodel.diagnosis.finding import Finding
from pytest_genmodel.diagnosis.limit import against
from pytest_genmodel.pipelines.kernels import ATTENTION, KernelCall, Kernels


def kernel_findings(kernels: Kernels) -> Iterator[Finding]:
    """One finding for each function; it is of a component where the others call it and are right."""
    wrong: dict[str, list[KernelCall]] = {}
    for call in kernels.wrong:
        wrong.setdefault(call.function, []).append(call)
    for function, calls in wrong.items():
        judged = [call for call in kernels.judged if call.function == function]
        guilty = {call.component for call in calls}
        one = len(guilty) == 1 and {call.component for call in judged} != guilty
        worst = max(calls, key=lambda call: call.error)
        at = f"{worst.component}: {worst.module_path}" if worst.module else worst.component
        yield Finding(
            "GM932" if function == ATTENTION else "GM933",
            f"{len(calls)} of {len(judged)} calls of {function} that were looked at are not what it is defined "
            f"to be; in {at} it is off by {worst.error:.2g} of its largest value (limit {worst.limit:.2g}, "
            f"{worst.dtype})",
            component=next(iter(guilty)) if one else None,
            location=calls[0].module_path if one else function,
            cause=_cause(calls, judged),
            evidence={
                "function": function,
                **against(min(worst.error, 1e300), worst.limit, "of the largest value"),
                "shapes": [list(shape) for shape in worst.shapes],
                "modules": [f"{call.component}: {call.module_path}" for call in calls[:20]],
            },
        )


def _cause(wrong: list[KernelCall], judged: list[KernelCall]) -> str:
    right = [call for call in judged if not call.is_wrong]
    if right and wrong[0].shapes and min(_size(call) for call in wrong) > max(_size(call) for call in right):
        return "only the largest inputs are wrong: a kernel that fails from a size on"
    if right:
        return "not every call is wrong: it depends on shape, mask or memory layout"
    return "every call is wrong: the installed kernel, or what was put in its place"


def _size(call: KernelCall) -> int:
    count = 1
    for size in call.shapes[0] if call.shapes else ():
        count *= size
    return count
