"""Generating: what comes out, what is the same again, what is refused, and what is warned about.

With small random weights: how it sounds is not tested here."""
import inspect
import pydoc
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from fastcore.docments import docments
from PIL import Image

from clipsonic.checkpoint import describe, load_config, load_tensors, resolve_model, save_checkpoint, write_config
from clipsonic.core import Audio, CheckpointError, InputError, MediaError, clip_generators
from clipsonic.mel import MelConfig, log_mel
from clipsonic.pipeline import Pipeline, Request, to_audio, generate, cached_pipeline, pack
from clipsonic.request import QUERY_TYPES, SamplingConfig, checked_model
from clipsonic.scores import classify_clips, load_classifier
from clipsonic.systems import SYSTEMS, ZS, load_denoiser, register_system
from conftest import naming
from tiny import KNOWS, tiny_clip, tiny_denoiser, tiny_distilled, tiny_prior

@pytest.fixture(scope='module')
def home(runs): return runs

@pytest.fixture(scope='module')
def pipe(home): return Pipeline.load(home/'model', 'cpu')

@pytest.fixture(scope='module')
def pocket(): return Pipeline.load('pocket', 'cpu')

@pytest.fixture(scope='module')
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp('photos')/'photo.png'
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)).save(path)
    return path

def quiet(pipe, *args, **kwargs): return pipe.generate(*args, progress=False, **kwargs)
def waves(sounds): return [s.waveform for s in sounds]

# what comes out

@pytest.mark.long
@pytest.mark.parametrize('seconds', [4.0, 4, 0.001, 2.048, 4.096, 4.0961, *np.geomspace(0.1, 60, 50).round(7).tolist()])
def test_duration_to_the_sample(pipe, seconds):
    sound = quiet(pipe, 'a dog', seconds=seconds, seed=0, steps=1, guidance_scale=1)
    assert sound.waveform[:, -512:].abs().max() > 1e-4, 'no silent tail'
    assert sound.waveform.shape == (1, round(seconds * 16000)) and sound.sample_rate == 16000

def test_one_sound_or_a_list(pipe, photo):
    one = lambda *args, **kwargs: quiet(pipe, *args, seconds=0.1, steps=1, seed=0, **kwargs)
    assert not isinstance(one('a dog'), list) and not isinstance(one(image=photo), list)
    assert [len(x) for x in (one('a dog', n=3), one(['a dog']), one(('a dog', 'rain'), n=2),
                             one(image=[photo, str(photo), Image.open(photo)]))] == [3, 1, 4, 3]
    assert [s.info['query'] for s in one(['rain', 'a dog'], n=2)] == ['rain', 'rain', 'a dog', 'a dog']

def test_the_face_is_as_promised():
    face = dict(prompt=None, image=None, video=None, seconds=None, n=1, seed=None, guidance_scale=1.5, steps=None,
                sampler=None, system=None, template='a photo of {}', timestep_spacing=None, guidance_interval=None,
                guidance_rescale=0.0, negative_prompt=None, eta=None, num_candidates=None, best_of=None, audio=None,
                strength=None, inpaint=None, extend=None)
    parameters = inspect.signature(generate).parameters
    assert {name: p.default for name, p in parameters.items()} == {
        **face, 'model': 'pocket', 'device': None, 'clip': None, 'vocoder': None, 'prior': None, 'precision': 'float32',
        'compile': False, 'threads': None, 'progress': True}
    assert [name for name, p in parameters.items() if p.kind is not p.KEYWORD_ONLY] == ['prompt']
    assert {name: p.default for name, p in inspect.signature(Pipeline.generate).parameters.items()
            if name != 'self'} == {**face, 'threads': None, 'progress': True}
    assert {name: p.default for name, p in inspect.signature(Request).parameters.items()} == face

def test_help_says_what_each_parameter_means():
    for function in generate, Pipeline.generate:
        text = pydoc.render_doc(function, renderer=pydoc.plaintext)
        for name in inspect.signature(function).parameters:
            assert name == 'self' or re.search(rf'^    {name}\n        \S', text, re.M), name
        assert re.search(r'\n    seconds\n .*None: 4\b', text)

def test_a_misspelt_parameter_is_answered_with_the_nearest(pipe):
    for call, says in ((lambda: generate('a dog', secnds=3), "generate 'secnds' 'seconds'"),
                       (lambda: pipe.generate('a dog', guidence=3), "generate 'guidence' 'guidance_scale'"),
                       (lambda: generate('a dog', num_inference_steps=3), "generate 'num_inference_steps' 'steps'?"),
                       (lambda: generate('a dog', xyzzy=3), "generate 'xyzzy' prompt model device best_of")):
        with pytest.raises(InputError, match=naming(*says.split())): call()

def test_the_parts_of_a_model_are_documented_once():
    about = docments(checked_model, full=True, returns=False)
    own = {Pipeline.load: ['model', 'device'], generate: [], cached_pipeline: []}  # with a comment there
    for function, names in own.items():
        found = docments(function, full=True, returns=False)
        for name in about:
            assert name in names or found[name].docment == about[name].docment, (function, name)
            assert found[name].default == about[name].default, (function, name)
    assert '\nvocoder\n    ' in generate.__doc__

