# SPDX-License-Identifier: AGPL-3.0-or-later
"""Every command of README.md, CONTRIBUTING.md and docs/ could be typed, and each one of a code block is accounted for in exactly one way:

- it is run here as it stands (HERE), in a folder that has what it names;
- another test runs it, or the same with other files and sizes (ELSEWHERE);
- the page says what it needs that no test here has: "needs TensorRT" behind it, above it in the block, or in the paragraph before the block.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import __main__ as benchmarks
from tests.unit.docs import blocks, shapes
from tests.unit.docs.blocks import Command
from yolov12 import cli
from yolov12.data import synth
from yolov12.verb_table import VERBS

ROOT = shapes.ROOT

HERE = (
    "yolov12 data synth OUT",
    "yolov12 data check my.yaml",
    "yolov12 val model=best.pt data=my.yaml plots=False",
    "yolov12 val model=runs/detect/train/weights/best.pt data=my.yaml",
    "yolov12 val model=custom.pt data=my.yaml",
    "yolov12 predict model=best.pt source=pictures/",
    "YOLOV12_PREDICT_GRAPHS=0 yolov12 predict model=best.pt source=pictures/",
    "yolov12 predict model=best.pt source=pictures/ quantize=16 batch=16",
    "yolov12 cache ls",
    "yolov12 cache verify",
    "yolov12 cache prune max_gib=2",
    "yolov12 train data=coco.yaml model=yolov12s.yaml batch=256 device=auto --dry-run",
    "python -m benchmarks list",
    "python -m benchmarks report",
    ".venv/bin/pre-commit install",
)

DATA = r"data=(my|coco)\.yaml"
RUN = r"docker run .*yolov12:train "
ELSEWHERE: dict[str, tuple[str, str]] = {
    # what Docker is asked for
    rf"{RUN}demo": ("tests/image/test_training.py", 'image.run("demo"'),
    rf"{RUN}train {DATA} .*": ("tests/image/test_training.py", 'image.run("train", "data=bccd.yaml"'),
    rf"{RUN}python my_script\.py": ("tests/image/test_training.py", 'image.run("python", "my_script.py"'),
    r"docker run .*yolov12:train(-cu128)? verify": ("tests/image/test_contents.py", 'image.run("verify"'),
    rf"{RUN}doctor": ("tests/image/test_start.py", 'image.run("doctor", "--json"'),
    rf"{RUN}bench": ("tests/image/test_workbench.py", 'image.run("bench", "list"'),
    rf"{RUN}bash": ("tests/image/test_start.py", "image.type_into("),
    r"docker run .*yolov12:dev make test": ("tests/image/test_dev.py", 'dev.run("make", "test"'),
    r"docker run .*yolov12:deploy predict .*": ("tests/image/test_deploy.py", '"predict", "model=model.onnx"'),
    r"make build": (".ci/run", 'make --no-print-directory build VARIANT="$variant"'),
    r"make build VARIANT=\w+( BASE_IMAGE=\S+)?": (".ci/run", 'make --no-print-directory build VARIANT="$variant"'),
    r"make build (?!VARIANT).+": ("tests/shell/build.bats", '"$status" -eq 0'),
    r"make push .*": ("tests/image/test_release.py", '"docker/push.py"'),
    r"docker pull registry\.example/.*": ("tests/image/test_release.py", 'docker("pull", reference)'),
    r"make save .*": ("tests/image/test_release.py", '"docker/save.sh"'),
    r"make load .*": ("tests/image/test_release.py", '"docker/load.sh"'),
    r"make sign .*": ("tests/shell/release.bats", "make sign hands its variables on"),
    r"docker/tree\.py .*|diff /tmp/first\.txt /tmp/second\.txt": ("tests/image/test_release.py", "tree"),
    # the checkout
    r"make setup": (".ci/run", "make --no-print-directory setup"),
    r"make demo": (".ci/run", "make --no-print-directory demo"),
    r"make test lint": (".ci/run", "make --no-print-directory lint"),
    r"make render": ("tests/unit/env/test_render.py", "test_every_generated_file_is_what_render_writes"),
    r"make bench( BENCH=.*)?|yolov12 bench memory,attention": ("tests/unit/benchmarks/test_suite.py", 'main(["suite"'),
    # the command line
    r"yolov12 demo": ("tests/unit/tools/test_demo.py", "demo.main("),
    r"yolov12 (data|train|val|predict|export) .*\b(shapes|first)/.*|yolov12 data synth shapes .*": (
        "tests/unit/test_first_training_page.py", "test_every_command_of_the_page_succeeds"),
    r"python examples/custom_loop\.py .*": ("tests/unit/test_examples.py", "custom_loop.py"),
    r"(\.venv/bin/)?yolov12 train data=my\.yaml( model=yolov12n\.yaml)?( batch=64)?( epochs=100)?( device=auto)?": (
        "tests/unit/test_first_training_page.py", "test_every_command_of_the_page_succeeds"),
    r"yolov12 train data=synth \.\.\.": ("tests/unit/test_verbs.py", 'cli.main(["train", "data=synth"])'),
    r"yolov12 train resume=\S+": ("tests/faults/test_resume.py", "test_a_run_cut_at_a_step_ends_with"),
    r"yolov12 train data=my\.yaml data_pipeline=gpu": ("tests/unit/engine/test_pipeline_run.py", "test_a_run_that_asks_for_it_trains"),
    r"yolov12 train .*lr_scale=linear": ("tests/unit/engine/test_lr_scale.py", "test_lr0_follows_the_images_of_an_update"),
    r"yolov12 train .* batch=-1": ("tests/unit/engine/test_auto_batch.py", "test_minus_one_takes_upstreams_share"),
    r"yolov12 train .* mas_data=1": ("tests/unit/engine/test_trainer.py", '"mas_data": asked'),
    r"yolov12 train recipe=.*": ("tests/unit/test_recipes.py", 'cli.main(["train", "recipe=edge"'),
    r"yolov12 export model=runs/detect/train/weights/best\.pt format=onnx": (
        "tests/unit/test_first_training_page.py", "test_every_command_of_the_page_succeeds"),
    r"yolov12 data synth OUT n_train=.*": ("tests/unit/test_verbs.py", 'cli.main(["data", "synth", "out", "n_train=8"'),
    r"yolov12 data check my\.yaml task=segment": ("tests/unit/test_verbs.py", 'cli.main(["data", "check", "my.yaml", "task=segment"])'),
    r"yolov12 doctor( --json| deep=1| (data|project)=.*)?": ("tests/unit/tools/doctor/test_report.py", '"doctor", "--json"'),
    r"yolov12 nccl-test": ("tests/dist/test_nccl_test.py", "test_the_verb_starts_its_ranks"),
    r"yolov12 lr-find .*": ("tests/unit/tools/test_lr_find.py", 'cli.main(["lr-find"'),
    r"\.venv/bin/python my_script\.py": ("tests/image/test_training.py", 'image.run("python", "my_script.py"'),
    r"YOLOV12_GRAD_COMPRESS=bf16": ("tests/dist/test_compress.py", "test_half_the_bytes_travel"),
    # several processes and machines
    r"torchrun --nproc_per_node 2 my_script\.py": ("tests/image/test_training.py", '"--nproc-per-node=2", "my_script.py"'),
    r"export (MASTER_ADDR|MASTER_PORT|NNODES|NODE_RANK)=.*|python train\.py .*": (
        "tests/dist/test_machines.py", "test_the_articles_commands_train_on_two_machines"),
    r"yolov12 train data=coco\.yaml model=yolov12s\.yaml batch=512 device=auto( --dry-run)?": (
        "tests/dist/test_machines.py", "test_the_articles_commands_train_on_two_machines"),
    r"yolov12 train data=coco\.yaml model=yolov12s\.yaml batch=256 device=auto": (
        "tests/dist/test_launch.py", "test_every_rank_runs_the_script_as_its_main_program"),
    r"(IMAGE=.* )?sbatch .*": ("tests/shell/slurm.bats", "one task on each node"),
    # the benchmarks
    r"python -m benchmarks run start": ("tests/unit/benchmarks/test_start.py", '"start", "--rows", "dropin_start_ms"'),
    r"python -m benchmarks report --plots": ("tests/unit/benchmarks/test_plots.py", "test_a_new_record_is_drawn"),
    r"python -m benchmarks step|yolov12 bench step.*": ("tests/unit/benchmarks/step/test_command.py", "test_a_step_on_the_cpu_is_told_by_phases"),
    r"python -m benchmarks run scale --rows .* --set device=cpu .*": (
        "tests/unit/benchmarks/test_scale.py", "test_two_processes_step_alone_and_together"),
    r"python -m benchmarks run infer --records try .*": (
        "tests/unit/benchmarks/test_infer.py", "test_answers_are_timed_on_all_sides"),
    r"python -m benchmarks run lr_find --set device=cpu .*": (
        "tests/unit/benchmarks/test_lr_find.py", "test_small_on_the_cpu_every_row_has_a_value"),
    r"python -m benchmarks run first_step --no-warmup .*": (
        "tests/unit/benchmarks/test_first_step.py", "test_the_first_step_of_both_sides_is_timed"),
    r"python -m benchmarks run latency --records try .*": (
        "tests/unit/benchmarks/test_latency.py", 'command.main(["run", "latency"'),
    r"yolov12 export model=best\.pt format=aoti": ("tests/unit/export/test_aoti.py", "test_it_lies_beside_the_weights_named_for_its_machine"),
    r"yolov12 predict model=best\.pt source=pictures/ device=auto": (
        "tests/unit/tools/test_spread.py", "test_auto_means_all_gpus_or_the_cpu"),
    r"yolov12 predict model=best_cpu\.pt2 .*": ("tests/unit/export/test_aoti.py", "test_a_package_finds_what_its_source_finds"),
    r"python -m benchmarks keep results/.*": ("tests/unit/benchmarks/test_keep.py", "def kept("),
    r"python benchmarks/carry\.py": ("tests/unit/benchmarks/test_carry.py", "carry"),
    r"OUT=results .*benchmarks/gpu(_memory)?\.sh .*": ("tests/unit/benchmarks/test_gpu_script.py", "test_tests_can_be_chosen"),
}  # fmt: skip
"""Pattern of a whole command -> the test that runs it or its like, and a part of that test's text."""

