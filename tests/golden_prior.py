"""Golden figures of dalle2-pytorch 1.1.0's prior, at weights and inputs that a formula gives, so that only answers are
stored.

`python tests/golden_prior.py FOLDER`, with a folder into which `pip install --target FOLDER --no-deps
dalle2-pytorch==1.1.0` and what else it asks for went, runs it and rewrites the fixture. With `--later`, the same with
release 1.15.6, whose outputs and gradients go to a fixture of their own. With `--full`, a trainer of that release saves
random weights at the published sizes, which are converted and compared. Nothing of it is needed to run the tests."""
import importlib
import json
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np
import torch
from golden_vocoder import wave

from clipsonic.core import atomic_file

FIXTURE = Path(__file__).parent / 'fixtures' / 'prior.npz'
LATER = Path(__file__).parent / 'fixtures' / 'prior_later.npz'
SMALL = dict(dim=32, depth=2, heads=2, dim_head=16, ff_mult=4)
TOKENS = 9
PUBLISHED = dict(dim=768, depth=12, heads=12, dim_head=64, ff_mult=4)

def weight(name, shape):
    "The value of a published parameter, from its name."
    value = wave(*shape, k=zlib.crc32(name.encode()) % 9973)
    if name.endswith('.g'): return 1 + 0.1 * value
    if 'relative_attention_bias' in name: return 0.01 * value
    return value * 1.7 * shape[-1] ** -0.5 if len(shape) == 2 else value

def given(dim, tokens):
    """Image embeddings, steps, text embeddings and encodings of three items; the second text fills the context, the
    others are shorter."""
    encodings = wave(3, tokens, dim, k=4)
    encodings[0, 5:], encodings[2, 2:] = 0, 0
    unit = lambda k: torch.nn.functional.normalize(wave(3, dim, k=k), dim=-1)
    return unit(1) * dim**0.5 + 0.3 * wave(3, dim, k=2), torch.tensor([3, 500, 999]), unit(3), encodings

def old_release(folder, expected='1.1.0'):
    "The package of that release, and no other."
    sys.path.insert(0, str(folder))
    version = importlib.import_module('dalle2_pytorch.version').__version__
    assert version == expected, version
    return importlib.import_module('dalle2_pytorch')

@torch.no_grad()
def main(folder):
    network = old_release(folder).DiffusionPriorNetwork(num_timesteps=1000, max_text_len=TOKENS, normformer=True,
                                                        rotary_emb=True, **SMALL).eval()
    state = network.state_dict()
    for name, value in state.items():
        if not name.endswith('freqs'): value.copy_(weight(name, value.shape))
    image, t, text, encodings = given(SMALL['dim'], TOKENS)
    guess = network(image, t, text_embed=text, text_encodings=encodings)
    print('spread', guess.std().item())
    with atomic_file(FIXTURE) as partial, partial.open('wb') as file:
        np.savez_compressed(file, guess=guess.numpy(),
                            layout=json.dumps({f'net.{k}': list(v.shape) for k, v in state.items()}),
                            freqs=state['causal_transformer.layers.0.0.rotary_emb.freqs'].numpy())

def later(folder):
    network = old_release(folder, '1.15.6').DiffusionPriorNetwork(num_timesteps=1000, max_text_len=TOKENS,
                                                                  normformer=True, rotary_emb=True, **SMALL)
    with torch.no_grad():
        for name, p in network.named_parameters():
            if p.requires_grad: p.copy_(weight(name, p.shape))
    image, t, text, encodings = given(SMALL['dim'], TOKENS)
    guess = network(image, t, text_embed=text, text_encodings=encodings)
    guess.square().mean().backward()
    gradients = {name: p.grad.norm().item() for name, p in network.named_parameters()
                 if p.grad is not None and p.grad.any()}
    print('spread', guess.std().item(), len(gradients), 'gradients')
    with atomic_file(LATER) as partial, partial.open('wb') as file:
        np.savez_compressed(file, guess=guess.detach().numpy(), gradients=json.dumps(gradients))

@torch.no_grad()
def full(folder):
    """The file of a real trainer of that release, at the published sizes, to our checkpoint: the difference of the
    outputs."""
    old = old_release(folder)
    trainer = importlib.import_module('dalle2_pytorch.trainer').DiffusionPriorTrainer
    torch.manual_seed(0)
    network = old.DiffusionPriorNetwork(num_timesteps=1000, max_text_len=77, normformer=True, rotary_emb=True,
                                        **PUBLISHED)
    prior = old.DiffusionPrior(network, image_embed_dim=768, timesteps=1000, cond_drop_prob=0.1)
    trained = trainer(prior, importlib.import_module('accelerate').Accelerator(cpu=True), lr=1e-4)
    image, t, text, encodings = given(768, 77)
    want = trained.ema_diffusion_prior.ema_model.net.eval()(image, t, text_embed=text, text_encodings=encodings)
    with tempfile.TemporaryDirectory() as home:
        trained.save(Path(home) / 'prior.pth')
        from clipsonic.prior import convert_prior, cached_text_model, load_prior
        ours = load_prior(convert_prior(Path(home) / 'prior.pth', Path(home) / 'ours'), 'cpu').network
    got = ours(image, t, text_embed=text, text_encodings=encodings)
    quick = []
    for i in range(3):
        model = cached_text_model(ours, text[i:i + 1], encodings[i:i + 1])
        quick.append(model(image[i][None, None], t[i:i + 1].float())[0])
    quick = torch.cat(quick)
    print(f'spread {want.std():.3f}, largest difference {(got - want).abs().max():.1e}, '
          f'read in two parts {(quick - want).abs().max():.1e}')

if __name__ == '__main__':
    (full if '--full' in sys.argv else later if '--later' in sys.argv else main)(Path(sys.argv[1]))
