"The class Vocoder with every kind of network, its checkpoints, and published files converted, whole and torn."
import dataclasses
import json

import numpy as np
import pytest
import torch
from golden_vocoder import FIXTURE, GENERATORS, mel, weight
from vocoders import noise, small_generator, small_inversion, small_networks

from clipsonic.checkpoint import save_checkpoint, write_config
from clipsonic.core import CheckpointError, InputError
from clipsonic.mel import MelConfig, log_mel
from clipsonic.mel_inversion import GriffinLim, MelInversion, MelInversionConfig
from clipsonic.threads import exactly_threads
from clipsonic.vocoder import Vocoder, VocoderNetwork, convert_vocoder, published_config, save_vocoder


@pytest.fixture(scope="module")
def golden():
    with np.load(FIXTURE) as file:
        return {k: torch.from_numpy(v) if v.dtype.kind == "f" else v.item() for k, v in file.items()}


@pytest.fixture(scope="module")
def networks(): return small_networks()


# published files

def published(name, golden, layout="weight_g, weight_v"):
    "A generator's tensors as its authors would have published them, weight normalization in one of three layouts."
    logscale, tensors = GENERATORS[name].get("snake_logscale", True), {}
    for key, shape in json.loads(golden["layouts"])[name].items():
        tensors[key] = golden["filter"].clone() if "filter" in key else weight(key, shape, logscale)
    for key in [k for k in tensors if k.endswith("weight_v")]:
        stem, g, v = key[: -len("weight_v")], tensors[key[:-1] + "g"], tensors[key]
        if layout == "fused": new = {"weight": g * v / v.flatten(1).norm(dim=1).view(g.shape)}
        elif layout == "parametrizations":
            new = {"parametrizations.weight.original0": g, "parametrizations.weight.original1": v}
        else: continue
        del tensors[key], tensors[stem + "weight_g"]
        tensors |= {stem + k: value for k, value in new.items()}
    return tensors


def files(folder, tensors, settings):
    torch.save({"generator": tensors}, folder / "generator.pt")
    (folder / "settings.json").write_text(json.dumps(settings))
    return folder / "generator.pt", folder / "settings.json", folder / "converted"


@pytest.mark.parametrize("layout", ["weight_g, weight_v", "fused", "parametrizations"])
@pytest.mark.parametrize("name", GENERATORS)
def test_published_generators_sound_the_same(tmp_path, golden, name, layout):
    assert 0.05 < golden[name].std() < 0.6  # a silent or a saturated one would prove nothing
    parts = files(tmp_path, published(name, golden, layout), GENERATORS[name])
    vocoder, given = Vocoder.load(convert_vocoder(*parts), "cpu"), mel(GENERATORS[name]["num_mels"])[:, None]
    torch.testing.assert_close(vocoder(given), golden[name], atol=1e-5, rtol=0)
    torch.testing.assert_close(vocoder(given, chunk_frames=3), golden[name], atol=1e-5, rtol=0)


def in_lightning(under):
    return {"state_dict": under("module.generator.") | {"module.discriminator.conv_post.bias": torch.zeros(1)}}


def compiled(under): return under("_orig_mod.")


def with_average(under):
    return {"model": {k: v * 0 for k, v in under("net.").items()}, "ema": under("module."), "steps": 7}


@pytest.mark.parametrize("wrap", [in_lightning, compiled, with_average])
def test_other_trainers_wrappers_are_taken_off(tmp_path, golden, wrap):
    name = "bigvgan snakebeta"
    file, config, out = files(tmp_path, published(name, golden), GENERATORS[name])
    torch.save(wrap(lambda prefix: {prefix + k: v for k, v in published(name, golden).items()}), file)
    made = Vocoder.load(convert_vocoder(file, config, out), "cpu")(mel(GENERATORS[name]["num_mels"])[:, None])
    torch.testing.assert_close(made, golden[name], atol=1e-5, rtol=0)


