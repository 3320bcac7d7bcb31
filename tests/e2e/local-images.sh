#!/usr/bin/env bash
# For a test cluster that runs the images of a Docker daemon, the one that DOCKER_HOST names: pulls the two images that the
# Dockerfile and k8s/ take from a registry. Where none can be reached it makes stand-ins out of Debian packages under the
# same names, which needs root and debootstrap. Does nothing for an image that is there.
set -euo pipefail
cd "$(dirname "$0")/../.."

base=$(sed -n 's/^ARG BASE=//p' Dockerfile)
server=$(sed -n 's/^ *image: //p' k8s/base/redis.yaml)
root=${ROOTFS:-${TMPDIR:-/tmp}/rootfs} # kept for the next time

here() { docker image inspect "$1" >/dev/null 2>&1 || docker pull --quiet "$1" 2>/dev/null; }

if ! here "$base"; then
  [ -x "$root/usr/bin/python3" ] || debootstrap --variant=minbase \
    --include=python3,python3-pip,python3-venv,ca-certificates bookworm "$root"
  # pip in the build trusts whom this machine trusts.
  tar --directory "$root" --exclude './var/cache/apt/archives/*' --exclude './var/lib/apt/lists/*' \
    --exclude ./etc/ssl/certs/ca-certificates.crt --create . >"$root.tar"
  tar --directory / --append --file "$root.tar" --dereference etc/ssl/certs/ca-certificates.crt
  docker import --change 'CMD ["python3"]' \
    --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' "$root.tar" "$base"
  rm "$root.tar"
fi

# Redis under Valkey's name. Its programs take the same arguments.
here "$server" || DOCKER_BUILDKIT=0 docker build --network host --tag "$server" - <<DOCKERFILE
FROM $base
RUN apt-get update && apt-get install --yes --no-install-recommends redis-server redis-tools \
    && ln -s /usr/bin/redis-server /usr/local/bin/valkey-server && ln -s /usr/bin/redis-cli /usr/local/bin/valkey-cli
DOCKERFILE
