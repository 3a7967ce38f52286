# SPDX-License-Identifier: AGPL-3.0-or-later
"""Loader workers under a small /dev/shm. The real ones need a mount namespace of their own (root, or unprivileged user namespaces)."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import default_collate

from yolov12.data import adapter, handover, synth

MIB = 2**20


def test_no_workers_need_no_shared_memory():
    assert handover.choose(handover.wanted_bytes(0, 0, 64, MIB), 0) == ("shared", "no worker processes")


def test_dockers_default_is_too_small_for_a_usual_run():
    strategy, reason = handover.choose(handover.wanted_bytes(8, 4, 32, 3 * 640 * 640), 64 * MIB)
    assert strategy == "pipe"
    assert "/dev/shm has 64 MiB free" in reason


def test_a_roomy_shared_memory_is_used():
    assert handover.choose(handover.wanted_bytes(8, 4, 32, 3 * 640 * 640), 8192 * MIB)[0] == "shared"


def test_without_such_a_folder_pytorchs_way_is_kept():
    assert handover.choose(1, None)[0] == "shared"


def test_all_batches_in_flight_are_counted_on_all_ranks():
    # 2 workers x 4 ahead, one in the trainer's hands, one being pinned: 10 batches of 4 images, a quarter more for padding.
    assert handover.wanted_bytes(2, 4, 4, 1000) == 50_000
    assert handover.wanted_bytes(2, 4, 4, 1000, ranks=8) == 400_000


@given(st.integers(0, 64), st.integers(1, 8), st.integers(1, 512), st.integers(1, 2**24), st.integers(0, 2**40))
def test_shared_memory_is_chosen_only_if_everything_fits(
    workers: int, prefetch: int, batch: int, image: int, free: int
):
    wanted = handover.wanted_bytes(workers, prefetch, batch, image)
    strategy, _ = handover.choose(wanted, free)
    assert strategy == "pipe" or workers == 0 or workers * prefetch * batch * image < free


def collate(samples: list[Any]) -> dict[str, Any]:
    return {
        "img": torch.stack(samples),
        "im_file": ("a", "b"),
        "nested": [torch.zeros(2), {"n": None}],
        "array": np.ones(3),
    }


def test_a_parcel_arrives_as_the_batch_itself():
    sent = [torch.arange(6, dtype=torch.uint8), torch.ones(6, dtype=torch.uint8)]
    arrived = pickle.loads(pickle.dumps(handover.ByValue(collate)(sent)))
    expected = collate(sent)
    assert type(arrived) is dict
    assert torch.equal(arrived["img"], expected["img"])
    assert arrived["img"].dtype == torch.uint8
    assert arrived["im_file"] == ("a", "b")
    assert torch.equal(arrived["nested"][0], torch.zeros(2))
    assert arrived["nested"][1] == {"n": None}
    assert isinstance(arrived["array"], np.ndarray)


def test_an_empty_tensor_keeps_its_shape():
    arrived = pickle.loads(pickle.dumps(handover.ByValue(lambda _: {"bboxes": torch.zeros(0, 4)})([])))
    assert arrived["bboxes"].shape == (0, 4)


def test_pytorchs_own_collating_happens_on_arrival():
    samples = [{"img": torch.zeros(3, 2, 2), "cls": 1}, {"img": torch.ones(3, 2, 2), "cls": 0}]
    arrived = pickle.loads(pickle.dumps(handover.ByValue(default_collate)(samples)))
    assert arrived["img"].shape == (2, 3, 2, 2)
    assert arrived["cls"].tolist() == [1, 0]


def test_a_loader_is_changed_only_where_shared_memory_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    adapter.install()
    loader = SimpleNamespace(num_workers=2, prefetch_factor=4, batch_size=8, collate_fn=collate)
    dataset = SimpleNamespace(imgsz=320)
    for free, changed in ((8192 * MIB, False), (MIB, True)):

        class Loader(SimpleNamespace):
            __hash__ = object.__hash__

        fresh = Loader(**vars(loader))
        monkeypatch.setitem(adapter._stock, "build_dataloader", lambda *_, fresh=fresh, **__: fresh)
        monkeypatch.setattr(handover, "free_bytes", lambda free=free: free)
        built = adapter.build_dataloader(dataset, batch=8, workers=2)
        assert isinstance(built.collate_fn, handover.ByValue) is changed


def test_a_second_loader_counts_what_the_first_may_fill(monkeypatch: pytest.MonkeyPatch):
    adapter.install()

    class Loader(SimpleNamespace):
        __hash__ = object.__hash__

    monkeypatch.setitem(
        adapter._stock,
        "build_dataloader",
        lambda *_, **__: Loader(num_workers=2, prefetch_factor=4, batch_size=8, collate_fn=collate),
    )
    one = handover.wanted_bytes(2, 4, 8, 3 * 320 * 320)
    monkeypatch.setattr(handover, "free_bytes", lambda: one + one // 2 + 8 * MIB)
    dataset = SimpleNamespace(imgsz=320)
    first = adapter.build_dataloader(dataset, batch=8, workers=2)
    second = adapter.build_dataloader(dataset, batch=8, workers=2)
    assert not isinstance(first.collate_fn, handover.ByValue)
    assert isinstance(second.collate_fn, handover.ByValue)
    del first
    third = adapter.build_dataloader(dataset, batch=8, workers=2)
    assert not isinstance(third.collate_fn, handover.ByValue)


def test_the_size_of_a_sample_is_estimated_for_every_kind_of_set():
    boxes = SimpleNamespace(imgsz=640)
    masks = SimpleNamespace(imgsz=640, use_segments=True)
    several = SimpleNamespace(datasets=[SimpleNamespace(imgsz=(320, 640))])
    steps = [SimpleNamespace(size=[224, 224]), SimpleNamespace(), SimpleNamespace(size=256)]
    pictures = SimpleNamespace(torch_transforms=SimpleNamespace(transforms=steps))
    assert adapter.bytes_per_image(boxes) == 3 * 640 * 640
    assert adapter.bytes_per_image(masks) == 7 * 640 * 640
    assert adapter.bytes_per_image(several) == 3 * 640 * 640
    assert adapter.bytes_per_image(pictures) == 12 * 256 * 256
    assert adapter.bytes_per_image(SimpleNamespace()) == 12 * 640 * 640


def namespace_command() -> list[str]:
    """What runs a shell command with a 1 MiB /dev/shm that nobody else sees."""
    for unshare in (["unshare", "--mount"], ["unshare", "--mount", "--map-root-user"]):
        command = [*unshare, "sh", "-c", 'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$@"', "sh"]
        try:
            done = subprocess.run([*command, "true"], capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("needs the command unshare")
        if done.returncode == 0:
            return command
    pytest.skip(f"may not mount in a namespace of its own: {done.stderr.strip()}")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Data for each task, 16 pictures of 320 x 320: two batches of 8, each more than twice the shared memory."""
    root = tmp_path_factory.mktemp("pictures")
    detect = synth.write(root / "detect", n_train=16, n_val=1, imgsz=320).parent
    for index, picture in enumerate(sorted((detect / "images" / "train").iterdir())):
        folder = root / "classify" / "train" / ("even", "odd")[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / picture.name).write_bytes(picture.read_bytes())
    return {"detect": str(detect), "classify": str(root / "classify")}


def child(prefix: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*prefix, sys.executable, str(Path(__file__).with_name("shm_child.py")), *arguments]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=250, env=environment)


@pytest.mark.parametrize("task", ["detect", "classify"])
def test_real_workers_deliver_the_same_batches_through_a_megabyte_of_shared_memory(task: str, pictures: dict[str, str]):
    small = namespace_command()
    ours = child(small, pictures[task], task, "ours", "120")
    assert ours.returncode == 0, ours.stderr
    line = "loader: workers hand batches over without shared memory: /dev/shm has 1 MiB free"
    assert ours.stderr.count(line) == 1
    arrived = json.loads(ours.stdout.splitlines()[-1])
    roomy = child([], pictures[task], task, "stock", "120")
    assert roomy.returncode == 0, roomy.stderr
    assert arrived == json.loads(roomy.stdout.splitlines()[-1])
    assert arrived["workers"] == 2


def test_stock_fails_there_so_that_the_test_above_means_something(pictures: dict[str, str]):
    failed = child(namespace_command(), pictures["detect"], "detect", "stock", "20")
    assert failed.returncode != 0
    assert "unable to allocate shared memory" in failed.stderr or "bus error" in failed.stderr.lower()
