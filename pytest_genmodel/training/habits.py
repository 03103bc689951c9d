"""What optimizers do at learning rate zero: those that are no identity, and why.

Measured on three full fine-tuning steps of the tiny CogVideoX transformer, bit by bit.
"""

from __future__ import annotations

HABITS = {
    "torch.optim.rprop.Rprop": (
        "Rprop keeps a step size for each value that starts at the rate and never falls below a smallest step "
        "(1e-6 by default): rate zero is no rate that it knows"
    ),
    "transformers.optimization.Adafactor": (
        "Adafactor with relative_step=True (its default) works out a rate of its own from the step's number; give "
        "relative_step=False, scale_parameter=False and the rate"
    ),
}
"""Classes by their full name, and why they move weights at rate zero."""
