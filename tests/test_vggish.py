"VGGish against the original code's figures, in any batch, and from files that are not the published ones."
import hashlib
import io
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from golden_vggish import FIXTURE, STORED, sounds, weight

from clipsonic import vggish
from clipsonic.core import CheckpointError, InputError
from clipsonic.vggish import (NETWORK_FILE, PCA_FILE, VGGISH_NAMES, VGGISH_SAMPLES, Postprocessor, VGGish, embed_vggish,
                              load_vggish, published_file, read_published, vggish_examples)
from conftest import naming

SOUNDS = {name: torch.from_numpy(sound)[None, None] for name, sound in sounds().items()}


@pytest.fixture(scope="module")
def golden():
    with np.load(FIXTURE) as file:
        return {k: v.item() if v.ndim == 0 else torch.from_numpy(v) for k, v in file.items()}


@pytest.fixture(scope="module")
def published(golden):
    "The tensors of both published files, with weights that a formula gives."
    tensors = lambda layout: {k: weight(k, shape) for k, shape in layout.items()}
    return [tensors(layout) for layout in json.loads(golden["layout"])]


@pytest.fixture(scope="module")
def folder(published, tmp_path_factory):
    "Files of the published layouts: the whitening as NumPy arrays in torch's old format, as it was saved in 2019."
    folder = tmp_path_factory.mktemp("published")
    torch.save(published[0], folder / "network.pth")
    (folder / "pca.pth").write_bytes(numpy_pickle(published[1]))
    yield folder
    (folder / "network.pth").unlink()


def numpy_pickle(tensors):
    file = io.BytesIO()
    torch.save({k: v.numpy().astype(np.float64) for k, v in tensors.items()}, file,
               _use_new_zipfile_serialization=False)
    return file.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


@pytest.fixture(scope="module")
def model(folder): return load_vggish(folder / "network.pth", check_hash=False, device="cpu")


# the original code's figures

@pytest.mark.parametrize("name", SOUNDS)
def test_examples_are_theirs(golden, name):
    examples = vggish_examples(SOUNDS[name], 16000)
    assert examples.dtype == torch.float32
    torch.testing.assert_close(examples[0, :, STORED], golden[f"{name} examples"], atol=1e-5, rtol=0)
    rounded = vggish_examples(SOUNDS[name].float(), 16000)[0, :, STORED]  # sounds of 16 bits stay what they are
    torch.testing.assert_close(rounded, golden[f"{name} examples"], atol=1e-5 if " Hz" in name else 1e-4, rtol=0)


@pytest.mark.parametrize("name", SOUNDS)
def test_embeddings_are_theirs(golden, published, model, name):
    assert 0.1 < golden[f"{name} embeddings"].std() < 1  # as the published weights', 0.343
    embeddings = embed_vggish(model, SOUNDS[name], 16000)[0]
    torch.testing.assert_close(embeddings, golden[f"{name} embeddings"], atol=1e-5, rtol=0)
    torch.testing.assert_close(embeddings.relu(), golden[f"{name} activation"], atol=1e-5, rtol=0)
    whitening = Postprocessor()
    whitening.load_state_dict({"eigen_vectors": published[1]["pca_eigen_vectors"],
                               "means": published[1]["pca_means"].flatten()})
    off = (whitening(embeddings) - golden[f"{name} pca"]).abs()
    assert off.max() <= 1 and (off > 0).float().mean() < 0.01  # a number between two whole ones may round either way


def test_options(folder, model):
    sound = SOUNDS["noise"]
    plain = embed_vggish(model, sound, 16000)
    relu = load_vggish(folder / "network.pth", activation=True, check_hash=False, device="cpu")
    assert torch.equal(embed_vggish(relu, sound, 16000), plain.relu())
    assert relu.fingerprint == {"name": "vggish-relu", "hash": model.fingerprint["hash"]}
    del relu
    pca = load_vggish(folder / "network.pth", pca=True, pca_file=folder / "pca.pth", check_hash=False, device="cpu")
    assert torch.equal(embed_vggish(pca, sound, 16000), pca.whitening(plain))
    assert pca.fingerprint["name"] == "vggish-pca" and pca.fingerprint["hash"] != model.fingerprint["hash"]


# batches, gradients, lengths

