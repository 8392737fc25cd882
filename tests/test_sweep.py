"""Sweeps: settings in words, what they cost, sets rendered once and gone on with, rows that are paired, and what is
refused."""
import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from clipsonic.checkpoint import load_config
from clipsonic.cli import main, parser
from clipsonic.core import Audio, InputError, clip_generators
from clipsonic.pipeline import Pipeline, pack
from clipsonic.samplers import SAMPLERS
from clipsonic.shards import synthetic_shards
from clipsonic.sweep import (GUIDANCE_INTERVAL, GUIDANCE_SCALES, STEPS, guidance_settings, make_setting, nfe_settings,
                             parse_setting, render_settings, settings_nfe, sweep_table)
from clipsonic.systems import load_denoiser
from clipsonic.table import test_queries
from conftest import naming, said
from tiny import tiny_distilled, tiny_model, tiny_prior

@pytest.fixture(scope='module')
def home(tmp_path_factory):
    "`model` with a prior, and `shards` for its CLIP."
    folder = tmp_path_factory.mktemp('sweep')
    bare = tiny_model(folder / 'parts')
    tiny_prior(folder / 'pd', load_config(bare / 'denoiser')['clip'])
    pack(bare / 'clip', bare / 'denoiser', bare / 'vocoder', folder / 'model', known_sounds=['dog'],
         priors={'pd': folder / 'pd'})
    synthetic_shards(folder / 'shards', clips=6, dim=24, seconds=3.0, labels=True)
    return folder

@pytest.fixture
def sweep(home, tmp_path, monkeypatch, capsys):
    "Run `clipsonic sweep`, in an empty folder: status, what was printed, the error."
    monkeypatch.chdir(tmp_path)
    def run(what, *words, model=home / 'model', n=3):
        status = main(['sweep', what, '--data', str(home / 'shards'), '--model', str(model), '--n', str(n), '--seconds',
                       '0.5', '--device', 'cpu', '--sets', 'renders', '-o', 'out.json', *words])
        return status, *capsys.readouterr()
    return run

def sounds(): return {str(f): f.read_bytes() for f in sorted(Path('renders').glob('*/*.wav'))}

@pytest.mark.long
def test_guidance_is_swept_for_every_system_once_and_in_pairs(sweep):
    words = ['--weights', '1', '3', '--steps', '2']
    status, printed, _ = sweep('guidance', *words)
    result = json.loads(Path('out.json').read_text())
    rows = result['rows']
    assert status == 0 and printed.count('\n| ') == 7
    assert [(r['system'], r['guidance_scale'], r['nfe']) for r in rows] == [
        (s, scale, 2 if scale == 1 else 4) for s in ('iq', 'zs', 'pd') for scale in (1.0, 3.0)]
    assert {(r['sampler'], r['timestep_spacing'], r['steps'], r['guidance_interval']) for r in rows} == {
        ('ddim', 'linspace', 2, None)}
    assert all(r['fad']['low'] <= r['fad']['value'] <= r['fad']['high'] and r[f]['n'] == 3 for r in rows
               for f in ('fad', 'clap', 'kl_pocket'))
    for first, r in zip(rows[::2], rows[1::2]):
        assert 'fad_difference' not in first
        assert r['fad_difference']['from'] == first['name'] == f"{r['system']}_w1_ddim_2_linspace"
        assert r['fad_difference']['value'] == pytest.approx(r['fad']['value'] - first['fad']['value'], abs=1e-6)
    assert result['protocol']['renders']['n'] == 3 and result['protocol']['renders']['kind'] == 'sweep'
    before = sounds()
    assert len(before) == 21 and len(set(before.values())) == 21  # real, and six settings
    Path('renders/pd_w3_ddim_2_linspace/0001.wav').unlink()
    assert sweep('guidance', *words)[0] == 0 and sounds() == before
    assert json.loads(Path('out.json').read_text()) == result
    times = {f: Path(f).stat().st_mtime_ns for f in before}
    assert sweep('guidance', '--weights', '2', '--steps', '2', '--systems', 'iq')[0] == 0  # more of them, later
    assert len(sounds()) == 24 and all(Path(f).stat().st_mtime_ns == t for f, t in times.items())
    assert [r['guidance_scale'] for r in json.loads(Path('out.json').read_text())['rows']] == [2.0]

