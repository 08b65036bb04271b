#!/usr/bin/env bash
# Have Cloud Scheduler launch the template again and again.
set -euo pipefail
# shellcheck source=deploy/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'TEXT'
usage: deploy/schedule.sh --template=URI --project=PROJECT --region=REGION --schedule=CRON
           --scheduler-account=EMAIL --worker-account=EMAIL --temp-location=gs://BUCKET/tmp
           [options] NAME=VALUE...

Create a job of Cloud Scheduler that launches the Flex Template with these parameters. Dataflow
refuses a second job of the same name while the first one runs, so that two never overlap. To
change it, delete it first: gcloud scheduler jobs delete NAME.

  --template=URI             the template that deploy/build.sh wrote
  --project=PROJECT          of the Dataflow jobs
  --region=REGION            where Dataflow runs them
  --schedule=CRON            minute, hour, day of month, month, day of week: '15 3 * * *'
  --time-zone=ZONE           of the schedule; Etc/UTC by default
  --scheduler-account=EMAIL  who launches (deploy/grants.sh)
  --worker-account=EMAIL     who runs: the launcher and the workers (deploy/grants.sh)
  --temp-location=URI        for temporary files
  --subnetwork=NAME          regions/REGION/subnetworks/NAME; the machines then have no public IPs
  --network=NAME             the network, where it is not the default one
  --launcher-machine-type=T  of the launcher, which tries the model: n1-standard-4, for example
  --kms-key=NAME             projects/P/locations/L/keyRings/R/cryptoKeys/K, a key of yours (CMEK)
  --job=NAME                 of the scheduler's and of Dataflow's job; embed-images by default
  --dry-run                  print the request and the command, and run nothing
  --help                     print this text

example:
  deploy/schedule.sh --dry-run --template=gs://my-bucket/templates/embed-images.json \
      --project=my-project --region=europe-west4 --schedule='15 3 * * *' \
      --scheduler-account=embed-images-scheduler@my-project.iam.gserviceaccount.com \
      --worker-account=embed-images-worker@my-project.iam.gserviceaccount.com \
      --temp-location=gs://my-bucket/tmp --launcher-machine-type=n1-standard-4 \
      input=gs://my-photos output=gs://my-bucket/embeddings incremental=true \
      config=/opt/embed-images/configs/dataflow_t4.yaml \
      model=gs://my-bucket/models/inception
TEXT
}

template='' project='' region='' schedule='' time_zone=Etc/UTC scheduler='' worker=''
temp_location='' subnetwork='' network='' launcher='' kms_key='' job=embed-images
parameters=()
for argument in "$@"; do
    case $argument in
        --template=*) template=${argument#*=} ;;
        --project=*) project=${argument#*=} ;;
        --region=*) region=${argument#*=} ;;
        --schedule=*) schedule=${argument#*=} ;;
        --time-zone=*) time_zone=${argument#*=} ;;
        --scheduler-account=*) scheduler=${argument#*=} ;;
        --worker-account=*) worker=${argument#*=} ;;
        --temp-location=*) temp_location=${argument#*=} ;;
        --subnetwork=*) subnetwork=${argument#*=} ;;
        --network=*) network=${argument#*=} ;;
        --launcher-machine-type=*) launcher=${argument#*=} ;;
        --kms-key=*) kms_key=${argument#*=} ;;
        --job=*) job=${argument#*=} ;;
        --dry-run) DRY_RUN=true ;;
        --help) usage && exit ;;
        [a-z]*=*) parameters+=("$argument") ;;
        *) fail "unknown argument $argument" ;;
    esac
done
refuse_control_characters "$@"
require_template "$template"
require --project "$project"
require --region "$region"
require --schedule "$schedule"
require --scheduler-account "$scheduler"
require --worker-account "$worker"
require --temp-location "$temp_location"
require_job "$job"
require_parameters ${parameters[@]+"${parameters[@]}"}

environment=(serviceAccountEmail="$worker" tempLocation="$temp_location")
if [ -n "$subnetwork" ]; then
    environment+=(subnetwork="$subnetwork" ipConfiguration=WORKER_IP_PRIVATE)
fi
if [ -n "$network" ]; then environment+=(network="$network"); fi
if [ -n "$launcher" ]; then environment+=(launcherMachineType="$launcher"); fi
if [ -n "$kms_key" ]; then environment+=(kmsKeyName="$kms_key"); fi
# https://cloud.google.com/dataflow/docs/reference/rest/v1b3/projects.locations.flexTemplates/launch
body=$(mktemp "${TMPDIR:-/tmp}/embed-images-launch.XXXXXX")
trap 'rm -f "$body"' EXIT
printf '{"launchParameter": {"jobName": %s, "containerSpecGcsPath": %s, "parameters": {%s}, "environment": {%s}}}\n' \
    "$(json "$job")" "$(json "$template")" "$(json_members "${parameters[@]}")" \
    "$(json_members "${environment[@]}")" >"$body"
cat "$body"
# No second attempt: a launch whose answer was lost may have begun.
run gcloud scheduler jobs create http "$job" --project="$project" --location="$region" \
    --schedule="$schedule" --time-zone="$time_zone" --http-method=POST \
    --uri="https://dataflow.googleapis.com/v1b3/projects/$project/locations/$region/flexTemplates:launch" \
    --headers=Content-Type=application/json --message-body-from-file="$body" \
    --oauth-service-account-email="$scheduler" --max-retry-attempts=0
