# SPDX-License-Identifier: AGPL-3.0-or-later
"""What `docker run IMAGE ...` does, in the image itself. The cases without an engine are in tests/shell/entrypoint.bats."""

import json
import subprocess
import time

import pytest

from tests.image.harness import STRANGER, Image, docker, wait_until


def test_no_arguments_and_no_terminal_give_help(image: Image):
    assert image.run(options=STRANGER).check().out.startswith("yolov12 ")


def test_help_is_the_first_that_it_says(each: Image):
    began = time.monotonic()
    with subprocess.Popen(
        ["docker", "run", "--rm", "--network", "none", each.name, "--help"], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        line = process.stdout.readline().decode()
        print(
            f"{each.name}: the first line of --help {time.monotonic() - began:.2f} s after `docker run`"
        )  # shown by .ci/run
        process.stdout.read()
    assert line.startswith("yolov12")


def test_no_arguments_at_a_terminal_give_a_shell_in_the_workbench_with_the_environment_active(image: Image):
    shown = image.type_into("pwd; type -P python yolov12; exit\n")
    assert "/root/yolov12\n/opt/yolov12/bin/python\n/opt/yolov12/bin/yolov12\n" in shown


def test_the_shell_works_for_a_stranger(image: Image):
    assert "[12345]" in image.type_into("echo [$(id -u)]; exit\n", options=STRANGER)


def test_a_verb_is_run(image: Image):
    assert "YOLOV12_FLASH_ATTN" in image.run("env", options=STRANGER).out


def test_an_unknown_verb_is_a_usage_error_that_names_the_nearest(image: Image):
    ran = image.run("trian", "data=my.yaml", options=STRANGER)
    assert ran.code == 2
    assert "train" in ran.log
    assert "Traceback" not in ran.log


def test_announced_verbs_say_not_yet(image: Image):
    for verb in ("serve", "tune"):
        ran = image.run(verb, options=STRANGER)
        assert (ran.code, "not in this version" in ran.log) == (2, True)


def test_the_doctor_answers_a_stranger_in_json(image: Image):
    ran = image.run("doctor", "--json", options=STRANGER)
    found = {check["name"]: check["status"] for check in json.loads(ran.out)["checks"]}
    assert (found["settings"], found["versions"], found["weights"]) == ("ok", "ok", "ok")
    assert "Traceback" not in ran.log


@pytest.mark.parametrize("code", [0, 1, 75])
def test_a_commands_exit_code_is_the_containers(image: Image, code: int):
    assert image.run("bash", "-c", f"exit {code}").code == code


def test_a_command_that_is_not_there_fails_as_in_a_shell(image: Image):
    assert image.run("./nowhere").code == 127


def test_process_1_reaps_and_forwards(image: Image):
    assert image.run("cat", "/proc/1/comm").out == "tini\n"


def test_without_a_network_the_container_still_knows_its_own_name(image: Image):
    image.python("import socket; socket.create_server((socket.gethostname(), 0))")


def test_tini_does_not_mind_being_another_process(image: Image):
    image.run(
        "-c", "/usr/bin/tini -s -- /usr/local/bin/entrypoint.sh env; exit $?", options=("--entrypoint=bash",)
    ).check()


def test_sigterm_reaches_the_command(image: Image):
    program = "import time; print('started'); time.sleep(600)"
    with image.started("python", "-c", program) as container:
        wait_until(container, "started", timeout_s=60)
        began = time.monotonic()
        docker("stop", "--time", "30", container)
        assert time.monotonic() - began < 10
        assert docker("inspect", "--format", "{{.State.ExitCode}}", container) == "143"


def test_names_that_kubernetes_injects_are_no_settings(image: Image):
    injected = {
        "YOLOV12_SERVICE_HOST": "10.0.0.1",
        "YOLOV12_SERVICE_PORT": "80",
        "YOLOV12_SERVICE_PORT_HTTP": "80",
        "YOLOV12_PORT": "tcp://10.0.0.1:80",
        "YOLOV12_PORT_80_TCP_ADDR": "10.0.0.1",
    }
    options = [f"--env={name}={value}" for name, value in injected.items()]
    ran = image.run("env", options=(*STRANGER, *options)).check()
    assert "10.0.0.1" not in ran.out + ran.log


def test_a_misspelled_setting_is_an_error(image: Image):
    ran = image.run("val", "model=yolov12n.yaml", options=(*STRANGER, "--env=YOLOV12_FLASH_ATN=0"))
    assert (ran.code, "YOLOV12_FLASH_ATTN" in ran.log) == (2, True)
