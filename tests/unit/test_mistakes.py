# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which exceptions are a user's mistake. Where ultralytics raises them, it is made to, so that a new pin with new words is noticed."""

from __future__ import annotations

import errno
from types import SimpleNamespace

import pytest

from yolov12.errors import NotYetError, RetryableError, UserError
from yolov12.mistakes import as_exit, sentence


def raised_by(call, *args, **kwargs) -> BaseException:
    with pytest.raises(Exception) as caught:
        call(*args, **kwargs)
    return caught.value


def raised_from(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


# What ultralytics raises


def test_an_argument_that_ultralytics_does_not_know_is_a_mistake():
    from ultralytics.cfg import get_cfg

    known = as_exit(raised_by(get_cfg, overrides={"epoch": 3}))
    assert isinstance(known, UserError)
    assert "'epoch' is not a valid YOLO argument" in str(known)


@pytest.mark.parametrize(
    "overrides",
    [
        {"epochs": "abc"},
        {"epochs": 0},
        {"lr0": "fast"},
        {"mosaic": 2.0},
        {"plots": "yes"},
        {"amp": "fp8"},
        {"scale": 3},
        {"optimizer": 1},
        {"fraction": 0},
        {"epochs": None},
        {"quantize": "fp4"},
    ],
)
def test_a_value_that_ultralytics_refuses_is_a_mistake(overrides):
    from ultralytics.cfg import get_cfg

    known = as_exit(raised_by(get_cfg, overrides=overrides))
    assert isinstance(known, UserError)
    assert next(iter(overrides)) in str(known)


def test_a_device_that_does_not_exist_is_one_line():
    from ultralytics.utils.torch_utils import select_device

    known = as_exit(raised_by(select_device, "77"))
    assert isinstance(known, UserError)
    assert str(known).startswith("Invalid CUDA 'device=77' requested.")
    assert "os.environ" not in str(known)


def test_an_image_size_that_ultralytics_refuses_is_a_mistake():
    from ultralytics.utils.checks import check_imgsz

    assert isinstance(as_exit(raised_by(check_imgsz, "wide")), UserError)
    assert isinstance(as_exit(raised_by(check_imgsz, [1, 2, 3], max_dim=2)), UserError)


def test_a_file_that_ultralytics_does_not_find_is_a_mistake():
    from ultralytics.utils.checks import check_file

    known = as_exit(raised_by(check_file, "nowhere-to-be-found.yaml"))
    assert str(known) == "'nowhere-to-be-found.yaml' does not exist"
    assert isinstance(known, UserError)


def test_a_source_without_pictures_is_a_mistake(tmp_path):
    from ultralytics.data.loaders import LoadImagesAndVideos

    assert isinstance(as_exit(raised_by(LoadImagesAndVideos, tmp_path / "missing.jpg")), UserError)
    (tmp_path / "text.txt").touch()
    assert isinstance(as_exit(raised_by(LoadImagesAndVideos, str(tmp_path))), UserError)


class OfOnePicture:
    """A data set that reads its only picture as ultralytics' do (data/base.py:252)."""

    def __init__(self, path):
        self.path = path

    def __len__(self):
        return 1

    def __getitem__(self, index):
        from pathlib import Path

        from ultralytics.data.base import BaseDataset

        like = SimpleNamespace(
            ims=[None], im_files=[str(self.path)], npy_files=[Path(f"{self.path}.npy")], cache=None, cv2_flag=1
        )
        return BaseDataset.load_image(like, index)


def read_by(workers, dataset):
    from torch.utils.data import DataLoader

    return raised_by(lambda: next(iter(DataLoader(dataset, num_workers=workers))))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_is_gone_in_mid_run_is_worth_a_retry(workers, tmp_path):
    known = as_exit(read_by(workers, OfOnePicture(tmp_path / "a b.jpg")))
    assert isinstance(known, RetryableError)
    assert str(known).startswith(f"{tmp_path / 'a b.jpg'} is gone: see whether")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_is_damaged_within_is_a_mistake(workers, tmp_path):
    picture = tmp_path / "1.jpg"
    picture.write_bytes(b"\xff\xd8\xff\xd9")
    known = as_exit(read_by(workers, OfOnePicture(picture)))
    assert isinstance(known, UserError)
    assert str(known).startswith(f"{picture} can not be decoded")


def test_a_loaders_process_that_is_killed_is_named_with_what_killed_it():
    import os
    import signal

    class Killed(OfOnePicture):
        def __getitem__(self, index):
            os.kill(os.getpid(), signal.SIGKILL)

    known = as_exit(read_by(1, Killed(None)))
    assert isinstance(known, RetryableError)
    assert "is killed by signal: Killed" in str(known)
    assert "use fewer workers" in str(known)


def test_an_error_that_a_loaders_process_relays_is_told_without_its_traceback(tmp_path):
    class Forbidden(OfOnePicture):
        def __getitem__(self, index):
            raise PermissionError(f"{self.path} is not for you")

    known = as_exit(read_by(1, Forbidden("7.jpg")))
    assert isinstance(known, UserError)
    assert str(known) == "7.jpg is not for you"


def test_a_data_file_without_its_keys_is_a_mistake(tmp_path):
    from ultralytics.data.utils import check_det_dataset

    (tmp_path / "data.yaml").write_text("train: images\n")
    known = as_exit(raised_by(check_det_dataset, str(tmp_path / "data.yaml")))
    assert isinstance(known, UserError)
    assert "'val:' key missing. 'train' and 'val' are required" in str(known)


def test_a_malformed_data_file_is_a_mistake(tmp_path):
    from ultralytics.utils import YAML

    (tmp_path / "data.yaml").write_text("train: [")
    known = as_exit(raised_by(YAML.load, tmp_path / "data.yaml"))
    assert isinstance(known, UserError)
    assert str(known).startswith(f"YAML syntax error in '{tmp_path}/data.yaml'")
    (tmp_path / "data.yaml").write_text("[1, 2]")
    assert isinstance(as_exit(raised_by(YAML.load, tmp_path / "data.yaml")), UserError)


def test_what_ultralytics_exporter_refuses_is_a_mistake():
    from ultralytics.engine.exporter import Exporter

    exporter = Exporter(overrides={"format": "torchscript", "quantize": 16, "device": "cpu"})
    known = as_exit(raised_by(exporter, small_network()))
    assert isinstance(known, UserError)
    assert str(known) == "FP16 TorchScript export is only supported on GPU, i.e. use device=0."


def small_network():
    from ultralytics.nn.tasks import DetectionModel

    return DetectionModel("yolo11n.yaml", verbose=False)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("cut.onnx", b"\x08\x08\x12" * 9, "cut.onnx is no whole ONNX file: fetch it again, or export it again"),
        ("best.foo", b"?", "no kind of model ends like that"),
    ],
)
def test_a_file_that_no_backend_takes_is_a_mistake(tmp_path, name, content, says):
    from ultralytics.nn.autobackend import AutoBackend

    (tmp_path / name).write_bytes(content)
    known = as_exit(raised_by(AutoBackend, str(tmp_path / name)))
    assert isinstance(known, UserError)
    assert says in str(known)


