"""Golden figures of qiuqiangkong/audioset_tagging_cnn and haoheliu/audioldm_eval, at weights and sounds that a formula
gives, so that only answers are stored.

`python tests/golden_panns.py AUDIOSET_TAGGING_CNN AUDIOLDM_EVAL`, with two folders that hold those repositories, and
with torchlibrosa installed, runs them and rewrites the fixture. Nothing of them is needed to run the tests."""
import importlib.util
import json
import sys
import zlib
from pathlib import Path

import numpy as np
import torch

from clipsonic.core import atomic_file
from clipsonic.published import CNN14_NAMES, Cnn14, front_end
from golden_vggish import wave

FIXTURE = Path(__file__).parent / 'fixtures' / 'panns.npz'
STORED = slice(2, None, 12)   # frames that are kept
FOURIER = (slice(1, None, 37), 0, slice(3, None, 41))   # of the stored kernels
SETTINGS = {16000: dict(sample_rate=16000, window_size=512, hop_size=160, mel_bins=64, fmin=50, fmax=8000,
                        classes_num=527),
            32000: dict(sample_rate=32000, window_size=1024, hop_size=320, mel_bins=64, fmin=50, fmax=14000,
                        classes_num=527)}

def weight(name, shape):
    """The value of a trained parameter, from its name: He's initialisation, normalisations that do a little, and
    answers as far apart as published ones."""
    if name.endswith('num_batches_tracked'): return torch.tensor(7)
    value = wave(int(np.prod(shape)), zlib.crc32(name.encode()) % 9973).astype(np.float32)
    value = torch.from_numpy(value).view(*shape)
    # decibels
    if name.startswith('bn0.running'): return -40 + 10 * value if name.endswith('mean') else 400 + 100 * value
    if name.endswith(('running_var', 'bn0.weight', 'bn1.weight', 'bn2.weight')): return 1 + 0.3 * value
    if value.ndim == 1: return 0.1 * value
    return value * (6 / value[0].numel()) ** 0.5 * (0.8 if name == 'fc_audioset.weight' else 1)

def published(sample_rate):
    "All tensors of a published file, by its names."
    with torch.device('meta'): layout = Cnn14(sample_rate).state_dict()
    trained = [name for name in layout if name not in CNN14_NAMES.values()]
    ours = {name: weight(name, tuple(layout[name].shape)) for name in trained} | front_end(sample_rate)
    return {theirs: ours.pop(name) for theirs, name in CNN14_NAMES.items()} | ours

def sounds(sample_rate):
    "Name → waveform, float32. Noise everywhere: in a band without energy, only rounding would be compared."
    time = np.arange(int(1.3 * sample_rate)) / sample_rate
    noise = wave(len(time), 3)
    found = {'rise': 0.5 * np.sin(2 * np.pi * (300 * time + 1500 * time**2)) + 0.02 * noise,
             'fall': 0.7 * wave(len(time), 1) * np.exp(-4 * time) + 0.005 * noise,
             'clicks': 0.9 * (time % 0.2 < 0.001) + 0.02 * noise,
             'shortest': 0.1 * wave(31 * sample_rate // 100, 2)}
    return {name: torch.from_numpy(sound.astype(np.float32)) for name, sound in found.items()}

def logits(k):
    "(6, 527), from doubtful to certain."
    scale = torch.tensor([0.5, 1, 2, 4, 8, 16])[:, None]
    return torch.from_numpy(wave(6 * 527, k).astype(np.float32)).view(6, 527) * scale

def module(file, beside=None):
    "A module from its file, without the package around it."
    if beside: sys.path.insert(0, str(beside))
    spec = importlib.util.spec_from_file_location(f'golden_{Path(file).stem}', file)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found

@torch.no_grad()
def main(panns, audioldm):
    models = module(Path(panns, 'pytorch', 'models.py'), Path(panns, 'pytorch'))
    found, layouts = {}, {}
    for rate, settings in SETTINGS.items():
        network = (models.Cnn14_16k if rate == 16000 else models.Cnn14)(**settings).eval()
        state = network.state_dict()
        layouts[rate] = {k: list(v.shape) for k, v in state.items()}
        for key, value in state.items():
            if key not in CNN14_NAMES: value.copy_(weight(key, tuple(value.shape)))
        for part, key in (('real', 'conv_real'), ('imag', 'conv_imag')):
            found[f'{rate} {part}'] = state[f'spectrogram_extractor.stft.{key}.weight'][FOURIER].numpy()
        found[f'{rate} bands'] = state['logmel_extractor.melW'].numpy()
        answers = []
        network.fc_audioset.register_forward_hook(lambda *call: answers.append(call[-1]))
        ours = Cnn14(rate).eval()
        ours.load_state_dict({CNN14_NAMES.get(k, k): v for k, v in state.items()})
        for name, sound in sounds(rate).items():
            mel, output = network.logmel_extractor(network.spectrogram_extractor(sound[None])), network(sound[None])
            found |= {f'{rate} {name} mel': mel[0, 0, STORED].numpy(),
                      f'{rate} {name} embedding': output['embedding'][0].numpy(),
                      f'{rate} {name} logits': answers[-1][0].numpy(),
                      f'{rate} {name} clipwise': output['clipwise_output'][0].numpy()}
            mine = ours(sound[None])
            pairs = {'mel': (mel, ours.log_mel(sound[None])), 'embedding': (output['embedding'], mine.embedding),
                     'logits': (answers[-1], mine.logits),
                     'clipwise': (output['clipwise_output'], mine.clipwise_output)}
            print(rate, name, tuple(mel.shape),
                  *(f'{what}: spread {theirs.std():.3g}, off by {(theirs - own).abs().max():.1e};'
                    for what, (theirs, own) in pairs.items()))
    files = [f'{i}.wav' for i in range(6)]
    sets = [{'logits': logits(k), 'file_path_': files} for k in (1, 2)]
    kl = module(Path(audioldm, 'audioldm_eval', 'metrics', 'kl.py')).calculate_kl(*sets, 'logits')[0]   # the made first
    print(kl)
    how = ('Made by tests/golden_panns.py from qiuqiangkong/audioset_tagging_cnn with torchlibrosa, and '
           f'haoheliu/audioldm_eval, with torch {torch.__version__}; weights and sounds are formulas of that file.')
    with atomic_file(FIXTURE) as partial, open(partial, 'wb') as file:
        np.savez_compressed(file, how=how, layouts=json.dumps(layouts), kl=json.dumps(kl), **found)
    print(FIXTURE, FIXTURE.stat().st_size, 'bytes')

if __name__ == '__main__': main(*sys.argv[1:])
