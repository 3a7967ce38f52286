# SPDX-License-Identifier: AGPL-3.0-or-later
"""Torch's compiler is not imported by a run that does not compile, and is torch's own where it is. Each case in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from yolov12.data import synth

REPOSITORY = Path(__file__).parents[3]


def python(code: str, *arguments: str) -> list[str]:
    """The lines that a script prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


TRAIN = """
import sys
from yolov12 import YOLO
run = dict(project=sys.argv[2], epochs=1, imgsz=32, batch=4, device="cpu", plots=False, optimizer="SGD")
YOLO("yolo12n.yaml").train(data=sys.argv[1], checkpoint=sys.argv[3], **run)
print(*{"torch._dynamo", "torch._inductor", "sympy"} & sys.modules.keys(), sep=",")
"""


@pytest.mark.parametrize("checkpoint", ["0", "all"])
def test_a_whole_run_with_its_validations_imports_no_compiler(tmp_path, checkpoint):
    data = synth.write(tmp_path / "data", n_train=4, n_val=2, imgsz=64)
    assert python(TRAIN, str(data), str(tmp_path), checkpoint)[-1] == ""


OPTIMIZERS = """
import sys, torch
from ultralytics.optim import MuSGD
from yolov12.engine import no_compiler

KINDS = {kind.__name__: kind for kind in (*vars(torch.optim).values(), MuSGD) if isinstance(kind, type)}

def trained(kind, steps):
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(4, 4))
    groups = [{"params": [weight], "use_muon": True}] if kind is MuSGD else [weight]
    calls = []
    optimizer = kind(groups, lr=0.1)
    optimizer.register_step_post_hook(lambda *arguments: calls.append(1))
    for step in range(steps):
        optimizer.zero_grad()
        weight.square().sum().backward()
        optimizer.step()
        optimizer.load_state_dict(optimizer.state_dict())
    assert len(calls) == steps and not weight.grad_fn
    return weight.detach().clone()

names = "SGD Adam AdamW Adamax NAdam RAdam RMSprop MuSGD".split()
no_compiler.spare()
before = torch.use_deterministic_algorithms, torch.optim.SGD.step, torch.optim.Optimizer.zero_grad
no_compiler.spare()
assert before == (torch.use_deterministic_algorithms, torch.optim.SGD.step, torch.optim.Optimizer.zero_grad)
light = {name: trained(KINDS[name], 3) for name in names}
assert not no_compiler.is_loaded()
import torch._dynamo
assert no_compiler.is_loaded()
print(*[name for name in names if not torch.equal(trained(KINDS[name], 3), light[name])], sep=",")
"""


def test_every_optimizer_makes_the_same_steps_without_it():
    assert python(OPTIMIZERS)[-1] == ""


LATER = """
import json, sys, torch
from yolov12.engine import no_compiler
if sys.argv[1] == "spared":
    no_compiler.spare()
    torch.optim.SGD([torch.nn.Parameter(torch.ones(2))]).zero_grad()
    assert not no_compiler.is_loaded()
import torch._dynamo
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters

weight = torch.nn.Parameter(torch.ones(3))
for kind in (torch.optim.SGD, torch.optim.AdamW):
    optimizer = kind([weight], lr=0.1)
    counter = CompileCounter()

    @torch.compile(backend=counter)
    def step(x):
        optimizer.zero_grad()
        (weight * x).sum().backward()
        optimizer.step()
        return x + 1

    step(torch.ones(3))
    print(json.dumps([counter.frame_count, counter.op_count, len(counters["graph_break"])]))
"""


def test_a_later_compilation_has_the_graphs_and_breaks_that_it_has_without_us():
    assert python(LATER, "spared") == python(LATER, "not spared")


DETERMINISTIC = """
import sys, torch
from yolov12.engine import no_compiler
if sys.argv[1] == "spared":
    no_compiler.spare()
for arguments in ({"mode": False}, {"mode": True}, {"mode": True, "warn_only": True}):
    torch.use_deterministic_algorithms(**arguments)
    print(torch.get_deterministic_debug_mode())
assert no_compiler.is_loaded() == (sys.argv[1] != "spared")
import torch._inductor.config
print(torch._inductor.config.deterministic)
torch.use_deterministic_algorithms(False)
print(torch._inductor.config.deterministic, torch.get_deterministic_debug_mode())
"""


def test_deterministic_algorithms_are_what_was_asked_for_and_the_compiler_hears_of_it():
    assert python(DETERMINISTIC, "spared") == ["0", "2", "1", "True", "False 0"] == python(DETERMINISTIC, "not spared")
