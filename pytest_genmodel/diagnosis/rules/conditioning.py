"""Rules of one denoiser call, reference and candidate: GM901 to GM909."""

from __future__ import annotations

from pytest_genmodel.diagnosis.rules.rule import Rule

RULES = (
    Rule(
        "GM901",
        "denoiser is given another condition",
        "For one probe the candidate's denoiser is given another text, image or other condition in its first step "
        "than the reference's.",
        "Look at the component that is named: its weights, its configuration, and what it is given.",
        example="# encoder_hidden_states in the first step: candidate, reference\n"
        "mean 0.000  deviation 0.11\n"
        "mean 0.001  deviation 0.23",
    ),
    Rule(
        "GM902",
        "denoiser is given other arguments",
        "An argument is given to one denoiser and not to the other, or has another shape or dtype.",
        "Compare the configurations of denoiser and VAE, and the components that the pipelines have.",
        example="# candidate, reference\nimage_rotary_emb  None\nimage_rotary_emb  two tensors [17550, 64]",
    ),
    Rule(
        "GM903",
        "denoiser is given other timesteps",
        "The candidate's schedule gives the denoiser other timesteps for the same number of steps.",
        "Compare the scheduler's configuration: spacing, shift, number of training steps, prediction type.",
        example="# candidate, reference\ntimestep  999, 666, 333, 0\ntimestep  999, 749, 499, 249",
    ),
    Rule(
        "GM904",
        "component answers otherwise to the same input",
        "Given what the reference's component was given, the candidate's gives something else.",
        "Compare the component's weights and configuration (same_weights, same_config).",
        example='reference.component("text_encoder")(ids)         # as recorded\n'
        'candidate.component("text_encoder")(ids)         # 30 % away',
    ),
    Rule(
        "GM905",
        "VAE encodes otherwise",
        "Given the same pixels the candidate's VAE gives other latents: the image condition is another.",
        "Compare the VAE's weights and configuration with the reference's.",
        example='reference.component("vae").encode(pixels)\n'
        'candidate.component("vae").encode(pixels)        # 12 % away',
    ),
    Rule(
        "GM906",
        "VAE decodes otherwise",
        "Given the same latents the candidate's VAE gives other frames: the video is another, although every latent "
        "may be right.",
        "Compare the VAE's decoder and its configuration with the reference's.",
        example='reference.component("vae").decode(latents)\n'
        'candidate.component("vae").decode(latents)       # 12 % away',
    ),
    Rule(
        "GM907",
        "denoiser predicts otherwise",
        "Given the same arguments the candidate's denoiser predicts something else, and it must not differ.",
        "Compare the denoiser's weights and configuration with the reference's.",
        example="$ pytest --genmodel-ref=base --genmodel-ckpt=converted \\\n"
        "    --genmodel-expect=identical\n"
        "# the denoiser answers 2 % away from the reference's",
    ),
    Rule(
        "GM908",
        "positions are others",
        "The rotary tables (or other positions) that the candidate's pipeline makes for one size differ from the "
        "reference's.",
        "Compare the denoiser's size, patch and position settings, and the VAE's compression.",
        example="# transformer/config.json of the candidate, then of the reference\n"
        '"sample_width": 170              # the rotary tables follow from it\n'
        '"sample_width": 90',
    ),
    Rule(
        "GM909",
        "denoiser's inputs part on the way",
        "Both denoisers are given the same in the first step, answer alike, and are given something else in the "
        "last: what the scheduler or the guidance makes of the prediction differs.",
        "Compare the scheduler's class and configuration, and how guidance is applied.",
        example="step 1  same hidden_states, same answer\n"
        "step 4  hidden_states 40 % apart # the scheduler made something else of it",
    ),
)
