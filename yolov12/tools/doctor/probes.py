# SPDX-License-Identifier: AGPL-3.0-or-later
"""What has to be tried to be known: attention, disks, the loader, all-reduce, and a checkpoint that wants to run code.

torch is imported inside, so that a doctor can say that it is missing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolov12.errors import UserError
from yolov12.tools.doctor.world import LoaderTrial, Speed, Trial

if TYPE_CHECKING:
    import torch
    from torch import Tensor

TRIAL_S = 2.0
TOKENS, HEADS, HEAD_DIM = 400, 2, 32
"""Of an area of yolov12n at 640 px."""
WRITE_BYTES = 64 * 2**20
LEAST_BYTES = 16 * 2**20
"""A disk is not judged by less, unless that took long or was many pictures: what is cached, and chance, would be judged."""
READ_BYTES, READ_FILES = 64 * 2**20, 500
READ_S, DECODE_S = 2.0, 1.0
WORKER_TIMEOUT_S = 30
ALL_REDUCE_TIMEOUT_S = 180


def attention(device: torch.device, images: int = 64, limit_s: float = TRIAL_S) -> Trial:
    """Run what training would get on `device`, beside upstream's arithmetic in float32 and in the same number format.

    Args:
        images: of yolov12n at 640 px, whose first attention has four areas in each.
        limit_s: how long the two are timed, together.

    Raises:
        RuntimeError: the kernel could not be run.
    """
    import torch

    from yolov12.model.attention import describe, kernels
    from yolov12.model.attention.backends import BACKENDS, DTYPE_NAMES
    from yolov12.model.attention.choose import LARGE_ROWS

    on_gpu = device.type == "cuda"
    half = torch.bfloat16 if on_gpu and torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    dtype = half if on_gpu else torch.float32
    rows = 4 * images
    backend, reason = describe(device, dtype, True, HEAD_DIM, rows * TOKENS * HEADS >= LARGE_ROWS)
    chosen = BACKENDS[backend].run
    generator = torch.Generator(device).manual_seed(0)
    packed = torch.randn(8, TOKENS, HEADS, 3 * HEAD_DIM, device=device, generator=generator).to(dtype)
    exact = _forward_backward(kernels.plain, packed.float())
    difference = _difference(_forward_backward(chosen, packed), exact)
    own_difference = _difference(_forward_backward(kernels.plain, packed), exact)
    large = torch.randn(rows, TOKENS, HEADS, 3 * HEAD_DIM, device=device, generator=generator).to(dtype)
    plain_ms, chosen_ms = (_median_ms(kernel, large, limit_s / 2) for kernel in (kernels.plain, chosen))
    # Where upstream's own arithmetic is exact (float32), what is left is the order of sums.
    allowed = max(2 * own_difference, 1e-5)
    return Trial(backend, reason, DTYPE_NAMES[dtype], difference, allowed, chosen_ms, plain_ms)


def _forward_backward(kernel: Any, packed: Tensor) -> tuple[Tensor, Tensor]:
    """(output, gradient of the packed q, k, v), in float32."""
    packed = packed.detach().requires_grad_()
    out = kernel(*packed.split(HEAD_DIM, dim=-1))
    (out.float() * out.detach().float()).sum().backward()  # a gradient that is not the same everywhere
    assert packed.grad is not None
    return out.detach().float(), packed.grad.float()


def _difference(found: tuple[Tensor, Tensor], exact: tuple[Tensor, Tensor]) -> float:
    """The largest difference as a share of the largest value; nan where something is no number."""
    shares = [((one - other).abs().max() / other.abs().max()).item() for one, other in zip(found, exact, strict=True)]
    return max(shares) if all(share == share for share in shares) else float("nan")


def _median_ms(kernel: Any, packed: Tensor, limit_s: float) -> float:
    """Forward and backward, the median of what fits into the time, after three that do not count."""
    import torch

    durations: list[float] = []
    began = time.perf_counter()
    while len(durations) < 4 or time.perf_counter() - began < limit_s:
        start = time.perf_counter()
        _forward_backward(kernel, packed)
        if packed.device.type == "cuda":
            torch.cuda.synchronize(packed.device)
        durations.append(time.perf_counter() - start)
    counted = sorted(durations[3:])
    return 1e3 * counted[len(counted) // 2]


def write_speed(folder: Path, size: int = WRITE_BYTES) -> Speed:
    """Write a file that is removed again, until the disk has it."""
    block = os.urandom(2**20)  # zeros would be written faster than they can be where disks compress
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".yolov12-doctor-") as file:
        began = time.perf_counter()
        for _ in range(max(size >> 20, 1)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        duration_s = time.perf_counter() - began
    return Speed(size / duration_s / 1e6, f"wrote {size >> 20} MiB", size >= LEAST_BYTES)


def read_speed(folder: Path, most_files: int = READ_FILES, limit_s: float = READ_S) -> Speed | None:
    """Read some of the pictures below a folder, after asking the kernel to forget what it has of them; None if there are none."""
    size, count, began = 0, 0, time.perf_counter()
    for file in _pictures(folder, most_files):
        with open(file, "rb", buffering=0) as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            size += len(opened.readall())
        count += 1
        if size >= READ_BYTES or time.perf_counter() - began > limit_s:
            break
    if not count:
        return None
    duration_s = time.perf_counter() - began
    rate = count / duration_s
    is_enough = size >= LEAST_BYTES or count >= READ_FILES or duration_s > limit_s
    what = f"read {count} pictures one after the other, {rate:.0f} a second"
    return Speed(size / duration_s / 1e6, what, is_enough, rate)


def has_pictures(folder: Path) -> bool:
    """Whether there is one below it."""
    return any(_pictures(folder, 1))


def _pictures(folder: Path, most: int) -> Iterator[Path]:
    found = 0
    for place, _, names in os.walk(folder):
        for name in names:
            if name.lower().endswith((".jpg", ".jpeg", ".png", ".bmp", ".webp")):
                yield Path(place, name)
                found += 1
                if found == most:
                    return


def loader(on_gpu: bool) -> LoaderTrial:
    """Decode drawn pictures in threads as our loader does, then let two loader processes bring a batch as ultralytics' does."""
    import torch

    from yolov12.data import synth
    from yolov12.data.loader import decoders
    from yolov12.data.loader.fetch import on_the_cpu

    threads = max(min(len(os.sched_getaffinity(0)), 8), 1)
    _, words = decoders.choose(torch.device("cuda" if on_gpu else "cpu"), threads)
    with tempfile.TemporaryDirectory(prefix="yolov12-doctor-") as folder:
        synth.write(Path(folder) / "set", n_train=16, n_val=1, imgsz=320)
        files = sorted(map(str, (Path(folder) / "set/images/train").iterdir()))
        # First, while no threads of ours run: a process that forks beside them may inherit a lock that nobody lets go of. That can still be
        # somebody else's thread, so what fails is tried again.
        first = _worker_failure(files)
        failure = _worker_failure(files) if first else ""
        done, began = 0, time.perf_counter()
        with ThreadPoolExecutor(threads) as pool:
            while time.perf_counter() - began < DECODE_S:
                done += len(list(pool.map(lambda file: on_the_cpu(0, file, 320, ""), files)))
        duration_s = time.perf_counter() - began
        return LoaderTrial(done / duration_s, threads, words, failure, "" if failure else first)


