# SPDX-License-Identifier: AGPL-3.0-or-later
"""Ours and ultralytics' validator, on identical predictions, give identical numbers, files and callbacks. Needs no GPU."""

from __future__ import annotations

import json
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import ultralytics.engine.validator as upstream_validator
import ultralytics.models.yolo.detect.val as upstream_detect
import ultralytics.utils.metrics as upstream_metrics
from torch import Tensor
from ultralytics.data.build import InfiniteDataLoader
from ultralytics.models.yolo.detect import DetectionValidator
from ultralytics.nn.autobackend import AutoBackend

from tests.unit.engine.oracle import Oracle, copy_of_bccd
from tests.unit.engine.stand_in_pool import StandInPool
from tests.unit.export.lively import lively_model
from yolov12.engine import network as network_module
from yolov12.engine import validator as validator_module
from yolov12.engine.patches import install_patches
from yolov12.engine.scoring import matching, statistics, timing
from yolov12.engine.validation_memory import surviving
from yolov12.engine.validator import YOLOv12Validator
from yolov12.memory import failure as memory_failure
from yolov12.memory.history import History

OUT_OF_MEMORY = torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    install_patches()
    return copy_of_bccd(tmp_path_factory.mktemp("bccd"))


def validated(cls: type, data: str, folder: Path, fail: str = "", **options: Any) -> tuple[Any, dict[str, float]]:
    """A validator of `cls` that has run, and what it answered."""
    crowd = options.pop("crowd", 20)
    args = {"data": data, "imgsz": 96, "batch": 3, "plots": False, "verbose": False, "device": "cpu"} | options
    oracle = Oracle(crowd)
    validator = cls(save_dir=folder, args={"task": "detect", "model": "oracle.pt", **args})
    oracle.watch(validator)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upstream_validator, "AutoBackend", lambda **_: oracle)
        answer = validator(model="oracle.pt")
    return validator, answer


def assert_equal(ours: Any, theirs: Any) -> None:
    """All that a caller may read from a validator."""
    for name in ("p", "r", "f1", "all_ap", "ap_class_index", "p_curve", "r_curve", "f1_curve", "prec_values"):
        np.testing.assert_array_equal(getattr(ours.metrics.box, name), getattr(theirs.metrics.box, name), err_msg=name)
    assert ours.metrics.results_dict == theirs.metrics.results_dict
    assert ours.metrics.box.image_metrics == theirs.metrics.box.image_metrics
    for name in ("nt_per_class", "nt_per_image"):
        np.testing.assert_array_equal(getattr(ours.metrics, name), getattr(theirs.metrics, name))
    np.testing.assert_array_equal(ours.confusion_matrix.matrix, theirs.confusion_matrix.matrix)
    assert ours.seen == theirs.seen


def both(data: str, tmp_path: Path, **options: Any) -> tuple[Any, Any]:
    sides = []
    for cls in (YOLOv12Validator, DetectionValidator):
        folder = tmp_path / cls.__name__
        folder.mkdir()
        sides.append(validated(cls, data, folder, **options))
    (ours, our_answer), (theirs, their_answer) = sides
    assert our_answer == their_answer
    assert_equal(ours, theirs)
    return ours, theirs


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"crowd": 120, "max_det": 1000},
        {"rect": False, "batch": 16},
        {"single_cls": True},
        {"agnostic_nms": True, "conf": 0.2},
        {"max_det": 5, "iou": 0.5},
    ],
    ids=str,
)
def test_the_numbers_are_ultralytics(data: str, tmp_path: Path, options: dict[str, Any]) -> None:
    ours, _ = both(data, tmp_path, **options)
    assert 0.01 < ours.metrics.box.map < 0.99, "a parity of zeros or ones proves little"


@pytest.fixture
def nothing_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes most of a small validation and is ultralytics' own."""
    for owner, name in (
        (upstream_metrics.ConfusionMatrix, "plot"),
        (upstream_metrics, "plot_pr_curve"),
        (upstream_metrics, "plot_mc_curve"),
        (DetectionValidator, "plot_val_samples"),
        (DetectionValidator, "plot_predictions"),
    ):
        monkeypatch.setattr(owner, name, lambda *_, **__: None)