NAN = torch.tensor([float("nan")])
FLAT_FILTER = {"activation_post.upsample.filter": torch.ones(1, 1, 12) / 12}
TORN = [("1 foreign: ema", {"ema": torch.zeros(2)}),
        (r"activation_post.upsample.filter \(another filter\)", FLAT_FILTER),
        ("misshapen: conv_post.bias", {"conv_post.bias": torch.zeros(2)}),
        ("do not belong together", {"conv_pre.weight_g": torch.ones(3, 1, 1)}),
        ("do not belong together", {"conv_pre.weight_v": torch.tensor(1.0)}),
        ("not finite numbers, in conv_post.bias", {"conv_post.bias": NAN}), ("1 foreign: 7", {7: torch.zeros(1)})]
ODD = [("missing: .*foreign: ", {"resblock": "2"}), ("resblock '3'", {"resblock": "3"}),
       ("product must be hop_length=64", {"hop_size": 64}), ("describe no BigVGAN", {"upsample_rates": 4}),
       ("describe", {"num_mels": "8"}), ("describe", {"num_mels": -1}),
       ("larger network than its weights", {"upsample_initial_channel": 4096}),
       ("whole numbers of at least 1", {"resblock_dilation_sizes": [[1, 3, -1]] * 3}),
       ("whole numbers of at least 1", {"upsample_initial_channel": 16.0}),
       ("snake_logscale 'false': expected true or false", {"snake_logscale": "false"})]


def refused(folder, match, tensors, settings):
    with pytest.raises(CheckpointError, match=match): convert_vocoder(*files(folder, tensors, settings))
    assert not (folder / "converted").exists()


@pytest.mark.parametrize("match, change", TORN)
def test_tensors_that_do_not_fit_are_named(tmp_path, golden, match, change):
    refused(tmp_path, match, published("bigvgan snakebeta", golden) | change, GENERATORS["bigvgan snakebeta"])


@pytest.mark.parametrize("match, change", ODD)
def test_settings_that_do_not_fit_are_named(tmp_path, golden, match, change):
    refused(tmp_path, match, published("bigvgan snakebeta", golden), GENERATORS["bigvgan snakebeta"] | change)


def test_what_is_missing_is_named(tmp_path, golden):
    good, settings = published("bigvgan snakebeta", golden), GENERATORS["bigvgan snakebeta"]
    lacking = {k: v for k, v in good.items() if k != "conv_pre.weight_g"}
    refused(tmp_path, "1 missing: conv_pre.weight; 1 foreign: conv_pre.weight_v", lacking, settings)
    refused(tmp_path, "lack 'num_mels'", good, {k: v for k, v in settings.items() if k != "num_mels"})
    refused(tmp_path, "holds no settings", good, [1])
    for tensors in {"conv_pre": "weights"}, {}: refused(tmp_path, "holds no generator", tensors, settings)


def test_files_that_cannot_be_read_are_named(tmp_path, golden):
    file, config, out = files(tmp_path, published("hifigan 2", golden), GENERATORS["hifigan 2"])
    with pytest.raises(InputError, match="no such file"): convert_vocoder(tmp_path / "none.pt", config, out)
    settings = config.read_text()
    config.write_text("{")
    with pytest.raises(CheckpointError, match="not JSON"): convert_vocoder(file, config, out)
    config.write_text(settings)
    for content in (b"PK not a file of torch", b"", b"hello world", b"RIFF....WAVEfmt ", b"<html>", b"\x80\x02}"):
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match="cannot be read as tensors|holds no generator"):
            convert_vocoder(file, config, out)


def test_no_folder_but_a_vocoder_s_is_replaced(tmp_path, golden):
    file, config, out = files(tmp_path, published("hifigan 2", golden), GENERATORS["hifigan 2"])
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("dear")
    for folder in (tmp_path / "letters", tmp_path):
        with pytest.raises(InputError, match="is not replaced"): convert_vocoder(file, config, folder)
    for _ in range(2): convert_vocoder(file, config, out)
    moved = file.rename(out / "generator.pt")
    with pytest.raises(InputError, match="which would be replaced"): convert_vocoder(moved, config, out)
    assert moved.exists() and (tmp_path / "letters" / "a.txt").exists()


