"""Sounds from a folder, scored: damaged files by the thousand, the same bits every time, caches that lie, and what the
terminal says."""
import json
import os
import re
import shutil
import sqlite3
import sys
from collections import Counter
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
import soundfile
import torch

from clipsonic.cli import main
from clipsonic.core import Audio, InputError, MediaError
from clipsonic.embedders import Embedder, classifier_embedder, load_embedder
from clipsonic.evaluate import (METRICS, FeatureCache, evaluate, extract_features, find_sounds, load_for_scoring,
                                metric_lines, read_prompts, sounds_and_others)
from clipsonic.fad import frechet_distance
from clipsonic.video import read_audio
from conftest import naming
from test_fad import slack, spread

REASONS = {'unreadable', 'no audio track', 'truncated', 'too short', 'not finite', 'out of scale', 'opposite phase',
           'silent'}

def burst(seed, seconds=0.5, rate=16000, channels=1):
    "A decaying noise with a tone in it: (time, channel)"
    rng, t = np.random.default_rng(seed), np.arange(round(seconds * rate)) / rate
    return (0.3 * np.exp(-3 * t)[:, None] * (rng.standard_normal((len(t), channels)) * 0.3
                                             + np.sin(2 * np.pi * (150 + 40 * (seed % 40)) * t)[:, None])).clip(-1, 1)

def folder_of(path, n, **options):
    path.mkdir()
    for i in range(n): soundfile.write(path / f'{i:03d}.wav', burst(i, **options), options.get('rate', 16000))
    return path

def loudness(waveform): return waveform.unfold(1, 1600, 1600)[0].square().mean(1, keepdim=True)[:2].T.contiguous()

METER = Embedder('loudness', '0', 16000, loudness, min_seconds=0.2)

def quiet(generated, reference=None, prompts=None, **options):
    defaults = dict(cache_file=':memory:', device='cpu', progress=False)
    return evaluate(generated, reference=reference, prompts=prompts, **defaults | options)

@pytest.fixture(scope='module')
def made(tmp_path_factory): return folder_of(tmp_path_factory.mktemp('sets') / 'made', 12)

@pytest.fixture(scope='module')
def real(made):
    path = made.parent / 'real'
    path.mkdir()
    for i in range(12): soundfile.write(path / f'{i:03d}.flac', burst(i + 5, 0.7, 44100), 44100)
    return path

@pytest.fixture(scope='module')
def prompts(made):
    classes = classifier_embedder(device='cpu').classes
    path, rows = made.parent / 'prompts.csv', (f'{i:03d}.wav,{classes[i % 3]},{classes[i % 3]}\n' for i in range(12))
    path.write_text('file,prompt,label\n' + ''.join(rows))
    return path

