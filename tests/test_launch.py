"""The commands and job descriptions that the launchers print with --dry-run."""

import json
import pathlib
import shlex
import shutil
import subprocess

import jax
import pytest
import yaml

from configs import inat2018
from launch import kubernetes, scaling, slurm, tpu
from lt_jax import data
from lt_jax import models as encoder

ROOT = pathlib.Path(__file__).resolve().parent.parent
FLAGS = ["--config=configs/inat2018.py", "--config.data.name=it's"]


@pytest.fixture(autouse=True)
def nothing_is_run(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a dry run started a program")

    monkeypatch.setattr(subprocess, "run", refuse)


def printed(capsys, launcher, *words):
    assert launcher.main([*words, "--dry-run", "--", *FLAGS]) == 0
    return capsys.readouterr().out


def test_jobset_has_one_numbered_pod_per_host(capsys):
    jobset = yaml.safe_load(printed(capsys, kubernetes, "run1", "--image=me/lt_jax:1", "--tpu=v5e-256"))
    assert jobset["kind"] == "JobSet" and jobset["metadata"]["name"] == "run1"
    (workers,) = jobset["spec"]["replicatedJobs"]
    job = workers["template"]["spec"]
    assert job["parallelism"] == job["completions"] == 64 and job["completionMode"] == "Indexed"
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"] == ["python", "-m", "lt_jax.main", *FLAGS] and container["image"] == "me/lt_jax:1"
    env = {item["name"]: item.get("value") or item["valueFrom"]["fieldRef"]["fieldPath"] for item in container["env"]}
    assert env["JAX_COORDINATOR_ADDRESS"] == "run1-workers-0-0.run1:8476" and env["JAX_NUM_PROCESSES"] == "64"
    assert "job-completion-index" in env["JAX_PROCESS_ID"]
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    assert container["volumeMounts"] == [{"name": "shm", "mountPath": "/dev/shm"}]  # batches of decoded images
    assert pod["volumes"] == [{"name": "shm", "emptyDir": {"medium": "Memory"}}]
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "16x16" and pod["restartPolicy"] == "Never"


def test_jobset_restarts_except_after_invalid_input(capsys):
    spec = yaml.safe_load(printed(capsys, kubernetes, "run1", "--image=i", "--pods=4", "--gpus=8"))["spec"]
    job = spec["replicatedJobs"][0]["template"]["spec"]
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"] == {"operator": "In", "values": [2]} and job["backoffLimit"] == 0
    assert spec["failurePolicy"]["maxRestarts"] == 100
    assert spec["failurePolicy"]["rules"][0]["action"] == "FailJobSet"
    assert job["template"]["spec"]["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": 8}


def test_jobset_requires_the_number_of_hosts_of_the_slice(capsys):
    with pytest.raises(SystemExit):
        kubernetes.main(["run1", "--image=i", "--tpu=v5e-16", "--pods=3", "--dry-run"])
    assert "expected 4, the hosts of v5e-16" in capsys.readouterr().err


def test_slurm_script_has_one_task_per_gpu_and_allows_requeue(capsys, tmp_path):
    text = printed(capsys, slurm, "--nodes=4", "--gpus=8", "--time=1:00:00", "--sbatch=--partition=gpu")
    lines = text.splitlines()
    for flag in ("--nodes=4", "--ntasks-per-node=8", "--gpus-per-node=8", "--signal=TERM@180", "--partition=gpu"):
        assert f"#SBATCH {flag}" in lines
    assert lines[0] == "#!/bin/bash" and "--requeue" in text and "--gpu-bind" not in text
    (srun,) = [shlex.split(line) for line in lines if line.startswith("srun")]
    assert srun[-5:] == ["python", "-m", "lt_jax.main", *FLAGS] and "--kill-on-bad-exit=1" in srun
    assert "--cpus-per-task=8" in srun and "#SBATCH --cpus-per-task=8" in lines


@pytest.mark.parametrize(("status", "requeued"), [(75, True), (1, False), (0, False)])
def test_slurm_script_requeues_itself_after_a_save(capsys, tmp_path, monkeypatch, status, requeued):
    monkeypatch.undo()
    text = printed(capsys, slurm, "--nodes=1")
    for name, body in {"srun": f"exit {status}", "scontrol": f"echo $* > {tmp_path}/requeue"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "17"}
    ended = subprocess.run(["bash"], input=text, text=True, env=environment, check=False)
    assert ended.returncode == status and (tmp_path / "requeue").exists() == requeued
    assert not requeued or (tmp_path / "requeue").read_text() == "requeue 17\n"


def test_tpu_commands(capsys):
    flags = ("one", "--zone=z", "--project=p")
    created = shlex.split(printed(capsys, tpu, "create", *flags, "--type=v5litepod-256", "--spot"))
    assert created[:6] == ["gcloud", "compute", "tpus", "queued-resources", "create", "one"]
    assert {"--zone=z", "--project=p", "--node-id=one", "--accelerator-type=v5litepod-256", "--spot"} <= set(created)
    run = shlex.split(printed(capsys, tpu, "run", *flags))
    assert run[:6] == ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "one"] and "--worker=all" in run
    script = next(word for word in run if word.startswith("--command=")).removeprefix("--command=")
    words = shlex.split(script)
    assert words[:4] == ["cd", "lt_jax", "&&", ".venv/bin/python"] and words[6:8] == FLAGS
    assert words[-1] == "--config.host.distributed=on"
    archive, copy, script = printed(capsys, tpu, "setup", *flags).split("\n", 2)
    assert archive.startswith("git archive --format=tar.gz") and shlex.split(copy)[4:6] == ["scp", "lt_jax.tar.gz"]
    assert "--worker=all" in copy and any(word == f"--command={tpu.SETUP}" for word in shlex.split(script))
    assert "--force" in shlex.split(printed(capsys, tpu, "delete", *flags))


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_tpu_set_up_is_a_valid_bash_script(monkeypatch):
    monkeypatch.undo()
    assert subprocess.run(["bash", "-n"], input=tpu.SETUP, text=True, check=False).returncode == 0


