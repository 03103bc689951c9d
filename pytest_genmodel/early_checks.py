"""What is found out about a run before anything is collected, as far as that is cheap.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_genmodel.baselines.stand_in import StoredReference
    from pytest_genmodel.checkpoints.checkpoint import Checkpoint
    from pytest_genmodel.session import GenmodelSession


def check_specs(session: GenmodelSession) -> None:
    """Find out what is wrong with the given values before anything is collected, as far as that is cheap.

    Raises:
        BadInputError: a spec names nothing, or nothing that fits the others; the probe cannot be made.
    """
    from pytest_genmodel.errors import BadInputError
    from pytest_genmodel.pipelines.families import family_of
    from pytest_genmodel.pipelines.placement import resolve_placement
    from pytest_genmodel.pipelines.probing import check_image
    from pytest_genmodel.pipelines.resolve import check_hub

    settings = session.settings
    reference = _peek(settings.reference) if settings.reference is not None else None
    if reference is not None:
        if reference.is_partial:
            raise BadInputError(
                f"{reference.spec}: the reference must be a whole pipeline, not a {reference.kind.value}"
            )
        family_of(reference)
    if settings.expect is not None and settings.reference is None and settings.baseline is None:
        raise BadInputError(
            f"--genmodel-expect={settings.expect} says how the candidate differs from a reference: "
            "give that as --genmodel-ref"
        )
    if settings.image is not None:
        check_image(settings.image)
    if settings.device not in ("auto", "cpu"):
        resolve_placement(settings.device, settings.dtype, "F32")
    for spec in settings.candidates:
        if (found := _peek(spec)) is not None:
            _check_candidate(session, found, reference)
    for spec in filter(None, (settings.reference, *settings.candidates)):
        check_hub(spec)


def check_baseline(session: GenmodelSession) -> None:
    """Find out whether the baseline fits the run: it is there, whole, of this class, and of these settings.

    Raises:
        BadInputError: it is not; names the key that differs, or the command that makes the file.
    """
    from pytest_genmodel.checkpoints.damage import DamagedFileError
    from pytest_genmodel.errors import BadInputError

    settings = session.settings
    path = f"--genmodel-baseline={settings.baseline}"
    if session.baseline_store is None:
        reference = settings.reference or "REFERENCE"
        raise BadInputError(
            f"{path}: there is no such file; make it: pytest --genmodel-ref={reference} {path} "
            "--genmodel-update-baseline"
        )
    stored = session.baseline
    if stored is None:
        if settings.expect is not None and settings.reference is None:
            raise BadInputError(
                f"--genmodel-expect={settings.expect} says how the candidate differs from a reference, and "
                f"{settings.baseline} holds none: give it as --genmodel-ref"
            )
        return
    for index, spec in enumerate(settings.candidates):
        peeked = _peek(spec)
        if peeked is not None and peeked.is_partial:
            continue
        try:
            found = session.pipeline(spec).checkpoint.pipeline_class
        except DamagedFileError:
            continue  # a finding, and not for now
        if found != stored.pipeline_class:
            raise BadInputError(f"{path}: made of a {stored.pipeline_class}, and {spec} is a {found}")
        if problem := _misfit(session, stored, index):
            raise BadInputError(f"{path}: {problem}; give the same, or make the baseline again")


def _misfit(session: GenmodelSession, stored: StoredReference, index: int) -> str | None:
    from pytest_genmodel.baselines.conditions import STATIC, conditions, misfit
    from pytest_genmodel.checkpoints.damage import DamagedFileError

    if session.settings.level == STATIC:
        return None
    try:
        probe = session.probe(index)
        placement = session.pipeline(session.settings.candidates[index]).placement
    except DamagedFileError:
        return None  # a finding, and not for now
    return misfit(stored.conditions, conditions(probe, placement, session.settings.level))


def _peek(spec: str) -> Checkpoint | None:
    """Open a spec where that is cheap; a damaged file is a finding, and not for now."""
    from pytest_genmodel.checkpoints.damage import DamagedFileError
    from pytest_genmodel.pipelines.resolve import peek

    try:
        return peek(spec)
    except DamagedFileError:
        return None


def _check_candidate(session: GenmodelSession, candidate: Checkpoint, reference: Checkpoint | None) -> None:
    from pytest_genmodel.checkpoints.damage import DamagedFileError
    from pytest_genmodel.errors import BadInputError
    from pytest_genmodel.pipelines.families import family_of
    from pytest_genmodel.pipelines.probing import settle_size

    if candidate.is_partial:
        if session.settings.reference is None:
            raise BadInputError(
                f"{candidate.spec}: a {candidate.kind.value} is judged together with the model it belongs to; "
                "give that as --genmodel-ref"
            )
        return
    family = family_of(candidate)
    if reference is not None and candidate.pipeline_class != reference.pipeline_class:
        raise BadInputError(
            f"{candidate.spec} is a {candidate.pipeline_class} and the reference {reference.spec} a "
            f"{reference.pipeline_class}: they cannot be compared"
        )
    if session.settings.size or session.settings.frames:
        try:
            settle_size(session.wishes, candidate, family, full=session.settings.level == "full")
        except DamagedFileError:
            return  # a finding, and not for now