def test_any_batch_gives_the_same(model):
    names = "background 400 Hz", "smoke test", "noise", "test 1 550 Hz"
    batch = torch.cat([SOUNDS[name][..., :VGGISH_SAMPLES + 15360].float() for name in names])
    together = embed_vggish(model, batch, 16000)
    assert together.shape == (4, 2, 128)
    for some in ([0], [3], [2, 1], [3, 2, 1, 0]):
        assert torch.equal(embed_vggish(model, batch[some], 16000), together[some])


def test_a_long_clip_goes_in_parts(model):
    long = torch.cat([SOUNDS["noise"].float()] * 14, dim=2)  # 36 examples, more than go together
    part = embed_vggish(model, long[..., 33 * 15360:], 16000)
    torch.testing.assert_close(embed_vggish(model, long, 16000)[:, 33:], part, atol=1e-5, rtol=0)


def test_gradients_are_right_and_weights_are_frozen(model):
    sound = SOUNDS["noise"][..., :VGGISH_SAMPLES].clone().requires_grad_()
    direction = torch.randn(sound.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    answer = lambda x: vggish._examples(x[0, 0], 96).sum()  # before it is rounded to single precision
    slope = (torch.autograd.grad(answer(sound), sound)[0] * direction).sum()
    with torch.no_grad(): measured = (answer(sound + 1e-7 * direction) - answer(sound - 1e-7 * direction)) / 2e-7
    torch.testing.assert_close(slope, measured, atol=0, rtol=1e-4)
    assert embed_vggish(model, sound, 16000).requires_grad
    assert not embed_vggish(model, sound.detach(), 16000).requires_grad


@pytest.mark.parametrize("samples, hop, count", [(15600, 0.96, 1), (30959, 0.96, 1), (30960, 0.96, 2), (96000, 0.5, 11),
                                                 (16000, 0.01, 3)])
def test_how_many_examples(samples, hop, count):
    assert vggish_examples(torch.zeros(2, 1, samples), 16000, hop).shape == (2, count, 96, 64)


@pytest.mark.parametrize("waveform, rate, hop, says", [
    (torch.zeros(1, 1, 15599), 16000, 0.96, [0.9749, 0.975]), (torch.zeros(1, 1, 0), 16000, 0.96, [0, 0.975]),
    (torch.zeros(1, 1, 48000), 48000, 0.96, [16000, 48000]),
    (torch.zeros(1, 2, 16000), 16000, 0.96, ["waveform", "(1, 2, 16000)"]),
    (torch.zeros(0, 1, 16000), 16000, 0.96, ["waveform", "(0, 1, 16000)"]),
    (torch.zeros(16000), 16000, 0.96, ["waveform", "(16000,)"]),
    (torch.zeros(1, 1, 16000, dtype=torch.int16), 16000, 0.96, ["waveform", "int16"]),
    (torch.full((1, 1, 16000), torch.nan), 16000, 0.96, ["waveform", 16000, "finite"]),
    (torch.zeros(1, 1, 16000), 16000, 0.0, ["hop", 0.01, 0.0]),
    (torch.zeros(1, 1, 16000), 16000, -0.96, ["hop", 0.01, -0.96]),
    (torch.zeros(1, 1, 16000), 16000, 0.333, ["hop", 0.01, 0.333])])
def test_what_cannot_be_heard(waveform, rate, hop, says):
    with pytest.raises(InputError, match=naming(*says)): vggish_examples(waveform, rate, hop)


# files

def test_loading_leaves_the_global_generator(folder):
    before = torch.get_rng_state()
    load_vggish(folder / "network.pth", check_hash=False, device="cpu")
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("change, says", [
    (lambda t: t.pop("features.8.bias"), "1 conv3_2.bias"),
    (lambda t: t.update({"features.9.bias": torch.zeros(1)}), "1 features.9.bias"),
    (lambda t: t.update({"embeddings.4.bias": torch.zeros(127)}), "1 fc2.bias (127,) (128,)"),
    (lambda t: t.update({7: torch.zeros(1)}), "1 7"),
    (lambda t: t.update({"embeddings.4.bias": torch.full((128,), torch.inf)}), "finite embeddings.4.bias"),
    (lambda t: t.update({"epoch": "last"}), "named tensors")])
def test_what_does_not_fit_is_named(tmp_path, published, change, says):
    # a large tensor is stored as one number
    small = {k: v if v.numel() < 1000 else v.flatten()[:1].expand(v.shape) for k, v in published[0].items()}
    change(small)
    torch.save(small, tmp_path / "network.pth")
    with pytest.raises(CheckpointError, match=naming(tmp_path / "network.pth", *says.split())):
        load_vggish(tmp_path / "network.pth", check_hash=False, device="cpu")


def test_whitening_is_read_as_it_was_saved(tmp_path, folder, published):
    expected = {"whitening.eigen_vectors": published[1]["pca_eigen_vectors"],
                "whitening.means": published[1]["pca_means"].flatten()}
    assert b"numpy.core.multiarray\n" in (folder / "pca.pth").read_bytes()
    torch.save(published[1], tmp_path / "tensors.pth")
    torch.save({k: v.numpy() for k, v in published[1].items()}, tmp_path / "arrays.pth")
    for file in (folder / "pca.pth", tmp_path / "tensors.pth", tmp_path / "arrays.pth"):
        found = read_published(file)
        assert found.keys() == expected.keys() and all(torch.equal(found[k], v) for k, v in expected.items())


class Bomb:
    def __reduce__(self): return print, ("a pickle must never be executed",)


@pytest.mark.parametrize("content", [b"", b"hello world", b"PK not a file of torch", b"<html>", b"\x80\x02}", Bomb(),
                                     [1], {"a": "b"}, {"a": np.array(["text"])}])
def test_what_is_no_file_of_tensors(tmp_path, capsys, content):
    file = tmp_path / "network.pth"
    file.write_bytes(content) if isinstance(content, bytes) else torch.save(content, file)
    with pytest.raises(CheckpointError, match=naming(file, "tensors")): read_published(file)
    assert "executed" not in capsys.readouterr().out


def test_only_the_published_file_is_taken(folder, tmp_path):
    begins = hashlib.sha256((folder / "pca.pth").read_bytes()).hexdigest()[:8]
    words = folder / "pca.pth", "vggish_pca_params-970ea276.pth", "SHA-256", begins, "970ea276", "check_hash=False"
    with pytest.raises(CheckpointError, match=naming(*words)): published_file(PCA_FILE, folder / "pca.pth")
    with pytest.raises(CheckpointError, match=naming(folder / "pca.pth", begins, "10086976")):
        load_vggish(folder / "pca.pth")
    with pytest.raises(InputError, match=naming(tmp_path, "file")): load_vggish(tmp_path)
    with pytest.raises(InputError, match=naming(folder / "pca.pth", "pca=True")):
        load_vggish(folder / "network.pth", pca_file=folder / "pca.pth")


def test_a_file_is_fetched_once(tmp_path, folder, monkeypatch):
    "From a folder on this disk, as the network would have it."
    begins = hashlib.sha256((folder / "pca.pth").read_bytes()).hexdigest()[:8]
    good, wrong, absent = (f"vggish_pca_params-{digits}.pth" for digits in (begins, "00000000", "11111111"))
    (tmp_path / "there").mkdir()
    for name in (good, wrong): (tmp_path / "there" / name).write_bytes((folder / "pca.pth").read_bytes())
    monkeypatch.setattr(vggish, "RELEASE", (tmp_path / "there").as_uri() + "/")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    fetched = published_file(good)
    assert fetched.is_relative_to(tmp_path / "home") and fetched.read_bytes() == (folder / "pca.pth").read_bytes()
    (tmp_path / "there" / good).unlink()
    assert published_file(good) == fetched
    for name in (wrong, absent):
        with pytest.raises(CheckpointError, match=naming(name, f"{(tmp_path / 'there').as_uri()}/{name}")):
            published_file(name)
    assert [p.name for p in fetched.parent.iterdir()] == [good]  # nothing wrong or half is left
    fetched.write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=naming(fetched, good, "SHA-256", begins)): published_file(good)


def test_names_cover_both_layouts(golden):
    network, whitening = json.loads(golden["layout"])
    assert VGGISH_NAMES.keys() == network.keys() | whitening.keys() and NETWORK_FILE.endswith("-10086976.pth")
    with torch.device("meta"): assert VGGish(pca=True).state_dict().keys() == set(VGGISH_NAMES.values())


def test_importing_it_is_light():
    heavy = {"librosa", "matplotlib", "IPython", "open_clip", "torchaudio", "torchvision", "scipy", "webdataset"}
    code = f"import clipsonic.vggish, sys; print(*{heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
