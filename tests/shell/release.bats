#!/usr/bin/env bats
# SPDX-License-Identifier: AGPL-3.0-or-later
# `make push`, `make sign`, `make save` and `make load`: what they ask of docker and cosign, which are stubs here, and what they refuse.
# shellcheck disable=SC2016 # single quotes: what a stub is made of expands in the stub

bats_require_minimum_version 1.5.0
load common

inputs=0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef

setup() {
    unset VARIANT REGISTRY ALLOW_DIRTY FILE IMAGE KEY GITHUB_ACTIONS
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
        [[ -z ${unreachable-} ]] || { echo "ERROR: dial tcp: $unreachable" >&2; exit 1; }
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

@test "an image of a variant that there is not names those that there are" {
    for program in push.py save.sh; do
        no_image=1 run -2 env FILE=image.tar REGISTRY=registry.example VARIANT=trian "${repo:?}/docker/$program"
        [[ $output == "${program%.*}: there is no image yolov12:trian, and no variant of that name: type one of train train-nonroot "* ]]
        [[ $output != *"make build"* ]]
    done
}

@test "help and anything else behind a program show its usage, and do nothing" {
    for program in push.py save.sh load.sh sign.sh; do
        run -0 --separate-stderr "${repo:?}/docker/$program" --help
        [[ ${lines[0]} == *"\`make ${program%.*}"* ]]
        run -2 --separate-stderr "$repo/docker/$program" VARIANT=deploy
        [ -z "$output" ]
        # shellcheck disable=SC2154 # set by run
        [ "${stderr_lines[0]}" = "${program%.*}: VARIANT=deploy is not understood: what there is to say is said by variables" ]
    done
    [ ! -e asked ]
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
    for words in "connection refused" "i/o timeout"; do
        unreachable=$words run -75 push
        [[ $output == "push: registry.example did not answer"*"try again" ]]
    done
}

@test "a registry that is no host is a typo" {
    unreachable="lookup registry.example on 10.0.0.1:53: no such host" run -2 push
    [[ $output == "push: there is no host registry.example ("*"): look at REGISTRY for a typo" ]]
}

@test "make push hands its variables on" {
    run make --no-print-directory -C "${repo:?}" push REGISTRY=HTTPS://registry.example
    [ "$status" -eq 2 ]
    [[ ${lines[0]} == "push: REGISTRY=HTTPS://registry.example: type it as "* ]]
}

pushed=registry.example/team/yolov12@sha256:$inputs

sign() { IMAGE=${IMAGE-$pushed} "${repo:?}/docker/sign.sh"; }

# The image's bill of materials, and a cosign that notes what it is asked and shows what it is given.
stub_cosign() {
    stub docker 'case "$1 $2" in
    "run --rm") [[ -z ${no_bill-} ]] || exit 125
        echo "bill of ${*: -3:1}" ;;
    "image inspect") echo "[{\"Config\": {\"Labels\": {\"org.opencontainers.image.revision\": \"${revision:-c0ffee}\", \"yolov12.variant\": \"train\",
        \"yolov12.inputs\": \"0123\", \"org.opencontainers.image.base.name\": \"debian:12@sha256:aa\"}}}]" ;;
    esac'
    stub cosign 'echo "cosign $*" | sed "s|$TMPDIR/[^ ]*/||"
    for ((i = 1; i < $#; i++)); do [[ ${!i} != --predicate ]] || { next=$((i + 1)); cp "${!next}" .; }; done'
    export TMPDIR=$BATS_TEST_TMPDIR
}

@test "a signature and the bill of materials are made for the digest, without a key" {
    stub_cosign
    run -0 sign
    [ "${lines[0]}" = "cosign sign $pushed" ]
    [ "${lines[1]}" = "cosign attest --type cyclonedx --predicate sbom.cdx.json $pushed" ]
    [ "${lines[2]}" = "signed $pushed with its bill of materials" ]
    [ "${#lines[@]}" -eq 3 ]
    [ "$(cat sbom.cdx.json)" = "bill of $pushed" ]
}

@test "a key is cosign's own" {
    stub_cosign
    echo key >"my cosign.key"
    KEY="my cosign.key" run -0 sign
    [ "${lines[0]}" = "cosign sign --key my cosign.key $pushed" ]
    [[ ${lines[1]} == "cosign attest --key my cosign.key --type cyclonedx "* ]]
}

@test "a key that is not there is named before anything is looked for, and one that is no file is cosign's matter" {
    KEY=/nokey run -2 sign
    [ "$output" = "sign: KEY=/nokey: no such file, or an empty one" ]
    stub_cosign
    KEY=awskms:///alias/mine run -0 sign
    [ "${lines[0]}" = "cosign sign --key awskms:///alias/mine $pushed" ]
}

# in_workflow COMMAND: with what a runner of GitHub sets.
in_workflow() {
    env GITHUB_ACTIONS=true GITHUB_SHA=c0ffee GITHUB_REF=refs/tags/v1.2.3 GITHUB_SERVER_URL=https://github.com GITHUB_REPOSITORY=team/yolov12 \
        GITHUB_WORKFLOW_REF=team/yolov12/.github/workflows/images.yml@refs/tags/v1.2.3 GITHUB_EVENT_NAME=push GITHUB_REPOSITORY_ID=1 \
        GITHUB_REPOSITORY_OWNER_ID=2 GITHUB_RUN_ID=3 GITHUB_RUN_ATTEMPT=4 RUNNER_ENVIRONMENT=github-hosted IMAGE="$pushed" "${repo:?}/docker/sign.sh"
}

@test "in the workflow the provenance is signed too" {
    stub_cosign
    run -0 in_workflow
    [ "${lines[2]}" = "cosign attest --yes --type slsaprovenance1 --predicate provenance.json $pushed" ]
    [ "${lines[3]}" = "signed $pushed with its bill of materials and its provenance" ]
    grep -q '"invocationId": "https://github.com/team/yolov12/actions/runs/3/attempts/4"' provenance.json
}

@test "in the workflow an image of another commit is not signed at all" {
    stub_cosign
    revision=0ther run -2 in_workflow
    [ "$output" = "provenance: the image was made from 0ther, and this run is of c0ffee" ]
}

@test "an image without a bill of materials is not signed at all" {
    stub_cosign
    no_bill=1 run -2 sign
    [ "$output" = "sign: the bill of materials can not be read from $pushed (see above)" ]
}

@test "sign refuses a tag, and nothing at all" {
    IMAGE=registry.example/team/yolov12:cu130 run -2 sign
    [[ $output == "sign: IMAGE=registry.example/team/yolov12:cu130: name it by its digest, "* ]]
    IMAGE='' run -2 sign
    [[ $output == "sign: which image? Type make sign IMAGE=registry.example/team/yolov12@sha256:..., "* ]]
}

@test "make sign hands its variables on" {
    run make --no-print-directory -C "${repo:?}" sign IMAGE=registry.example/yolov12:cu130
    [ "$status" -eq 2 ]
    [[ ${lines[0]} == "sign: IMAGE=registry.example/yolov12:cu130: name it by its digest"* ]]
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

@test "save does not take an engine that does not answer for a missing image" {
    stub docker 'echo "Cannot connect to the Docker daemon at unix:///nowhere." >&2; exit 1'
    FILE=image.tar run -2 "${repo:?}/docker/save.sh"
    [[ $output == "save: docker does not answer: Cannot connect"*"Start it ("* ]]
}

@test "save refuses a name that does not say the format, and none" {
    FILE=image.zip run -2 "${repo:?}/docker/save.sh"
    [ "$output" = "save: FILE=image.zip: let it end in .tar.zst, .tar.gz or .tar" ]
    FILE='' run -2 "$repo/docker/save.sh"
    [ "$output" = "save: where to? Type make save FILE=yolov12-train.tar.zst" ]
}

@test "save into a folder that is not there says so at once" {
    FILE=missing/image.tar run -2 "${repo:?}/docker/save.sh"
    [ "$output" = "save: FILE=missing/image.tar: there is no folder missing" ]
    [ ! -e asked ]
}

@test "what save writes into a checkout leaves it clean, and only at its top" {
    git init -q .
    cp "${repo:?}/.gitignore" .
    files=(image.tar image.tar.zst image.tar.gz)
    run -0 git check-ignore "${files[@]}" "${files[@]/%/.sha256}"
    [ "${#lines[@]}" -eq 6 ]
    run -1 git check-ignore tests/image.tar tests/image.tar.zst image.sha256
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