@pytest.mark.filterwarnings('ignore:the model')
def test_generate_takes_parts_and_keeps_what_they_make(home, pipe, tmp_path):
    short = dict(seconds=0.3, seed=7, steps=2, progress=False)
    def make(model='model', **parts): return generate('a dog', model=home/model, device='cpu', **short, **parts)
    clip, own = load_config(home/'denoiser')['clip'], make()
    tiny_prior(tmp_path/'pd', clip)
    for parts in dict(vocoder='griffin-lim'), dict(prior=tmp_path/'pd'), dict(precision='bfloat16'):
        assert not torch.equal(make(**parts).waveform, own.waveform), parts
        first = cached_pipeline(model=home/'model', device='cpu', **parts)
        assert cached_pipeline(model=str(home/'model'), device='cpu', **parts) is first, parts
        assert cached_pipeline(model=home/'model', device='cpu') is not first, parts
    assert make(prior=tmp_path/'pd').info['system'] == 'pd'
    parts = {'clip': home/'clip', 'vocoder': home/'vocoder'}
    loaded = Pipeline.load(home/'denoiser', 'cpu', **parts).generate('a dog', **short)
    assert torch.equal(make('denoiser', **parts).waveform, loaded.waveform)
    first = cached_pipeline(model=home/'model', device='cpu', prior=tmp_path/'pd')
    tiny_prior(tmp_path/'pd', clip, seed=5)
    newer = cached_pipeline(model=home/'model', device='cpu', prior=tmp_path/'pd')
    assert newer is not first, 'a newer prior is noticed'
    for wrong, says in ((dict(prior=tmp_path/'pd', system='zs'), f"prior {tmp_path/'pd'} system 'zs'"),
                        (dict(precision='half'), "precision 'half'")):
        with pytest.raises(InputError, match=naming(*says.split())): make(**wrong)

def test_the_package_itself_is_light_and_hands_on_its_face():
    code = '''
import sys, clipsonic
assert not {'torch', 'numpy', 'fastcore', 'clipsonic.core'} & set(sys.modules) and 'generate' in dir(clipsonic)
from clipsonic import generate, Audio
from clipsonic.pipeline import generate as same, Request
from clipsonic.request import Request as also
assert generate is same is clipsonic.generate and Request is also
try: clipsonic.nonesuch
except AttributeError as error: print(error)
'''
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert "no attribute 'nonesuch'" in done.stdout

@pytest.mark.long
def test_priors(home, pipe, tmp_path, photo):
    """A text goes through PD where the model has that prior; each sound draws its own embedding, the same in any
    company; what does not belong together is refused."""
    clip = load_config(home/'denoiser')['clip']
    for name, seed in ('pd', 3), ('sd', 4): tiny_prior(tmp_path/name, clip, seed)
    parts = home/'clip', home/'denoiser', home/'vocoder'
    bridged = Pipeline.load(pack(*parts, tmp_path/'bridged', priors={'pd': tmp_path/'pd', 'sd': tmp_path/'sd'}), 'cpu')
    make = lambda pipe, *args, **kwargs: quiet(pipe, *args, seconds=0.1, seed=7, steps=2, **kwargs)
    systems = {name: make(bridged, 'a dog', system=name) for name in ('zs', 'pd', 'sd', None)}
    assert {name: s.info['system'] for name, s in systems.items()} == {'zs': 'zs', 'pd': 'pd', 'sd': 'sd', None: 'pd'}
    assert torch.equal(systems[None].waveform, systems['pd'].waveform)
    assert torch.equal(systems['zs'].waveform, make(pipe, 'a dog').waveform)
    assert not torch.equal(systems['pd'].waveform, systems['sd'].waveform)
    assert not torch.equal(systems['pd'].waveform, systems['zs'].waveform)
    many = make(bridged, ['rain', 'a dog'], n=2)
    assert torch.equal(many[2].waveform, systems['pd'].waveform) and not torch.equal(many[2].waveform, many[3].waveform)
    assert torch.equal(make(bridged, image=photo).waveform, make(pipe, image=photo).waveform)
    given = {'clip': home/'clip', 'vocoder': home/'vocoder', 'prior': tmp_path/'pd'}
    assert make(Pipeline.load(home/'denoiser', 'cpu', **given), 'a dog').info['system'] == 'pd'
    assert make(Pipeline.load(home/'model', 'cpu', prior=tmp_path/'pd'), 'a dog').info['system'] == 'pd'
    with pytest.raises(InputError, match=naming(repr(pipe.name), "prior 'sd'")): make(pipe, 'a dog', system='sd')
    tiny_prior(tmp_path/'foreign', clip | {'name': 'another', 'hash': 'beef'})
    with pytest.raises(CheckpointError,
                       match=naming('prior', tmp_path/'foreign', "'another'", 'beef', "'tiny-0'")):
        Pipeline.load(home/'model', 'cpu', prior=tmp_path/'foreign')
    with pytest.raises(CheckpointError, match=naming('prior', "'another'")):
        pack(*parts, tmp_path/'no', priors={'pd': tmp_path/'foreign'})
    tiny_prior(tmp_path/'wide', None, dim=32)
    with pytest.raises(CheckpointError, match=naming('CLIP', '32-wide', '24-wide')):
        Pipeline.load(home/'model', 'cpu', prior=tmp_path/'wide')
    with pytest.raises(InputError, match=naming("prior", "'xd'")):
        pack(*parts, tmp_path/'no', priors={'xd': tmp_path/'pd'})
    assert not (tmp_path/'no').exists()

