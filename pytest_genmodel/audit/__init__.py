"""The audit of a gate: real faults are injected into copies of the user's own model, and what it sees is counted."""
