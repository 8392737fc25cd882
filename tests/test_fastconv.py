"""Winograd's convolution against PyTorch's in double precision, what it keeps, and where it is used."""
import gc

import pytest
import torch
from golden import fill, network, wave

from clipsonic.fastconv import Conv3x3, _filter_cache, conv3x3, filter_transform, onednn_matmul, winograd
from clipsonic.unet import UNetConfig

def near(a, b, tolerance=5e-5): assert (a - b).abs().max() < tolerance * b.abs().max()

@pytest.mark.parametrize('onednn', [True, False])
def test_products(onednn, monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, 'is_available', lambda: onednn)
    a, b = wave(33, 24), wave(24, 10, k=1)
    near(onednn_matmul(a, b), a.double() @ b.double())

@pytest.mark.parametrize('shape', [(1, 1, 1), (2, 4, 4), (3, 5, 7), (1, 33, 3), (5, 8, 8), (2, 64, 50), (1, 3, 600)])
@pytest.mark.parametrize('c_in, c_out', [(1, 3), (8, 5)])
def test_winograd_is_a_convolution(shape, c_in, c_out):
    batch, height, width = shape
    x, weight, bias = wave(batch, c_in, height, width), wave(c_out, c_in, 3, 3, k=1), wave(c_out, k=2)
    right = torch.nn.functional.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    for memory in (torch.contiguous_format, torch.channels_last):
        near(winograd(x.to(memory_format=memory), filter_transform(weight), bias), right)

def convolution(c_in=128, c_out=256):
    layer = Conv3x3(c_in, c_out)
    fill(layer.named_parameters())
    return layer

WHERE = [  # shape, gradients, used
    ((2, 384, 16, 16), False, True), ((2, 384, 8, 8), False, False), ((2, 128, 32, 32), True, False),
    ((2, 128, 32, 32), False, True), ((2, 32, 64, 64), False, False), ((2, 128, 16, 16), False, False),
    ((200, 128, 9, 9), False, False)]

@pytest.mark.parametrize('shape, gradients, used', WHERE)
def test_where_winograd_is_used(shape, gradients, used):
    layer, x = convolution(shape[1], max(256, shape[1])), wave(*shape)
    with torch.set_grad_enabled(gradients):
        assert layer.use_winograd(x) == used
        out = layer(x)
    assert (layer.weight in _filter_cache) == used and out.requires_grad == gradients
    near(out, torch.nn.functional.conv2d(x.double(), layer.weight.double(), layer.bias.double(), padding=1))

def test_other_weights_have_other_filters():
    layer, x = convolution(), wave(2, 128, 32, 32)
    with torch.no_grad():
        first = layer(x)
        cached = _filter_cache[layer.weight]
        assert torch.equal(layer(x), first) and _filter_cache[layer.weight] is cached
        layer.weight.mul_(2)
        near(layer(x) - layer.bias[:, None, None], 2 * (first - layer.bias[:, None, None]))
        layer.load_state_dict(convolution().state_dict())
        assert torch.equal(layer(x), first)
    assert set(layer.state_dict()) == {'weight', 'bias'}

def test_filters_go_with_their_weights():
    layer, before = convolution(), len(_filter_cache)
    with torch.no_grad(): layer(wave(2, 128, 32, 32))
    assert len(_filter_cache) == before + 1
    del layer
    gc.collect()
    assert len(_filter_cache) == before

@pytest.mark.parametrize('height, width', [(8, 12), (5, 7)])
def test_the_operator_is_what_it_tells_the_compiler(height, width):
    torch.library.opcheck(conv3x3, (wave(2, 3, height, width), wave(4, 3, 3, 3, k=1), wave(4, k=2)))

@pytest.mark.parametrize('x', [wave(2, 128, 32, 32).double(), wave(2, 128, 32, 32).bfloat16()])
def test_other_precisions_convolve_as_pytorch(x):
    layer = convolution().to(x.dtype)
    with torch.no_grad():
        assert torch.equal(layer(x), torch.nn.functional.conv2d(x, layer.weight, layer.bias, padding=1))
    assert layer.weight not in _filter_cache

def test_weights_made_for_inference():
    with torch.inference_mode():
        layer, x = convolution(), wave(2, 128, 32, 32)
        near(layer(x), torch.nn.functional.conv2d(x, layer.weight, layer.bias, padding=1))
        assert layer.weight not in _filter_cache

WIDE = dict(model_channels=128, channel_mult=(1, 2), num_res_blocks=1, condition_dim=6)

def test_a_wide_network_answers_as_without_winograd(monkeypatch):
    net = network(UNetConfig(**WIDE, attention_resolutions=()))
    inputs = wave(2, 1, 64, 132), torch.tensor([10., 900.]), wave(2, 6)
    with torch.no_grad():
        ours = net(*inputs)
        assert any(p in _filter_cache for p in net.parameters())
        monkeypatch.setattr(Conv3x3, 'use_winograd', lambda *_: False)
        near(ours, net(*inputs), 1e-4)

@pytest.mark.parametrize('conditioning', ['add', 'concat'])
@pytest.mark.parametrize('mode', [torch.no_grad, torch.inference_mode])
def test_compiled_in_one_piece(conditioning, mode):
    "Every break would cost the compiler its view of the whole, and a wide network its patience"
    torch._dynamo.reset()
    net = network(UNetConfig(**WIDE, attention_resolutions=(32,), conditioning=conditioning)).requires_grad_(False)
    inputs = wave(2, 1, 64, 64), torch.tensor([10., 900.]), net.embed_condition(wave(2, 6))
    with mode():
        out = torch.compile(net.denoise, backend='aot_eager', fullgraph=True)(*inputs)
        assert any(p in _filter_cache for p in net.parameters())
        near(out, net.denoise(*inputs), 1e-4)
