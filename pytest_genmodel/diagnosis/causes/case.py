"""What the verdicts of one candidate prove, and what nobody looked at: never more than they say.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pytest_genmodel.diagnosis.causes.group import SEVERITIES, Record, in_order


@dataclass(frozen=True)
class RuledOut:
    """What cannot be the cause: `subject` in a word, `text` with its figures, `ids` of the verdicts that prove it.

    `whole` is False where the proof leaves components out that have findings of their own.
    """

    subject: str
    text: str
    ids: tuple[str, ...]
    whole: bool = True

    def to_json(self) -> dict[str, Any]:
        """As the report's schema spells it."""
        return {"subject": self.subject, "text": self.text, "ids": list(self.ids), "whole": self.whole}


@dataclass(frozen=True)
class NotLookedAt:
    """What is neither proven nor found: skipped, inconclusive, or not asked for."""

    subject: str
    reason: str

    def to_json(self) -> dict[str, Any]:
        """As the report's schema spells it."""
        return {"subject": self.subject, "reason": self.reason}


@dataclass(frozen=True)
class Proof:
    """What a verdict that passes rules out: `text` may name its measurements.

    `by_component` says that every component is looked at even where one has findings, so that the others are proven.
    `measured` names a measurement without which nothing was run: what follows from equal files is no further proof.
    """

    subject: str
    invariant: str
    text: str
    by_component: bool = False
    measured: str | None = None


PROOFS = (
    Proof("names", "coverage", "names and shapes ({tensors_compared} tensors)", True),
    Proof("values", "sound_weights", "NaN, empty and untrained values ({tensors_examined} tensors)"),
    Proof("weights", "same_weights", "weights"),
    Proof("configuration", "same_config", "configuration ({values_compared} values identical)", True),
    Proof("schedule", "sound_schedule", "schedule"),
    Proof("denoiser call", "denoiser_call", "what the denoiser is given", measured="arguments"),
    Proof("random state", "seeded_sampling", "random state beside the seed"),
    Proof("round trip", "save_load_round_trip", "saving and loading"),
    Proof("kernels", "neutral_transformations", "kernels, slices and copies"),
    Proof("what ran before", "reproducible", "threads, batch and earlier samples"),
    Proof("conditions", "conditions_matter", "conditions without effect"),
    Proof("unread tensors", "tensors_matter", "unread tensors"),
)
"""In the order in which they are said."""
_MAIN = ("names", "weights", "configuration", "schedule", "random state")
"""Subjects that are said to be not looked at even where nobody asked for them."""


class Case:
    """The verdicts about one candidate."""

    def __init__(self, verdicts: Sequence[Record]) -> None:
        self.verdicts = in_order(verdicts)

    def of(self, invariant: str) -> list[Record]:
        """Every verdict of an invariant."""
        return [verdict for verdict in self.verdicts if verdict["invariant"] == invariant]

    @cached_property
    def ruled_out(self) -> tuple[RuledOut, ...]:
        """What is proven, in the order of `PROOFS`."""
        return tuple(found for proof in PROOFS if (found := self._proven(proof)))

    @cached_property
    def not_looked_at(self) -> tuple[NotLookedAt, ...]:
        """What is neither proven nor found."""
        return tuple(self._not_looked_at())

    def proves(self, subject: str) -> bool:
        """Whether a subject is ruled out as a whole."""
        return any(found.subject == subject and found.whole for found in self.ruled_out)

    @cached_property
    def takes_image(self) -> bool:
        """Whether the pipeline is known to take an image: another one was given to it."""
        return any("image" in v["measurements"].get("effects", {}) for v in self.of("conditions_matter"))

    @cached_property
    def identical(self) -> Mapping[str, int]:
        """Components whose stored weights equal the reference's in every tensor, with the number of tensors."""
        found: dict[str, int] = {}
        for verdict in self.of("same_weights"):
            loud = {finding["component"] for finding in _loud(verdict)}
            for name, figures in verdict["measurements"].items():
                if not isinstance(figures, Mapping) or name in loud or not figures.get("compared"):
                    continue
                if not figures.get("changed") and not figures.get("rounded"):
                    found[name] = int(figures["compared"])
        return found

    def _proven(self, proof: Proof) -> RuledOut | None:
        verdicts = self.of(proof.invariant)
        if proof.subject == "weights":
            return self._weights(verdicts)
        judged = [v for v in verdicts if v["outcome"] in ("passed", "failed") and not v["reason"]]
        if not judged or len(judged) < len(verdicts):
            return None
        if proof.measured and any(proof.measured not in verdict["measurements"] for verdict in judged):
            return None
        loud = [finding["component"] for verdict in judged for finding in _loud(verdict)]
        if loud and (None in loud or not proof.by_component):
            return None
        text = proof.text
        for name, value in judged[0]["measurements"].items():
            text = text.replace(f"{{{name}}}", str(value))
        text = text.partition(" ({")[0] if "{" in text else text
        if loud:
            text += f", but for {', '.join(dict.fromkeys(map(str, loud)))}"
        return RuledOut(proof.subject, text, tuple(str(v["id"]) for v in judged), whole=not loud)

    def _weights(self, verdicts: Sequence[Record]) -> RuledOut | None:
        """Component by component: what is allowed to differ, and does, is not identical for it."""
        if not self.identical:
            return None
        ids = tuple(str(verdict["id"]) for verdict in verdicts)
        tensors, names = sum(self.identical.values()), ", ".join(self.identical)
        measured = {
            name
            for verdict in verdicts
            for name, figures in verdict["measurements"].items()
            if isinstance(figures, Mapping) and "compared" in figures
        }
        adapter = any(verdict["measurements"].get("adapter") for verdict in verdicts)
        passed = all(verdict["outcome"] == "passed" and not _loud(verdict) for verdict in verdicts)
        text = f"weights of {names} ({tensors} tensors identical)"
        if adapter:
            text += " below the adapter"
        return RuledOut(
            "weights", text, ids, whole=passed and measured == set(self.identical) and not adapter
        )

    def _not_looked_at(self) -> Iterator[NotLookedAt]:
        for proof in PROOFS:
            verdicts = self.of(proof.invariant)
            if not verdicts and proof.subject in _MAIN:
                yield NotLookedAt(proof.subject, f"{proof.invariant} was not judged")
            for verdict in verdicts:
                if verdict["outcome"] in ("skipped", "inconclusive"):
                    yield NotLookedAt(proof.subject, f"{proof.invariant}: {verdict['reason']}")
                    break


def _loud(verdict: Record) -> list[Record]:
    return [finding for finding in verdict["findings"] if finding["severity"] in SEVERITIES]
