"""Rules of values: 3xx."""

from __future__ import annotations

from pytest_genmodel.diagnosis.rules.rule import Rule, Severity

RULES = (
    Rule(
        "GM301",
        "weights changed where no change is allowed",
        "The contract forbids a change of this component, and its weights differ from the reference's.",
        "Copy the component from the reference. If it was trained on purpose: --genmodel-expect=finetuned "
        "lets the denoiser change, and so does giving no expectation; no option lets another component "
        "change, so give a checkpoint that holds its new weights as --genmodel-ref.",
        seen_in=(
            "https://github.com/zai-org/CogVideo/issues/404",
            "https://github.com/zai-org/CogVideo/issues/323",
            "https://github.com/continue-revolution/sd-webui-animatediff/issues/282",
            "https://github.com/huggingface/diffusers/issues/1009",
        ),
        example="parameters = [*transformer.parameters(), *vae.parameters()]\n"
        "optimizer = torch.optim.AdamW(parameters, lr=1e-5)   # the VAE too",
    ),
    Rule(
        "GM302",
        "weights did not change",
        "The contract requires this component to change, and every tensor equals the reference's: the "
        "training result was not saved, or nothing was trained.",
        "Check which model object was saved, and that its parameters were given to the optimizer.",
        seen_in=("https://github.com/huggingface/diffusers/issues/9332",),
        example="model = copy.deepcopy(pipeline.transformer)\n"
        "train(model)\n"
        'pipeline.save_pretrained("outputs/run-17")   # holds the old one',
    ),
    Rule(
        "GM303",
        "model differs from its file",
        "A tensor of the loaded model is not what its file holds: something changed it while loading.",
        "Look for code that runs at load time: initialisation after loading, a second load, a lossy cast.",
        seen_in=("https://github.com/jhbastek/VideoMetamaterials/issues/2",),
        example="model = CogVideoXTransformer3DModel.from_pretrained(path)\n"
        "model.apply(init_weights)                    # after loading",
    ),
    Rule(
        "GM304",
        "values that are no numbers",
        "A tensor holds NaN or Inf.",
        "Go back to the last checkpoint without them; in training, check the gradient scale and fp16 "
        "overflow.",
        seen_in=(
            "https://github.com/bmaltais/kohya_ss/issues/2541",
            "https://github.com/zai-org/CogVideo/commit/36f133378869a4e5e5480f1a0df43e1f80c24c3c",
            "https://github.com/PKU-YuanGroup/Open-Sora-Plan/issues/524",
        ),
        example='>>> weights["transformer_blocks.3.ff.net.2.weight"].isnan().any()\ntensor(True)',
    ),
    Rule(
        "GM305",
        "precision lost",
        "The values went through a narrower dtype: each is the reference's, rounded.",
        "Save in the dtype of the reference. If the narrower dtype is meant, save the reference in it too "
        "and give that as --genmodel-ref.",
        seen_in=(
            "https://github.com/intel/auto-round/pull/2205",
            "https://github.com/huggingface/diffusers/pull/8778",
        ),
        example='vae.to(torch.bfloat16).save_pretrained("vae")\n# the reference is stored in float32',
    ),
    Rule(
        "GM306",
        "weights changed",
        "The weights of a component that may change differ from the reference's.",
        "Nothing to do if the component was trained.",
        Severity.NOTE,
        example="$ genmodel diff --expect=finetuned base outputs/run-17\n"
        "transformer: 113 of 113 tensors changed, the one that moved most first",
    ),
    Rule(
        "GM307",
        "all values zero",
        "Every value of a matrix is zero: what goes through it is lost. A new projection may start at zero; "
        "a trained one does not stay there. An embedding of zeros makes every prompt mean the same.",
        "Compare the file's size and checksum with its source; then check that this layer was saved and "
        "trained.",
        Severity.WARNING,
        seen_in=(
            "https://github.com/huggingface/transformers/pull/43880",
            "https://github.com/huggingface/diffusers/issues/11989",
        ),
        example='>>> weights["transformer_blocks.1.ff.net.2.weight"].count_nonzero()\ntensor(0)',
    ),
    Rule(
        "GM308",
        "all values alike",
        "Every value of a matrix is the same number: it was filled, and never trained or loaded.",
        "Check that this layer was saved and trained; look for a fill (`ones_`, `constant_`) after loading.",
        Severity.WARNING,
        example='>>> weight = weights["transformer_blocks.1.attn1.to_q.weight"]\n'
        ">>> weight.min() == weight.max()\n"
        "tensor(True)",
    ),
    Rule(
        "GM309",
        "looks freshly initialised",
        "The values are spread just as the library initialises a new layer: no training and no file has "
        "touched them. `from_config` builds such a model without a word.",
        "Load with `from_pretrained`, not `from_config`, and read the loader's missing keys.",
        seen_in=(
            "https://github.com/huggingface/diffusers/issues/3428",
            "https://github.com/jhbastek/VideoMetamaterials/issues/2",
        ),
        example='config = CogVideoXTransformer3DModel.load_config("base/transformer")\n'
        "model = CogVideoXTransformer3DModel.from_config(config)   # random",
    ),
    Rule(
        "GM310",
        "EMA equals the trained weights",
        "The averaged copy and the trained weights are bit for bit the same. An average of several steps is "
        "not: one was saved in the place of the other, or the decay is 0.",
        "Check which copy the save took (`ema.store`, `copy_to`, `restore`), and the decay.",
        Severity.WARNING,
        seen_in=(
            "https://github.com/huggingface/diffusers/issues/1818",
            "https://github.com/mir-group/nequip/pull/590",
        ),
        example="$ sha256sum transformer/*.safetensors transformer_ema/*.safetensors\n"
        "8d2c41f0...  transformer/diffusion_pytorch_model.safetensors\n"
        "8d2c41f0...  transformer_ema/diffusion_pytorch_model.safetensors",
    ),
    Rule(
        "GM311",
        "EMA never moved",
        "The averaged copy still equals the model that training started from, while the trained weights "
        "have moved: nothing ever updated it.",
        "Call `ema_model.step(...)` after every optimizer step, on the parameters that are trained.",
        seen_in=("https://github.com/huggingface/diffusers/issues/5783",),
        example="ema = EMAModel(transformer.parameters())\n"
        "for batch in loader:\n"
        "    train_step(batch)        # and no ema.step(transformer.parameters())\n"
        'ema.save_pretrained("transformer_ema")',
    ),
    Rule(
        "GM312",
        "float32 that holds bfloat16",
        "Every value of the float32 tensors fits into bfloat16: the weights went through it. That loses "
        "nothing if they were bfloat16 before; a float32 model lost 16 bits of each value.",
        "If the weights were float32 before, look for a cast on the way (a merge, an export); else nothing "
        "to do.",
        Severity.NOTE,
        seen_in=("https://github.com/huggingface/peft/issues/1388",),
        example="model = load(base, torch_dtype=torch.bfloat16)\n"
        "merge(model, lora)\n"
        'model.to(torch.float32).save_pretrained("merged")',
    ),
    Rule(
        "GM313",
        "values too large for float16",
        "Some values lie beyond 65504, the largest number of float16: loaded in float16 they become Inf, "
        "and the video black or noise.",
        "Load this component in bfloat16 or float32.",
        Severity.WARNING,
        seen_in=(
            "https://github.com/zai-org/CogVideo/commit/36f133378869a4e5e5480f1a0df43e1f80c24c3c",
            "https://github.com/huggingface/finetrainers/issues/182",
        ),
        example='>>> weights["encoder.block.5.layer.1.DenseReluDense.wo.weight"].max()\n'
        "tensor(73728., dtype=torch.bfloat16)         # float16 ends at 65504",
    ),
    Rule(
        "GM314",
        "tensors swapped",
        "A tensor holds what the reference keeps under another name of the same shape. Names, shapes and "
        "every statistic of the whole file are right.",
        "Look at the table of names in the converter: two lines of it are crossed.",
        seen_in=("https://github.com/bghira/SimpleTuner/issues/1497",),
        example="NAMES = {\n"
        '    "attention.query": "attn1.to_k",         # crossed\n'
        '    "attention.key": "attn1.to_q",\n'
        "}",
    ),
    Rule(
        "GM315",
        "values moved by some places",
        "The values are the reference's, at wrong places: from one tensor on, everything lies so many "
        "elements earlier or later in one long row. That is how weights look that were cut out of a flat "
        "buffer at a wrong offset.",
        "Do not use the file. Consolidate again with the version of DeepSpeed (or FSDP) that wrote the "
        "pieces.",
        seen_in=("https://github.com/deepspeedai/DeepSpeed/issues/1165",),
        example="start = sum(sizes[:index]) + 2               # two elements too far\n"
        "weight = flat[start : start + sizes[index]].view(shape)",
    ),
    Rule(
        "GM316",
        "many tensors times one number",
        "Each of the changed tensors is the reference's, multiplied by one and the same factor: weight "
        "decay acted and no gradient did, or an average or a merge was not normalised.",
        "Exclude frozen parameters from the optimizer (weight decay moves what has no gradient), and check "
        "the scale of merges and averages.",
        Severity.WARNING,
        seen_in=("https://github.com/huggingface/diffusers/issues/1009",),
        example="for parameter in vae.parameters():           # frozen: no gradient\n"
        "    parameter.mul_(1 - lr * weight_decay)    # decays all the same",
    ),
    Rule(
        "GM317",
        "tensors that look re-initialised",
        "A few tensors have nothing in common with the reference's while all others stayed near them: no "
        "file filled them, and they hold the random values that a new layer starts with.",
        "Look for missing keys where the model was loaded for training (strict=False, a wrong prefix, a new "
        "shape).",
        seen_in=("https://github.com/zai-org/CogVideo/issues/374",),
        example="model.load_state_dict(load_file(path), strict=False)\n"
        "# missing: norm_out.linear.weight, so it stays random\n"
        "train(model)",
    ),
    Rule(
        "GM318",
        "values in another order within a tensor",
        "A tensor is the reference's with its rows, columns or axes in another order. Name, shape and every "
        "statistic are right, the model loads and runs, and what it computes is noise. Training cannot make this.",
        "Look at how the converter joins, splits or permutes this tensor, and at which layout the model expects.",
        seen_in=(
            "https://github.com/sgl-project/sglang/issues/40127",
            "https://github.com/huggingface/nanotron/pull/427",
            "https://github.com/NVIDIA-NeMo/Automodel/pull/1324",
        ),
        example='shift, scale = weights["norm_out.linear.weight"].chunk(2)\n'
        "# the model takes scale first\n"
        'weights["norm_out.linear.weight"] = torch.cat([shift, scale])',
    ),
    Rule(
        "GM319",
        "tensors changed by arithmetic alone",
        "A few tensors are the reference's times a number, plus or minus one, or filled with one number, while all "
        "others barely moved. A converter or a merge did that, not training.",
        "Look at what the tool does to these tensors: scales that it applies or drops, norms that are stored as "
        "their distance from 1, names that it passes over.",
        seen_in=(
            "https://github.com/Lightricks/LTX-2/pull/172",
            "https://github.com/pytorch/executorch/pull/22444",
        ),
        example=">>> (weights[name] / base[name]).unique()      # float8, its scale forgotten\n"
        "tensor([770.])",
    ),
    Rule(
        "GM320",
        "float8 without its scales",
        "The matrices hold the codes of float8 themselves, up to the largest number of the format, in a wide dtype. "
        "Each was stored divided by a scale, and whoever widened it forgot to multiply: weights are hundreds of "
        "times too large, and nothing says so.",
        "Widen again, each matrix times its scale (`weight_scale`, `scale_weight`).",
        seen_in=(
            "https://github.com/Lightricks/LTX-2/pull/172",
            "https://github.com/leejet/stable-diffusion.cpp/pull/1898",
        ),
        example='weight = stored["to_k.weight"].to(torch.bfloat16)\n'
        '# and not: ... * stored["to_k.weight_scale"]',
    ),
    Rule(
        "GM321",
        "wide weights that were quantized",
        "The matrices are stored wide and hold only the few values of a narrow format: the model went through "
        "float8, 8 or 4 bits, and was saved as if it were whole. What was rounded away does not come back.",
        "Save from the weights in full precision; merge a LoRA into these, not into the quantized copy that it "
        "was trained on.",
        Severity.WARNING,
        seen_in=(
            "https://github.com/huggingface/transformers/issues/31293",
            "https://github.com/unslothai/unsloth/issues/2374",
        ),
        example="base = load(path, quantization_config=four_bits)\n"
        'base.dequantize().save_pretrained("merged")',
    ),
    Rule(
        "GM322",
        "one matrix under several names",
        "Two matrices of a component are bit for bit the same, and no model shares them. One layer was written in "
        "the place of another: a loop over names that kept its first tensor, a shard that was read twice.",
        "Convert or save again, and compare a tensor of each block with the source.",
        Severity.WARNING,
        example='>>> one = weights["blocks.0.attn1.to_q.weight"]\n'
        '>>> (one == weights["blocks.1.attn1.to_q.weight"]).all()\n'
        "tensor(True)",
    ),
    Rule(
        "GM323",
        "EMA ran away from the weights",
        "The averaged copy is farther from the trained weights than these are large. An average lies between weights "
        "that training went through, so it was moved the wrong way at each step, or is that of another model.",
        "Look at the sign of the update: `average += (1 - decay) * (weights - average)`.",
        Severity.WARNING,
        seen_in=("https://github.com/ostris/ai-toolkit/issues/1034",),
        example="gap = average - weights\n"
        "average.add_(gap * (1 - decay))              # and not sub_: it only grows",
    ),
)
