# SPDX-License-Identifier: AGPL-3.0-or-later
"""What this room knows of ultralytics' exporter beyond its arguments, and what it replaces: how an engine is loaded, and how a `.pt2` is known.

Where the exporter writes follows from the network's `pt_path`, what a head returns while it is exported follows from its `export` flag, and what it
says goes through its logger.
"""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from ultralytics.nn.autobackend import AutoBackend
from ultralytics.nn.backends.base import BaseBackend
from ultralytics.nn.backends.tensorrt import TensorRTBackend
from ultralytics.utils import LOGGER

from yolov12 import log
from yolov12.errors import UserError
from yolov12.export import aoti_file, aoti_request, builder, trust
from yolov12.seams import Seam, replaced

SEAMS = (
    Seam("engine/exporter.py", 610, "ultralytics.engine.exporter.Exporter.__call__", "8a4e4f44387a"),
    Seam("nn/autobackend.py", 392, "ultralytics.nn.autobackend.AutoBackend._model_type", "042e8d9758b9"),
    Seam("nn/autobackend.py", 184, "ultralytics.nn.autobackend.AutoBackend.__init__", "0afe7f239bf1"),
    Seam("nn/backends/base.py", 150, "ultralytics.nn.backends.base.BaseBackend.read_metadata", "f5157946e388"),
    Seam("nn/backends/base.py", 195, "ultralytics.nn.backends.base.BaseBackend.apply_metadata", "bd2a1ec0bd81"),
    Seam("nn/backends/tensorrt.py", 25, "ultralytics.nn.backends.tensorrt.TensorRTBackend.load_model", "5274b564dd71"),
    Seam("nn/modules/head.py", 180, "ultralytics.nn.modules.head.Detect.forward", "164f309a5c8f"),
    Seam("nn/modules/head.py", 249, "ultralytics.nn.modules.head.Detect.postprocess", "4039e3e66d76"),
)

AOTI = aoti_request.NAMES[0]
"""What AutoBackend calls the format of packages."""

_upstream_load_model = TensorRTBackend.load_model
_upstream_model_type = AutoBackend._model_type
_upstream_read_metadata = BaseBackend.read_metadata


def install() -> None:
    """Have engines checked before they are loaded, and packages known. May be called again."""
    TensorRTBackend.load_model = _load_checked
    AutoBackend._BACKEND_MAP[AOTI] = PackageBackend
    AutoBackend._model_type = staticmethod(_model_type)
    BaseBackend.read_metadata = staticmethod(_read_metadata)


def _model_type(p: str | Path = "path/to/model.pt", dnn: bool = False) -> str:
    """nn/autobackend.py:392, which takes a `.pt2` for a `.pt`."""
    return AOTI if str(p).lower().endswith(aoti_file.SUFFIX) else _upstream_model_type(p, dnn)


def _read_metadata(file: str | Path) -> dict[str, Any]:
    """nn/backends/base.py:150, asked for a model's task when its file is named. What a package can not answer is told when it is loaded."""
    if not str(file).lower().endswith(aoti_file.SUFFIX):
        return _upstream_read_metadata(file)
    try:
        return aoti_file.metadata_of(Path(file))
    except (OSError, UserError):
        return {}


class PackageBackend(BaseBackend):
    """Runs an AOTInductor package on what it was compiled for, whatever `device=` says, as ultralytics does with engines."""

    def load_model(self, weight: str | Path) -> None:
        """Load a package after it was looked at.

        Raises:
            UserError: it was cut, is not ours, or can not run here.
        """
        path = Path(weight)
        metadata = aoti_file.metadata_of(path)
        made = aoti_file.origin_of(metadata)
        if made.arch != "cpu" and not torch.cuda.is_available():
            raise UserError(
                f"{path} was made for {made.arch} {made.gpu}, and torch sees no GPU here; {aoti_file.again(path)}"
            )
        # AutoBackend gives the CPU to formats that it does not know (nn/autobackend.py:225); the GPU of `device=` is torch's current one by then.
        index = torch.cuda.current_device() if made.arch != "cpu" else -1
        self.device = torch.device("cpu") if index < 0 else torch.device("cuda", index)
        aoti_file.check_fits(path, made, aoti_file.origin_here(self.device))
        aoti_file.check_trusted(path)
        self.fp16 = False  # pictures go in as float32
        self.apply_metadata(metadata)
        from torch._inductor import aoti_load_package, codecache  # imports much

        # Torch would compile a program for each of the CPU's instruction sets, for half a minute, and then only warn: `check_fits` has looked.
        with replaced(codecache, get_device_information=lambda device: {}):
            # On a GPU without what lets several threads run it at once: events that a CUDA graph of it could not be captured with.
            self.model = aoti_load_package(str(path), run_single_threaded=index >= 0, device_index=index)

    def forward(self, im: torch.Tensor) -> Any:
        """What the network's head gives for (batch, channels, height, width) from 0 to 1.

        Raises:
            UserError: another shape than it was compiled for, which the code itself would not notice.
        """
        expected = (self.batch, self.channels, *self.imgsz)
        if tuple(im.shape) != expected:
            words = ["x".join(map(str, sides)) for sides in (im.shape, expected)]
            raise UserError(
                f"pictures of shape {words[0]}: this package was compiled for {words[1]}; type imgsz= and batch= as it has them"
            )
        return self.model(im.to(self.device, torch.float32).contiguous())


