#!/usr/bin/env bash
# Builds, and with a registry pushes, the image for one kind of device.
#   launch/docker/build.sh cpu|cuda|tpu [--dry_run]
# REGISTRY=europe-docker.pkg.dev/PROJECT/REPOSITORY pushes to it.
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

case ${1:-} in
  cpu) extras=serve,report ;;
  cuda) extras=cuda12,report ;;
  tpu) extras=tpu,report ;;
  *) fail "give cpu, cuda or tpu" ;;
esac
image=${REGISTRY:+$REGISTRY/}sbs:$1

if [[ ${2:-} == --dry_run ]]; then DRY_RUN=true; fi

run docker build --file launch/docker/Dockerfile --build-arg "EXTRAS=$extras" --tag "$image" .
if [[ ${REGISTRY:-} ]]; then run docker push "$image"; fi
