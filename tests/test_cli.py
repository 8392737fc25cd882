"""The terminal: what is written and printed, and that whatever a user gets wrong is one line on stderr and exit status
2."""
import argparse
import contextlib
import inspect
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from fastcore.docments import docments
from PIL import Image

from clipsonic import __version__
from clipsonic.checkpoint import load_config, load_tensors, save_checkpoint, resolve_model, write_config
from clipsonic.cli import Parser, add_options, file_name, main, parser, sound_paths, what_next
from clipsonic.core import Audio, ClipsonicError
from clipsonic.request import Request
from clipsonic.video import probe, read_frames, write_video
from conftest import naming, said
from tiny import tiny_denoiser

@pytest.fixture(scope='module')
def model(runs): return str(runs/'model')

@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new('RGB', (50, 40), 'green').save('photo.png')
    Path('text.txt').write_text('no picture')
    return tmp_path

@pytest.fixture
def run(capsys):
    def run(*words):
        status = main([str(w) for w in words])
        out, err = capsys.readouterr()
        return status, out, err
    return run

fast = ['--steps', '1', '--seconds', '0.2', '--seed', '7', '--device', 'cpu']

def sound_of(path): return torch.from_numpy(soundfile.read(path, dtype='float32', always_2d=True)[0].T), 16_000

def files(folder='.'): return sorted(p.name for p in Path(folder).iterdir() if p.name not in ('photo.png', 'text.txt'))

# what is written

def test_sounds_are_named_after_films_and_pictures_on_every_machine():
    assert [file_name(query) for query in ('my holiday.ts', 'clips/a.MKV', 'b.webp', 'a dog. Barking')] == [
        'my-holiday', 'a', 'b', 'a-dog-barking']

def test_generate_writes_what_was_named(run, here, model):
    status, out, err = run('generate', 'a dog barking', '--model', model, '-o', 'dog.wav', *fast)
    assert status == 0 and re.search(naming('dog.wav: ', 0.2, 16000, 'seed 7'), out)
    info = soundfile.info('dog.wav')
    assert (info.frames, info.samplerate, info.channels, info.subtype) == (3200, 16000, 1, 'PCM_16')
    first = Path('dog.wav').read_bytes()
    assert run('generate', 'rain', '--model', model, '-o', 'dog.wav', *fast)[0] == 0
    assert Path('dog.wav').read_bytes() != first, 'a file that was named is replaced'

def test_every_setting_reaches_the_sound(run, here, model):
    def made(*words):
        assert run('generate', 'a dog', '--model', model, '-o', 'dog.wav', '--steps', '3', '--seconds', '0.2', '--seed',
                   '7', '--device', 'cpu', *words)[0] == 0
        return Path('dog.wav').read_bytes()
    plain = made()
    for words in (['--sampler', 'dpm++2m'], ['--spacing', 'trailing'], ['--guidance-interval', '100', '600'],
                  ['--guidance-rescale', '0.7']):
        assert made(*words) != plain
    assert made('--spacing', 'linspace', '--guidance-interval', '0', '1000', '--guidance-rescale', '0') == plain

@pytest.mark.parametrize('ending', ['wav', 'flac', 'ogg', 'WAV'])
def test_endings(run, here, model, ending):
    assert run('generate', 'a dog', '--model', model, '-o', f'dog.{ending}', *fast)[0] == 0
    assert soundfile.info(f'dog.{ending}').format == ending.upper()

def test_names_come_from_prompts_and_nothing_is_overwritten(run, here, model):
    for _ in range(2): assert run('generate', 'A dog, barking!', '--model', model, *fast)[0] == 0
    assert files() == ['a-dog-barking-2.wav', 'a-dog-barking.wav']

def test_several_sounds(run, here, model):
    Path('out').mkdir()
    assert run('generate', 'a dog', 'rain', '--n', 2, '--model', model, '-o', 'out', *fast)[0] == 0
    assert files('out') == ['a-dog-2.wav', 'a-dog.wav', 'rain-2.wav', 'rain.wav']
    status, out, _ = run('generate', '--image', 'photo.png', 'photo.png', '--model', model, '-o', 'x.flac', *fast)
    assert status == 0 and re.search(naming('x-2.flac: ', 0.2, 16000, 'seed 7', 'number 1'), out.splitlines()[-1])
    assert files() == ['out', 'x-1.flac', 'x-2.flac']

def test_films(run, here, model):
    write_video('Silent film.mp4', [Image.new('RGB', (64, 48), colour) for colour in ('red', 'blue')] * 6, frame_rate=4)
    words = ['generate', '--video', 'Silent film.mp4', '--model', model, '--steps', '1', '--seed', '7', '--device',
             'cpu']
    status, out, _ = run(*words, '-o', 'with.mkv')
    assert status == 0 and re.search(naming('with.mkv: ', 3, 16000, 'seed 7'), out)
    assert (probe('with.mkv').video, probe('with.mkv').audio) == ('h264', 'aac')
    assert len(read_frames('with.mkv', rate=4)[1]) == 12
    for more in (['-o', 'only.wav'], ['--n', '2'], ['--guidance', '1', '-o', 'Silent film.mp4']):
        assert run(*words, *more)[0] == 0
    assert files() == ['Silent film.mp4', 'only.wav', 'silent-film-2.mp4', 'silent-film.mp4', 'with.mkv']
    assert Audio(*sound_of('only.wav')).seconds == 3
    assert probe('Silent film.mp4').audio == 'aac', 'a film may get its sound in its place'

@pytest.mark.long
def test_sounds_that_are_there(run, here, model):
    assert run('generate', 'rain', '--model', model, '-o', 'rain.wav', *fast[:-4], '--seconds', '2')[0] == 0
    for words, seconds in ((['--extend', '1'], 3), (['--inpaint', '0.5', '1'], 2), (['--strength', '0.5'], 2)):
        assert run('generate', 'a dog', '--audio', 'rain.wav', '--model', model, '-o', 'new.wav', '--steps', '1',
                   *words)[0] == 0
        old, new = sound_of('rain.wav')[0], sound_of('new.wav')[0]
        assert new.shape[1] == 16_000 * seconds and (words[0] == '--strength' or (old[:, :8000] == new[:, :8000]).all())
    assert run('generate', 'a dog', '--best-of', '3', '--model', model, '-o', 'best.wav', *fast)[0] == 0

def test_half_precision(run, here, model):
    for name, words in {'a': [], 'b': ['--precision', 'bfloat16']}.items():
        assert run('generate', 'rain', '--model', model, '-o', f'{name}.wav', *fast, *words)[0] == 0
    a, b = sound_of('a.wav')[0], sound_of('b.wav')[0]
    assert not torch.equal(a, b) and torch.corrcoef(torch.cat([a, b]))[0, 1] > 0.5

