#!/usr/bin/env bash
# TPU VM by queued resources (v4 to v6e; Google calls this API legacy and offers TPU7x on GKE only).
#   launch/tpu_vm.sh launch|logs|delete [--dry_run]
# The same command creates what is missing, and continues the run after a preemption.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

parse "$@"
read_run
need PROJECT "the Google Cloud project"
need ZONE "a zone with TPUs, e.g. us-west4-a"
need IMAGE "the image of launch/docker, pushed to a registry of the project"
need BUCKET "a bucket with a hierarchical namespace, without gs://"
TPU_TYPE=${TPU_TYPE:-v5litepod-16}
RUNTIME=${RUNTIME:-v2-alpha-tpuv5-lite}
DEVICES=${DEVICES:-16}
SPOT=${SPOT:-true}
WAIT_MINUTES=${WAIT_MINUTES:-720}
WHERE=(--project="$PROJECT" --zone="$ZONE")
MOUNT=/mnt/runs

on_all_workers() {
  run gcloud compute tpus tpu-vm ssh "$RUN" "${WHERE[@]}" --worker=all --command="$1"
}

queued() {
  gcloud compute tpus queued-resources describe "$RUN" "${WHERE[@]}" --format='value(state.state)'
}

create() {
  if $DRY_RUN || ! queued >/dev/null 2>&1; then
    local spot=()
    if $SPOT; then spot=(--spot); fi
    run gcloud compute tpus queued-resources create "$RUN" "${WHERE[@]}" --node-id="$RUN" \
      --accelerator-type="$TPU_TYPE" --runtime-version="$RUNTIME" "${spot[@]}"
  fi
  echo "# waits until its state is ACTIVE, at most $WAIT_MINUTES minutes"
  if $DRY_RUN; then return; fi
  local state minute
  for ((minute = 0; minute < WAIT_MINUTES; minute++)); do
    state=$(queued)
    case $state in
      ACTIVE) return ;;
      FAILED | SUSPENDED) fail "$RUN is $state; delete it, then launch again" ;;
    esac
    sleep 60
  done
  fail "$RUN is still $state after $WAIT_MINUTES minutes; it stays in the queue and costs nothing"
}

# Ubuntu's package of gcsfuse; allow_other, because the container has another user.
# shellcheck disable=SC2016 # the workers expand it
INSTALL='command -v gcsfuse >/dev/null || {
  source=https://packages.cloud.google.com/apt
  curl -fsS "$source/doc/apt-key.gpg" | sudo tee /usr/share/keyrings/cloud.google.asc >/dev/null
  echo "deb [signed-by=/usr/share/keyrings/cloud.google.asc] $source gcsfuse-$(lsb_release -cs) main" |
    sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
  sudo apt-get update -qq && sudo apt-get install -qq -y gcsfuse
}'

case $ACTION in
  launch)
    create
    on_all_workers "$INSTALL"
    on_all_workers "sudo mkdir -p $MOUNT &&
      { mountpoint -q $MOUNT || sudo gcsfuse -o allow_other $BUCKET $MOUNT; }"
    on_all_workers "gcloud auth configure-docker ${IMAGE%%/*} --quiet && sudo docker pull -q $IMAGE"
    # The TPU's devices belong to root, so this route runs the container as root.
    printf -v inner '%q' "($(train_command "$MOUNT/$RUN")) 2>&1 | tee -a $MOUNT/$RUN.\$(hostname).log"
    on_all_workers "sudo docker rm -f $RUN 2>/dev/null; sudo docker run -d --name $RUN --user 0 \
      --privileged --net=host -v $MOUNT:$MOUNT $IMAGE bash -c $inner"
    ;;
  logs) on_all_workers "sudo docker logs --tail=20 $RUN" ;;
  delete)
    run gcloud compute tpus queued-resources delete "$RUN" "${WHERE[@]}" --force --quiet
    echo "# gs://$BUCKET/$RUN stays: this never deletes a bucket"
    ;;
esac