def test_it_says_where_prior_and_text_part_ways(pipe):
    names, known = pipe.known_sounds
    assert pipe.ood_warning(names[0], known[:1], known[:1].expand(3, -1)) is None
    assert re.search(naming(repr(names[0]), repr(names[1])), pipe.ood_warning(names[0], known[:1], known[1:2]))

def test_a_long_prompt_is_cut_aloud(pipe):
    with pytest.warns(UserWarning, match=naming('18 tokens', "'tiny-0'", "'playing the flute'")):
        quiet(pipe, 'a dog and a picture and a dog and a picture and a dog a playing the flute', seconds=0.1, steps=1,
              seed=0)

def test_the_pocket_makes_what_is_asked_for():
    pipeline, network = Pipeline.load("pocket", "cpu"), load_classifier(resolve_model("pocket-listener"), "cpu")
    for prompt, label in ("a flute solo", "playing flute"), ("a revolver", "gun shot"), ("a toad", "frog croaking"):
        made = pipeline.generate(prompt, seed=0, progress=False)
        found = classify_clips(network, log_mel(made.waveform[None], network.config.mel), [label])
        assert found["predicted"] == [label]

def test_loud_sounds_are_turned_down_and_quiet_ones_left():
    assert to_audio(torch.full((1, 9), -5.0), 16000, {}).peak == pytest.approx(0.99)
    assert to_audio(torch.full((1, 9), 0.2), 16000, {}).peak == pytest.approx(0.2)
    assert to_audio(torch.zeros(1, 9), 16000, {}).peak == 0

# what is the same again

@pytest.mark.long
@pytest.mark.parametrize('sampler', ['ddim', 'ddpm', 'dpm++2m'])
def test_a_sound_does_not_change_with_its_company(pipe, sampler):
    make = lambda *args, **kwargs: quiet(pipe, *args, seconds=0.5, seed=7, sampler=sampler, **kwargs)
    alone = make('a dog').waveform
    assert torch.equal(alone, make('a dog').waveform)
    assert torch.equal(alone, make('a dog', n=3)[0].waveform)
    assert torch.equal(alone, make(['rain', 'playing the flute', 'a dog'])[2].waveform)
    first, second = waves(make(['a dog', 'a dog']))
    assert torch.equal(alone, first) and not torch.equal(first, second), 'a query that comes twice gets two sounds'
    assert torch.equal(second, make('a dog', n=2)[1].waveform)

def test_an_image_does_not_change_with_its_company_or_its_form(pipe, photo):
    make = lambda image: quiet(pipe, image=image, seconds=0.5, seed=7, steps=2)
    alone = make(photo).waveform
    other = Image.new('RGB', (64, 64), 'red')
    assert torch.equal(alone, make([other, photo])[1].waveform) and torch.equal(alone, make(Image.open(photo)).waveform)
    assert not torch.equal(alone, make(other).waveform)

def test_seeds(pipe):
    make = lambda seed: quiet(pipe, 'a dog', seconds=0.1, steps=1, seed=seed)
    state = torch.get_rng_state()
    fresh, another = make(None), make(None)
    assert torch.equal(state, torch.get_rng_state()), 'the global generator is left alone'
    assert not torch.equal(fresh.waveform, another.waveform)
    assert torch.equal(fresh.waveform, make(fresh.info['seed']).waveform)

@pytest.mark.long
def test_every_setting_reaches_the_denoiser(pipe):
    make = lambda **kwargs: quiet(pipe, 'a dog', **{**dict(seconds=0.5, seed=0), **kwargs}).waveform
    for other in (dict(seed=1), dict(guidance_scale=1.0), dict(steps=5), dict(sampler='ddpm'), dict(sampler='dpm++2m'),
                  dict(timestep_spacing='trailing'), dict(guidance_interval=(100, 600)), dict(guidance_rescale=0.7),
                  dict(template='the sound of {}'), dict(negative_prompt='a cat')):
        assert not torch.equal(make(), make(**other)), other
    assert torch.equal(make(), make(steps=3, sampler='ddim', guidance_scale=1.5, system='ZS',
                                    timestep_spacing='linspace', guidance_interval=(0, 1000),
                                    guidance_rescale=0)), "the model's own values are the defaults"

def test_what_was_asked_is_in_the_info(pipe):
    info = lambda **kwargs: quiet(pipe, 'a dog', seconds=0.1, seed=0, **kwargs).info
    more = dict(sampler='dpm++2m', timestep_spacing='trailing', guidance_interval=(200, 950), guidance_rescale=0.5)
    assert info(**more).items() >= more.items() and not info().keys() & (more.keys() - {'sampler'})

def test_blends_are_the_weighted_mean_of_their_parts(pipe):
    def condition(prompt, **more):
        request = Request(prompt, seed=0, **more)
        return pipe.conditions(request, pipe.system('zs'), [None] * request.n)[0][0]
    a, b = condition('a dog'), condition('rain')
    torch.testing.assert_close(condition('3*a dog + rain'), torch.nn.functional.normalize(0.75 * a + 0.25 * b, dim=1))
    torch.testing.assert_close(condition('a dog + a dog'), a)
    make = lambda prompt, **more: quiet(pipe, prompt, seconds=0.5, seed=0, **more)
    assert torch.equal(make('1*a dog').waveform, make('a dog').waveform)
    together = make(['rain', 'a dog + rain'], n=2)
    assert torch.equal(together[3].waveform,
                       make('a dog + rain', n=2)[1].waveform), 'a blend does not change with its company'
    assert make('a dog + rain').info['query'] == 'a dog + rain'

