#!/usr/bin/env bash
# The tutorial, and what can go wrong in it, on the Kubernetes cluster that KUBECONFIG names. Arguments go to pytest.
#
#   PYQUEUE_E2E_IMAGE  the worker image, where the cluster can pull it. Without it the image is built by `docker`, and is
#                      loaded into a cluster of kind; any other cluster has to run the images of that Docker daemon.
#   PYQUEUE_E2E_BARE   1: the cluster has no pod network, DNS, storage or registry (k8s/overlays/local); 0: it has.
#                      Without it: whether there is a Service kube-dns.
set -eu
cd "$(dirname "$0")/../.."
exec python -m pytest -m e2e tests/e2e "$@"
