# SPDX-License-Identifier: AGPL-3.0-or-later
"""Official checkpoints become upstream's, with equal results."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from ultralytics.nn import tasks
from ultralytics.nn.modules.block import AAttn

from tests.unit.model import official_form
from yolov12.errors import UserError
from yolov12.model import official

# As the comments of the authors' yolov12.yaml give them.
PARAMETERS = {"n": 2_553_904, "s": 9_127_424, "m": 19_670_784, "l": 26_506_496, "x": 59_414_176}


def output(model: nn.Module, imgsz: int = 128) -> torch.Tensor:
    """Raw predictions in double precision on a fixed picture. P5 then has 4x4 tokens, P4 has 4 areas of 16."""
    picture = torch.rand(2, 3, imgsz, imgsz, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        out = deepcopy(model).double().eval()(picture)
    while isinstance(out, tuple):
        out = out[0]
    return out


def convert(model: nn.Module, **changes: object) -> tuple[nn.Module, official.Conversion | None]:
    checkpoint = {**official_form.checkpoint(model), **changes}
    conversion = official.convert_checkpoint(checkpoint)
    return checkpoint["model"], conversion


@given(heads=st.integers(1, 4), kernel=st.booleans())
def test_channels_go_head_by_head(heads: int, kernel: bool):
    channels = heads * 32
    shape = (3,) if kernel else ()
    q, k, v = (torch.full((channels, *shape), float(i)) for i in range(3))
    q += torch.arange(channels).reshape(-1, *[1] * len(shape)) * 10
    qkv = official.interleave_heads(torch.cat((q, k)), v)
    for head in range(heads):
        block = qkv[head * 96 : (head + 1) * 96]
        assert torch.equal(block[:32], q[head * 32 : (head + 1) * 32])
        assert (block[32:64] == 1).all()
        assert (block[64:] == 2).all()


@pytest.mark.parametrize("size", ["n", "m", "l"])
def test_a_turbo_model_gives_the_same_results_after_conversion(size: str):
    turbo = official_form.build(size)
    before = output(turbo)
    converted, _ = convert(turbo)
    after = output(converted)
    assert before.abs().max() > 100  # box coordinates in pixels
    difference = (before - after).abs().max()
    assert difference < 1e-9, f"max_diff={difference:.3e}"


@pytest.mark.parametrize("head", ["Segment", "Classify"])
def test_turbo_models_of_other_tasks_give_the_same_results_too(head: str):
    turbo = official_form.build("n", head=head, nc=5)
    before = output(turbo)
    assert (before - output(convert(turbo)[0])).abs().max() < 1e-9


def test_a_fused_turbo_model_gives_the_same_results_too():
    turbo = official_form.build("n").fuse(verbose=False)
    before = output(turbo)
    converted, _ = convert(turbo)
    assert converted.is_fused()
    assert (before - output(converted)).abs().max() < 1e-9


def test_a_v1_model_keeps_its_layout_and_results():
    v1 = official_form.build("l", turbo=False)
    before, scales = output(v1), v1.yaml["scales"]
    converted, conversion = convert(v1)
    assert conversion is not None
    assert conversion.kind == "official V1.0"
    assert converted.yaml["scales"] == scales
    assert torch.equal(before, output(converted))


def test_what_upstream_wrote_is_left_alone():
    model = tasks.DetectionModel("yolo12n.yaml", verbose=False)
    model.task = "detect"
    converted, conversion = convert(model, version="8.3.78")
    assert converted is model
    assert conversion is None


def test_the_line_says_what_was_converted():
    conversion = convert(official_form.build("n"))[1]
    assert conversion is not None
    assert conversion.line("yolov12n.pt") == (
        "weights: yolov12n.pt is official turbo (fork 8.3.63): 8 attention blocks qk+v -> qkv, pe 5x5 -> 7x7 zero-padded, yaml made explicit"
    )


def test_the_kind_is_read_from_the_state_dict():
    assert official.detect_kind(official_form.build("n").state_dict()) == "official-turbo"
    assert official.detect_kind(official_form.build("n", turbo=False).state_dict()) == "upstream"


def test_the_converted_model_has_upstreams_modules_and_nothing_of_the_forks():
    converted, _ = convert(official_form.build("n"))
    attention = [module for module in converted.modules() if isinstance(module, AAttn)]
    assert len(attention) == 8
    assert all(
        type(module) is AAttn and [name for name, _ in module.named_children()] == ["qkv", "proj", "pe"]
        for module in attention
    )


def test_names_arguments_and_number_format_are_kept():
    turbo = official_form.build("n", nc=3).half()
    converted, _ = convert(turbo)
    assert converted.names == {0: "thing 0", 1: "thing 1", 2: "thing 2"}
    assert converted.args["data"] == "coco.yaml"
    assert converted.task == "detect"
    assert {tensor.dtype for tensor in converted.state_dict().values()} == {torch.float16, torch.int64}


@pytest.mark.parametrize("size", [*"nsml", pytest.param("x", marks=pytest.mark.slow)])
def test_upstream_builds_the_authors_net_from_the_explicit_yaml(size: str):
    yaml = official.explicit_yaml(official_form.model_yaml(size))
    assert "scales" not in yaml
    assert "scale" not in yaml
    model = tasks.DetectionModel(yaml, verbose=False)
    border = sum(
        module.pe.conv.weight.numel() * (49 - 25) // 49 for module in model.modules() if isinstance(module, AAttn)
    )
    assert sum(parameter.numel() for parameter in model.parameters()) - border == PARAMETERS[size]


def test_a_trainer_builds_it_for_another_number_of_classes_and_channels():
    converted, _ = convert(official_form.build("l"))
    yaml = deepcopy(converted.yaml)
    other = tasks.DetectionModel(yaml, ch=1, nc=3, verbose=False)
    assert (yaml["nc"], yaml["channels"]) == (3, 1)
    ours, theirs = converted.state_dict(), other.state_dict()
    different = {
        key.split(".")[3] for key in ours if ours[key].shape != theirs[key].shape and not key.startswith("model.0.")
    }
    assert ours.keys() == theirs.keys()
    assert different <= {"0", "1", "2"}  # the branches of the head, whose width follows the number of classes
    assert tasks.guess_model_task(yaml) == "detect"


def test_channels_are_limited_before_the_yaml_forgets_the_limit():
    rows = official.explicit_yaml(official_form.model_yaml("x", head="Segment"))
    assert rows["backbone"][7] == [-1, 1, "Conv", [512, 3, 2]]
    assert rows["backbone"][8] == [-1, 4, "A2C2f", [512, True, 1, True, 1.5]]
    assert rows["backbone"][2] == [-1, 2, "C3k2", [256, True, 0.25]]
    assert rows["head"][-1] == [[14, 17, 20], 1, "Segment", ["nc", 32, 256]]
    assert (rows["depth_multiple"], rows["width_multiple"]) == (1.0, 1.5)


def test_the_original_yaml_is_not_changed():
    yaml = official_form.model_yaml("l")
    official.explicit_yaml(yaml)
    assert yaml == official_form.model_yaml("l")


def test_the_callers_random_sequence_is_left_alone():
    turbo = official_form.build("n")
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    convert(turbo)
    assert torch.equal(torch.rand(4), expected)


def test_both_models_of_an_unfinished_run_are_converted_and_its_optimizer_is_dropped():
    turbo = official_form.build("n")
    checkpoint = {**official_form.checkpoint(turbo), "ema": deepcopy(turbo), "optimizer": {"state": {}}, "epoch": 7}
    conversion = official.convert_checkpoint(checkpoint)
    assert conversion is not None
    assert "optimizer state dropped" in conversion.line("last.pt")
    assert checkpoint["optimizer"] is None
    assert checkpoint["epoch"] == -1
    assert all(official.detect_kind(checkpoint[key].state_dict()) == "upstream" for key in ("model", "ema"))


def test_heads_of_another_size_are_refused():
    turbo = official_form.build("n")
    turbo.model[6].m[0][0].attn.head_dim = 64
    with pytest.raises(UserError, match="heads of 64 channels"):
        convert(turbo)


def test_weights_that_do_not_fit_their_yaml_are_refused():
    turbo = official_form.build("n")
    turbo.yaml["scale"] = "s"
    with pytest.raises(UserError, match="do not fit"):
        convert(turbo)
