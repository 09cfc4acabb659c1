#!/usr/bin/env bash
# Vertex AI custom job: one machine with GPUs; Vertex mounts every bucket of the project at /gcs.
#   launch/vertex.sh launch|logs|delete [--dry_run]
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

parse "$@"
read_run
need PROJECT "the Google Cloud project"
need REGION "a region of Vertex AI, e.g. us-central1"
need IMAGE "the image of launch/docker, pushed to a registry of the project"
need BUCKET "a bucket with a hierarchical namespace, without gs://"
MACHINE=${MACHINE:-a3-highgpu-8g}
ACCELERATOR=${ACCELERATOR:-NVIDIA_H100_80GB}
DEVICES=${DEVICES:-8}
WHERE=(--project="$PROJECT" --region="$REGION")

# JSON is YAML: quotes and spaces of the command need no care.
spec() {
  local command
  command=$(train_command "/gcs/$BUCKET/$RUN")
  command=${command//\\/\\\\}
  cat <<JSON
{"workerPoolSpecs": [{
  "replicaCount": 1,
  "machineSpec": {"machineType": "$MACHINE", "acceleratorType": "$ACCELERATOR", "acceleratorCount": $DEVICES},
  "containerSpec": {"imageUri": "$IMAGE", "command": ["bash", "-c"], "args": ["${command//\"/\\\"}"]}
}], "scheduling": {"restartJobOnWorkerRestart": true}}
JSON
}

job() {
  gcloud ai custom-jobs list "${WHERE[@]}" --filter="displayName=$RUN" --sort-by=~createTime \
    --limit=1 --format='value(name)'
}

case $ACTION in
  launch)
    file=$(mktemp --suffix=.json)
    trap 'rm -f "$file"' EXIT
    spec | tee "$file"
    if $DRY_RUN; then file=SPEC.json; fi
    run gcloud ai custom-jobs create "${WHERE[@]}" --display-name="$RUN" --config="$file"
    ;;
  logs | delete)
    name=JOB
    if ! $DRY_RUN; then name=$(job); fi
    [[ -n $name ]] || fail "no job is called $RUN"
    verb=stream-logs
    if [[ $ACTION == delete ]]; then verb=cancel; fi
    run gcloud ai custom-jobs "$verb" "$name" "${WHERE[@]}"
    ;;
esac