def test_a_clip_has_its_own_noise_in_every_setting(home, tmp_path):
    pipeline = Pipeline.load(home / 'model', 'cpu')
    many, few = tmp_path / 'many', tmp_path / 'few'
    settings = [make_setting('ddpm', 2, guidance_scale=guidance_scale) for guidance_scale in (1.0, 1.000001, 2.0)]
    for out, n in (many, 3), (few, 2): render_settings(pipeline, home / 'shards', out, settings, n, 0.5, progress=False)
    read = lambda out, s, i: (out / str(s) / f'{i:04d}.wav').read_bytes()
    # the first clips, whatever follows
    assert all(read(few, s, i) == read(many, s, i) for s in settings for i in range(2))
    asked = test_queries(home / 'shards', 3, 0.5)
    made = pipeline.system('iq').synthesize(asked['embedding'][1:2], clip_generators(0, 1, start=1), 0.5,
                                            guidance_scale=2.0, steps=2, sampler='ddpm')[0]
    Audio(made * min(1.0, 0.99 / made.abs().max().item()), 16000).save(tmp_path / 'alone.wav')
    assert (tmp_path / 'alone.wav').read_bytes() == read(many, settings[2], 1)

@pytest.mark.long
@pytest.mark.parametrize('words', ['ddim 7', 'ddim 9 100 970', 'dpm++2m 11 100 970', 'dpm++2m 6 trailing 200 900',
                                   'ddpm 5'])
@pytest.mark.parametrize('guidance_scale', [1.0, 1.5])
def test_evaluations_are_those_that_the_network_answers(home, words, guidance_scale, tmp_path):
    pipeline, s = Pipeline.load(home / 'model', 'cpu'), parse_setting(words, guidance_scale)
    answers = []
    # the model's own, which a setting does not take over
    pipeline.denoiser.sampling = replace(pipeline.denoiser.sampling, guidance_interval=(400, 600))
    network = pipeline.denoiser.network
    pipeline.denoiser.network = lambda x, *rest: answers.append(len(x)) or network(x, *rest)
    render_settings(pipeline, home / 'shards', tmp_path / 'renders', [s], 2, 0.5, progress=False)
    assert settings_nfe(pipeline, [s])[s] * 2 == sum(answers)

def test_the_lists_that_are_swept_when_nobody_asks(home):
    pipeline = Pipeline.load(home / 'model', 'cpu')
    turned, walks = guidance_settings(pipeline), nfe_settings(pipeline)
    assert [(s.system, s.guidance_scale) for s in turned] == [
        (system, scale) for system in ('iq', 'zs', 'pd') for scale in GUIDANCE_SCALES]
    assert {(s.sampler, s.steps) for s in turned} == {('ddim', 3)}
    assert str(walks[0]) == 'iq_w1.5_ddim_3_linspace'
    assert set(walks[1:]) == {make_setting(sampler, steps, None, between) for sampler in SAMPLERS for steps in STEPS
                              for between in (None, GUIDANCE_INTERVAL)}
    assert len({str(s) for s in walks}) == len(walks) == len(settings_nfe(pipeline, walks))
    pipeline.denoiser.sampling = replace(pipeline.denoiser.sampling, guidance_interval=(200.0, 800.0))
    assert {s.guidance_interval for s in guidance_settings(pipeline)} == {(200, 800)}
    assert {s.guidance_interval for s in guidance_settings(pipeline, guidance_interval=(0, 1000))} == {None}
    assert str(nfe_settings(pipeline)[0]) == 'iq_w1.5_ddim_3_linspace_200-800'

def test_a_distilled_model_is_swept_as_it_was_distilled(home, tmp_path):
    tiny_distilled(tmp_path / 'denoiser', {})
    pipeline = Pipeline.load(home / 'model', 'cpu')
    pipeline.denoiser = load_denoiser(tmp_path / 'denoiser', 'cpu')
    own = nfe_settings(pipeline)
    assert [str(s) for s in own] == ['iq_w1.5_ddim_2_linspace'] and settings_nfe(pipeline, own) == {own[0]: 2}
    for wrong, says in (make_setting('ddim', 8), 'steps 8'), (make_setting('ddpm', 2), "sampler 'ddpm'"):
        with pytest.raises(InputError, match=naming(*says.split())): settings_nfe(pipeline, [*own, wrong])

