"""Root cause first: of everything that was found about a candidate, the findings that explain the others.

Works on verdicts as the report's schema spells them, so that a merged report and a saved one can be asked too.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from pytest_genmodel.diagnosis.causes.case import NotLookedAt, RuledOut
from pytest_genmodel.diagnosis.causes.cause import Cause, Confidence, Explained, Unjudged
from pytest_genmodel.diagnosis.causes.reasoning import causes

__all__ = ["Cause", "Confidence", "Explained", "NotLookedAt", "RuledOut", "Unjudged", "causes"]
