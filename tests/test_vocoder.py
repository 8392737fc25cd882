"Vocoders against the original code's figures, in any shape, piece by piece, and from files that do not fit."
import dataclasses
import json

import numpy as np
import pytest
import torch
from golden_vocoder import FIXTURE, GENERATORS, mel, sound, wave, weight

from clipsonic.checkpoint import save_checkpoint
from clipsonic.core import CheckpointError, InputError
from clipsonic.mel import MelConfig, log_mel, stft_magnitude
from clipsonic.threads import exactly_threads
from clipsonic.vocoder import (Discriminators, Generator, GeneratorConfig, SPARE, GriffinLim, ISTFTHead, ISTFTHeadConfig, MelInversion, MelInversionConfig, Snake, Vocoder, convert_vocoder, convolutions,
                               discriminator_loss, feature_matching, folded, generator_loss, low_pass, magnitude_distance, mel_distance, multi_period, multi_resolution, multi_scale, normalised, published_config,
                               save_vocoder, stft_distance, tones, vary)


@pytest.fixture(scope="module")
def golden():
    with np.load(FIXTURE) as file: return {k: torch.from_numpy(v) if v.dtype.kind == "f" else v.item() for k, v in file.items()}


@pytest.fixture(scope="module")
def small():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MelInversion(MelInversionConfig(width=32, depth=1)).eval().requires_grad_(False)


def tiny(**settings):
    "A generator whose output is neither silent nor saturated."
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Generator(GeneratorConfig(**{"channels": 16, **settings})).eval().requires_grad_(False)
        for conv in convolutions(network): torch.nn.init.normal_(conv.weight, 0, 0.6 * conv.weight[0].numel() ** -0.5)
    return network


def noise(batch, samples, seed=0): return 0.1 * torch.randn(batch, 1, samples, generator=torch.Generator().manual_seed(seed))


# the original code's figures

def published(name, golden, layout="weight_g, weight_v"):
    "A generator's file as its authors would have published it, weight normalisation in one of three layouts."
    log_scale, tensors = GENERATORS[name].get("snake_logscale", True), {}
    for key, shape in json.loads(golden["layouts"])[name].items():
        tensors[key] = golden["filter"].clone() if "filter" in key else weight(key, shape, log_scale)
    for key in [k for k in tensors if k.endswith("weight_v")]:
        stem, g, v = key[: -len("weight_v")], tensors[key[:-1] + "g"], tensors[key]
        if layout == "folded": new = {"weight": g * v / v.flatten(1).norm(dim=1).view(g.shape)}
        elif layout == "parametrizations": new = {"parametrizations.weight.original0": g, "parametrizations.weight.original1": v}
        else: continue
        del tensors[key], tensors[stem + "weight_g"]
        tensors |= {stem + k: value for k, value in new.items()}
    return tensors


def files(folder, tensors, settings):
    torch.save({"generator": tensors}, folder / "generator.pt")
    (folder / "settings.json").write_text(json.dumps(settings))
    return folder / "generator.pt", folder / "settings.json", folder / "converted"


@pytest.mark.parametrize("layout", ["weight_g, weight_v", "folded", "parametrizations"])
@pytest.mark.parametrize("name", GENERATORS)
def test_published_generators_sound_the_same(tmp_path, golden, name, layout):
    assert 0.05 < golden[name].std() < 0.6  # a silent or a saturated one would prove nothing
    vocoder = Vocoder.load(convert_vocoder(*files(tmp_path, published(name, golden, layout), GENERATORS[name])), "cpu")
    given = mel(GENERATORS[name]["num_mels"])
    torch.testing.assert_close(vocoder(given[:, None]), golden[name], atol=1e-5, rtol=0)
    torch.testing.assert_close(vocoder(given[:, None], chunk=3), golden[name], atol=1e-5, rtol=0)


