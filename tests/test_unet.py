"""The network against the original's answers, its size, and what it does with odd inputs."""
import copy
import gc
import json
from dataclasses import asdict

import pytest
import torch
from golden import close, fill, golden, network, same_as_theirs, wave

from clipsonic.core import InputError
from clipsonic.unet import KEPT, Attention, Concat, Conv1x1, Conv3x3, Linear, UNet, UNetConfig, conv3x3, conv3x3_backward, kernels, linear, linear_backward, timestep_embedding, winograd

small = UNetConfig(channels=16, mult=(1, 2), blocks=1, attention=(16,), heads=2, condition_dim=6, patch=2, groups=4)

def test_the_original_output():
    with torch.no_grad(): close(same_as_theirs()(wave(2, 1, 32, 32), torch.tensor([0.25, 731.5])), golden()['unet'])

@pytest.mark.parametrize('blocks, millions', [(3, 121_057_026), (2, 92_022_274)])
def test_the_papers_size(blocks, millions):
    with torch.device('meta'): net = UNet(UNetConfig(blocks=blocks))
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
    told = net(x, t, wave(3, 6))
    close(mixed[[0, 2]], told[[0, 2]])
    close(mixed[1], null[1])
    assert (told - null).abs().amax((1, 2, 3)).min() > 1e-4

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
    assert [n for n, p in net.named_parameters() if p.grad is None] == [n for n, _ in net.named_parameters() if n == 'null' or any(part in n for part in parts)]

def test_null_learns_only_from_dropped_items():
    net = network(small)
    net(wave(2, 1, 8, 8), torch.ones(2), wave(2, 6), torch.tensor([True, True])).sum().backward()
    assert not net.null.grad.any()
    net(wave(2, 1, 8, 8), torch.ones(2), wave(2, 6), torch.tensor([True, False])).sum().backward()
    assert net.null.grad.any()

@pytest.mark.parametrize('conditioning', ['add', 'concat'])
def test_items_do_not_mix(conditioning):
    net = network(UNetConfig(**{**asdict(small), 'conditioning': conditioning}))
    x, t, c = wave(3, 1, 8, 12), torch.tensor([1., 300., 999.]), wave(3, 6)
    close(net(x, t, c)[1:2], net(x[1:2], t[1:2], c[1:2]))

@pytest.mark.parametrize('conditioning', ['add', 'concat'])
def test_checkpointing_changes_nothing(conditioning):
    net = network(UNetConfig(**{**asdict(small), 'conditioning': conditioning})).train()
    again = copy.deepcopy(net)
    again.checkpointing = True
    for n in (net, again): n(wave(2, 1, 8, 8), torch.ones(2), wave(2, 6)).square().mean().backward()
    for (name, a), b in zip(net.named_parameters(), again.parameters()): torch.testing.assert_close(a.grad, b.grad, msg=name)

def test_autocast_stays_near():
    net, inputs = network(small), (wave(2, 1, 16, 16), torch.tensor([10., 900.]), wave(2, 6))
    with torch.no_grad():
        full = net(*inputs)
        with torch.autocast('cpu', torch.bfloat16): half = net(*inputs)
    assert (half - full).abs().mean() < 0.05 * full.abs().mean()

def test_concatenation_is_what_it_says():
    concat, h, c = Concat(4, 3), wave(2, 4, 5, 6), wave(2, 3, k=1)
    with torch.no_grad(): concat.features.weight.copy_(wave(4, 4, 1, 1, k=2))
    kernel = torch.cat([concat.features.weight, concat.condition.weight[:, :, None, None]], dim=1)
    literal = torch.nn.functional.conv2d(torch.cat([h, c[:, :, None, None].expand(-1, -1, 5, 6)], dim=1), kernel, concat.features.bias)
    close(concat(h, concat.condition(c)), literal)