NEEDS = re.compile(
    r"\bneeds? (at least )?(an? |the |one |two |several |[\d, or]+ )?"
    r"(NVIDIA GPUs?|GPUs?|TensorRT|hours|Docker|cosign|cluster|nvcc|machines|network)\b|\bnot run here\b"
)
"""How a page says that a command needs what no test has."""


def of_blocks() -> list[Command]:
    return [command for page in blocks.pages(ROOT) for command in blocks.of_blocks(page, ROOT)]


def of_sentences() -> list[Command]:
    return [command for page in blocks.pages(ROOT) for command in blocks.of_sentences(page, ROOT)]


def mistakes(commands: list[Command]) -> list[str]:
    """A line for each command that could not be typed."""
    found = [(command, shapes.mistake(command.words)) for command in commands]
    return [f"{command.place}: {command.text}: {words}" for command, words in found if words]


def unaccounted(commands: list[Command]) -> list[str]:
    """A line for each command that nothing runs, or that is accounted for twice."""
    found = []
    for command in commands:
        ways = [
            *(["run here"] if command.text in HERE else []),
            *(f"run by {file}" for pattern, (file, _) in ELSEWHERE.items() if re.fullmatch(pattern, command.text)),
            *(["marked"] if NEEDS.search(command.said) else []),
        ]
        if len(ways) != 1:
            found.append(
                f"{command.place}: {command.text}: {' and '.join(ways) or 'no test runs it, nothing says why'}"
            )
    return found