CRITIC = {"module.discriminator.conv_post.bias": torch.zeros(1)}
WRAPS = {"lightning": lambda under: {"state_dict": under("module.generator.") | CRITIC}, "compiled": lambda under: under("_orig_mod."),
         "average": lambda under: {"model": {k: v * 0 for k, v in under("net.").items()}, "ema": under("module."), "steps": 7}}


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_other_trainers_wrappers_are_taken_off(tmp_path, golden, wrap):
    name = "bigvgan snakebeta"
    file, config, out = files(tmp_path, published(name, golden), GENERATORS[name])
    torch.save(wrap(lambda prefix: {prefix + k: v for k, v in published(name, golden).items()}), file)
    made = Vocoder.load(convert_vocoder(file, config, out), "cpu")(mel(GENERATORS[name]["num_mels"])[:, None])
    torch.testing.assert_close(made, golden[name], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name, critics", [("mpd", multi_period), ("mrd", multi_resolution), ("msd", multi_scale)])
def test_critics_say_the_same(golden, name, critics):
    critics = critics(1.0 if name == "msd" else 0.125).eval().requires_grad_(False)
    if name == "msd": critics = critics[1:]  # the fixture leaves out the one with spectral normalisation
    for number, critic in enumerate(critics, start=1 if name == "msd" else 0):
        for key, value in critic.state_dict().items():
            key = key.replace("parametrizations.weight.original0", "weight_g").replace("parametrizations.weight.original1", "weight_v")
            value.copy_(weight(f"discriminators.{number}.{key}", value.shape))
    real, made = (Discriminators(critics)(sound(k)) for k in (1, 2))
    scores = torch.cat([s.flatten() for s, _ in real + made])[::16]
    torch.testing.assert_close(scores, golden[f"{name} scores"], atol=1e-5, rtol=1e-5)
    losses = torch.stack([discriminator_loss(real, made), generator_loss(made), 2 * feature_matching(real, made)])
    torch.testing.assert_close(losses, golden[f"{name} losses"], atol=1e-5, rtol=1e-5)


def test_the_filter_is_theirs(golden): torch.testing.assert_close(low_pass(), golden["filter"].flatten(), atol=1e-6, rtol=0)


# converting

def test_what_does_not_fit_is_named(tmp_path, golden):
    name = "bigvgan snakebeta"
    good, settings = published(name, golden), GENERATORS[name]
    def refused(match, tensors=good, settings=settings, error=CheckpointError):
        with pytest.raises(error, match=match): convert_vocoder(*files(tmp_path, tensors, settings))
        assert not (tmp_path / "converted").exists()
    refused("1 missing: conv_pre.weight; 1 foreign: conv_pre.weight_v", {k: v for k, v in good.items() if k != "conv_pre.weight_g"})
    refused("1 foreign: ema", good | {"ema": torch.zeros(2)})
    refused(r"activation_post.upsample.filter \(another filter\)", good | {"activation_post.upsample.filter": torch.ones(1, 1, 12) / 12})
    refused("misshapen: conv_post.bias", good | {"conv_post.bias": torch.zeros(2)})
    refused("missing: .*foreign: ", settings=settings | {"resblock": "2"})
    refused("resblock '3'", settings=settings | {"resblock": "3"})
    refused("lack 'num_mels'", settings={k: v for k, v in settings.items() if k != "num_mels"})
    refused("product must be hop_length=64", settings=settings | {"hop_size": 64})
    refused("describe no BigVGAN", settings=settings | {"upsample_rates": 4})
    refused("describe", settings=settings | {"num_mels": "8"})
    refused("describe", settings=settings | {"num_mels": -1})
    refused("larger network than its weights", settings=settings | {"upsample_initial_channel": 4096})
    refused("whole numbers of at least 1", settings=settings | {"resblock_dilation_sizes": [[1, 3, -1]] * 3})
    refused("whole numbers of at least 1", settings=settings | {"upsample_initial_channel": 16.0})
    refused("snake_logscale 'false': expected true or false", settings=settings | {"snake_logscale": "false"})
    refused("do not belong together", good | {"conv_pre.weight_g": torch.ones(3, 1, 1)})
    refused("do not belong together", good | {"conv_pre.weight_v": torch.tensor(1.0)})
    refused("not finite numbers, in conv_post.bias", good | {"conv_post.bias": torch.tensor([float("nan")])})
    refused("1 foreign: 7", good | {7: torch.zeros(1)})
    refused("holds no settings", settings=[1])
    refused("holds no generator", tensors={"conv_pre": "weights"})
    refused("holds no generator", tensors={})
    file, config, out = files(tmp_path, good, settings)
    with pytest.raises(InputError, match="no such file"): convert_vocoder(tmp_path / "none.pt", config, out)
    config.write_text("{")
    with pytest.raises(CheckpointError, match="not JSON"): convert_vocoder(file, config, out)
    config.write_text(json.dumps(settings))
    for content in (b"PK not a file of torch", b"", b"hello world", b"RIFF....WAVEfmt ", b"<html>", b"\x80\x02}"):
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match="cannot be read as tensors|holds no generator"): convert_vocoder(file, config, out)


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
    config = published_config({**GENERATORS["bigvgan v2"], "sampling_rate": 44100, "num_mels": 128, "n_fft": 2048, "win_size": 2048, "hop_size": 512, "upsample_rates": [8, 4, 2, 2, 2, 2],
                               "upsample_kernel_sizes": [16, 8, 4, 4, 4, 4], "upsample_initial_channel": 1536})
    assert config.mel == MelConfig(44100, 2048, 2048, 512, 128, 0.0, 22050.0) and (config.bias, config.bound) == (False, "clamp")


