"""The manifests of k8s/: valid, restricted, true to the command line, each file usable alone."""

import functools
import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

import pyqueue
from pyqueue._exits import CONFIGURATION, UNAVAILABLE
from pyqueue.cli._base import Settings
from pyqueue.cli.work import work

Manifest = dict[str, Any]

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
FILES = sorted(path for path in K8S.rglob("*.yaml") if path.name != "kustomization.yaml")
KUSTOMIZATIONS = sorted(
    path.parent
    for path in K8S.rglob("kustomization.yaml")
    if yaml.safe_load(path.read_text())["kind"] == "Kustomization"
)
COMPONENT = K8S / "overlays" / "local" / "component"
VERSIONS = sorted(set(kubernetes_validate.utils.all_versions()))
FRUITS = ["apple", "banana", "cherry", "date", "fig", "grape", "lemon", "melon", "orange"]


def name(path: Path) -> str:
    return path.relative_to(K8S).as_posix()


@functools.cache
def documents(path: Path) -> list[Manifest]:
    return list(yaml.safe_load_all(path.read_text()))


@functools.cache
def build(directory: Path) -> list[Manifest]:
    """What `kubectl apply -k` would send; without a cluster."""
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl on PATH")
    done = subprocess.run(
        ["kubectl", "kustomize", directory], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@functools.cache
def problem(document: str, version: str) -> str | None:
    """What a version of Kubernetes finds wrong with a manifest, unknown fields included."""
    try:
        kubernetes_validate.validate(json.loads(document), version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return f"{'.'.join(map(str, error.path))}: {error.message}"
    return None


def problems(manifests: list[Manifest], version: str) -> list[str]:
    found = ((manifest, problem(json.dumps(manifest), version)) for manifest in manifests)
    return [f"{m['kind']} {m['metadata']['name']}: {wrong}" for m, wrong in found if wrong]


def pod(workload: Manifest) -> Manifest:
    spec: Manifest = workload["spec"]["template"]["spec"]
    return spec


def containers(workload: Manifest) -> list[Manifest]:
    spec = pod(workload)
    return [*spec.get("initContainers", []), *spec["containers"]]


def main(workload: Manifest) -> Manifest:
    container: Manifest
    (container,) = pod(workload)["containers"]
    return container


def only(manifests: list[Manifest], kind: str) -> Manifest:
    (found,) = (manifest for manifest in manifests if manifest["kind"] == kind)
    return found


def file(path: str) -> list[Manifest]:
    return documents(K8S / path)


def workloads(manifests: list[Manifest]) -> list[Manifest]:
    return [manifest for manifest in manifests if "template" in manifest.get("spec", {})]


WORKLOADS = [workload for path in FILES for workload in workloads(documents(path))]
WORKERS = [w for w in WORKLOADS if main(w)["command"][:2] == ["pyqueue", "work"]]
JOBS = [w for w in WORKLOADS if w["kind"] == "Job"]

each_workload = pytest.mark.parametrize("workload", WORKLOADS, ids=lambda w: w["metadata"]["name"])
each_worker = pytest.mark.parametrize("worker", WORKERS, ids=lambda w: w["metadata"]["name"])
each_job = pytest.mark.parametrize("job", JOBS, ids=lambda w: w["metadata"]["name"])
each_file = pytest.mark.parametrize("path", FILES, ids=name)
each_kustomization = pytest.mark.parametrize("directory", KUSTOMIZATIONS, ids=name)


def test_the_tests_below_see_all_there_is() -> None:
    """A test over an empty list passes."""
    assert {w["metadata"]["name"] for w in WORKLOADS} == {
        *("queue-redis", "job2-fill", "job-wq-2"),
        *("job2-program", "job2-never", "job2-continuous", "job2-one-per-pod"),
    }
    assert len(WORKERS) == 4
    assert {name(d) for d in KUSTOMIZATIONS} == {
        "base",
        *(f"overlays/{o}" for o in ("program", "never", "continuous", "one-per-pod")),
        *(f"overlays/{o}" for o in ("own-server", "local")),
    }
    assert {"1.25.0", "1.37.0"} <= set(VERSIONS)


# --- valid


@pytest.mark.parametrize("version", VERSIONS)
def test_each_file_is_valid(version: str) -> None:
    assert not {
        name(path): wrong for path in FILES if (wrong := problems(documents(path), version))
    }


@pytest.mark.parametrize("version", VERSIONS)
def test_each_kustomization_builds_valid_manifests(version: str) -> None:
    assert not {name(d): wrong for d in KUSTOMIZATIONS if (wrong := problems(build(d), version))}


def test_an_invalid_manifest_is_seen() -> None:
    """The checks above are not vacuous: an unknown field is an error."""
    job = {**JOBS[0], "spec": {**JOBS[0]["spec"], "paralelism": 2}}
    assert problems([job], VERSIONS[-1])


# --- what the Pod Security Standard "restricted" asks, and more


@each_workload
def test_pods_pass_pod_security_restricted(workload: Manifest) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted."""
    spec = pod(workload)
    assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
    context = spec["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] > 0
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    volumes = {key for volume in spec.get("volumes", []) for key in volume.keys() - {"name"}}
    assert volumes <= {"configMap", "emptyDir", "secret", "persistentVolumeClaim"}
    for container in containers(workload):
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert not {"privileged", "procMount", "runAsUser", "runAsNonRoot"} & context.keys()
        assert not any("hostPort" in port for port in container.get("ports", []))


@each_workload
def test_pods_write_nothing_and_get_nothing_they_do_not_need(workload: Manifest) -> None:
    spec = pod(workload)
    assert spec["automountServiceAccountToken"] is False
    # No REDIS_PORT=tcp://... of any Service in the namespace.
    assert spec["enableServiceLinks"] is False
    for container in containers(workload):
        assert container["securityContext"]["readOnlyRootFilesystem"] is True


@each_workload
def test_containers_say_what_they_need(workload: Manifest) -> None:
    for container in containers(workload):
        resources = container["resources"]
        assert resources["requests"].keys() == {"cpu", "memory"}
        assert "memory" in resources["limits"]


@each_kustomization
def test_passwords_come_from_the_secret_alone(directory: Path) -> None:
    manifests = build(directory)
    secrets = [m for m in manifests if m["kind"] == "Secret"]
    rest = json.dumps([m for m in manifests if m["kind"] != "Secret"])
    for secret in secrets:
        assert secret["stringData"]["password"] not in rest
    assert "redis://" not in rest


# --- each file alone


@each_file
def test_a_file_brings_all_it_names_but_the_secret(path: Path) -> None:
    """`kubectl apply -f FILE` is enough: what its pods mount is in it, under the same name."""
    own = {(d["kind"], d["metadata"]["name"]) for d in documents(path)}
    assert not any("namespace" in d["metadata"] for d in documents(path))
    for workload in workloads(documents(path)):
        claims = [c["metadata"]["name"] for c in workload["spec"].get("volumeClaimTemplates", [])]
        volumes = {v["name"]: v for v in pod(workload).get("volumes", [])}
        for volume in volumes.values():
            assert ("ConfigMap", volume["configMap"]["name"]) in own
        mounts = {m["name"] for c in containers(workload) for m in c.get("volumeMounts", [])}
        assert mounts == {*volumes, *claims}
        for container in containers(workload):
            for variable in container.get("env", []):
                reference = variable["valueFrom"]["secretKeyRef"]
                assert reference["name"] == "pyqueue"
                assert reference["key"] in only(file("base/secret.yaml"), "Secret")["stringData"]
                assert not reference.get("optional")


@each_workload
def test_selectors_select_the_pods_of_their_own_workload(workload: Manifest) -> None:
    labels = workload["spec"]["template"]["metadata"]["labels"]
    assert labels["app.kubernetes.io/name"] == workload["metadata"]["name"]
    if "selector" in workload["spec"]:
        chosen = workload["spec"]["selector"]["matchLabels"]
        assert chosen == {"app.kubernetes.io/name": workload["metadata"]["name"]}


def test_two_files_never_bring_the_same_thing() -> None:
    """Applied one after the other, none overwrites a part of another."""
    names = [(d["kind"], d["metadata"]["name"]) for path in FILES for d in documents(path)]
    assert len(names) == len(set(names))


def test_the_image_is_the_one_of_this_version() -> None:
    images = {c["image"] for w in WORKLOADS for c in containers(w)}
    server = only(file("base/redis.yaml"), "StatefulSet")
    assert images == {main(server)["image"], f"pyqueue:{pyqueue.__version__}"}


# --- the server


def test_the_server_keeps_what_it_is_given() -> None:
    (conf,) = only(file("base/redis.yaml"), "ConfigMap")["data"].values()
    settings = dict(line.split(None, 1) for line in conf.splitlines() if not line.startswith("#"))
    assert settings["appendonly"] == "yes"
    assert settings["maxmemory-policy"] == "noeviction"
    container = main(only(file("base/redis.yaml"), "StatefulSet"))
    assert {"name": "data", "mountPath": settings["dir"]} in container["volumeMounts"]
    megabytes = int(settings["maxmemory"].removesuffix("mb"))
    limit = int(container["resources"]["limits"]["memory"].removesuffix("Mi"))
    assert megabytes <= limit / 2, "the rewrite of the append-only file may double the memory"


def test_the_secret_leads_to_the_service() -> None:
    secret = only(file("base/secret.yaml"), "Secret")["stringData"]
    service = only(file("base/redis.yaml"), "Service")
    server = only(file("base/redis.yaml"), "StatefulSet")
    url = urlsplit(secret["url"])
    assert url.hostname == service["metadata"]["name"] == server["spec"]["serviceName"]
    assert url.port == service["spec"]["ports"][0]["port"]
    assert url.password == secret["password"]
    assert service["spec"]["selector"] == server["spec"]["selector"]["matchLabels"]
    (port,) = main(server)["ports"]
    assert service["spec"]["ports"][0]["targetPort"] == port["name"]


def test_the_service_is_not_called_redis() -> None:
    """Kubernetes puts NAME_PORT=tcp://... into pods, which may read REDIS_PORT or PYQUEUE_*."""
    service = only(file("base/redis.yaml"), "Service")["metadata"]["name"]
    assert not re.match(r"(redis|pyqueue|valkey)(-|$)", service)


# --- the Jobs


def test_the_fill_pushes_the_nine_fruits() -> None:
    fill = only(file("base/fill.yaml"), "Job")
    assert main(fill)["args"] == ["rpush", "job2", *FRUITS]


@each_job
def test_jobs_clean_up_after_themselves(job: Manifest) -> None:
    assert job["spec"]["ttlSecondsAfterFinished"] > 0
    assert job["spec"]["backoffLimit"] > 0


def test_work_queue_jobs_leave_completions_unset() -> None:
    """With `completions`, Kubernetes would go on until so many pods have found the queue empty."""
    for path in ("base/job.yaml", "overlays/program/job.yaml", "overlays/never/job.yaml"):
        spec = only(file(path), "Job")["spec"]
        assert spec["parallelism"] == 2
        assert "completions" not in spec


def test_the_one_per_pod_job_has_one_completion_for_each_fruit() -> None:
    job = only(file("overlays/one-per-pod/job.yaml"), "Job")
    assert job["spec"]["completions"] == len(FRUITS)
    assert job["spec"]["completionMode"] == "Indexed"
    assert option(job, "--max-items") == "1"


def test_the_deployment_never_ends() -> None:
    deployment = only(file("overlays/continuous/deployment.yaml"), "Deployment")
    assert option(deployment, "--until") == "forever"


def option(worker: Manifest, flag: str) -> str:
    args: list[str] = main(worker)["args"]
    return args[args.index(flag) + 1]


@each_worker
def test_the_command_line_takes_the_arguments(worker: Manifest) -> None:
    container = main(worker)
    arguments = container["command"][2:] + container["args"]
    with work.make_context("work", arguments, obj=Settings()) as context:
        assert context.params["name"] == "job2"
        assert context.params["command"] == ("/opt/program/process.sh", "{}")


def test_the_policy_knows_the_exit_codes_of_the_command_line() -> None:
    """It goes on after a disruption, and gives up on what no other pod will do better."""
    job = only(file("overlays/never/job.yaml"), "Job")
    rules = job["spec"]["podFailurePolicy"]["rules"]
    assert job["spec"]["template"]["spec"]["restartPolicy"] == "Never"
    assert [rule["action"] for rule in rules] == ["Ignore", "Ignore", "FailJob"]
    assert rules[0]["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    codes = [rule["onExitCodes"] for rule in rules[1:]]
    assert [code["values"] for code in codes] == [
        [UNAVAILABLE, 128 + signal.SIGTERM],
        [CONFIGURATION],
    ]
    assert {code["operator"] for code in codes} == {"In"}
    assert {code["containerName"] for code in codes} == {main(job)["name"]}


@each_worker
def test_a_worker_has_time_to_give_its_items_back(worker: Manifest) -> None:
    """`--grace` for the program, then seconds for the release, all before Kubernetes' SIGKILL."""
    assert pod(worker)["terminationGracePeriodSeconds"] >= int(option(worker, "--grace")) + 5


@each_worker
def test_a_worker_runs_the_program_that_its_file_brings(worker: Manifest) -> None:
    container = main(worker)
    args = container["args"]
    program, *arguments = args[args.index("--") + 1 :]
    assert arguments == ["{}"]
    (volume,) = pod(worker)["volumes"]
    assert volume["configMap"]["defaultMode"] & 0o111
    (mount,) = container["volumeMounts"]
    (path,) = (p for p in FILES if worker in documents(p))
    assert program == f"{mount['mountPath']}/process.sh"
    assert only(documents(path), "ConfigMap")["data"].keys() == {"process.sh"}


def test_the_programs_are_one_and_the_same() -> None:
    maps = [d for path in FILES for d in documents(path) if d["kind"] == "ConfigMap"]
    programs = {m["data"]["process.sh"] for m in maps if "process.sh" in m["data"]}
    assert len(programs) == 1
    (program,) = programs
    subprocess.run(["sh", "-n"], input=program, text=True, check=True, timeout=60)


def test_the_tutorials_job_runs_the_worker_beside_it() -> None:
    """k8s/worker.py is what linters and readers see, the ConfigMap what the pod runs."""
    manifests = file("base/job.yaml")
    assert only(manifests, "ConfigMap")["data"]["worker.py"] == (K8S / "worker.py").read_text()
    assert main(only(manifests, "Job"))["command"] == ["python3", "/opt/program/worker.py"]
    assert only(manifests, "Job")["spec"]["template"]["spec"]["restartPolicy"] == "OnFailure"


# --- the overlays


@pytest.mark.parametrize("overlay", ["program", "never", "continuous", "one-per-pod"])
def test_an_overlay_puts_its_own_worker_in_place_of_the_tutorials(overlay: str) -> None:
    names = {(m["kind"], m["metadata"]["name"]) for m in build(K8S / "overlays" / overlay)}
    assert {n for k, n in names if k in {"Job", "Deployment"}} == {"job2-fill", f"job2-{overlay}"}
    assert ("StatefulSet", "queue-redis") in names
    assert ("ConfigMap", "job-wq-2") not in names


def test_the_overlay_for_your_own_server_brings_none() -> None:
    names = {(m["kind"], m["metadata"]["name"]) for m in build(K8S / "overlays" / "own-server")}
    assert names == {("ConfigMap", "job-wq-2"), ("Job", "job-wq-2"), ("Job", "job2-fill")}


@each_kustomization
def test_the_component_fits_each_kustomization_to_a_bare_cluster(
    directory: Path, tmp_path: Path
) -> None:
    """`tests/e2e` puts them together like this."""
    component = [] if name(directory) == "overlays/local" else [COMPONENT]
    here = tmp_path.resolve()
    kustomization = {
        "resources": [os.path.relpath(directory, here)],
        "components": [os.path.relpath(path, here) for path in component],
    }
    (tmp_path / "kustomization.yaml").write_text(json.dumps(kustomization))
    manifests = build(tmp_path)
    assert workloads(manifests)
    for workload in workloads(manifests):
        assert pod(workload)["hostNetwork"] is True
        assert not {"completionMode", "podFailurePolicy"} & workload["spec"].keys()
        assert "volumeClaimTemplates" not in workload["spec"]
        assert all(c["imagePullPolicy"] == "Never" for c in containers(workload))
        assert "6379" not in re.findall(r"\d+", json.dumps(containers(workload)))
    for secret in (m for m in manifests if m["kind"] == "Secret"):
        assert urlsplit(secret["stringData"]["url"]).hostname == "127.0.0.1"


# --- the tutorial's text


def test_the_paths_in_the_readme_exist() -> None:
    """Of both READMEs, in commands and in the table of files."""
    text = (K8S / "README.md").read_text()
    paths = {f"k8s/{path}" for path in re.findall(r"`((?:base|overlays)/[^`]+)`", text)}
    for readme in (text, (ROOT / "README.md").read_text()):
        paths |= set(re.findall(r"\bk8s/[\w./-]*\w", readme))
    assert len(paths) > 10
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []
