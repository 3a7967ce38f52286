# SPDX-License-Identifier: AGPL-3.0-or-later
"""Checks of the driver and of the GPUs."""

from __future__ import annotations

from collections.abc import Iterator

from yolov12 import pins
from yolov12.tools import verify
from yolov12.tools.doctor.nvml import LostGpuError
from yolov12.tools.doctor.result import Result, fail, ok, skipped, warn
from yolov12.tools.doctor.world import Gpu, World
from yolov12.tools.gpu_code import GpuCodeError

NO_GPU = "no GPU is visible"

SLOWDOWNS = {
    0x08: ("hardware slowdown", "nvidia-smi -q -d PERFORMANCE,TEMPERATURE,POWER"),
    0x20: ("temperature, in software", "nvidia-smi -q -d TEMPERATURE   # then look at the fans and the air around the machine"),
    0x40: ("temperature, in hardware", "nvidia-smi -q -d TEMPERATURE   # then look at the fans and the air around the machine"),
    0x80: ("power brake: the power supply asks for less", "nvidia-smi -q -d POWER"),
    0x02: ("somebody set the clocks lower", "sudo nvidia-smi --reset-gpu-clocks --reset-applications-clocks"),
}  # fmt: skip
"""NVML's bit (nvmlClocksEventReason*) -> what it means, and what to type. Idle, and the power limit under load, are as they should be."""

FALLEN_OFF = "nvidia-smi; sudo dmesg | grep -i xid   # then restart the host"
"""What to type where a GPU does not answer any more."""

SLOWER_THAN_PLAIN = 1.1
"""A kernel that takes so much longer than upstream's arithmetic is not worth having; below, it may be noise."""


def driver(world: World) -> Iterator[Result]:
    """The driver is there, and new enough for the CUDA that torch was built for."""
    seen = world.driver
    is_used = bool(world.gpus or world.gpu_failures)
    if not seen.version and is_used:
        yield warn(
            "driver",
            "not known",
            "torch sees GPUs, and neither NVML nor /proc says which driver runs them: it may be too old",
            "nvidia-smi   # says which; pip install nvidia-ml-py lets this look itself",
        )
        return
    if not seen.version:
        yield warn(
            "driver",
            "none",
            f"{NO_GPU}: everything runs on the CPU",
            "yolov12 train device=cpu ...   # or install NVIDIA's driver on the host: nvidia-smi must answer there",
        )
        return
    if not seen.is_reachable and not is_used:
        yield warn(
            "driver",
            f"{seen.version}, and no GPU is passed in",
            "the container was started without GPUs: everything runs on the CPU",
            "docker run --gpus all",
        )
        return
    major = int(seen.version.partition(".")[0])
    if seen.least is not None and major < seen.least:
        line = next((cuda for least, cuda in seen.older if major >= least), None)
        other = f"make build CUDA={line}   # an image for this driver; or update" if line else "# update"
        why = f"this image's CUDA needs driver {seen.least} or newer"
        yield fail("driver", seen.version, why, f"{other} the driver on the host")
        return
    if world.torch_cuda and seen.cuda and seen.cuda[0] < int(world.torch_cuda.partition(".")[0]):
        newest = "{}.{}".format(*seen.cuda)
        yield fail(
            "driver",
            f"{seen.version}, for CUDA up to {newest}",
            f"torch was built for CUDA {world.torch_cuda}",
            "# update the driver on the host, or take a torch for that CUDA: make build CUDA=12.8",
        )
        return
    yield ok("driver", seen.version, f"new enough for torch's CUDA {world.torch_cuda}" if world.torch_cuda else "")


