"""The network against the original's answers, its size, and what it does with odd inputs."""
import copy
import json
import math
from dataclasses import asdict, replace

import pytest
import torch
from golden import close, fill, golden, network, same_as_theirs, wave

from clipsonic.core import InputError
from clipsonic.threads import exactly_threads
from clipsonic.unet import Attention, ConcatCondition, Conv1x1, UNet, UNetConfig, timestep_embedding
from conftest import naming

small = UNetConfig(model_channels=16, channel_mult=(1, 2), num_res_blocks=1, attention_resolutions=(16,), num_heads=2,
                   condition_dim=6, patch_size=2, norm_num_groups=4)

def test_the_original_output():
    with torch.no_grad(): close(same_as_theirs()(wave(2, 1, 32, 32), torch.tensor([0.25, 731.5])), golden()['unet'])

@pytest.mark.parametrize('blocks, millions', [(3, 121_057_026), (2, 92_022_274)])
def test_the_papers_size(blocks, millions):
    with torch.device('meta'): net = UNet(UNetConfig(num_res_blocks=blocks))
    condition = net.null.numel() + sum(p.numel() for p in net.project.parameters())
    assert condition == 768 + 768 * 512 + 512
    assert sum(p.numel() for p in net.parameters()) - condition == millions

@pytest.mark.parametrize('height, width', [(8, 4), (7, 5), (8, 1), (1, 1), (12, 33)])
@pytest.mark.parametrize('conditioning', ['add', 'concat'])
def test_any_size(height, width, conditioning):
    net = network(UNetConfig(**{**asdict(small), 'conditioning': conditioning}))
    x = wave(2, 1, height, width)
    y = net(x, torch.tensor([1., 500.]), wave(2, 6))
    assert y.shape == (2, 2, height, width) and y.isfinite().all()
    padded = torch.nn.functional.pad(x, (0, -width % 4, 0, -height % 4), mode='replicate')
    close(net(padded, torch.tensor([1., 500.]), wave(2, 6))[..., :height, :width], y)

def test_a_condition_of_one_for_all_items_or_none():
    net, x, t = network(small), wave(3, 1, 8, 8), torch.tensor([5., 5., 5.])
    null = net(x, t)
    close(null, net(x, t, net.null.expand(3, -1)))
    mixed = net(x, t, wave(3, 6), torch.tensor([True, False, True]))
    conditioned = net(x, t, wave(3, 6))
    close(mixed[[0, 2]], conditioned[[0, 2]])
    close(mixed[1], null[1])
    assert (conditioned - null).abs().amax((1, 2, 3)).min() > 1e-4

@pytest.mark.parametrize('conditioning, numbers', [('add', 4 * 16), ('concat', 16 + 32 + 2 * 32 + 2 * 32 + 2 * 16)])
def test_a_condition_is_embedded_once(conditioning, numbers):
    net = network(UNetConfig(**{**asdict(small), 'conditioning': conditioning}))
    x, t, c = wave(3, 1, 8, 12), torch.tensor([1., 300., 999.]), wave(3, 6)
    rows = net.embed_condition(c)
    assert rows.shape == (3, numbers)
    assert torch.equal(net.denoise(x, t, rows), net(x, t, c))
    close(net.denoise(x, t, net.embed_condition(net.null[None]).expand(3, -1)), net(x, t))
    order = torch.tensor([2, 0, 1])
    close(net.denoise(x, t, rows[order])[order.argsort()], net.denoise(x[order.argsort()], t[order.argsort()], rows))

@pytest.mark.parametrize('conditioning, parts', [('add', ['project']), ('concat', ['concat.condition'])])
def test_all_of_the_condition_is_in_the_row(conditioning, parts):
    net = network(UNetConfig(**{**asdict(small), 'conditioning': conditioning}))
    net.denoise(wave(1, 1, 8, 8), torch.ones(1), net.embed_condition(wave(1, 6)).detach()).sum().backward()
    without = [n for n, p in net.named_parameters() if p.grad is None]
    assert without == [n for n, _ in net.named_parameters() if n == 'null' or any(part in n for part in parts)]