@pytest.mark.long
def test_seeds_are_sets_of_their_own_noise(sweep, home, tmp_path):
    words = ['--settings', 'ddim 2', 'ddpm 2']
    status, printed, _ = sweep('evaluations', *words, '--draws', '2')
    rows = json.loads(Path('out.json').read_text())['rows']
    assert status == 0
    assert [(r['sampler'], r['seed_index']) for r in rows] == [('ddim', 0), ('ddim', 1), ('ddpm', 0), ('ddpm', 1)]
    assert [r.get('fad_difference', {}).get('from') for r in rows] == [None, None, rows[0]['name'], rows[1]['name']]
    fads = torch.tensor([r['fad']['value'] for r in rows], dtype=torch.float64)
    shown = [line for line in printed.splitlines() if 'ddim' in line]
    assert len(shown) == 1
    assert f'iq_w1.5_ddim_2_linspace, 2 seeds | 4 | {fads[:2].mean():.3g} ± {fads[:2].std():.2g} |' in shown[0]
    made = sounds()
    assert len(set(made.values())) == len(made) == 15  # real, and two settings twice
    pipeline, asked = Pipeline.load(home / 'model', 'cpu'), test_queries(home / 'shards', 3, 0.5)
    alone = pipeline.system('iq').synthesize(asked['embedding'][2:], clip_generators(1, 1, start=2), 0.5,
                                             guidance_scale=1.5, steps=2, sampler='ddim')[0]
    Audio(alone * min(1.0, 0.99 / alone.abs().max().item()), 16000).save(tmp_path / 'alone.wav')
    # the noise of the next seed, the clip of this one
    assert (tmp_path / 'alone.wav').read_bytes() == made['renders/iq_w1.5_ddim_2_linspace_seed1/0002.wav']
    assert sweep('evaluations', *words)[0] == 0 and sounds() == made  # one seed is the first of two
    assert [r['fad'] for r in json.loads(Path('out.json').read_text())['rows']] == [r['fad'] for r in rows[::2]]

@pytest.mark.long
def test_folders_and_results_of_before_are_found(sweep):
    "Before 0.1.0 a further seed was a draw, in the names of its folder and row."
    words = ['--settings', 'ddim 2', '--n-seeds', '2']
    assert sweep('evaluations', *words)[0] == 0
    made, new = sounds(), Path('renders/iq_w1.5_ddim_2_linspace_seed1')
    new.rename(f'{new}'.replace('seed1', 'draw1'))
    stamps = [f.stat().st_mtime_ns for f in sorted(Path('renders').glob('*/*.wav'))]
    _, printed, _ = sweep('evaluations', *words)
    assert sounds() == made and [f.stat().st_mtime_ns for f in sorted(Path('renders').glob('*/*.wav'))] == stamps
    older = Path('out.json').read_text().replace('_seed1', '_draw1').replace('"embedder":', '"by":')
    Path('older.json').write_text(older.replace('"metrics":', '"measures":'))
    assert sweep_table('older.json') == sweep_table('out.json') == printed.splitlines()[:-1]

@pytest.mark.long
def test_sounds_from_elsewhere_must_be_as_many(sweep, home):
    words = ['--settings', 'ddim 2', 'dpm++2m 3 100 970']
    assert sweep('evaluations', *words)[0] == 0
    there = Path('renders/iq_w1.5_dpm++2m_3_logsnr_100-970')
    status, printed, _ = sweep('evaluations', *words, '--also', f'long={there}')
    rows = json.loads(Path('out.json').read_text())['rows']
    assert status == 0 and [r['name'] for r in rows] == ['iq_w1.5_ddim_2_linspace', there.name, 'long']
    assert '| long | – |' in printed
    assert rows[2]['fad'] == rows[1]['fad'] and rows[2]['fad_difference'] == rows[1]['fad_difference']
    assert 'nfe' not in rows[2]
    part = Path('part'); part.mkdir()
    for f in sorted(there.glob('*.wav'))[:2]: (part / f.name).write_bytes(f.read_bytes())
    kept = Path('out.json').read_bytes()
    for folder, says in ('part', ['part', 2, 3]), ('none', ['none']):
        status, _, err = sweep('evaluations', *words, '--also', f'long={folder}')
        line, = said(err)
        assert status == 2 and re.search(naming(*says), line)
    assert Path('out.json').read_bytes() == kept