def test_a_negative_prompt_takes_the_place_of_the_null_embedding(pipe, photo):
    away, text = pipe.clip.encode_text(['a photo of a cat']), pipe.clip.encode_text(['a photo of a dog'])
    generators = lambda: clip_generators(0, 1)
    painted = pipe.denoiser.sample(text, generators(), 0.5, guidance_scale=2.0, negative=away)
    null = pipe.denoiser.unet.null[None]
    assert torch.equal(pipe.denoiser.sample(text, generators(), 0.5, guidance_scale=2.0, negative=null),
                       pipe.denoiser.sample(text, generators(), 0.5, guidance_scale=2.0))
    assert not torch.equal(painted, pipe.denoiser.sample(text, generators(), 0.5, guidance_scale=2.0))
    sound = quiet(pipe, 'a dog', seconds=0.5, seed=0, guidance_scale=2.0, negative_prompt='a cat', system='zs')
    assert torch.equal(sound.waveform, to_audio(pipe.vocoder(painted)[0, :, :8000], 16000, {}).waveform)
    assert sound.info['negative_prompt'] == 'a cat'
    assert 'negative_prompt' in quiet(pipe, image=photo, seconds=0.5, seed=0, negative_prompt='a cat').info

@pytest.fixture(scope='module')
def few(home, tmp_path_factory):
    "The tiny model with a denoiser that is sampled in two evaluations."
    folder = tmp_path_factory.mktemp('few')
    tiny_distilled(folder/'denoiser', load_config(home/'denoiser')['clip'])
    return Pipeline.load(pack(home/'clip', folder/'denoiser', home/'vocoder', folder/'model'), 'cpu')

@pytest.mark.parametrize('task, evaluations', [
    (dict(), 2), (dict(guidance_scale=1.0), 2), (dict(guidance_interval=(0, 1000)), 2), (dict(seconds=7.0), 6),
    (dict(extend=2.0), 2), (dict(inpaint=(0.5, 1.0)), 2), (dict(strength=0.6), 2), (dict(strength=0.1), 1),
    (dict(negative_prompt='a cat'), 4)])
def test_a_distilled_denoiser_does_every_task(few, task, evaluations):
    audio = Audio(0.1 * torch.sin(torch.arange(32_000) * 0.05)[None], 16_000)
    given = {'audio': audio} if {'extend', 'inpaint', 'strength'} & task.keys() else {}
    rows, network = [], few.denoiser.network
    few.denoiser.network = lambda x, *rest: rows.append(len(x)) or network(x, *rest)
    try: sound = quiet(few, 'a dog + 2*rain', seed=0, **task, **given)
    finally: few.denoiser.network = network
    assert sum(rows) == evaluations and sound.waveform.isfinite().all()
    assert sound.info['steps'] == (1 if task.get('strength') == 0.1 else 2)

def test_a_distilled_denoiser_takes_the_guidance_scale_as_an_input(few):
    weak, strong = (quiet(few, 'a dog', seconds=0.5, seed=0, guidance_scale=w) for w in (1.0, 3.0))
    assert not torch.equal(weak.waveform, strong.waveform)

@pytest.mark.parametrize('setting, says', [
    (dict(steps=8), 'steps 8 2'), (dict(sampler='dpm++2m'), "sampler 'dpm++2m' 'ddim'"), (dict(eta=0.5), 'eta 0.5'),
    (dict(guidance_interval=(100, 970)), 'guidance_interval 100'), (dict(guidance_rescale=0.7), 'guidance_rescale 0.7'),
    (dict(timestep_spacing='logsnr'), "timestep_spacing 'logsnr'"),
    (dict(guidance_scale=5.0), 'guidance_scale 5.0 1 3'), (dict(guidance_scale=0.5), 'guidance_scale 0.5 1 3')])
def test_other_settings_than_those_of_the_distillation_are_refused(few, setting, says):
    with pytest.raises(InputError, match=naming(*says.split())): quiet(few, 'a dog', **setting)

@pytest.fixture(scope='module')
def taught(few, home, tmp_path_factory):
    "The distilled tiny model, with the denoiser that takes any sampling as its teacher."
    parts = Path(few.name)
    return pack(parts/'clip', parts/'denoiser', parts/'vocoder', tmp_path_factory.mktemp('taught')/'model',
                denoisers={'teacher': home/'denoiser'})

@pytest.mark.parametrize('setting', [
    dict(steps=8), dict(sampler='dpm++2m', steps=2), dict(eta=0.5, steps=3),
    dict(guidance_interval=(100, 970), steps=3), dict(guidance_rescale=0.7, steps=3),
    dict(guidance_scale=5.0, steps=3)])
def test_the_teacher_takes_the_settings_that_the_distilled_denoiser_cannot(taught, pipe, setting):
    model, setting = Pipeline.load(taught, 'cpu'), {'seconds': 0.5, 'seed': 3, 'system': 'zs'} | setting
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert torch.equal(quiet(model, 'a dog', **setting).waveform, quiet(pipe, 'a dog', **setting).waveform)

def test_a_model_with_a_teacher_is_as_distilled_without_such_settings(taught, few):
    model = Pipeline.load(taught, 'cpu')
    for setting in {}, {'guidance_scale': 3.0}, {'steps': 2}, {'negative_prompt': 'a cat'}:
        made = quiet(model, 'a dog', seconds=0.5, seed=3, **setting)
        assert torch.equal(made.waveform, quiet(few, 'a dog', seconds=0.5, seed=3, **setting).waveform)
    assert not model.loaded, 'the teacher is not read from the disk where nothing asks for it'

