"""Golden figures of harritaylor/torchvggish, at weights and sounds that a formula gives, so that only answers are
stored.

`python tests/golden_vggish.py TORCHVGGISH`, with a folder that holds that repository, runs it and rewrites the fixture;
it says too how far all of Google's test tones are from ours. Nothing of it is needed to run the tests."""
import json
import sys
import types
import zlib
from pathlib import Path

import numpy as np
import torch

from clipsonic.core import atomic_file

FIXTURE = Path(__file__).parent / 'fixtures' / 'vggish.npz'
PERIOD = 65521   # a prime, so that no two rows of a matrix are alike
STORED = slice(3, None, 16)   # frames of an example that are kept, out of 96

def wave(n, k=0):
    "Numbers in (−1, 1) that look random and are the same everywhere."
    i = np.arange(min(n, PERIOD), dtype=np.int64)
    return np.resize((i * i * 7919 + i * 104729 + k * 15485863) % PERIOD / 32760.5 - 1, n)

def weight(name, shape):
    """The value of a published parameter, from its name; He's initialisation, and a last layer that gives embeddings as
    large as the published ones."""
    value = wave(int(np.prod(shape)), zlib.crc32(name.encode()) % 9973).astype(np.float32)
    value = torch.from_numpy(value).view(*shape)
    if name == 'pca_eigen_vectors': return 0.2 * value
    if name == 'pca_means' or name.endswith('bias'): return 0.1 * value
    return value * (6 / value[0].numel()) ** 0.5 * (0.1 if name == 'embeddings.4.weight' else 1)

def google_tone(frequency, noise, seed=0, seconds=6):
    "A full-scale tone in 16 bits, as Google's FAD tool tests itself with; what is beyond 16 bits wraps around."
    time = np.linspace(0, seconds, seconds * 16000)
    tone = np.sin(2 * np.pi * time * frequency)
    tone += np.random.RandomState(seed).normal(0, 1, len(tone)) * noise * np.abs(tone).max()
    return (np.trunc(tone * 2**15) + 2**15) % 2**16 / 2**15 - 1

GOOGLE = {f'{name} {frequency:.0f} Hz': (frequency, noise) for name, count, noise in (('background', 10, 0),
    ('test 1', 5, 1e-4), ('test 2', 5, 1e-5))
          for frequency in np.linspace(100, 1000, count)}

def sounds():
    "Name → waveform, float64."
    found = {name: google_tone(*GOOGLE[name]) for name in ('background 400 Hz', 'test 1 550 Hz', 'test 2 1000 Hz')}
    found['smoke test'] = np.sin(2 * np.pi * 1000 * np.arange(48000) / 16000)
    found['noise'] = 0.3 * wave(40000, 1) * np.linspace(1, 0, 40000) ** 2
    found['shortest'] = 0.1 * wave(15600, 2)
    return found

@torch.no_grad()
def main(folder):
    sys.modules.setdefault('resampy', types.ModuleType('resampy'))   # it resamples nothing here
    sys.path.insert(0, str(folder))
    from torchvggish import vggish, vggish_input
    network = vggish.VGGish(urls={}, device='cpu', pretrained=False, preprocess=True, postprocess=False).eval()
    whitening = vggish.Postprocessor()
    for key, value in (*network.state_dict().items(), *whitening.state_dict().items()):
        value.copy_(weight(key, value.shape))
    shapes = lambda module: {k: list(v.shape) for k, v in module.state_dict().items()}
    layout = shapes(network), shapes(whitening)
    def answers(sound, activation):
        last = network.embeddings[-1]
        network.embeddings[-1] = last if activation else torch.nn.Identity()
        embedding = network(sound, 16000)
        network.embeddings[-1] = last
        return embedding
    found = {}
    for name, sound in sounds().items():
        examples, embedding = vggish_input.waveform_to_examples(sound, 16000)[:, 0], answers(sound, False)
        found |= {f'{name} examples': examples[:, STORED].detach().numpy(), f'{name} embeddings': embedding.numpy(),
                  f'{name} activation': answers(sound, True).numpy(),
                  f'{name} pca': whitening(embedding).view(-1, 128).numpy().astype(np.uint8)}
        print(name, tuple(examples.shape), 'embeddings', embedding.std().item(), 'whitened',
              found[f'{name} pca'].mean(), found[f'{name} pca'].std())
    how = (f'Made by tests/golden_vggish.py from harritaylor/torchvggish with torch {torch.__version__}; '
           'weights and sounds are formulas of that file.')
    with atomic_file(FIXTURE) as partial, open(partial, 'wb') as file:
        np.savez_compressed(file, how=how, layout=json.dumps(layout), **found)
    print(FIXTURE, FIXTURE.stat().st_size, 'bytes')
    compare(network, vggish_input)

def compare(network, vggish_input):
    "Print the largest difference from ours over all of Google's test tones, as one batch."
    from clipsonic.vggish import VGGISH_NAMES, VGGish, embed_vggish, vggish_examples
    ours = VGGish(activation=True).eval()
    ours.load_state_dict({VGGISH_NAMES[k]: v for k, v in network.state_dict().items()})
    batch = np.stack([google_tone(*settings) for settings in GOOGLE.values()])
    examples = torch.stack([vggish_input.waveform_to_examples(tone, 16000)[:, 0] for tone in batch])
    embeddings = torch.stack([network(tone, 16000) for tone in batch])
    for what, theirs, mine in (('examples', examples, vggish_examples(torch.from_numpy(batch)[:, None], 16000)),
                               ('embeddings', embeddings, embed_vggish(ours, torch.from_numpy(batch)[:, None], 16000))):
        print(f'{what} of {len(batch)} tones {tuple(mine.shape)}: off by at most {(theirs - mine).abs().max():.1e}, '
              f'of {theirs.abs().max():.1f}')

if __name__ == '__main__': main(*sys.argv[1:])