# generators

@pytest.mark.parametrize("wrong, match", [(dict(upsample_rates=(8, 8, 4, 4)), "hop_length=512"), (dict(upsample_kernels=(16, 16, 8)), "one for each"), (dict(upsample_kernels=(16, 16, 8, 3)), "even number"),
                                          (dict(kernels=(3, 7)), "list of dilations"), (dict(kernels=(3, 7, 10)), "odd kernels"), (dict(channels=100), "multiple of 16"),
                                          (dict(activation="relu"), "'snakebeta'"), (dict(bound="none"), "'clamp'")])
def test_settings_that_cannot_be(wrong, match):
    with pytest.raises(InputError, match=match): GeneratorConfig(**wrong)


def test_settings_survive_json():
    config = GeneratorConfig(channels=64, activation="snake")
    assert GeneratorConfig(**json.loads(json.dumps(dataclasses.asdict(config)))) == config


@pytest.mark.parametrize("beta", [True, False])
@pytest.mark.parametrize("log_scale", [True, False])
def test_snake_learns(beta, log_scale):
    "Gradients of the folded form, against finite differences."
    snake = Snake(3, beta, log_scale).double()
    for k, p in enumerate(snake.parameters()): p.data += 0.5 * wave(3, k=k).double()
    x = wave(1, 3, 1, 9).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x, *_: snake(x), (x, *snake.parameters()), atol=1e-6)


@pytest.mark.parametrize("level", [0.0, -6.0, 4.0])
def test_snake_is_as_exact_as_written_down(level):
    "Also where β is small and 1/β large: against the formula in double precision, on a slow signal that the filters leave alone."
    snake, x = Snake(1).requires_grad_(False), torch.sin(torch.arange(4000, dtype=torch.float64) / 300)[None, None, None]
    snake.alpha.fill_(min(level, 0.0)), snake.beta.fill_(level)
    exact = x + torch.sin(torch.tensor(min(level, 0.0)).double().exp() * x) ** 2 / torch.tensor(level).double().exp()
    assert (snake.double()(x) - exact)[..., 20:-20].abs().max() < 1e-4
    single = snake.float()(x.float())
    assert (single.double() - Snake.forward(snake.double(), x)).abs().max() < 2e-6 * exact.abs().max()


def test_snake_at_zero_is_finite():
    snake = Snake(2, log_scale=False).requires_grad_(False)
    snake.alpha.zero_()
    x = wave(1, 2, 1, 40)
    assert snake(x).isfinite().all() and (snake(x)[..., 8:-8] - x[..., 8:-8]).abs().max() < 1  # no period: nearly the identity


