"""Files of `torch.save` are read without PyTorch, and nothing in them is executed.

The tests write the two forms of the file by hand.
"""

import argparse
import collections
import io
import os
import pickle
import re
import sys
import types
import zipfile

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from lt_jax.core import errors
from lt_jax.models import resnet, weights

STORAGES = {
    np.dtype(np.float64): "DoubleStorage",
    np.dtype(np.float32): "FloatStorage",
    np.dtype(np.float16): "HalfStorage",
    np.dtype(ml_dtypes.bfloat16): "BFloat16Storage",
    np.dtype(np.int64): "LongStorage",
}
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


class Storage:
    """The numbers of one array, which the pickle refers to by a key."""

    def __init__(self, array):
        self.array = array


def _stand_in(module, name):
    """A function that pickles as the name of one in PyTorch."""
    function = types.FunctionType((lambda *arguments: None).__code__, {}, name)
    function.__module__, function.__qualname__ = module, name
    setattr(sys.modules[module], name, function)
    return function


class Pickler(pickle.Pickler):
    """Pickles arrays as PyTorch pickles tensors; `storages` are in the order of their keys."""

    def __init__(self, file, legacy):
        super().__init__(file, protocol=2)
        self.legacy, self.storages = legacy, []

    def reducer_override(self, value):
        if isinstance(value, np.ndarray):
            strides = tuple(step // value.itemsize for step in np.ascontiguousarray(value).reshape(value.shape).strides)
            arguments = (Storage(value), 0, value.shape, strides, False, collections.OrderedDict())
            return _stand_in("torch._utils", "_rebuild_tensor_v2"), arguments
        return NotImplemented

    def persistent_id(self, value):
        if not isinstance(value, Storage):
            return None
        self.storages.append(np.ascontiguousarray(value.array))
        kind = _stand_in("torch", STORAGES[value.array.dtype])
        end = (None,) if self.legacy else ()
        return ("storage", kind, str(len(self.storages) - 1), "cpu", value.array.size, *end)


def save(path, tree, monkeypatch, legacy=False, kind=Pickler):
    """Writes `tree`, with NumPy arrays for tensors, as `torch.save` does."""
    for module in ("torch", "torch._utils"):
        monkeypatch.setitem(sys.modules, module, types.ModuleType(module))
    content = io.BytesIO()
    pickler = kind(content, legacy)
    pickler.dump(tree)
    if legacy:
        system = {"protocol_version": PROTOCOL, "little_endian": True, "type_sizes": {"int": 4}}
        parts = [pickle.dumps(value, protocol=2) for value in (MAGIC, PROTOCOL, system)]
        keys = pickle.dumps([str(key) for key in range(len(pickler.storages))], protocol=2)
        numbers = [array.size.to_bytes(8, "little") + array.tobytes() for array in pickler.storages]
        path.write_bytes(b"".join([*parts, content.getvalue(), keys, *numbers]))
        return
    archive_of(path, content.getvalue(), pickler.storages)


def archive_of(path, content, storages=()):
    """Writes the zip archive of a pickle and its storages."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/byteorder", "little")
        for key, array in enumerate(storages):
            archive.writestr(f"archive/data/{key}", array.tobytes())
        archive.writestr("archive/version", "3\n")


def scattered(module, side=8):
    """Random variables of an encoder."""
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, side, side, 3))))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.uniform(0.3, 0.9, x.shape).astype(np.float32), shapes)


RESNET = scattered(resnet.ResNet((1, 1), 4))


def exported(variables):
    """The variables under the names and in the layout of torchvision or timm."""
    tensors = collections.OrderedDict()
    for path, value in jax.tree_util.tree_flatten_with_path(variables)[0]:
        turn = {4: (3, 2, 0, 1), 2: (1, 0)}.get(value.ndim, range(value.ndim))
        tensors[weights.theirs("/".join(str(key.key) for key in path[1:]))] = np.transpose(value, tuple(turn))
    return tensors


def equal(loaded, expected, rtol=0.0):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol), loaded, expected)


def refusal(path, variables=RESNET):
    """The line that this file gives."""
    with pytest.raises(errors.BadInput) as raised:
        weights.load(str(path), variables)
    line = str(raised.value)
    assert line.startswith("config.encoder.weights: ") and "\n" not in line and str(path) in line
    return line


@pytest.mark.parametrize("ending", ["pt", "pth", "bin", "ckpt", "pth.tar"])
def test_files_of_torch_are_read(ending, tmp_path, monkeypatch):
    save(tmp_path / f"w.{ending}", exported(RESNET), monkeypatch)
    equal(weights.load(tmp_path / f"w.{ending}", RESNET), RESNET)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_precisions_become_float32(dtype, tmp_path, monkeypatch):
    save(tmp_path / "w.pth", {name: x.astype(dtype) for name, x in exported(RESNET).items()}, monkeypatch)
    loaded = weights.load(tmp_path / "w.pth", RESNET)
    equal(loaded, RESNET, rtol=2.0**-8)
    assert all(x.dtype == np.float32 for x in jax.tree.leaves(loaded))


def test_the_form_of_torch_before_1_6_is_read(tmp_path, monkeypatch):
    tensors = {**exported(RESNET), "bn1.num_batches_tracked": np.array(3)}
    save(tmp_path / "w.pth", tensors, monkeypatch, legacy=True)
    equal(weights.load(tmp_path / "w.pth", RESNET), RESNET)


@pytest.mark.parametrize(
    "nested",
    [
        lambda tensors: {"state_dict": tensors, "epoch": 3},
        lambda tensors: {"model": tensors, "optimizer": {"state": {}}, "args": argparse.Namespace(lr=0.1)},
        lambda tensors: {"state_dict": {name: 0 * x for name, x in tensors.items()}, "state_dict_ema": tensors},
        lambda tensors: {f"module.{name}": x for name, x in tensors.items()},
        lambda tensors: {f"_orig_mod.module.{name}": x for name, x in tensors.items()},
        lambda tensors: {"state_dict": {f"model.{name}": x for name, x in tensors.items()}},
        lambda tensors: {"ema": {"n_averaged": np.array(5), **{f"module.{name}": x for name, x in tensors.items()}}},
    ],
    ids=["state_dict", "model", "ema", "parallel", "compiled", "lightning", "averaged"],
)
def test_wrappers_are_taken_off(nested, tmp_path, monkeypatch):
    save(tmp_path / "w.pth", nested(exported(RESNET)), monkeypatch)
    equal(weights.load(tmp_path / "w.pth", RESNET), RESNET)


def test_the_released_checkpoints_of_bns_and_ipdpp_are_read(tmp_path, monkeypatch, capsys):
    """Pretrained: `enc.` and a projector; retrained: `enc.` and `lin.`; their blocks call the shortcut `shortcut`."""
    inner = {f"enc.{name.replace('downsample', 'shortcut')}": x for name, x in exported(RESNET).items()}
    beside = {"projector.0.weight": np.zeros((8, 4), np.float32), "lin.weight": np.zeros((10, 4), np.float32)}
    tree = {"model": {**inner, **beside}, "epoch": 999, "scaler": {}, "args": argparse.Namespace(lr=0.1)}
    save(tmp_path / "w.pth", tree, monkeypatch)
    equal(weights.load(tmp_path / "w.pth", RESNET), RESNET)
    assert (
        "'projector.0.weight' and 1 more tensors lie beside the encoder and are no part of it"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_broken_files_are_refused_in_one_line(legacy, tmp_path, monkeypatch):
    file = tmp_path / "w.pth"
    save(file, exported(RESNET), monkeypatch, legacy=legacy)
    content = file.read_bytes()
    for length in (0, 10, 40, len(content) // 2, len(content) - 3):
        file.write_bytes(content[:length])
        assert "cannot be read" in refusal(file)
    save(file, [np.zeros(3, np.float32)], monkeypatch, legacy=legacy)
    assert "expected a dictionary of tensors, found list" in refusal(file)


class Malicious:
    """Runs a command where it is unpickled by pickle.load."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (os.system, f"{os.system.__module__}.system"),
        (eval, "__builtin__.eval"),
        (os.mkdir, f"{os.mkdir.__module__}.mkdir"),
    ],
    ids=["system", "eval", "mkdir"],
)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_nothing_in_a_pickle_is_executed(function, name, legacy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = {"system": "mkdir made", "eval": "__import__('os').mkdir('made')", "mkdir": "made"}[function.__name__]
    evil = {**exported(RESNET), "conv1.weight": Malicious(function, command)}
    save(tmp_path / "w.pth", evil, monkeypatch, legacy=legacy)
    line = refusal(tmp_path / "w.pth")
    assert f"it contains the object {name}, which is not part of a tensor and is not loaded" in line
    assert not (tmp_path / "made").exists()
    pickle.loads(pickle.dumps(Malicious(os.mkdir, "made")))  # what pickle itself does
    assert (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02ctorch.serialization\nload\n.",
        b"\x80\x02cbuiltins\ngetattr\n.",
        b"\x80\x02}(X\x01\x00\x00\x00acnumpy\nload\nu.",
        b"(S'touch made'\nios\nsystem\n.",  # the opcode INST
    ],
)
def test_other_globals_are_refused_by_name(content, tmp_path):
    archive_of(tmp_path / "w.pt", content)
    assert re.search(
        r"the object (torch.serialization.load|builtins.getattr|numpy.load|os.system),", refusal(tmp_path / "w.pt")
    )


def test_a_tensor_never_reaches_beyond_its_storage(tmp_path, monkeypatch):
    numbers = np.zeros(4, np.float32)
    for form in (
        (0, (5,), (1,)),
        (1, (4,), (1,)),
        (0, (2,), (9,)),
        (0, (10**9,), (0,)),
        (3, (4,), (-1,)),
        (-4, (4,), (1,)),
    ):

        class Crafted(Pickler):
            def reducer_override(self, value, form=form):
                if not isinstance(value, np.ndarray):
                    return NotImplemented
                function, (storage, *_) = super().reducer_override(value)
                return function, (storage, *form, False, {})

        save(tmp_path / "w.pt", {"conv1.weight": numbers}, monkeypatch, kind=Crafted)
        assert re.search("beyond its storage|a tensor of an unknown form", refusal(tmp_path / "w.pt"))
