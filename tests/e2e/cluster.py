"""A namespace of the Kubernetes cluster that KUBECONFIG names, and what the tests do in it."""

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Json = dict[str, Any]

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
COMPONENT = K8S / "overlays" / "local" / "component"
FRUITS = ["apple", "banana", "cherry", "date", "fig", "grape", "lemon", "melon", "orange"]

# The workers' process.sh in the tests.
PROGRAM = """\
#!/bin/sh
echo "Working on $1, attempt $PYQUEUE_ATTEMPT"
sleep {seconds}
echo "Done with $1"
"""


def run(*command: str | Path, **environment: str) -> str:
    """Run a program and return its standard output.

    Raises:
        AssertionError: it failed; with all that it said.
    """
    done = subprocess.run(
        command,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def eventually(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    """Poll until the condition is true.

    Raises:
        AssertionError: it was still false after `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.2)


class Namespace:
    """One namespace, with the server of k8s/base in it once `deploy` has brought it."""

    def __init__(self, name: str, image: str, directory: Path, *, bare: bool) -> None:
        """Create it; files of the tests go into `directory`."""
        self.name = name
        self.image = image
        self.directory = directory
        self.bare = bare
        run("kubectl", "create", "namespace", name)
        if not bare:
            level = "pod-security.kubernetes.io/enforce=restricted"
            run("kubectl", "label", "namespace", name, level)
        # Pods are refused until the controller manager has made their account.
        eventually(lambda: "default" in self.kubectl("get", "serviceaccounts"), "service account")

    def kubectl(self, *args: str | Path) -> str:
        """Run kubectl in the namespace."""
        return run("kubectl", "--namespace", self.name, *args)

    def remove(self) -> None:
        """Delete it with all that is in it."""
        run("kubectl", "delete", "namespace", self.name, "--wait=false")

    # --- what is applied

    def apply(self, directory: str, *patches: Json) -> None:
        """`kubectl apply -k` a directory of k8s/, fitted to the cluster, with patches."""
        here = self.directory / str(time.monotonic_ns())
        here.mkdir()
        repository, _, tag = self.image.rpartition(":")
        kustomization = {
            "resources": [os.path.relpath(K8S / directory, here)],
            "components": [os.path.relpath(COMPONENT, here)] if self.bare else [],
            "images": [{"name": "pyqueue", "newName": repository, "newTag": tag}],
            "patches": [{"patch": json.dumps(patch)} for patch in patches],
        }
        (here / "kustomization.yaml").write_text(json.dumps(kustomization))
        self.kubectl("apply", "-k", here)

    def clear(self) -> None:
        """Remove everything but the server, which it empties."""
        kinds = "job,deployment,pod"
        server = "app.kubernetes.io/name!=queue-redis"
        self.kubectl("delete", kinds, "--selector", server, "--wait=true", "--timeout=120s")
        self.server("flushall")

    # --- what is there

    def get(self, *what: str) -> Json:
        """Return an object, or a list of them."""
        found: Json = json.loads(self.kubectl("get", *what, "--output=json"))
        return found

    def pods(self, app: str) -> dict[str, Json]:
        """Return the pods of a workload by name."""
        pods = self.get("pods", f"--selector=app.kubernetes.io/name={app}")["items"]
        return {pod["metadata"]["name"]: pod for pod in pods}

    def log(self, pod: str) -> list[str]:
        """Return the lines that a pod has logged since it was last (re)started."""
        done = subprocess.run(
            ["kubectl", "--namespace", self.name, "logs", pod],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.stdout.splitlines() if done.returncode == 0 else []

    @contextlib.contextmanager
    def following(self, pod: str) -> Iterator[Path]:
        """Keep in a file what a container logs until it ends, for its log may go with it."""
        path = self.directory / f"{pod}.log"
        command = ["kubectl", "--namespace", self.name, "logs", "--follow", pod]
        with path.open("wb") as file, subprocess.Popen(command, stdout=file) as process:
            try:
                eventually(lambda: path.stat().st_size, f"{pod} logs")
                yield path
                process.wait(120)
            finally:
                process.kill()

    def logs(self, app: str) -> list[str]:
        """Return the lines that the pods of a workload have logged."""
        return [line for pod in self.pods(app) for line in self.log(pod)]

    def server(self, *command: str) -> str:
        """Run a command of Redis in the server's own pod, as anybody may who has no library."""
        port = ["-p", "16379"] if self.bare else []
        return self.kubectl(
            *("exec", "statefulset/queue-redis", "--", "valkey-cli", "-e", *port, *command)
        ).strip()

    def wait_complete(self, job: str, seconds: int = 180) -> None:
        """Wait as the tutorial's reader does."""
        self.kubectl("wait", "--for=condition=complete", f"job/{job}", f"--timeout={seconds}s")


def image_for(*, bare: bool, default: str) -> str:
    """Return the worker image, built here and brought to the cluster if none is given."""
    given = os.environ.get("PYQUEUE_E2E_IMAGE")
    if given is not None:
        return given
    assert shutil.which("docker"), "no docker on PATH to build the image: set PYQUEUE_E2E_IMAGE"
    if bare:
        run(ROOT / "tests" / "e2e" / "local-images.sh")
    build_image(default)
    context = run("kubectl", "config", "current-context").strip()
    if context.startswith("kind-"):
        run("kind", "load", "docker-image", default, "--name", context.removeprefix("kind-"))
    return default


def build_image(tag: str, context: Path = ROOT, dockerfile: Path | None = None) -> None:
    """Build an image, the worker's by default; by the classic builder where BuildKit is absent."""
    buildx = subprocess.run(["docker", "buildx", "version"], capture_output=True, check=False)
    environment = {} if buildx.returncode == 0 else {"DOCKER_BUILDKIT": "0"}
    file = dockerfile or context / "Dockerfile"
    command = ("docker", "build", "--network", "host", "--tag", tag, "--file", file, context)
    run(*command, **environment)


def is_bare() -> bool:
    """Say whether the cluster lacks what clusters have: a pod network, DNS, storage, a registry."""
    if "PYQUEUE_E2E_BARE" in os.environ:
        return os.environ["PYQUEUE_E2E_BARE"] == "1"
    return not run("kubectl", "get", "service", "--namespace=kube-system", "--output=name")