def test_weight_normalisation_is_folded():
    network = tiny()
    trained = normalised(tiny())
    given = log_mel(noise(1, 4096))
    plain, expected = folded(trained), network(given)
    assert plain.keys() == network.state_dict().keys() and "conv_pre.parametrizations.weight.original0" in trained.state_dict()
    network.load_state_dict(plain)
    for again in network, trained: torch.testing.assert_close(again(given), expected, atol=1e-6, rtol=0)


def test_a_generator_computes_in_full_precision():
    network, given = tiny(), log_mel(noise(1, 4096))
    with torch.autocast("cpu", torch.bfloat16): assert torch.equal(network(given), network(given.clone())) and network(given).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16): low = network(given)
    assert torch.equal(low, network(given))


# any vocoder

def head():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ISTFTHead(ISTFTHeadConfig(MelInversionConfig(width=32, depth=1), depth=2)).eval().requires_grad_(False)


def networks(small): return {"griffin-lim": GriffinLim(), "mel inversion": small, "istft head": head(), "snakebeta": tiny(), "leaky_relu": tiny(activation="leaky_relu", pairs=False)}


@pytest.mark.parametrize("frames", [1, 2, 3, 64, 125])
def test_any_number_of_frames(small, frames):
    for network in networks(small).values():
        made = Vocoder(network)(torch.full((1, 1, 64, frames), -6.0))
        assert made.shape == (1, 1, frames * 512) and made.isfinite().all()


def test_a_clip_is_the_same_in_any_batch(small):
    given = log_mel(noise(5, 16384))
    for network in networks(small).values():
        vocoder = Vocoder(network)
        with exactly_threads(2):  # on which the generators' last bits depend
            together = vocoder(given)
            for i in range(5): assert torch.equal(vocoder(given[i : i + 1]), together[i : i + 1])


@pytest.mark.parametrize("chunk", [1, 50, 128, 299])
def test_pieces_make_the_whole(small, chunk):
    given = log_mel(noise(1, (60 if chunk == 1 else 300) * 512))
    for name, network in networks(small).items():
        if chunk == 1 and name in ("griffin-lim", "mel inversion"): continue  # sixty times the whole
        difference = (Vocoder(network)(given) - Vocoder(network)(given, chunk=chunk)).abs().max()
        assert difference < 1e-5, (name, difference)


def test_the_global_generator_is_left_alone(small):
    before = torch.random.get_rng_state()
    for network in networks(small).values(): Vocoder(network)(torch.full((1, 1, 64, 4), -6.0))
    vary(noise(9, 4096), torch.Generator().manual_seed(1))
    assert torch.equal(before, torch.random.get_rng_state())


def test_silence_and_loudness():
    vocoder = Vocoder()
    assert vocoder(log_mel(torch.zeros(1, 1, 8192))).abs().max() < 1e-2
    given = log_mel(noise(1, 8192))
    quiet, loud = vocoder(given), vocoder(given + 1)
    assert loud.square().mean() / quiet.square().mean() == pytest.approx(2.71828**2, rel=0.1)


@pytest.mark.parametrize("shape", [(1, 64, 8), (1, 1, 80, 8), (1, 2, 64, 8), (1, 1, 64, 0)])
def test_another_shape_is_refused(small, shape):
    for network in networks(small).values():
        with pytest.raises(InputError, match="expected"): Vocoder(network)(torch.zeros(shape))


def test_what_is_not_a_number_is_refused(small):
    given = torch.full((1, 1, 64, 4), -6.0)
    given[0, 0, 3, 1], given[0, 0, 3, 2] = float("nan"), float("inf")
    with pytest.raises(InputError, match="2 values that are not finite numbers, of 256"): Vocoder(small)(given)
    with pytest.raises(InputError, match="chunk=0"): Vocoder(small)(torch.zeros(1, 1, 64, 4), chunk=0)