def test_more_steps_than_the_models_own_are_announced(taught):
    with pytest.warns(UserWarning, match=naming(taught, 'teacher', 3, 2)):
        sound = quiet(Pipeline.load(taught, 'cpu'), 'a dog', seconds=0.5, seed=3, guidance_scale=5.0)
    assert sound.info['steps'] == 3

@pytest.mark.parametrize('change, says', [
    ({'distilled': None}, 'guidance_embeds True'), ({'distilled.timesteps': [3900, 1000]}, 'timesteps 3900'),
    ({'distilled.timesteps': [1000, 4000], 'distilled.starts': [4000]}, 'distilled.timesteps 4000'),
    ({'sampling.steps': 3}, 'distilled.timesteps 3'), ({'sampling.sampler': 'ddpm'}, "distilled.timesteps 'ddpm'"),
    ({'distilled.guidance_scales': [1.0]}, 'guidance_scales'),
    ({'unet.guidance_embeds': False}, 'guidance_embeds False')])
def test_damaged_configs_of_distilled_denoisers(home, tmp_path, change, says):
    tiny_distilled(tmp_path/'denoiser', {})
    config = load_config(tmp_path/'denoiser')
    for name, value in change.items():
        *above, name = name.split('.')
        (config[above[0]] if above else config)[name] = value
    write_config(tmp_path/'denoiser', config)
    with pytest.raises(CheckpointError, match=naming(tmp_path/'denoiser', *says.split())):
        load_denoiser(tmp_path/'denoiser', 'cpu')

def test_one_sampling_config_serves_checkpoint_request_and_denoiser(pipe):
    own = pipe.denoiser.sampling
    assert own == SamplingConfig(steps=3, sampler='ddim')
    request = Request('a dog', seed=7, seconds=0.5, system='zs', eta=0.5, guidance_scale=2.0)
    sampling = pipe.sampling_settings(request)
    assert sampling == SamplingConfig(steps=3, sampler='ddim', eta=0.5, guidance_scale=2.0)
    text = pipe.clip.encode_text(['a photo of a dog'])
    mel = pipe.denoiser.sample(text, clip_generators(7, 1), 0.5, sampling)
    assert torch.equal(mel, pipe.denoiser.sample(text, clip_generators(7, 1), 0.5, eta=0.5, guidance_scale=2.0))
    assert not torch.equal(mel, pipe.denoiser.sample(text, clip_generators(7, 1), 0.5, guidance_scale=2.0))
    sound, = pipe.run(request, progress=False)
    assert torch.equal(sound.waveform, to_audio(pipe.vocoder(mel)[0, :, :8000], 16000, {}).waveform)
    assert sound.info.items() >= sampling.summary().items() and sound.info['eta'] == 0.5

def test_num_candidates_reach_the_prior(home, tmp_path):
    tiny_prior(tmp_path/'pd', load_config(home/'denoiser')['clip'])
    pipe = Pipeline.load(home/'model', 'cpu', prior=tmp_path/'pd')
    make = lambda **more: quiet(pipe, 'a dog', seconds=0.1, seed=7, steps=1, **more)
    own = pipe.prior('pd').config.num_candidates
    assert torch.equal(make().waveform, make(num_candidates=own).waveform)
    assert not torch.equal(make().waveform, make(num_candidates=own + 3).waveform)

@pytest.fixture
def tta():
    "A text-conditioned baseline with a denoiser of its own: one class, and one line that registers it."
    @register_system('tta')
    class TTA(ZS):
        denoiser_name, label = 'tta', 'CLIP-TTA'
    yield TTA
    for registry in SYSTEMS, QUERY_TYPES: del registry['tta']

def test_a_system_with_its_own_denoiser_is_one_class(home, tmp_path, tta):
    clip = load_config(home/'denoiser')['clip']
    tiny_denoiser(tmp_path/'other', clip, steps=2, sampler='dpm++2m')
    parts = home/'clip', home/'denoiser', home/'vocoder'
    both = Pipeline.load(pack(*parts, tmp_path/'both', denoisers={'tta': tmp_path/'other'}), 'cpu')
    assert both.systems == ['iq', 'zs', 'tta'] and both.default_system('text') == 'zs'
    make = lambda pipe, **more: quiet(pipe, 'a dog', seconds=0.5, seed=7, **more)
    sound = make(both, system='tta')
    assert (sound.info['system'], sound.info['steps'], sound.info['sampler']) == ('tta', 2, 'dpm++2m')
    alone = Pipeline.load(pack(parts[0], tmp_path/'other', parts[2], tmp_path/'alone'), 'cpu')
    assert torch.equal(sound.waveform, make(alone).waveform) and not torch.equal(sound.waveform, make(both).waveform)
    plain = Pipeline.load(home/'model', 'cpu')
    assert 'tta' not in plain.systems
    with pytest.raises(InputError, match=naming('model', "denoiser 'tta'", "system='zs'")): make(plain, system='tta')
    tiny_denoiser(tmp_path/'foreign', clip | {'name': 'another', 'hash': 'beef'})
    with pytest.raises(CheckpointError, match=naming(tmp_path/'foreign', "'another'", "'tiny-0'")):
        pack(*parts, tmp_path/'no', denoisers={'tta': tmp_path/'foreign'})

