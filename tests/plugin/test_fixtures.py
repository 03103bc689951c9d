"""candidate, reference, probe, genmodel: lazy, shared, and overridable."""

from __future__ import annotations

import pytest


def test_fixtures_give_what_they_name(run, pytester):
    pytester.makepyfile(
        """
        import torch
        from pytest_genmodel import assert_close, assert_same_weights, psnr

        def test_all(candidate, reference, probe, genmodel, genmodel_candidate, genmodel_reference):
            assert candidate is genmodel_candidate is genmodel.candidate
            assert reference is genmodel_reference is genmodel.reference
            assert probe is not None and probe.image.shape == (3, 16, 16)
            assert_same_weights(candidate, reference)
            video = candidate.sample(probe)
            assert video.frames.shape == (9, 3, 16, 16)
            assert video.latents.shape[0] == probe.steps
            assert_close(video.frames, reference.sample(probe).frames)
            assert candidate.samples.computed == 1, "equal content is sampled once"
            assert isinstance(candidate.component("transformer"), torch.nn.Module)
            assert candidate.diffusers.transformer is candidate.component("transformer")
        """
    )

    run("--genmodel-no-suite", "--genmodel-ref={healthy}").assert_outcomes(passed=1)


def test_a_users_own_fixture_wins(run, pytester):
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        def candidate(): return "mine"

        def test_it(candidate, genmodel_candidate):
            assert candidate == "mine"
            assert genmodel_candidate.components
        """
    )

    run("--genmodel-no-suite").assert_outcomes(passed=1)


def test_nothing_is_loaded_before_it_is_touched(run, pytester):
    pytester.makepyfile(
        """
        def test_it(candidate, reference, genmodel):
            assert candidate._loaded == {} and reference._loaded == {}
            candidate.component("scheduler")
            assert list(candidate._loaded) == ["scheduler"]
        """
    )

    run("--genmodel-no-suite", "--genmodel-ref={healthy}").assert_outcomes(passed=1)


def test_one_pipeline_is_resident_unless_a_test_asks_for_both(run, pytester, copy):
    from tests.editing import TO_Q, TRANSFORMER, edit_tensors

    edit_tensors(copy / TRANSFORMER, lambda tensors: tensors | {TO_Q: tensors[TO_Q] * 2})
    pytester.makepyfile(
        """
        def test_one_after_the_other(genmodel):
            vae = genmodel.reference.component("vae")
            genmodel.reference.component("transformer")
            genmodel.candidate.component("transformer")
            assert "transformer" not in genmodel.reference._loaded
            assert genmodel.candidate.component("vae") is vae, "equal components are loaded once"

        def test_both(candidate, reference):
            a, b = candidate.component("transformer"), reference.component("transformer")
            assert "transformer" in candidate._loaded and "transformer" in reference._loaded
            assert a is not b
            assert candidate.component("text_encoder") is reference.component("text_encoder")
            assert candidate.component("scheduler") is not reference.component("scheduler")
        """
    )

    run(
        "--genmodel-no-suite", "--genmodel-ref={healthy}", f"--genmodel-ckpt={copy}", candidate=False
    ).assert_outcomes(passed=2)


@pytest.mark.parametrize(("strict", "outcome"), [(False, {"skipped": 1}), (True, {"errors": 1})])
def test_missing_reference_is_said(run, pytester, strict, outcome):
    pytester.makepyfile("def test_it(reference): pass")

    result = run("--genmodel-no-suite", "-rs", *(["--genmodel-strict"] if strict else []))

    result.assert_outcomes(**outcome)
    assert "no reference was given (--genmodel-ref=SPEC)" in result.stdout.str()


def test_failing_assert_ends_at_the_users_line(run, pytester):
    pytester.makepyfile(
        """
        from pytest_genmodel import assert_close, bitwise

        def test_it(candidate, probe):
            frames = candidate.sample(probe).frames
            assert_close(frames * 1.01, frames, bitwise, names=("frame", "channel", "height", "width"))
        """
    )

    result = run("--genmodel-no-suite")

    result.assert_outcomes(failed=1)
    text = result.stdout.str()
    assert "times 1.01" in text
    assert "pytest_genmodel/tensors" not in text
    assert "torch/" not in text


def test_failing_weights_assert_names_the_tensor(run, pytester, copy):
    from tests.editing import TO_Q, TRANSFORMER, edit_tensors

    edit_tensors(copy / TRANSFORMER, lambda tensors: tensors | {TO_Q: -tensors[TO_Q]})
    pytester.makepyfile(
        """
        from pytest_genmodel import assert_same_weights

        def test_it(candidate, reference):
            assert_same_weights(candidate, reference, except_for=["transformer"])
            assert_same_weights(candidate.component("vae"), reference.component("vae"))
            assert_same_weights(candidate, reference)
        """
    )

    result = run(
        "--genmodel-no-suite", "--genmodel-ref={healthy}", f"--genmodel-ckpt={copy}", candidate=False
    )

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"*transformer: {TO_Q} differs: relative difference 2, *sign flipped*"])
    assert "pytest_genmodel/invariants" not in result.stdout.str()
