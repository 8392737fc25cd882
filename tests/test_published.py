"""Inception v3 and Cnn14 against the original code's figures, in any batch, and from files that are not the published
ones."""
import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from golden_panns import FIXTURE, FOURIER, STORED, logits, published, sounds

from clipsonic import published as module
from clipsonic.core import CheckpointError, InputError
from clipsonic.mel import MelConfig, normalize_mel
from clipsonic.published import (CNN14_FILES, CNN14_NAMES, INCEPTION_FILE, SHA256, Cnn14, build_inception,
                                 check_published, embed_inception, front_end, load_cnn14, load_inception,
                                 log_probabilities, read_weights, run_cnn14, spectrogram_image)
from clipsonic.scores import kl_divergence
from conftest import naming

RATES = (16000, 32000)


@pytest.fixture(scope="module")
def golden():
    with np.load(FIXTURE) as file: return {k: v.item() if v.ndim == 0 else torch.from_numpy(v) for k, v in file.items()}


def he(layout):
    generator, found = torch.Generator().manual_seed(0), {}
    for name, like in layout.items():
        if like.ndim > 1: found[name] = torch.randn(like.shape, generator=generator) * (2 / like[0].numel()) ** 0.5
        else: found[name] = torch.full(like.shape, float(name.endswith(("running_var", "bn.weight")))).to(like.dtype)
    return found


@pytest.fixture(scope="module")
def inception_weights(): return he(build_inception().state_dict())


@pytest.fixture(scope="module")
def inception(inception_weights, tmp_path_factory):
    file = tmp_path_factory.mktemp("inception") / "inception.pth"
    torch.save(inception_weights, file)
    yield load_inception(file, check_hash=False, device="cpu")
    file.unlink()


@pytest.fixture(scope="module", params=RATES)
def cnn14(request, golden, tmp_path_factory):
    "From a file as PANNs' training leaves it, in the format of its time, with the bands of its front end."
    file = tmp_path_factory.mktemp("cnn14") / "cnn14.pth"
    torch.save({"iteration": 600000, "model": published(request.param) | {"logmel_extractor.melW":
        golden[f"{request.param} bands"]}, "sampler": {"indexes_per_class": [np.arange(9)], "queue": [3],
                                                       "pointers_of_classes": [np.int64(1)]}}, file,
               _use_new_zipfile_serialization=False)
    file.write_bytes(file.read_bytes().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))
    model = load_cnn14(file, request.param, check_hash=False, device="cpu")
    file.unlink()
    return model


def mels(seed=0, frames=64):
    return -4 + 3 * torch.randn(4, 1, 64, frames, generator=torch.Generator().manual_seed(seed))


# pictures

def test_pictures_are_grey_and_as_the_array_lies():
    mel = torch.linspace(-15, 5, 64 * 40).view(1, 1, 64, 40)
    image = spectrogram_image(mel)
    assert image.shape == (1, 3, 64, 40) and image.dtype == torch.uint8
    assert torch.equal(image[:, 0], image[:, 1]) and torch.equal(image[:, 0], image[:, 2])
    assert (image[0, 0].flatten().int().diff() >= 0).all() and image.min() == 0 and image.max() == 255
    inside = (mel > MelConfig().log_min) & (mel < MelConfig().log_max)
    torch.testing.assert_close(image[:, :1][inside] / 127.5 - 1, normalize_mel(mel)[inside], atol=1 / 254, rtol=0)
    torch.testing.assert_close(spectrogram_image(mel.double()), image)
    narrow = MelConfig(log_min=-15.0, log_max=5.0)
    assert torch.equal(spectrogram_image(mel, narrow)[0, 0, [0, -1], [0, -1]],
                       torch.tensor([0, 255], dtype=torch.uint8))


@pytest.mark.parametrize("mel, says", [
    (torch.zeros(1, 64, 64), ["(1, 64, 64)"]), (torch.zeros(1, 3, 64, 64), ["(1, 3, 64, 64)"]),
    (torch.zeros(1, 1, 80, 64), ["(1, 1, 80, 64)"]), (torch.zeros(0, 1, 64, 64), ["(0, 1, 64, 64)"]),
    (torch.zeros(1, 1, 64, 0), ["(1, 1, 64, 0)"]), (torch.zeros(1, 1, 64, 9, dtype=torch.uint8), ["torch.uint8"]),
    (np.zeros((1, 1, 64, 9)), ["ndarray"]), (torch.full((1, 1, 64, 9), -torch.inf), [576, "finite"])])