def test_every_command_of_a_block_could_be_typed():
    assert mistakes(of_blocks()) == []


def test_every_command_of_a_sentence_could_be_typed():
    assert mistakes(of_sentences()) == []


def test_every_command_in_the_head_of_a_manifest_could_be_typed():
    commands = list(blocks.of_manifests(ROOT))
    assert len(commands) >= 6
    assert mistakes(commands) == []


def test_every_command_of_a_block_is_run_or_says_what_it_needs():
    assert unaccounted(of_blocks()) == []


@pytest.mark.parametrize("verb", VERBS)
def test_what_help_shows_as_an_example_could_be_typed(verb: str):
    for example in VERBS[verb].example.split("|"):
        assert shapes.mistake(["yolov12", *blocks.split(example.replace("NAME", "start"))]) == "", example


def test_commands_are_found_at_all():
    assert len(of_blocks()) > 80
    assert len(of_sentences()) > 50


def test_what_is_listed_as_run_is_still_on_a_page_and_its_test_still_there():
    texts = {command.text for command in of_blocks()}
    assert set(HERE) - texts == set()
    assert [pattern for pattern in ELSEWHERE if not any(re.fullmatch(pattern, text) for text in texts)] == []
    for file, words in ELSEWHERE.values():
        assert words in (ROOT / file).read_text(encoding="utf-8"), f"{file} has no {words!r}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reader's folder: a data set as my.yaml and coco.yaml, pictures, and weights where a run leaves them."""
    from yolov12 import YOLO

    place = tmp_path_factory.mktemp("reader")
    data = synth.write(place / "data", n_train=4, n_val=2, imgsz=64)
    for name in ("my.yaml", "coco.yaml"):
        (place / name).write_text(data.read_text().replace("images/", "data/images/"))
    shutil.copytree(place / "data/images/val", place / "pictures")
    (place / "runs/detect/train/weights").mkdir(parents=True)
    YOLO("yolov12n.yaml").save(place / "best.pt")
    shutil.copy(place / "best.pt", place / "runs/detect/train/weights")
    shutil.copy(place / "best.pt", place / "custom.pt")  # as examples/custom_loop.py leaves one
    subprocess.run(["git", "init", "--quiet", str(place)], check=True)
    return place


