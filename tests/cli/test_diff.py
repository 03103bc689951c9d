"""`genmodel diff`: per component and tensor, sorted by what matters, honest about what was not compared."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.checkpoints.test_inventory import write_lora
from tests.cli.conftest import check_findings
from tests.editing import TO_Q, TRANSFORMER, VAE, drop_tensors, edit_json, edit_tensors

BIAS = "proj_out.bias"


def scaled(factor: float, *names: str):
    return lambda tensors: {n: t * factor if n in names else t for n, t in tensors.items()}


def test_the_same_is_exit_0_and_says_so(genmodel, healthy, copy):
    done = genmodel("diff", healthy, copy)

    assert (done.status, done.err) == (0, "")
    assert "no difference" in done.out.splitlines()
    value = genmodel("diff", "--json", healthy, copy).json
    assert (value["schema"], value["command"], value["exit_status"], value["findings"]) == (1, "diff", 0, [])
    counts = {part["name"]: part["counts"] for part in value["components"]}
    assert counts["transformer"] == {
        "compared": 65,
        "identical": 65,
        "rounded": 0,
        "changed": 0,
        "missing": 0,
        "extra": 0,
    }
    assert counts["scheduler"] is None


def test_changed_tensors_are_listed_the_one_that_moved_most_first(genmodel, healthy, copy):
    edit_tensors(copy / TRANSFORMER, scaled(1.5, TO_Q))
    edit_tensors(copy / TRANSFORMER, scaled(1.01, "proj_out.weight"))

    done = genmodel("diff", healthy, copy)

    assert done.status == 1
    lines = done.out.splitlines()
    assert ["transformer", "65", "63", "0", "2", "0", "0"] in [line.split() for line in lines]
    places = [
        next(i for i, line in enumerate(lines) if line.startswith(f"  {name}"))
        for name in (TO_Q, "proj_out.weight")
    ]
    assert places == sorted(places)
    assert lines[places[0]].split()[1:3] == ["0.5", "0.5"]
    assert "times 1.5" in lines[places[0] + 1]
    assert "GM301" in done.out
    assert max(map(len, lines[2:])) <= 80  # the first two repeat what was given, however long


def test_json_holds_every_figure_and_findings_as_the_report_spells_them(genmodel, healthy, copy):
    edit_tensors(copy / TRANSFORMER, scaled(1.5, TO_Q))
    drop_tensors(copy / TRANSFORMER, BIAS)

    done = genmodel("diff", "--json", healthy, copy)
    value = done.json

    assert done.status == value["exit_status"] == 1
    check_findings(value["findings"])
    assert {"GM301", "GM207"} <= set(done.codes)
    [part] = [part for part in value["components"] if part["name"] == "transformer"]
    assert part["missing"] == [BIAS]
    [change] = part["changed"]
    assert change["tensor"] == TO_Q
    assert change["relative_difference"] == pytest.approx(0.5)
    assert "1.5" in change["looks_like"]


def test_most_limits_the_list_and_json_is_complete(genmodel, healthy, copy):
    edit_tensors(copy / TRANSFORMER, lambda tensors: {n: t + 0.1 for n, t in tensors.items()})

    out = genmodel("diff", "--most=3", healthy, copy).out
    value = genmodel("diff", "--json", "--most=3", healthy, copy).json

    assert "  and 62 more (--most=N, --json)" in out.splitlines()
    [part] = [part for part in value["components"] if part["name"] == "transformer"]
    assert len(part["changed"]) == 65
    assert " more (--most" not in genmodel("diff", "--most=0", healthy, copy).out


def test_the_expectation_says_what_may_differ(genmodel, healthy, copy):
    edit_tensors(
        copy / TRANSFORMER, lambda tensors: {n: t + 1e-3 * torch.randn(t.shape) for n, t in tensors.items()}
    )

    assert genmodel("diff", healthy, copy).status == 1
    assert genmodel("diff", "--expect=finetuned", healthy, copy).status == 0
    assert genmodel("diff", "--expect=finetuned", healthy, healthy).status == 1, "nothing was trained"
    edit_tensors(copy / VAE, lambda tensors: {n: t * 2 for n, t in tensors.items()})
    assert "vae" in {
        f["component"]
        for f in genmodel("diff", "--json", "--expect=finetuned", healthy, copy).json["findings"]
        if f["severity"] == "error"
    }


def test_a_configuration_that_differs_is_no_same(genmodel, healthy, copy):
    edit_json(copy / "vae" / "config.json", scaling_factor=1.5)

    done = genmodel("diff", healthy, copy)

    assert done.status == 1
    assert "GM401" in done.out
    assert "scaling_factor is 1.5" in done.out


def test_inert_configuration_is_the_same(genmodel, healthy, copy):
    edit_json(copy / "vae" / "config.json", _diffusers_version="0.1", _name_or_path="x", of_nobody=1)

    assert genmodel("diff", healthy, copy).status == 0


@pytest.mark.parametrize("partial", ["reference", "candidate"])
def test_a_lone_file_is_paired_by_its_names(genmodel, healthy, tmp_path, partial):
    shutil.copy(healthy / TRANSFORMER, tmp_path / "a.safetensors")
    edit_tensors(tmp_path / "a.safetensors", scaled(2.0, TO_Q))
    pair = [healthy, tmp_path / "a.safetensors"]

    done = genmodel("diff", *(reversed(pair) if partial == "reference" else pair))

    assert done.status == 1
    assert "transformer: 1 of 65 tensors changed" in done.out
    side = "candidate" if partial == "reference" else "reference"
    words = " ".join(done.out.split())
    assert f"not compared: scheduler, text_encoder, tokenizer, vae: in the {side} only" in words


def test_two_lone_files_need_no_names(genmodel, healthy, tmp_path):
    for name in "ab":
        shutil.copy(healthy / TRANSFORMER, tmp_path / f"{name}.safetensors")

    assert genmodel("diff", tmp_path / "a.safetensors", tmp_path / "b.safetensors").status == 0
    edit_tensors(tmp_path / "b.safetensors", scaled(2.0, TO_Q))
    assert genmodel("diff", tmp_path / "a.safetensors", tmp_path / "b.safetensors").status == 1


def test_two_loras_are_compared_with_each_other(genmodel, tmp_path):
    for name in "ab":
        write_lora(tmp_path / name)

    assert genmodel("diff", tmp_path / "a", tmp_path / "b").status == 0
    file = tmp_path / "b" / "pytorch_lora_weights.safetensors"
    edit_tensors(file, lambda tensors: {n: t * 2 for n, t in tensors.items()})
    done = genmodel("diff", tmp_path / "a", tmp_path / "b")
    assert done.status == 1
    assert "adapter: 2 of 2 tensors changed" in done.out


def test_what_has_nothing_in_common_is_not_called_the_same(genmodel, healthy, tmp_path):
    write_lora(tmp_path)

    done = genmodel("diff", healthy, tmp_path)

    assert (done.status, done.out) == (2, "")
    assert "nothing in common that could be compared" in done.err
    assert "genmodel inspect" in done.err


def test_two_steps_of_one_run_are_compared_by_name(genmodel, healthy, tmp_path):
    for step in (100, 200):
        shutil.copytree(healthy / "transformer", tmp_path / "run" / f"checkpoint-{step}" / "transformer")
    edit_tensors(tmp_path / "run" / "checkpoint-200" / TRANSFORMER, scaled(2.0, TO_Q))

    done = genmodel("diff", f"{tmp_path}/run@100", f"{tmp_path}/run@200")

    assert done.status == 1
    assert f"candidate  {tmp_path}/run@200" in done.out
    assert "1 of 65 tensors changed" in done.out


def test_a_component_that_one_side_lacks_is_a_finding_between_whole_pipelines(genmodel, healthy, copy):
    edit_json(copy / "model_index.json", vae=...)
    shutil.rmtree(copy / "vae")

    assert "GM206" in genmodel("diff", "--json", healthy, copy).codes


def test_a_damaged_file_is_a_finding_and_the_rest_is_compared(genmodel, healthy, copy):
    with (copy / VAE).open("r+b") as stream:
        stream.truncate(1000)

    done = genmodel("diff", healthy, copy)

    assert done.status == 1
    assert "GM101" in done.out
    assert "not compared: vae: it cannot be read to the end" in done.out
    assert ["transformer", "65", "65", *"0000"] in [line.split() for line in done.out.splitlines()]


def test_a_tokenizer_of_other_files_is_not_called_the_same(genmodel, healthy, copy):
    (copy / "tokenizer" / "special_tokens_map.json").write_text('{"pad_token": "x"}')

    assert "not compared: tokenizer: its files differ" in genmodel("diff", healthy, copy).out.replace(
        "\n" + " " * 14, " "
    )


def test_another_shape_and_nan_have_no_figure_and_a_reason(genmodel, healthy, copy):
    def damage(tensors):
        tensors[TO_Q] = tensors[TO_Q][:-1]
        tensors[BIAS] = tensors[BIAS] * torch.nan
        return tensors

    edit_tensors(copy / TRANSFORMER, damage)

    done = genmodel("diff", healthy, copy)

    lines = done.out.splitlines()
    place = next(i for i, line in enumerate(lines) if line.startswith(f"  {TO_Q}"))
    assert lines[place].split()[1:] == ["-", "-", "-"]
    assert "shape [" in lines[place + 1]
    assert "values are NaN or Inf" in done.out


def test_identical_safetensors_are_compared_without_torch(healthy, tmp_path):
    """In other files, sharded otherwise, with other metadata: still no torch."""
    shutil.copytree(healthy, tmp_path / "copy")
    file = tmp_path / "copy" / TRANSFORMER
    tensors = load_file(file)
    save_file(dict(reversed(tensors.items())), file, metadata={"a": "b"})
    lines = (
        "import sys\nfrom pytest_genmodel.cli.main import main\n"
        f"status = main(['diff', {str(healthy)!r}, {str(tmp_path / 'copy')!r}, '-q'])\n"
        "print(status, [name for name in ('torch', 'diffusers', 'transformers') if name in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", lines], check=True, capture_output=True, text=True)

    assert done.stdout == "0 []\n"


@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_the_table_fits_the_terminal(genmodel, healthy, copy, monkeypatch, width):
    edit_tensors(copy / TRANSFORMER, scaled(1.5, TO_Q))
    monkeypatch.setenv("COLUMNS", str(width))

    lines = genmodel("diff", healthy, copy).out.splitlines()

    [row] = [line for line in lines if line.endswith(("0.493", "0.5")) or " 0.5 " in line][:1]
    assert len(row) <= max(width, 46)
    assert row.split()[0].endswith("weight")


def test_a_file_or_a_pipe_gets_no_colour_and_no_progress(healthy, copy, tmp_path):
    edit_tensors(copy / TRANSFORMER, scaled(1.5, TO_Q))
    command = [sys.executable, "-m", "pytest_genmodel.cli", "diff", str(healthy), str(copy)]
    environment = {key: value for key, value in os.environ.items() if key != "COLUMNS"}

    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)

    assert done.returncode == 1
    assert "\x1b" not in done.stdout + done.stderr
    assert done.stderr == ""


def test_a_reader_that_goes_away_is_no_traceback(healthy, copy):
    edit_tensors(copy / TRANSFORMER, lambda tensors: {n: t + 0.1 for n, t in tensors.items()})
    command = f"{sys.executable} -m pytest_genmodel.cli diff --most=100 --json {healthy} {copy} | head -1"

    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)

    assert done.stdout == "{\n"
    assert done.stderr == ""
