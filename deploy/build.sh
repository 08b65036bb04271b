#!/usr/bin/env bash
# Build and push the image, and write the template that names it.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=deploy/lib.sh
source "$here/lib.sh"

usage() {
    cat <<'TEXT'
usage: deploy/build.sh --image=NAME --template=gs://BUCKET/NAME.json [options]

Build the image of deploy/Dockerfile, push it, and write the Flex Template that names it, with the
parameters of deploy/metadata.json.

  --image=NAME       the image, in an Artifact Registry; a tag of its own for each build
  --template=URI     where the template goes
  --model=HANDLE     bake this model into the image, as /opt/model
  --user=root        run as root; by default as a user without rights (docs/deploy.md)
  --cloud-build      build with Cloud Build instead of a Docker on this machine
  --dry-run          print the commands, and run none
  --help             print this text

example:
  deploy/build.sh --dry-run --template=gs://my-bucket/templates/embed-images.json \
      --image=europe-west4-docker.pkg.dev/my-project/images/embed-images:1
TEXT
}

image='' template='' model='' user=embed builder=docker
for argument in "$@"; do
    case $argument in
        --image=*) image=${argument#*=} ;;
        --template=*) template=${argument#*=} ;;
        --model=*) model=${argument#*=} ;;
        --user=*) user=${argument#*=} ;;
        --cloud-build) builder=cloud-build ;;
        --dry-run) DRY_RUN=true ;;
        --help) usage && exit ;;
        *) fail "unknown argument $argument" ;;
    esac
done
require --image "$image"
require_template "$template"
[[ $user == embed || $user == root ]] || fail "--user is $user; use embed or root"
cd "$here/.."

if [ "$builder" = docker ]; then
    # The ignore file beside the Dockerfile is BuildKit's.
    run env DOCKER_BUILDKIT=1 docker build --file=deploy/Dockerfile --platform=linux/amd64 \
        --build-arg=IMAGE="$image" --build-arg=IMAGE_USER="$user" --build-arg=MODEL="$model" \
        --tag="$image" .
    run docker push "$image"
else
    # With another delimiter than a comma, which a handle may hold.
    run gcloud builds submit --config=deploy/cloudbuild.yaml \
        --ignore-file=deploy/Dockerfile.dockerignore \
        --substitutions="^|^_IMAGE=$image|_IMAGE_USER=$user|_MODEL=$model" .
fi
run gcloud dataflow flex-template build "$template" --image="$image" --sdk-language=PYTHON \
    --metadata-file=deploy/metadata.json
