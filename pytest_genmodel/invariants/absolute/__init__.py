"""absolute_checks: what is right or wrong without a reference, and so is seen where both sides are wrong alike."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_genmodel.diagnosis.finding import Finding
from pytest_genmodel.invariants.absolute.again import ask_again
from pytest_genmodel.invariants.absolute.arithmetic import kernel_findings
from pytest_genmodel.invariants.absolute.decoder import decoder_findings
from pytest_genmodel.invariants.absolute.frames import frame_findings
from pytest_genmodel.invariants.absolute.image_latents import image_latent_findings
from pytest_genmodel.invariants.absolute.initial_noise import initial_noise_findings
from pytest_genmodel.invariants.absolute.noise import noise_findings
from pytest_genmodel.invariants.absolute.positions import position_findings
from pytest_genmodel.invariants.absolute.prompt_end import prompt_findings
from pytest_genmodel.invariants.absolute.told import told_findings
from pytest_genmodel.invariants.absolute.turning import turning_findings
from pytest_genmodel.invariants.context import Context
from pytest_genmodel.invariants.registry import invariant
from pytest_genmodel.pipelines.observed_run import observe_run


@invariant
def absolute_checks(context: Context) -> Iterator[Finding]:
    """Kernels compute what they are defined to, positions and noise follow their formulas, and what image, timestep,
    guidance and latents become on their way through the pipeline is what the model was made for; initial noise, the
    end of a long prompt and the decoded frames arrive as they are.

    Needs no reference: a library version that is wrong for reference and candidate alike cannot hide. Costs one short
    sample, two that are broken off at the denoiser, and a few calls of the decoder on a clip of a few latents. Random
    weights do as well as trained ones.
    """
    pipeline = context.candidate
    run = observe_run(pipeline, context.probe)
    context.measure(
        kernel_calls=run.kernels.seen,
        kernel_calls_judged=len(run.kernels.judged),
        kernels=run.kernels.functions,
    )
    if not run.kernels.judged:
        context.cannot_judge(
            "no call of a kernel was seen: the models compute in ways that are not known here"
        )
    yield from kernel_findings(run.kernels)
    yield from position_findings(context, run)
    again = ask_again(context, run)
    yield from turning_findings(context, again.call)
    yield from prompt_findings(context, again)
    yield from image_latent_findings(context, run)
    yield from initial_noise_findings(context, run, again)
    yield from told_findings(context, run, again)
    yield from noise_findings(context)
    yield from decoder_findings(context, run)
    yield from frame_findings(context, run)
