#!/usr/bin/env bats
# SPDX-License-Identifier: AGPL-3.0-or-later
# `make build`: what docker/build.sh asks of docker, which is a stub here.
# shellcheck disable=SC2016 # single quotes: what a stub is made of expands in the stub

bats_require_minimum_version 1.5.0
load common

setup() {
    unset VARIANT ARCHS CUDA ENV_MANAGER FLASH_ATTN DALI TENSORRT TENSORRT_INDEX NCCL_TESTS MAX_JOBS BASE_IMAGE BUILD_NETWORK CA_BUNDLE NETRC TAG NO_CACHE
    size=5100000000
    stub git 'exit 1'
    stub docker 'case "$1 $2" in
    "buildx version") ;;
    "buildx bake") sed "s|\${BASE_IMAGE}|${BASE_IMAGE-the pinned base}|; s|\${ARCHS}|${ARCHS-all archs}|
        s|\${FLASH_ATTN}|${FLASH_ATTN-hd32}|; s|\${DALI}|${DALI-1}|; s|\${TENSORRT}|${TENSORRT-none}|; s|\${TENSORRT_INDEX}|${TENSORRT_INDEX-}|
        s|\${NCCL_TESTS}|${NCCL_TESTS-0}|; s|\${MAX_JOBS}|${MAX_JOBS-auto}|; s|\${INPUTS}|${INPUTS-}|" docker/docker-bake.json ;;
    "buildx build") printf "<%s>\n" "$@" ;;
    "image inspect") echo "sha256:abc $size 5.5" ;;
    "run --rm") [[ $* == *--json ]] && echo "{\"bytes\": {\"torch\": 5000000000, \"others\": 200000000}}" || echo "ran: $*"
        exit "${verified:-0}" ;;
    "buildx inspect") printf "Name:   mine\nDriver: %s\n\nNodes:\nName:     mine0\nEndpoint: unix:///var/run/docker.sock\n" "${driver-docker}" ;;
    "info --format") echo "[[\"driver-type\",\"${store-}\"]]" ;;
    esac'
    export size
}

build() { "${repo:?}/docker/build.sh"; }

@test "the arguments come from the rendered bake file" {
    run build
    [ "$status" -eq 0 ]
    printed "<docker/Dockerfile>"
    printed "<BASE_IMAGE=the pinned base>"
    printed "<ARCHS=all archs>"
    printed "<yolov12:train>"
    printed "<org.opencontainers.image.licenses=AGPL-3.0-or-later>"
    printed "<.>"
}

@test "every argument of the Dockerfile is in the bake file, and the other way round" {
    wanted=$(sed -n 's/^ARG \([A-Z_0-9]*\).*/\1/p' "${repo:?}/docker/Dockerfile" | sort -u)
    given=$(python3 -c 'import json, sys; print(*sorted({name for target in json.load(open(sys.argv[1]))["target"].values() for name in target["args"]}), sep="\n")' "$repo/docker/docker-bake.json")
    [ "$wanted" = "$given" ]
}

@test "an argument of the Dockerfile has no default, or one that fails" {
    run grep -E '^ *ARG .*=' "${repo:?}/docker/Dockerfile"
    [ "${#lines[@]}" -eq 6 ]
    printed 'ARG BASE_IMAGE="BASE_IMAGE is not set: use make build"' # a name that can not be parsed: the builder prints it
    for name in FLASH_ATTN DALI TENSORRT ENV_MANAGER NCCL_TESTS; do
        printed "ARG $name=notset" # a stage of that name fails with a sentence
    done
}

@test "each argument is asked for by name before it is used" {
    while read -r name; do
        [[ $name == BASE_IMAGE ]] || grep -qE "\\\$\{$name:\?is not set: (use make build|type $name=ADDRESS)" "$repo/docker/Dockerfile"
    done < <(sed -n 's/^ARG \([A-Z_0-9]*\)$/\1/p' "${repo:?}/docker/Dockerfile")
}

@test "the caller's variables are passed on" {
    ca="$BATS_TEST_TMPDIR/my ca.crt"
    echo certificate >"$ca"
    netrc="$BATS_TEST_TMPDIR/my netrc"
    echo "machine mirror.example login me password secret" >"$netrc"
    BASE_IMAGE=localhost/debian:12 ARCHS="80 90" FLASH_ATTN=none BUILD_NETWORK=host CA_BUNDLE=$ca NETRC=$netrc TAG=registry/name:1 run build
    printed "<BASE_IMAGE=localhost/debian:12>"
    printed "<ARCHS=80 90>"
    printed "<FLASH_ATTN=none>"
    printed "<--network>"
    printed "<host>"
    printed "<id=ca,src=$ca>"
    printed "<id=netrc,src=$netrc>"
    printed "<registry/name:1>"
}