class Pictures:
    """What the loader processes of the trial read; a class of the module, since they may unpickle it."""

    def __init__(self, files: list[str]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Any:
        from yolov12.data.loader.fetch import on_the_cpu

        fetched = on_the_cpu(index, self.files[index], 320, "")
        if fetched.image is None:
            raise RuntimeError(fetched.failure)
        return fetched.image


def _worker_failure(files: list[str]) -> str:
    from torch.utils.data import DataLoader

    batches: Any = DataLoader(Pictures(files), batch_size=8, num_workers=2, timeout=WORKER_TIMEOUT_S, collate_fn=list)  # type: ignore[arg-type]
    try:
        for _ in batches:
            pass
    except (RuntimeError, OSError) as error:  # a worker was killed, came too late, or found no shared memory or file
        return (str(error).strip().splitlines() or [type(error).__name__])[-1]
    return ""


def all_reduce(on_gpu: bool) -> str:
    """The verdict of `yolov12 nccl-test`, run briefly.

    Raises:
        OSError: it ended badly, or said nothing.
    """
    sizes = ["minbytes=16M", "maxbytes=64M"] if on_gpu else ["minbytes=64K", "maxbytes=256K"]
    command = [sys.executable, "-m", "yolov12.cli", "nccl-test", *sizes, "stepfactor=4", "iters=5", "warmup_iters=2"]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=ALL_REDUCE_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise OSError(f"no answer in {ALL_REDUCE_TIMEOUT_S} s") from None
    verdicts = [line.partition("verdict: ")[2] for line in ran.stdout.splitlines() if line.startswith("verdict: ")]
    if verdicts:
        return verdicts[-1]
    said = (ran.stderr.strip() or ran.stdout.strip()).splitlines()
    raise OSError(said[-1] if said else f"exit code {ran.returncode}")


class _Trap:
    """Unpickled by a reader that runs what it reads, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.folder),)


def runs_code_from_weights() -> bool:
    """Whether a checkpoint that would make a folder when it is unpickled does so when it is loaded as ours are."""
    import torch

    from yolov12.model import reading

    with tempfile.TemporaryDirectory(prefix="yolov12-doctor-") as folder:
        file, made = Path(folder) / "trap.pt", Path(folder) / "made"
        torch.save({"model": _Trap(made)}, file)
        with suppress(UserError):
            reading.read(file, trust=False)
        return made.exists()
