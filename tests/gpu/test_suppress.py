# SPDX-License-Identifier: AGPL-3.0-or-later
"""Suppression by our kernels gives the rows of torch's operations, also in a graph and again. Needs one NVIDIA GPU.

python -m pytest tests/gpu/test_suppress.py
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.gpu.compiled import DTYPES, skip_without_code
from tests.unit.docker.test_suppress_on_host import long_chain, predictions
from yolov12.engine.capture import capturing
from yolov12.engine.scoring import fixed, in_kernels
from yolov12.engine.scoring.asked import Asked, Suppression
from yolov12.engine.scoring.scale import Placing, placing_of, scale

GPU = torch.device("cuda", 0)
WHAT = Asked(0.25, 0.7, 300, False, None, False)


@pytest.fixture(autouse=True)
def _kernels() -> None:
    skip_without_code()


def of_torch(prediction: Tensor, what: Asked) -> Tensor:
    return Suppression()(prediction, what)


def of_ours(prediction: Tensor, what: Asked, placing: Placing | None = None) -> Tensor:
    assert in_kernels.serve(prediction, what)
    return in_kernels.suppressed(prediction, what, Suppression().wanted(prediction, what), placing)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize(("images", "classes", "anchors"), [(1, 80, 8400), (32, 80, 2100), (3, 1, 70), (2, 2000, 300)])
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"iou": 0.3, "agnostic": True},
        {"max_det": 5},
        {"classes": tuple(range(0, 2000, 2))},
        {"confidence": 0.899},
        {"classes": ()},
    ],
    ids=lambda change: " ".join(change),
)
def test_rows_are_those_of_torchs_operations(dtype, images, classes, anchors, change):
    share = min(0.3, 300 / (anchors * classes))
    prediction = predictions(0, images, classes, anchors, dtype, spread=200, share=share).to(GPU)
    what = WHAT._replace(**change)
    mine, theirs = of_ours(prediction, what), of_torch(prediction, what)
    right = theirs[:, -1, 1] == 1  # else a chain is longer than torch's operations go
    assert right.any()
    assert torch.equal(mine[right], theirs[right])
    assert (mine[:, -1, 1] == 1).all()
    assert torch.equal(mine, of_ours(prediction, what))
    assert what.classes == () or mine[:, -1, 0].min() > 0, "a parity of nothing proves little"


def test_a_chain_is_followed_to_its_end():
    found = of_ours(long_chain(200).to(GPU), WHAT._replace(iou=0.5))[0]
    assert found[-1, :2].tolist() == [100, 1]


@pytest.mark.parametrize("picture", [(480, 640, 3), (300, 97, 3), (1080, 1920, 3)])
def test_boxes_are_moved_as_torch_moves_them(picture):
    size = 384, 640
    prediction = predictions(5, 2, 3, 120, torch.float16, spread=600).to(GPU)
    expected = of_torch(prediction, WHAT).clone()
    scale(expected[:, :-1], size, [torch.empty(picture).numpy()] * 2)
    found = of_ours(prediction, WHAT, placing_of(size, picture))
    for mine, theirs in zip(found, expected, strict=True):
        count = int(theirs[-1, 0])
        assert torch.equal(mine[:count], theirs[:count])
        assert torch.equal(mine[-1], theirs[-1])


def test_a_graph_gives_the_rows_of_what_lies_in_its_input():
    held = predictions(0, 2, 80, 2100, torch.float16, share=0.001).to(GPU)
    of_ours(held, WHAT)
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with capturing(graph, torch.cuda.graph_pool_handle(), stream):
        answer = of_ours(held, WHAT)
    for seed in (1, 2):
        held.copy_(predictions(seed, 2, 80, 2100, torch.float16, share=0.001))
        graph.replay()
        assert torch.equal(answer, of_ours(held, WHAT))
        assert answer[:, -1, 0].min() > 0, "a parity of nothing proves little"


def test_more_than_there_is_room_for_is_said():
    prediction = predictions(0, 1, 3, fixed.ROOM + 1, torch.float32, spread=5000).to(GPU)
    prediction[:, 4] = 0.5
    assert of_ours(prediction, WHAT)[0, -1, 1] == 0