@test "a variable that is set and empty is as one that is not set" {
    BASE_IMAGE='' ARCHS='' FLASH_ATTN='' BUILD_NETWORK='' CA_BUNDLE='' NETRC='' TAG='' run build
    printed "<BASE_IMAGE=the pinned base>"
    [[ $output != *"<--network>"* ]]
    [[ $output != *"<--secret>"* ]]
}

@test "it ends with the image's name, id and size in GB" {
    run build
    [ "${lines[-1]}" = "built yolov12:train sha256:abc 5.10 GB of 5.50 GB" ]
}

@test "an image that is over its budget fails the build with one sentence" {
    size=5600000000 run -1 build
    [ "${lines[-1]}" = "build: yolov12:train is 5.60 GB, more than its budget of 5.50 GB (size_budget_gb in env/matrix.yaml)" ]
}

@test "the image that was built verifies itself, without a network" {
    run build
    printed "ran: run --rm --pull never --network none yolov12:train verify"
}

@test "an image that does not verify fails the build" {
    verified=1 run -1 build
    [ "${lines[-1]}" = "build: yolov12:train does not hold what was promised: the lines above that begin with FAIL say what differs" ]
}

@test "layers are in zstd and have provenance where the engine can, which it says" {
    run build
    printed "<--load>"
    [[ $output != *zstd,* ]]
    [[ $output == *"layers in gzip, without provenance, since"* ]]
    store=io.containerd.snapshotter.v1 run build
    printed "<type=image,compression=zstd,force-compression=true,oci-mediatypes=true>"
    printed "<mode=max>"
    [[ $output == *"layers in zstd, with provenance, since"* ]]
}

@test "what a builder beside the engine made is loaded before it verifies itself, also where the engine could have zstd" {
    driver=docker-container store=io.containerd.snapshotter.v1 run -0 build
    printed "<--load>"
    [[ $output != *zstd,* ]]
    [[ $output != *"<--provenance>"* ]]
    printed "build: layers in gzip, without provenance, since the builder, whose driver is docker-container, is not this engine's own: BUILDX_BUILDER=default takes that"
    printed "ran: run --rm --pull never --network none yolov12:train verify"
}

@test "where the engine counts layers twice, the size is what the image finds inside" {
    size=9900000000 store=io.containerd.snapshotter.v1 run build
    [ "${lines[-1]}" = "built yolov12:train sha256:abc 5.20 GB of 5.50 GB" ]
    verified=1 store=io.containerd.snapshotter.v1 run -1 build
    [[ ${lines[-1]} == "build: yolov12:train does not hold what was promised: "* ]]
}

@test "with NO_CACHE=1 nothing is taken from the builder's cache" {
    run build
    [[ $output != *"<--no-cache>"* ]]
    NO_CACHE=1 run build
    printed "<--no-cache>"
    NO_CACHE=0 run build
    [[ $output != *"<--no-cache>"* ]]
}

@test "the inputs' hash is an argument and a label, and follows a source file and an argument" {
    hash_of() { build | sed -n 's/^<INPUTS=\([0-9a-f]*\)>$/\1/p'; }
    first=$(hash_of)
    [ "${#first}" -eq 64 ]
    run build
    printed "<yolov12.inputs=$first>"
    [ "$(hash_of)" = "$first" ]
    [ "$(ARCHS=80 hash_of)" != "$first" ]
}

@test "an image and its nonroot form have the same inputs, so that they share their layers" {
    inputs() { python3 "${repo:?}/docker/inputs.py" "$1" <"$repo/docker/docker-bake.json"; }
    [ "$(inputs train)" = "$(inputs train-nonroot)" ]
    [ "$(inputs deploy)" = "$(inputs deploy-nonroot)" ]
    [ "$(inputs deploy)" != "$(inputs deploy-ort-nonroot)" ]
    [ "$(inputs train)" != "$(inputs deploy)" ]
}

@test "an unknown value names the known ones" {
    FLASH_ATTN=hd64 run -2 build
    [ "$output" = "build: FLASH_ATTN=hd64: type one of hd32 none full" ]
    CUDA=11.8 run -2 build
    [ "$output" = "build: CUDA=11.8: type one of 13.0 12.8" ]
    ENV_MANAGER=mamba run -2 build
    [ "$output" = "build: ENV_MANAGER=mamba: type one of venv conda" ]
    NCCL_TESTS=yes run -2 build
    [ "$output" = "build: NCCL_TESTS=yes: type one of 0 1" ]
    DALI=2 run -2 build
    [ "$output" = "build: DALI=2: type one of 1 0" ]
    TENSORRT=9 run -2 build
    [ "$output" = "build: TENSORRT=9: type one of none 10 11 rtx" ]
    NO_CACHE=yes run -2 build
    [ "$output" = "build: NO_CACHE=yes: type one of 0 1" ]
}

