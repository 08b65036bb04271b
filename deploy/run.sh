#!/usr/bin/env bash
# Launch a job from the template.
set -euo pipefail
# shellcheck source=deploy/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'TEXT'
usage: deploy/run.sh --template=URI --region=REGION [options] [gcloud's flags] NAME=VALUE...

Launch a job from the Flex Template. NAME=VALUE are its parameters: those of deploy/metadata.json.
In lists, \, stands for a comma inside of one value.

  --template=URI     the template that deploy/build.sh wrote
  --region=REGION    where Dataflow runs the job
  --job=NAME         a name that no running job has; embed-images-DATE-TIME by default
  --dry-run          print the command and its parameters, and run nothing
  --help             print this text

All other flags go to `gcloud dataflow flex-template run` as they are, such as
--service-account-email, --temp-location, --subnetwork, --disable-public-ips, --max-workers,
--launcher-machine-type or --dataflow-kms-key; write them as --FLAG=VALUE.

example:
  deploy/run.sh --dry-run --template=gs://my-bucket/templates/embed-images.json \
      --region=europe-west4 --temp-location=gs://my-bucket/tmp \
      --launcher-machine-type=n1-standard-4 --disable-public-ips \
      --service-account-email=embed-images-worker@my-project.iam.gserviceaccount.com \
      input=gs://my-photos/2026 output=gs://my-bucket/embeddings incremental=true \
      config=/opt/embed-images/configs/dataflow_t4.yaml model=gs://my-bucket/models/inception
TEXT
}

template='' region='' job=embed-images-$(date -u +%Y%m%d-%H%M%S)
passed=() parameters=()
for argument in "$@"; do
    case $argument in
        --template=*) template=${argument#*=} ;;
        --region=*) region=${argument#*=} ;;
        --job=*) job=${argument#*=} ;;
        --dry-run) DRY_RUN=true ;;
        --help) usage && exit ;;
        --dry-run=* | --help=*) fail "${argument%%=*} takes no value" ;;
        --*) passed+=("$argument") ;;
        [a-z]*=*) parameters+=("$argument") ;;
        *) fail "$argument is neither a flag nor NAME=VALUE" ;;
    esac
done
refuse_control_characters "$@"
require_template "$template"
require --region "$region"
require_job "$job"
require_parameters ${parameters[@]+"${parameters[@]}"}

# In a file, because on its command line gcloud would split the values at their commas.
flags=$(mktemp "${TMPDIR:-/tmp}/embed-images-flags.XXXXXX")
trap 'rm -f "$flags"' EXIT
printf -- '--parameters: {%s}\n' "$(json_members "${parameters[@]}")" >"$flags"
cat "$flags"
run gcloud dataflow flex-template run "$job" --template-file-gcs-location="$template" \
    --region="$region" --flags-file="$flags" ${passed[@]+"${passed[@]}"}