@pytest.mark.parametrize('words, says', [
    (['evaluations', '--settings', 'ddim'], '\'ddim\' "ddim 25"'),
    (['evaluations', '--settings', 'euler 9'], "sampler 'euler' 'ddim'"),
    (['evaluations', '--settings', 'ddim 9 karras'], "spacing 'karras' 'trailing'"),
    (['evaluations', '--settings', 'ddim 9 970 100'], 'interval 970 100'),
    (['evaluations', '--settings', 'ddim 4001'], 'steps 4001 4000'),
    (['evaluations', '--settings', 'ddim 9', 'ddim 9 linspace'], 'iq_w1.5_ddim_9_linspace twice'),
    (['evaluations', '--system', 'sd'], "system 'sd'"), (['evaluations', '--guidance', '-1'], 'guidance -1'),
    (['evaluations', '--also', 'long'], '--compare long NAME=FOLDER'),
    (['guidance', '--weights', '1', '1'], 'w1 twice'),
    (['guidance', '--weights', 'nan'], 'guidance nan'), (['guidance', '--steps', '0'], 'steps 0'),
    (['guidance', '-o', 'no/out.json'], 'no/out.json folder'),
    (['guidance', '--sets', 'no/sets'], 'no/sets folder'), (['evaluations', '--draws', '0'], 'n_seeds 0')])
def test_refused_at_the_door(sweep, words, says):
    status, _, err = sweep(*words)
    line, = said(err)
    assert status == 2 and re.search(naming(*says.split()), line) and not list(Path().iterdir())

def test_a_folder_of_another_protocol_is_refused(sweep, home):
    words = ['guidance', '--weights', '1', '--systems', 'iq', '--steps', '2']
    assert sweep(*words)[0] == 0
    before = sounds()
    for more in ['--n', '2'], ['--seed', '1'], ['--model', str(home / 'parts' / 'model')]:
        status, _, err = sweep(*words, *more)
        assert status == 2 and re.search(naming('renders', 'protocol'), err) and sounds() == before

def test_the_examples_of_the_help_are_commands(capsys):
    for what in 'guidance', 'evaluations':
        with pytest.raises(SystemExit): main(['sweep', what, '--help'])
        text = capsys.readouterr().out
        for line in text.split('examples:')[1].strip().splitlines():
            args = parser().parse_args(shlex.split(line)[1:])
            assert args.what == what and args.n in (256, 512)
        text = ' '.join(text.split())
        scales = ' '.join(f'{scale:g}' for scale in GUIDANCE_SCALES)
        numbers = [*STEPS, *GUIDANCE_INTERVAL] if what == 'evaluations' else [scales]
        assert re.search(naming(*numbers), text)

@pytest.mark.parametrize('name, n, first', [('guidance', 256, 'w1.5_ddim_4_linspace'),
                                            ('distilled', 512, 'w1.5_dpm++2m_11_logsnr_100-970'),
                                            ('evaluations', 512, 'w1.5_ddpm_1000_linspace'),
                                            ('seeds', 512, 'w1.5_dpm++2m_11_logsnr_100-970')])
def test_the_committed_sweeps_say_what_they_were_made_of(name, n, first):
    from conftest import root
    result = json.loads((root / 'nbs' / 'results' / f'{name}.json').read_text())
    pipeline = Pipeline.load('pocket', 'cpu')
    assert result['protocol']['renders']['n'] == n and result['protocol']['renders']['kind'] == 'sweep'
    for row in result['rows']:
        s = make_setting(row['sampler'], row['steps'], row['timestep_spacing'], row['guidance_interval'],
                         row['guidance_scale'], row['system'])
        s = replace(s, seed_index=row.get('seed_index', 0))
        assert row['name'] == str(s) and row['nfe'] == settings_nfe(pipeline, [s])[s]
        assert row['fad']['n'] + len(row['bad']) == n
        assert ('fad_difference' in row) == (row['name'] != f"{row['system']}_{first}" + f'_seed{s.seed_index}'
                                             * (s.seed_index > 0))
