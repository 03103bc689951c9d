"""GM326 to GM333: what is mixed, torn or of another make than the reference's."""

from __future__ import annotations

from pytest_genmodel.diagnosis.rules.rule import Rule, Severity

RULES = (
    Rule(
        "GM326",
        "rows of one matrix in another",
        "Queries, keys and values (or what else is one fused matrix in another repository) hold rows of each other: "
        "the fused matrix runs head by head, or process by process, and was split as if it did not, or the reverse. "
        "Shapes and statistics are right, and attention mixes what it must not.",
        "Split the fused matrix as its own code does: view it as (heads, 3, width) where it runs head by head.",
        seen_in=(
            "https://github.com/sgl-project/sglang/issues/40127",
            "https://github.com/sgl-project/sglang/issues/24321",
        ),
        example="q, k, v = fused.chunk(3)                     # it runs q0 k0 v0 q1 k1 v1 ...\n"
        "# and not: fused.view(heads, 3, width, -1).unbind(1)",
    ),
    Rule(
        "GM327",
        "bits read as another dtype",
        "The bytes are the reference's in one dtype, and the header (or the reader) says another of the same width: "
        "bfloat16 as float16, one float8 format as the other. Size and signs are right, magnitudes are nonsense.",
        "Write the header's dtype from the tensor that is stored; cast with .to(), and never with .view().",
        seen_in=("https://github.com/JustVugg/colibri/pull/778",),
        example='header["to_q.weight"]["dtype"] = "F16"        # the bytes are bfloat16\n'
        "weight = raw.view(torch.float16)",
    ),
    Rule(
        "GM328",
        "not trained from the reference",
        "Most of a component's matrices have nothing in common with the reference's, which no fine-tune comes near: "
        "another model was saved or named, the weights were made anew, or the file holds the difference from the "
        "base alone.",
        "Check which model the training started from, and which one is named as the reference. Add a difference to "
        "its base before it is used.",
        seen_in=("https://github.com/allenai/open-instruct/issues/51",),
        example="delta = {name: tuned[name] - base[name] for name in base}\n"
        "save_file(delta, path)                       # and loaded as the model",
    ),
    Rule(
        "GM329",
        "part of the rows was not trained",
        "In most changed matrices the same share of the rows, in one piece, is still the reference's bit for bit. "
        "Training moves all rows of a matrix or none: one process's share was saved, and the rest was filled up from "
        "the base.",
        "Gather the full parameters before saving (FULL_STATE_DICT, full_tensor()), on every process.",
        seen_in=(
            "https://github.com/huggingface/accelerate/pull/4206",
            "https://github.com/sgl-project/sglang/pull/36438",
        ),
        example="for name, shard in local.items():            # rank 0 of 2\n"
        "    full[name][: len(shard)] = shard         # the rest: still the base",
    ),
    Rule(
        "GM330",
        "matrices full of holes",
        "Most matrices have exact zeros in a quarter of their places or more. Training leaves next to none: values "
        "were pruned, dropped at random by a merge that did not scale up what it kept, or too small for the dtype.",
        "Merge again with rescaling, or from the weights in full precision. Nothing to do where the model is meant "
        "to be sparse.",
        Severity.WARNING,
        seen_in=("https://github.com/predibase/lorax/issues/685",),
        example="keep = torch.rand_like(weight) > 0.5\nweight *= keep                               # and not: / 0.5",
    ),
    Rule(
        "GM331",
        "shards of two saves",
        "One file of a sharded component is the reference's, tensor for tensor, and everything in the others has "
        "changed; the border runs through a block. The model is half trained, and loads without a word.",
        "Save again into an empty folder, and let every process finish before the files are copied.",
        example="diffusion_pytorch_model-00001-of-00002.safetensors    # the base's\n"
        "diffusion_pytorch_model-00002-of-00002.safetensors    # step 4000",
    ),
    Rule(
        "GM332",
        "one stretch of a file is another's",
        "All that differs from the reference lies in one stretch of bytes, which begins or ends within a tensor. "
        "The file has its size and its header, and a part of it was lost or written over on the way.",
        "Copy or download the file again, and compare its SHA-256 with the source's.",
        seen_in=("https://github.com/deepbeepmeep/Wan2GP/issues/2367",),
        example="$ cmp vae/diffusion_pytorch_model.safetensors source.safetensors\n"
        "vae/... source... differ: byte 727041\n"
        "# the next 65536 bytes differ, and no other",
    ),
    Rule(
        "GM333",
        "latent statistics of a new autoencoder",
        "The mean and the spread by which latents are brought to about unit size are 0 and 1 throughout, as in an "
        "autoencoder that was just made. The denoiser was trained for latents that real statistics scale: colours "
        "and contrast are off, or the video is noise.",
        "Take latents_mean and latents_std from the original repository (`per_channel_statistics` in LTX).",
        Severity.WARNING,
        seen_in=("https://github.com/madebyollin/taehv/issues/22",),
        example='>>> weights["latents_mean"].abs().max(), weights["latents_std"].unique()\n'
        "(tensor(0.), tensor([1.]))",
    ),
)
