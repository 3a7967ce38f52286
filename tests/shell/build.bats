#!/usr/bin/env bats
# SPDX-License-Identifier: AGPL-3.0-or-later
# `make build`: what docker/build.sh asks of docker, which is a stub here.
# shellcheck disable=SC2016 # single quotes: what a stub is made of expands in the stub

bats_require_minimum_version 1.5.0
load common

setup() {
    unset VARIANT ARCHS BASE_IMAGE BUILD_NETWORK CA_BUNDLE TAG
    stub git 'exit 1'
    stub docker 'case "$1 $2" in
    "buildx version") ;;
    "buildx bake") sed "s|\${BASE_IMAGE}|${BASE_IMAGE-the pinned base}|; s|\${ARCHS}|${ARCHS-all archs}|" docker/docker-bake.json ;;
    "buildx build") printf "<%s>\n" "$@" ;;
    "image inspect") echo "sha256:abc 6130000000" ;;
    esac'
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
    [ "${lines[-2]}" = "<.>" ]
}

@test "every argument of the Dockerfile is in the bake file, and the other way round" {
    wanted=$(sed -n 's/^ARG \([A-Z_]*\)=.*/\1/p' "${repo:?}/docker/Dockerfile" | sort -u)
    given=$(python3 -c 'import json, sys; print(*sorted(json.load(open(sys.argv[1]))["target"]["train"]["args"]), sep="\n")' "$repo/docker/docker-bake.json")
    [ "$wanted" = "$given" ]
}

@test "every argument of the Dockerfile defaults to a value that fails" {
    run grep -E '^ *ARG ' "${repo:?}/docker/Dockerfile"
    for line in "${lines[@]}"; do
        [[ $line == *=notset ]]
    done
}

@test "the caller's variables are passed on" {
    ca="$BATS_TEST_TMPDIR/my ca.crt"
    echo certificate >"$ca"
    BASE_IMAGE=localhost/debian:12 ARCHS="80 90" BUILD_NETWORK=host CA_BUNDLE=$ca TAG=registry/name:1 run build
    printed "<BASE_IMAGE=localhost/debian:12>"
    printed "<ARCHS=80 90>"
    printed "<--network>"
    printed "<host>"
    printed "<id=ca,src=$ca>"
    printed "<registry/name:1>"
}

@test "a variable that is set and empty is as one that is not set" {
    BASE_IMAGE='' ARCHS='' BUILD_NETWORK='' CA_BUNDLE='' TAG='' run build
    printed "<BASE_IMAGE=the pinned base>"
    [[ $output != *"<--network>"* ]]
    [[ $output != *"<--secret>"* ]]
}

@test "it ends with the image's name, id and size in GB" {
    run build
    [ "${lines[-1]}" = "built yolov12:train sha256:abc 6.13 GB" ]
}

@test "the commit is a label, and says when the checkout differs from it" {
    stub git '[[ $1 == rev-parse ]] && echo 0123abc'
    run build
    printed "<org.opencontainers.image.revision=0123abc-dirty>"
}

@test "a certificate bundle that is not there is an error that names it" {
    CA_BUNDLE=/nowhere/ca.crt run -2 build
    [ "$output" = "build: CA_BUNDLE=/nowhere/ca.crt: no such file, or an empty one" ]
}

@test "without docker it says what is needed" {
    stub docker 'exit 1'
    run -2 build
    [[ $output == "build: docker with buildx is needed"* ]]
}

@test "a failed build is not reported as built" {
    stub docker '[[ $2 == version ]] && exit; [[ $2 == bake ]] && exec cat docker/docker-bake.json; exit 3'
    run -3 build
    [[ $output != *"built "* ]]
}

@test "a key of the bake file that would be lost is an error" {
    run python3 "${repo:?}/docker/replay.py" train <<<'{"target": {"train": {"dockerfile": "d", "context": ".", "target": "t", "platforms": ["linux/arm64"]}}}'
    [ "$status" -ne 0 ]
    [[ $output == *"does not know the keys platforms"* ]]
}