@pytest.mark.long
def test_without_a_compiler_it_goes_on_with_a_word(run, here, model):
    words = ['generate', 'rain', '--model', model, *fast]
    done = clipsonic(*words, '-o', 'a.wav', '--compile', env={**os.environ, 'CXX': 'nonesuch',
                                                              'TORCHINDUCTOR_CACHE_DIR': str(here/'kept')})
    assert done.returncode == 0 and re.search('(?m)^warning: .*torch.compile', done.stderr), done.stderr
    assert 'Traceback' not in done.stderr, done.stderr
    assert run(*words, '-o', 'b.wav')[0] == 0 and Path('a.wav').read_bytes() == Path('b.wav').read_bytes()

@pytest.mark.slow
def test_compiled(run, here, model):
    for seconds in '2', '3':  # narrow, and of another width
        words = ['generate', 'rain', '--model', model, *fast, '--steps', '2', '--seconds', seconds]
        for name, more in {'a': ['--compile'], 'b': []}.items():
            status, _, err = run(*words, '-o', f'{name}.wav', *more)
            assert status == 0 and 'compile' not in err, err
        assert (sound_of('a.wav')[0] - sound_of('b.wav')[0]).abs().max() < 1e-2

@pytest.mark.long
@pytest.mark.data
def test_sounds_for_the_frames_of_natural_videos(run, here, pocketav):
    films = sorted((pocketav/'real').glob('*.mp4'))
    for folder in ('frames', 'sounds'): Path(folder).mkdir()
    for film in films:
        frames = read_frames(film, rate=1.0)[1]
        frames[len(frames) // 2].save(f'frames/{film.stem}.png')
    pictures = [f'frames/{film.stem}.png' for film in films]
    status, out, _ = run('generate', '--image', *pictures, '-o', 'sounds/', '--seconds', '2.048', '--steps', '8',
                         '--seed', '7')
    sounds = [soundfile.read(path)[0] for path in sorted(Path('sounds').iterdir())]
    assert status == 0 and len(sounds) == len(films) == 22 and out.count('seed 7') == 22
    assert all(len(s) == 32768 and 0.003 < np.sqrt((s**2).mean()) and abs(s).max() < 1 for s in sounds)

def test_a_fresh_seed_is_printed_and_gives_the_sound_again(run, here, model):
    words = ['generate', 'a dog', '--model', model, '--steps', '1', '--seconds', '0.1']
    _, out, _ = run(*words, '-o', 'a.wav')
    seed = re.search(r'seed (\d+)', out)[1]
    run(*words, '-o', 'b.wav', '--seed', seed)
    assert Path('a.wav').read_bytes() == Path('b.wav').read_bytes()

def test_warnings_are_one_line(run, here, model):
    status, out, err = run('generate', 'a zebra', '--model', model, '-o', 'a.wav', *fast)
    line, = said(err)
    assert status == 0 and line.startswith('warning: ')
    assert re.search(naming("'a zebra'", 3, repr(model), f'clipsonic info {model}'), line)

# info

def test_info_about_models_and_media(run, here, model):
    status, out, _ = run('info', model)
    assert status == 0 and 'pipeline' in out and 'known_sounds: dog, rain, flute' in out and 'denoiser/' in out
    assert 'sampling: steps 3, sampler ddim' in out
    assert run('info', f'{Path(model).parent}/denoiser')[1].count('denoiser:') == 1
    names = load_config(resolve_model('pocket'))['known_sounds']
    assert len(names) == 30 and f"  known_sounds: {', '.join(names)}\n" in run('info', 'pocket')[1]
    run('generate', 'a dog', '--model', model, '-o', 'a.wav', *fast)
    status, out, _ = run('info', 'a.wav')
    assert status == 0 and 'sample_rate: 16000' in out

def test_info_says_whether_digests_agree(run, here, model):
    shutil.copytree(model, 'odd')
    assert run('info', 'odd')[1].count('digests: agree') == 4
    file = Path('odd/clip/model.safetensors')
    file.write_bytes(file.read_bytes()[:-1] + b'x')
    config = json.loads(Path('odd/denoiser/config.json').read_text())
    Path('odd/denoiser/config.json').write_text(json.dumps(config | {'sampling': {'steps': 4}}))
    config = json.loads(Path('odd/vocoder/config.json').read_text())
    del config['sha256']
    Path('odd/vocoder/config.json').write_text(json.dumps(config))
    status, out, _ = run('info', 'odd')
    lines = [line.strip() for line in out.splitlines() if 'digests:' in line]
    assert status == 0 and (lines[0], lines[3]) == ('digests: agree', 'digests: none')
    assert lines[1].startswith('digests: model.safetensors ') and lines[2].startswith('digests: config.json ')
    status, _, err = run('generate', 'a dog', '--model', 'odd', *fast)
    assert status == 2 and re.search(naming('odd/denoiser/config.json', 'sha256'), err)

def test_info_about_shards(run, here):
    from clipsonic.shards import write_info
    Path('shards').mkdir()
    write_info('shards', {'clipsonic-000000.tar': 3}, clip={'name': 'pocket', 'hash': 'beef'}, dim=192,
               sample_rate=16000, frame_rate=1., total_seconds=7200., labeled=0)
    status, out, _ = run('info', 'shards')
    assert status == 0 and re.search(naming('3 clips', 2.0, '1 tars', 'pocket', 'beef'), out)

# where it goes

def test_a_folder_is_made_when_there_is_something_for_it(run, here, model):
    words = 'generate', 'a dog', 'rain', '--model', model, '-o', 'sounds/of/today/', *fast
    assert run(*words, '--system', 'sd')[0] == 2 and files() == [], 'the model has no such prior'
    status, out, _ = run(*words)
    assert status == 0 and 'sounds/of/today/rain.wav: ' in out and files('sounds/of/today') == ['a-dog.wav', 'rain.wav']

@pytest.mark.parametrize('prompts, names', [(['a dog'], ['a-dog.wav']), (['a dog', 'rain'], ['a-dog.wav', 'rain.wav'])])
def test_what_cannot_be_written_in_the_end_is_kept(run, here, model, monkeypatch, prompts, names):
    "Something comes in the way of the folder while the sounds are made."
    from clipsonic.pipeline import Pipeline
    answer = Pipeline.run
    def disturbed(*args):
        Path('out').rmdir(); Path('out').write_text('in the way')
        return answer(*args)
    monkeypatch.setattr(Pipeline, 'run', disturbed)
    Path('out').mkdir()
    status, out, err = run('generate', *prompts, '--model', model, '-o', 'out', *fast)
    place = Path(re.search(r'kept (?:in|as) (\S+)\n', err)[1])
    kept = [place] if len(names) == 1 else sorted(place.iterdir())
    assert (status, out) == (2, '') and err.splitlines()[-1].startswith('error: ') and files() == ['out']
    assert [path.name for path in kept] == names and all(soundfile.info(path).frames == 3200 for path in kept)
    shutil.rmtree(kept[0].parent)

def test_a_disk_that_is_full_in_the_end(here, model):
    "A file system of 200 kB takes the trial but not the sound, where this process may mount one."
    Path('small').mkdir()
    mounted = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=200k', 'tmpfs', 'small'], capture_output=True)
    if mounted.returncode: pytest.skip('mounting a small file system needs root')
    words = 'generate', 'rain', '--model', model, '-o', 'small/rain.wav', '--steps', '1', '--seconds', '20'
    try: done = clipsonic(*words, '--device', 'cpu')
    finally: subprocess.run(['umount', 'small'], check=True)
    kept = Path(done.stderr.strip().split('kept as ')[1])
    assert done.returncode == 2 and 'No space left' in done.stderr and soundfile.info(kept).frames == 320_000
    shutil.rmtree(kept.parent)

@contextlib.contextmanager
def as_nobody():
    "Nothing is protected from root, so a test that runs as root is somebody else for a while."
    root = os.geteuid() == 0
    if root: os.setresuid(65534, 65534, 0)
    try: yield
    finally:
        if root: os.setresuid(0, 0, 0)

PROTECTED = [(0o444, 0o777, '{}/dog.wav'), (0o666, 0o555, 'Permission denied')]

@pytest.mark.parametrize('file, folder, says', PROTECTED)
def test_what_is_protected_is_not_written(file, folder, says):
    home = Path(tempfile.mkdtemp())
    (home/'dog.wav').write_text('mine')
    (home/'dog.wav').chmod(file)
    home.chmod(folder)
    try:
        with as_nobody(), pytest.raises(ClipsonicError, match=naming(says.format(home))):
            sound_paths(f'{home}/dog.wav', ['a dog'])
    finally:
        home.chmod(0o777)
        shutil.rmtree(home)

def test_a_film_with_sound_is_not_dubbed_unsaid(run, here, films, model):
    words = ['--model', model, '--steps', '1', '--seed', '7', '--device', 'cpu']
    before = Path('heard.mp4').read_bytes()
    status, out, err = run('generate', '--video', 'heard.mp4', 'silent.mp4', '--n', '2', *words)
    warning, = [line for line in err.splitlines() if line.startswith('warning: ')]
    assert status == 0 and re.search(naming('heard.mp4', 'heard-2.mp4', '-o', '.wav'), warning)
    assert 'silent' not in warning
    status, out, err = run('generate', '--video', 'heard.mp4', '-o', 'alone.wav', *words)
    assert status == 0 and 'warning' not in err
    Path('heard.mp4').rename('film-2.mp4')
    status, out, err = run('generate', '--video', 'film-2.mp4', '--n', '2', '-o', 'film.mp4', *words)
    assert status == 2 and re.search(naming('film-2.mp4', '-o'), err) and Path('film-2.mp4').read_bytes() == before

# what goes wrong

REFUSED = [   # from the words alone: what the line names
    (['generate'], 'prompt image video'), (['generate', ''], "prompt ''"),
    (['generate', '  '], 'prompt empty'), (['generate', 'a', '--image', 'photo.png'], 'both prompt image'),
    (['generate', 'a', '--video', 'b.mp4'], 'both prompt video'),
    (['generate', '--image', 'nonesuch.jpg'], 'nonesuch.jpg image'),
    (['generate', '--image', 'text.txt'], 'text.txt image'), (['generate', '--image', '.'], '.: image file'),
    (['generate', '--image', 'phone.heic'], 'phone.heic HEIC JPEG PNG'),
    (['generate', '--video', 'phone.heic'], 'phone.heic video'), (['generate', 'a', '--seconds', '0'], 'seconds 0'),
    (['generate', 'a', '--seconds', '-3'], 'seconds -3'), (['generate', 'a', '--seconds', '1e9'], 'seconds 1e9'),
    (['generate', 'a', '--seconds', 'nan'], 'seconds nan'), (['generate', 'a', '--seconds', 'long'], "seconds 'long'"),
    (['generate', 'a', '--n', '0'], 'n 0'), (['generate', 'a', '--steps', '0'], 'steps 0'),
    (['generate', 'a', '--sampler', 'euler'], "sampler 'euler' 'ddim'"),
    (['generate', 'a', '--spacing', 'karras'], "spacing 'karras' 'trailing'"),
    (['generate', 'a', '--spacing', 'uniform'], "timestep_spacing 'uniform' 'linspace' now"),
    (['generate', 'a', '--guidance-interval', '600', '200'], 'guidance interval 600 200'),
    (['generate', 'a', '--guidance-rescale', '2'], 'guidance rescale 2'),
    (['generate', 'a', '--system', 'XX'], "system 'XX' 'iq'"), (['generate', 'a', '--seed', '-1'], 'seed -1'),
    (['generate', 'a', '--guidance', 'inf'], 'guidance inf'),
    (['generate', 'a', '--template', 'photo'], "template 'photo' {}"),
    (['generate', 'a', '--model', 'nonesuch'], "model 'nonesuch'"),
    (['generate', 'a', '--model', '.'], 'config.json text.txt'),
    (['generate', 'a', '--model', 'text.txt'], "model 'text.txt'"),
    (['generate', 'a', '--vocoder', 'nonesuch'], "vocoder 'nonesuch'"),
    (['generate', 'a', '--vocoder', '.'], 'config.json text.txt'),
    (['generate', 'a', '--prior', 'nonesuch'], 'nonesuch checkpoint'),
    (['generate', 'a', '--clip', 'mine'], "pocket clip 'mine'"),
    (['generate', 'a', '--precision', 'int8'], "precision 'int8' 'bfloat16'"),
    (['generate', 'a', '--prior', 'p', '--system', 'zs'], "prior 'p' system 'zs'"),
    (['generate', '--image', 'photo.png', '--prior', 'p'], "prior 'p'"),
    (['generate', 'a', '-o', 'nowhere/a.wav'], 'nowhere folder'),
    (['generate', 'a', '-o', 'text.txt/'], 'text.txt folder'),
    (['generate', 'a', '-o', '/proc/a.wav'], '/proc: No such file'),
    (['generate', 'a', '-o', '/proc/new/'], '/proc: No such file'),
    (['generate', 'a', '-o', 'a.mp3'], "'a.mp3' .wav .flac .ogg"), (['generate', 'a', '-o', 'a'], "'a' .wav a/"),
    (['generate', 'a', '-o', 'a.mp4'], "'a.mp4' .wav --video"),
    (['generate', '--video', 'nonesuch.mp4'], 'nonesuch.mp4: file'),
    (['generate', '--video', 'text.txt'], 'text.txt video playlist'),
    (['generate', '--video', 'silent.mp4', '-o', 'a.mp3'], "'a.mp3' .mp4 .mov .mkv .webm"),
    (['generate', 'a', '--audio', 'nonesuch.wav', '--extend', '1'], 'nonesuch.wav'),
    (['generate', 'a', '--audio', 'text.txt', '--extend', '1'], 'text.txt video playlist'),
    (['generate', 'a', '--extend', '1'], 'extend audio'),
    (['generate', 'a', '--audio', 'heard.mp4', '--inpaint', '3', '2'], 'inpaint 3 2'),
    (['generate', 'a', '--best-of', '0'], 'best_of 0'),
    (['generate', '--image', 'photo.png', '--best-of', '2'], 'best_of=2 prompt'),
    (['generate', 'a', 'dog', 'barking'], '3 prompts \'a\' "a dog barking"'),
    (['generate', 'piano', '+', 'violin'], '3 prompts \'+\' "piano + violin"'),
    (['generate', 'a', 'dog in the rain'], "2 prompts 'a'"),
    (['generate', 'photo.png'], "prompt 'photo.png' --image photo.png"),
    (['generate', 'my photo.jpg'], "--image 'my photo.jpg'"),
    (['generate', 'silent.mp4'], "prompt 'silent.mp4' --video silent.mp4"),
    (['generate', 'rain', 'dog.wav'], "'dog.wav' -o dog.wav"), (['generate', 'text.txt'], "prompt 'text.txt' file"),
    (['generate', 'rain + photo.png'], "prompt 'photo.png' --image photo.png"),
    (['generate', '--video', 'photo.png'], 'photo.png video --image photo.png'),
    (['generate', '--image', 'silent.mp4'], 'silent.mp4 image --video silent.mp4'),
    (['generate', 'a', '--audio', 'photo.png', '--extend', '1'], 'photo.png audio --image photo.png'),
    (['generate', 'a', '--audio', 'silent.mp4', '--extend', '1'], 'silent.mp4 audio --video silent.mp4'),
    (['generate', '--video', 'heard.mp4', '-o', 'heard.mp4'], 'heard.mp4 -o'),
    (['info', 'nonesuch'], "nonesuch model 'nonesuch'"), (['info', '.'], 'config.json text.txt'),
    (['info', 'text.txt'], 'text.txt video playlist'),
]

@pytest.fixture
def films(here):
    "A silent film, one with sound, and the head of a picture as telephones make them."
    red = [Image.new('RGB', (64, 48), 'red')] * 4
    write_video('silent.mp4', red, frame_rate=4)
    write_video('heard.mp4', red, frame_rate=4, audio=Audio(torch.full((1, 16_000), 0.1), 16_000))
    Path('phone.heic').write_bytes(bytes(3) + b'\x18ftypheic' + bytes(12))
    return files()

@pytest.mark.parametrize('words, says', REFUSED + [
    (['generate', 'a', '--device', 'abacus'], "device 'abacus' cpu"),
    (['train', '--preset', 'pockets', '--data', '.', '--out', 'run'], "preset 'pockets' pocket-clip"),
    (['train', '--preset', 'pocket', '--data', '.', '--out', 'run'], 'shards.json clipsonic prepare'),
    (['train', '--preset', 'pocket-clip', '--data', '.', '--out', 'run'], 'imagetext-0*.tar'),
    (['train', '--preset', 'pocket', '--data', 'nonesuch', '--out', 'run'], 'nonesuch shards.json'),
    (['pack', '--clip', '.', '--denoiser', '.', '--vocoder', '.', '--out', 'm'], 'config.json text.txt'),
    (['prepare', 'nonesuch', '--out', 'shards', '--clip', 'nonesuch'], "CLIP 'nonesuch'"),
    (['reconstruct', 'nonesuch', '--out', 'back'], 'nonesuch: file folder'),
    (['reconstruct', 'text.txt', '--out', 'no/back'], 'no/back folder'),
    (['reconstruct', 'photo.png', '--out', 'back', '--vocoder', 'text.txt'], "vocoder 'text.txt'"),
    (['convert', 'vocoder', 'nonesuch', '--config', 'text.txt', '--out', 'v'], 'nonesuch: file'),
    (['convert', 'vocoder', 'text.txt', '--config', 'text.txt', '--out', 'v'], 'text.txt JSON'),
])
def test_errors_are_one_line(run, films, words, says):
    try: status, out, err = run(*words)
    except SystemExit as error: status, err = error.code, None   # argparse leaves by itself; what it says is below
    assert status == 2 and files() == films
    if err is not None:
        line, = said(err)
        assert line.startswith('error: ') and re.search(naming(*says.split()), line)

REFUSE = """
import sys
from clipsonic.cli import main
for words in eval(sys.argv[1]):
    try: status = main(words)
    except SystemExit as error: status = error.code
    assert status == 2 and 'torch' not in sys.modules, words
"""

def test_refusals_come_without_pytorch(films):
    "Importing it takes seconds, and whoever mistyped a number should not wait for it."
    refused = [words for words, _ in REFUSED if 'XX' not in words]  # a system of that name might be registered
    done = subprocess.run([sys.executable, '-c', REFUSE, repr(refused)], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr.count('error: ') == len(refused), done.stderr

@pytest.mark.parametrize('words, says', [(['sing'], "'sing'"), (['generat', 'a'], "'generat' generate"),
                                         (['generate', 'a', '--seconds', 'long'], "--seconds 'long'"),
                                         (['generate', 'a', '--loud'], '--loud'),
                                         (['generate', 'a', '--secnds', '3'], '--secnds --seconds'),
                                         (['train', '--preset', 'pocket'], '--data')])
def test_wrong_words_are_one_line(capsys, words, says):
    with pytest.raises(SystemExit) as error: main(words)
    err = capsys.readouterr().err
    assert error.value.code == 2 and err.startswith('error: ') and err.count('\n') == 1
    assert re.search(naming(*says.split(), '--help'), err)

@pytest.mark.parametrize('change, says', [(lambda t: t.pop('null'), 'null'),
                                          (lambda t: t.update(extra=t['null']), 'extra')])
def test_weights_that_do_not_fit(run, here, model, change, says):
    import shutil
    shutil.copytree(model, 'model')
    tensors = load_tensors('model/denoiser', 'model')
    change(tensors)
    save_checkpoint('model/denoiser', load_config('model/denoiser'), {'model': tensors})
    status, _, err = run('generate', 'a dog', '--model', 'model', '-o', 'a.wav')
    line, = said(err)
    assert status == 2 and re.search(naming('model/denoiser', 1, says), line) and files() == ['model']

def test_a_bug_keeps_its_traceback(run, here, monkeypatch):
    def broken(*args): raise ZeroDivisionError('a bug')
    monkeypatch.setattr('clipsonic.cli.info_lines', broken)
    with pytest.raises(ZeroDivisionError): run('info')

# as a process of its own

def clipsonic(*words, **kwargs):
    return subprocess.run([sys.executable, '-m', 'clipsonic', *words], capture_output=True, text=True, timeout=600,
                          **kwargs)

def test_without_a_word_it_shows_its_help():
    "As pip does, and with its exit status: nothing went wrong."
    done = clipsonic()
    assert (done.returncode, done.stderr) == (0, '') and 'COMMAND' in done.stdout == clipsonic('--help').stdout

def test_a_terminal_sees_a_sign_of_life_before_anything_heavy(here, model):
    """And a pipe sees none. The terminal is a pseudo-terminal; -X importtime says on the same stream what is being
    imported."""
    import pty
    words = ['-m', 'clipsonic', 'generate', 'rain', '--model', model, *fast, '-o', 'rain.wav']
    ours, theirs = pty.openpty()
    process = subprocess.Popen([sys.executable, '-X', 'importtime', *words], stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    seen = b''
    try:
        while piece := os.read(ours, 65536): seen += piece
    except OSError: pass   # Linux's way to say that the other side is closed
    assert process.wait() == 0 and seen.count('loading …\r'.encode()) == 1
    before, after = seen.split('loading …\r'.encode())
    imported = lambda name, text: re.search(rb'\| +%s\r?$' % name, text, re.M)
    assert not any(imported(name, before) for name in (b'torch', b'numpy', b'av', b'PIL')) and imported(b'torch', after)
    assert b' ' * len('loading …') + b'\r' in after, 'and it is taken away'
    assert 'loading' not in subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True).stderr

def test_as_a_module():
    done = clipsonic('--version')
    assert (done.returncode, done.stdout.strip()) == (0, f'clipsonic {__version__}')

@pytest.mark.long
def test_a_full_disk_leaves_nothing(here, model):
    import resource
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    done = clipsonic('generate', 'a dog', '--model', model, '-o', 'a.wav', *fast, preexec_fn=limit, cwd=here,
                     env={**os.environ, 'PYTHONDONTWRITEBYTECODE': '1'})
    line, = said(done.stderr)
    assert done.returncode == 2 and line.startswith('error: ') and 'File too large' in line
    assert files() == []

def help_of(capsys, *words):
    with pytest.raises(SystemExit) as error: main([*words, '--help'])
    assert error.value.code == 0
    return capsys.readouterr().out

def test_help_is_quick_and_has_examples(capsys):
    code = ("import sys; from clipsonic.cli import parser; parser().format_help(); "
            "print([m for m in ('torch', 'numpy', 'PIL') if m in sys.modules])")
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == '[]'
    commands = re.findall(r'^    (\w+)', help_of(capsys).split('COMMAND\n')[1].split('\n\n')[0], re.M)
    assert set(commands) == {'prepare', 'train', 'generate', 'info', 'pack', 'reconstruct', 'convert', 'gap',
                             'evaluate', 'table', 'sweep', 'listen'}
    for name in commands: assert f'  clipsonic {name} ' in help_of(capsys, name).split('examples:')[1]

HELP = """
import sys
from clipsonic.cli import main
for words in eval(sys.argv[1]):
    try: main([*words, '--help'])
    except SystemExit as error: assert not error.code, words
    assert 'torch' not in sys.modules, words
"""

def commands_of(p, *words):
    "Every command of a parser, and its parser with all arguments."
    for action in p._actions:
        for name, command in (action.choices or {}).items() if action.nargs == 'A...' else ():
            with contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(SystemExit): command.parse_args([])
            yield [*words, name], command
            yield from commands_of(command, *words, name)

def test_no_help_loads_pytorch():
    "Importing it takes seconds."
    words = [[], *(words for words, _ in commands_of(parser()))]
    assert ['prepare'] in words and ['sweep', 'guidance'] in words
    done = subprocess.run([sys.executable, '-c', HELP, repr(words)], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count('usage: ') == len(words), done.stderr

KINDS = ['N', 'X', 'NAME', 'NAMES', 'TEXT', 'FILE', 'FOLDER', 'PATH', 'SECONDS', 'FPS', 'DBFS', 'PIXELS',
         'NAME=FOLDER', ('LOW', 'HIGH'), 'COMMAND']

def placeholders():
    "Of every value in the help of every command: the command, the argument, and its placeholder."
    for words, command in commands_of(parser()):
        formatter = command._get_formatter()
        for action in command._actions:
            if action.nargs == 0 or action.help == argparse.SUPPRESS: continue
            default = formatter._get_default_metavar_for_optional(action) if action.option_strings else action.dest
            yield words, action, action.metavar or action.choices or default

def test_the_placeholder_of_a_value_is_its_kind():
    found = list(placeholders())
    assert len(found) > 100
    for words, action, shown in found:
        assert shown in KINDS or shown == action.choices, (words, action.dest, shown)
        if action.type is int: assert shown in ('N', 'PIXELS'), (words, action.dest, shown)
        if action.type is float: assert shown in ('X', 'SECONDS', 'FPS', 'DBFS', ('LOW', 'HIGH')), (words, action.dest)
    shown = {(*words, action.dest): shown for words, action, shown in found}
    assert shown['prepare', 'out'] == 'FOLDER' and shown['evaluate', 'out'] == 'FILE'
    assert shown['generate', 'extend'] == 'SECONDS' and shown['sweep', 'guidance', 'steps'] == 'N'

def options_of(command):
    "The options of a command by their destinations."
    parsers = {words[-1]: p for words, p in commands_of(parser())}
    return {action.dest: action for action in parsers[command]._actions}

def test_an_option_of_generate_is_written_once():
    "Fields of `Request`: options of the terminal with help, and parameters of both `generate` with documentation."
    import clipsonic.pipeline as pipeline
    options = options_of('generate')
    for name, about in docments(Request, full=True, returns=False).items():
        assert about['docment'] and options[name].help, name
        assert name == 'prompt' or options[name].default == about['default'], name
        for function in pipeline.generate, pipeline.Pipeline.generate:
            assert inspect.signature(function).parameters[name].default == about['default'], name
            assert f'\n{name}\n    ' in function.__doc__, name

def test_a_new_field_is_a_new_option(monkeypatch, capsys):
    @dataclass(frozen=True)
    class More(Request):
        loudness: float = -20.0  # dB of full scale
    monkeypatch.setattr('clipsonic.request.Request', More)
    assert parser().parse_args(['generate', 'a', '--loudness', '-14']).loudness == -14
    assert re.search(r'--loudness X +dB of full scale \(default: -20\)', help_of(capsys, 'generate'))

def test_options_without_a_source_have_no_help():
    names = {}
    exec('from dataclasses import dataclass\n@dataclass\nclass Bare:\n    steps: int = 3', names)
    bare = Parser(prog='bare')
    add_options(bare, names['Bare'])
    assert bare.parse_args(['--steps', '4']).steps == 4 and bare.parse_args([]).steps == 3

OLD = """
    generate a --guidance 2 --negative b --spacing trailing
    generate a --steps 50 --sampler ddim --guidance-interval 0 1000 --guidance-rescale 0.5 --n 2 --best-of 4
    train --preset pocket --data shards --out run --start old --cpu
    pack --clip a --denoiser b --vocoder c --out d --knows dog,cat --knows-threshold 0.8
    evaluate made --reference real --metrics fad --embedder vggish --weights vggish-10086976.pth --resamples 50
    table --data shards --trained other --sets sets -o table.json --weights vggish.pth
    sweep guidance --data shards --sets sets -o a.json --weights 1 3 --spacing trailing --also long=there --draws 2
    sweep evaluations --data shards --sets sets -o a.json --guidance 2 --also long=there --draws 2"""

def settings_of(line):
    "The options that a command line sets."
    args = vars(parser().parse_args(line.split()))
    return {name: value for name, value in args.items() if value not in (None, [], False)}

def test_options_of_before_are_read():
    one, two, train, packed, scored, table, guidance, nfe = map(settings_of, OLD.strip().splitlines())
    assert (one['guidance_scale'], one['negative_prompt'], one['timestep_spacing']) == (2, 'b', 'trailing')
    assert two['guidance_interval'] == [0, 1000] and two['best_of'] == 4
    assert (train['device'], train['init_from']) == ('cpu', 'old')
    assert (packed['known_sounds'], packed['known_threshold']) == ('dog,cat', 0.8)
    assert (scored['embedder_weights'], scored['n_resamples']) == ('vggish-10086976.pth', 50)
    assert (table['train_data'], table['renders'], table['embedder_weights']) == ('other', 'sets', 'vggish.pth')
    assert (guidance['guidance_scales'], guidance['timestep_spacing']) == ([1, 3], 'trailing')
    assert nfe['guidance_scale'] == 2
    for swept in guidance, nfe:
        assert (swept['renders'], swept['compare'], swept['n_seeds']) == ('sets', ['long=there'], 2)

def test_the_commands_of_the_readme_are_commands():
    from conftest import root
    commands = re.findall(r'^(?:pip install \. && )?clipsonic (\w+ .*)$', (root/'README.md').read_text(), re.M)
    assert len(commands) > 10
    for command in commands: parser().parse_args(shlex.split(command, comments=True))

def test_an_option_before_its_command_is_answered(capsys):
    with pytest.raises(SystemExit) as error: main(['--threads', '2', 'generate', 'a dog'])
    assert error.value.code == 2 and re.search(naming('--threads', "'generate'", 'generate … --threads 2'),
                                               capsys.readouterr().err)

def test_train_takes_no_numbered_device(run, here):
    status, _, err = run('train', '--preset', 'pocket', '--data', '.', '--out', 'run', '--device', 'cuda:1')
    assert status == 2 and re.search(naming('--device cuda:1', 'CUDA_VISIBLE_DEVICES'), err)

def test_prepare_takes_the_settings_of_the_clips(run, here, model):
    tone = 0.1 * torch.sin(torch.arange(64_000) / 10)[None]
    write_video('long.mp4', [Image.new('RGB', (64, 48), 'red')] * 16, frame_rate=4, audio=Audio(tone, 16_000))
    words = ['prepare', 'long.mp4', '--out', 'shards', '--clip', f'{model}/clip', '--workers', '0', '--device', 'cpu']
    status, _, _ = run(*words, '--seconds', '1', '--min-seconds', '0.5', '--frame-rate', '2', '--clips-per-shard', '3')
    about = run('info', 'shards')[1]
    assert status == 0 and re.search(naming('4 clips', '2 tars'), about) and 'frame_rate: 2' in about
    status, _, err = run(*words[:3], 'other', *words[4:], '--seconds', '0')
    assert status == 2 and re.search(naming('seconds', 0), err)

def test_known_words_are_packed(run, here, model):
    parts = ['--clip', f'{model}/clip', '--denoiser', f'{model}/denoiser', '--vocoder', f'{model}/vocoder']
    Path('words.json').write_text('{"dog": {"named": "dog, hound"}}')
    assert run('pack', *parts, '--out', 'mine', '--knows', 'dog', '--known-words', 'words.json')[0] == 0
    assert load_config('mine')['known_words'] == {'dog': {'named': 'dog, hound'}}
    assert run('pack', *parts, '--out', 'table', '--knows', 'dog barking', '--known-words')[0] == 0
    assert 'barking' in load_config('table')['known_words']['dog barking']['alone']
    Path('words.json').write_text('{"dog": "hound"}')
    status, _, err = run('pack', *parts, '--out', 'no', '--knows', 'dog', '--known-words', 'words.json')
    assert status == 2 and re.search(naming('--known-words words.json', 'known_words.dog', "'hound'"), err)

def test_the_help_names_every_metric(capsys):
    from clipsonic.evaluate import METRICS
    assert set(METRICS) <= set(re.findall(r'\w+', help_of(capsys, 'evaluate')))

def test_the_help_names_every_preset(capsys):
    from clipsonic.recipes import PRESETS
    text = ''.join(help_of(capsys, 'train').split())   # lines may break within a name
    assert all(name in text for name in PRESETS)

def test_a_reader_who_goes_away_is_no_error():
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, '-m', 'clipsonic', '--help'], stdout=write, stderr=subprocess.PIPE,
                          text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, '')

@pytest.mark.long
def test_ctrl_c(here, model):
    process = subprocess.Popen([sys.executable, '-m', 'clipsonic', 'generate', 'a dog', '--model', model, '--n', '20',
                                '--steps', '4000', '--seconds', '2', '-o', 'a.wav'],
                               cwd=here, stderr=subprocess.PIPE, text=True,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    for line in process.stderr:                    # the bar: it is at work
        if 'generating' in line: break
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait(600) == 130 and 'Traceback' not in rest and files() == []

def test_packing_replaces_a_packed_model_and_nothing_else(run, here, model):
    parts = ['--clip', f'{model}/clip', '--denoiser', f'{model}/denoiser', '--vocoder', f'{model}/vocoder']
    Path('letters').mkdir(); Path('letters/a.txt').write_text('dear')
    status, _, err = run('pack', *parts, '--out', 'letters')
    assert status == 2 and re.search(naming('letters', 'a.txt'), err) and Path('letters/a.txt').read_text() == 'dear'
    for _ in range(2): assert run('pack', *parts, '--out', 'mine')[0] == 0

BY_REGISTRATION = """
import sys
from clipsonic.cli import main
from clipsonic.request import QUERY_TYPES
del QUERY_TYPES['zs']  # and 50_systems registers it
sys.exit(main(sys.argv[1:]))
"""

def test_a_registration_is_enough_for_a_system(here, model):
    "Without a row in `QUERY_TYPES`."
    words = 'generate', 'a dog', '--system', 'ZS', '--model', model, '-o', 'dog.wav', *fast
    done = subprocess.run([sys.executable, '-c', BY_REGISTRATION, *words], capture_output=True, text=True)
    assert (done.returncode, files()) == (0, ['dog.wav']), done.stderr

@pytest.fixture
def tta():
    "A text-conditioned baseline: one class, one registration, one preset."
    from clipsonic.recipes import PRESETS, DenoiserConfig, DenoiserRecipe, TrainingConfig
    from clipsonic.request import QUERY_TYPES, SamplingConfig
    from clipsonic.systems import SYSTEMS, ZS, register_system
    from clipsonic.unet import UNetConfig
    @register_system('tta')
    class TTA(ZS): denoiser_name, label = 'tta', 'CLIP-TTA'
    unet = UNetConfig(model_channels=16, channel_mult=(1, 2), num_res_blocks=1, attention_resolutions=(),
                      condition_dim=24, patch_size=2, norm_num_groups=4)
    config = DenoiserConfig(unet, sampling=SamplingConfig(steps=2, sampler='ddim'))
    PRESETS['tta'] = DenoiserRecipe, config, TrainingConfig(steps=1, batch_size=2)
    yield
    for registry in SYSTEMS, QUERY_TYPES, PRESETS: del registry['tta']

@pytest.mark.long
def test_a_baseline_is_trained_packed_and_used(run, here, model, tta):
    from clipsonic.shards import synthetic_shards
    from clipsonic.table import render_all
    synthetic_shards('shards', clips=4, dim=24, seconds=3.0, labels=True)
    info = json.loads(Path('shards/shards.json').read_text()) | {'clip': load_config(f'{model}/denoiser')['clip']}
    Path('shards/shards.json').write_text(json.dumps(info))
    status, _, err = run('train', '--preset', 'tta', '--data', 'shards', '--out', 'runs', '--device', 'cpu')
    assert status == 0, err
    parts = ['--clip', f'{model}/clip', '--vocoder', f'{model}/vocoder', '--denoiser']
    assert run('pack', *parts, f'{model}/denoiser', '--denoisers', 'tta=runs', '--out', 'both')[0] == 0
    assert run('pack', *parts, 'runs', '--out', 'alone')[0] == 0
    def made(model, system):
        words = '--model', model, '--system', system, '-o', 'dog.wav', '--seconds', '0.2', '--seed', '7'
        assert run('generate', 'a dog', *words, '--device', 'cpu')[0] == 0
        return Path('dog.wav').read_bytes()
    assert made('both', 'tta') == made('alone', 'zs') != made('both', 'zs')
    render_all('shards', 'renders', model='both', n=1, seconds=0.2, device='cpu', progress=False)
    assert Path('renders/tta/0000.wav').exists(), 'it has a row in the table'
    for wrong, says in [(['tta'], '--denoisers tta NAME=FOLDER'), (['odd=runs'], "denoiser 'odd' tta"),
                        (['tta=runs', 'tta=both'], "--denoisers tta=both 'tta' twice"),
                        (['tta=nonesuch'], 'nonesuch checkpoint')]:
        status, _, err = run('pack', *parts, f'{model}/denoiser', '--denoisers', *wrong, '--out', 'no')
        assert status == 2 and re.search(naming(*says.split()), err) and not Path('no').exists(), err

@pytest.mark.long
def test_priors(run, here, model):
    "Packed with a model, given to one, converted from what was published, and measured."
    import torch
    from clipsonic.checkpoint import load_config
    from clipsonic.prior import PriorConfig, DiffusionPriorNetwork
    from clipsonic.shards import synthetic_shards
    from tiny import tiny_prior
    clip = load_config(f'{model}/denoiser')['clip']
    for name, seed in ('pd', 3), ('sd', 4): tiny_prior(Path(name), clip, seed)
    parts = ['--clip', f'{model}/clip', '--denoiser', f'{model}/denoiser', '--vocoder', f'{model}/vocoder']
    assert run('pack', *parts, '--prior-pd', 'pd', '--prior-sd', 'sd', '--out', 'mine')[0] == 0
    for words in ['--system', 'PD'], ['--system', 'sd'], [], ['--prior', 'sd']:
        assert run('generate', 'a dog', '--model', 'mine', '-o', 'dog.wav', *fast, *words)[0] == 0
    for words in ['a dog', '--system', 'zs'], ['--image', 'photo.png']:
        status, _, err = run('generate', *words, '--model', 'mine', '--prior', 'pd')
        assert status == 2 and re.search(naming('prior', "'pd'"), err)
    synthetic_shards('shards', clips=12, dim=24, seconds=2.0, labels=True)
    info = json.loads(Path('shards/shards.json').read_text())
    Path('shards/shards.json').write_text(json.dumps(info | {'clip': clip}))
    status, out, _ = run('gap', '--data', 'shards', '--model', 'mine', '--out', 'gap.json')
    assert status == 0 and re.search(naming(12), out)
    assert json.loads(Path('gap.json').read_text())['cosine']['sd']['n'] == 12
    Path('empty.pth').write_text('hello')
    status, _, err = run('convert', 'prior', 'empty.pth', '--out', 'prior')
    assert status == 2 and len(said(err)) == 1 and 'empty.pth' in err
    assert run('convert', 'prior', 'empty.pth', '--config', 'a.json', '--out', 'prior')[0] == 2
    assert run('convert', 'vocoder', 'empty.pth', '--out', 'prior')[0] == 2
    network = DiffusionPriorNetwork(PriorConfig(cosine_attention=False))
    state = {f"net.{'null_text_embed' if k == 'null_text_encodings' else k}": v for k, v in network.state_dict().items()
             if k not in ('null_text_embeds', 'null_image_embed')}
    torch.save({'ema_model': state}, 'prior.pth')
    status, out, _ = run('convert', 'prior', 'prior.pth', '--out', 'laion')
    assert status == 0 and out.startswith('laion: ') and 'prior:' in run('info', 'laion')[1]

@pytest.mark.long
def test_a_denoiser_is_distilled_packed_and_used(run, here, runs):
    "From a teacher's run and shards to a sound in four evaluations."
    from clipsonic.shards import synthetic_shards
    Path('teacher').mkdir()
    clip = load_config(runs/'denoiser')['clip']
    tiny_denoiser('teacher/model', clip, steps=11, sampler='dpm++2m', guidance_interval=[100, 970])
    synthetic_shards('shards', clips=4, dim=24, seconds=3.0)
    info = json.loads(Path('shards/shards.json').read_text())
    words = ['train', '--preset', 'pocket-distilled', '--data', 'shards', '--out', 'four', '--batch-size', '2', '--cpu']
    status, _, err = run(*words)
    assert status == 2 and re.search(naming('teacher', '--teacher'), err) and not Path('four').exists()
    status, _, err = run(*words, '--teacher', 'teacher')
    assert status == 2 and re.search(naming('shards', 'teacher', '--clip tiny-0'), err)
    Path('shards/shards.json').write_text(json.dumps(info | {'clip': clip}))
    for more in ['--steps', '1'], ['--steps', '2', '--resume']:   # a process each: accelerate has one precision in it
        done = clipsonic(*words, '--teacher', 'teacher', *more, cwd=here)
        assert done.returncode == 0 and done.stdout.startswith('four: '), done.stderr
    assert load_config('four')['step'] == 2
    parts = ['--clip', runs/'clip', '--denoiser', 'four', '--vocoder', runs/'vocoder']
    assert run('pack', *parts, '--out', 'packed')[0] == 0
    assert 'guidance_scales' in run('info', 'packed')[1]
    status, out, _ = run('generate', 'a dog', '--model', 'packed', '--seconds', '0.2', '--seed', '7', '-o', 'dog.wav')
    assert status == 0 and Path('dog.wav').exists()
    status, _, err = run('generate', 'a dog', '--model', 'packed', '--steps', '8', '-o', 'b.wav')
    assert status == 2 and re.search(naming('steps', 8, 4), err) and not Path('b.wav').exists()
    status, _, err = run('train', '--preset', 'pocket', '--data', 'shards', '--teacher', 'teacher', '--out', 'run')
    assert status == 2 and re.search(naming('teacher', 'pocket'), err)

def test_a_published_vocoder_plays(run, here, model):
    "From a file in HiFi-GAN's layout to a generated and a reconstructed sound."
    import torch
    from clipsonic.gan_vocoder import Generator, GeneratorConfig
    from clipsonic.vocoder import published_name
    settings = dict(upsample_rates=[8, 8, 4, 2], upsample_kernel_sizes=[16, 16, 8, 4], upsample_initial_channel=16,
                    resblock='2', resblock_kernel_sizes=[3, 5], resblock_dilation_sizes=[[1, 2], [2, 6]],
                    num_mels=64, n_fft=2048, win_size=2048, hop_size=512, sampling_rate=16000, fmin=0, fmax=8000)
    config = GeneratorConfig(channels=16, resblock_kernels=(3, 5), resblock_dilations=((1, 2), (2, 6)),
                             resblock_pairs=False, activation='leaky_relu')
    published = {}
    for name, value in Generator(config).state_dict().items():
        published[published_name(name, config)] = value[:, :, 0] if value.ndim == 4 else value
    torch.save({'generator': published}, 'generator_v3')
    Path('config_v3.json').write_text(json.dumps(settings))
    status, out, _ = run('convert', 'vocoder', 'generator_v3', '--config', 'config_v3.json', '--out', 'hifigan')
    assert status == 0 and out.startswith('hifigan: ')
    assert run('generate', 'a dog', '--model', model, '--vocoder', 'hifigan', '-o', 'dog.wav', *fast)[0] == 0
    status, out, _ = run('reconstruct', 'dog.wav', '--out', 'back', '--vocoder', 'hifigan')
    assert status == 0 and re.search(naming('back: ', 1), out) and Path('back/dog.wav').exists()
    assert 'vocoder:' in run('info', 'hifigan')[1]
    Path('config_v3.json').write_text(json.dumps(settings | {'hop_size': 256, 'upsample_rates': [8, 8, 2, 2],
                                                             'upsample_kernel_sizes': [16, 16, 8, 4]}))
    assert run('convert', 'vocoder', 'generator_v3', '--config', 'config_v3.json', '--out', 'other')[0] == 0
    status, _, err = run('generate', 'a dog', '--model', model, '--vocoder', 'other', '-o', 'b.wav', *fast)
    assert status == 2 and re.search(naming('hop_length=256', 'hop_length=512'), err) and not Path('b.wav').exists()

@pytest.mark.parametrize('part, change, says', [('vocoder', {'model': {'depths': 1}}, "'depths'"),
                                                ('vocoder', {'model': None}, 'model null'),
                                                ('clip', {'vocabulary': None}, 'vocabulary null'),
                                                ('clip', {'model': {'embed_dim': 'wide'}}, "embed_dim 'wide'")])
def test_configs_that_describe_nothing(run, here, model, part, change, says):
    shutil.copytree(model, 'odd')
    write_config(f'odd/{part}', load_config(f'odd/{part}') | change)
    status, _, err = run('generate', 'a dog', '--model', 'odd', *fast)
    line, = said(err)
    assert status == 2 and re.search(naming(f'odd/{part}', 'config.json', *says.split()), line)

def test_a_clip_that_is_none_is_named(run, here, runs):
    status, _, err = run('generate', 'a dog', '--model', runs/'denoiser', '--clip', 'CLIP', *fast)
    line, = said(err)
    assert status == 2 and "CLIP 'CLIP'" in line
    status, _, err = run('generate', 'a dog', '--model', runs/'denoiser', '--clip', 'pocket', *fast)
    assert status == 2 and re.search(naming(runs/'denoiser', "'tiny-0'", "'pocket'"), err)

def test_an_image_tower_that_is_none(run, here, model):
    "The image tower is built when the first picture comes: a text is not stopped by it."
    shutil.copytree(model, 'odd')
    config = load_config('odd/clip')
    config['model']['vision'] = 'resnet-none'
    write_config('odd/clip', config)
    assert run('generate', 'a dog', '--model', 'odd', '-o', 'a.wav', *fast)[0] == 0
    status, _, err = run('generate', '--image', 'photo.png', '--model', 'odd', '-o', 'b.wav', *fast)
    assert status == 2 and re.search(naming('odd/clip', 'resnet-none'), err) and not Path('b.wav').exists()

def test_train_says_what_next_and_after_ctrl_c_what_was_saved(here):
    from clipsonic.shards import synthetic_shards
    synthetic_shards('shards', clips=4, dim=192, seconds=3.0)
    words = ['train', '--preset', 'pocket-vocoder', '--data', 'shards', '--out', 'my run', '--batch-size', '1', '--cpu']
    def interrupted(*more):
        process = subprocess.Popen([sys.executable, '-m', 'clipsonic', *words, *more], cwd=here, stderr=subprocess.PIPE,
                                   preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
        said = b''                                 # as text, a line that ends in \r would come with the next one
        while b'pocket-vocoder:' not in said:      # the bar: it is at work
            piece = os.read(process.stderr.fileno(), 4096)
            assert piece, said
            said += piece
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read().decode()
        assert process.wait(60) == 130 and 'Traceback' not in rest
        return rest.splitlines()[-2:]
    before, _ = interrupted()
    assert before.startswith('my run: ') and 'step' not in before and not Path('my run/model').exists()
    done = clipsonic(*words, '--steps', '1', cwd=here)
    assert done.returncode == 0 and re.search(r'pocket-vocoder: .*step 1\b.*generator/loss ', done.stderr)
    trained, then = done.stdout.splitlines()
    assert trained.startswith('my run: ')
    assert then == """next: clipsonic generate "a dog barking" --vocoder 'my run'"""
    after, _ = interrupted('--steps', '1000', '--resume')
    assert re.search(naming('my run: ', 'step 1', '--resume'), after)

@pytest.mark.parametrize('part, option', [('denoiser', '--model'), ('prior-pd', '--prior'), ('vocoder', '--vocoder')])
def test_what_is_next_for_each_part_of_the_pocket_model(here, part, option):
    shutil.copytree(resolve_model('pocket')/part, 'run/model')
    then = what_next('run')
    assert then == f'clipsonic generate "a dog barking" {option} run'
    assert main([*shlex.split(then)[1:], '-o', 'dog.wav', '--seconds', '0.1', '--device', 'cpu']) == 0

def test_what_is_next_for_what_listens_and_for_what_goes_with_another_clip(here):
    for name, command in {'pocket-clap': 'evaluate made/ --reference real/ --embedder run',
                          'pocket-listener': 'evaluate made/ --reference real/ --classifier run',
                          'pocket/clip': 'prepare videos/ --clip run --out shards'}.items():
        save_checkpoint('run', load_config(resolve_model('pocket').parent/name), {})
        assert what_next('run').split(';')[0] == f'clipsonic {command}'
        parser().parse_args(shlex.split(command))
    for part, clip, options in [('denoiser', 'mine', '--model run --clip CLIP'),
                                ('denoiser', 'ViT-L-14', '--model run'),
                                ('prior-pd', 'mine', '--prior run --model MODEL')]:
        config = load_config(resolve_model('pocket')/part)
        save_checkpoint('run', config | {'clip': {'name': clip, 'hash': 'beef'}}, {})
        assert what_next('run') == f'clipsonic generate "a dog barking" {options}'
    config = load_config(resolve_model('pocket')/'vocoder')
    config['model']['mel']['hop_length'] = 1024
    save_checkpoint('run', config, {})
    assert what_next('run') == 'clipsonic reconstruct recordings/ --vocoder run --out back'
