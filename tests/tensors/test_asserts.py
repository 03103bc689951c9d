from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from PIL import Image

from pytest_genmodel.errors import BadInputError, GenmodelError
from pytest_genmodel.tensors import TensorMismatchError, assert_close, bitwise, close, psnr

pytest_plugins = ["pytester"]


def failure(*args, **options) -> TensorMismatchError:
    with pytest.raises(TensorMismatchError) as caught:
        assert_close(*args, **options)
    return caught.value


def test_passes_quietly():
    frames = torch.rand(2, 3)
    assert_close(frames, frames + 1e-7)
    assert_close(frames, frames, bitwise, names=("row", "column"), label="candidate")
    assert_close({"a": frames, "b": [1, 2.5]}, OrderedDict(b=[1, 2.5], a=frames))
    assert_close([frames, None, "text"], (frames, None, "text"))


def test_the_error():
    error = failure(torch.ones(3), torch.zeros(3), close(atol=0.5))
    assert isinstance(error, AssertionError)
    assert isinstance(error, GenmodelError)
    assert error.comparison.max_abs == 1.0
    assert error.path == ""
    assert error.comparisons == {"": error.comparison}
    assert "all 3 elements are beyond close(rtol=0, atol=0.5)" in str(error)


def test_labels_of_the_sides():
    assert "candidate and expected differ" in str(failure(1, 2, label="candidate"))
    assert "candidate and reference differ" in str(failure(1, 2, label=("candidate", "reference")))
    with pytest.raises(BadInputError, match="label"):
        assert_close(1, 1, label=("a", "b", "c"))


def test_collections_name_every_mismatch_and_show_the_worst():
    good = torch.randn(4)
    actual = {"frames": [good, good + 1e-3, good], "latents": good * 2, "same": good}
    expected = {"frames": [good, good, good], "latents": good, "same": good}
    error = failure(actual, expected)
    assert set(error.comparisons) == {"['frames'][1]", "['latents']"}
    assert error.path == "['latents']"
    text = str(error)
    assert text.startswith("2 of 5 tensors differ\n")
    assert "['frames'][1]" in text
    assert "\n['latents']: actual and expected differ: all 4 elements" in text
    assert text.index("['latents']") < text.index("['frames'][1]")


def test_collections_of_other_structure():
    one = torch.ones(2)
    text = str(failure({"a": one, "b": one}, {"a": one, "c": one}, label=("left", "right")))
    assert text.startswith("1 tensors are close enough; 2 places have no counterpart")
    assert "['b']  only in left" in text
    assert "['c']  only in right" in text
    assert "actual has 2 items, expected 3" in str(failure([one, one], [one, one, one]))
    assert "actual is a list of 1 items, expected is a Tensor of shape (2,)" in str(failure([one], one))
    assert "actual is None, expected is a Tensor" in str(failure([None], [one]))
    assert "actual is 'a', expected is 'b'" in str(failure(["a", one], ["b", one]))
    assert failure({"a": one}, {}).comparison is None


def test_a_wrong_shape_outranks_a_wrong_value():
    error = failure([torch.ones(2), torch.zeros(3)], [torch.ones(3), torch.ones(3) * 1e9])
    assert error.path == "[0]"


def test_long_lists_are_cut():
    many = {f"layer.{n}": torch.zeros(2) for n in range(40)}
    text = str(failure(many, {name: value + 1 for name, value in many.items()}))
    assert "... and 32 more" in text
    assert len(text.splitlines()) < 30


def test_nothing_to_compare_is_no_success():
    for empty in ({}, {"a": {}}):
        with pytest.raises(BadInputError, match="nothing would be compared"):
            assert_close(empty, empty)


def test_wrong_arguments_name_the_leaf():
    with pytest.raises(BadInputError, match=r"at \['a'\]\[1\]: actual: cannot compare a object"):
        assert_close({"a": [torch.ones(1), object()]}, {"a": [torch.ones(1), torch.ones(1)]})
    with pytest.raises(BadInputError, match=r"names: actual has 1 axes"):
        assert_close(torch.ones(2), torch.ones(2), names=("a", "b"))


def test_videos_as_pipelines_return_them():
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    assert_close([[red, blue]], [[red, blue]], psnr(40, peak=255))
    error = failure([[red, blue]], [[red, red]], psnr(40, peak=255))
    assert error.path == "[0][1]"
    assert "reversed along axis 2 (size 3: RGB read as BGR)" in str(error)


def test_pytest_shows_the_line_of_the_user_and_nothing_of_ours(pytester):
    pytester.makepyfile(
        """
        import torch
        from pytest_genmodel.tensors import assert_close

        def test_single():
            assert_close(torch.ones(3), torch.zeros(3))

        def test_many():
            assert_close({"a": torch.ones(3)}, {"a": torch.zeros(3)})

        def test_bad_input():
            assert_close({"a": object()}, {"a": torch.zeros(3)})
        """
    )
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-p", "no:randomly")
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines(
        [">*assert_close(torch.ones(3), torch.zeros(3))", "E*all 3 elements are beyond*"]
    )
    result.stdout.no_fnmatch_line("*raise error*")
    result.stdout.no_fnmatch_line("*asserts.py*")
