"""The studio, driven as a hand would: controls set, buttons pressed, and what is then shown. With small random weights,
and without a browser."""
import _thread
import base64
import html
import re
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from datetime import datetime, timezone

import av
import numpy as np
import pytest
import torch
from PIL import Image

from clipsonic.checkpoint import load_config
from clipsonic.core import CheckpointError, InputError, MediaError
from clipsonic.pipeline import generate, pack
from clipsonic.studio import Studio, repr_call, identify_file
from clipsonic.video import read_audio, read_frames
from conftest import naming
from films import cut, film, song
from tiny import tiny_distilled, tiny_model, tiny_prior

@pytest.fixture(scope='module')
def model(tmp_path_factory):
    "A tiny model with a PD prior and no SD."
    home = tmp_path_factory.mktemp('tiny')
    tiny_model(home)
    tiny_prior(home/'pd', load_config(home/'denoiser')['clip'])
    return pack(home/'clip', home/'denoiser', home/'vocoder', home/'bridged', known_sounds=['dog'],
                priors={'pd': home/'pd'})

@pytest.fixture
def studio(model):
    studio = Studio(model, 'cpu')
    studio.seconds.value, studio.seed.value = 0.5, 7
    return studio

def test_a_distilled_model_has_its_own_ranges(model, tmp_path):
    shutil.copytree(model, tmp_path/'few')
    clip = load_config(model/'denoiser')['clip']
    shutil.rmtree(tmp_path/'few'/'denoiser')
    tiny_distilled(tmp_path/'few'/'denoiser', clip)
    few = Studio(tmp_path/'few', 'cpu')
    assert (few.guidance_scale.min, few.guidance_scale.max) == (1, 3)
    assert (few.steps.value, few.steps.disabled, few.sampler.value, few.sampler.disabled) == (2, True, 'ddim', True)

def test_a_distilled_model_with_its_teacher_has_all_ranges(model, tmp_path):
    home = tmp_path/'few'
    shutil.copytree(model, home)
    (home/'denoiser').rename(home/'denoiser-teacher')
    tiny_distilled(home/'denoiser', load_config(model/'denoiser')['clip'])
    few = Studio(home, 'cpu')
    few.prompt.value = 'a dog'
    assert few.guidance_scale.max == 10 and not few.steps.disabled and not few.sampler.disabled
    assert not {'steps', 'sampler'} & few.arguments().keys()  # the model's own, whatever takes the guidance scale
    few.steps.value = 3
    assert few.arguments()['steps'] == 3 and few.arguments()['sampler'] == 'ddim'

@pytest.fixture
def photo(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)).save(tmp_path/'photo.png')
    return tmp_path/'photo.png'

def upload(studio, path, kind='image/png'):
    "What the browser sends."
    studio.tabs.selected_index = 1
    studio.upload.value = ({'name': path.name, 'type': kind, 'size': path.stat().st_size,
                            'content': memoryview(path.read_bytes()), 'last_modified': datetime.now(timezone.utc)},)

def press(studio, **values):
    for name, value in values.items(): getattr(studio, name).value = value
    studio.button.click()
    assert not studio.button.disabled and studio.button.description == 'Generate'

def same(sound, *args, **kwargs):
    return torch.equal(sound.waveform, generate(*args, device='cpu', progress=False, **kwargs).waveform)
def shown(studio): return [child.value for child in studio.rows.children]

# what comes out

def test_a_text_gives_what_generate_gives(studio, model):
    press(studio, prompt='a dog')
    sound, = studio.sounds
    assert studio.message.value == '' and same(sound, 'a dog', seconds=0.5, seed=7, model=model)
    assert sound.info == generate('a dog', seconds=0.5, seed=7, model=str(model), progress=False).info
    settings = dict(seconds=0.7, seed=8, guidance_scale=2.3, steps=2, sampler='dpm++2m', system='zs')
    press(studio, negative_prompt=' rain ', **settings)
    assert same(studio.sounds[0], 'a dog', negative_prompt='rain', model=model, **settings)

def test_a_row_shows_players_pictures_and_settings(studio):
    press(studio, prompt='a <b>dog</b>', n=2, steps=2, negative_prompt='rain')
    row, = shown(studio)
    assert row.count('<audio controls') == 2 == row.count('alt="spectrogram"') and '<b>' not in row
    captions = re.findall('<figcaption>(.*?)</figcaption>', row)
    assert captions == [
        f'length 0.5 s, index {k}, system pd, seed 7, guidance_scale 1.5, steps 2, sampler ddim, negative_prompt rain'
        for k in (0, 1)]