def damaged(folder, n, rng):
    "n media files of every kind of trouble; returns what each must come to, where that is certain"
    folder.mkdir()
    formats, expected = ['wav', 'flac', 'ogg', 'mp3'], {}
    whole = {f: (soundfile.write(folder / f'whole.{f}', burst(1), 16000), (folder / f'whole.{f}').read_bytes())[1]
             for f in formats}
    for f in formats: (folder / f'whole.{f}').unlink()
    for i in range(n):
        kind, f = i % 12, formats[i // 12 % 4]
        path, data = folder / f'{i:04d}.{f if kind < 5 else "wav"}', bytearray(whole[f])
        # cut off anywhere; an mp3 does not know its end
        if kind == 0:
            path.write_bytes(data[:rng.integers(1, len(data))])
            if f != 'mp3': expected[path.stem] = {'truncated', 'unreadable'}
        elif kind == 1: data[:rng.integers(4, 60)] = rng.bytes(4); path.write_bytes(data)           # a wrong header
        elif kind == 2:                                                                             # some bytes turned
            for at in rng.integers(0, len(data), 20): data[at] = rng.integers(256)
            path.write_bytes(data)
        elif kind == 3: path.write_bytes(b''); expected[path.stem] = 'unreadable'
        # noise with the name of a sound
        elif kind == 4: path.write_bytes(rng.bytes(rng.integers(1, 5000)))
        elif kind == 5: soundfile.write(path, burst(i), 16000, subtype='PCM_U8'); expected[path.stem] = None
        elif kind == 6: soundfile.write(path, burst(i, 0.5, 96000), 96000, subtype='PCM_24'); expected[path.stem] = None
        elif kind == 7: soundfile.write(path, burst(i, channels=6), 16000); expected[path.stem] = None
        elif kind == 8:
            sound = burst(i); sound[rng.integers(len(sound))] = [np.nan, np.inf][i // 12 % 2]
            soundfile.write(path, sound, 16000, subtype='FLOAT'); expected[path.stem] = 'not finite'
        elif kind == 9: soundfile.write(path, burst(i, 0.02), 16000); expected[path.stem] = 'too short'
        elif kind == 10: soundfile.write(path, burst(i) * 1e-5, 16000, subtype='FLOAT'); expected[path.stem] = 'silent'
        # long enough for itself, not for the embedder
        else: soundfile.write(path, burst(i, 0.15), 16000); expected[path.stem] = 'too short'
    return expected

@pytest.mark.long
def test_a_thousand_damaged_files_each_end_in_a_named_outcome(tmp_path):
    expected = damaged(tmp_path / 'bad', 1000, np.random.default_rng(0))
    rows, bad = extract_features(find_sounds(tmp_path / 'bad'), METER, FeatureCache(tmp_path / 'cache'), progress=False)
    assert len(rows) + len(bad) == 1000 and not rows.keys() & bad.keys()
    outcome = {name: None for name in rows} | {name: error.reason for name, error in bad.items()}
    counts = Counter(outcome.values())
    print(counts)
    assert counts.keys() - {None} <= REASONS
    wrong = {k: (outcome[k], v) for k, v in expected.items() if outcome[k] not in (v if isinstance(v, set) else {v})}
    assert not wrong
    assert all(str(tmp_path / 'bad' / name) in str(error) for name, error in bad.items())
    assert all(torch.isfinite(x).all() for x in rows.values())
    with pytest.raises(InputError, match=naming(len(bad), 'generated', 'not finite', '--skip-bad')):
        quiet(tmp_path / 'bad', embedder=METER, metrics=['fad'], reference=tmp_path / 'bad')
    result = quiet(tmp_path / 'bad', tmp_path / 'bad', embedder=METER, metrics=['fad', 'nearest'], skip_bad=True)
    assert {b['file']: b['reason'] for b in result['files']['bad']
            if b['file'].startswith('generated/')} == {f'generated/{s.file}': bad[s.name].reason
                                                       for s in find_sounds(tmp_path / 'bad') if s.name in bad}
    assert str(tmp_path) not in json.dumps(result)  # a result tells nothing of the machine that it was made on
    assert result['fad']['n'] == len(rows) and result['files']['generated'] == 1000
    # turned bytes make a few sounds very loud
    assert result['fad']['value'] <= slack(2 * spread(torch.cat([*rows.values()])))

@pytest.mark.long
def test_every_metric_is_the_same_to_the_bit_whatever_the_order_the_workers_and_the_cache(
        made, real, prompts, tmp_path):
    metrics = [m for m in METRICS if m != 'fad_infinity']
    first = quiet(made, real, prompts, metrics=metrics)
    assert {'fad', 'kl_pocket', 'fid_pocket', 'clap', 'clap_max', 'clap_mean', 'clap_min', 'accuracy_pocket',
            'inception_score_pocket', 'nearest', 'diversity'} == {k for k, v in first.items() if 'value' in v}
    assert all(v['n'] == 12 and v['embedder'] for v in first.values() if 'value' in v)
    for name in ('made', 'real'):  # the same files, made in another order and found in another folder
        (tmp_path / name).mkdir()
        for file in sorted((made.parent / name).iterdir(), reverse=True): shutil.copy(file, tmp_path / name)
    cache = tmp_path / 'cache.sqlite'
    assert quiet(tmp_path / 'made', tmp_path / 'real', prompts, metrics=metrics[::-1], workers=0,
                 cache_file=cache) == quiet(made, real, prompts, metrics=metrics, workers=2,
                                            cache_file=':memory:') == first
    with patch('clipsonic.evaluate.load_for_scoring', side_effect=AssertionError('a file was decoded')):
        assert quiet(tmp_path / 'made', tmp_path / 'real', prompts, metrics=metrics, workers=2,
                     cache_file=cache) == first
    half = [made / f'{i:03d}.wav' for i in range(6)]
    one, two = (extract_features(find_sounds(part), load_embedder(device='cpu'), FeatureCache(':memory:'),
                                 progress=False)[0] for part in (half, made))
    assert all(torch.equal(one[k], two[k]) for k in one) and len(one) == 6

def rows_of(embedder, folder): return torch.cat([embedder(read_audio(file, None)) for file in sorted(folder.iterdir())])

def test_metrics_are_those_of_their_functions(made, real, prompts):
    embedder = load_embedder(device='cpu')
    sets = [rows_of(embedder, folder) for folder in (made, real)]
    result = quiet(made, real, prompts, metrics=['fad', 'clap', 'nearest'], n_resamples=0)
    assert result['fad']['value'] == frechet_distance(*sets) and result['fad']['low'] is None
    by_name = sorted(read_prompts(prompts, find_sounds(made)).items())
    texts = torch.cat([embedder.text([row['prompt']]) for _, row in by_name])
    assert result['clap']['value'] == pytest.approx((sets[0] * texts).sum(1).double().mean().item(), abs=1e-7)
    assert result['nearest']['value'] == pytest.approx((sets[0] @ sets[1].T).amax(1).double().mean().item(), abs=1e-6)

def test_the_pockets_networks_give_the_same_on_any_number_of_threads(real):
    "On a machine of any size, whoever asks"
    before, sounds = torch.get_num_threads(), [read_audio(f, None) for f in sorted(real.iterdir())]
    features_on = {}
    try:
        for threads in 1, 2, 3:
            torch.set_num_threads(threads)
            embedders = load_embedder(device='cpu'), classifier_embedder(device='cpu')
            texts = embedders[0].text(['a dog barking'])
            features_on[threads] = torch.cat([embedder(s) for s in sounds for embedder in embedders] + [texts], 1)
            assert torch.get_num_threads() == threads
    finally: torch.set_num_threads(before)
    assert torch.equal(features_on[1], features_on[2]) and torch.equal(features_on[1], features_on[3])

def test_a_changed_file_is_embedded_again_and_a_damaged_row_is_left_out(made, tmp_path):
    folder, cache = shutil.copytree(made, tmp_path / 'made'), tmp_path / 'cache.sqlite'
    def count():
        calls, kept = [], FeatureCache(cache)
        embedder = replace(METER, embed=lambda waveform: calls.append(1) or loudness(waveform))
        rows, _ = extract_features(find_sounds(folder), embedder, kept, progress=False)
        kept.db.close()
        return len(calls), {name: row.tolist() for name, row in rows.items()}
    first = count()
    assert first[0] == 12 and count() == (0, first[1])
    soundfile.write(folder / '000.wav', burst(99), 16000)
    assert count()[0] == 1
    shutil.copy(made / '000.wav', folder / '000.wav')
    assert count() == (0, first[1])  # its bytes are known from before
    db = sqlite3.connect(cache)
    with db: db.execute('UPDATE features SET data = zeroblob(length(data)) WHERE rowid % 3 = 0')
    with db: db.execute('UPDATE features SET columns = 15 WHERE rowid % 3 = 1')
    db.close()
    assert count() == (9, first[1]) or count()[1] == first[1]
    cache.write_bytes(cache.read_bytes()[:5000])
    with pytest.warns(UserWarning, match=naming(cache, f'{cache}.broken')): assert count() == (12, first[1])

def test_a_cache_that_somebody_writes_to_is_left_alone(made, tmp_path):
    cache = tmp_path / 'cache.sqlite'
    FeatureCache(cache).db.close()
    db, connect = sqlite3.connect(cache, isolation_level=None), sqlite3.connect
    db.execute('BEGIN EXCLUSIVE')
    impatient = patch('sqlite3.connect', lambda path, timeout: connect(path, timeout=0.1))
    with impatient, pytest.warns(UserWarning, match=naming(cache, 'locked', '--cache')) as told:
        cached = quiet(made, embedder=METER, metrics=['inception_score'], cache_file=cache)
        assert cached == quiet(made, embedder=METER, metrics=['inception_score'])
    assert len(told) == 1 and cache.is_file() and not (tmp_path / 'cache.sqlite.broken').exists()

@pytest.mark.parametrize('environment', [{'HOME': '/dev/null'}, {'CLIPSONIC_CACHE': '/dev/null/x'}, {}])
def test_no_place_for_a_cache_ends_nothing(made, tmp_path, monkeypatch, environment):
    for name in ('CLIPSONIC_CACHE', 'XDG_CACHE_HOME', 'HOME', 'USERPROFILE'): monkeypatch.delenv(name, raising=False)
    for name, value in environment.items(): monkeypatch.setenv(name, value)
    if not environment:  # a container's user who is in no list
        pwd = pytest.importorskip('pwd')
        def nobody(uid): raise KeyError(uid)
        monkeypatch.setattr(pwd, 'getpwuid', nobody)
    with pytest.warns(UserWarning, match=naming('cache', '--cache', 'CLIPSONIC_CACHE')) as told:
        result = quiet(made, embedder=METER, metrics=['inception_score'], cache_file=None)
    assert len(told) == 1 and result == quiet(made, embedder=METER, metrics=['inception_score'])

@pytest.mark.parametrize('limit, reason', [('busy_timeout = 20', 'locked'), ('max_page_count = 6', 'is full')])
def test_a_cache_that_takes_nothing_new_is_read_on(made, tmp_path, limit, reason):
    cache, sounds = FeatureCache(tmp_path / 'cache.sqlite'), find_sounds(made)
    before, _ = extract_features(sounds[:2], METER, cache, progress=False)
    cache.db.execute(f'PRAGMA {limit}')
    other = sqlite3.connect(tmp_path / 'cache.sqlite', isolation_level=None)
    if reason == 'locked': other.execute('BEGIN IMMEDIATE')  # who writes lets others read
    with pytest.warns(UserWarning, match=naming(tmp_path / 'cache.sqlite', reason, '--cache')) as told:
        for _ in range(2):
            rows, bad = extract_features(sounds, Embedder('wide', '0', 16000, lambda w: torch.ones(300, 30)), cache,
                                  progress=False)
        again, _ = extract_features(sounds[:2], replace(METER, embed=None), cache, progress=False)  # all is cached
    assert len(told) == 1 and len(rows) == 12 and not bad and all(torch.equal(again[k], before[k]) for k in before)

def test_a_cache_that_breaks_while_it_is_read_is_worked_out_anew(made, tmp_path):
    path, sounds = tmp_path / 'cache.sqlite', find_sounds(made)
    wide = Embedder('wide', '0', 16000, lambda w: torch.ones(300, 30))
    kept = FeatureCache(path)
    extract_features(sounds, wide, kept, progress=False)
    kept.db.close()
    data = bytearray(path.read_bytes())
    data[20 * 4096:30 * 4096] = b'\xff' * 40960  # its first pages are whole
    path.write_bytes(data)
    with pytest.warns(UserWarning, match=naming(path, f'{path}.broken')) as told:
        rows, _ = extract_features(sounds, wide, FeatureCache(path), progress=False)
    assert len(told) == 1 and len(rows) == 12 and (tmp_path / 'cache.sqlite.broken').is_file()

def test_several_rows_a_clip_are_drawn_together(made, real):
    "VGGish's way: an embedder with several rows a clip, whose neighbours are alike"
    def levels(w):
        power = w.unfold(1, 800, 800)[0].square().mean(1, keepdim=True)
        return power.log().expand(-1, 2) * torch.tensor([1.0, 0.5])
    many = Embedder('many', '0', 16000, levels)
    result = quiet(made, real, embedder=many, metrics=['fad'])
    rows = [rows_of(many, folder) for folder in (made, real)]
    assert len(rows[0]) == 120 and result['fad']['n'] == 12
    assert result['fad']['value'] == frechet_distance(*rows)
    assert result['fad']['low'] < result['fad']['value'] < result['fad']['high']

def test_requests_that_cannot_be_met_are_named(made, real, prompts, tmp_path):
    for options, says in [(dict(metrics=['fad']), "'fad' --reference"),
                          (dict(metrics=['kl'], reference=made / '000.wav'), "'kl' reference 1 12 001"),
                          (dict(metrics=['accuracy']), "'accuracy' label prompts"),
                          (dict(metrics=['sharpness']), "metric 'sharpness' fad kl"),
                          (dict(metrics=[]), 'metric fad kl'),
                          (dict(embedder='encodec', reference=real), "embedder 'encodec' 'pocket'"),
                          (dict(out=tmp_path / 'no' / 'row.json'), f'{tmp_path}/no/row.json folder'),
                          (dict(prompts=tmp_path / 'none.csv'), f'{tmp_path}/none.csv'),
                          (dict(metrics=['fad_infinity'], reference=real), 'FAD∞ 12 128 2048')]:
        with pytest.raises(InputError, match=naming(*says.split())): quiet(made, **options)
    (tmp_path / 'empty').mkdir()
    with pytest.raises(InputError, match=naming(tmp_path / 'empty', 'sounds')): quiet(tmp_path / 'empty')
    twins = shutil.copytree(made, tmp_path / 'twins')
    soundfile.write(twins / '000.flac', burst(3), 16000)
    with pytest.raises(InputError, match=naming(twins, "'000'", '000.flac', '000.wav')): quiet(twins)

@pytest.mark.parametrize('text, says', [
    ('a,b\n1,2\n', "columns file prompt 'a,b'"), ('file,prompt\n000.wav,\n', "line 2 '000.wav' prompt"),
    ('file,prompt\nx.wav,a dog\n', "line 2 sound 'x.wav'"),
    ('file,prompt\n000.wav,a dog\n000,a cat\n', "line 3 '000'"),
    ('file,prompt\n000.wav,a dog\n', '11 12 001.wav 005.wav'),
    ('file,prompt\n000.wav,a dog, then a cat\n', 'line 2 3 fields 2 columns file, prompt comma quotes'),
    ('file,prompt,label\n000.wav,"a dog",dog\n\n001.wav,a dog, then a cat,dog\n', 'line 4 4 fields 3 columns'),
    ('file;prompt\n000.wav;a dog\n', "columns commas 'file;prompt'"),
    ('file\tprompt\n000.wav\ta dog\n', r"columns commas 'file\tprompt'"),
    ('file,prompt\n000.wav,"a dog\n001.wav,a cat\n', 'line 3 quotes'),
    ('file,prompt,prompt\n000.wav,a dog,a cat\n', "columns once 'file,prompt,prompt'")])
def test_prompts_and_sounds_must_belong_together(made, tmp_path, text, says):
    (tmp_path / 'prompts.csv').write_text(text)
    with pytest.raises(InputError, match=naming(tmp_path / 'prompts.csv', *says.split())):
        quiet(made, prompts=tmp_path / 'prompts.csv')

def test_a_prompt_may_hold_a_comma_in_quotes_and_names_may_hold_anything(tmp_path):
    folder = tmp_path / 'a folder'
    folder.mkdir()
    for i, name in enumerate(('50 %.wav', 'caf\xe9 %d.wav', 'a, b;c.wav', 'a.wav.wav', 'a.wav')):
        soundfile.write(folder / name, burst(i), 16000)
    text = ('file, prompt\n50 %.wav, "a dog, then a cat"\ncafe\u0301 %d.wav,rain\n"a, b;c.wav",say ""hi""\n'
            'a.wav,one\na.wav.wav,two\n')
    (tmp_path / 'p.csv').write_text(text, encoding='utf-8-sig')
    asked = read_prompts(tmp_path / 'p.csv', find_sounds(folder))
    assert {name: a['prompt'] for name, a in asked.items()} == {'50 %': 'a dog, then a cat', 'caf\xe9 %d': 'rain',
                                                                'a, b;c': 'say ""hi""', 'a': 'one', 'a.wav': 'two'}
    assert quiet(folder, embedder=METER, metrics=['inception_score'])['inception_score_pocket']['n'] == 5

@pytest.mark.skipif(sys.platform != 'linux', reason='names are any bytes on Linux alone')
def test_a_name_that_is_no_text_ends_nothing(made, tmp_path):
    folder = tmp_path / 'made'
    folder.mkdir()
    for name in (b'caf\xe9.wav', b'b.wav'): shutil.copy(made / '000.wav', os.fsencode(folder) + b'/' + name)
    for _ in range(2):
        result = quiet(folder, embedder=METER, metrics=['inception_score'], skip_bad=True,
                       cache_file=tmp_path / 'cache.sqlite')
        assert result['inception_score_pocket']['n'] == 2 - len(result['files']['bad'])
        assert {b['file'] for b in result['files']['bad']} <= {r'generated/caf\xe9.wav'}
        json.dumps(result, ensure_ascii=False).encode()

def test_names_in_another_unicode_form_belong_together(tmp_path):
    for side, name in (('made', 'caf\xe9'), ('real', 'cafe\u0301')):
        (tmp_path / side).mkdir()
        for i in range(2): soundfile.write(tmp_path / side / f'{name} {i}.wav', burst(i), 16000)
    with pytest.warns(UserWarning, match=naming(2, 'generated', 'reference', 'caf\xe9 0.wav', 'caf\xe9 1.wav')):
        result = quiet(tmp_path / 'made', tmp_path / 'real', embedder=METER)
    assert result['kl_pocket']['n'] == 2 and abs(result['kl_pocket']['value']) < 1e-9
    assert result['left_out'] == {} and result['files']['shared'] == ['caf\xe9 0.wav', 'caf\xe9 1.wav']

def test_what_is_left_out_is_said(made, real, tmp_path, capsys):
    "By default; asked for by name, it is an error"
    one, some = made / '000.wav', [real / f'{i:03d}.flac' for i in range(5)]
    assert main(['evaluate', str(one), '--reference', *map(str, some), '--cache', ':memory:', '--device', 'cpu', '-o',
                 str(tmp_path / 'row.json')]) == 0
    printed, result = capsys.readouterr().out, json.loads((tmp_path / 'row.json').read_text())
    assert result['left_out'].keys() == {'fad', 'kl'}
    assert re.search(naming(1, 5), result['left_out']['fad'])
    assert re.search(naming(1, 5, '001, 002, 003, 004'), result['left_out']['kl'])
    assert all(re.search(rf'(?m)^{m} .*{re.escape(why)}', printed) for m, why in result['left_out'].items())
    assert result['nearest']['n'] == 1 and result['nearest']['low'] is None and 'fad' not in result
    for metric in 'fad', 'kl':
        with pytest.raises(InputError, match=naming(f"'{metric}'", 1, 5)): quiet(one, some, metrics=[metric])
    assert quiet(one, some, metrics=['fad', 'nearest'], skip_bad=True)['left_out'].keys() == {'fad'}
    (tmp_path / 'p.csv').write_text('file,prompt,label\n000,a,dog barking\n001,b,rain falling\n002,c,\n')
    result = quiet([made / f'{i:03d}.wav' for i in range(3)], prompts=tmp_path / 'p.csv')
    assert result['left_out'].keys() == {'accuracy', 'diversity'}
    assert re.search(naming(1, 3, 'label', '002'), result['left_out']['accuracy'])
    (tmp_path / 'p.csv').write_text('file,prompt,label\n000,a,dog barking\n001,b,rain falling\n002,c,dog barking\n')
    result = quiet([made / f'{i:03d}.wav' for i in range(3)], prompts=tmp_path / 'p.csv')
    assert result['left_out'] == {} and result['diversity']['n'] == 2
    (tmp_path / 'p.csv').write_text('file,prompt,label\n000,a,dog barking\n001,b,a zebra\n')
    result = quiet([made / f'{i:03d}.wav' for i in range(2)], prompts=tmp_path / 'p.csv')
    assert result['left_out'].keys() == {'accuracy', 'diversity'}
    assert re.search(naming('pocket-listener', 'a zebra'), result['left_out']['accuracy'])
    assert re.search(naming('label', 'two'), result['left_out']['diversity'])

def test_what_clap_does_not_read_of_a_prompt_is_said(made, tmp_path):
    (tmp_path / 'p.csv').write_text('file,prompt\n000,a zebra barking\n001,value\n')
    result = quiet([made / '000.wav', made / '001.wav'], prompts=tmp_path / 'p.csv', metrics=['clap'])
    assert result['prompts']['unread'] == {'a zebra barking': ['zebra'], 'value': ['value']}
    assert re.search(naming('CLAP', 2, "'a zebra barking'", 'zebra'), metric_lines(result)[-1])

def test_a_distance_of_few_sounds_has_its_floor_beside_it(made, real):
    with pytest.warns(UserWarning, match=naming('12 features', '128 dimensions', 'CLAP pocket-clap', 'bias')):
        result = quiet(made, real, metrics=['fad'])
    floor = result['fad']['floor']
    assert floor.keys() == {'value', 'n', 'others'} and (floor['n'], floor['others']) == (6, 6) and floor['value'] > 0
    assert re.search(naming('fad: ', 'reference', 6, f"{floor['value']:.4g}"), metric_lines(result)[-1])

@pytest.mark.parametrize('rate', [384000, 256000, 44099, 22254, 8000])
def test_sounds_of_any_rate_are_measured(tmp_path, rate):
    hertz = Embedder('pitch', '0', 16000, lambda w: (torch.fft.rfft(w * torch.hann_window(w.shape[1])).abs().argmax()
                                                     * 16000 / w.shape[1]).reshape(1, 1))
    soundfile.write(tmp_path / 'a.wav', 0.3 * np.sin(2 * np.pi * 1000 * np.arange(rate // 2) / rate), rate)
    assert hertz(load_for_scoring(tmp_path / 'a.wav')).item() == pytest.approx(1000, abs=3)

def test_in_the_terminal(made, real, prompts, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv('CLIPSONIC_CACHE', str(tmp_path / 'kept'))
    assert main(['evaluate', str(made), '--reference', str(real), '--prompts', str(prompts), '-o',
                 str(tmp_path / 'row.json'), '--device', 'cpu']) == 0
    printed, result = capsys.readouterr().out, json.loads((tmp_path / 'row.json').read_text())
    assert printed.splitlines()[:-1] == metric_lines(result) and 'kl_pocket' in printed
    older = json.loads(json.dumps(result).replace('"embedder":', '"by":'))  # as before 0.1.0
    assert metric_lines(older) == metric_lines(result)
    assert (tmp_path / 'kept' / 'features.sqlite').is_file()
    assert result['protocol']['embedders'].keys() == {'CLAP pocket-clap', 'pocket-listener'}
    assert all(about['hash'] for about in result['protocol']['embedders'].values())
    folder = shutil.copytree(made, tmp_path / 'made')
    (folder / '000.wav').write_bytes(b'')
    Audio(torch.zeros(1, 9000), 16000).save(folder / '001.wav')
    words = ['evaluate', str(folder), '--metrics', 'inception_score', '--device', 'cpu']
    assert main(words) == 2
    assert re.search(naming('2 files', 'generated', '1 silent', '1 unreadable'), capsys.readouterr().err)
    assert main([*words, '--skip-bad']) == 0
    assert re.search('generated: 1 silent\n.*generated: 1 unreadable', capsys.readouterr().out)

def test_files_beside_the_sounds_are_no_sounds_and_videos_are(tmp_path):
    from films import film
    folder = tmp_path / 'mixed'
    folder.mkdir()
    for name in ('notes.txt', 'prompts.csv', 'picture.png', 'about.json', '.hidden.wav'):
        (folder / name).write_text('x')
    soundfile.write(folder / 'a.wav', burst(0), 16000)
    film(folder / 'b.mp4')
    film(folder / 'c.ts')  # which Debian's list of MIME types calls a text
    sounds, others = sounds_and_others(folder)
    assert [s.name for s in sounds] == ['a', 'b', 'c']
    assert others == ['about.json', 'notes.txt', 'picture.png', 'prompts.csv']
    result = quiet(folder, embedder=METER, metrics=['inception_score'])
    listed = [f'generated/{name}' for name in others]
    assert result['inception_score_pocket']['n'] == 3 and result['files']['others'] == listed
    assert re.search(naming(4, ', '.join(listed)), metric_lines(result)[-1])
    with pytest.raises(MediaError): load_for_scoring(folder / 'notes.txt')
    assert load_for_scoring(folder / 'b.mp4').seconds > 0.5

@pytest.mark.long
def test_published_networks_come_from_their_files(made, real, prompts, tmp_path, monkeypatch):
    "Random weights in the published layouts, under hashes that are made to fit"
    import hashlib

    from clipsonic import published, vggish
    def he(layout):
        g = torch.Generator().manual_seed(0)
        return {k: v.abs() + 0.5 if k.endswith('running_var') else v if v.ndim < 2 or k in ('real', 'imag', 'bands')
                else torch.randn(v.shape, generator=g) * (2 / v[0].numel())**0.5 for k, v in layout.items()}
    theirs = {ours: name for name, ours in published.CNN14_NAMES.items()}
    torch.save({'model': {theirs.get(k, k): v for k, v in he(published.Cnn14(16000).state_dict()).items()}},
               tmp_path / 'cnn14.pth')
    blank = {k: torch.ones_like(v) if k.endswith(('running_var', 'weight')) else torch.zeros_like(v)
             for k, v in published.build_inception().state_dict().items()}
    torch.save(he(blank), tmp_path / 'inception.pth')
    ours = {ours: name for name, ours in vggish.VGGISH_NAMES.items()}
    torch.save({ours[k]: v for k, v in he(vggish.VGGish().state_dict()).items()}, tmp_path / 'vggish.pth')
    digest = {name: hashlib.sha256((tmp_path / f'{name}.pth').read_bytes()).hexdigest()
              for name in ('cnn14', 'inception', 'vggish')}
    monkeypatch.setattr(published, 'SHA256', {published.CNN14_FILES[16000]: digest['cnn14'],
                                              published.INCEPTION_FILE: digest['inception']})
    monkeypatch.setattr(vggish, 'NETWORK_FILE', f"vggish-{digest['vggish'][:8]}.pth")
    for folder in (made, real):  # VGGish wants a second
        (tmp_path / folder.name).mkdir()
        for i, file in enumerate(sorted(folder.iterdir())):
            soundfile.write(tmp_path / folder.name / file.name, burst(i + 3 * (folder is real), 1.1), 16000)
    result = quiet(tmp_path / 'made', tmp_path / 'real', prompts, embedder='vggish',
                   embedder_weights=tmp_path / 'vggish.pth', classifier='cnn14',
                   classifier_weights=tmp_path / 'cnn14.pth', inception=tmp_path / 'inception.pth',
                   metrics=['fad', 'fid', 'kl', 'inception_score', 'clap'])
    assert {name: f['embedder'] for name, f in result.items() if 'value' in f} == {
        'fad': 'vggish', 'fid': 'inception-v3', 'kl': 'cnn14-16k', 'inception_score': 'cnn14-16k',
        'clap': 'CLAP pocket-clap'}
    assert result['fad']['value'] > 0 and result['fid']['value'] > 0 and result['kl']['value'] > 0
    assert result['protocol']['embedders']['vggish']['hop'] == 0.96
    with pytest.raises(InputError, match=naming("'accuracy'", 'classifier')):
        quiet(made, prompts=prompts, classifier='cnn14', metrics=['accuracy'])
    with pytest.raises(InputError, match=naming('weights', 'Cnn14_16k_mAP=0.438.pth')):
        quiet(made, classifier='cnn14', metrics=['inception_score'])
