#!/bin/sh
# Build both images with podman or docker: emissions-sidecar:VERSION, emissions-sidecar-services:VERSION.
#
#   ENGINE      podman or docker; default: the one that is installed, podman first
#   REGISTRY    put before the names, as in myregistry.azurecr.io
#   BASE EXTRAS PIP_ARGS   as the Dockerfile says; default: its own
#   WHEELHOUSE  directory of wheels to build from without a network
#   TARGETS     default: sidecar services
#   SUFFIX      put after the version in the tags
#
# More arguments go to the engine's build, such as --platform=linux/arm64 or --secret=id=pip.conf,src=…
set -eu
cd "$(dirname "$0")/.."

if [ -z "${ENGINE:-}" ]; then
  ENGINE=$(command -v podman || command -v docker) || {
    echo "image: neither podman nor docker is here; install one, or name it: ENGINE=/path/to/docker" >&2
    exit 1
  }
fi
version=$(sed -n 's/^VERSION = "\(.*\)"$/\1/p' sidecar/version.py)
revision=$(git rev-parse HEAD 2>/dev/null) || revision=""
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH
format=+%Y-%m-%dT%H:%M:%SZ
created=$(date -u -d "@$SOURCE_DATE_EPOCH" "$format" 2>/dev/null || date -u -r "$SOURCE_DATE_EPOCH" "$format")

set -- "$@" \
  "--build-arg=SOURCE_DATE_EPOCH=$SOURCE_DATE_EPOCH" \
  "--build-arg=VERSION=$version" \
  "--build-arg=REVISION=$revision" \
  "--build-arg=SOURCE=${SOURCE:-}" \
  "--build-arg=CREATED=$created"
for name in BASE EXTRAS PIP_ARGS; do
  eval "value=\${$name:-}"
  if [ -n "$value" ]; then set -- "$@" "--build-arg=$name=$value"; fi
done
if [ -n "${WHEELHOUSE:-}" ]; then
  set -- "$@" --network=none "--build-context=wheelhouse=$WHEELHOUSE"
fi
case $(basename "$ENGINE") in
  podman*) set -- "$@" "--timestamp=$SOURCE_DATE_EPOCH" ;; # docker's BuildKit takes it from the argument
esac

for target in ${TARGETS:-sidecar services}; do
  name=emissions-sidecar
  if [ "$target" = services ]; then name=emissions-sidecar-services; fi
  tag=${REGISTRY:+$REGISTRY/}$name:$version${SUFFIX:-}
  "$ENGINE" build "$@" "--target=$target" "--tag=$tag" .
  echo "image: built $tag"
done