def test_the_line_above_a_row_makes_it_again(studio):
    press(studio, prompt='the "dog"', n=2, steps=2, guidance_scale=1.1)
    again = eval(repr_call(studio.arguments()), {'generate': lambda **asked: generate(progress=False, **asked)})
    assert [torch.equal(a.waveform, b.waveform) for a, b in zip(again, studio.sounds)] == [True, True]
    assert 'guidance_scale=1.1' in shown(studio)[0] and 'negative_prompt' not in repr_call(studio.arguments())
    assert 'system' not in repr_call(studio.arguments())

def test_rows_pile_up_and_are_cleared(studio):
    press(studio, prompt='a dog', steps=1)
    first = studio.sounds[0]
    press(studio, prompt='rain', n=2)
    assert [s.info['query'] for s in studio.sounds] == ['rain', 'rain', 'a dog'] and studio.sounds[2] is first
    assert 'rain' in shown(studio)[0] and 'a dog' in shown(studio)[1]
    studio.clear.click()
    assert studio.sounds == [] and shown(studio) == []
    press(studio)
    assert len(shown(studio)) == 1

def test_a_picture_by_upload_or_by_path(studio, model, photo):
    upload(studio, photo)
    assert re.search(naming('photo.png', '60 × 40', '<img'), studio.seen.value)
    assert studio.upload.value == ()
    kept = studio.path.value
    assert kept.startswith(studio.folder.name)
    press(studio, steps=2)
    assert same(studio.sounds[0], image=photo, seconds=0.5, seed=7, steps=2, model=model)
    assert studio.sounds[0].info['system'] == 'iq'
    press(studio, path=f' {photo} ')
    assert torch.equal(studio.sounds[0].waveform, studio.sounds[1].waveform)
    assert f"image='{photo}'" in repr_call(studio.arguments())
    Image.new('RGB', (8, 9)).save(photo)
    upload(studio, photo)
    assert '8 × 9' in studio.seen.value and studio.path.value != kept, 'a file of the same name is another file'

def test_a_film_by_upload_or_by_path(studio, model, tmp_path):
    path = film(tmp_path/'film.mp4', 1.5, audio=None)
    upload(studio, path, 'video/mp4')
    assert re.search(naming('film.mp4', 1.5), studio.seen.value) and studio.seconds.disabled
    press(studio, steps=2, n=2)
    again = generate(video=path, seed=7, steps=2, n=2, model=model, device='cpu', progress=False)
    pairs = list(zip(again, studio.sounds, strict=True))
    assert all(torch.equal(a.waveform, b.waveform) and a.seconds == 1.5 for a, b in pairs)
    films = re.findall('<video controls src="data:video/mp4;base64,(.*?)">', shown(studio)[0])
    assert len(films) == 2 == shown(studio)[0].count('alt="spectrogram"')
    for k, sound in enumerate(studio.sounds):
        (tmp_path/f'{k}.mp4').write_bytes(base64.b64decode(films[k]))
        heard = read_audio(tmp_path/f'{k}.mp4').waveform[0, :24000]
        assert np.corrcoef(heard, sound.waveform[0])[0, 1] > 0.9, 'each copy has its own sound'
        assert len(read_frames(tmp_path/f'{k}.mp4', 8)[1]) == 12
    studio.tabs.selected_index = 0
    assert not studio.seconds.disabled
    studio.tabs.selected_index = 1
    press(studio, path=str(path), n=1)
    assert torch.equal(studio.sounds[0].waveform, studio.sounds[1].waveform) and 'seconds' not in studio.arguments()

def test_a_film_that_no_copy_holds_keeps_its_sound(studio, tmp_path):
    with av.open(str(film(tmp_path/'film.mp4', 1.0))) as old, av.open(str(tmp_path/'old.avi'), 'w') as new:
        stream = new.add_stream('wmv2', rate=8, width=64, height=48, pix_fmt='yuv420p')
        for frame in old.decode(video=0): new.mux(stream.encode(frame))
        new.mux(stream.encode(None))
    studio.tabs.selected_index = 1
    press(studio, path=str(tmp_path/'old.avi'), steps=1)
    assert len(studio.sounds) == 1 and 'wmv2' in shown(studio)[0] and '<audio' in shown(studio)[0]
    assert '<video' not in shown(studio)[0]

def test_the_tab_in_front_decides(studio, photo):
    upload(studio, photo)
    studio.prompt.value, studio.tabs.selected_index = 'a dog', 0
    assert studio.arguments()['prompt'] == 'a dog' and 'image' not in studio.arguments()
    studio.tabs.selected_index = 1
    assert 'image' in studio.arguments() and 'prompt' not in studio.arguments()