def _load_checked(self: Any, weight: str | Path) -> None:
    """nn/backends/tensorrt.py:25, which loads whatever it is given and installs TensorRT with pip where there is none.

    Raises:
        UserError: the engine is not ours, was cut, or can not run here.
    """
    built_by = trust.check(Path(weight))
    module = builder.find_module()
    if module != "tensorrt":
        has_rtx = " (TensorRT-RTX is, and nothing here runs its engines)" if module else ""
        raise UserError(f"{weight} needs TensorRT, which is not installed here{has_rtx}; run the ONNX file instead")
    if not torch.cuda.is_available():
        raise UserError(f"{weight} runs on a GPU, and torch sees none here; run the ONNX file instead")
    import tensorrt

    trust.check_fits(Path(weight), built_by, module, str(tensorrt.__version__), builder.gpu_here())
    builder.load_plugins(tensorrt)  # an engine may name one (efficient_nms.py); upstream loads none
    with replaced(tensorrt, Runtime=_runtime_for(Path(weight), built_by, tensorrt)):
        _upstream_load_model(self, weight)


def _runtime_for(path: Path, built_by: Mapping[str, Any], tensorrt: Any) -> Any:
    """TensorRT's `Runtime` that tells of a plan that it can not read, where the bindings give None, and takes a version-compatible one.

    Such a plan carries a runtime of its own, which is code of the host and runs only where that is allowed (TensorRT's developer guide, "Version
    Compatibility"). `trust.check` has looked whose it is.
    """

    class Runtime(tensorrt.Runtime):
        def __init__(self, logger: Any) -> None:
            super().__init__(logger)
            if built_by.get("version_compatible", True):  # a plan without a header may be one
                self.engine_host_code_allowed = True

        def deserialize_cuda_engine(self, plan: bytes) -> Any:
            engine = super().deserialize_cuda_engine(plan)
            if engine is None:
                raise UserError(
                    f"TensorRT {tensorrt.__version__} can not read {path}, and has said why; {trust.again(path)}"
                )
            return engine

    return Runtime


@contextmanager
def written_to(network: Any, out: Path) -> Iterator[None]:
    """Within the block an export of `network` is written beside `out` under its name (engine/exporter.py:909)."""
    before = vars(network).get("pt_path")
    network.pt_path = str(out.with_suffix(".pt"))
    try:
        yield
    finally:
        del network.pt_path
        if before is not None:
            network.pt_path = before


def destination(network: Any) -> Path:
    """Where an export of `network` would be written, with another suffix (engine/exporter.py:850): beside its checkpoint, or in this folder."""
    known = (
        getattr(network, "pt_path", None) or getattr(network, "yaml_file", None) or network.yaml.get("yaml_file", "")
    )
    path = Path(known)
    return Path(path.name) if path.suffix in (".yaml", ".yml") else path


@contextmanager
def told_in_our_words(staged: Path | None = None, final: Path | None = None) -> Iterator[list[str]]:
    """Within the block the exporter names this program in the commands that it proposes, and no file that is not there.

    Args:
        staged: the folder that it writes to, if that is not where the file will be; its closing words are then not said but given.
        final: the folder where the file will be.
    """
    closing: list[str] = []

    def in_our_words(record: logging.LogRecord) -> bool:
        """engine/exporter.py:529, :1018 and :1040. A file's size is in MiB there, whatever it says (utils/files.py:174)."""
        text = re.sub(r"\byolo (?=predict|val)", lambda _: f"{log.program()} ", record.getMessage())
        text = re.sub(r"starting from '.*' with input (.*) \([\d.]+ MB\)", r"input \1", text)
        text = re.sub(r"(?<=\d) MB\)", " MiB)", text)
        if staged is not None and final is not None:
            text = text.replace(str(staged.resolve()), str(final.resolve())).replace(str(staged), str(final))
            if text.lstrip().startswith("Export complete"):
                closing.append(text)
                return False
            if "export success" in text:  # too early: it may still be refused, and is not of that size yet
                return False
        record.msg, record.args = text, ()
        return True

    LOGGER.addFilter(in_our_words)
    try:
        yield closing
    finally:
        LOGGER.removeFilter(in_our_words)


def as_exported(source: torch.nn.Module) -> torch.nn.Module:
    """A float32 CPU copy whose heads return what is exported, the decoded outputs alone (engine/exporter.py:937)."""
    network = copy.deepcopy(source).cpu().float().eval()
    for module in network.modules():
        if hasattr(module, "export"):  # of a class; a classifier's has no `format` before
            vars(module).update(export=True, format="onnx")
    return network


def before_it_chooses(source: torch.nn.Module) -> torch.nn.Module:
    """The same copy of a detector with two heads, of which the one that needs no NMS gives (batch, anchors, 4 + classes), corners in front.

    What it would do next is to choose rows (nn/modules/head.py:249).
    """
    network: Any = as_exported(source)
    head = network.model[-1]
    head.end2end = True
    head.postprocess = lambda predictions: predictions
    return network