@pytest.mark.usefixtures("nothing_drawn")
@pytest.mark.parametrize("conf", [0.001, 0.9])
def test_the_confusion_matrix_is_ultralytics(data: str, tmp_path: Path, conf: float) -> None:
    ours, _ = both(data, tmp_path, plots=True, conf=conf)
    matrix = ours.confusion_matrix.matrix
    assert matrix[:-1, :-1].any()
    assert matrix[:, -1].any() if conf == 0.001 else matrix[-1].any(), "no detection too many, or no object missed"


def test_text_files_are_ultralytics(data: str, tmp_path: Path) -> None:
    both(data, tmp_path, save_txt=True, save_conf=True)
    ours, theirs = (tmp_path / name / "labels" for name in ("YOLOv12Validator", "DetectionValidator"))
    files = sorted(path.name for path in theirs.iterdir())
    assert files
    assert sorted(path.name for path in ours.iterdir()) == files
    for name in files:
        assert (ours / name).read_text() == (theirs / name).read_text()


@pytest.mark.parametrize("is_coco", [False, True])
def test_predictions_as_json_are_ultralytics(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_coco: bool
) -> None:
    """COCO's json goes with statistics in bulk; that of other sets is made image by image."""
    if is_coco:
        init_metrics = DetectionValidator.init_metrics

        def as_coco(self: Any, model: Any) -> None:
            init_metrics(self, model)
            self.is_coco, self.is_custom_json, self.gdict, self.build_gdict = True, False, None, False
            self.class_map = [10, 20, 30]

        monkeypatch.setattr(DetectionValidator, "init_metrics", as_coco)
    for cls in (YOLOv12Validator, DetectionValidator):
        monkeypatch.setattr(cls, "eval_json", lambda _, stats: stats)
    ours, theirs = both(data, tmp_path, save_json=True)
    assert ours.jdict == theirs.jdict
    assert ours.gdict == theirs.gdict
    files = [json.loads((side.save_dir / "predictions.json").read_text()) for side in (ours, theirs)]
    assert files[0] == files[1] != []


def test_callbacks_come_as_often_as_ultralytics(data: str, tmp_path: Path) -> None:
    heard: dict[str, list[str]] = {}

    class Listening:
        def run_callbacks(self, event: str) -> None:
            heard.setdefault(type(self).__bases__[1].__name__, []).append(event)
            super().run_callbacks(event)  # type: ignore[misc]

    for cls in (YOLOv12Validator, DetectionValidator):
        validated(type("Heard", (Listening, cls), {}), data, tmp_path)
    assert heard["YOLOv12Validator"] == heard["DetectionValidator"]
    assert heard["YOLOv12Validator"].count("on_val_batch_end") > 1


def test_a_validator_can_run_again(data: str, tmp_path: Path) -> None:
    validator, first = validated(YOLOv12Validator, data, tmp_path)
    del validator.preprocess
    oracle = Oracle()
    oracle.watch(validator)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upstream_validator, "AutoBackend", lambda **_: oracle)
        assert validator(model="oracle.pt") == first


def test_a_batch_that_is_cut_for_want_of_memory_gives_the_same_numbers(data: str, tmp_path: Path) -> None:
    _, expected = validated(YOLOv12Validator, data, tmp_path)

    class Failing(YOLOv12Validator):
        times = 2

        def postprocess(self, preds: Any) -> list[dict[str, Tensor]]:
            if Failing.times:
                Failing.times -= 1
                raise OUT_OF_MEMORY
            return super().postprocess(preds)

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            with surviving(self, history):
                return super().__call__(*args, **kwargs)

    history = History()
    assert validated(Failing, data, tmp_path)[1] == expected
    assert history.count("validation") == 2


class Event:
    """A CUDA event on a clock that ticks once for each."""

    clock_ms = 0.0
    waits = 0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self, stream: object) -> None:
        Event.clock_ms += 10
        self.at_ms = Event.clock_ms

    def synchronize(self) -> None:
        Event.waits += 1

    def elapsed_time(self, end: Event) -> float:
        return end.at_ms - self.at_ms