# what is refused

@pytest.mark.parametrize('wrong, says', [
    (dict(), 'prompt image video'), (dict(prompt=''), "prompt ''"), (dict(prompt=' \n'), r"prompt ' \n'"),
    (dict(prompt=['a', '']), "prompt ''"), (dict(prompt=3), 'prompt 3'), (dict(prompt=[]), 'empty list'),
    (dict(image=[]), 'empty list'), (dict(prompt='a', image='b.jpg'), 'both prompt image'),
    (dict(image='nonesuch.jpg'), 'nonesuch.jpg image'), (dict(prompt=['rain', 'dog.wav']), "'dog.wav' save -o"),
    (dict(prompt='photo.jpg'), "prompt 'photo.jpg' image='photo.jpg'"),
    (dict(prompt=['a', 'dog', 'barking']), '3 prompts \'a\' "a dog barking"'),
    (dict(prompt=__file__), f'prompt {__file__!r} file'), (dict(image=3), 'image 3'),
    (dict(image=__file__), f'{__file__} image'), (dict(prompt='a', system='IQ'), "system 'iq' prompt 'zs'"),
    (dict(prompt='a', system='pd'), "model prior 'pd' system='zs'"),
    (dict(prompt='a', system='XY'), "system 'XY' 'iq'"),
    (dict(prompt='a', seconds=0), 'seconds 0'), (dict(prompt='a', seconds=-1), 'seconds -1'),
    (dict(prompt='a', seconds=3601), 'seconds 3600 3601'), (dict(prompt='a', seconds=float('nan')), 'seconds nan'),
    (dict(prompt='a', seconds='4'), "seconds '4'"), (dict(prompt='a', seconds=1e-9), 'seconds 1e-09'),
    (dict(prompt='a', n=0), 'n 0'), (dict(prompt='a', n=2.0), 'n 2.0'), (dict(prompt='a', n=True), 'n True'),
    (dict(prompt='a', seed=-1), 'seed -1'), (dict(prompt='a', seed=1.5), 'seed 1.5'),
    (dict(prompt='a', guidance_scale=float('inf')), 'guidance_scale inf'),
    (dict(prompt='a', guidance_scale=-1), 'guidance_scale -1'),
    (dict(prompt='a', steps=0), 'steps 0'), (dict(prompt='a', steps=2.5), 'steps 2.5'),
    (dict(prompt='a', sampler='euler'), "sampler 'euler' 'ddim'"),
    (dict(prompt='a', timestep_spacing='karras'), "spacing 'karras' 'trailing'"),
    (dict(prompt='a', guidance_interval=(600, 200)), 'guidance interval 600 200'),
    (dict(prompt='a', guidance_interval=(0, 2000)), 'guidance interval 0 2000'),
    (dict(prompt='a', guidance_rescale=1.5), 'guidance rescale 1.5'),
    (dict(prompt='a', negative_prompt='b', guidance_scale=1.0), "negative 'b' guidance 1.0"),
    (dict(prompt='a', negative_prompt=' '), 'prompt empty'), (dict(prompt='a', negative_prompt=''), 'prompt empty'),
    (dict(prompt='a', eta=2), 'eta 2'), (dict(prompt='a', eta=0.5, sampler='ddpm'), "eta=0.5 'ddpm' 'ddim'"),
    (dict(prompt='a', num_candidates=0), 'num_candidates 0'),
    (dict(prompt='a', num_candidates=4), "num_candidates=4 'zs' prior"), (dict(video='nonesuch.mp4'), 'nonesuch.mp4'),
    (dict(video=__file__), f'{__file__} video'), (dict(video=[]), 'empty list'), (dict(video=3), 'video 3'),
    (dict(image='b.jpg', video='c.mp4'), 'both image video'), (dict(video='c.mp4', seconds=3), 'seconds=3 video'),
    (dict(video='c.mp4', system='zs'), "system 'zs' video 'iq'"), (dict(prompt='a', best_of=0), 'best_of 0'),
    (dict(prompt='a', n=3, best_of=2), 'best_of 2 n=3'),
    (dict(image=Image.new('RGB', (8, 8)), best_of=2), 'best_of=2 prompt'), (dict(prompt='a', extend=1), 'extend audio'),
    (dict(prompt='a', audio='a.wav'), 'audio strength inpaint extend none'),
    (dict(prompt='a', audio='a.wav', extend=1, strength=0.5), 'audio inpaint not strength and extend'),
    (dict(prompt='a', audio='nonesuch.wav', extend=1), 'nonesuch.wav'),
    (dict(prompt='a', audio=3, extend=1), 'audio 3'),
    (dict(prompt='a', audio='a.wav', seconds=2, extend=1), 'seconds=2 sound'),
    (dict(prompt='a', audio='a.wav', strength=2), 'strength 0.01 1 2'),
    (dict(prompt='a', audio='a.wav', inpaint=2), 'inpaint 2'),
    (dict(prompt='a', audio='a.wav', inpaint=(-1, 2)), 'inpaint -1'),
    (dict(prompt='a', audio='a.wav', extend=0), 'extend 0'), (dict(prompt='much*a + b'), "'much' 'much*a + b'"),
    (dict(prompt='0*a + b'), "'0' '0*a + b'"), (dict(prompt='a + '), "'a + '"),
    (dict(prompt='a', template='sound'), "template 'sound' {}"), (dict(prompt='a', template=None), 'template None {}'),
])
def test_wrong_requests_name_the_value(pipe, wrong, says):
    with pytest.raises((InputError, MediaError), match=naming(*says.split())): quiet(pipe, **wrong)

