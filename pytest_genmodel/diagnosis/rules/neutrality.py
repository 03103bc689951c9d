"""Rules of neutral transformations: 61x."""

from __future__ import annotations

from pytest_genmodel.diagnosis.rules.rule import Rule

RULES = (
    Rule(
        "GM610",
        "neutral transformation changes the sample",
        "Something that must not matter (a copy, `from_pipe`, fused projections, offloading) changes "
        "the video by more "
        "than rounding: the pipeline in production is not the one that was judged.",
        "Sample with and without it, step by step; the message names the first step that differs.",
        seen_in=("https://github.com/huggingface/diffusers/issues/11041",),
        example="pipeline(image, prompt, generator=seeded(0))     # video A\n"
        "pipeline.fuse_qkv_projections()\n"
        "pipeline(image, prompt, generator=seeded(0))     # video B",
    ),
    Rule(
        "GM611",
        "attention kernels disagree",
        "With torch's plain attention the sample is another one: a fused kernel, or the processor that calls it, "
        "computes something else than attention.",
        "Compare the processor's mask, scale and layout with those of the plain one; try another backend or release.",
        seen_in=(
            "https://github.com/pytorch/pytorch/issues/108503",
            "https://github.com/Tencent-Hunyuan/HunyuanVideo/issues/31",
            "https://github.com/pytorch/pytorch/issues/191937",
        ),
        example="F.scaled_dot_product_attention(q, k, v, mask)    # fused: mask ignored\n"
        "softmax(q @ k.mT / d**0.5 + mask, -1) @ v        # what it stands for",
    ),
    Rule(
        "GM612",
        "slices are decoded otherwise",
        "A batch decoded slice by slice is not what it is decoded at once.",
        "Look at caches of the causal convolutions that one slice leaves to the next.",
        example="vae.enable_slicing()\n"
        "both = vae.decode(torch.cat([first, second])).sample\n"
        "both[1:]                         # not vae.decode(second).sample",
    ),
    Rule(
        "GM613",
        "tiles do not join",
        "Two tiles of the autoencoder meet in a step, or a clip within one tile is cut: seams are "
        "seen in every video.",
        "A blend goes from the first tile's value to the second's over the overlap, and leaves the rest alone.",
        example="vae.enable_tiling()\nvae.decode(latents).sample       # a step where two tiles meet",
    ),
    Rule(
        "GM614",
        "moving changes weights",
        "A tensor is not its own value after a change of device, or of dtype where that loses nothing, or not its "
        "own value rounded.",
        "Look for tensors that are rebuilt on `.to()`, and for a cast through a narrower dtype.",
        example="before = model.table.clone()\n"
        "model.to(torch.float32).to(model_dtype)          # loses nothing\n"
        "(model.table == before).all()    # False: made anew on .to()",
    ),
    Rule(
        "GM615",
        "bfloat16 is off by more than its rounding",
        "Computed in bfloat16 the sample is farther from float32 with the same rounded weights than "
        "rounding explains.",
        "Keep time steps, rotary tables, norms and the scheduler in float32; cast at the end.",
        seen_in=("https://github.com/huggingface/diffusers/issues/9405",),
        example="timestep = timestep.to(torch.bfloat16)           # 999 becomes 1000\n"
        "embedding = time_proj(timestep)",
    ),
    Rule(
        "GM616",
        "copy shares memory with the original",
        "`copy.deepcopy` of the pipeline gives tensors that lie in the original's memory: training one changes both.",
        "Look for `__deepcopy__`, `__reduce__` or tensors kept outside parameters and buffers.",
        example="twin = copy.deepcopy(model)\ntwin.table.data_ptr() == model.table.data_ptr()  # True",
    ),
    Rule(
        "GM617",
        "undone transformation leaves something behind",
        "Switched on and off again, something of the pipeline is not what it was: a hook, a "
        "processor, a flag, a value.",
        "Look at what the undoing call puts back; make a new pipeline where it does not.",
        example="pipeline.enable_model_cpu_offload()\n"
        "pipeline.remove_all_hooks()\n"
        'hasattr(pipeline.transformer, "_hf_hook")        # True',
    ),
    Rule(
        "GM618",
        "gradient checkpointing changes the prediction",
        "With gradient checkpointing the denoiser predicts something else, or its gradients are "
        "others: what is trained "
        "is not what is used.",
        "Compare the arguments that the checkpointed call hands to the block with those of the plain call.",
        seen_in=("https://github.com/Stability-AI/generative-models/pull/474",),
        example="if self.gradient_checkpointing:\n"
        "    hidden = checkpoint(block, hidden, text)     # no rotary tables\n"
        "else:\n"
        "    hidden = block(hidden, text, rotary)",
    ),
    Rule(
        "GM619",
        "stored in 8 bits, computed with something else",
        "With layerwise casting the denoiser does not compute what its rounded weights say: a layer works in the "
        "dtype in which it is stored, or its input goes through that dtype.",
        "Leave norms, embeddings and adapters out (`skip_modules_pattern`), and see that inputs keep the dtype of "
        "the computation.",
        seen_in=("https://github.com/huggingface/diffusers/pull/10685",),
        example="model.enable_layerwise_casting(\n"
        "    storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.bfloat16\n"
        ")\n"
        "lora_A(x.to(lora_A.weight.dtype))                # x in 8 bits",
    ),
)
