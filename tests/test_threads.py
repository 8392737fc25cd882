"The same bits on any number of threads, and as many threads as there are free cores."
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from clipsonic.clap import load_clap
from clipsonic.core import Audio, InputError, clip_generators
from clipsonic.evaluate import evaluate
from clipsonic.pipeline import Pipeline
from clipsonic.threads import exactly_threads, limit_threads, running_elsewhere, steady_threads, whole_vectors
from conftest import naming

THREADS = (1, 2, 3)

@pytest.fixture(scope='module')
def pocket(): return Pipeline.load('pocket', 'cpu')

def same(compute):
    "Asserts that `compute` gives the same bits on every number of threads."
    made = []
    for threads in THREADS:
        with exactly_threads(threads), torch.no_grad(): made.append(compute())
    for one in made[1:]:
        for a, b in zip(made[0], one): assert torch.equal(a, b)

# frames of windows that the pocket's denoiser is given: 64 to 128, in steps of 8
@pytest.mark.parametrize('width', (64, 72, 96, 120, 128))
def test_the_denoiser(pocket, width):
    g = torch.Generator().manual_seed(width)
    x, t = torch.randn(2, 1, 64, width, generator=g), torch.tensor([20.0, 700.0])
    condition = F.normalize(torch.randn(2, 192, generator=g), dim=1)
    unet = pocket.denoiser.unet
    same(lambda: [unet(x[:n], t[:n], condition[:n]) for n in (1, 2)])

@pytest.mark.long
def test_texts_pictures_priors_and_sounds(pocket):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8))
    mel = torch.randn(1, 1, 64, 126, generator=torch.Generator().manual_seed(0)) - 4
    clap = load_clap('pocket', device='cpu')
    noise = torch.randn(1, 1, 64_000, generator=torch.Generator().manual_seed(1)) / 10
    same(lambda: [*pocket.clip.encode_text_tokens(['a photo of a dog']), pocket.clip.encode_image([picture]),
                  pocket.vocoder(mel),
                  pocket.system('pd').embed_query('a photo of rain', clip_generators(1, 2)),
                  clap.encode_audio(noise, 16_000)])

@pytest.mark.long
def test_a_sound_from_the_first_word_to_the_last_bit(pocket):
    same(lambda: [pocket.generate('a dog barking', seed=1, seconds=s, progress=False).waveform for s in (5.5,)])

@pytest.mark.long
def test_metrics(tmp_path):
    for folder, seed in ('made', 1), ('real', 2):
        (tmp_path/folder).mkdir()
        for i in range(12):
            wave = torch.randn(1, 40_000, generator=torch.Generator().manual_seed(100 * seed + i))
            wave = wave.cumsum(1).diff(n=seed)
            Audio(wave / wave.abs().max(), 16_000).save(tmp_path/folder/f'{i}.wav')
    def metrics_of(threads):
        with exactly_threads(threads):
            found = evaluate([tmp_path/'made'], [tmp_path/'real'], metrics=['fad', 'kl', 'inception_score', 'nearest'],
                             cache_file=':memory:', device='cpu', progress=False)
        return {name: metric for name, metric in found.items() if 'value' in metric}
    first = metrics_of(1)
    assert {'fad', 'kl_pocket', 'inception_score_pocket', 'nearest'} == set(first)
    assert all(np.isfinite(metric['value']) for metric in first.values())
    assert all(metrics_of(threads) == first for threads in THREADS[1:])

def test_elementwise_functions_of_any_length():
    for length in (1, 1000, 32_768, 32_769, 100_003, 129_150):
        x = torch.randn(length, generator=torch.Generator().manual_seed(length))
        for function in (F.silu, torch.sigmoid): same(lambda: [whole_vectors(function, x)])

def runnable():
    "What the system says of all threads that run or wait for a core; 0 where it does not tell."
    load = Path('/proc/loadavg')
    return int(load.read_text().split()[3].split('/')[0]) if load.exists() else 0

@pytest.mark.skipif(not runnable(), reason='this system does not say what runs')
def test_busy_cores_are_left_alone():
    "Processes for every core of the machine, of which this one may be allowed a few."
    before, count = torch.get_num_threads(), os.cpu_count() + 1
    busy = [subprocess.Popen([sys.executable, '-c', 'while True: pass']) for _ in range(count)]
    try:
        until = time.time() + 120
        while running_elsewhere() < count - 1 and time.time() < until: time.sleep(0.1)
        torch.set_num_threads(4)
        chosen = []
        for _ in range(20):
            with limit_threads() as threads: chosen.append(threads)
            time.sleep(0.02)
        assert sorted(chosen)[10] == 1 and steady_threads() == 1 and torch.get_num_threads() == 4
        with exactly_threads(2), limit_threads() as threads: assert threads == 2   # who asks for them gets them
    finally:
        torch.set_num_threads(before)
        for process in busy: process.kill(); process.wait()

def test_wrong_numbers_of_threads():
    for wrong in (0, -1, 2.5, 'two', True):
        with pytest.raises(InputError, match=naming('threads', repr(wrong))), exactly_threads(wrong): pass