def test_more_steps_than_the_training_had(pipe):
    with pytest.raises(InputError, match=naming('steps', 4000, 4001)): quiet(pipe, 'a dog', steps=4001)

def test_numpy_numbers_are_numbers():
    assert Request('a', seconds=np.float32(2), n=np.int64(2), steps=np.int32(3), seed=np.int64(5)).n == 2

# models

@pytest.mark.filterwarnings('ignore:no trained vocoder')
def test_a_run_is_a_model_by_its_folder_or_its_checkpoint(home):
    for folder in (home/'denoiser', home/'denoiser'/'model'):
        run = Pipeline.load(folder, 'cpu', clip=home/'clip')
        assert quiet(run, 'a dog', seconds=0.1, steps=1).waveform.shape == (1, 1600)

def test_a_run_whose_clip_is_not_here(home):
    with pytest.raises(CheckpointError, match=naming(home/'denoiser', "CLIP 'tiny-0'", '--clip', 'clipsonic pack')):
        Pipeline.load(home/'denoiser')

def test_a_run_with_a_mel_of_its_own_warns(home, tmp_path):
    tiny_denoiser(tmp_path/'denoiser', load_config(home/'denoiser')['clip'], MelConfig(hop_length=1024))
    with pytest.warns(UserWarning, match=naming('vocoder', 'Griffin-Lim')):
        run = Pipeline.load(tmp_path/'denoiser', 'cpu', clip=home/'clip')
    assert quiet(run, 'a dog', seconds=1.0, steps=1).waveform.shape == (1, 16000)

@pytest.mark.parametrize('model', ['nonesuch', '', None, 7])
def test_unknown_models(model):
    for load in (Pipeline.load, lambda m: generate('a dog', model=m)):
        with pytest.raises((CheckpointError, InputError), match=naming('model', repr(model))): load(model)

def test_folders_that_are_no_model(home, tmp_path):
    with pytest.raises(CheckpointError, match=naming(tmp_path, 'config.json')): generate('a dog', model=tmp_path)
    with pytest.raises(CheckpointError, match=naming(home/'clip', 'clipsonic pack')):
        generate('a dog', model=home/'clip')

@pytest.mark.parametrize('change, says', [(lambda t: t.pop('out.2.bias'), '1 out.2.bias'),
                                          (lambda t: t.update(extra=torch.zeros(1)), '1 extra'),
                                          (lambda t: t.update(null=torch.zeros(3)), '1 null (3,) (24,)')])
def test_weights_that_do_not_fit(home, tmp_path, change, says):
    model = shutil.copytree(home/'model', tmp_path/'model')
    tensors = load_tensors(model/'denoiser', 'model')
    change(tensors)
    save_checkpoint(model/'denoiser', load_config(model/'denoiser'), {'model': tensors})
    with pytest.raises(CheckpointError, match=naming(model/'denoiser', *says.split())): generate('a dog', model=model)

def test_configs_that_do_not_fit(home, tmp_path):
    model = shutil.copytree(home/'model', tmp_path/'model')
    config, tensors = load_config(model/'denoiser'), load_tensors(model/'denoiser', 'model')
    for change, says in [({'unet': {'chanels': 1}}, "unet 'chanels'"), ({'mel': {'n_fft': 1000}}, 'mel n_fft 1000'),
                         ({'diffusion': {'schedule': 'linear'}}, "diffusion.schedule 'linear'")]:
        save_checkpoint(model/'denoiser', {**config, **change}, {'model': tensors})
        with pytest.raises(CheckpointError, match=naming(*says.split())): generate('a dog', model=model)

def test_another_clip_is_refused_and_both_are_named(home, tmp_path):
    (tmp_path/'other').mkdir()
    tiny_clip(tmp_path/'other'/'model', seed=5)
    with pytest.raises(CheckpointError, match=naming(home/'denoiser', "'tiny-0'", "'tiny-5'")):
        pack(tmp_path/'other', home/'denoiser', home/'vocoder', tmp_path/'model')
    assert not (tmp_path/'model').exists()

def test_a_vocoder_of_another_mel_is_refused(home, tmp_path):
    clip = load_config(home/'denoiser')['clip']
    tiny_denoiser(tmp_path/'denoiser', clip, MelConfig(hop_length=1024))
    with pytest.raises(CheckpointError, match=naming('vocoder', 'hop_length=512', 'hop_length=1024')):
        pack(home/'clip', tmp_path/'denoiser', home/'vocoder', tmp_path/'model')

def test_packing_rounds_weights_and_keeps_the_clip(home, pipe):
    about = describe(home/'model')
    assert about['kind'] == 'pipeline' and set(about['parts']) == {'clip', 'denoiser', 'vocoder'}
    assert 'F16' in about['parts']['denoiser']['files']['model']['dtypes']
    assert 'F32' not in about['parts']['denoiser']['files']['model']['dtypes']
    assert pipe.clip.fingerprint == load_config(home/'denoiser')['clip']

def test_one_pipeline_is_kept_until_its_folder_changes(home, tmp_path):
    model = shutil.copytree(home/'model', tmp_path/'model')
    first = cached_pipeline(model=model)
    assert cached_pipeline(model=model) is first and cached_pipeline(model=str(model)) is first
    save_checkpoint(model/'denoiser', load_config(model/'denoiser'), {'model': load_tensors(model/'denoiser', 'model')})
    assert cached_pipeline(model=model) is not first

