"""Some hundreds of damaged checkpoints for every reader; `python -m tests.fuzz --cases 20000` makes thousands."""

from __future__ import annotations

import hypothesis
import pytest
from hypothesis import given, settings

from pytest_genmodel.checkpoints.opening import open_checkpoint
from pytest_genmodel.checkpoints.pickles import loading
from pytest_genmodel.diagnosis.at_rest import findings_at_rest
from tests.fuzz.bench import Bench
from tests.fuzz.seeds import SEEDS
from tests.fuzz.strategies import HOSTILE, Edit, edits

NESTED = next(number for number, program in enumerate(HOSTILE) if b"\x85" * 200 in program)
quick = settings(
    max_examples=150,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)


@pytest.mark.parametrize("name", SEEDS)
def test_a_damaged_checkpoint_is_read_or_refused_in_order(name, tmp_path):
    bench = Bench(name, tmp_path)
    bench.judge_whole()

    @quick
    @given(edits(bench.files))
    def judge(damages):
        bench.judge(damages)

    judge()
    assert bench.refused > 20


@pytest.mark.parametrize("name", ["pipeline", "torch-zip", "peft", "kohya-lora", "zero2", "training-run"])
def test_what_is_found_in_a_damaged_checkpoint_are_findings(name, tmp_path):
    def look(path):
        for finding in findings_at_rest(open_checkpoint(path, "fuzz")):
            finding.message.encode()

    bench = Bench(name, tmp_path, look)

    @settings(quick, max_examples=60)
    @given(edits(bench.files))
    def judge(damages):
        bench.judge(damages)

    judge()
    assert bench.read > 3


def test_the_fuzzer_sees_a_reader_that_raises_something_else(tmp_path, monkeypatch):
    """Without its guard, the malformed pickle's own exception comes through."""
    monkeypatch.setattr(loading, "_malformed", lambda path, error, start: error)
    bench = Bench("torch-zip", tmp_path)

    with pytest.raises(loading.MalformedPickleError):
        bench.judge([("model.pt", Edit("opcodes", 0.5, 0.5, 3 + 6 * NESTED, b""))])


def test_the_bench_puts_the_files_right_again(tmp_path):
    bench = Bench("safetensors", tmp_path)
    bench.judge([("model.safetensors", Edit("number", 0.0, 0.0, 5 * (1 << 40) + 3, b""))])
    bench.judge_whole()

    assert (bench.read, bench.refused) == (0, 0)
