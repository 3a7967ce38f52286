# SPDX-License-Identifier: AGPL-3.0-or-later
"""Under what a package lies in the cache: all that it depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from torch import nn

from yolov12.export import aoti_file, aoti_toolkit, cache, fingerprint, machine
from yolov12.export.aoti_file import Origin


def of_program(exported: Any, about: Mapping[str, Any], here: Origin) -> cache.Key:
    """The key of a program that was traced: its code, every number in it, what `about` says, and what compiles it here."""
    model = hashlib.sha256(exported.graph_module.code.encode())
    for name, tensor in sorted({**exported.state_dict, **exported.constants}.items()):
        model.update(f"{name} ".encode() + fingerprint.numbers(tensor))
    return {"model": model.hexdigest(), **_of_the_rest(about, here)}


def of_source(network: nn.Module, about: Mapping[str, Any], here: Origin) -> cache.Key | None:
    """A key that is known without a trace; None where the network may be more than what is looked at. Several may lead to one program."""
    source = fingerprint.of(network)
    return None if source is None else {"source": source, **_of_the_rest(about, here)}


def _of_the_rest(about: Mapping[str, Any], here: Origin) -> cache.Key:
    """What is not the model. An entry with a key of an older form is never asked for, and goes when it was used longest ago."""
    return {
        "about": hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest(),
        "precision": about[aoti_file.BUILT_BY]["precision"],
        "builder": f"torch {here.torch}",
        "options": str(aoti_toolkit.OPTIONS),
        "gpu": f"{here.arch} {here.gpu}".strip(),
        "cpu": " ".join((here.machine, *here.features)),
        **of_machine(here),
    }


def of_machine(here: Origin) -> cache.Key:
    """What a package owes to the machine besides its GPU and its CPU.

    The compiler, since what runs on the CPU is its machine code. The driver, since Triton may choose kernels for a GPU by how fast they run here.
    The number of threads is none of it, see aoti_toolkit.OPTIONS.
    """
    is_for_cpu = here.arch == "cpu"
    return {
        "compiler": machine.compiler_version(),
        "driver": "" if is_for_cpu else machine.driver_version(),
        "cuda": "" if is_for_cpu else machine.cuda_version(),
    }