@test "archs that torch has no code for, or written otherwise, are refused before anything is built" {
    for archs in 95 89 sm_90 9.0 90,80 "90 91" " " "*"; do
        ARCHS=$archs run -2 build
        [ "$output" = "build: ARCHS=$archs: type some of 75 80 86 90 100 120, with spaces between" ]
    done
}

@test "what the kernels can be built for is among what a build takes" {
    known=$(PYTHONPATH=$repo/docker/flash_attn python3 -c 'import build; print(*build.CODE_FOR)')
    for arch in $(python3 -c 'import json; print(json.load(open("'"$repo"'/docker/docker-bake.json"))["variable"]["ARCHS"]["default"])'); do
        [[ " $known " == *" $arch "* ]]
    done
}

@test "a number of compilers that is none, and a name that no image can have, are refused" {
    for jobs in many 0 -1 1.5; do
        MAX_JOBS=$jobs run -2 build
        [ "$output" = "build: MAX_JOBS=$jobs: type a number from 1 on, or leave it out" ]
    done
    for tag in Mine team/ "a b" name:a:b https://registry.example/name name: "name:$(printf 'x%.0s' {1..129})"; do
        TAG=$tag run -2 build
        [[ $output == "build: TAG=$tag is no name of an image: "* ]]
    done
}

@test "a login in the address of an index is refused without showing it, and so is an index that nothing is taken from" {
    for address in https://me:secret@index.example/simple https://secret@index.example me:secret@index.example; do
        TENSORRT=10 TENSORRT_INDEX=$address run -2 build
        [[ $output == "build: TENSORRT_INDEX has a login in it, "*"NETRC=FILE (docs/registry.md)" ]]
        [[ $output != *secret* ]]
    done
    TENSORRT=rtx TENSORRT_INDEX=https://index.example/a@b run -2 build
    [[ $output == "build: TENSORRT_INDEX=https://index.example/a@b is for TENSORRT=10 and TENSORRT=11 alone: "* ]]
}

@test "a choice that a variant has no part for is refused, and one that says so is not" {
    for choice in ARCHS=90 FLASH_ATTN=full DALI=1 TENSORRT=rtx NCCL_TESTS=1; do
        run -2 env VARIANT=deploy "$choice" "$repo/docker/build.sh"
        [[ $output == "build: $choice: yolov12:deploy is built with ${choice%=*}="*" only; env/matrix.yaml says why, under exclusions" ]]
    done
    VARIANT=deploy FLASH_ATTN=none DALI=0 TENSORRT=none NCCL_TESTS=0 run -0 build
}

@test "help and anything else behind it show the usage, and build nothing" {
    run -0 --separate-stderr "${repo:?}/docker/build.sh" --help
    [[ ${lines[0]} == "Builds the image into the local engine, "* ]]
    [[ ${lines[-1]} == "  TAG=name:tag "* ]]
    run -2 --separate-stderr "$repo/docker/build.sh" VARIANT=deploy
    [ -z "$output" ]
    # shellcheck disable=SC2154 # set by run
    [ "${stderr_lines[0]}" = "build: VARIANT=deploy is not understood: what there is to say is said by variables" ]
    [[ ${stderr_lines[1]} == "Builds the image into the local engine, "* ]]
}

@test "a choice is passed on, and is a label" {
    DALI=0 TENSORRT=11 TENSORRT_INDEX=ADDRESS run build
    [ "$status" -eq 0 ]
    printed "<DALI=0>"
    printed "<TENSORRT=11>"
    printed "<TENSORRT_INDEX=ADDRESS>"
    printed "<yolov12.dali=0>"
    printed "<yolov12.tensorrt=11>"
}

@test "TensorRT of the vendor's index asks for its address" {
    TENSORRT=10 run -2 build
    [[ $output == "build: TENSORRT=10 needs TENSORRT_INDEX=ADDRESS, "* ]]
    [ "${#lines[@]}" -eq 1 ]
}

@test "another CUDA or manager is a target and a tag of its own, with its lock" {
    CUDA=12.8 run -0 build
    printed "<yolov12:train-cu128>"
    printed "<LOCK=train-cu128-py311.txt>"
    printed "<FLASH_ATTN=none>"
    printed "<LEAST_DRIVER=570>"
    ENV_MANAGER=conda run -0 build
    printed "<yolov12:train-conda>"
    printed "<ENV_MANAGER=conda>"
    printed "<LOCK=train-py312.txt>"
    CUDA=13.0 ENV_MANAGER=venv run -0 build
    printed "<yolov12:train>"
    printed "<ENV_MANAGER=venv>"
    VARIANT=train-cu128 CUDA=12.8 run -0 build
    printed "<yolov12:train-cu128>"
    VARIANT=train-cu128 CUDA=13.0 run -2 build
    [ "$output" = "build: VARIANT=train-cu128 CUDA=13.0: this variant has CUDA=12.8; leave one of them out" ]
}

