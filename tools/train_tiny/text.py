"""The text side: a tokenizer by rule and a T5 encoder that has learned to tell the captions apart."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import T5Config, T5EncoderModel

from pytest_genmodel.pipelines.tiny import scene
from pytest_genmodel.pipelines.tiny.tokenizers import t5_tokenizer

from . import data
from .clock import Clock, cosine

LENGTH = 8
WIDTH = 32
STEPS = 250


def tokenizer() -> Any:
    return t5_tokenizer(data.WORDS, max_length=LENGTH)


def token_ids(tokens: Any, prompts: list[str]) -> torch.Tensor:
    """Return the ids as the pipeline makes them: padded to LENGTH, int64 (prompts, LENGTH)."""
    encoded = tokens(prompts, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt")
    return encoded.input_ids


def train(tokens: Any, seed: int) -> T5EncoderModel:
    """Return an encoder whose every caption says colour, shape and direction to a linear reader; frozen."""
    clock = Clock("text")
    torch.manual_seed(seed)
    encoder = T5EncoderModel(
        T5Config(
            vocab_size=len(tokens),
            d_model=WIDTH,
            d_kv=8,
            d_ff=64,
            num_layers=2,
            num_heads=4,
            relative_attention_num_buckets=8,
            relative_attention_max_distance=16,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
            tie_word_embeddings=False,
        )
    )
    answers = [
        (c, s, d)
        for c in range(len(scene.COLORS))
        for s in range(len(scene.SHAPES))
        for d in range(len(data.DIRECTIONS))
    ]
    targets = torch.tensor(answers).T
    readers = nn.ModuleList(nn.Linear(WIDTH, n) for n in (len(scene.COLORS), len(scene.SHAPES), 4))
    ids = token_ids(tokens, data.captions())
    parameters = [*encoder.parameters(), *readers.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: cosine(step, STEPS, 20))
    for step in range(STEPS):
        states = encoder(ids).last_hidden_state
        # Every position must answer, padding too: the denoiser then finds the caption wherever it looks.
        logits = [reader(states.mean(1) + states[:, step % LENGTH]) for reader in readers]
        loss = sum(
            nn.functional.cross_entropy(out, target) for out, target in zip(logits, targets, strict=True)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    right = torch.stack([(out.argmax(-1) == t) for out, t in zip(logits, targets, strict=True)]).all(0)
    clock.say(f"loss {loss.item():.4f}, captions read right {int(right.sum())}/{len(right)}")
    # What T5 ships with: without dropout, a pipeline left in train mode would go unseen.
    encoder.config.dropout_rate = 0.1
    return encoder.eval().requires_grad_(False)


@torch.no_grad()
def embed(encoder: T5EncoderModel, tokens: Any, prompts: list[str]) -> torch.Tensor:
    """Return the text states, float32 (prompts, LENGTH, WIDTH)."""
    return encoder(token_ids(tokens, prompts)).last_hidden_state