def test_files_that_the_container_file_copies_exist():
    lines = (ROOT / "launch/Containerfile").read_text().splitlines()
    copied = [word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]]
    assert {"lt_jax", "configs", "pyproject.toml"} <= set(copied) and all((ROOT / word).exists() for word in copied)
    (entry,) = [line for line in lines if line.startswith("ENTRYPOINT")]
    assert json.loads(entry.removeprefix("ENTRYPOINT ")) == ["python", "-m", "lt_jax.main"]


def test_constants_of_scaling_match_the_config():
    config = inat2018.get_config("")
    network = encoder.contrastive(config.encoder, config.pretrain.projector, config.dtype)
    side = config.data.image_size or data.IMAGE_SIZE
    variables = jax.eval_shape(lambda: encoder.initialise(network, jax.random.key(0), (side, side, 3)))
    assert sum(x.size for x in jax.tree.leaves(variables["params"])) == scaling.PARAMETERS
    stats = jax.tree.leaves(variables["batch_stats"])
    assert len(stats) == 2 * scaling.NORMS and sum(x.size for x in stats) == 2 * scaling.CHANNELS
    assert (config.pretrain.m, config.pretrain.projector[-1], side) == (scaling.M, scaling.DIMENSIONS, scaling.IMAGE)
    assert scaling.forward_macs() == pytest.approx(3.66e9, rel=0.01)  # as published for ResNet-34
    assert scaling.forward_macs(56, (1, 1, 1, 1)) < scaling.forward_macs(56)


def test_scaling_table_matches_the_readme():
    assert scaling.table(256, [1024, 8192]) in (ROOT / "launch/README.md").read_text()
    one, two = scaling.step(256, 1024), scaling.step(256, 2048)
    assert two["arithmetic, time"][0] == pytest.approx(2 * one["arithmetic, time"][0])
    assert two["gradient, time"] == one["gradient, time"]


def test_ci_runs_lint_and_documentation_before_tests():
    commands = [line for line in (ROOT / ".ci/run").read_text().splitlines() if line.startswith("python3")]
    words = ("lint", "docs", "test", "test -m slow --dist=loadfile")
    assert commands == [f"python3 launch/setup.py {word}" for word in words]