def test_null_learns_only_from_dropped_items():
    net = network(small)
    net(wave(2, 1, 8, 8), torch.ones(2), wave(2, 6), torch.tensor([True, True])).sum().backward()
    assert not net.null.grad.any()
    net(wave(2, 1, 8, 8), torch.ones(2), wave(2, 6), torch.tensor([True, False])).sum().backward()
    assert net.null.grad.any()

@pytest.mark.parametrize('conditioning', ['add', 'concat'])
def test_the_guidance_scale_is_an_input(conditioning):
    config = UNetConfig(**{**asdict(small), 'conditioning': conditioning})
    plain, net = network(config), UNet(replace(config, guidance_embeds=True))
    x, t, c, w = wave(2, 1, 8, 12), torch.tensor([1., 300.]), wave(2, 6), torch.tensor([1., 2.5])
    assert not net.guidance.weight.any()
    net.load_state_dict(plain.state_dict() | {'guidance.weight': net.guidance.weight})
    assert torch.equal(net(x, t, c, guidance_scale=w), plain(x, t, c)), 'the map of w starts at zero'
    net(x, t, c, guidance_scale=w).sum().backward()
    assert net.guidance.weight.grad.any(), 'and can be trained'
    with torch.no_grad(): net.guidance.weight.add_(wave(*net.guidance.weight.shape))
    guided = net(x, t, c, guidance_scale=w)
    assert torch.equal(guided, net.denoise(x, t, net.embed_condition(c, w)))
    close(guided[:1], net(x[:1], t[:1], c[:1]))   # without a scale it is 1
    assert (guided[1:] - net(x, t, c)[1:]).abs().max() > 1e-4
    with pytest.raises(InputError, match=naming('guidance_scale', 2.5)): plain(x, t, c, guidance_scale=w)

def test_settings_are_those_of_older_checkpoints():
    assert 'guidance_embeds' not in small.settings() and UNetConfig(**small.settings()) == small
    few = replace(small, guidance_embeds=True)
    assert UNetConfig(**json.loads(json.dumps(few.settings()))) == few

@pytest.mark.parametrize('conditioning', ['add', 'concat'])
def test_items_do_not_mix(conditioning):
    net = network(UNetConfig(**{**asdict(small), 'conditioning': conditioning}))
    x, t, c = wave(3, 1, 8, 12), torch.tensor([1., 300., 999.]), wave(3, 6)
    close(net(x, t, c)[1:2], net(x[1:2], t[1:2], c[1:2]))

@pytest.mark.parametrize('conditioning', ['add', 'concat'])
def test_gradient_checkpointing_changes_nothing(conditioning):
    net = network(UNetConfig(**{**asdict(small), 'conditioning': conditioning})).train()
    again = copy.deepcopy(net)
    again.gradient_checkpointing = True
    for n in (net, again): n(wave(2, 1, 8, 8), torch.ones(2), wave(2, 6)).square().mean().backward()
    for (name, a), b in zip(net.named_parameters(), again.parameters()):
        torch.testing.assert_close(a.grad, b.grad, msg=name)

def test_autocast_stays_near():
    net, inputs = network(small), (wave(2, 1, 16, 16), torch.tensor([10., 900.]), wave(2, 6))
    with torch.no_grad():
        full = net(*inputs)
        with torch.autocast('cpu', torch.bfloat16): half = net(*inputs)
    assert (half - full).abs().mean() < 0.05 * full.abs().mean()