def test_a_graph_that_onnx_runtime_can_not_load_is_a_mistake(tmp_path):
    import onnx
    import onnxruntime

    graph = '<ir_version: 8, opset_import: ["" : 18]> g (float[1] x) => (float[1] y) { y = Nothing (x) }'
    onnx.save(onnx.parser.parse_model(graph), tmp_path / "odd.onnx")
    known = as_exit(
        raised_by(onnxruntime.InferenceSession, str(tmp_path / "odd.onnx"), providers=["CPUExecutionProvider"])
    )
    assert isinstance(known, UserError)
    assert str(known).startswith(f"ONNX Runtime can not load {tmp_path}/odd.onnx: ")


def test_training_an_exported_model_is_a_mistake():
    from ultralytics.engine.model import Model

    known = as_exit(raised_by(Model._check_is_pytorch_model, SimpleNamespace(model="some.onnx")))
    assert isinstance(known, UserError)
    assert "model='some.onnx' should be a *.pt PyTorch model" in str(known)


@pytest.mark.parametrize(
    "message", ["Download failure for https://x/y.zip. Retry limit", "1/1: rtsp://x... Failed to open rtsp://x"]
)
def test_an_address_that_does_not_answer_is_worth_a_retry(message):
    assert isinstance(as_exit(ConnectionError(message)), RetryableError)
    assert isinstance(as_exit(raised_from(RuntimeError("Dataset 'x' error"), ConnectionError(message))), RetryableError)


