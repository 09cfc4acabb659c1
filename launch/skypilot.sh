#!/usr/bin/env bash
# SkyPilot: a managed job that is started again elsewhere after a preemption.
#   launch/skypilot.sh launch|logs|delete [--dry_run]
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

parse "$@"
read_run
need BUCKET "where runs are kept, e.g. gs://my-runs (a hierarchical namespace) or s3://my-runs"
NODES=${NODES:-2}
GPUS=${GPUS:-H100:8}
DEVICES=${DEVICES:-16}

case $ACTION in
  launch)
    run sky jobs launch --yes --name="$RUN" --num-nodes="$NODES" --gpus="$GPUS" \
      --env="RUN=$RUN" --env="BUCKET=$BUCKET" --env="DEVICES=$DEVICES" \
      --env="TRAIN_ARGS=$TRAIN_ARGS" "$(dirname "${BASH_SOURCE[0]}")/skypilot.yaml"
    ;;
  logs) run sky jobs logs --name="$RUN" ;;
  delete) run sky jobs cancel --yes --name="$RUN" ;;
esac
