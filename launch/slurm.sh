#!/usr/bin/env bash
# SLURM: several nodes with GPUs and a folder that all of them see. Run it in an environment with sbs.
#   launch/slurm.sh launch|logs|delete [--dry_run]
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

parse "$@"
read_run
need RUNS "a folder that all nodes share"
NODES=${NODES:-2}
GPUS_PER_NODE=${GPUS_PER_NODE:-8}
TIME=${TIME:-24:00:00}
PARTITION=${PARTITION:-}
export TRAIN_ARGS DEVICES=$((NODES * GPUS_PER_NODE)) MODEL_DIR=$RUNS/$RUN

case $ACTION in
  launch)
    partition=()
    if [[ -n $PARTITION ]]; then partition=(--partition="$PARTITION"); fi
    echo "# environment: MODEL_DIR=$MODEL_DIR DEVICES=$DEVICES TRAIN_ARGS=$TRAIN_ARGS"
    run sbatch --job-name="$RUN" --nodes="$NODES" --gpus-per-node="$GPUS_PER_NODE" --time="$TIME" \
      "${partition[@]}" --output="$RUNS/$RUN.log" --export=ALL \
      "$(dirname "${BASH_SOURCE[0]}")/slurm.sbatch"
    ;;
  logs) run tail -n 100 -f "$RUNS/$RUN.log" ;;
  delete) run scancel --name="$RUN" --me ;;
esac
