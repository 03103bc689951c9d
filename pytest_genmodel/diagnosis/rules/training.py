"""Rules of training: 7xx."""

from __future__ import annotations

from pytest_genmodel.diagnosis.rules.rule import Rule

RULES = (
    Rule(
        "GM701",
        "learning rate was not zero",
        "The run was asked for the rate 0 and the optimizer used another: a default filled in for a value that "
        "counts as false, or a rate from another configuration.",
        "Look for `lr or default` and for a second place that sets the rate.",
    ),
    Rule(
        "GM702",
        "optimizer moved weights at rate zero",
        "The rate was 0 and parameters changed during training.",
        "Look for NaN or Inf gradients (0 x Inf is NaN), an optimizer with a minimum step, an EMA copied back.",
    ),
    Rule(
        "GM703",
        "saving altered the weights",
        "The trained model in memory equalled what went in; what was written does not.",
        "Look at what is given to the save call: a wrapped model, a cast, an EMA copy, a part of the state dict.",
    ),
    Rule(
        "GM704",
        "loading lost the weights",
        "The file holds the right values and the loaded model does not.",
        "Load with strict=True and read the missing keys.",
    ),
    Rule(
        "GM705",
        "zero learning rate changes the sample",
        "Weights, configuration and schedule are right and the sample after training is another.",
        "Look at what the trainer leaves behind in the pipeline: hooks, processors, train mode, scheduler state.",
    ),
    Rule(
        "GM706",
        "claimed parameters did not move",
        "At a positive rate parameters that are said to be trained kept every bit.",
        "Check requires_grad, the optimizer's parameter groups, and a schedule whose first rate is 0.",
    ),
    Rule(
        "GM707",
        "unclaimed parameters moved",
        "At a positive rate something changed that is not said to be trained.",
        "Freeze it with requires_grad_(False), and give the optimizer only what is trained.",
    ),
    Rule(
        "GM708",
        "training gives values that are no numbers",
        "After a step parameters hold NaN or Inf.",
        "Lower the rate, clip gradients, and keep fp16 parameters out of AdamW (its eps underflows there).",
    ),
    Rule(
        "GM709",
        "nothing was trained",
        "The trainer came back and no optimizer took a step with gradients.",
        "Read the trainer's output; a trainer that exits with status 0 may still have failed.",
    ),
    Rule(
        "GM710",
        "nothing was written",
        "The trainer came back without a checkpoint, or with the one it was given.",
        "Read the trainer's output, and check its output folder and save interval.",
    ),
    Rule(
        "GM711",
        "trainer did not come to its end",
        "The training command failed, or took longer than it may. What it wrote before that is no result.",
        "Read the last lines it printed, and run the command by hand with the same values.",
    ),
    Rule(
        "GM712",
        "trainer wrote into what it was given",
        "Files of the model that training starts from were changed, added or removed. The next run starts from "
        "another model, and nobody notices (the gate works on a copy).",
        "Give the trainer an output folder, and look for caches that it keeps beside the model.",
    ),
    Rule(
        "GM713",
        "weights changed outside the optimizer",
        "The rate was 0, no step of the optimizer changed anything, and parameters changed all the same: the loop "
        "itself wrote into them.",
        "Look for an EMA that is copied back, weight decay by hand, a load or a cast in place after the last step.",
    ),
)