def test_what_is_no_spectrogram(mel, says):
    with pytest.raises(InputError, match=naming("mel", *says)): spectrogram_image(mel)


# Inception

def test_inception_is_the_librarys(inception, inception_weights, tmp_path):
    "Filled by `load_strict`, it is what the library reads from the file itself."
    from torch_fidelity import FeatureExtractorInceptionV3
    torch.save(inception_weights, tmp_path / "inception.pth")
    with torch.random.fork_rng(devices=[]):
        theirs = FeatureExtractorInceptionV3("theirs", ["2048"], str(tmp_path / "inception.pth")).eval()
    assert theirs.state_dict().keys() == inception.state_dict().keys()
    found = embed_inception(inception, mels())
    assert found.shape == (4, 2048) and found.dtype == torch.float32 and found.std() > 0.01
    assert torch.equal(found, torch.cat([theirs(image[None])[0] for image in spectrogram_image(mels())]))


def test_inception_layout_is_the_published():
    "torchvision's network without its side exit has the same names and shapes; the file has 566 entries."
    import torchvision
    with torch.device("meta"):
        layout = torchvision.models.inception_v3(weights=None, num_classes=1008, aux_logits=False,
                                                 init_weights=False).state_dict()
    ours = build_inception().state_dict()
    assert len(ours) == 566 and {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in layout.items()}


@pytest.mark.long
@pytest.mark.parametrize("frames", [1, 64, 125])
def test_inception_gives_the_same_in_any_batch(inception, frames):
    mel = mels(frames=frames)
    together = embed_inception(inception, mel)
    for some in ([0], [3], [2, 1], [3, 2, 1, 0]):
        assert torch.equal(embed_inception(inception, mel[some]), together[some])
    assert not together.requires_grad and (together[0] - together[1]).abs().max() > 1e-3


# Cnn14

@pytest.mark.parametrize("rate", RATES)
def test_front_end_is_torchlibrosas(golden, rate):
    ours = front_end(rate)
    for part in ("real", "imag"):
        torch.testing.assert_close(ours[part][FOURIER], golden[f"{rate} {part}"], atol=1e-6, rtol=0)
    torch.testing.assert_close(ours["bands"], golden[f"{rate} bands"], atol=1e-7, rtol=1e-5)


def test_front_end_takes_the_two_rates():
    for make in (front_end, Cnn14, lambda rate: load_cnn14("none.pth", rate)):
        with pytest.raises(InputError, match=naming("Cnn14", 16000, 32000, 44100)): make(44100)


@pytest.mark.long
def test_cnn14_is_theirs(golden, cnn14):
    rate = cnn14.sample_rate
    for name, sound in sounds(rate).items():
        torch.testing.assert_close(cnn14.log_mel(sound[None])[0, 0, STORED], golden[f"{rate} {name} mel"], atol=1e-3,
                                   rtol=0)
        tags = run_cnn14(cnn14, sound[None, None], rate)
        assert 0.1 < golden[f"{rate} {name} embedding"].std() < 5 and 0.1 < golden[f"{rate} {name} logits"].std() < 5
        for part, found in (("embedding", tags.embedding), ("logits", tags.logits), ("clipwise", tags.clipwise_output)):
            torch.testing.assert_close(found[0], golden[f"{rate} {name} {part}"], atol=1e-5, rtol=1e-5)


def test_cnn14_layout_is_the_published(golden):
    for rate, layout in json.loads(golden["layouts"]).items():
        with torch.device("meta"): ours = Cnn14(int(rate)).state_dict()
        assert len(layout) == 84
        shapes = {CNN14_NAMES.get(name, name): tuple(shape) for name, shape in layout.items()}
        assert shapes == {name: tuple(tensor.shape) for name, tensor in ours.items()}
    assert CNN14_NAMES.keys() <= layout.keys()