def test_the_systems_are_those_that_fit(studio):
    offered = lambda: [name for _, name in studio.system.options]
    assert offered() == ['', 'zs', 'pd'] and studio.system.label == 'let the model choose'
    studio.tabs.selected_index = 1
    assert offered() == ['', 'iq']

def test_fresh_seeds(studio, model):
    studio.fresh.click()
    first = studio.seed.value
    studio.fresh.click()
    assert first != studio.seed.value and 0 <= first
    assert Studio(model, 'cpu').seed.value != Studio(model, 'cpu').seed.value

def test_the_button_sleeps_meanwhile(studio):
    states = []
    studio.button.observe(lambda change: states.append(change['new']), 'disabled')
    press(studio, prompt='a dog', steps=1)
    press(studio, prompt='')
    assert states == [True, False, True, False]

# what is refused, and what is warned of

def test_what_can_be_mended_is_said_in_red(studio, photo, tmp_path):
    def says(**values):
        press(studio, **values)
        assert 'jp-error' in studio.message.value and studio.sounds == []
        return html.unescape(studio.message.value)
    assert re.search(naming('prompt', "' '"), says(prompt=' '))
    assert re.search(naming('negative', 'guidance', 1.0),
                     says(prompt='a dog', negative_prompt='rain', guidance_scale=1.0))
    studio.tabs.selected_index, studio.negative_prompt.value = 1, ''
    assert 'file' in says()
    (tmp_path/'notes.txt').write_text('<i>neither</i>')
    assert 'notes.txt' in says(path=str(tmp_path/'notes.txt'))
    assert 'notes.txt' in studio.seen.value
    assert 'none.png' in says(path='none.png')
    assert re.search(naming(photo.name, 'image'), says(path=str(cut(photo, 0.5))))
    press(studio, path='', prompt='a dog', guidance_scale=1.5)
    assert studio.seen.value == ''
    studio.tabs.selected_index = 0
    press(studio, steps=1)
    assert studio.message.value == '' and len(studio.sounds) == 1, 'the message goes when all is well again'

def test_bounds(studio):
    for name, value, most in [('steps', 0, 1), ('n', 0, 1), ('n', 99, 8), ('seconds', 1e9, studio.seconds.max),
                              ('seed', -1, 0)]:
        getattr(studio, name).value = value
        assert getattr(studio, name).value == most

def test_what_generate_warns_of_is_shown(studio):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        press(studio, prompt='a <theremin>', steps=1)
        assert 'theremin' in studio.message.value and 'jp-warn' in studio.message.value
        assert '<theremin>' not in studio.message.value and len(studio.sounds) == 1
        press(studio)
        assert 'theremin' in studio.message.value, 'every time'

def test_a_fault_is_no_message(studio, monkeypatch):
    """What the user cannot mend is raised (where IPython runs, the panel shows it instead), and the button is there
    again."""
    monkeypatch.setattr('ipywidgets.widgets.widget_output.get_ipython', lambda: None)
    studio.prompt.value, studio.rows = 'a dog', None
    with pytest.raises(AttributeError): studio.on_generate()
    assert not studio.button.disabled

@pytest.fixture
def interrupts():
    "Ctrl-C arrives, also where the tests run in the background and it is ignored."
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)

def test_it_can_be_stopped(studio, interrupts):
    stop = threading.Timer(0.3, _thread.interrupt_main)
    studio.button.observe(lambda change: change['new'] and stop.start(), 'disabled')   # it is at work
    press(studio, prompt='a dog', n=8, seconds=4.0, steps=1000)
    assert 'stopped' in studio.message.value and studio.sounds == [] == shown(studio)

def test_a_model_that_is_none():
    with pytest.raises(CheckpointError, match=naming("model 'nonesuch'")): Studio('nonesuch')

@pytest.mark.parametrize('make, kind, says', [(lambda path: song(path/'song.mp3'), MediaError, 'no video'),
                                              (lambda path: path, InputError, 'video'),
                                              (lambda path: cut(film(path/'film.mp4'), 0.5), MediaError, 'damaged')])
def test_files_that_are_nothing_to_see(tmp_path, make, kind, says):
    path = make(tmp_path)
    with pytest.raises(kind, match=naming(path, says)): identify_file(path)

def test_names_do_not_decide(tmp_path):
    kind, _, about = identify_file(film(tmp_path/'film.mp4').rename(tmp_path/'film.png'))
    assert kind == 'video' and re.search(naming(2.0), about)

def test_the_import_is_light():
    heavy = 'open_clip', 'dalle2_pytorch', 'librosa', 'matplotlib', 'webdataset', 'av'
    code = f'import sys, clipsonic.studio; print([m for m in {heavy} if m in sys.modules])'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.stdout.strip() == '[]', done.stdout + done.stderr