def test_parts_are_timed_in_seconds_and_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    part = timing.profile(torch.device("cuda", 0))
    for _ in range(3):
        with part:
            pass
    assert Event.waits == 0
    assert part.t == pytest.approx(0.03)
    assert Event.waits == 1


def test_the_last_time_is_told_too_and_nothing_is_kept_of_what_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a predictor asks after each batch of a stream that has no end."""
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    part = timing.EventProfile(torch.device("cuda", 0))
    for times in (1, 2, 3):
        with part:
            Event.clock_ms += 10 * times
        assert part.dt == part.dt == pytest.approx(0.01 * (times + 1))
        assert not part._spans
    assert part.t == pytest.approx(0.02 + 0.03 + 0.04)


def test_on_the_cpu_ultralytics_own_timer_is_used() -> None:
    assert type(timing.profile(torch.device("cpu"))) is timing.Profile


@pytest.mark.parametrize(
    ("place", "name"), [(matching, "overlapping"), (matching, "true_positives"), (statistics, "_fetched")]
)
def test_scoring_that_runs_out_of_memory_is_made_again_and_counts_once(
    place: Any,
    name: str,
    data: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, expected = validated(YOLOv12Validator, data, tmp_path / "undisturbed")
    monkeypatch.setattr(memory_failure, "WAITS_S", (0.0, 0.0))
    function, calls = getattr(place, name), iter(range(10**6))

    def fails_at_first(*arguments: Any) -> Any:
        answer = function(*arguments)
        if next(calls) < 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return answer

    monkeypatch.setattr(place, name, fails_at_first)
    validator, found = validated(YOLOv12Validator, data, tmp_path / "disturbed")
    assert found == expected
    assert validator.seen == 12
    assert capsys.readouterr().err.count("tried again in 0 s") == 2


def test_the_answer_of_a_graph_stays_when_the_next_one_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that is cut for want of memory calls again before it looks at its first answer."""
    pool, cpu, pictures = StandInPool(), torch.device("cpu"), torch.rand(4, 1, 3, 64, 64)
    network = AutoBackend(model=lively_model(seed=0).model.eval(), device=cpu, verbose=False)
    expected = [network(picture)[0].clone() for picture in pictures]
    monkeypatch.setattr(validator_module, "pool_of", lambda device: pool)
    validator = YOLOv12Validator(args={"task": "detect", "model": "lively.pt", "device": "cpu"})
    validator.device = cpu
    validator._run_by_graphs(network)
    answers = [network.forward(picture)[0] for picture in pictures]
    assert pool.replays == 3
    assert all(torch.equal(*pair) for pair in zip(answers, expected, strict=True))