# what is warned about

def said(pipe, prompt, **kwargs):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        quiet(pipe, prompt, seconds=0.1, steps=1, seed=0, **kwargs)
    return [str(w.message) for w in caught if w.category is UserWarning]

def test_known_words_are_not_warned_about(pipe):
    assert said(pipe, 'a dog barking') == [] and said(pipe, ['rain', 'a flute and its dog']) == []

def test_a_prompt_without_a_known_word(pipe):
    warning, = said(pipe, 'the theremin of zebras')
    assert re.search(naming("'the theremin of zebras'", 3, repr(pipe.name), f'clipsonic info {pipe.name}'), warning)

def test_a_model_that_knows_no_names(home, tmp_path):
    nameless = Pipeline.load(pack(home/'clip', home/'denoiser', home/'vocoder', tmp_path/'nameless'), 'cpu')
    assert said(nameless, 'a dog barking') == []
    warning, = said(nameless, 'the theremin of zebras')
    assert re.search(naming(repr(nameless.name), "'the theremin of zebras'"), warning)

def test_a_prompt_with_an_unknown_word(pipe):
    warning, = said(pipe, ['a dog and a theremin', 'a dog and a theremin'])
    assert re.search(naming("'a dog and a theremin'", "'theremin'"), warning) and 'clipsonic info' not in warning

def test_a_prompt_far_from_all_that_is_known(home, tmp_path):
    model = shutil.copytree(home/'model', tmp_path/'model')
    for threshold, count in (1.5, 1), (-1.5, 0):
        write_config(model, load_config(model) | {'known_threshold': threshold})
        warnings_ = said(Pipeline.load(model, 'cpu'), 'a dog barking')
        assert len(warnings_) == count
        assert all(re.search(naming("'a dog barking'", 3, 'nearest: '), w) and '\n' not in w for w in warnings_)
        shutil.copy(home/'model'/'config.json', model/'config.json')

def test_a_model_with_words_asks_them_and_not_the_similarity(home, tmp_path):
    words = {'dog': {'named': 'dog, big bow wows', 'alone': 'barking'}, 'flute': {'alone': 'playing'}}
    parts = home/'clip', home/'denoiser', home/'vocoder'
    pack(*parts, tmp_path/'words', known_sounds=KNOWS, known_threshold=1.5, known_words=words)
    pipe = Pipeline.load(tmp_path/'words', 'cpu')
    named = {'Dogs!': ['dog'], 'the BIG bow-wow': ['dog'], 'a bow': [], 'dogged': [],
             'loud barking outside': ['dog'], 'a barking seal': [], 'rains': ['rain'],
             'a flute': [], 'playing': ['flute'], 'a dog and rain': ['dog', 'rain'], 'a': []}
    assert {prompt: pipe.named_sounds(prompt) for prompt in named} == named
    name, known = pipe.known_sounds
    assert pipe.ood_warning('a dog', known[:1], known[:1]) is None
    assert re.search(naming("'a dog'", "'rain'"), pipe.ood_warning('a dog', known[:1], known[1:2]))
    assert re.search(naming("'a seal'", 3), pipe.ood_warning('a seal', known[:1], known[:1]))

@pytest.mark.parametrize('prompt', [
    'the sea', 'sea waves', 'waves on a beach', 'a puppy', 'loud honking', 'a dog barking', 'the violin',
    'an ambulance'])
def test_the_pocket_model_is_silent_about_what_it_knows(pocket, prompt): assert said(pocket, prompt) == []

@pytest.mark.parametrize('prompt', [
    'wind howling', 'a truck', 'a fire alarm', 'a crow', 'a theremin', 'crickets chirping', 'geese honking'])
def test_the_pocket_model_warns_in_one_line_about_a_stranger(pocket, prompt):
    warning, = said(pocket, prompt)
    assert warning.startswith(f"{prompt!r} is none of the 30 sounds that the model 'pocket' knows")
    assert warning.endswith('the sound is a guess; clipsonic info pocket lists them')
    assert '\n' not in warning and len(warning) < 160

# what it costs to import

def test_what_the_import_leaves_out():
    heavy = ['open_clip', 'dalle2_pytorch', 'laion_clap', 'librosa', 'matplotlib', 'IPython', 'webdataset',
             'torchaudio', 'torchvision', 'av']
    code = f'import sys, clipsonic.pipeline; print([name for name in {heavy} if name in sys.modules])'
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True,
                          check=True).stdout.strip() == '[]'

def test_another_vocoder_in_place_of_the_model_s(home, tmp_path):
    from clipsonic.gan_vocoder import Generator, GeneratorConfig
    from clipsonic.vocoder import save_vocoder
    save_vocoder(tmp_path/'v', Generator(GeneratorConfig(channels=16)))
    own, floor, other = (Pipeline.load(home/'model', 'cpu', vocoder=v).generate('dog', seconds=0.5, seed=1,
        progress=False).waveform for v in (None, 'griffin-lim', tmp_path/'v'))
    assert own.shape == floor.shape == other.shape and not torch.equal(own, floor) and not torch.equal(floor, other)
    with pytest.raises(InputError, match=naming("vocoder", "'nonesuch'")):
        Pipeline.load(home/'model', 'cpu', vocoder='nonesuch')
