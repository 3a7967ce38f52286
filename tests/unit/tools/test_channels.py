# SPDX-License-Identifier: AGPL-3.0-or-later
"""Pictures and the model that is to see them: the same number of channels, or a sentence."""

from types import SimpleNamespace

import onnx
import pytest

from yolov12.errors import UserError
from yolov12.tools import channels


def network(count=None):
    return SimpleNamespace(model=SimpleNamespace(yaml={} if count is None else {"channels": count}))


def data(folder, text=""):
    (folder / "data.yaml").write_text(f"train: a\nval: a\nnames: [a]\n{text}")
    return str(folder / "data.yaml")


@pytest.mark.parametrize(("count", "text"), [(None, ""), (3, ""), (1, "channels: 1\n"), (None, "channels: 3\n")])
def test_the_same_number_passes(tmp_path, count, text):
    channels.check(network(count), "best.pt", data(tmp_path, text))


def test_another_number_is_refused_with_both(tmp_path):
    named = data(tmp_path, "channels: 1\n")
    with pytest.raises(UserError, match=rf"best\.pt takes pictures of 3 channels, and data={named} has 1 channel "):
        channels.check(network(), "best.pt", named)
    with pytest.raises(UserError, match=r"takes pictures of 1 channel, and .* has 3 channels"):
        channels.check(network(1), "best.pt", data(tmp_path))


def test_an_exported_file_says_what_it_takes(tmp_path):
    graph = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18]> g (float[1,1,64,64] images) => (float[1,1,64,64] y) { y = Relu (images) }'
    )
    graph.metadata_props.add(key="channels", value="1")
    onnx.save(graph, tmp_path / "grey.onnx")
    assert channels.taken_by(SimpleNamespace(model=str(tmp_path / "grey.onnx"))) == 1
    assert channels.taken_by(SimpleNamespace(model=str(tmp_path / "not-there.onnx"))) == 3


@pytest.mark.parametrize("address", ["ul://somebody/set", "https://example.com/set.zip"])
def test_an_address_is_left_to_ultralytics(address):
    channels.check(network(1), "best.pt", address)