def test_concatenation_is_what_it_says():
    concat, h, c = ConcatCondition(4, 3), wave(2, 4, 5, 6), wave(2, 3, k=1)
    with torch.no_grad(): concat.features.weight.copy_(wave(4, 4, 1, 1, k=2))
    kernel = torch.cat([concat.features.weight, concat.condition.weight[:, :, None, None]], dim=1)
    both = torch.cat([h, c[:, :, None, None].expand(-1, -1, 5, 6)], dim=1)
    literal = torch.nn.functional.conv2d(both, kernel, concat.features.bias)
    close(concat(h, concat.condition(c)), literal)

def test_a_1x1_convolution():
    layer = Conv1x1(24, 10)
    fill(layer.named_parameters())
    for memory in (torch.contiguous_format, torch.channels_last):
        x = wave(2, 24, 5, 7).to(memory_format=memory).requires_grad_()
        exact = [v.detach().double().requires_grad_() for v in (x, *layer.parameters())]
        ours, theirs = layer(x), torch.nn.functional.conv2d(*exact)
        near(ours, theirs)
        weights = wave(*theirs.shape, k=3)
        gradients = torch.autograd.grad((ours * weights).sum(), [x, *layer.parameters()])
        for mine, right in zip(gradients, torch.autograd.grad((theirs * weights).sum(), exact)): near(mine, right)
    assert layer.double()(x.double()).dtype == torch.float64 and set(layer.state_dict()) == {'weight', 'bias'}
    with torch.autocast('cpu', torch.bfloat16): assert layer.float()(x).dtype == torch.bfloat16

@pytest.mark.parametrize('batch, height, width', [(1, 8, 9), (2, 4, 4), (2, 4, 8), (8, 4, 5)])
def test_a_1x1_convolution_on_any_number_of_threads(batch, height, width):
    layer = Conv1x1(256, 128)
    fill(layer.named_parameters())
    x, made = wave(batch, 256, height, width).contiguous(memory_format=torch.channels_last), []
    for threads in 1, 2, 3, 4:
        with exactly_threads(threads), torch.no_grad(): made.append(layer(x))
    assert all(torch.equal(each, made[0]) for each in made)

def near(a, b, tolerance=5e-5): assert (a - b).abs().max() < tolerance * b.abs().max()

def test_compiled_training():
    torch._dynamo.reset()
    net, inputs = network(small), (wave(2, 1, 64, 132), torch.tensor([10., 900.]), wave(2, 6))
    def gradients(network):
        net.zero_grad()
        network(*inputs).square().mean().backward()
        return [p.grad.clone() for p in net.parameters() if p.grad is not None]
    compiled = torch.compile(net, backend='aot_eager', fullgraph=True)
    for a, b in zip(gradients(compiled), gradients(net), strict=True): near(a, b, 1e-4)

def test_attention_has_no_order():
    attention, x = Attention(8, 2, 4), wave(1, 8, 2, 3)
    fill(attention.named_parameters())
    close(attention(x).flatten(2).flip(2), attention(x.flatten(2).flip(2).view_as(x)).flatten(2))

def test_time_embedding():
    e = timestep_embedding(torch.tensor([0., 3.]), 8)
    close(e[0], torch.tensor([1.] * 4 + [0.] * 4))
    close(e[1, [0, 4]], torch.tensor([math.cos(3), math.sin(3)]))

def test_config_survives_json():
    assert UNetConfig(**json.loads(json.dumps(asdict(small)))) == small

@pytest.mark.parametrize('wrong', [
    dict(conditioning='film'), dict(patch_size=0), dict(model_channels=10, num_heads=4), dict(num_res_blocks=0),
    dict(channel_mult=()), dict(attention_resolutions=(16, 7))])
def test_wrong_configurations(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))): UNetConfig(**wrong)

@pytest.mark.parametrize('condition', [torch.zeros(2, 5), torch.zeros(1, 6), torch.zeros(6)])
def test_wrong_condition(condition):
    with pytest.raises(InputError, match='condition'): network(small)(wave(2, 1, 8, 8), torch.ones(2), condition)
