"""Rules of what must have an effect, and of what must have none: GM910 to GM916."""

from __future__ import annotations

from pytest_genmodel.diagnosis.rules.rule import Rule

RULES = (
    Rule(
        "GM910",
        "condition is ignored",
        "Another input gives the same result, bit for bit: it is read, and never used. The video looks plausible, "
        "and does not follow its image or its prompt.",
        "Follow the input from the call to the denoiser: a branch that is off, an encoder whose output is dropped, a "
        "tokenizer that turns every word into the unknown token, weights that are zero.",
        seen_in=(
            "https://github.com/zai-org/CogVideo/issues/323",
            "https://github.com/zai-org/CogVideo/issues/558",
            "https://github.com/zai-org/CogVideo/issues/404",
        ),
        example="embeddings = encode_prompt(prompt)\n"
        "transformer(hidden, torch.zeros_like(embeddings), timestep)",
    ),
    Rule(
        "GM911",
        "condition has lost its strength",
        "The input still has an effect, a small part of the reference's.",
        "Compare the scale of its embedding, its projection's weights, and what the encoder puts out.",
        example="# how much another image changes the sample: candidate, reference\n0.02\n0.41",
    ),
    Rule(
        "GM912",
        "tensors that nothing reads",
        "The file holds these tensors, the model keeps them in memory, and no output depends on them: what was "
        "trained into them is lost.",
        "Look at the component's configuration, and at zeros that stand behind them.",
        seen_in=("https://github.com/zai-org/CogVideo/issues/323",),
        example="def position_embedding_forward(self, position_ids):\n"
        "    return None                  # self.pos_embedding is loaded in vain",
    ),
    Rule(
        "GM913",
        "denoiser reads what lies behind the text's mask",
        "Prompts are filled up to one length, and a mask says which states are words. Other states behind it change "
        "the prediction: the padding has a say in the video, and its share grows as prompts get shorter.",
        "Look at the attention backend, at the mask's dtype and shape, and at whether it is handed on to every "
        "block.",
        seen_in=("https://github.com/Tencent-Hunyuan/HunyuanVideo/issues/31",),
        example="def forward(self, hidden, text, encoder_attention_mask):\n"
        "    return attention(q, k, v, attn_mask=None)",
    ),
    Rule(
        "GM914",
        "text encoder reads padding as words",
        "Other tokens behind the prompt's mask change the states of the prompt's own tokens: the encoder attends to "
        "what only fills the prompt up.",
        "Hand the tokenizer's attention_mask to the text encoder, and look at whether its attention uses it.",
        seen_in=("https://github.com/huggingface/diffusers/pull/12508",),
        example="mask = tokenizer(prompt, padding='max_length').attention_mask\n"
        "states = text_encoder(ids, attention_mask=torch.ones_like(mask))",
    ),
    Rule(
        "GM915",
        "padding is not masked",
        "The family masks what fills a prompt up; here the component is given no mask, or one that covers "
        "everything.",
        "Hand on the tokenizer's attention_mask; ask the tokenizer for it where it gives none.",
        example="ids = tokenizer(prompt, padding='max_length').input_ids\n"
        "states = text_encoder(ids)                # and attention_mask?",
    ),
    Rule(
        "GM916",
        "padding is not zero",
        "This family's denoiser has no mask: it was trained with zeros behind the prompt's states. It is given "
        "something else there, and reads it.",
        "Cut the states to the prompt's length by the mask, then fill up with zeros, in this order.",
        seen_in=("https://github.com/huggingface/diffusers/pull/12508",),
        example="states = [u[:n] for u, n in zip(states, mask.sum(1))]\n"
        "states = [torch.cat([u, u.new_zeros(512 - len(u), width)]) for u in states]",
    ),
)
