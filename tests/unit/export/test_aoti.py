# SPDX-License-Identifier: AGPL-3.0-or-later
"""AOTInductor packages: what is traced and written, and one that is compiled for the CPU (slow) and compared with its source through YOLO."""

import copy
import logging
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from yolov12.data import synth
from yolov12.errors import RetryableError, UserError
from yolov12.export import adapter, aoti, aoti_file, aoti_key, aoti_request, boxes, cache, fingerprint, gate

CPU = torch.device("cpu")


def asked(**options):
    return aoti_request.of({"format": "aoti", "imgsz": 64} | options, 640)


@pytest.fixture(scope="module")
def sighted(model):
    """The same network, with scores around a half: boxes to compare."""
    network = copy.deepcopy(model.model)
    with torch.no_grad():
        for branch in network.model[-1].cv3:
            branch[-1].bias += 11
    return network


@pytest.fixture(scope="module")
def program(sighted):
    return aoti.traced(sighted, asked(), CPU)


# What is compiled


def test_attention_is_torchs_own_so_that_a_package_needs_nothing_of_ours(program):
    ops = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert ops.count(torch.ops.aten.scaled_dot_product_attention.default) == 8
    assert {op.namespace for op in ops if isinstance(op, torch._ops.OpOverload)} == {"aten"}


def test_the_program_computes_what_the_network_does_and_leaves_it_alone(sighted, program):
    before = {name: tensor.clone() for name, tensor in sighted.state_dict().items()}
    pixels = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        expected = adapter.as_exported(sighted)(pixels)
        got = program.module()(pixels)
    torch.testing.assert_close(got, expected, atol=1e-3, rtol=1e-4)
    assert all(torch.equal(tensor, before[name]) for name, tensor in sighted.state_dict().items())


def test_float16_inside_decodes_boxes_in_float32(sighted):
    pixels = torch.rand(1, 3, 64, 64)
    network = adapter.as_exported(sighted).fuse(verbose=False)
    seen = []
    decode = network.model[-1].decode_bboxes
    network.model[-1].decode_bboxes = lambda *args: seen.append(args[0].dtype) or decode(*args)
    with torch.inference_mode():
        expected = copy.deepcopy(network)(pixels)
        got = aoti.Packaged(network, half=True)(pixels)
    assert (got.dtype, got.shape) == (torch.float32, expected.shape)
    assert seen[-1] == torch.float32
    assert network.model[0].conv.weight.dtype == torch.float16
    assert (got[:, 4:] - expected[:, 4:]).abs().max() < 0.2  # an untrained network amplifies rounding


def test_the_key_tells_apart_weights_shapes_precisions_and_machines(sighted, program):
    here = aoti_file.origin_here(CPU)
    about = aoti.metadata(sighted, asked(), here)
    first = aoti_key.of_program(program, about, here)
    assert aoti_key.of_program(program, about, here) == first
    changed = copy.deepcopy(sighted)
    with torch.no_grad():
        changed.model[0].conv.weight[0, 0, 0, 0] += 1
    others = [
        aoti_key.of_program(aoti.traced(changed, asked(), CPU), about, here),
        aoti_key.of_program(program, aoti.metadata(sighted, asked(batch=2), here), here),
        aoti_key.of_program(program, about, aoti_file.Origin(here.torch, "sm_90", "NVIDIA H100", here.machine, ())),
    ]
    assert len({cache.name_of(key) for key in (first, *others)}) == 4


def test_metadata_is_what_ultralytics_reads(sighted):
    about = aoti.metadata(sighted, asked(batch=2), aoti_file.origin_here(CPU))
    assert (about["task"], about["batch"], about["imgsz"], about["stride"], len(about["names"])) == (
        "detect",
        2,
        [64, 64],
        32,
        80,
    )
    assert about["args"]["dynamic"] is False
    assert about["end2end"] is False


# Before anything is compiled


@pytest.mark.parametrize(
    ("options", "gpus", "device"),
    [
        ({}, 0, "cpu"),
        ({}, 2, "cuda:0"),
        ({"device": "cpu"}, 2, "cpu"),
        ({"device": 1}, 2, "cuda:1"),
        ({"device": "cuda:1"}, 2, "cuda:1"),
    ],
)
def test_it_is_compiled_for_the_device_that_is_there(monkeypatch, options, gpus, device):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert aoti.device_of(asked(**options)) == torch.device(device)


@pytest.mark.parametrize(
    ("options", "gpus", "words"),
    [
        (
            {"device": 0},
            0,
            "device=0: a package is compiled on the one GPU that it is for, and torch sees 0 here; type device=cpu",
        ),
        ({"device": "0,1"}, 2, "type device=cpu or device=0 to 1"),
        ({"half": True}, 0, "half=True is for GPUs"),
    ],
)
def test_a_device_that_is_not_there_is_refused(monkeypatch, options, gpus, words):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(UserError) as refused:
        aoti.device_of(asked(**options))
    assert words in str(refused.value)