class Bomb:
    def __reduce__(self): return print, ("a pickle must never be executed",)


def test_a_pickle_is_not_executed(tmp_path, capsys):
    file, config, out = files(tmp_path, Bomb(), GENERATORS["hifigan 1"])
    with pytest.raises(CheckpointError, match="cannot be read as tensors"): convert_vocoder(file, config, out)
    assert "executed" not in capsys.readouterr().out


def test_published_44_khz_settings():
    published_44 = {"sampling_rate": 44100, "num_mels": 128, "n_fft": 2048, "win_size": 2048, "hop_size": 512,
                    "upsample_rates": [8, 4, 2, 2, 2, 2], "upsample_kernel_sizes": [16, 8, 4, 4, 4, 4],
                    "upsample_initial_channel": 1536}
    config = published_config(GENERATORS["bigvgan v2"] | published_44)
    assert config.mel == MelConfig(44100, 2048, 2048, 512, 128, 0.0, 22050.0)
    assert not config.use_bias_at_final and not config.use_tanh_at_final


# decoding

def test_every_network_keeps_the_contract(networks):
    for network in networks.values(): assert isinstance(network, VocoderNetwork)
    assert not isinstance(torch.nn.Linear(1, 1), VocoderNetwork)


@pytest.mark.parametrize("frames", [1, 2, 3, 64, 125])
def test_any_number_of_frames(networks, frames):
    for network in networks.values():
        made = Vocoder(network)(torch.full((1, 1, 64, frames), -6.0))
        assert made.shape == (1, 1, frames * 512) and made.isfinite().all()


def test_a_clip_is_the_same_in_any_batch(networks):
    given = log_mel(noise(5, 16384))
    for network in networks.values():
        vocoder = Vocoder(network)
        with exactly_threads(2):  # on which the generators' last bits depend
            batch = vocoder(given)
            for i in range(5): assert torch.equal(vocoder(given[i : i + 1]), batch[i : i + 1])


@pytest.mark.long
@pytest.mark.parametrize("chunk", [1, 50, 299])
def test_pieces_make_the_whole(networks, chunk):
    given = log_mel(noise(1, (60 if chunk == 1 else 300) * 512))
    for name, network in networks.items():
        if chunk == 1 and name in ("griffin-lim", "mel inversion"): continue  # sixty times the whole
        difference = (Vocoder(network)(given) - Vocoder(network)(given, chunk_frames=chunk)).abs().max()
        assert difference < 1e-5, (name, difference)


def test_decoding_leaves_the_global_generator_alone(networks):
    before = torch.random.get_rng_state()
    for network in networks.values(): Vocoder(network)(torch.full((1, 1, 64, 4), -6.0))
    assert torch.equal(before, torch.random.get_rng_state())


def test_silence_and_loudness():
    vocoder = Vocoder()
    assert vocoder(log_mel(torch.zeros(1, 1, 8192))).abs().max() < 1e-2
    given = log_mel(noise(1, 8192))
    quiet, loud = vocoder(given), vocoder(given + 1)
    assert loud.square().mean() / quiet.square().mean() == pytest.approx(2.71828**2, rel=0.1)


@pytest.mark.parametrize("shape", [(1, 64, 8), (1, 1, 80, 8), (1, 2, 64, 8), (1, 1, 64, 0)])
def test_another_shape_is_refused(networks, shape):
    for network in networks.values():
        with pytest.raises(InputError, match="expected"): Vocoder(network)(torch.zeros(shape))


def test_what_is_not_a_number_is_refused():
    vocoder, given = Vocoder(small_inversion()), torch.full((1, 1, 64, 4), -6.0)
    given[0, 0, 3, 1], given[0, 0, 3, 2] = float("nan"), float("inf")
    with pytest.raises(InputError, match="2 values that are not finite numbers, of 256"): vocoder(given)
    with pytest.raises(InputError, match="chunk_frames=0"): vocoder(torch.zeros(1, 1, 64, 4), chunk_frames=0)


