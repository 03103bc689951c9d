"""The part of coverage that looks at files and folders: what is missing, passed over, or read by nobody."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_genmodel.checkpoints.checkpoint import Checkpoint
from pytest_genmodel.checkpoints.component import Component
from pytest_genmodel.checkpoints.formats.lora_adapter import DIFFUSERS_NAME, PEFT_NAME, PEFT_PICKLE
from pytest_genmodel.diagnosis.finding import Finding
from pytest_genmodel.pipelines.library import class_named, quiet
from pytest_genmodel.pipelines.pipeline import Pipeline


def missing_findings(pipeline: Pipeline) -> Iterator[Finding]:
    """Components that the pipeline cannot do without, and that the model index does not give."""
    for name in pipeline.missing:
        if name not in pipeline.checkpoint.foreign:
            yield Finding(
                "GM103",
                f"the checkpoint has no {name}, which {pipeline.checkpoint.pipeline_class} needs",
                component=name,
                location=f"model_index.json:{name}",
                cause="the model index does not name it, or says null",
                action="Save the whole pipeline again, or copy the folder and its entry in model_index.json from the "
                "model it started from.",
            )


def layout_findings(component: Component) -> Iterator[Finding]:
    """A second weight set, and weights files that belong to no set, in one component's folder."""
    for stale in component.second_sets:
        read = component.file_sets[0]
        newer = max(p.stat().st_mtime for p in stale.files) > max(p.stat().st_mtime for p in read.files)
        yield Finding(
            "GM105",
            f"{component.library} reads {read.name} and passes over {stale.name}"
            + (", which is newer" if newer else ""),
            component=component.name,
            location=stale.name,
            evidence={"read": read.name, "passed_over": stale.name, "passed_over_is_newer": newer},
        )
    for path in component.unread_files:
        yield Finding(
            "GM106",
            f"{path.name} lies beside the weights and nobody reads it",
            component=component.name,
            location=path.name,
        )


def unread_findings(checkpoint: Checkpoint) -> Iterator[Finding]:
    """Weights files and components' folders that lie beside the components, and that nothing names."""
    for path in checkpoint.unread:
        action: str | None = None
        if path.is_dir():
            what = f"{path.name}/ holds a model, and it is none of the components that are read"
            action = "Give the folder by itself as --genmodel-ckpt if it is the result; else move it away."
        elif path.name in (DIFFUSERS_NAME, PEFT_NAME, PEFT_PICKLE):
            what = f"{path.name} lies beside the components, and loading the pipeline does not attach it"
            action = "Give the file itself as --genmodel-ckpt if the LoRA is the result; else move it away."
        else:
            what = f"{path.name} lies beside the components and nobody reads it"
        yield Finding("GM106", what, location=path.name, action=action)


def needs_weights(component: Component) -> bool:
    """Whether the component's class is a model, whatever lies in its folder.

    Raises:
        BadInputError: the installed library has no such class.
    """
    import torch

    with quiet():
        cls = class_named(component.library, component.class_name)
    return isinstance(cls, type) and (
        issubclass(cls, torch.nn.Module) or component.class_name.startswith("AutoModel")
    )
