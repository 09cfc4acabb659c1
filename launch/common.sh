# shellcheck shell=bash disable=SC2034
# Sourced by every route: settings from the environment, --dry_run, and the command of the run.
set -euo pipefail

ACTION=launch
DRY_RUN=false

# Reads ACTION and --dry_run from the arguments of the route.
parse() {
  local argument
  for argument in "$@"; do
    case $argument in
      --dry_run) DRY_RUN=true ;;
      launch | logs | delete) ACTION=$argument ;;
      *) fail "$argument: give launch, logs or delete, and --dry_run to print the commands" ;;
    esac
  done
}

fail() {
  echo "${0##*/}: error: $1" >&2
  exit 2
}

# need NAME MEANING: a setting without a default.
need() {
  [[ -n ${!1:-} ]] || fail "$1 is not set: $2 (export $1=...)"
}

# run COMMAND...: prints the command, and executes it unless --dry_run.
run() {
  local line
  printf -v line '%q ' "$@"
  echo "${line% }"
  $DRY_RUN || "$@"
}

# What every route needs to know of the run; names of workloads are DNS labels.
read_run() {
  need RUN "a name for the run, of a-z, 0-9 and -"
  [[ $RUN =~ ^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$ ]] || fail "RUN=$RUN: use a-z, 0-9 and -, at most 40"
  TRAIN_ARGS=${TRAIN_ARGS:---gin_file=experiments/cqa_step_by_step.gin}
}

# train_command MODEL_DIR: counts the devices, then trains; the same command continues.
train_command() {
  echo "sbs devices --expect=$DEVICES && sbs train --model_dir=$1 $TRAIN_ARGS"
}