def test_the_gate_runs_a_package_in_float32_and_not_in_what_cudnn_makes_of_it(monkeypatch, tmp_path):
    class Backend:
        device, batch, channels, names, task, end2end = CPU, 1, 3, {0: "a"}, "detect", False

        def __call__(self, pixels):
            return torch.full((1,), float(torch.backends.cudnn.allow_tf32))

    monkeypatch.setattr("ultralytics.nn.autobackend.AutoBackend", lambda *args, **options: Backend())
    opened = gate.open_backend(gate.Case(None, tmp_path / "best_cpu.pt2", "aoti", "fp32", (64, 64)))
    assert opened.run(np.zeros((1, 3, 64, 64), np.float32))[0] == 0
    assert torch.backends.cudnn.allow_tf32


# Files, with bytes that stand for a package


@pytest.fixture
def compiled(monkeypatch, tmp_path):
    """Nothing is compiled; gives the calls."""
    calls = []
    monkeypatch.setattr(aoti, "traced", lambda *args: None)
    monkeypatch.setattr(aoti_key, "of_program", lambda program, about, here: {"model": "a", "gpu": here.arch})
    monkeypatch.setattr(
        aoti, "package", lambda program, about, path: calls.append(about) or path.write_bytes(b"package")
    )
    monkeypatch.setenv("YOLOV12_TRT_CACHE_DIR", str(tmp_path / "engines"))
    return calls


@pytest.fixture
def best(model, tmp_path):
    model.model.pt_path = str(tmp_path / "best.pt")
    yield model
    del model.model.pt_path


def files(folder):
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def test_it_lies_beside_the_weights_named_for_its_machine_and_is_compiled_once(best, compiled, tmp_path, capsys):
    for _ in range(2):
        made = best.export(format="aoti", imgsz=64, device="cpu", verify=False)
    assert made == str(tmp_path / "best_cpu.pt2")
    assert files(tmp_path) == ["best_cpu.pt2"]
    assert len(compiled) == 1
    said = capsys.readouterr().err
    assert "from the cache" in said
    assert "parity: aoti is not compared by the export itself (verify=False)" in said


