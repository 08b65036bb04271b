#!/usr/bin/env bash
# Create the two service accounts, and grant them what they need and no more.
set -euo pipefail
# shellcheck source=deploy/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'TEXT'
usage: deploy/grants.sh --project=PROJECT --region=REGION --repository=NAME
           --input-bucket=NAME --work-bucket=NAME [options]

Create the service accounts embed-images-worker (launcher and workers) and embed-images-scheduler
(who launches) where they are not there, and grant them the roles of docs/deploy.md. It may be run
again, to grant what is missing.

  --project=PROJECT      of the jobs and of the accounts
  --region=REGION        of the Artifact Registry
  --repository=NAME      of the image, in the Artifact Registry
  --input-bucket=NAME    with the images; read only
  --work-bucket=NAME     for the outputs, the template, staged models and temporary files
  --dataset=NAME         a BigQuery dataset that jobs write to, where there is one
  --dry-run              print the commands, and run none
  --help                 print this text

example:
  deploy/grants.sh --dry-run --project=my-project --region=europe-west4 --repository=images \
      --input-bucket=my-photos --work-bucket=my-bucket --dataset=photos
TEXT
}

# A bucket may be named with gs:// before it, as everywhere else.
bucket_name() {
    local name=${1#gs://}
    printf '%s' "${name%/}"
}

project='' region='' repository='' input_bucket='' work_bucket='' dataset=''
for argument in "$@"; do
    case $argument in
        --project=*) project=${argument#*=} ;;
        --region=*) region=${argument#*=} ;;
        --repository=*) repository=${argument#*=} ;;
        --input-bucket=*) input_bucket=$(bucket_name "${argument#*=}") ;;
        --work-bucket=*) work_bucket=$(bucket_name "${argument#*=}") ;;
        --dataset=*) dataset=${argument#*=} ;;
        --dry-run) DRY_RUN=true ;;
        --help) usage && exit ;;
        *) fail "unknown argument $argument" ;;
    esac
done
require --project "$project"
require --region "$region"
require --repository "$repository"
require --input-bucket "$input_bucket"
require --work-bucket "$work_bucket"

worker=embed-images-worker@$project.iam.gserviceaccount.com
scheduler=embed-images-scheduler@$project.iam.gserviceaccount.com

# Who may do what: on_project WHO ROLE, on_bucket BUCKET WHO ROLE.
on_project() {
    run gcloud projects add-iam-policy-binding "$project" --member="serviceAccount:$1" \
        --role="$2" --condition=None
}
on_bucket() {
    run gcloud storage buckets add-iam-policy-binding "gs://$1" --member="serviceAccount:$2" \
        --role="$3"
}

# Granting twice changes nothing; creating twice would end this script.
create_account() {
    if [ "$DRY_RUN" = true ] || ! gcloud iam service-accounts describe \
        "$1@$project.iam.gserviceaccount.com" --project="$project" >/dev/null 2>&1; then
        run gcloud iam service-accounts create "$1" --project="$project"
    fi
}
create_account embed-images-worker
create_account embed-images-scheduler

on_project "$worker" roles/dataflow.worker
on_bucket "$input_bucket" "$worker" roles/storage.objectViewer
on_bucket "$work_bucket" "$worker" roles/storage.objectUser
# Of the bucket itself, which Beam asks for before it stages a job there.
on_bucket "$work_bucket" "$worker" roles/storage.legacyBucketReader
run gcloud artifacts repositories add-iam-policy-binding "$repository" --project="$project" \
    --location="$region" --member="serviceAccount:$worker" --role=roles/artifactregistry.reader

on_project "$scheduler" roles/dataflow.developer
on_bucket "$work_bucket" "$scheduler" roles/storage.objectViewer
run gcloud iam service-accounts add-iam-policy-binding "$worker" --project="$project" \
    --member="serviceAccount:$scheduler" --role=roles/iam.serviceAccountUser

if [ -n "$dataset" ]; then
    on_project "$worker" roles/bigquery.jobUser
    on_project "$worker" roles/bigquery.readSessionUser
    run bq query --project_id="$project" --use_legacy_sql=false \
        "GRANT \`roles/bigquery.dataEditor\` ON SCHEMA \`$project.$dataset\` TO \"serviceAccount:$worker\""
fi
