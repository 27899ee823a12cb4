"""Runs on Kubernetes: a JobSet with one pod per host, restarted from its last checkpoint until it is complete.

    python launch/kubernetes.py NAME --image=IMAGE --pods=64 --tpu=v5e-256 --dry-run -- --config=... --workdir=gs://...
    python launch/kubernetes.py NAME --image=IMAGE --pods=4 --gpus=8 -- --config=... --workdir=gs://...

`--dry-run` prints the manifest instead of passing it to `kubectl apply`. The cluster needs the JobSet controller. Build
the image with launch/Containerfile.
"""

import argparse
import subprocess
import sys

import yaml

PORT = 8476
# Slice -> accelerator and topology as GKE labels its nodes, hosts, chips of each host.
SLICES = {
    "v5e-16": ("tpu-v5-lite-podslice", "4x4", 4, 4),
    "v5e-64": ("tpu-v5-lite-podslice", "8x8", 16, 4),
    "v5e-256": ("tpu-v5-lite-podslice", "16x16", 64, 4),
    "v6e-16": ("tpu-v6e-slice", "4x4", 4, 4),
    "v6e-256": ("tpu-v6e-slice", "16x16", 64, 4),
}


def main(words):
    ours = words[: words.index("--")] if "--" in words else words
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("--image", required=True)
    parser.add_argument("--pods", type=int, default=None, help="hosts; a TPU slice has its own number")
    parser.add_argument("--gpus", type=int, default=0, help="of each pod")
    parser.add_argument("--tpu", choices=list(SLICES), default=None)
    parser.add_argument("--restarts", type=int, default=100, help="after preemption, a lost host, or a failure")
    parser.add_argument("--service-account", default="", help="that the pods read and write buckets with")
    parser.add_argument("--dry-run", action="store_true", help="print the manifest, and submit nothing")
    options = parser.parse_args(ours)
    hosts = SLICES[options.tpu][2] if options.tpu else 1
    options.pods = hosts if options.pods is None else options.pods
    if options.pods < 1 or (options.tpu and options.pods != hosts):
        parser.error(f"--pods: expected {hosts}{f', the hosts of {options.tpu}' if options.tpu else ' or more'}")
    text = yaml.safe_dump(manifest(options, words[len(ours) + 1 :]), sort_keys=False)
    if options.dry_run:
        print(text, end="")
        return 0
    return subprocess.run(["kubectl", "apply", "-f", "-"], input=text, text=True, check=False).returncode


def manifest(options, arguments):
    """Returns a JobSet of one job with one pod per host. Status 2 means invalid flags: a restart would fail again."""
    job = {
        "parallelism": options.pods,
        "completions": options.pods,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "podFailurePolicy": {
            "rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [2]}}],
        },
        "template": {"spec": pod(options, arguments)},
    }
    policy = {
        "maxRestarts": options.restarts,
        "rules": [{"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}],
    }
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": options.name},
        "spec": {
            "failurePolicy": policy,
            "network": {"enableDNSHostnames": True},
            "replicatedJobs": [{"name": "workers", "replicas": 1, "template": {"spec": job}}],
        },
    }


def pod(options, arguments):
    container = {
        "name": "lt-jax",
        "image": options.image,
        "command": ["python", "-m", "lt_jax.main", *arguments],
        "env": environment(options),
        "ports": [{"containerPort": PORT}],
        "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],
    }
    spec = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 300,
        "containers": [container],
        # Processes that decode images pass batches through shared memory; a container has 64 MiB of it by default.
        "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory"}}],
    }
    if options.service_account:
        spec["serviceAccountName"] = options.service_account
    if options.tpu:
        accelerator, topology, _, chips = SLICES[options.tpu]
        spec["nodeSelector"] = {
            "cloud.google.com/gke-tpu-accelerator": accelerator,
            "cloud.google.com/gke-tpu-topology": topology,
        }
        container["resources"] = {"limits": {"google.com/tpu": chips}}
    elif options.gpus:
        container["resources"] = {"limits": {"nvidia.com/gpu": options.gpus}}
    return spec


def environment(options):
    """Returns the variables that identify this process, so that it does not have to query the cluster."""
    index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    return [
        {"name": "JAX_COORDINATOR_ADDRESS", "value": f"{options.name}-workers-0-0.{options.name}:{PORT}"},
        {"name": "JAX_NUM_PROCESSES", "value": str(options.pods)},
        {"name": "JAX_PROCESS_ID", "valueFrom": {"fieldRef": {"fieldPath": index}}},
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
