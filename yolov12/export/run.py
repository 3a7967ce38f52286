# SPDX-License-Identifier: AGPL-3.0-or-later
"""`model.export(...)`: decided first (request.py), made aside, compared with its source (gate.py), and only then put where it belongs.

ultralytics' exporter traces the float32 graph; precision is set in the graph afterwards (half.py, calibrate.py), the same on every device.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from ultralytics.utils import LOGGER

from yolov12 import folders, settings
from yolov12.errors import UserError
from yolov12.export import aoti_request, cache, torchscript
from yolov12.export import request as requests
from yolov12.export.adapter import destination, told_in_our_words, written_to
from yolov12.export.request import Evaluate, Request, Suppression
from yolov12.log import say
from yolov12.wholefile import replacing

NEEDED_PACKAGES = ("onnx", "onnxslim", "onnxruntime")

DECIDED = ("half", "int8", "quantize", "dynamic", "opset", "imgsz", "simplify", "data")
"""Arguments that an exported file has settled."""

Stock = Callable[..., str]
"""ultralytics' `model.export(**arguments)`."""


def export(
    network: Any,
    stock: Stock,
    options: Mapping[str, Any],
    evaluate: Evaluate | None,
    model: Any = None,
) -> str:
    """Export and give the path of the file.

    Args:
        network: the PyTorch network that `stock` exports.
        stock: ultralytics' own export of it.
        options: what the user passed.
        evaluate: measures mAP for the gate, see request.Evaluate; asked only where `data=` was given.
        model: the ultralytics model whose `export` that is; without it the graph of an engine is not looked for in the cache.

    Raises:
        UserError: a combination that can not be made, a package that is missing, a folder that can not be written to.
        ParityError: the export differs from its source. Nothing is written then.
    """
    request = requests.of(options, (getattr(network, "args", None) or {}).get("imgsz", 640))
    if aoti_request.is_asked(options):
        from yolov12.export import aoti

        return aoti.export(network, options, evaluate)
    if request is None:
        return _of_ultralytics(network, stock, options, evaluate)
    require_packages()
    trt = by_plugin = None
    if request.form == "engine":
        from yolov12.export import builder, efficient_nms, engine

        trt = engine.module()
        engine.check(trt, request)
        efficient_nms.check(trt, request, network)
        if request.nms is not None:
            why_not = efficient_nms.why_not(trt, request, network)
            by_plugin = None if why_not else request.nms
            say(f"export: nms=True by {f'ultralytics ({why_not})' if why_not else efficient_nms.PLUGIN}")
    target = destination(network)
    suffix = "_int8.onnx" if request.precision == "int8" else ".onnx"
    target = target.with_name(f"{target.stem}{suffix}")
    folders.check_writable(target.parent, str(target))
    if request.precision == "int8":
        from yolov12.export import calibrate

        calibrate.pictures(str(request.data))  # refused here, where nothing has been traced yet
    for reason in request.reasons:
        say(f"export: {reason}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.stem}.export-", dir=target.parent) as folder:
        staged = Path(folder) / target.name
        asked = {**request.stock, **({"nms": False} if by_plugin else {})}
        key = None if trt is None or model is None else _key(network, asked, model, staged)
        with folders.named_where_full(target.parent):
            closing = _traced(network, lambda: stock(**asked), staged, target.parent, key)
            _set_precision(staged, request)
        for line in _verified(network, staged, "onnx", request, evaluate, key=key):
            say(line)
        made = [staged]
        if trt is not None:
            made.append(_engine(network, staged, target.parent, request, trt, by_plugin, key))
        for file in made:
            with replacing(target.parent / file.name) as part:
                shutil.copyfile(file, part)
    final = target.parent / made[-1].name
    say(f"export: {final} ({final.stat().st_size / 2**20:.1f} MiB)")
    for text in closing:
        if trt is not None and builder.is_rtx(trt):
            text = text.partition("\nPredict:")[0]  # nothing here runs it
        LOGGER.info(text.replace(str(target.resolve()), str(final.resolve())).replace(str(target), str(final)))
    return str(final)


def _key(network: Any, asked: Mapping[str, Any], model: Any, staged: Path) -> cache.Key | None:
    from yolov12.export import onnx_key

    with written_to(network, staged):  # the file's name may go into its description
        return onnx_key.of_source(network, asked, model)


def _traced(network: Any, trace: Callable[[], Any], staged: Path, final: Path, key: cache.Key | None) -> list[str]:
    """Write the float32 graph to `staged`, from the cache if it was traced before and has a key.

    Returns:
        What ultralytics' exporter says at its end; nothing where it did not run.
    """
    closing = []

    def build() -> bytes:
        with told_in_our_words(staged.parent, final) as said, written_to(network, staged):
            trace()
        closing.extend(said)
        return staged.read_bytes()

    if key is None:
        build()
        return closing
    graph, source = cache.get_or_build(settings.trt_cache_dir(), key, build, what=cache.GRAPH)
    if not staged.is_file():
        say(f"export: the ONNX graph is {source}, without a trace")
        staged.write_bytes(graph)
    return closing


def engine_of_file(path: Path, options: Mapping[str, Any]) -> str:
    """The engine of an ONNX file that was exported before, perhaps on another machine. Precision and shapes are the file's.

    Args:
        path: the file, with the metadata that ultralytics' exporter and ours write.
        options: what the user passed to `export`.

    Raises:
        UserError: another format than an engine, an argument that the file has decided, or a file of someone else.
    """
    request = requests.of({"format": "onnx"} | dict(options))
    if request is None or request.form != "engine":
        raise UserError(f"model={path} is exported already, and an engine can be made of it: type format=engine")
    if given := [key for key in DECIDED if options.get(key) is not None]:
        raise UserError(
            f"{given[0]}={options[given[0]]} was decided when {path} was exported: leave it out, or name the .pt file"
        )
    require_packages()
    import onnx
    from google.protobuf.message import DecodeError

    from yolov12.export import efficient_nms, engine, engine_file

    trt = engine.module()
    engine.check(trt, request)
    try:
        metadata = engine.metadata_of(onnx.load(path))
    except DecodeError as error:
        raise UserError(f"{path} is no whole ONNX file: fetch it again, or export it again") from error
    if "imgsz" not in metadata or "args" not in metadata:
        raise UserError(
            f"{path} does not say what it is, so it was not exported by ultralytics or yolov12: name the .pt file"
        )
    if request.nms is not None and (why_not := _why_no_plugin(metadata) or efficient_nms.why_not(trt, request, None)):
        raise UserError(
            f"nms=True can not be put into the engine of {path} ({why_not}): leave it out, or name the .pt file"
        )
    precision = requests.PRECISIONS[metadata["args"].get("quantize") or 32]
    batch = request.batch if options.get("batch") else int(metadata["batch"])
    plan, metadata = engine.make(path, dataclasses.replace(request, precision=precision, batch=batch), trt, request.nms)
    target = path.with_suffix(".engine")
    with replacing(target) as part:
        part.write_bytes(plan if request.raw else engine_file.framed(metadata, plan))
    say(f"parity: the engine is not verified: the weights that {path.name} was made from are not here")
    return str(target)


def _why_no_plugin(metadata: Mapping[str, Any]) -> str:
    """Why nothing can suppress behind a graph that says this of itself; "" if something can."""
    if metadata["args"].get("nms") or metadata.get("end2end"):
        return "the file suppresses already"
    return "" if metadata["task"] == "detect" else f"a model for {metadata['task']} gives more than boxes"