def test_cnn14_gives_the_same_in_any_batch(cnn14):
    rate = cnn14.sample_rate
    batch = torch.stack([sounds(rate)[name][:rate] for name in ("rise", "fall", "clicks")])[:, None]
    together = run_cnn14(cnn14, batch, rate)
    assert together.embedding.shape == (3, 2048) and together.logits.shape == (3, 527)
    assert together.logits.dtype == torch.float32
    for some in ([0], [2, 1], [2, 1, 0]):
        for found, whole in zip(run_cnn14(cnn14, batch[some], rate), together): assert torch.equal(found, whole[some])
    torch.testing.assert_close(run_cnn14(cnn14, batch[:1].double(), rate).logits, together.logits[:1])


def test_cnn14_is_a_fresh_network_and_frozen(cnn14):
    assert not cnn14.training and not any(p.requires_grad for p in cnn14.parameters())
    assert cnn14.fingerprint["name"] == f"cnn14-{cnn14.sample_rate // 1000}k" and len(cnn14.fingerprint["hash"]) == 16
    sound = sounds(cnn14.sample_rate)["shortest"][None, None].requires_grad_()
    run_cnn14(cnn14, sound, cnn14.sample_rate).logits.sum().backward()
    assert sound.grad.isfinite().all() and sound.grad.abs().sum() > 0


@pytest.mark.parametrize("change, rate, says", [
    (lambda x: x[..., :-1], None, "Cnn14 0.31 s"), (lambda x: x, 48000, "Cnn14 48000"),
    (lambda x: x.expand(1, 2, -1), None, "waveform (1, 2,"), (lambda x: x[0], None, "waveform (1,"),
    (lambda x: x[:0], None, "waveform (0, 1,"), (lambda x: x.short(), None, "waveform int16"),
    (lambda x: x.numpy(), None, "waveform ndarray"), (lambda x: x * torch.nan, None, "waveform finite")])
def test_what_cannot_be_heard(cnn14, change, rate, says):
    with pytest.raises(InputError, match=naming(*says.split(" ", 1))):
        run_cnn14(cnn14, change(sounds(cnn14.sample_rate)["shortest"][None, None]), rate or cnn14.sample_rate)


# KL

def test_kl_is_that_of_audioldm_eval(golden):
    expected = json.loads(golden["kl"])
    made = {str(i): row for i, row in enumerate(log_probabilities(logits(1), 1e-6))}
    real = {str(i): row for i, row in enumerate(log_probabilities(logits(2)))}
    assert kl_divergence(real, made).value == pytest.approx(expected["kullback_leibler_divergence_softmax"], rel=1e-5)
    p, q = logits(2).double().sigmoid(), logits(1).double().sigmoid()
    # the other figure, which is not offered
    assert (p * (p.log() - (q + 1e-6).log())).sum(1).mean().item() == pytest.approx(
        expected["kullback_leibler_divergence_sigmoid"], rel=1e-4)


def test_log_probabilities():
    x = 50 * torch.randn(3, 5, 527, generator=torch.Generator().manual_seed(0))
    logs = log_probabilities(x)
    assert logs.dtype == torch.float64 and logs.isfinite().all()
    torch.testing.assert_close(logs.exp().sum(-1), torch.ones(3, 5, dtype=torch.float64))
    assert log_probabilities(x, 1e-6).min() >= np.log(1e-6)
    for wrong, eps, says in ((x / 0, 0, ["logits", "finite"]),
                               (torch.ones(3, dtype=torch.long), 0, ["logits", "floats"]),
                               (torch.tensor(1.0), 0, ["logits", "class"]), (x, -1, ["eps", -1]),
                               (x, torch.nan, ["eps", "nan"])):
        with pytest.raises(InputError, match=naming(*says)): log_probabilities(wrong, eps)


# files