@test "what is not built together is refused with where the reason stands" {
    for choice in "CUDA=12.8 ENV_MANAGER=conda" "VARIANT=deploy CUDA=12.8" "VARIANT=deploy ENV_MANAGER=conda"; do
        # shellcheck disable=SC2086 # several assignments
        run -2 env $choice "$repo/docker/build.sh"
        [[ $output == "build: VARIANT="*" is not built: env/matrix.yaml has what is, and under exclusions why" ]]
    done
    CUDA=12.8 FLASH_ATTN=hd32 run -2 build
    [ "$output" = "build: FLASH_ATTN=hd32: yolov12:train-cu128 is built with FLASH_ATTN=none only; env/matrix.yaml says why, under exclusions" ]
    CUDA=12.8 NCCL_TESTS=1 run -2 build
    [[ $output == "build: NCCL_TESTS=1: yolov12:train-cu128 is built with NCCL_TESTS=0 only; "* ]]
    CUDA=12.8 DALI=1 run -2 build
    [[ $output == "build: DALI=1: yolov12:train-cu128 is built with DALI=0 only; "* ]]
    CUDA=12.8 FLASH_ATTN=none run -0 build
}

@test "upstream's whole FlashAttention and NVIDIA's nccl-tests are built when asked for" {
    FLASH_ATTN=full NCCL_TESTS=1 MAX_JOBS=3 run -0 build
    printed "<FLASH_ATTN=full>"
    printed "<NCCL_TESTS=1>"
    printed "<MAX_JOBS=3>"
}

@test "how many compilers run at once is no input" {
    hash_of() { build | sed -n 's/^<INPUTS=\([0-9a-f]*\)>$/\1/p'; }
    [ "$(MAX_JOBS=3 hash_of)" = "$(hash_of)" ]
}

@test "the commit is a label, and says when the checkout differs from it" {
    stub git 'case $1 in rev-parse) echo 0123abc ;; status) echo "?? yolov12/new.py" ;; esac'
    run build
    printed "<org.opencontainers.image.revision=0123abc-dirty>"
    stub git '[[ $1 != rev-parse ]] || echo 0123abc'
    run build
    printed "<org.opencontainers.image.revision=0123abc>"
}

@test "a variant that there is not is refused in one sentence" {
    VARIANT=trian run -2 build
    [ "$output" = "build: VARIANT=trian: type one of train train-nonroot train-cu128 train-conda dev deploy deploy-nonroot deploy-ort deploy-ort-nonroot" ]
    VARIANT="train dev" run -2 build
    [[ $output == "build: VARIANT=train dev: type one of train "* ]]
}

@test "certificates or logins that are not there are an error that names them" {
    CA_BUNDLE=/nowhere/ca.crt run -2 build
    [ "$output" = "build: CA_BUNDLE=/nowhere/ca.crt: no such file, or an empty one" ]
    NETRC=/nowhere/netrc run -2 build
    [ "$output" = "build: NETRC=/nowhere/netrc: no such file, or an empty one" ]
}

@test "without docker it says what is needed" {
    stub docker 'exit 1'
    run -2 build
    [[ $output == "build: docker with buildx is needed"* ]]
}

@test "without an engine that answers it says why, and what to type" {
    stub docker '[[ $1 == buildx ]] && exit; echo "Client: 26.1"; echo "Cannot connect to the Docker daemon at unix:///nowhere." >&2; exit 1'
    run -2 build
    [[ $output == "build: docker does not answer: Cannot connect to the Docker daemon at unix:///nowhere. Start it ("*")"* ]]
}

@test "without python3, or with one that is too old, it says what is needed" {
    stub python3 'exit 1'
    run -2 build
    [[ $output == "build: python3, 3.9 or newer, is needed"* ]]
}

@test "a failed build is not reported as built" {
    stub docker '[[ $1 == version || $2 == version ]] && exit; [[ $2 == bake ]] && exec cat docker/docker-bake.json; exit 3'
    run -3 build
    [[ $output != *"built "* ]]
}

@test "a key of the bake file that would be lost is an error" {
    run python3 "${repo:?}/docker/replay.py" train <<<'{"target": {"train": {"dockerfile": "d", "context": ".", "target": "t", "platforms": ["linux/arm64"]}}}'
    [ "$status" -ne 0 ]
    [[ $output == *"does not know the keys platforms"* ]]
}