def test_varied_sounds():
    "A function of the generator; as long as promised; sounds are higher, never lower, and between −20 and +2 dB as loud unless another is mixed in; one in eight is made up."
    tone = 0.1 * torch.sin(2 * torch.pi * 440 * torch.arange(22528) / 16000).repeat(64, 1, 1)
    one, two, three = (vary(tone, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.equal(one, two) and not torch.equal(one, three) and one.shape == (64, 1, int(22528 / SPARE))
    pitch = torch.fft.rfft(one[:, 0]).abs().argmax(1) * 16000 / one.shape[-1]
    assert (pitch > 435).float().mean() > 0.8 and ((460 < pitch) & (pitch < 440 * SPARE)).float().mean() > 0.2  # a few have a made-up tone mixed in
    level = one.std(-1).log10() * 20 - 20 * torch.tensor(0.1 * 0.5**0.5).log10()
    assert level.min() < -15 and -1 < level.max() < 12


def test_tones_are_tones():
    made = tones(16, 32768, 16000, torch.Generator().manual_seed(0))
    assert made.shape == (16, 1, 32768) and made.isfinite().all() and torch.allclose(made.abs().amax(2), torch.tensor(0.3), atol=0.06)
    spectrum = torch.fft.rfft(made[:, 0, :4096] * torch.hann_window(4096)).abs()
    assert (spectrum.sort(1, descending=True)[0][:, :200].square().sum(1) / spectrum.square().sum(1)).min() > 0.8  # most of the energy in a tenth of the bins


def test_magnitude_distance():
    real = noise(2, 8192)
    true = stft_magnitude(real).log()
    assert magnitude_distance(true, real) == 0 and magnitude_distance(true + 0.5, real).item() == pytest.approx(0.5, abs=1e-5)


def test_distances_see_what_they_should():
    real = noise(2, 16384)
    assert mel_distance(real, real) == stft_distance(real, real) == 0
    assert mel_distance(real * 2.71828, real).item() == pytest.approx(1, abs=0.01)  # in nepers
    near, far = real + 0.1 * noise(2, 16384, 1), real + noise(2, 16384, 1)
    assert mel_distance(near, real) < mel_distance(far, real) and stft_distance(near, real) < stft_distance(far, real)
    assert stft_distance(torch.zeros_like(real), real).isfinite()


# folders

def test_another_hop(tmp_path):
    config = MelInversionConfig(mel=MelConfig(hop_length=1024), width=16, depth=1)
    save_vocoder(tmp_path / "v", MelInversion(config), dtype=torch.float16)
    vocoder = Vocoder.load(tmp_path / "v", device="cpu")
    assert vocoder.mel == config.mel and vocoder.network.config == config
    assert vocoder(torch.full((1, 1, 64, 4), -6.0)).shape == (1, 1, 4096)
    with pytest.raises(InputError, match="hop_length=1024; asked was hop_length=512"): Vocoder(vocoder.network, MelConfig())
    with pytest.raises(InputError, match="sample_rate=16000; given is sample_rate=22050"): vocoder.fits(MelConfig(sample_rate=22050, hop_length=1024))
    vocoder.fits(dataclasses.replace(config.mel, low=-9.0))  # how a mel is scaled for the denoiser is not the vocoder's business


def test_even_kernel_is_refused():
    with pytest.raises(InputError, match="kernel=4"): MelInversionConfig(kernel=4)


@pytest.mark.parametrize("network", ["mel inversion", "istft head", "snakebeta"])
def test_what_is_not_a_vocoder(tmp_path, small, network):
    with pytest.raises(InputError, match="no vocoder 'bigvgun'"): Vocoder.load("bigvgun")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError): Vocoder.load(tmp_path / "empty")
    save_checkpoint(tmp_path / "other", {"kind": "denoiser"}, {"denoiser": {"w": torch.zeros(1)}})
    with pytest.raises(CheckpointError, match="holds a denoiser, not a vocoder"): Vocoder.load(tmp_path / "other")
    save_vocoder(tmp_path / "torn", networks(small)[network])
    assert Vocoder.load(tmp_path / "torn", "cpu").hash == Vocoder(networks(small)[network]).hash
    settings = json.loads((tmp_path / "torn" / "config.json").read_text())
    for key, value in ("width", 48), ("channels", 32), ("vocoder", 1), ("mel", None), ("width", -1), ("channels", -16):
        (tmp_path / "torn" / "config.json").write_text(json.dumps(settings | {"model": settings["model"] | {key: value}}))
        with pytest.raises(CheckpointError): Vocoder.load(tmp_path / "torn")
