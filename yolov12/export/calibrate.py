# SPDX-License-Identifier: AGPL-3.0-or-later
"""int8 in an ONNX graph: pairs of QuantizeLinear and DequantizeLinear around the convolutions, with ranges from the user's own pictures.

The last convolutions, whose results are scores and distances, and all that decodes them stay as they are: they cost most of the accuracy and little
of the time (ultralytics does the same for TensorRT 11, utils/export/engine.py:184). So does the attention, whose softmax has one large value among
hundreds of small ones.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from ultralytics.data.utils import IMG_FORMATS, check_det_dataset

from yolov12.errors import UserError
from yolov12.export.half import DFL, decoding_nodes

LEAST_IMAGES, MOST_IMAGES = 1, 300
"""More change the ranges little, and each takes as long as a prediction on the CPU."""
FEW_IMAGES = 50


def quantized(model: onnx.ModelProto, batches: Iterator[np.ndarray]) -> onnx.ModelProto:
    """`model` with int8 convolutions.

    Args:
        model: a float32 graph with the one input `images`, opset 13 or later (19 if its scales are to be float16).
        batches: float32 pictures as the graph takes them.
    """
    graph = model.graph
    with tempfile.TemporaryDirectory(prefix="yolov12-int8-") as folder:
        source, target = Path(folder) / "source.onnx", Path(folder) / "target.onnx"
        onnx.save(model, source)
        with _without_advice():
            quantize_static(
                source,
                target,
                _Reader(graph.input[0].name, batches),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=["Conv"],
                nodes_to_exclude=_last_convolutions(graph),
                per_channel=True,
                # Zero points of 0, and biases in float: TensorRT reads no others.
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
            )
        result = onnx.load(target)
    # ONNX Runtime writes its own domains into files that use nothing of them.
    kept = [entry for entry in result.opset_import if entry.domain in ("", "ai.onnx")]
    del result.opset_import[:]
    result.opset_import.extend(kept)
    return result


def pictures(data: str) -> list[Path]:
    """Up to `MOST_IMAGES` pictures of a data set to calibrate on, spread over its training split, so that what validates was not seen.

    Raises:
        UserError: the split has no picture.
    """
    known = check_det_dataset(data)
    split = known.get("train") or known["val"]
    files = sorted(_files(split if isinstance(split, list) else [split]))
    if len(files) < LEAST_IMAGES:
        raise UserError(
            f"int8 is calibrated on pictures, and data={data} has none to train on ({split}): name another data set"
        )
    return spread(files, MOST_IMAGES)


def spread(files: Sequence[Path], most: int) -> list[Path]:
    """At most so many of them, at equal distances."""
    step = max(len(files) / most, 1)
    return [files[int(index * step)] for index in range(min(len(files), most))]


def _files(places: Sequence[str]) -> Iterator[Path]:
    """The pictures in folders and in lists of pictures, as ultralytics takes both (data/base.py:157)."""
    for place in map(Path, places):
        if place.is_dir():
            yield from (file for file in place.rglob("*") if file.suffix[1:].lower() in IMG_FORMATS)
        elif place.is_file():
            for line in place.read_text().split("\n"):
                if line.strip():
                    yield place.parent / line.strip() if line.startswith("./") else Path(line.strip())


def _last_convolutions(graph: onnx.GraphProto) -> list[str]:
    """Names of the convolutions whose results are decoded, and of the one that decodes."""
    decoding = decoding_nodes(graph)
    decoded = {name for index in decoding for name in graph.node[index].input}
    return [
        node.name
        for index, node in enumerate(graph.node)
        if node.op_type == "Conv" and (DFL in node.name or index in decoding or not decoded.isdisjoint(node.output))
    ]


@contextmanager
def _without_advice() -> Iterator[None]:
    """Within the block the root logger is silent, where ONNX Runtime advises to simplify the graph first, which is done."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


class _Reader(CalibrationDataReader):
    """What quantize_static asks for the next batch."""

    def __init__(self, name: str, batches: Iterator[np.ndarray]) -> None:
        self.name, self.batches = name, batches

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self.batches, None)
        return None if batch is None else {self.name: batch}
