"""Rules of what a family of pipelines holds together: 43x."""

from __future__ import annotations

from pytest_genmodel.diagnosis.rules.rule import Rule

RULES = (
    Rule(
        "GM430",
        "configuration contradicts itself",
        "Two facts of the checkpoint exclude each other in every healthy model of its family: an expert that no step "
        "is left for, channels that do not add up, a switch that belongs to another model than the weights. The "
        "pipeline may load and sample in spite of it.",
        "Copy model_index.json and the component's config.json from the model that the checkpoint started from.",
        seen_in=(
            "https://github.com/huggingface/diffusers/pull/12074",
            "https://github.com/aigc-apps/VideoX-Fun/pull/297",
            "https://github.com/zai-org/CogVideo/issues/355",
        ),
        example="# model_index.json of a Wan 2.2\n"
        '"transformer_2": ["diffusers", "WanTransformer3DModel"],\n'
        '"boundary_ratio": null           # no step is left for transformer_2',
    ),
    Rule(
        "GM431",
        "denoisers are exchanged",
        "A pipeline with two experts has one for much noise and one for little. Their shapes are equal, so that "
        "either loads in the other's place and the video is wrong.",
        "Give each folder the name that the reference has for its content.",
        example="$ mv transformer_2 low\n$ mv transformer transformer_2\n$ mv low transformer",
    ),
    Rule(
        "GM435",
        "another pipeline class",
        "The model index names another pipeline class than the reference's. The parts load into it, and it calls "
        "them in its own way: a text-to-video class never looks at the image.",
        "Write the class that the model was made for into model_index.json (`_class_name`), or save with it.",
        seen_in=("https://github.com/hao-ai-lab/FastVideo/issues/785",),
        example="# model_index.json of an image-to-video model\n"
        '"_class_name": "CogVideoXPipeline",          # takes no image',
    ),
    Rule(
        "GM436",
        "one denoiser under two names",
        "A pipeline with two experts holds the same weights in both folders. One was saved in the place of the "
        "other: either the steps of much noise or those of little run with the wrong expert.",
        "Copy the other expert from the model that training started from, or save it again.",
        seen_in=("https://github.com/kohya-ss/musubi-tuner/issues/552",),
        example="$ sha256sum transformer/*.safetensors transformer_2/*.safetensors\n"
        "8d2c41f0...  transformer/diffusion_pytorch_model.safetensors\n"
        "8d2c41f0...  transformer_2/diffusion_pytorch_model.safetensors",
    ),
)
