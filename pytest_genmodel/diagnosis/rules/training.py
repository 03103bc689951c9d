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
    Rule(
        "GM714",
        "nothing says which result is meant",
        "The trainer left several sets of weights and no single final one: checkpoints of several steps, raw weights "
        "and their average, a LoRA beside a whole model. Whoever takes one by accident judges, or ships, the wrong "
        "model.",
        "Say which with --genmodel-train-result: checkpoint-{steps}, @latest, @ema, or a path below the output "
        "folder.",
    ),
    Rule(
        "GM715",
        "trainer changed the original model",
        "The trainer is given a copy, and files of the model that it was copied from are others now: it went around "
        "its copy, by an absolute path in a configuration, a link, or the hub's cache. The original must be "
        "restored.",
        "Restore the model, then look for a path that the trainer does not take from its arguments.",
    ),
    Rule(
        "GM716",
        "training started from other weights",
        "What the optimizer was given before its first step is not what lies in the model that training starts from: "
        "the trainer's own load lost it, rounded it, or filled it with new values.",
        "Compare the loaded model with its files before training: from_config in place of from_pretrained, "
        "torch_dtype, strict=False, a copy that is trained instead.",
    ),
    Rule(
        "GM720",
        "resumed weights are others",
        "A run that went on from a saved state does not hold the weights of the run that never stopped: parameters "
        "were not saved, were rounded on the way, or were made anew; or their running average was.",
        "Save and load every trained parameter in the dtype it is trained in, the average too, and look for an "
        "adapter that is added after the state was loaded.",
    ),
    Rule(
        "GM721",
        "optimizer's moments were not restored",
        "After resuming, the optimizer's state is not that of the run that never stopped. The first steps are then "
        "far too large, or too small.",
        "Save optimizer.state_dict(), and load it after the optimizer was given its parameters, in the same order.",
    ),
    Rule(
        "GM722",
        "schedule begins again after resuming",
        "The learning rate, or the position of its schedule, is not that of the run that never stopped.",
        "Save and load the schedule's state, and prepare it like the optimizer.",
    ),
    Rule(
        "GM723",
        "other noise or data after resuming",
        "Weights, moments and rate are right, and the step sees another clip, timestep or noise than without a stop. "
        "Generators begin again, so that noise repeats; or the loader does, so that the last clips are never seen.",
        "Save the state of every generator and skip the batches that were seen (accelerate's skip_first_batches), or "
        "draw what a step needs from a seed that holds the step's number.",
    ),
    Rule(
        "GM724",
        "resumed run counts its steps wrongly",
        "The steps before and after resuming are not those of the run that never stopped: one too many or too few, "
        "or all of them again, because no saved state was found and training began from the start without a word.",
        "Save the number of steps taken after it was raised, and fail where a state to resume from is not found.",
    ),
    Rule(
        "GM725",
        "running average was never updated",
        "The average (EMA) is what training started from, and the weights have moved.",
        "Call its step after each step of the optimizer, with the parameters that are trained.",
    ),
    Rule(
        "GM726",
        "running average is the raw weights",
        "The average (EMA) is the trained weights, but for rounding: it was never on, its decay is 0, or one was "
        "saved in the place of the other.",
        "Look at its decay and the step it begins at, and at what is given to the save call after store and copy_to.",
    ),
    Rule(
        "GM727",
        "running average is not where its decay puts it",
        "An average (EMA) lies between what training started from and the trained weights, as far along as its decay "
        "says. This one lies elsewhere: raw weights and average are exchanged, the update has the wrong sign, decay "
        "and its complement are exchanged, or it began from another model.",
        "Check the update (average += (1 - decay) * (weights - average)), that it follows the optimizer's step, and "
        "which of the two is saved where.",
    ),
    Rule(
        "GM728",
        "running average lacks a part of the model",
        "A tensor of the model is no part of the average (EMA), and was made anew when it was saved. Buffers, such "
        "as the learned positions of CogVideoX, are no parameters: diffusers' EMAModel.save_pretrained drops them.",
        "Copy the average into the trained model, and save that.",
    ),
)
