"""How a candidate may differ from the reference, in the words that users give.

PYTEST_DONT_REWRITE
"""

EXPECTATIONS = ("identical", "finetuned", "adapter")
"""What `invariants.contract.contract_for` spells out; in a module of its own, as start-up needs no more than this."""
