"""Rules of training: 7xx."""

from __future__ import annotations

from pytest_genmodel.diagnosis.rules.rule import Rule, Severity

RULES = (
    Rule(
        "GM701",
        "learning rate was not zero",
        "The run was asked for the rate 0 and the optimizer used another: a default filled in for a value that "
        "counts as false, or a rate from another configuration.",
        "Look for `lr or default` and for a second place that sets the rate.",
        example="lr = args.lr or 1e-4             # 0 counts as false\n"
        "optimizer = torch.optim.AdamW(parameters, lr=lr)",
    ),
    Rule(
        "GM702",
        "optimizer moved weights at rate zero",
        "The rate was 0 and parameters changed during training.",
        "Look for NaN or Inf gradients (0 x Inf is NaN), an optimizer with a minimum step, an EMA copied back.",
        example="parameter.grad                   # inf, after an overflow in float16\n"
        "parameter -= 0.0 * parameter.grad                # 0 * inf is nan",
    ),
    Rule(
        "GM703",
        "saving altered the weights",
        "The trained model in memory equalled what went in; what was written does not.",
        "Look at what is given to the save call: a wrapped model, a cast, an EMA copy, a part of the state dict.",
        seen_in=("https://github.com/Nerogar/OneTrainer/issues/823",),
        example="state = {name: t.half() for name, t in model.state_dict().items()}\n"
        'save_file(state, "diffusion_pytorch_model.safetensors")',
    ),
    Rule(
        "GM704",
        "loading lost the weights",
        "The file holds the right values and the loaded model does not.",
        "Load with strict=True and read the missing keys.",
        example="model.load_state_dict(load_file(path), strict=False)\n"
        "# 112 missing and 112 unexpected names: each has a prefix too many",
    ),
    Rule(
        "GM705",
        "zero learning rate changes the sample",
        "Weights, configuration and schedule are right and the sample after training is another.",
        "Look at what the trainer leaves behind in the pipeline: hooks, processors, train mode, scheduler state.",
        example="transformer.register_forward_pre_hook(add_noise) # for training\n"
        "train(transformer)\n"
        "# the hook is still there; weights and configuration are right",
    ),
    Rule(
        "GM706",
        "claimed parameters did not move",
        "At a positive rate parameters that are said to be trained kept every bit.",
        "Check requires_grad, the optimizer's parameter groups, and a schedule whose first rate is 0.",
        seen_in=(
            "https://github.com/zai-org/CogVideo/blob/b080c6a010a396849f41d1b54b37cd26df30d2ef/sat/diffusion_video.py",
        ),
        example="transformer.requires_grad_(False)\n"
        "optimizer = torch.optim.AdamW(transformer.parameters(), lr=1e-4)",
    ),
    Rule(
        "GM707",
        "unclaimed parameters moved",
        "At a positive rate something changed that is not said to be trained.",
        "Freeze it with requires_grad_(False), and give the optimizer only what is trained.",
        example="# meant: attention alone\noptimizer = torch.optim.AdamW(transformer.parameters(), lr=1e-4)",
    ),
    Rule(
        "GM708",
        "training gives values that are no numbers",
        "After a step parameters hold NaN or Inf.",
        "Lower the rate, clip gradients, and keep fp16 parameters out of AdamW (its eps underflows there).",
        example="transformer.to(torch.float16)    # AdamW's eps of 1e-8 is 0 there\n"
        "optimizer = torch.optim.AdamW(transformer.parameters(), lr=1e-4)",
    ),
    Rule(
        "GM709",
        "nothing was trained",
        "The trainer came back and no optimizer took a step with gradients.",
        "Read the trainer's output; a trainer that exits with status 0 may still have failed.",
        example="try:\n"
        "    train(transformer)\n"
        "except Exception as error:\n"
        "    print(error)                 # and exit status 0",
    ),
    Rule(
        "GM710",
        "nothing was written",
        "The trainer came back without a checkpoint, or with the one it was given.",
        "Read the trainer's output, and check its output folder and save interval.",
        example="if step % args.checkpointing_steps == 0:         # 500, of 2 steps\n"
        "    accelerator.save_state(output)",
    ),
    Rule(
        "GM711",
        "trainer did not come to its end",
        "The training command failed, or took longer than it may. What it wrote before that is no result.",
        "Read the last lines it printed, and run the command by hand with the same values.",
        example="$ python train.py --model base --output out --lr 0 --steps 2\n"
        "KeyError: 'prompt'\n"
        "$ echo $?\n"
        "1",
    ),
    Rule(
        "GM712",
        "trainer wrote into what it was given",
        "Files of the model that training starts from were changed, added or removed. The next run starts from "
        "another model, and nobody notices (the gate works on a copy).",
        "Give the trainer an output folder, and look for caches that it keeps beside the model.",
        example='cache = Path(args.model) / "latents.pt"          # inside the model\n'
        "torch.save(latents, cache)",
    ),
    Rule(
        "GM713",
        "weights changed outside the optimizer",
        "The rate was 0, no step of the optimizer changed anything, and parameters changed all the same: the loop "
        "itself wrote into them.",
        "Look for an EMA that is copied back, weight decay by hand, a load or a cast in place after the last step.",
        seen_in=("https://github.com/huggingface/diffusers/issues/7549",),
        example="optimizer.step()\n"
        "for parameter in transformer.parameters():\n"
        "    parameter.data.mul_(1 - args.weight_decay)   # whatever the rate is",
    ),
    Rule(
        "GM714",
        "nothing says which result is meant",
        "The trainer left several sets of weights and no single final one: checkpoints of several steps, raw weights "
        "and their average, a LoRA beside a whole model. Whoever takes one by accident judges, or ships, the wrong "
        "model.",
        "Say which with --genmodel-train-result: checkpoint-{steps}, @latest, @ema, or a path below the output "
        "folder.",
        seen_in=("https://github.com/PKU-YuanGroup/Open-Sora-Plan/issues/524",),
        example="$ ls out/\ncheckpoint-1/  checkpoint-2/  transformer/  transformer_ema/",
    ),
    Rule(
        "GM715",
        "trainer changed the original model",
        "The trainer is given a copy, and files of the model that it was copied from are others now: it went around "
        "its copy, by an absolute path in a configuration, a link, or the hub's cache. The original must be "
        "restored.",
        "Restore the model, then look for a path that the trainer does not take from its arguments.",
        example="# train.yaml: not the path that the command was given\n"
        "pretrained_model: /models/CogVideoX-5b-I2V",
    ),
    Rule(
        "GM716",
        "training started from other weights",
        "What the optimizer was given before its first step is not what lies in the model that training starts from: "
        "the trainer's own load lost it, rounded it, or filled it with new values.",
        "Compare the loaded model with its files before training: from_config in place of from_pretrained, "
        "torch_dtype, strict=False, a copy that is trained instead.",
        example="config = CogVideoXTransformer3DModel.load_config(path)\n"
        "model = CogVideoXTransformer3DModel.from_config(config)\n"
        "optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)",
    ),
    Rule(
        "GM717",
        "gradients of an earlier step are used",
        "A step was taken with gradients that an earlier step had used already: nothing cleared them, or no backward "
        "pass lies between the two. The model learns at another rate, and from another batch, than is asked for.",
        "Call zero_grad() once behind each step, and step() once behind each backward pass: with a GradScaler, "
        "scaler.step(optimizer) is the step.",
        example="scaler.step(optimizer)\n"
        "scaler.update()\n"
        "optimizer.step()                 # once more, with the same gradients\n"
        "optimizer.zero_grad()",
    ),
    Rule(
        "GM718",
        "processes trained apart",
        "The processes of one run hold the same model, and do not keep it the same: each steps with gradients of its "
        "own. One of them is saved, and has seen its own share of the data alone.",
        "Call the wrapped model in the loop, not its module; put adapters on before it is wrapped; let all processes "
        "start from the same seed.",
        example="model = DistributedDataParallel(transformer)\n"
        "loss = loss_of(model.module(noisy))    # not the wrapper: nothing is averaged",
    ),
    Rule(
        "GM719",
        "trained and not saved",
        "Parameters moved in memory, and their values are in no file that was written, though the others' are: what "
        "was learned there is lost.",
        "Give the save call every part that is trained: a LoRA of the text encoder, an unfrozen projection, the "
        "second expert.",
        seen_in=("https://github.com/cloneofsimo/lora/issues/16",),
        example="text_encoder.add_adapter(config)\n"
        "parameters = [*lora_of(transformer), *lora_of(text_encoder)]\n"
        "pipe.save_lora_weights(out, transformer_lora_layers=...)   # and the other one?",
    ),
    Rule(
        "GM720",
        "resumed weights are others",
        "A run that went on from a saved state does not hold the weights of the run that never stopped: parameters "
        "were not saved, were rounded on the way, or were made anew; or their running average was.",
        "Save and load every trained parameter in the dtype it is trained in, the average too, and look for an "
        "adapter that is added after the state was loaded.",
        seen_in=("https://github.com/huggingface/diffusers/issues/12689",),
        example='accelerator.load_state("checkpoint-1")\n'
        "transformer.add_adapter(lora_config)             # after it: new factors",
    ),
    Rule(
        "GM721",
        "optimizer's moments were not restored",
        "After resuming, the optimizer's state is not that of the run that never stopped. The first steps are then "
        "far too large, or too small.",
        "Save optimizer.state_dict(), and load it after the optimizer was given its parameters, in the same order.",
        example='state = torch.load("checkpoint-1/state.pt")\n'
        'model.load_state_dict(state["model"])\n'
        '# and no optimizer.load_state_dict(state["optimizer"])',
    ),
    Rule(
        "GM722",
        "schedule begins again after resuming",
        "The learning rate, or the position of its schedule, is not that of the run that never stopped.",
        "Save and load the schedule's state, and prepare it like the optimizer.",
        example='schedule = get_scheduler("cosine", optimizer, 100, 10_000)\n'
        "# not given to accelerator.prepare, so its position is not saved",
    ),
    Rule(
        "GM723",
        "other noise or data after resuming",
        "Weights, moments and rate are right, and the step sees another clip, timestep or noise than without a stop. "
        "Generators begin again, so that noise repeats; or the loader does, so that the last clips are never seen.",
        "Save the state of every generator and skip the batches that were seen (accelerate's skip_first_batches), or "
        "draw what a step needs from a seed that holds the step's number.",
        seen_in=("https://github.com/huggingface/accelerate/pull/4071",),
        example="generator = torch.Generator().manual_seed(args.seed)   # resumed or not\n"
        "noise = torch.randn(shape, generator=generator)        # step 1's again",
    ),
    Rule(
        "GM724",
        "resumed run counts its steps wrongly",
        "The steps before and after resuming are not those of the run that never stopped: one too many or too few, "
        "or all of them again, because no saved state was found and training began from the start without a word.",
        "Save the number of steps taken after it was raised, and fail where a state to resume from is not found.",
        example="save(output, step=step)          # the number before this step\nstep += 1",
    ),
    Rule(
        "GM725",
        "running average was never updated",
        "The average (EMA) is what training started from, and the weights have moved.",
        "Call its step after each step of the optimizer, with the parameters that are trained.",
        seen_in=("https://github.com/huggingface/diffusers/issues/5783",),
        example="ema = EMAModel(transformer.parameters(), decay=0.999)\n"
        "for batch in loader:\n"
        "    optimizer.step()             # and no ema.step(...)",
    ),
    Rule(
        "GM726",
        "running average is the raw weights",
        "The average (EMA) is the trained weights, but for rounding: it was never on, its decay is 0, or one was "
        "saved in the place of the other.",
        "Look at its decay and the step it begins at, and at what is given to the save call after store and copy_to.",
        seen_in=(
            "https://github.com/huggingface/diffusers/issues/1818",
            "https://github.com/mir-group/nequip/pull/590",
        ),
        example='transformer.save_pretrained("transformer_ema")   # still the raw weights\n'
        "ema.copy_to(transformer.parameters())",
    ),
    Rule(
        "GM727",
        "running average is not where its decay puts it",
        "An average (EMA) lies between what training started from and the trained weights, as far along as its decay "
        "says. This one lies elsewhere: raw weights and average are exchanged, the update has the wrong sign, decay "
        "and its complement are exchanged, or it began from another model.",
        "Check the update (average += (1 - decay) * (weights - average)), that it follows the optimizer's step, and "
        "which of the two is saved where.",
        seen_in=("https://github.com/ostris/ai-toolkit/issues/1034",),
        example="# right: average += (1 - decay) * (weights - average)\n"
        "average.add_(decay * (weights - average))",
    ),
    Rule(
        "GM728",
        "running average lacks a part of the model",
        "A tensor of the model is no part of the average (EMA), and was made anew when it was saved. Buffers, such "
        "as the learned positions of CogVideoX, are no parameters: diffusers' EMAModel.save_pretrained drops them.",
        "Copy the average into the trained model, and save that.",
        example="ema = EMAModel(transformer.parameters())         # buffers are none\n"
        'ema.save_pretrained("transformer_ema")           # pos_embedding is lost',
    ),
    Rule(
        "GM729",
        "several processes write one file",
        "More than one process of the run wrote tensors to the same path. They held the same values this time; two "
        "that write at once leave a torn file, or one that mixes steps.",
        "Save in the main process alone (accelerator.is_main_process, rank 0), with a barrier before and after.",
        Severity.WARNING,
        seen_in=("https://github.com/NVIDIA/apex/issues/886",),
        example="accelerator.wait_for_everyone()\n"
        'save_file(tensors, output / "model.safetensors")   # in every process',
    ),
)