def torch_sees(world: World) -> Iterator[Result]:
    """Torch can be imported, and sees the GPUs that the driver has."""
    if world.torch_failure:
        yield fail("torch", "can not be imported", world.torch_failure, _reinstall(world))
        return
    for index, said in world.gpu_failures.items():
        why = "the driver counts it and torch can not ask it: it may have fallen off the bus"
        yield fail("torch", said, why, FALLEN_OFF, f"GPU {index}")
    if world.gpus:
        yield from (ok("torch", f"{gpu.name}, sm_{gpu.arch}", subject=gpu.subject) for gpu in world.gpus)
        yield from _missing(world)
    elif world.gpu_failures:
        return
    elif not world.driver.is_reachable:
        yield ok("torch", f"CPU; built for CUDA {world.torch_cuda}" if world.torch_cuda else "CPU; built without CUDA")
    elif world.torch_cuda is None:
        yield fail("torch", "built without CUDA", "the driver has GPUs that this torch can not use", _reinstall(world))
    elif (hidden := world.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        why = f"CUDA_VISIBLE_DEVICES={hidden} names none that is there"
        yield warn("torch", "sees no GPU", why, "unset CUDA_VISIBLE_DEVICES")
    else:
        why = "the driver is there and its CUDA does not start: its kernel module and libraries may be of two versions"
        yield fail("torch", "sees no GPU", why, "nvidia-smi   # then restart the host, or the container")


def _missing(world: World) -> Iterator[Result]:
    """What to say where torch sees some of the driver's GPUs; nothing where CUDA_VISIBLE_DEVICES names as many as are seen."""
    there, counted = world.driver.gpus, len(world.gpus) + len(world.gpu_failures)
    if there is None or counted >= there:
        return
    value = f"sees {counted} of the driver's {there} GPUs"
    visible = world.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        why = "the others do not start, or a share of a GPU (MIG) hides them: CUDA takes one share alone"
        yield warn("torch", value, why, "nvidia-smi   # MIG, errors, and who has them")
    elif len(visible.split(",")) > counted:
        why = f"CUDA_VISIBLE_DEVICES={visible} names one that is not there, and CUDA leaves out what follows it"
        yield warn("torch", value, why, "unset CUDA_VISIBLE_DEVICES")
    else:
        yield ok("torch", value, f"CUDA_VISIBLE_DEVICES={visible}")


def gpu_code(world: World) -> Iterator[Result]:
    """Each library has machine code for each GPU; read from the files."""
    if not world.gpus:
        yield skipped("gpu code", NO_GPU)
        return
    for gpu in world.gpus:
        found = [_code_for(world, gpu, *library) for library in verify.libraries(world.installed)]
        yield from (result for result in found if result.status != "ok")
        good = [result.value for result in found if result.status == "ok"]
        if good:
            yield ok("gpu code", f"sm_{gpu.arch}: {', '.join(good)}", subject=gpu.subject)


def _code_for(world: World, gpu: Gpu, short: str, package: str, file: str) -> Result:
    """Whether one library has code for one GPU."""
    try:
        code = world.installed.read_gpu_code(world.installed.site / file)
    except GpuCodeError as error:
        why = "without it nothing of it runs on a GPU"
        return fail("gpu code", f"{short}: {error}", why, _reinstall(world), gpu.subject)
    if verify.runs_on(gpu.arch, code.cubins):
        return ok("gpu code", short, subject=gpu.subject)
    seen = f"{short} has {code}, and none of it runs on sm_{gpu.arch}"
    if without := verify.BUILT.get(package):
        return warn("gpu code", seen, f"on this GPU {without}", _build_for(gpu), gpu.subject)
    if any(int(arch.rstrip("af")) <= int(gpu.arch) for arch in code.ptx):
        why = "the driver compiles it at first use, which takes minutes, and without a writable cache every time"
        return warn("gpu code", seen, why, _another(world, gpu), gpu.subject)
    is_needed = package in ("torch", "torchvision")
    why = "training and prediction need it" if is_needed else "what uses it falls back to the CPU, or does not run"
    return (fail if is_needed else warn)("gpu code", seen, why, _another(world, gpu), gpu.subject)


def _build_for(gpu: Gpu) -> str:
    """How what the build makes gets code for a GPU."""
    codes = [arch for arch in pins.ARCHS if verify.runs_on(gpu.arch, [arch])]
    if not codes:
        return "yolov12 train device=cpu ...   # or another GPU: nothing that is pinned has code for this one"
    return f'make build ARCHS="{codes[-1]}"   # or several: ARCHS="{" ".join(pins.ARCHS)}"'


def _another(world: World, gpu: Gpu) -> str:
    """What to do where a library that comes as it is has no code for a GPU."""
    if verify.runs_on(gpu.arch, pins.ARCHS):  # then the pinned one has
        return _reinstall(world)
    return "yolov12 train device=cpu ...   # or another GPU: the pinned libraries have no code for this one"


def attention(world: World) -> Iterator[Result]:
    """Which attention kernel each GPU gets, why, whether it is right, and whether it is faster than upstream's arithmetic."""
    if world.torch_failure:
        yield skipped("attention", "torch can not be imported")
        return
    if not world.gpus:
        backend, reason = world.describe_cpu_attention()
        yield skipped("attention", f"{NO_GPU}; on the CPU {backend} runs: {reason}", "no trial")
        return
    for gpu in world.gpus:
        try:
            trial = world.attention(gpu)
        except MemoryError as error:
            why = "another program has the GPU's memory, so nothing could be tried"
            yield warn("attention", str(error), why, "nvidia-smi   # shows who has it", gpu.subject)
            continue
        except RuntimeError as error:
            said = str(error).strip().partition("\n")[0] or type(error).__name__
            why = "a small run of the attention kernel ended so"
            yield fail("attention", said, why, "YOLOV12_FLASH_ATTN=0   # upstream's arithmetic", gpu.subject)
            continue
        seen = (
            f"{trial.backend} in {trial.dtype}: {trial.duration_ms:.2f} ms forward and backward, upstream's arithmetic {trial.plain_ms:.2f} ms; "
            f"differs by {trial.difference:.1e} (allowed {trial.allowed:.1e})"
        )
        # Written so that a difference that is no number fails too.
        if not trial.difference <= trial.allowed:
            why = "its numbers are wrong: a wrong build, or a fault of the GPU"
            yield fail("attention", seen, why, "YOLOV12_FLASH_ATTN=0   # and: yolov12 verify", gpu.subject)
        elif trial.backend != "plain" and trial.duration_ms > SLOWER_THAN_PLAIN * trial.plain_ms:
            yield warn(
                "attention", seen, "it is slower than upstream's arithmetic here", "YOLOV12_FLASH_ATTN=0", gpu.subject
            )
        elif trial.backend == "plain" and world.environ.get("YOLOV12_FLASH_ATTN", "1") == "1":
            why = f"no fused kernel runs here: {trial.reason}"
            yield warn("attention", seen, why, "yolov12 verify   # says which kernels are there", gpu.subject)
        else:
            yield ok("attention", seen, trial.reason, gpu.subject)


def clocks(world: World) -> Iterator[Result]:
    """Whether something holds a GPU's clocks down. After the attention trial, which has just warmed it."""
    if not world.gpus:
        yield skipped("clocks", NO_GPU)
    for gpu in world.gpus:
        try:
            bits = world.slowdowns(gpu)
        except OSError as error:
            yield skipped("clocks", f"the driver does not say: {error}", subject=gpu.subject)
            continue
        except LostGpuError as error:
            why = "the driver can not reach it any more: training ends at the next step, and the GPU has to be reset"
            yield fail("clocks", str(error), why, FALLEN_OFF, gpu.subject)
            continue
        found = [words for bit, words in SLOWDOWNS.items() if bits & bit]
        if found:
            reasons, to_type = [words[0] for words in found], found[-1][1]
            yield warn(
                "clocks", f"held down: {'; '.join(reasons)}", "steps take longer than they could", to_type, gpu.subject
            )
        else:
            yield ok("clocks", "nothing holds them down", subject=gpu.subject)


def all_reduce(world: World) -> Iterator[Result]:
    """How fast GPUs add up gradients, compared with what others report for such links."""
    if world.torch_failure:
        yield skipped("all-reduce", "torch can not be imported")
        return
    if len(world.gpus) < 2 and not (world.deep and not world.gpus):
        why = f"{NO_GPU} (deep=1 tries it on the CPU)" if not world.gpus else "one GPU has nobody to talk to"
        yield skipped("all-reduce", why)
        return
    try:
        verdict = world.all_reduce()
    except OSError as error:
        why = "the ranks did not come together, or one of them failed"
        yield fail("all-reduce", str(error), why, "NCCL_DEBUG=INFO yolov12 nccl-test")
        return
    retry = "yolov12 nccl-test   # the whole table"
    if verdict.startswith("slow"):
        yield warn("all-reduce", verdict, "every update waits for it", f"nvidia-smi topo -m; NCCL_DEBUG=INFO {retry}")
    elif verdict.startswith("far too slow") or "not the sum" in verdict:
        why = "every update waits for it" if "slow" in verdict else "gradients would be wrong"
        yield fail("all-reduce", verdict, why, f"nvidia-smi topo -m; NCCL_DEBUG=INFO {retry}")
    else:
        yield ok("all-reduce", verdict)


def _reinstall(world: World) -> str:
    return (
        "make build   # or docker pull: the image is damaged"
        if world.is_image
        else "make setup   # in a clone; or the image"
    )