# Kinds


def test_what_a_dataset_error_wraps_keeps_its_own_exit_code():
    full = raised_from(
        RuntimeError("Dataset 'x.yaml' error"), OSError(errno.ENOSPC, "No space left on device", "x.cache")
    )
    assert isinstance(as_exit(full), RetryableError)
    ours = raised_from(RuntimeError("Dataset 'x.yaml' error"), UserError("label 7 in a.txt"))
    assert str(as_exit(ours)) == "label 7 in a.txt"


def test_a_dataset_error_is_a_mistake():
    known = as_exit(
        raised_from(RuntimeError("Dataset 'x.yaml' error \u274c not there"), FileNotFoundError("not there"))
    )
    assert isinstance(known, UserError)
    assert str(known) == "Dataset 'x.yaml' error not there"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_worth_a_retry(number):
    known = as_exit(OSError(number, "No space left on device", "last.pt"))
    assert isinstance(known, RetryableError)
    assert str(known) == "last.pt: No space left on device: make room and run the same command again"


def test_a_device_without_memory_before_anything_could_be_made_smaller_is_worth_a_retry():
    import torch

    told = "CUDA out of memory. Tried to allocate 2.00 MiB. GPU 0 has a total capacity of 79.18 GiB"
    for error in (
        torch.OutOfMemoryError(told),
        RuntimeError(f"CUDA error: out of memory\nCUDA kernel errors might {told}"),
    ):
        known = as_exit(error)
        assert isinstance(known, RetryableError)
        assert "\n" not in str(known)
        assert str(known).endswith("free the device's memory, or use a smaller model, imgsz or batch")
    assert as_exit(RuntimeError("a bug")) is None


def test_a_full_disk_is_recognised_in_what_torch_makes_of_it():
    import torch

    known = as_exit(raised_by(torch.save, {"weights": torch.zeros(1_000_000)}, "/dev/full"))
    assert isinstance(known, RetryableError)


def test_errors_of_ours_are_passed_on():
    ours = NotYetError("later")
    assert as_exit(ours) is ours


def test_a_missing_optional_package_is_named():
    known = as_exit(ModuleNotFoundError("No module named 'openvino'", name="openvino"))
    assert isinstance(known, UserError)
    assert "'openvino'" in str(known)


def test_a_folder_without_permission_is_a_mistake():
    known = as_exit(PermissionError(errno.EACCES, "Permission denied", "/out"))
    assert (type(known), str(known)) == (UserError, "/out: Permission denied")
    assert isinstance(as_exit(OSError(errno.EROFS, "Read-only file system", "/out")), UserError)


def test_malformed_yaml_is_a_mistake():
    import yaml

    known = as_exit(raised_by(yaml.safe_load, "a: ["))
    assert isinstance(known, UserError)
    assert "\n" not in str(known)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("shapes (3,) and (4,) not aligned"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        KeyError("names"),
        AttributeError("'AAttn' object has no attribute 'qkv'"),
        TypeError("train() got an unexpected keyword argument 'x'"),
        AssertionError("unreachable"),
        ModuleNotFoundError("No module named 'yolov12.tools.demo'", name="yolov12.tools.demo"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "internal.json"),
    ],
)
def test_a_bug_keeps_its_traceback(error):
    assert as_exit(error) is None


def test_a_syntax_error_in_a_file_of_python_is_a_bug():
    assert as_exit(raised_by(compile, "x =", "module.py", "exec")) is None


def test_a_message_is_one_line_without_pictures():
    assert sentence(RuntimeError("\U0001f680 data.yaml \u274c\n  not found \u26a0\ufe0f")) == "data.yaml not found"
    assert sentence(RuntimeError("\u6570\u636e.yaml is missing")) == "\u6570\u636e.yaml is missing"
    assert sentence(OSError(errno.EIO, "Input/output error")) == "Input/output error"
    assert (
        sentence(AssertionError("ERROR \u274c\ufe0f argument 'opset' is not supported"))
        == "argument 'opset' is not supported"
    )


def test_a_circle_of_causes_ends():
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert as_exit(first) is None
