"""Tensor names: wrappers are seen through, and many names are said in one line without losing one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_genmodel.checkpoints.names import (
    ADAPTER_INFIX,
    WRAPPERS,
    is_adapter_name,
    summarise,
    unwrapped,
    wrapper_of,
)

BARE = "transformer_blocks.0.attn1.to_q.weight"


@pytest.mark.parametrize(("prefix", "who"), WRAPPERS)
def test_each_wrapper_is_named_and_taken_off(prefix, who):
    assert wrapper_of(prefix + BARE) == (prefix, who)
    assert unwrapped(prefix + BARE) == BARE
    assert wrapper_of(f"encoder.{prefix}{BARE}") == (prefix, who)
    assert unwrapped(f"encoder.{prefix}{BARE}") == f"encoder.{BARE}"


@pytest.mark.parametrize(
    "name",
    [
        "module._orig_mod.a.weight",
        "_orig_mod.module.a.weight",
        "module.module.a.weight",
        "module.base_model.model.a.base_layer.weight",
        "_fsdp_wrapped_module._checkpoint_wrapped_module.a._fsdp_wrapped_module.weight",
        "a.module.module.module.weight",
        "module.model.diffusion_model.a.weight",
    ],
)
def test_wrappers_in_wrappers_are_taken_off_in_any_order(name):
    assert unwrapped(name) == "a.weight"


@pytest.mark.parametrize(
    "name", [BARE, "", "module", "submodule.weight", "module_list.0.weight", "a.base_layer"]
)
def test_a_bare_name_stays_as_it_is(name):
    assert unwrapped(name) == name
    assert wrapper_of(name) is None


def test_the_layer_that_peft_wrapped_gets_its_name_back():
    name = "base_model.model.blocks.0.to_q.base_layer.weight"

    assert unwrapped(name) == "blocks.0.to_q.weight"
    assert is_adapter_name(name)


@pytest.mark.parametrize(
    ("name", "bare"),
    [
        ("blocks.0.to_q.lora_A.default.weight", "blocks.0.to_q.lora_A.weight"),
        ("blocks.0.to_q.lora_B.my-adapter.bias", "blocks.0.to_q.lora_B.bias"),
        ("embed.lora_embedding_A.default", "embed.lora_embedding_A"),
        ("blocks.0.to_q.lora_magnitude_vector.default.weight", "blocks.0.to_q.lora_magnitude_vector.weight"),
        ("proj_out.modules_to_save.default.weight", "proj_out.weight"),
        (
            "transformer.layers.0.attention.query_key_value.original.weight",
            "transformer.layers.0.attention.query_key_value.weight",
        ),
        ("transformer.layers.0.attention.dense.original.bias", "transformer.layers.0.attention.dense.bias"),
    ],
)
def test_what_an_adapter_puts_into_a_name_is_taken_out(name, bare):
    assert unwrapped(name) == bare
    assert is_adapter_name(name)


INFIXES = {
    "blocks.0.to_q.base_layer.weight": "blocks.0.to_q.weight",
    "blocks.0.to_q.lora_A.default.weight": "blocks.0.to_q.lora_A.weight",
    "blocks.0.proj.modules_to_save.default.bias": "blocks.0.proj.bias",
    "layers.0.attention.dense.original.weight": "layers.0.attention.dense.weight",
}


@pytest.mark.parametrize("infixed", INFIXES)
def test_every_pair_of_wrappers_around_every_infix_is_taken_off(infixed):
    block, rest = infixed.split(".0.")
    for outer, _ in WRAPPERS:
        for inner, _ in WRAPPERS:
            for name in (f"{outer}{inner}{infixed}", f"{outer}{block}.0.{inner}{rest}"):
                assert unwrapped(name) == INFIXES[infixed]
                assert is_adapter_name(name)
                assert wrapper_of(name) is not None


@pytest.mark.parametrize(
    "name",
    [
        "transformer.module_list.0.weight",
        "submodule.0.weight",
        "mid_block.original.conv.weight",
        "mid_block.original.weight",
        "original.weight",
        "dense.original_size.weight",
        "blocks.0.default.weight",
        "default.weight",
        "lora_A_projector.default.weight",
        "embed.matrix_A.weight",
        "modules_to_save.weight",
        "model.layers.0.weight",
        "my_base_layer.weight",
        "encoder.module",
        "_orig_module.weight",
    ],
)
def test_a_genuine_name_that_looks_like_a_wrappers_stays(name):
    assert unwrapped(name) == name
    assert wrapper_of(name) is None
    assert not is_adapter_name(name)


def test_the_copy_that_was_not_trained_is_not_taken_for_the_layer():
    """PEFT keeps both: the trained one is the layer, and two tensors cannot have its name."""
    names = ["proj_out.original_module.weight", "proj_out.modules_to_save.default.weight"]

    assert list(map(unwrapped, names)) == [names[0], "proj_out.weight"]
    assert all(map(is_adapter_name, names))


def test_the_names_that_peft_makes_are_the_models_own_again(healthy):
    """With everything that get_peft_model does to a name: prefix, infixes, the adapter's name, a layer in full."""
    from diffusers import CogVideoXTransformer3DModel
    from peft import LoraConfig, get_peft_model

    from pytest_genmodel.pipelines.library import quiet

    with quiet():
        model = CogVideoXTransformer3DModel.from_pretrained(healthy / "transformer")
        bare = set(model.state_dict())
        config = LoraConfig(target_modules=["to_q"], modules_to_save=["proj_out"], use_dora=True)
        wrapped = get_peft_model(model, config).state_dict()

    named = {name: unwrapped(name) for name in wrapped}
    assert bare <= set(named.values())
    assert len(set(named.values())) == len(named)
    factors = [name for name in named.values() if name not in bare and "original_module" not in name]
    assert {name.split(".attn1.to_q.")[1] for name in factors} == {
        "lora_A.weight",
        "lora_B.weight",
        "lora_magnitude_vector.weight",
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("blocks.0.to_q.base_layer.weight", True),
        ("blocks.0.to_q.lora_A.default.weight", True),
        ("blocks.0.to_q.lora_B.weight", True),
        ("blocks.0.to_q.lora_magnitude_vector", True),
        ("embed.lora_embedding_A.default", True),
        ("blocks.0.to_q.weight", False),
        ("lora_A_projector.weight", False),
        ("blocks.0.lora_Ab.weight", False),
        ("base_layer_norm.weight", False),
        ("blocks.0.to_q.lora_down.weight", True),
        ("blocks.0.to_q.dora_scale", True),
        ("layers.0.attention.query_key_value.matrix_A.2", True),
        ("proj_out.original_module.weight", True),
    ],
)
def test_the_names_of_a_model_that_wears_its_lora_are_known(name, expected):
    assert is_adapter_name(name) is expected