def test_a_large_batch_is_predicted_in_parts_by_one_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network keeps what lies between its layers for a part only, and a graph writes the next part's answer over the last one's."""
    cpu, pictures, pool = torch.device("cpu"), torch.rand(9, 3, 64, 64), StandInPool()
    network = AutoBackend(model=lively_model(seed=0).model.eval(), device=cpu, verbose=False)
    expected, sizes = network(pictures)[0].clone(), []
    network.model.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    monkeypatch.setattr(network_module, "MOST_PIXELS", 4 * 64 * 64)
    monkeypatch.setattr(network_module, "PART_PIXELS", 2 * 64 * 64)
    monkeypatch.setattr(validator_module, "pool_of", lambda device: pool)
    validator = YOLOv12Validator(args={"task": "detect", "model": "lively.pt", "device": "cpu"})
    validator.device = cpu
    validator._run_by_graphs(network)
    network.forward(pictures)
    assert sizes == [9]  # the hook may want to see it whole
    monkeypatch.setattr(validator.network, "why_never", lambda: None)
    sizes.clear()
    assert torch.allclose(network.forward(pictures)[0], expected, atol=1e-4)
    assert sizes == [2, 2, 2, 2, 1]
    assert not pool.captured, "the shape may not come again"
    assert torch.allclose(network.forward(pictures)[0], expected, atol=1e-4)
    assert (
        pool.replays == 3
    )  # of four parts of two pictures; the first was the graph's own first, the last picture comes once in a batch
    # Pictures that are larger than any graph's go one by one.
    monkeypatch.setattr(network_module, "MOST_PIXELS", 64 * 64 - 1)
    monkeypatch.setattr(network_module, "PART_PIXELS", 64 * 64 - 1)
    sizes.clear()
    assert torch.allclose(network.forward(pictures)[0], expected, atol=1e-4)
    assert sizes == [1] * 9
    assert pool.replays == 3


@pytest.mark.parametrize(("device", "is_locked"), [("cuda:0", True), ("cpu", False)])
def test_batches_for_a_gpu_come_in_page_locked_memory(
    device: str, is_locked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []
    loader = InfiniteDataLoader([0])
    monkeypatch.setattr(upstream_detect, "build_dataloader", lambda *_, **options: asked.append(options) or loader)
    monkeypatch.setattr(YOLOv12Validator, "build_dataset", lambda *_, **__: None)
    validator = YOLOv12Validator(args={"task": "detect", "model": "lively.pt", "device": "cpu"})
    validator.device, validator.names, validator.training = torch.device(device), {}, False
    validator.get_dataloader("pictures", 4)
    assert [one["pin_memory"] for one in asked] == [is_locked]
    assert validator.own_loader is (loader if is_locked else None)


def test_the_workers_of_a_validation_end_with_it_and_its_validator_may_be_called_again(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU; on the CPU ultralytics validates without workers, so the device is another while the loader is made."""

    class WithWorkers(YOLOv12Validator):
        def get_dataloader(self, dataset_path: str, batch_size: int) -> Any:
            self.args.workers, self.device = 2, torch.device("cuda")
            try:
                return super().get_dataloader(dataset_path, batch_size)
            finally:
                self.device = torch.device("cpu")

    others = set(active_children())
    (tmp_path / "with").mkdir()
    validator, found = validated(WithWorkers, data, tmp_path / "with")
    assert validator.dataloader.num_workers == 2
    assert validator.dataloader.iterator is None
    assert not set(active_children()) - others
    oracle = Oracle()
    oracle.watch(validator)
    monkeypatch.setattr(upstream_validator, "AutoBackend", lambda **_: oracle)
    for _ in range(2):  # of the same loader
        assert validator(model="oracle.pt") == found
        assert not set(active_children()) - others
    monkeypatch.undo()
    assert found == validated(YOLOv12Validator, data, tmp_path)[1]


@pytest.mark.parametrize("asked", [None, False])
def test_weights_lie_as_tensor_cores_take_them_where_nobody_asked_for_another_layout(
    asked: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, cpu = lively_model(seed=0).model.eval(), torch.device("cpu")
    network = AutoBackend(model=own, device=cpu, verbose=False, channels_last=False)
    monkeypatch.setattr(validator_module, "pool_of", lambda device: StandInPool())
    validator = YOLOv12Validator(args={"task": "detect", "model": "lively.pt", "device": "cpu", "channels_last": asked})
    validator.device = cpu
    validator._run_by_graphs(network)
    weights = [weight for weight in own.parameters() if weight.ndim == 4 and min(weight.shape[1:]) > 1]
    lay = {weight.is_contiguous(memory_format=torch.channels_last) for weight in weights}
    assert lay == {asked is None}


def test_a_network_that_runs_by_graphs_gives_the_same_numbers(data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU; here graphs are those of a stand-in."""
    model = lively_model(seed=0)
    options = {"data": data, "imgsz": 64, "batch": 2, "plots": False, "verbose": False, "device": "cpu", "conf": 0.3}
    expected = model.val(**options)
    pool = StandInPool()
    monkeypatch.setattr(validator_module, "pool_of", lambda device: pool)
    found = model.val(**options)
    assert pool.replays > 0
    assert pool.releases == 1
    assert found.results_dict == expected.results_dict
    np.testing.assert_array_equal(found.box.prec_values, expected.box.prec_values)