def test_loading_leaves_the_global_generator(tmp_path, inception_weights):
    torch.save(inception_weights, tmp_path / "inception.pth")
    # without "model" too
    torch.save({k: v[:1].expand(v.shape) if v.ndim else v for k, v in published(16000).items()}, tmp_path / "cnn14.pth")
    before = torch.get_rng_state()
    load_inception(tmp_path / "inception.pth", check_hash=False, device="cpu")
    load_cnn14(tmp_path / "cnn14.pth", check_hash=False, device="cpu")
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", SHA256)
def test_only_the_published_file_is_taken(tmp_path, name):
    (tmp_path / name).write_bytes(b"other weights")
    rates = {v: k for k, v in CNN14_FILES.items()}
    load = load_inception if name == INCEPTION_FILE else lambda file: load_cnn14(file, rates[name])
    found = hashlib.sha256(b"other weights").hexdigest()[:8]
    with pytest.raises(CheckpointError,
                       match=naming(tmp_path / name, "SHA-256", found, SHA256[name][:8], "check_hash=False")):
        load(tmp_path / name)
    with pytest.raises(InputError, match=naming(tmp_path / "none.pth", name, "https://")): load(tmp_path / "none.pth")
    with pytest.raises(InputError, match=naming(tmp_path, name, "https://")): load(tmp_path)
    assert check_published(tmp_path / name, name, check_hash=False) == tmp_path / name


def test_a_file_with_the_right_hash_is_taken(tmp_path, inception_weights, monkeypatch):
    torch.save(inception_weights, tmp_path / INCEPTION_FILE)
    monkeypatch.setitem(module.SHA256, INCEPTION_FILE,
                        hashlib.sha256((tmp_path / INCEPTION_FILE).read_bytes()).hexdigest())
    assert load_inception(tmp_path / INCEPTION_FILE, device="cpu").fingerprint["name"] == "inception-v3"
    assert all(len(digest) == 64 for digest in SHA256.values()) and INCEPTION_FILE[-12:-4] == "6726825d"


@pytest.mark.parametrize("change, says", [
    (lambda t: t.pop("conv_block3.bn2.running_var"), "1 conv_block3.bn2.running_var"),
    (lambda t: t.pop("logmel_extractor.melW"), "1 bands"),
    (lambda t: t.update({"bn9.bias": torch.zeros(1)}), "1 bn9.bias"),
    (lambda t: t.update({"fc_audioset.bias": torch.zeros(50)}), "1 fc_audioset.bias (50,) (527,)"),
    (lambda t: t.update({"fc1.bias": torch.full((2048,), torch.inf)}), "finite fc1.bias"),
    (lambda t: t.update({"epoch": "last"}), "network tensors 'model'")])
@pytest.mark.long
def test_what_does_not_fit_is_named(tmp_path, change, says):
    # a large tensor is stored as one number
    small = {k: v if v.numel() < 3000 else v.flatten()[:1].expand(v.shape) for k, v in published(16000).items()}
    change(small)
    torch.save({"model": small}, tmp_path / "cnn14.pth")
    with pytest.raises(CheckpointError, match=naming(tmp_path / "cnn14.pth", *says.split())):
        load_cnn14(tmp_path / "cnn14.pth", check_hash=False, device="cpu")


def test_the_other_rates_file_does_not_fit(tmp_path):
    torch.save({"model": {k: v if v.numel() < 3000 else v.flatten()[:1].expand(v.shape)
                          for k, v in published(32000).items()}}, tmp_path / "cnn14.pth")
    with pytest.raises(CheckpointError, match=naming(tmp_path / "cnn14.pth", 3, "bands", "(513, 64)", "(257, 64)")):
        load_cnn14(tmp_path / "cnn14.pth", 16000, check_hash=False, device="cpu")


class Bomb:
    def __reduce__(self): return print, ("a pickle must never be executed",)


@pytest.mark.parametrize("content, says", [
    (b"", "torch.save"), (b"hello world", "torch.save"), (b"<html>", "torch.save"), (Bomb(), "print"),
    ([1], "network tensors"), ({}, "network tensors"), ({"model": None}, "network tensors"),
    ({"a": np.zeros(3)}, "network tensors"), ({"model": {"a": torch.zeros(1)}, "sampler": Bomb()}, "print")])
def test_what_is_no_file_of_tensors(tmp_path, capsys, content, says):
    file = tmp_path / "network.pth"
    file.write_bytes(content) if isinstance(content, bytes) else torch.save(content, file)
    with pytest.raises(CheckpointError, match=naming(file, *says.split())): read_weights(file)
    assert "executed" not in capsys.readouterr().out


def test_importing_it_is_light():
    heavy = {"librosa", "matplotlib", "IPython", "open_clip", "torchaudio", "torchvision", "torch_fidelity", "scipy",
             "webdataset"}
    code = f"import clipsonic.published, sys; print(*{heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
