# SPDX-License-Identifier: AGPL-3.0-or-later
"""Suppression inside an engine by TensorRT's own plugin, EfficientNMS_TRT, put behind a detector's output as a node of its ONNX graph.

What ultralytics traces for `nms=True` is a loop over the pictures of the batch with shapes that depend on what they show. The plugin takes the
batch as a whole and has fixed shapes. Its rules are those of plugin/efficientNMSPlugin of TensorRT's public sources; they differ from ultralytics'
(utils/nms.py:13) where noted at `MOST_CANDIDATES`. It needs TensorRT proper, which could not be installed where this was written: tests run the graph
with a stand-in that follows these sources.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from yolov12.errors import UserError
from yolov12.export import builder
from yolov12.export.request import Request, Suppression

PLUGIN, VERSION, DOMAIN = "EfficientNMS_TRT", "1", "TRT"
"""The parser takes a node that ONNX does not know for a plugin of this name; the domain is for ONNX's checker alone."""

MOST_CANDIDATES = 4096
"""Boxes of a picture that the plugin looks at, best first; ultralytics takes 30,000. Both also differ at equality: the plugin keeps a score that is
the threshold, and drops a box whose overlap is."""

CENTER_SIZE = 1
"""`box_coding` of x, y, width, height, as detectors give them. What comes out are always corners."""


def why_not(trt: Any, request: Request, network: Any) -> str:
    """Why an engine gets ultralytics' suppression and not the plugin; "" if it gets the plugin.

    Args:
        trt: the module that builds.
        request: the export.
        network: of torch; None for a graph that comes without, of a detector.
    """
    task = getattr(network, "task", "detect")
    if task != "detect":
        return f"a model for {task} gives more than boxes"
    if getattr(network, "end2end", False):
        return "its head suppresses by itself"
    if builder.is_rtx(trt):
        return "TensorRT-RTX has no plugins"
    if request.version_compatible:
        return "version_compatible=True: the lean runtime has no plugins"
    if not builder.has_plugin(trt, PLUGIN, VERSION):
        return f"TensorRT {trt.__version__} has no {PLUGIN}"
    return ""


def check(trt: Any, request: Request, network: Any) -> None:
    """Refuse suppression that the builder could only refuse after the graph was traced and compared.

    Raises:
        UserError: TensorRT-RTX is to build, which has no plugins and does not read ultralytics' suppression (1.7: `NonZero`).
    """
    if request.nms is not None and builder.is_rtx(trt) and not getattr(network, "end2end", False):
        raise UserError(
            "nms=True needs TensorRT proper, and TensorRT-RTX is what builds here: leave nms out (what runs the engine suppresses then), "
            "or export format=onnx nms=True"
        )


def appended(model: onnx.ModelProto, suppression: Suppression) -> onnx.ModelProto:
    """A copy whose output is what is left after suppression.

    Args:
        model: with one float32 output (batch, 4 + classes, anchors): centre x and y, width, height, and a score per class.
        suppression: thresholds, as upstream's exporter takes them.

    Returns:
        The same with an output of that name, (batch, max_det, 6): corners, score, class; rows of zeros where there are fewer. It is the layout in
        which ultralytics reads models that suppress by themselves (utils/nms.py:72).
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    (output,) = graph.output
    batch, channels, _ = output.type.tensor_type.shape.dim
    classes = channels.dim_value - 4
    raw = f"{output.name}_raw"
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [raw if name == output.name else name for name in names]
    tail = _Tail(raw, output.name, classes, suppression)
    graph.node.extend(tail.nodes())
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in tail.constants.items())
    sides = (batch.dim_value or batch.dim_param or "batch", suppression.max_det, 6)
    output.CopyFrom(helper.make_tensor_value_info(output.name, TensorProto.FLOAT, sides))
    made.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    onnx.checker.check_model(made)
    return made


class _Tail:
    """The nodes behind a detector's output. Of opset 11, so that they fit every graph that is exported here."""

    def __init__(self, raw: str, output: str, classes: int, suppression: Suppression) -> None:
        self.raw, self.output, self.suppression = raw, output, suppression
        self.constants: dict[str, np.ndarray] = {
            "nms_zero": np.array(0, np.float32),
            "nms_column": np.array([0, 0, 1], np.int64),  # for Reshape: a 0 keeps that side
            "nms_classes": np.arange(classes).reshape(1, 1, classes),
            "nms_rows": np.arange(suppression.max_det, dtype=np.int32).reshape(1, -1),
            "nms_last": np.array([2]),
        }
        self.constants |= {f"nms_at_{place}": np.array([place]) for place in (0, 4, 4 + classes)}
        self.end = f"nms_at_{4 + classes}"

    def nodes(self) -> list[onnx.NodeProto]:
        node = helper.make_node
        found = self.suppression
        return [
            node("Transpose", [self.raw], ["nms_anchors"], "nms_transpose", perm=[0, 2, 1]),
            node("Slice", ["nms_anchors", "nms_at_0", "nms_at_4", "nms_last"], ["nms_boxes"], "nms_slice_boxes"),
            node("Slice", ["nms_anchors", "nms_at_4", self.end, "nms_last"], ["nms_scores"], "nms_slice_scores"),
            # ultralytics lets an anchor be of its best class alone; the plugin would take every class above the threshold.
            node("ArgMax", ["nms_scores"], ["nms_best"], "nms_argmax", axis=2, keepdims=1),
            node("Equal", ["nms_best", "nms_classes"], ["nms_is_best"], "nms_equal"),
            node("Where", ["nms_is_best", "nms_scores", "nms_zero"], ["nms_best_scores"], "nms_where_best"),
            node(
                PLUGIN,
                ["nms_boxes", "nms_best_scores"],
                ["nms_count", "nms_corners", "nms_kept_scores", "nms_kept_classes"],
                "nms",
                domain=DOMAIN,
                plugin_version=VERSION,
                background_class=-1,
                score_threshold=found.conf,
                iou_threshold=found.iou,
                max_output_boxes=found.max_det,
                score_activation=0,
                class_agnostic=int(found.agnostic),
                box_coding=CENTER_SIZE,
            ),
            # Rows from the count on are undefined by the plugin's documentation.
            node("Less", ["nms_rows", "nms_count"], ["nms_is_row"], "nms_less"),
            node("Where", ["nms_is_row", "nms_kept_scores", "nms_zero"], ["nms_sure_scores"], "nms_where_row"),
            node("Reshape", ["nms_sure_scores", "nms_column"], ["nms_score_column"], "nms_reshape_scores"),
            node("Cast", ["nms_kept_classes"], ["nms_float_classes"], "nms_cast", to=TensorProto.FLOAT),
            node("Reshape", ["nms_float_classes", "nms_column"], ["nms_class_column"], "nms_reshape_classes"),
            node(
                "Concat", ["nms_corners", "nms_score_column", "nms_class_column"], [self.output], "nms_concat", axis=2
            ),
        ]