# checkpoints

def test_another_hop(tmp_path):
    config = MelInversionConfig(mel=MelConfig(hop_length=1024), width=16, depth=1)
    save_vocoder(tmp_path / "v", MelInversion(config), dtype=torch.float16)
    vocoder = Vocoder.load(tmp_path / "v", device="cpu")
    assert vocoder.mel == config.mel and vocoder.network.config == config
    assert vocoder(torch.full((1, 1, 64, 4), -6.0)).shape == (1, 1, 4096)
    with pytest.raises(InputError, match="hop_length=1024; asked was hop_length=512"):
        Vocoder(vocoder.network, MelConfig())
    with pytest.raises(InputError, match="sample_rate=16000; given is sample_rate=22050"):
        vocoder.check_mel(MelConfig(sample_rate=22050, hop_length=1024))
    vocoder.check_mel(dataclasses.replace(config.mel, log_min=-9.0))  # the scale of the denoiser's input


@pytest.mark.parametrize("tanh, bound", [(True, "tanh"), (False, "clamp")])
def test_a_generator_with_settings_of_before_0_1_0_loads(tmp_path, tanh, bound):
    network = small_generator(activation="leaky_relu", resblock_pairs=False, use_tanh_at_final=tanh)
    save_vocoder(tmp_path / "v", network)
    file = tmp_path / "v" / "config.json"
    config = json.loads(file.read_text())
    model = config["model"]
    older = {"kernels": model.pop("resblock_kernels"), "dilations": model.pop("resblock_dilations"),
             "pairs": model.pop("resblock_pairs"), "log_scale": model.pop("snake_logscale"),
             "bias": model.pop("use_bias_at_final")}
    assert model.pop("use_tanh_at_final") == tanh
    config["model"] = model | older | {"bound": bound}
    write_config(tmp_path / "v", {key: value for key, value in config.items() if key != "sha256"})
    with pytest.warns(UserWarning, match="names from before 0.1.0"): loaded = Vocoder.load(tmp_path / "v", "cpu")
    assert loaded.network.config == network.config


def test_griffin_lim_is_not_saved(tmp_path):
    with pytest.raises(InputError, match="MelConfig cannot be saved"): save_vocoder(tmp_path / "v", GriffinLim())
    assert not (tmp_path / "v").exists()


def test_what_is_not_a_vocoder(tmp_path):
    with pytest.raises(InputError, match="no vocoder 'bigvgun'"): Vocoder.load("bigvgun")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError): Vocoder.load(tmp_path / "empty")
    save_checkpoint(tmp_path / "other", {"kind": "denoiser"}, {"denoiser": {"w": torch.zeros(1)}})
    with pytest.raises(CheckpointError, match="holds a denoiser, not a vocoder"): Vocoder.load(tmp_path / "other")


@pytest.mark.parametrize("name", ["mel inversion", "istft head", "snakebeta"])
def test_a_config_that_does_not_fit_is_refused(tmp_path, networks, name):
    save_vocoder(tmp_path / "torn", networks[name])
    assert Vocoder.load(tmp_path / "torn", "cpu").hash == Vocoder(networks[name]).hash
    config = tmp_path / "torn" / "config.json"
    settings = json.loads(config.read_text())
    del settings["sha256"]["config.json"]  # what refuses it is to be the settings and not the digest
    wrong = {"mel inversion": {"width": 48}, "istft head": {"depth": 7}, "snakebeta": {"channels": 32}}[name]
    for change in wrong, {"vocoder": 1}, {"mel": None}, {"width": -1}, {"channels": -16}:
        config.write_text(json.dumps(settings | {"model": settings["model"] | change}))
        with pytest.raises(CheckpointError): Vocoder.load(tmp_path / "torn")