@pytest.mark.parametrize('kind, shape', [(Linear, (2, 5, 24)), (Linear, (1, 24)), (Conv1x1, (2, 24, 5, 7))])
@pytest.mark.parametrize('onednn', [True, False])
def test_linear_layers_are_linear(kind, shape, onednn, monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, 'is_available', lambda: onednn)
    layer = kind(24, 10)
    fill(layer.named_parameters())
    literal = {Linear: torch.nn.functional.linear, Conv1x1: torch.nn.functional.conv2d}[kind]
    for memory in [torch.contiguous_format] + [torch.channels_last] * (len(shape) == 4):
        x = wave(*shape).to(memory_format=memory).requires_grad_()
        exact = [v.detach().double().requires_grad_() for v in (x, *layer.parameters())]
        ours, theirs = layer(x), literal(*exact)
        near(ours, theirs)
        weights = wave(*theirs.shape, k=3)
        for mine, right in zip(torch.autograd.grad((ours * weights).sum(), [x, *layer.parameters()]), torch.autograd.grad((theirs * weights).sum(), exact)): near(mine, right)
    assert layer.double()(x.double()).dtype == torch.float64 and set(layer.state_dict()) == {'weight', 'bias'}
    with torch.autocast('cpu', torch.bfloat16): assert layer.float()(x).dtype == torch.bfloat16

def near(a, b, tolerance=5e-5): assert (a - b).abs().max() < tolerance * b.abs().max()

@pytest.mark.parametrize('shape', [(1, 1, 1), (2, 4, 4), (3, 5, 7), (1, 33, 3), (5, 8, 8), (2, 64, 50), (1, 3, 600)])
@pytest.mark.parametrize('c_in, c_out', [(1, 3), (8, 5)])
def test_winograd_is_a_convolution(shape, c_in, c_out):
    batch, height, width = shape
    values = [wave(batch, c_in, height, width), wave(c_out, c_in, 3, 3, k=1), wave(c_out, k=2)]
    ours, theirs = [[v.to(t, copy=True).requires_grad_() for v in values] for t in (torch.float32, torch.float64)]
    a, b = conv3x3(*ours, False), torch.nn.functional.conv2d(*theirs, padding=1)
    near(a, b)
    with torch.no_grad():
        near(winograd(values[0], kernels(values[1])), b - theirs[2][:, None, None])
        near(winograd(values[0].to(memory_format=torch.channels_last), kernels(values[1]), values[2]), b)
    for loss in (a, b): (loss * wave(*b.shape, k=3)).sum().backward()
    for mine, right in zip(ours, theirs): near(mine.grad, right.grad)

def convolution(c_in=128, c_out=256):
    layer = Conv3x3(c_in, c_out)
    fill(layer.named_parameters())
    return layer

@pytest.mark.parametrize('shape, learns, points', [((2, 384, 16, 16), False, True), ((2, 384, 8, 8), False, False), ((2, 384, 16, 16), True, False), ((2, 128, 32, 32), True, True), ((2, 128, 32, 32), False, True), ((2, 32, 64, 64), False, False), ((2, 128, 16, 16), False, False), ((200, 128, 9, 9), False, False)])
def test_where_winograd_pays(shape, learns, points):
    layer, x = convolution(shape[1], max(256, shape[1])), wave(*shape)
    assert layer.pays(x, learns) == points
    with torch.set_grad_enabled(learns): out = layer(x)
    assert (layer.weight in KEPT) == (points and not learns)
    near(out, torch.nn.functional.conv2d(x.double(), layer.weight.double(), layer.bias.double(), padding=1))

def test_other_weights_have_other_points():
    layer, x = convolution(), wave(2, 128, 32, 32)
    with torch.no_grad():
        first = layer(x)
        kept = KEPT[layer.weight]
        assert torch.equal(layer(x), first) and KEPT[layer.weight] is kept
        layer.weight.mul_(2)
        near(layer(x) - layer.bias[:, None, None], 2 * (first - layer.bias[:, None, None]))
        layer.load_state_dict(convolution().state_dict())
        assert torch.equal(layer(x), first)
    assert set(layer.state_dict()) == {'weight', 'bias'}

def test_points_go_with_their_weights():
    layer, before = convolution(), len(KEPT)
    with torch.no_grad(): layer(wave(2, 128, 32, 32))
    assert len(KEPT) == before + 1
    del layer
    gc.collect()
    assert len(KEPT) == before

@pytest.mark.parametrize('height, width', [(8, 12), (5, 7)])
def test_operators_are_what_they_tell_the_compiler(height, width):
    x, weight, bias = wave(2, 3, height, width), wave(4, 3, 3, 3, k=1), wave(4, k=2)
    for keep in (False, True): torch.library.opcheck(conv3x3, (x, weight, bias, keep))
    torch.library.opcheck(conv3x3, [v.requires_grad_() for v in (x, weight, bias)] + [False])
    torch.library.opcheck(conv3x3_backward, (wave(2, 4, height, width, k=3), x.detach(), weight.detach()))
    rows, weight = wave(2, height, width), wave(4, width, k=1)
    torch.library.opcheck(linear, [v.requires_grad_() for v in (rows, weight, bias)])
    torch.library.opcheck(linear_backward, (wave(2, height, 4, k=3), rows.detach(), weight.detach()))

