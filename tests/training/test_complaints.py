"""Why a trainer failed, by what it printed: real failures made here, and the lines of others as they are printed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pytest_genmodel.training.complaints import complaint_of, own_lines

MADE_HERE = {
    "import a_package_that_is_not_there": (
        "a_package_that_is_not_there is not installed",
        "pip install a_package",
    ),
    "import torch; torch.zeros(1).cuda()": ("needs a GPU", "--cpu"),
    "import torch; torch.empty(10**15)": ("memory is full", "smaller model"),
    "x = bytearray(10**17)": ("memory is full", "smaller model"),
    "f = open('/dev/full', 'w'); f.write('x'); f.flush()": ("no room left", "TMPDIR"),
    "import socket as s\na = s.socket(); a.bind(('127.0.0.1', 0)); a.listen()\n"
    "b = s.socket(); b.bind(a.getsockname())": ("port", "main_process_port"),
    "from diffusers import DiffusionPipeline as P; P.from_pretrained('owner/no-such-model')": (
        "offline",
        "{reference}",
    ),
    "from huggingface_hub import hf_hub_download as d; d('owner/name', 'config.json')": (
        "offline",
        "{reference}",
    ),
    "import argparse as a; p = a.ArgumentParser(); p.add_argument('--data', required=True); p.parse_args()": (
        "does not take these arguments",
        "--help",
    ),
    "import os, signal; os.kill(os.getpid(), signal.SIGKILL)": ("killed", "smaller model"),
    "import torch; torch.optim.SparseAdam([torch.ones(1)], lr=0.0)": (
        "refuses the rate 0",
        "--genmodel-zero-lr=1e-46",
    ),
    "lr = 0.0\nassert lr > 0., 'learning rate must be positive'": (
        "refuses the rate 0",
        "--genmodel-zero-lr=1e-46",
    ),
}
"""Code that fails as trainers fail -> words of the cause, words of the action."""


@pytest.mark.parametrize("code", MADE_HERE)
def test_real_failure_is_recognised(tmp_path, code):
    cause, action = MADE_HERE[code]
    environment = {
        "PATH": "/usr/bin",
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path),
        "OMP_NUM_THREADS": "1",
    }

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    complaint = complaint_of((done.stdout + done.stderr).splitlines(), done.returncode, rate=0.0)

    assert done.returncode != 0
    assert complaint is not None, done.stderr
    assert cause in complaint.cause
    assert action in complaint.action


PRINTED = {
    "python: can't open file '/tmp/genmodel-k5oex_8_/training-sky/cwd/train.py': [Errno 2] No such file or "
    "directory": "train.py does not lie where pytest was started",
    "/usr/bin/python3: No module named my.trainer": "my.trainer does not lie where pytest was started",
    "train.py: error: unrecognized arguments: --fps 8": "arguments: unrecognized arguments: --fps 8",
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a "
    "total capacity of": "memory",
    "RuntimeError: No CUDA GPUs are available": "needs a GPU",
    "RuntimeError: Found no NVIDIA driver on your system.": "needs a GPU",
    "ValueError: bf16 mixed precision requires PyTorch >= 1.10 and a supported device.": "precision",
    "ValueError: fp16 mixed precision requires a GPU (not 'mps').": "precision",
    "ValueError: Your setup doesn't support bf16/gpu. You need torch>=1.10, using Ampere "
    "GPU with cuda>=11.0": "precision",
    "RuntimeError: \"addmm_impl_cpu_\" not implemented for 'Half'": "precision",
    "ModuleNotFoundError: No module named 'deepspeed.ops'": "deepspeed.ops is not installed",
    "ImportError: DeepSpeed is not installed => run `pip3 install deepspeed` or build it "
    "from source.": "DeepSpeed is not installed",
    "ValueError: PEFT backend is required for this method. `peft` is not installed": "peft is not installed",
    "torch.distributed.DistNetworkError: The server socket has failed to listen on any local network address. "
    "port: 29500, useIpv6: false, code: -98, name: EADDRINUSE, message: address already in use": "port",
    "  traceback : Signal 9 (SIGKILL) received by PID 4711": "killed",
    "OSError: [Errno 28] No space left on device: '/scratch/out/checkpoint-2'": "room",
    "safetensors_rust.SafetensorError: Error while serializing: I/O error: No space left "
    "on device (os error 28)": "room",
    "huggingface_hub.errors.LocalEntryNotFoundError: Cannot find the requested files in the disk cache and outgoing "
    "traffic has been disabled.": "offline",
}


@pytest.mark.parametrize("line", PRINTED)
def test_printed_line_is_recognised(line):
    complaint = complaint_of(["Traceback (most recent call last):", line], 1)

    assert complaint is not None
    assert PRINTED[line] in complaint.cause


@pytest.mark.parametrize(
    "line",
    [
        "Steps: 100%|##########| 2/2 [00:01<00:00, lr=0, step_loss=0.2]",
        "KeyError: 'transformer'",
        "UserWarning: torch.utils.checkpoint: please pass use_reentrant explicitly",
        "RuntimeError: The size of tensor a (48) must match the size of tensor b (16)",
    ],
)
def test_other_failures_are_left_alone(line):
    assert complaint_of([line], 1, rate=0.0) is None


TRAINER = [
    "Traceback (most recent call last):",
    '  File "train.py", line 3, in <module>',
    "KeyError: 'caption'",
]
ACCELERATE = [
    "Traceback (most recent call last):",
    '  File "/usr/bin/accelerate", line 8, in <module>',
    "    sys.exit(main())",
    "subprocess.CalledProcessError: Command '['python', 'train.py']' returned non-zero exit status 1.",
]
TORCHRUN = [
    "E0606 10:00:00.000000 140 torch/distributed/elastic/multiprocessing/api.py:869] failed (exitcode: 1)",
    "Traceback (most recent call last):",
    '  File "/usr/bin/torchrun", line 8, in <module>',
    "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: ",
    "=====",
    "train.py FAILED",
]


@pytest.mark.parametrize("launcher", [[], ACCELERATE, TORCHRUN], ids=["none", "accelerate", "torchrun"])
def test_what_a_launcher_adds_is_not_the_trainers_last_word(launcher):
    assert own_lines([*TRAINER, *launcher]) == TRAINER


def test_launcher_that_is_all_there_is_keeps_its_words():
    assert own_lines(ACCELERATE) == ACCELERATE


@pytest.mark.parametrize(
    ("status", "cause"), [(-9, "killed"), (137, "killed"), (139, "crashed"), (-11, "crashed")]
)
def test_signal_says_why(status, cause):
    complaint = complaint_of([], status)

    assert complaint is not None
    assert cause in complaint.cause


def test_refused_zero_is_no_cause_at_another_rate():
    assert complaint_of(["ValueError: Invalid learning rate: 0.0"], 1, rate=1e-3) is None
