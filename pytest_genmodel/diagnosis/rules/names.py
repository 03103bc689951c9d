"""Rules of names, shapes and dtypes: 2xx."""

from __future__ import annotations

from pytest_genmodel.diagnosis.rules.rule import Rule, Severity

RULES = (
    Rule(
        "GM201",
        "tensor that no file backs",
        "A tensor lives in the loaded model and no file holds it: it is freshly initialised, or has no "
        "memory at all (on torch's CPU build a matrix product with such a tensor gives whatever lay in "
        "memory).",
        "Save the complete state dict of the bare model, and load it with strict=True.",
        seen_in=(
            "https://github.com/Mikubill/naifu/issues/1",
            "https://github.com/huggingface/diffusers/issues/13833",
            "https://github.com/huggingface/transformers/issues/31034",
            "https://github.com/tdrussell/diffusion-pipe/commit/9478a0750d993053ebbc381762f142d032d4d9c0",
            "https://github.com/huggingface/diffusers/pull/12114",
        ),
        example="model.load_state_dict(load_file(path), strict=False)\n"
        "# missing, and not looked at: transformer_blocks.0.attn1.to_q.weight",
    ),
    Rule(
        "GM202",
        "stored tensor that the model does not take",
        "The file holds a tensor that the model has no place for; it is passed over in silence.",
        "Check that the file belongs to this model, and rename or drop the tensor.",
        seen_in=("https://github.com/zai-org/CogVideo/issues/323",),
        example="# transformer/config.json\n"
        '"use_learned_positional_embeddings": false\n'
        "# the file holds patch_embed.pos_embedding, and no model reads it",
    ),
    Rule(
        "GM203",
        "adapter-wrapped checkpoint in a bare model",
        "The weights were saved while a LoRA was attached: PEFT had renamed `to_q.weight` to "
        "`to_q.base_layer.weight`. The bare model finds no `to_q.weight` and keeps its initial values there "
        "(the likeliest cause of zai-org/CogVideo issue 374).",
        "Save the bare model: `model.merge_and_unload().save_pretrained(...)` to keep the LoRA's effect, or "
        "`pipeline.save_lora_weights(...)` for the LoRA alone.",
        seen_in=(
            "https://github.com/zai-org/CogVideo/issues/374",
            "https://github.com/zai-org/CogVideo/issues/113",
        ),
        example='transformer.add_adapter(LoraConfig(r=64, target_modules=["to_q"]))\n'
        "train(transformer)\n"
        'transformer.save_pretrained("transformer")\n'
        "# stored: transformer_blocks.0.attn1.to_q.base_layer.weight\n"
        "#         transformer_blocks.0.attn1.to_q.lora_A.default.weight",
    ),
    Rule(
        "GM204",
        "shape differs from the file",
        "The configuration makes a tensor of another shape than the file holds.",
        "Restore the configuration that the weights were trained with.",
        example="# transformer/config.json, of the text-to-video model\n"
        '"in_channels": 16\n'
        "# stored, of the image-to-video model:\n"
        "patch_embed.proj.weight  [3072, 32, 2, 2]",
    ),
    Rule(
        "GM205",
        "training wrapper left in the names",
        "The weights were saved through a wrapper (DistributedDataParallel, torch.compile, FSDP, PEFT) that "
        "put a prefix into every name, so that no name matches.",
        "Unwrap before saving: `accelerator.unwrap_model(model)`, `model.module` or `model._orig_mod`.",
        seen_in=(
            "https://github.com/kohya-ss/musubi-tuner/commit/e1157b3c167d6d2c1fdaa4b6468d216ddcd9f8ac",
            "https://github.com/pytorch/torchtitan/issues/2622",
        ),
        example="model = torch.compile(model)\n"
        "train(model)\n"
        'save_file(model.state_dict(), "diffusion_pytorch_model.safetensors")\n'
        "# stored: _orig_mod.transformer_blocks.0.attn1.to_q.weight",
    ),
    Rule(
        "GM206",
        "component differs in kind",
        "Candidate and reference do not have the same components, or not the same classes.",
        "Compare the two model_index.json files; judge the candidate against the model it was trained from.",
        seen_in=("https://github.com/aigc-apps/VideoX-Fun/pull/297",),
        example="# model_index.json of the candidate, then of the reference\n"
        '"vae": ["diffusers", "AutoencoderKLWan"]\n'
        '"vae": ["diffusers", "AutoencoderKLCogVideoX"]',
    ),
    Rule(
        "GM207",
        "tensor in one of the two only",
        "Candidate and reference do not store the same tensors.",
        "Save the complete component, with the class that the reference names.",
        example="tensors = dict(model.named_parameters())       # parameters, no buffers\n"
        'save_file(tensors, "diffusion_pytorch_model.safetensors")\n'
        "# patch_embed.pos_embedding, a buffer, is in the reference only",
    ),
    Rule(
        "GM208",
        "stored name that means nothing",
        "The names in the file were translated from the trainer's to the model's, and for this one there is "
        "no translation. Whatever it holds reaches no model.",
        "Check that the file is of the model you think it is. If the trainer added a part of its own, say "
        "which class holds it.",
        example="# stored by the trainer\n"
        "model.diffusion_model.mixins.logo_head.weight\n"
        "# no name of the diffusers model stands for it",
    ),
    Rule(
        "GM209",
        "tied weights stored twice, and different",
        "Two names belong to one tensor of the model, and the file gives them different values. Which of "
        "the two is used depends on the library's version.",
        "Save the model again with the library that trained it; a tied tensor is stored once, or twice "
        "alike.",
        seen_in=(
            "https://github.com/huggingface/transformers/pull/43880",
            "https://github.com/huggingface/transformers/issues/48154",
        ),
        example="shared.weight                [32128, 4096]   the embedding\n"
        "encoder.embed_tokens.weight  [32128, 4096]   all zero",
    ),
    Rule(
        "GM210",
        "empty placeholder instead of a tensor",
        "The tensor has shape [0]: under ZeRO stage 3 (and FSDP) each process holds a piece of every "
        "parameter, and a save that does not gather the pieces first writes empty placeholders.",
        "Gather before saving: `accelerator.get_state_dict(model)`, or "
        "`stage3_gather_16bit_weights_on_model_save` in DeepSpeed's configuration.",
        seen_in=("https://github.com/deepspeedai/DeepSpeed/issues/7900",),
        example="# DeepSpeed, ZeRO stage 3: each process holds a piece\n"
        'model.save_pretrained("transformer")\n'
        "# stored: transformer_blocks.0.attn1.to_q.weight  [0]",
    ),
    Rule(
        "GM211",
        "another component inside the file",
        "The file of one component also holds tensors of another: a trainer saved its whole engine "
        "(denoiser, text encoder and VAE together) where one of them was asked for.",
        "Save the component alone, or split the file at its prefixes.",
        seen_in=(
            "https://github.com/zai-org/CogVideo/issues/633",
            "https://github.com/zai-org/CogVideo/issues/276",
        ),
        example="model.diffusion_model.transformer.layers.0.mlp.dense_h_to_4h.weight\n"
        "first_stage_model.encoder.conv_in.conv.weight     # the VAE\n"
        "conditioner.embedders.0.transformer.shared.weight # the text encoder",
    ),
    Rule(
        "GM212",
        "8-bit values stored with scales",
        "The weights were divided by scales to fit into 8 bits, and the scales lie in tensors of their own. "
        "Names and shapes are right; a loader that does not know of the scales takes every value at a wrong "
        "size.",
        "Train and judge from the 16-bit weights; scaled 8-bit files are for programs that apply the scales.",
        seen_in=("https://github.com/tdrussell/diffusion-pipe/issues/350",),
        example="blocks.0.self_attn.q.weight         float8_e4m3fn  [5120, 5120]\n"
        "blocks.0.self_attn.q.scale_weight   float32        [1]",
    ),
    Rule(
        "GM213",
        "stored in another dtype",
        "The tensors are the reference's, kept in another dtype that holds every value exactly.",
        "Nothing to do; the file is larger or smaller than the reference's for it.",
        Severity.NOTE,
        example="# the reference, then the candidate: the same values\n"
        "proj_out.weight  BF16\n"
        "proj_out.weight  F32",
    ),
)