@pytest.fixture
def typed_in(folder: Path) -> Iterator[pytest.MonkeyPatch]:
    """The reader's folder is the current one, and settings that a command exports go with it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        shapes.forget_settings(patch)
        patch.setenv("YOLOV12_CACHE_DIR", str(folder / "cache"))
        patch.setenv("GIT_CONFIG_GLOBAL", os.devnull)  # pre-commit refuses where hooks lie elsewhere
        yield patch


@pytest.mark.parametrize("text", HERE)
def test_a_command_runs_as_it_stands(text: str, typed_in: pytest.MonkeyPatch, folder: Path):
    words = blocks.split(text)
    while "=" in words[0]:
        typed_in.setenv(*words.pop(0).split("=", 1))
    if words[0] == "yolov12":
        assert cli.main(words[1:]) == 0
    elif words[:3] == ["python", "-m", "benchmarks"]:
        assert benchmarks.main(words[3:]) == 0
    else:
        subprocess.run([ROOT / words[0], *words[1:]], cwd=folder, check=True)


@pytest.mark.parametrize(
    "planted",
    """yolov12 trian data=my.yaml
yolov12 serve model=best.pt
yolov12 train data=my.yaml bacth=64
yolov12 train data=my.yaml batch=0
yolov12 train data=my.yaml amp=fp8
yolov12 train data=my.yaml recipe=papr
yolov12 export model=best.pt format=onxx
yolov12 data synth OUT n_trian=5
yolov12 cache ls foo
YOLOV12_AMP=fp7 yolov12 val model=best.pt
YOLOV12_GRAD_COMPRES=bf16
yolov12 bench memry
yolov12 bench step stesp=3
make bnech
make build ARCHES=90
make build VARIANT=trian
make bench BENCH=memry
python -m benchmarks lsit
python -m benchmarks run scale --rows scale17_n
python -m benchmarks run val --set imgzs=64
python benchmarks/cary.py
python train.py --data coco.yaml --modle yolov12s.yaml
docker run --rm --gpu all yolov12:train demo
docker run --rm yolov12:trian demo
docker run --rm yolov12:train verfy
docker run --rm yolov12:deploy predict model=best.onnx sauce=x
docker rum yolov12:train
docker compose -f deploy/compose/compose.yaml run --rm yolov13 train
docker compose -f deploy/compose/compose.yaml run --rm yolov12 trian
kubectl apply -f deploy/kubernetes/jobsets.yaml
sbatch deploy/slurm/trian.sbatch data=x.yaml
OUTT=results benchmarks/gpu.sh bccd_wall
python3 docker/kernels/build.py --arch2 90
.venv/bin/pre-comit install
torchrun --nproc_per_node 2 examples/nowhere.py
python -m yolov12.nowhere
yolov12 env && make bnech
kubctl apply""".splitlines(),
)
def test_a_planted_mistake_is_found_at_its_line(planted: str):
    (line,) = mistakes([Command("docs/page.md:7", planted)])
    assert line.startswith(f"docs/page.md:7: {planted}: ")


def test_a_command_that_nothing_runs_is_found_and_one_that_says_what_it_needs_is_not(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text(
        "Words.\n\n"
        "    yolov12 val model=best.pt data=my.yaml imgsz=32\n"
        "    yolov12 export model=best.pt format=engine    # needs TensorRT\n\n"
        "Words.\n\n"
        "```bash\nyolov12 cache ls\nyolov12 \\\n    val data=my.yaml\n```\n\n"
        "It needs an NVIDIA GPU:\n\n    yolov12 cache ls\n"
    )
    found = unaccounted(list(blocks.of_blocks(page, tmp_path)))
    assert [line.split(": ")[0] for line in found] == ["page.md:3", "page.md:10", "page.md:16"]
    assert found[2].endswith("run here and marked")


def test_a_block_that_begins_with_an_unknown_word_is_not_passed_over(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text("Words.\n\n    yolov13 train\n")
    with pytest.raises(ValueError, match=r"page\.md:3: is 'yolov13' a program\?"):
        list(blocks.of_blocks(page, tmp_path))
