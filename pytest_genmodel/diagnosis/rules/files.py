"""Rules of files and safety: 1xx."""

from __future__ import annotations

from pytest_genmodel.diagnosis.rules.rule import Rule, Severity

RULES = (
    Rule(
        "GM101",
        "damaged file",
        "A file of the checkpoint is empty, cut short, or breaks its format. Whatever a loader makes of it "
        "is not what was saved.",
        "Copy or download the file again, and compare its size and checksum with the source.",
        seen_in=("https://github.com/huggingface/diffusers/issues/11989",),
        example="$ ls -l transformer/\n"
        "-rw-r--r-- 1 me me 4831838208 diffusion_pytorch_model.safetensors\n"
        "# its header speaks of 11140567168 bytes: the copy was cut short",
    ),
    Rule(
        "GM102",
        "not weights",
        "A file has the name of a weights file and is something else: a git-LFS pointer, a web page, a "
        "pickle.",
        "Fetch the real file: `git lfs pull`, or download it again.",
        example="$ head -c 130 vae/diffusion_pytorch_model.safetensors\n"
        "version https://git-lfs.github.com/spec/v1\n"
        "oid sha256:a410e48d988c8224...\n"
        "size 431221142",
    ),
    Rule(
        "GM103",
        "missing file",
        "A file or component that the pipeline's class, the model index or the shard index needs is not "
        "there.",
        "Copy the missing file, or save the checkpoint again into an empty folder.",
        seen_in=("https://github.com/huggingface/diffusers/issues/14719",),
        example="$ ls outputs/run-17\n"
        "model_index.json  scheduler/  text_encoder/  tokenizer/  transformer/\n"
        "# model_index.json names a vae as well",
    ),
    Rule(
        "GM104",
        "unsafe file",
        "Reading the file would need an unrestricted unpickler, or code that comes with the checkpoint.",
        "Convert the weights to safetensors where they were trained.",
        seen_in=(
            "https://github.com/huggingface/diffusers/issues/13446",
            "https://github.com/mayuelala/FollowYourCanvas/pull/14",
        ),
        example='torch.save(trainer, "transformer/diffusion_pytorch_model.bin")\n'
        "# a pickle of the trainer's own classes; tensors alone are safe:\n"
        'save_file(model.state_dict(), "diffusion_pytorch_model.safetensors")',
    ),
    Rule(
        "GM105",
        "second weight set in one folder",
        "Two complete weight sets lie in one component's folder. The library reads one and passes over the "
        "other, whichever is newer (diffusers issue 14769).",
        "Delete the stale set, or save into an empty folder.",
        seen_in=("https://github.com/huggingface/diffusers/issues/14769",),
        example="$ ls transformer/\n"
        "config.json\n"
        "diffusion_pytorch_model.bin            # what the run has written\n"
        "diffusion_pytorch_model.safetensors    # the base's: this one is read",
    ),
    Rule(
        "GM106",
        "file that nobody reads",
        "A weights file or a model's folder lies in the checkpoint and no loader reads it. If it holds the "
        "training result, the result is not loaded.",
        "Move it away, or give it the name that the library looks for.",
        Severity.WARNING,
        example="$ ls outputs/run-17\n"
        "model_index.json  scheduler/  transformer/  vae/\n"
        "transformer_final.safetensors          # nobody looks for this name",
    ),
    Rule(
        "GM107",
        "tokenizer without vocabulary",
        "The tokenizer's files are gone or are not those of the text encoder. transformers builds a stub "
        "without a message, every word becomes <unk>, and any two prompts of equal length mean the same.",
        "Copy the tokenizer's folder from the model the training started from.",
        example="$ ls tokenizer/\n"
        "tokenizer_config.json\n"
        '# spiece.model is gone: "a cat" and "a dog" become the same tokens',
    ),
    Rule(
        "GM108",
        "component does not load",
        "The library refuses the component.",
        "Read what the library said; the other findings of this component usually name the cause.",
        example="# vae/config.json, after an edit by hand\n"
        '"block_out_channels": "128, 256, 256, 512",\n'
        "# a text where the class takes a list of numbers",
    ),
    Rule(
        "GM109",
        "one shard of several",
        "The file is one piece of a sharded checkpoint, taken by itself. It holds a part of the tensors; a "
        "loader that is not strict fills the others with random values.",
        "Give the folder that holds every shard and the index (`*.index.json`).",
        example="pytest --genmodel-ref=base \\\n"
        "    --genmodel-ckpt=diffusion_pytorch_model-00001-of-00002.safetensors",
    ),
    Rule(
        "GM110",
        "program code in the checkpoint",
        "Programs or pickles lie among the weights, or a configuration asks for code. Nothing of it is ever "
        "run here; some loaders run it, without a question where trust_remote_code was passed.",
        "Delete the code, unless you know who wrote it; weights need none.",
        Severity.WARNING,
        seen_in=("https://github.com/huggingface/diffusers/issues/13446",),
        example="$ ls transformer/\nconfig.json  diffusion_pytorch_model.safetensors  modeling_custom.py",
    ),
    Rule(
        "GM111",
        "shard index and shards disagree",
        "The index of a sharded checkpoint and the files that it names come from two different saves. What "
        "is loaded depends on whether a program believes the index or the files.",
        "Save the checkpoint again into an empty folder.",
        Severity.WARNING,
        seen_in=("https://github.com/huggingface/diffusers/issues/14719",),
        example="$ grep -c proj_out.bias transformer/*.index.json\n"
        "0\n"
        "# and a shard beside it holds proj_out.bias",
    ),
)
