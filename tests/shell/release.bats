#!/usr/bin/env bats
# SPDX-License-Identifier: AGPL-3.0-or-later
# `make push`, `make save` and `make load`: what they ask of docker, which is a stub here, and what they refuse.
# shellcheck disable=SC2016 # single quotes: what a stub is made of expands in the stub

bats_require_minimum_version 1.5.0
load common

inputs=0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef

setup() {
    unset VARIANT REGISTRY ALLOW_DIRTY FILE
    cd "$BATS_TEST_TMPDIR" || return
    # A registry that holds, under each tag, a manifest which names the configuration of the image that was pushed.
    stub docker 'echo "$*" >>asked
    case "$1 $2" in
    "image inspect") [[ -z ${no_image-} ]] || { echo "Error: No such image: $3" >&2; exit 1; }
        echo "[{\"Id\": \"sha256:local\", \"Config\": {\"Labels\": {\"yolov12.variant\": \"deploy\", \"yolov12.inputs\": \"$inputs\",
            \"org.opencontainers.image.version\": \"1.2.3\", \"org.opencontainers.image.revision\": \"${revision:-c0ffee}\"}}}]" ;;
    "run --rm") [[ -z ${unverified-} ]] || exit 1
        echo "{\"image\": {\"version\": \"1.2.3\", \"inputs\": \"$inputs\", \"archs\": [],
            \"packages\": {}, \"flash_attn\": null, \"base_image\": \"$base\"}}" ;;
    "buildx imagetools") name=${!#}
        [[ -z ${unreachable-} ]] || { echo "ERROR: dial tcp: connection refused" >&2; exit 1; }
        [[ -s held-${name##*:} ]] || { echo "ERROR: $name: not found" >&2; exit 1; }
        [[ $* == *--raw* ]] && cat "held-${name##*:}" || echo "{}" ;;
    "push "*) echo "layers: pushed"; echo "{\"config\": {\"digest\": \"sha256:local\"}}" >"held-${2##*:}" ;;
    "save "*) echo "the image $2" ;;
    "load "*) echo "Loaded image: yolov12:train" ;;
    esac'
    export inputs
    base=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["variable"]["BASE_IMAGE"]["default"])' "${repo:?}/docker/docker-bake.json")
    export base
}

push() { REGISTRY=${REGISTRY-registry.example/team} VARIANT=deploy "${repo:?}/docker/push.py"; }

@test "a push makes the immutable tag and three that move, and ends with the digest to pull by" {
    run --separate-stderr push
    [ "$status" -eq 0 ]
    printed "pushed  registry.example/team/yolov12:1.2.3-deploy-cpu-0123456789ab"
    printed "moved   registry.example/team/yolov12:1.2.3-deploy-cpu"
    printed "moved   registry.example/team/yolov12:1.2-deploy-cpu"
    printed "moved   registry.example/team/yolov12:deploy-cpu"
    digest=$(sha256sum <held-1.2.3-deploy-cpu-0123456789ab)
    [ "${lines[-1]}" = "docker pull registry.example/team/yolov12@sha256:${digest%% *}" ]
}

@test "a push of what is there uploads nothing under the immutable tag" {
    push
    rm asked
    run push
    [ "$status" -eq 0 ]
    run ! grep -q "^push .*-0123456789ab$" asked
}

@test "an immutable tag with another image stops the push" {
    echo '{"config": {"digest": "sha256:other"}}' >held-1.2.3-deploy-cpu-0123456789ab
    run -2 push
    [[ $output == "push: registry.example/team/yolov12:1.2.3-deploy-cpu-0123456789ab is another build of the same inputs, and stays: docker pull "*"gets it" ]]
    run ! grep -q "^push " asked
}

@test "no registry is one sentence that says what to type" {
    REGISTRY='' run -2 push
    [ "$output" = "push: where to? Type make push REGISTRY=registry.example/team" ]
}

@test "an image that is not there says how to build it" {
    no_image=1 run -2 push
    [ "$output" = "push: there is no image yolov12:deploy: type make build VARIANT=deploy" ]
}

@test "an image that does not verify is not pushed" {
    unverified=1 run -2 push
    [ "$output" = "push: yolov12:deploy is not what was built: docker run --rm yolov12:deploy verify says what differs" ]
}

@test "a dirty image is refused, and with ALLOW_DIRTY=1 moves no tag" {
    revision=c0ffee-dirty run -2 push
    [[ $output == "push: yolov12:deploy is not pushed, since it was built from a checkout with changes"* ]]
    revision=c0ffee-dirty ALLOW_DIRTY=1 run --separate-stderr push
    [ "$status" -eq 0 ]
    printed "moved no other tag: it was built from a checkout with changes that are in no commit"
    [[ $output != *"moved   "* ]]
}

@test "a registry that does not answer is worth a retry" {
    unreachable=1 run -75 push
    [[ $output == "push: registry.example did not answer"*"try again" ]]
}

@test "make push hands its variables on" {
    run make --no-print-directory -C "${repo:?}" push REGISTRY=HTTPS://registry.example
    [ "$status" -eq 2 ]
    [[ ${lines[0]} == "push: REGISTRY=HTTPS://registry.example: type it as "* ]]
}

@test "what save writes, load takes" {
    files=("my image.tar" image.tar.gz)
    ! type -P zstd >/dev/null || files+=(image.tar.zst)
    for file in "${files[@]}"; do
        FILE=$file run "${repo:?}/docker/save.sh"
        [ "$status" -eq 0 ]
        [ ! -e "$file.part" ]
        sha256sum --check "$file.sha256"
        FILE=$file run "$repo/docker/load.sh"
        [ "$status" -eq 0 ]
        printed "Loaded image: yolov12:train"
    done
    gunzip -c image.tar.gz | cmp - "my image.tar"
}

@test "save takes the variant" {
    VARIANT=deploy FILE=image.tar "${repo:?}/docker/save.sh"
    [ "$(cat image.tar)" = "the image yolov12:deploy" ]
}

@test "a save that fails leaves nothing behind" {
    stub docker '[[ $1 == image ]] || { echo half; exit 1; }'
    FILE=image.tar run ! "${repo:?}/docker/save.sh"
    run ls
    [[ $output != *image.tar* ]]
}

@test "save refuses a name that does not say the format, and none" {
    FILE=image.zip run -2 "${repo:?}/docker/save.sh"
    [ "$output" = "save: FILE=image.zip: let it end in .tar.zst, .tar.gz or .tar" ]
    FILE='' run -2 "$repo/docker/save.sh"
    [ "$output" = "save: where to? Type make save FILE=yolov12-train.tar.zst" ]
}

@test "save of an image that is not there says how to build it" {
    no_image=1 FILE=image.tar run -2 "${repo:?}/docker/save.sh"
    [ "$output" = "save: there is no image yolov12:train: type make build VARIANT=train" ]
}

@test "load refuses a file that changed on its way, before docker sees it" {
    FILE=image.tar "${repo:?}/docker/save.sh"
    echo more >>image.tar
    rm asked
    FILE=image.tar run -2 "$repo/docker/load.sh"
    [[ $output == "load: image.tar is not what make save wrote (sha256 "*"): copy it again" ]]
    [ ! -e asked ]
}

@test "load refuses a file without its hash, and one that is not there" {
    echo image >image.tar
    FILE=image.tar run -2 "${repo:?}/docker/load.sh"
    [ "$output" = "load: image.tar.sha256 is not there: make save wrote it beside the image, copy it too" ]
    FILE=nowhere.tar run -2 "$repo/docker/load.sh"
    [ "$output" = "load: FILE=nowhere.tar: no such file, or an empty one" ]
}