def test_what_is_in_the_cache_is_not_traced_again(best, compiled, monkeypatch, capsys):
    best.export(format="aoti", imgsz=64, device="cpu", verify=False)
    monkeypatch.setattr(aoti, "traced", lambda *args: 1 // 0)
    best.export(format="aoti", imgsz=64, device="cpu", verify=False)
    assert "without a trace" in capsys.readouterr().err
    with pytest.raises(ZeroDivisionError):
        best.export(format="aoti", imgsz=96, device="cpu", verify=False)


def test_what_was_compared_is_not_compared_again(best, compiled, monkeypatch, capsys):
    compared = []
    monkeypatch.setattr(gate, "verify", lambda case: compared.append(case.form) or ["parity: aoti in fp32: fine"])
    for again in (False, False, True):
        best.export(format="aoti", imgsz=64, device="cpu", verify_again=again)
    assert compared == ["aoti", "aoti"]
    assert "parity: as compared on 20" in capsys.readouterr().err


def test_a_network_that_does_not_say_enough_of_itself_is_traced_and_found(best, compiled, monkeypatch, capsys):
    monkeypatch.setattr(fingerprint, "of", lambda network: None)
    for _ in range(2):
        best.export(format="aoti", imgsz=64, device="cpu", verify=False)
    said = capsys.readouterr().err
    assert len(compiled) == 1
    assert "from the cache" in said
    assert "without a trace" not in said


def test_a_full_disk_under_the_cache_costs_no_package(best, compiled, monkeypatch, tmp_path, capsys):
    """Nor is it a stranger's when it is loaded to be compared."""
    folder = tmp_path / "engines"
    folder.mkdir()
    (folder / cache.LEDGER).symlink_to("/dev/full")
    made = best.export(format="aoti", imgsz=64, device="cpu", verify=False)
    aoti_file.check_trusted(Path(made))
    assert "package cache: this package is not kept" in capsys.readouterr().err


def test_a_compiler_without_room_is_worth_a_retry(monkeypatch, program, tmp_path):
    from torch._inductor.exc import CppCompileError

    def compiled(*_, **__):
        raise CppCompileError(["g++"], "x.cpp: in function\nas: error: writing to x.o: No space left on device")

    monkeypatch.setattr("torch._inductor.aot_compile", compiled)
    with pytest.raises(RetryableError, match=r"no room to compile the package: as: error: writing to x\.o"):
        aoti.package(program, {}, tmp_path / "x.pt2")


def test_nobody_hears_of_cuda_where_it_is_compiled_for_the_cpu(best, compiled, monkeypatch, caplog):
    def package(program, about, path):
        logger = logging.getLogger("torch.utils.cpp_extension")
        logger.warning("No CUDA runtime is found, using CUDA_HOME='%s'", "/usr/local/cuda")
        logger.warning("The compiler is old")
        path.write_bytes(b"package")

    monkeypatch.setattr(aoti, "package", package)
    monkeypatch.setattr(logging.getLogger("torch"), "propagate", True)
    best.export(format="aoti", imgsz=64, device="cpu", verify=False)
    said = {words for words in caplog.messages if "CUDA" in words or "compiler" in words}
    assert said == {"The compiler is old"}


def test_one_that_differs_is_not_written_and_the_old_one_stays(best, compiled, tmp_path, monkeypatch):
    (tmp_path / "best_cpu.pt2").write_text("the old one")
    monkeypatch.setattr(gate, "verify", lambda case: (_ for _ in ()).throw(gate.ParityError("differs")))
    with pytest.raises(gate.ParityError):
        best.export(format="aoti", imgsz=64, device="cpu")
    assert (tmp_path / "best_cpu.pt2").read_text() == "the old one"
    assert files(tmp_path) == ["best_cpu.pt2"]


# A real one


@pytest.fixture(scope="module")
def made(sighted, tmp_path_factory):
    """Weights, and their package for two pictures of 64x64."""
    from yolov12 import YOLO

    folder = tmp_path_factory.mktemp("aoti")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("YOLOV12_TRT_CACHE_DIR", str(folder / "engines"))
        torch.save({"model": copy.deepcopy(sighted)}, folder / "best.pt")
        yield folder / "best.pt", YOLO(folder / "best.pt").export(format="aoti", imgsz=64, batch=2, device="cpu")


@pytest.mark.slow
def test_a_package_finds_what_its_source_finds(made):
    from yolov12 import YOLO

    weights, package = made
    pictures = gate.bundled_images()
    source, exported = (
        YOLO(path).predict(pictures, imgsz=64, rect=False, conf=0.3, device="cpu", verbose=False)
        for path in (weights, package)
    )
    for expected, got in zip(source, exported, strict=True):
        rows = [result.boxes.data.numpy() for result in (expected, got)]
        assert len(rows[0]) > 5
        pairs = boxes.pair_up(*rows)
        assert len(rows[0]) == len(rows[1]) == len(pairs)
        assert min(iou for *_, iou in pairs) > 0.99
        assert expected.names == got.names


@pytest.mark.slow
def test_a_package_is_validated_as_its_source(made, tmp_path):
    from yolov12 import YOLO

    data = str(synth.write(tmp_path / "data", 1, 3, 64, 0))  # three: the last batch is not full
    scores = [
        YOLO(path).val(data=data, imgsz=64, rect=False, device="cpu", plots=False, verbose=False).results_dict
        for path in made
    ]
    assert scores[1] == pytest.approx(scores[0], abs=1e-3)


@pytest.mark.slow
def test_a_package_asks_for_the_number_of_threads_when_it_runs(made):
    """Here torch has one, which it would write down."""
    with zipfile.ZipFile(made[1]) as archive:
        code = b"".join(archive.read(name) for name in archive.namelist() if name.endswith(".cpp"))
    assert code.count(b"#pragma omp parallel\n") > 20
    assert b"num_threads(" not in code


@pytest.mark.slow
def test_pictures_of_another_size_are_refused_and_not_read_past_their_end(made):
    from ultralytics.nn.autobackend import AutoBackend

    backend = AutoBackend(made[1], verbose=False)
    assert backend(torch.zeros(1, 3, 64, 64)).shape == (1, 84, 84)
    assert backend(torch.zeros(5, 3, 64, 64)).shape == (5, 84, 84)
    with pytest.raises(UserError, match="pictures of shape 2x3x32x64: this package was compiled for 2x3x64x64"):
        backend(torch.zeros(2, 3, 32, 64))


@pytest.mark.slow
def test_nothing_is_compiled_where_one_is_loaded(made, monkeypatch):
    from ultralytics.nn.autobackend import AutoBackend

    monkeypatch.setattr("torch._inductor.cpu_vec_isa.pick_vec_isa", lambda: 1 // 0)
    assert AutoBackend(made[1], verbose=False)(torch.zeros(2, 3, 64, 64)).shape == (2, 84, 84)


@pytest.mark.slow
def test_predictions_by_graphs_are_the_same(made, monkeypatch):
    from tests.unit.engine.stand_in_pool import StandInPools
    from yolov12 import YOLO
    from yolov12.engine import network

    model, options = YOLO(made[1]), {"conf": 0.3, "device": "cpu", "verbose": False}
    expected = [result.boxes.data for result in model.predict(gate.bundled_images(), **options)]
    pools = StandInPools()
    monkeypatch.setattr(network, "pool_of", pools.pool_of)
    model.predictor = None
    for _ in range(3):
        found = [result.boxes.data for result in model.predict(gate.bundled_images(), **options)]
        assert all(torch.equal(*pair) for pair in zip(expected, found, strict=True))
    assert pools.replays > 0


@pytest.mark.slow
def test_a_package_runs_where_there_is_no_compiler(made):
    code = f"from yolov12 import YOLO; print(len(YOLO({str(made[1])!r}).predict({str(gate.bundled_images()[0])!r}, device='cpu', verbose=False)))"
    environment = os.environ | {"PATH": "/nonexistent", "CXX": "no-such-compiler"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.splitlines()[-1:] == ["1"], done.stderr
