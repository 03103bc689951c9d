"""Rules of adapters: 8xx."""

from __future__ import annotations

from pytest_genmodel.diagnosis.rules.rule import Rule, Severity

RULES = (
    Rule(
        "GM801",
        "adapter is not attached",
        "LoRA factors of the file are not in the loaded model (their names match nothing), or factors of "
        "the model are in no file and hold whatever they were made with.",
        "Save the whole adapter, named as diffusers does: `<denoiser>.<module>.lora_A.weight` and "
        "`.lora_B.weight`.",
        seen_in=(
            "https://github.com/huggingface/transformers/pull/46766",
            "https://github.com/bghira/SimpleTuner/issues/779",
        ),
        example="# stored, then what a loader of diffusers looks for\n"
        "base_model.model.transformer_blocks.0.attn1.to_q.lora_A.weight\n"
        "transformer.transformer_blocks.0.attn1.to_q.lora_A.weight",
    ),
    Rule(
        "GM802",
        "adapter is all zero",
        "Every lora_B is zero: the adapter does nothing. Fresh adapters look like this.",
        "Check that the trained adapter was saved, and not a new one.",
        Severity.WARNING,
        seen_in=(
            "https://github.com/zai-org/CogVideo/blob/b080c6a010a396849f41d1b54b37cd26df30d2ef/sat/diffusion_video.py",
        ),
        example='>>> lora["transformer.transformer_blocks.0.attn1.to_q.lora_B.weight"].any()\ntensor(False)',
    ),
    Rule(
        "GM803",
        "adapter without alpha",
        "The file does not say with which alpha it was trained; diffusers takes alpha = rank, which can be "
        "many times too strong or too weak.",
        "Save with transformer_lora_adapter_metadata, or state the scale where the adapter is loaded.",
        Severity.WARNING,
        seen_in=("https://github.com/huggingface/diffusers/issues/6087",),
        example="LoraConfig(r=128, lora_alpha=64)                 # trained at 64 / 128\n"
        'pipeline.save_lora_weights("out", transformer_lora_layers=layers)\n'
        "# factors alone: loaded with alpha = 128, twice as strong",
    ),
    Rule(
        "GM804",
        "adapter of mixed ranks without alpha",
        "The layers of the adapter have different ranks and the file says no alpha. Each program guesses another "
        "strength: older versions of diffusers took the rank of whichever layer came first for the alpha of all.",
        "Save the adapter with its configuration (`*_lora_adapter_metadata`, or PEFT's adapter_config.json).",
        Severity.WARNING,
        seen_in=("https://github.com/huggingface/diffusers/pull/14409",),
        example="transformer_blocks.0.attn1.to_q.lora_A.weight  [64, 3072]\n"
        "transformer_blocks.0.attn1.to_k.lora_A.weight  [16, 3072]\n"
        "# and no alpha anywhere",
    ),
    Rule(
        "GM805",
        "part of the adapter never learned",
        "lora_B starts at zero, and in some layers it still is: these layers got no gradient.",
        "Check that these layers were given to the optimizer before it was made, and that they are run in "
        "training.",
        Severity.WARNING,
        seen_in=("https://github.com/huggingface/diffusers/issues/5016",),
        example="optimizer = torch.optim.AdamW(p for p in parameters if p.requires_grad)\n"
        "text_encoder.requires_grad_(True)    # too late: the optimizer is made",
    ),
    Rule(
        "GM806",
        "adapter with two alphas",
        "The places that say the adapter's alpha (tensors, header, adapter_config.json) contradict each "
        "other. Each program believes another one, and the adapter acts at another strength.",
        "Keep the alpha that was trained with, and save the adapter again.",
        example="# a tensor, then the header of the same file\n"
        "transformer_blocks.0.attn1.to_q.alpha  64.0\n"
        '"transformer.lora_alpha": 128',
    ),
    Rule(
        "GM807",
        "adapter covers part of its layers",
        "Some layers of a kind have factors and others of the same kind have none: a save that was broken "
        "off, or one process's share of the whole.",
        "Save the adapter again, whole, from the main process. If only some blocks were meant to be "
        "trained, nothing.",
        Severity.WARNING,
        seen_in=("https://github.com/huggingface/accelerate/pull/4206",),
        example="transformer_blocks.0 to 20: attn1.to_q.lora_A, attn1.to_q.lora_B\n"
        "transformer_blocks.21 to 41: nothing",
    ),
    Rule(
        "GM808",
        "adapter lacks what its configuration names",
        "The configuration speaks of magnitudes, biases, layers or patterns that the file holds nothing for. What "
        "is missing is made anew by the loader, or passed over: the adapter acts as a part of what was trained.",
        "Save the adapter with `get_peft_model_state_dict` and everything that it gives, and check that patterns "
        "are spelled as the layers are.",
        Severity.WARNING,
        seen_in=(
            "https://github.com/huggingface/diffusers/issues/7366",
            "https://github.com/huggingface/peft/issues/3582",
            "https://github.com/huggingface/diffusers/issues/9810",
        ),
        example='"transformer.target_modules": ["to_q", "to_k", "to_v"]   # the header\n'
        "transformer_blocks.0.attn1: to_q, to_k                   # the file",
    ),
    Rule(
        "GM809",
        "adapter out of proportion",
        "What the adapter adds to its layers is larger than the weights that stand there, or too small for any "
        "number to hold. A trained LoRA adds a few hundredths of them. Or its alpha is more times the rank than any "
        "trainer writes, or below zero, and a loader applies it as it stands.",
        "Look at the largest value of each saved step: an average that is moved the wrong way grows at every one. "
        "Check alpha / rank.",
        Severity.WARNING,
        seen_in=(
            "https://github.com/ostris/ai-toolkit/issues/1034",
            "https://github.com/zai-org/CogVideo/issues/420",
        ),
        example="step 1500  max |weight| 1.1e4\n"
        "step 1750  max |weight| 1.3e5        # grows twelvefold, the loss looks well",
    ),
    Rule(
        "GM810",
        "adapter beside the model that it is merged into",
        "The denoiser is the reference's plus what the LoRA beside it adds. Whoever attaches the LoRA as well has it "
        "twice: colours burn out, motion breaks. Where it was merged several times already, no use is right.",
        "Ship the merged model or the LoRA, not both. Merge into the base, never into what a save has merged before.",
        Severity.WARNING,
        seen_in=(
            "https://github.com/unslothai/unsloth/issues/289",
            "https://github.com/huggingface/diffusers/pull/4473",
        ),
        example="pipe.load_lora_weights(path)\n"
        "pipe.fuse_lora()\n"
        "pipe.save_pretrained(out)                    # merged\n"
        "pipe.save_lora_weights(out, factors)         # and beside it",
    ),
    Rule(
        "GM811",
        "factors of one layer in several",
        "Several layers have the same trained up factors, bit for bit. Training gives no two layers the same: the "
        "saver wrote one layer under the names of others.",
        "Look at the loop that collects the factors: a name or a tensor that it keeps from its first turn.",
        example='>>> one = factors["blocks.0.attn1.to_q.lora_B.weight"]\n'
        '>>> (one == factors["blocks.1.attn1.to_q.lora_B.weight"]).all()\n'
        "tensor(True)",
    ),
    Rule(
        "GM820",
        "new adapter changes the model",
        "A LoRA starts with B = 0 and adds nothing. Here a new one moves the prediction: training starts from "
        "another model than the base, and validation at step 0 shows it.",
        "Initialise lora_B with zeros, do not cast the base while it is wrapped, and keep dropout out of inference.",
        seen_in=("https://github.com/hao-ai-lab/FastVideo/issues/789",),
        example="LoraConfig(r=64)                                 # lora_B is zero\n"
        "LoraConfig(r=64, init_lora_weights=False)        # lora_B is random",
    ),
    Rule(
        "GM821",
        "adapter acts when it is off",
        "Switched off, or at weight 0, the adapter still moves the prediction; or it does not come back as it was.",
        "Look for layers of your own that add the factors without looking at the switch.",
        example="def forward(self, hidden):\n"
        "    return self.base(hidden) + self.B(self.A(hidden))  # asks no switch",
    ),
    Rule(
        "GM822",
        "unloading does not restore the base",
        "After the adapter was unloaded tensors, module classes, hooks or PEFT's notes are others than before. "
        "What is sampled or saved next is no longer the base.",
        "Load the base again instead of unloading, and look at who else changes its layers.",
        seen_in=("https://github.com/huggingface/diffusers/issues/10202",),
        example="before = pipeline.transformer.x_embedder.weight.clone()\n"
        'pipeline.load_lora_weights("lora")\n'
        "pipeline.unload_lora_weights()\n"
        "(pipeline.transformer.x_embedder.weight == before).all()   # False",
    ),
    Rule(
        "GM823",
        "merged adapter acts otherwise",
        "The prediction with the adapter merged into the weights is another than with the adapter attached, by more "
        "than rounding: the merged model that is published is not the one that was validated.",
        "Merge W + alpha/rank x B @ A once, in float32, and cast once; unload the adapter afterwards.",
        seen_in=("https://github.com/hao-ai-lab/FastVideo/pull/870",),
        example="output = W @ x + alpha / r * (B @ (A @ x))       # attached\n"
        "W += B @ A                                       # merged: no alpha / r",
    ),
    Rule(
        "GM824",
        "unmerging does not restore the base",
        "After fuse and unfuse the weights are further from the base than rounding explains.",
        "Keep the base's weights, or load them again, instead of unmerging.",
        seen_in=("https://github.com/huggingface/diffusers/pull/4833",),
        example="pipeline.fuse_lora(lora_scale=0.7)\n"
        "pipeline.unfuse_lora()           # takes off the adapter at 1.0",
    ),
    Rule(
        "GM825",
        "saved adapter acts otherwise",
        "The adapter that was saved and loaded again moves the prediction otherwise than it did in memory.",
        "Give the save call the configuration (`*_lora_adapter_metadata`), and compare the names that it writes.",
        seen_in=("https://github.com/huggingface/diffusers/issues/6087",),
        example='pipeline.save_lora_weights("out", transformer_lora_layers=layers)\n'
        "# without transformer_lora_adapter_metadata: alpha is not in the file",
    ),
    Rule(
        "GM826",
        "adapter acts at another strength",
        "What is added to a layer is B @ A, at another scale than alpha/rank as the file says. At rate zero B is "
        "zero and every scale looks right; this adapter has random values in B.",
        "Read the cause: it says which scale it is. Check what your load path takes for alpha, and lora_scale.",
        seen_in=(
            "https://github.com/zai-org/CogVideo/issues/420",
            "https://github.com/huggingface/diffusers/pull/14409",
            "https://github.com/hao-ai-lab/FastVideo/pull/870",
        ),
        example='pipeline.load_lora_weights("lora")               # applies alpha / r\n'
        "pipeline.fuse_lora(lora_scale=1 / lora_rank)     # and once more",
    ),
    Rule(
        "GM827",
        "adapter is ignored in some layers",
        "Layers for which the file holds factors got nothing of them, and nothing was said.",
        "Compare the names in the file with those of the model's layers; a loader passes over what matches nothing.",
        example="# stored, then the model's layer\n"
        "transformer.blocks.0.attn.to_q.lora_A.weight\n"
        "transformer_blocks.0.attn1.to_q",
    ),
    Rule(
        "GM828",
        "another matrix was merged",
        "What is added to a layer is no multiple of B @ A: the transpose, another layer's factors, or half of them.",
        "Look at the order of the factors and at the mapping of names.",
        example="delta = A.T @ B.T                # the transpose of B @ A\nW += alpha / r * delta",
    ),
    Rule(
        "GM829",
        "attaching an adapter changes the base",
        "Weights of the base are others while the adapter is on. Switched off, or exchanged for another adapter, the "
        "model is not the base.",
        "Do not initialise with PiSSA, OLoRA or the like where the base must stay; load the base again afterwards.",
        seen_in=("https://github.com/huggingface/peft/issues/2184",),
        example='LoraConfig(r=64, init_lora_weights="pissa")\n'
        "# attaching takes B @ A out of the base's own weights",
    ),
    Rule(
        "GM830",
        "own inference shows another model",
        "For the control your inference shows what ours shows, and for the candidate something else. The candidate's "
        "files are what they are by our load; your load path reads them otherwise.",
        "Compare how your script loads the candidate with a plain from_pretrained or load_lora_weights.",
        example="base     own inference and ours: the same video\n"
        "run-17   own inference and ours: two videos",
    ),
    Rule(
        "GM831",
        "own inference does not use the candidate",
        "Your inference shows the same video with and without the candidate. What is judged by eye is the base.",
        "Print what your script loads: the path, the names that did not match, the adapters that are active.",
        seen_in=(
            "https://github.com/a-r-r-o-w/finetrainers/commit/fe24c94373ea6cabd89ab8e45e5930ae76f067ea",
        ),
        example='parser.add_argument("--model")                   # and never used\n'
        'pipe = CogVideoXImageToVideoPipeline.from_pretrained("base")',
    ),
    Rule(
        "GM832",
        "own inference differs from ours",
        "For a model that is trusted, your inference shows another video than a plain diffusers pipeline with the "
        "same inputs. What differs may be meant so; then only relations between models are judged.",
        "Read the cause where it is known. Name every placeholder, and write frames as .npy for a sharp comparison.",
        Severity.WARNING,
        example="# the script's own default, which the probe does not have\n"
        'pipe(image, prompt, negative_prompt="low quality, blurry")',
    ),
    Rule(
        "GM833",
        "own inference tells equal models apart",
        "Two models with the same weights, configuration and sample are shown as two videos by your inference: what "
        "was trained and saved is right, and your load path is not.",
        "Load with strict=True, read the missing keys, and look at which of several files your script takes.",
        seen_in=("https://github.com/zai-org/CogVideo/issues/374",),
        example="try:\n"
        "    model.load_state_dict(state)\n"
        "except RuntimeError:\n"
        "    model.load_state_dict(state, strict=False)   # the candidate's way",
    ),
    Rule(
        "GM834",
        "seed does not decide own inference",
        "Two runs of your inference with the same inputs and the same seed differ. Nothing can be learned from "
        "comparing its videos.",
        "Give the call generator=torch.Generator().manual_seed(seed), and load every weight: what is left out is "
        "random.",
        example='parser.add_argument("--seed", type=int)\n'
        "pipe(image, prompt)              # without generator=",
    ),
)
