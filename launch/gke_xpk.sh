#!/usr/bin/env bash
# GKE with xpk: one TPU slice of a cluster that xpk made, from an image, runs on an attached storage.
#   launch/gke_xpk.sh launch|logs|delete [--dry_run]
# xpk restarts the job after a preemption; the run continues from its last checkpoint.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

parse "$@"
read_run
need PROJECT "the Google Cloud project"
need ZONE "the cluster's zone, e.g. us-west4-a"
need CLUSTER "the cluster that 'xpk cluster create' made"
need IMAGE "the image of launch/docker, pushed to a registry of the project"
STORAGE=${STORAGE:-runs} # of 'xpk storage attach', see README.md
MOUNT=${MOUNT:-/mnt/runs}
TPU_TYPE=${TPU_TYPE:-v5litepod-16}
DEVICES=${DEVICES:-16}
RESTARTS=${RESTARTS:-50}
WHERE=(--project="$PROJECT" --zone="$ZONE" --cluster="$CLUSTER")

case $ACTION in
  launch)
    run xpk workload create "${WHERE[@]}" --workload="$RUN" --tpu-type="$TPU_TYPE" \
      --num-slices=1 --docker-image="$IMAGE" --storage="$STORAGE" --max-restarts="$RESTARTS" \
      --command="$(train_command "$MOUNT/$RUN")"
    ;;
  logs)
    run kubectl logs --selector="jobset.sigs.k8s.io/jobset-name=$RUN" --prefix --follow --tail=100 \
      --max-log-requests=64
    ;;
  delete) run xpk workload delete "${WHERE[@]}" --workload="$RUN" ;;
esac