def require_packages() -> None:
    """Say what is missing before upstream starts to install it (utils/checks.py:527).

    Raises:
        UserError: names the packages.
    """
    missing = [name for name in NEEDED_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        names = " ".join(missing)
        raise UserError(f"ONNX export needs packages that are not installed here: {names}. Type: pip install {names}")


def _set_precision(path: Path, request: Request) -> None:
    """Change the float32 graph at `path` into what was asked for, and its metadata with it."""
    import onnx

    from yolov12.export import calibrate, half

    model = onnx.load(path)
    metadata = [(entry.key, entry.value) for entry in model.metadata_props]
    if request.precision == "int8":
        files = calibrate.pictures(str(request.data))
        say(f"export: int8 is calibrated on {len(files)} pictures of {request.data}")
        if len(files) < calibrate.FEW_IMAGES:
            say(f"export: that is few; from {calibrate.FEW_IMAGES} on the ranges are stable")
        model = calibrate.quantized(model, _batches(path, files))
    if request.precision == "fp16" or (request.precision == "int8" and request.form == "engine"):
        converted = half.convert(model)
        say(f"export: {converted.reason()}")
        model = converted.model
    del model.metadata_props[:]
    for key, value in metadata:
        if key == "args":  # what AutoBackend and others read of the precision
            known = ast.literal_eval(value)
            value = str(
                known | {"quantize": {"fp32": None, "fp16": 16, "int8": 8}[request.precision], "data": request.data}
            )
        if key == "date":  # of this export, whenever the graph was traced
            value = datetime.now().astimezone().isoformat()
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, path)


def _batches(path: Path, files: Sequence[Path]) -> Iterator[np.ndarray]:
    from yolov12.export import parity

    return parity.full_batches(parity.open_onnx(path), files)


def _verified(
    network: Any,
    path: Path,
    form: str,
    request: Request,
    evaluate: Evaluate | None,
    by_plugin: Suppression | None = None,
    key: cache.Key | None = None,
) -> list[str]:
    """The gate's lines; `key` is the graph's in the cache, and without one nothing is known of an earlier comparison."""
    if not request.verify:
        return [f"parity: {form} {requests.NOT_ASKED}"]
    import onnx

    from yolov12.export import builder, engine, gate, verdict

    metadata = engine.metadata_of(onnx.load(path.with_suffix(".onnx"), load_external_data=False))
    if why_not := gate.why_not_compared(network, metadata):
        return [f"parity: {form} is not verified: {why_not}"]
    has_nms = bool(metadata["args"].get("nms"))
    height, width = metadata["imgsz"]
    case = gate.Case(
        source=network,
        path=path,
        form=form,
        precision=request.precision,
        imgsz=(height, width),
        nms=request.nms if has_nms else by_plugin,
        evaluate=evaluate if request.data else None,
        ranked=requests.suppression_of(request.stock) if gate.is_ranked(network, metadata) else None,
    )
    source = None if key is None else key["source"]
    return verdict.lines(case, source, builder.gpu_here() if form == "engine" else "", request.again)


def _engine(
    network: Any,
    onnx_path: Path,
    final: Path,
    request: Request,
    trt: Any,
    by_plugin: Suppression | None,
    key: cache.Key | None,
) -> Path:
    """The engine beside the ONNX file, verified if it can be run here; `final` is the folder that it will be in."""
    import torch

    from yolov12.export import builder, engine, engine_file

    plan, metadata = engine.make(onnx_path, request, trt, by_plugin)
    path = onnx_path.with_suffix(".engine")
    with folders.named_where_full(final):
        path.write_bytes(engine_file.framed(metadata, plan))
    if builder.is_rtx(trt):
        say(
            "parity: the engine itself is not verified: nothing here runs engines of TensorRT-RTX; the ONNX file that it was built from is"
        )
    elif not torch.cuda.is_available():
        say("parity: the engine itself is not verified: there is no GPU here")
    else:
        for line in _verified(network, path, "engine", request, None, by_plugin, key):
            say(line)
    if request.raw:
        path.write_bytes(plan)
    return path


def _of_ultralytics(
    network: Any,
    stock: Stock,
    options: Mapping[str, Any],
    evaluate: Evaluate | None,
) -> str:
    """A format that is ultralytics' alone; TorchScript is compared, and of the others it is said that they are not."""
    form = str(options.get("format") or "torchscript").lower()
    if form == "torchscript":
        return torchscript.export(network, stock, options, evaluate)
    with told_in_our_words():
        made = stock(**{key: value for key, value in options.items() if key not in requests.OWN_KEYS})
    why = f"is not verified (it is compared for {requests.COMPARED})"
    say(f"parity: {form} {requests.NOT_ASKED if options.get('verify') is False else why}")
    return made
