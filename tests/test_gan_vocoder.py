"Generators and discriminators: against the original code's numbers, in any setting, and in training."
import dataclasses
import json

import numpy as np
import pytest
import torch
from golden_vocoder import FIXTURE, sound, wave, weight
from vocoders import noise, small_generator

from clipsonic.core import InputError
from clipsonic.gan_vocoder import Discriminators, GeneratorConfig, Snake, add_weight_norm, discriminator_loss
from clipsonic.gan_vocoder import feature_matching, fused_state_dict, generator_loss, kaiser_sinc_filter, mel_l1
from clipsonic.gan_vocoder import multi_period, multi_resolution, multi_resolution_stft_loss, multi_scale
from clipsonic.mel import log_mel


@pytest.fixture(scope="module")
def golden():
    with np.load(FIXTURE) as file: return {k: torch.from_numpy(v) for k, v in file.items() if v.dtype.kind == "f"}


# the original code's numbers

@pytest.mark.parametrize("name, make", [("mpd", multi_period), ("mrd", multi_resolution), ("msd", multi_scale)])
def test_discriminators_give_the_same_scores(golden, name, make):
    discriminators = make(1.0 if name == "msd" else 0.125).eval().requires_grad_(False)
    first = 1 if name == "msd" else 0  # the fixture leaves out the one with spectral normalization
    discriminators = discriminators[first:]
    for number, discriminator in enumerate(discriminators, start=first):
        for key, value in discriminator.state_dict().items():
            key = key.replace("parametrizations.weight.original0", "weight_g")
            key = key.replace("parametrizations.weight.original1", "weight_v")
            value.copy_(weight(f"discriminators.{number}.{key}", value.shape))
    real, made = (Discriminators(discriminators)(sound(k)) for k in (1, 2))
    scores = torch.cat([s.flatten() for s, _ in real + made])[::16]
    torch.testing.assert_close(scores, golden[f"{name} scores"], atol=1e-5, rtol=1e-5)
    losses = discriminator_loss(real, made), generator_loss(made), 2 * feature_matching(real, made)
    torch.testing.assert_close(torch.stack(losses), golden[f"{name} losses"], atol=1e-5, rtol=1e-5)


def test_the_filter_is_theirs(golden):
    torch.testing.assert_close(kaiser_sinc_filter(), golden["filter"].flatten(), atol=1e-6, rtol=0)


# configuration

WRONG = [(dict(upsample_rates=(8, 8, 4, 4)), "hop_length=512"), (dict(upsample_kernels=(16, 16, 8)), "one for each"),
         (dict(upsample_kernels=(16, 16, 8, 3)), "even number"), (dict(resblock_kernels=(3, 7)), "list of dilations"),
         (dict(resblock_kernels=(3, 7, 10)), "odd kernels"), (dict(channels=100), "multiple of 16"),
         (dict(channels=0), "at least 1"), (dict(activation="relu"), "'snakebeta'")]


@pytest.mark.parametrize("wrong, match", WRONG)
def test_impossible_settings(wrong, match):
    with pytest.raises(InputError, match=match): GeneratorConfig(**wrong)


def test_settings_survive_json():
    config = GeneratorConfig(channels=64, activation="snake")
    assert GeneratorConfig(**json.loads(json.dumps(dataclasses.asdict(config)))) == config


# snake

@pytest.mark.parametrize("beta", [True, False])
@pytest.mark.parametrize("logscale", [True, False])
def test_snake_learns(beta, logscale):
    "Gradients of the polyphase form, against finite differences."
    snake = Snake(3, beta, logscale).double()
    for k, p in enumerate(snake.parameters()): p.data += 0.5 * wave(3, k=k).double()
    x = wave(1, 3, 1, 9).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x, *_: snake(x), (x, *snake.parameters()), atol=1e-6)


@pytest.mark.parametrize("level", [0.0, -6.0, 4.0])
def test_snake_is_exact(level):
    "Also for small β and large 1/β: against the formula in double precision, on a slow signal that passes the filters."
    snake = Snake(1).requires_grad_(False)
    x = torch.sin(torch.arange(4000, dtype=torch.float64) / 300)[None, None, None]
    alpha, beta = torch.tensor(min(level, 0.0)), torch.tensor(level)
    snake.alpha.fill_(alpha), snake.beta.fill_(beta)
    exact = x + torch.sin(alpha.double().exp() * x) ** 2 / beta.double().exp()
    assert (snake.double()(x) - exact)[..., 20:-20].abs().max() < 1e-4
    single = snake.float()(x.float())
    assert (single.double() - Snake.forward(snake.double(), x)).abs().max() < 2e-6 * exact.abs().max()


def test_snake_follows_its_parameters():
    "The cached taps are those of the parameters as they are now."
    snake, x = Snake(2).requires_grad_(False), wave(1, 2, 1, 40)
    before = snake(x)
    snake.alpha.fill_(1.0)
    fresh = Snake(2).requires_grad_(False)
    fresh.load_state_dict(snake.state_dict())
    assert torch.equal(snake(x), fresh(x)) and not torch.equal(snake(x), before)


def test_snake_at_zero_is_finite():
    snake = Snake(2, alpha_logscale=False).requires_grad_(False)
    snake.alpha.zero_()
    x = wave(1, 2, 1, 40)
    made = snake(x)
    assert made.isfinite().all() and (made - x)[..., 8:-8].abs().max() < 1  # no period: nearly the identity


# training

def test_weight_norm_is_fused():
    network, trained, given = small_generator(), add_weight_norm(small_generator()), log_mel(noise(1, 4096))
    plain, expected = fused_state_dict(trained), network(given)
    assert plain.keys() == network.state_dict().keys()
    assert "conv_pre.parametrizations.weight.original0" in trained.state_dict()
    network.load_state_dict(plain)
    for again in network, trained: torch.testing.assert_close(again(given), expected, atol=1e-6, rtol=0)


def test_a_generator_computes_in_full_precision():
    network, given = small_generator(), log_mel(noise(1, 4096))
    with torch.autocast("cpu", torch.bfloat16): low = network(given)
    assert low.dtype == torch.float32 and torch.equal(low, network(given))


@pytest.mark.parametrize("tanh", [True, False])
def test_the_waveform_stays_within_full_scale(tanh):
    network = small_generator(use_tanh_at_final=tanh, use_bias_at_final=False)
    assert network.conv_post.bias is None
    network.conv_post.weight.mul_(100)
    made = network(log_mel(noise(1, 4096)))
    assert made.abs().max() <= 1
    if not tanh: assert (made.abs() == 1).any()


def test_losses_grow_with_the_distance():
    real = noise(2, 16384)
    assert mel_l1(real, real) == multi_resolution_stft_loss(real, real) == 0
    assert mel_l1(real * 2.71828, real).item() == pytest.approx(1, abs=0.01)  # nepers
    near, far = real + 0.1 * noise(2, 16384, 1), real + noise(2, 16384, 1)
    for loss in mel_l1, multi_resolution_stft_loss: assert loss(near, real) < loss(far, real)
    assert multi_resolution_stft_loss(torch.zeros_like(real), real).isfinite()