@pytest.mark.parametrize('x', [wave(2, 128, 32, 32).double(), wave(2, 128, 32, 32).bfloat16()])
def test_other_precisions_convolve_as_ever(x):
    layer = convolution().to(x.dtype)
    with torch.no_grad(): assert torch.equal(layer(x), torch.nn.functional.conv2d(x, layer.weight, layer.bias, padding=1)) and layer.weight not in KEPT

def test_weights_made_for_inference():
    with torch.inference_mode():
        layer, x = convolution(), wave(2, 128, 32, 32)
        near(layer(x), torch.nn.functional.conv2d(x, layer.weight, layer.bias, padding=1))
        assert layer.weight not in KEPT

def test_a_wide_network_answers_as_without_winograd(monkeypatch):
    net, inputs = network(UNetConfig(channels=128, mult=(1, 2), blocks=1, attention=(), condition_dim=6)), (wave(2, 1, 64, 132), torch.tensor([10., 900.]), wave(2, 6))
    def answers():
        net.zero_grad()
        with torch.no_grad(): out = net(*inputs)
        net(*inputs).square().mean().backward()
        return [out] + [p.grad.clone() for p in net.parameters() if p.grad is not None]
    ours = answers()
    assert any(p in KEPT for p in net.parameters())
    monkeypatch.setattr(Conv3x3, 'pays', lambda *_: False)
    for a, b in zip(ours, answers(), strict=True): near(a, b, 1e-4)

@pytest.mark.parametrize('conditioning', ['add', 'concat'])
@pytest.mark.parametrize('mode', [torch.no_grad, torch.inference_mode])
def test_compiled_in_one_piece(conditioning, mode):
    "Every break would cost the compiler its view of the whole, and a wide network its patience"
    torch._dynamo.reset()
    net = network(UNetConfig(channels=128, mult=(1, 2), blocks=1, attention=(32,), condition_dim=6, conditioning=conditioning)).requires_grad_(False)
    inputs = wave(2, 1, 64, 64), torch.tensor([10., 900.]), net.embed_condition(wave(2, 6))
    with mode():
        out = torch.compile(net.denoise, backend='aot_eager', fullgraph=True)(*inputs)
        assert any(p in KEPT for p in net.parameters())
        near(out, net.denoise(*inputs), 1e-4)

def test_compiled_training():
    torch._dynamo.reset()
    net, inputs = network(UNetConfig(channels=128, mult=(1, 2), blocks=1, attention=(), condition_dim=6)), (wave(2, 1, 64, 132), torch.tensor([10., 900.]), wave(2, 6))
    def gradients(network):
        net.zero_grad()
        network(*inputs).square().mean().backward()
        return [p.grad.clone() for p in net.parameters() if p.grad is not None]
    for a, b in zip(gradients(torch.compile(net, backend='aot_eager', fullgraph=True)), gradients(net), strict=True): near(a, b, 1e-4)

def test_attention_has_no_order():
    attention, x = Attention(8, 2, 4), wave(1, 8, 2, 3)
    fill(attention.named_parameters())
    close(attention(x).flatten(2).flip(2), attention(x.flatten(2).flip(2).view_as(x)).flatten(2))

def test_time_embedding():
    e = timestep_embedding(torch.tensor([0., 3.]), 8)
    close(e[0], torch.tensor([1.] * 4 + [0.] * 4))
    close(e[1, [0, 4]], torch.tensor([3.]).cos().repeat(2) * torch.tensor([1., 0]) + torch.tensor([3.]).sin() * torch.tensor([0., 1]))

def test_config_survives_json():
    assert UNetConfig(**json.loads(json.dumps(asdict(small)))) == small

@pytest.mark.parametrize('wrong', [dict(conditioning='film'), dict(patch=0), dict(channels=10, heads=4), dict(blocks=0), dict(mult=()), dict(attention=(16, 7))])
def test_wrong_configurations(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))): UNetConfig(**wrong)

@pytest.mark.parametrize('condition', [torch.zeros(2, 5), torch.zeros(1, 6), torch.zeros(6)])
def test_wrong_condition(condition):
    with pytest.raises(InputError, match='condition'): network(small)(wave(2, 1, 8, 8), torch.ones(2), condition)