EXAMPLES = [
    ([BARE], BARE),
    ([], ""),
    ([f"blocks.{n}.to_q.weight" for n in range(4)], "blocks.{0..3}.to_q.weight"),
    (["blocks.0.w", "blocks.1.w", "blocks.7.w"], "blocks.{0,1,7}.w"),
    ([f"b.{n}.w" for n in range(0, 20, 2)], "b.{0,2,4,6,8,10,...}.w"),
    (["a.weight", "a.bias"], "a.{weight, bias}"),
    (
        [f"blocks.{n}.attn1.{m}.{t}" for n in range(2) for m in ("to_q", "to_k") for t in ("weight", "bias")],
        "blocks.{0..1}.attn1.{to_q, to_k}.{weight, bias}",
    ),
    (["blocks.0.a.weight", "blocks.1.b.weight"], "blocks.0.a.weight, blocks.1.b.weight"),
    (["m.to_out.0.weight", "m.to_q.weight"], "m.{to_out.0, to_q}.weight"),
    (["weight", "bias"], "{weight, bias}"),
    (["a.w", "b.c.w", "d.e.w", "f.g.w"], "a.w, b.c.w, d.e.w, f.g.w"),
    ([f"m{n}.x.w{n}" for n in range(5)], "m0.x.w0, m1.x.w1, m2.x.w2, m3.x.w3, and 1 more group"),
    ([f"m{n}.x.w{n}" for n in range(9)], "m0.x.w0, m1.x.w1, m2.x.w2, m3.x.w3, and 5 more groups"),
    (["a", "a"], "a"),
]


@pytest.mark.parametrize(("names", "expected"), EXAMPLES, ids=[expected[:40] for _, expected in EXAMPLES])
def test_many_names_are_one_line(names, expected):
    assert summarise(names) == expected
    assert summarise(iter(names)) == expected


def test_how_many_groups_are_shown_can_be_chosen():
    assert summarise([f"m{n}.x.w{n}" for n in range(9)], most=1) == "m0.x.w0, and 8 more groups"


@pytest.mark.parametrize("name", ["a.007.b", "a..b", ".a", "a.", "{}.0", "a.{0..3}.b", "x.٣.y", "1.2.3", "."])
def test_an_odd_name_by_itself_is_said_as_it_stands(name):
    assert summarise([name]) == name


def test_names_that_are_alike_but_for_leading_zeros_are_two_names():
    assert summarise(["a.7.w", "a.007.w"]) == "{a.7, a.007}.w"


def test_braces_in_a_name_are_not_taken_for_ours():
    assert summarise(["a.{}.0.w", "a.1.w"]) == "a.{}.0.w, a.1.w"


# --- any name at all ------------------------------------------------------------------------------------------------

quick = settings(max_examples=300, derandomize=True, deadline=None, database=None)
part = st.sampled_from(
    [
        "blocks",
        "0",
        "1",
        "12",
        "007",
        "weight",
        "bias",
        "",
        "to_q",
        "{}",
        "module",
        "lora_A",
        "base_layer",
        "٣",
    ]
)
plausible = st.lists(part, min_size=1, max_size=6).map(".".join)
wrapping = st.lists(st.sampled_from([prefix for prefix, _ in WRAPPERS] + ["a.", "0."]), max_size=5).map(
    "".join
)
any_name = st.text(max_size=12) | plausible


@quick
@given(any_name)
def test_a_single_name_is_never_lost(name):
    assert summarise([name]) == name
    assert summarise([name, name]) == name


@quick
@given(st.lists(any_name, max_size=8))
def test_nothing_raises_and_no_name_adds_a_line(names):
    text = summarise(names)

    assert not set(text.splitlines()) or "\n" not in text or any("\n" in name for name in names)
    assert bool(text) == any(names) or len(set(names)) > 1


@quick
@given(wrapping, any_name)
def test_what_was_unwrapped_wears_no_wrapper(prefixes, name):
    bare = unwrapped(prefixes + name)

    assert wrapper_of(bare) is None
    assert ADAPTER_INFIX not in bare
    assert unwrapped(bare) == bare


@quick
@given(any_name)
def test_no_name_makes_the_questions_raise(name):
    assert is_adapter_name(name) in (True, False)
    wrapper = wrapper_of(name)
    assert wrapper is None or wrapper in WRAPPERS
