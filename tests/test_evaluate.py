"""Sounds from a folder, scored: damaged files by the thousand, the same bits every time, caches that lie, and what the terminal says."""
import json
import shutil
import sqlite3
from collections import Counter
from unittest.mock import patch

import numpy as np
import pytest
import soundfile
import torch

from clipsonic.cli import main
from clipsonic.core import Audio, InputError, MediaError
from clipsonic.embedders import Embedder, classifier_embedder, load_embedder
from clipsonic.evaluate import METRICS, FeatureCache, evaluate, figure_lines, find_sounds, heard, listen_to, read_prompts
from clipsonic.fad import frechet_distance
from clipsonic.video import read_audio
from test_fad import slack, spread

REASONS = {'unreadable', 'no audio track', 'truncated', 'too short', 'not finite', 'out of scale', 'opposite phase', 'silent'}

def burst(seed, seconds=0.5, rate=16000, channels=1):
    "A decaying noise with a tone in it: (time, channel)"
    rng, t = np.random.default_rng(seed), np.arange(round(seconds * rate)) / rate
    return (0.3 * np.exp(-3 * t)[:, None] * (rng.standard_normal((len(t), channels)) * 0.3 + np.sin(2 * np.pi * (150 + 40 * (seed % 40)) * t)[:, None])).clip(-1, 1)

def folder_of(path, n, **options):
    path.mkdir()
    for i in range(n): soundfile.write(path / f'{i:03d}.wav', burst(i, **options), options.get('rate', 16000))
    return path

def loudness(waveform): return waveform.unfold(1, 1600, 1600)[0].square().mean(1, keepdim=True)[:2].T.contiguous()

EAR = Embedder('loudness', '0', 16000, loudness, shortest=0.2)

def quiet(generated, reference=None, prompts=None, **options):
    return evaluate(generated, reference, prompts, **dict(cache_file=':memory:', device='cpu', progress=False) | options)

@pytest.fixture(scope='module')
def made(tmp_path_factory): return folder_of(tmp_path_factory.mktemp('sets') / 'made', 12)

@pytest.fixture(scope='module')
def real(made):
    (path := made.parent / 'real').mkdir()
    for i in range(12): soundfile.write(path / f'{i:03d}.flac', burst(i + 5, 0.7, 44100), 44100)
    return path

@pytest.fixture(scope='module')
def prompts(made):
    classes = classifier_embedder(device='cpu').classes
    (path := made.parent / 'prompts.csv').write_text('file,prompt,label\n' + ''.join(f'{i:03d}.wav,{classes[i % 3]},{classes[i % 3]}\n' for i in range(12)))
    return path

def damaged(folder, n, rng):
    "n media files of every kind of trouble; returns what each must come to, where that is certain"
    folder.mkdir()
    formats, expected = ['wav', 'flac', 'ogg', 'mp3'], {}
    whole = {f: (soundfile.write(folder / f'whole.{f}', burst(1), 16000), (folder / f'whole.{f}').read_bytes())[1] for f in formats}
    for f in formats: (folder / f'whole.{f}').unlink()
    for i in range(n):
        kind, f = i % 12, formats[i // 12 % 4]
        path, data = folder / f'{i:04d}.{f if kind < 5 else "wav"}', bytearray(whole[f])
        if kind == 0:                                                                               # cut off anywhere; an mp3 does not know its end
            path.write_bytes(data[:rng.integers(1, len(data))])
            if f != 'mp3': expected[path.stem] = {'truncated', 'unreadable'}
        elif kind == 1: data[:rng.integers(4, 60)] = rng.bytes(4); path.write_bytes(data)           # a wrong header
        elif kind == 2:                                                                             # some bytes turned
            for at in rng.integers(0, len(data), 20): data[at] = rng.integers(256)
            path.write_bytes(data)
        elif kind == 3: path.write_bytes(b''); expected[path.stem] = 'unreadable'
        elif kind == 4: path.write_bytes(rng.bytes(rng.integers(1, 5000)))                          # noise with the name of a sound
        elif kind == 5: soundfile.write(path, burst(i), 16000, subtype='PCM_U8'); expected[path.stem] = None
        elif kind == 6: soundfile.write(path, burst(i, 0.5, 96000), 96000, subtype='PCM_24'); expected[path.stem] = None
        elif kind == 7: soundfile.write(path, burst(i, channels=6), 16000); expected[path.stem] = None
        elif kind == 8:
            sound = burst(i); sound[rng.integers(len(sound))] = [np.nan, np.inf][i // 12 % 2]
            soundfile.write(path, sound, 16000, subtype='FLOAT'); expected[path.stem] = 'not finite'
        elif kind == 9: soundfile.write(path, burst(i, 0.02), 16000); expected[path.stem] = 'too short'
        elif kind == 10: soundfile.write(path, burst(i) * 1e-5, 16000, subtype='FLOAT'); expected[path.stem] = 'silent'
        else: soundfile.write(path, burst(i, 0.15), 16000); expected[path.stem] = 'too short'       # long enough for itself, not for what listens
    return expected

@pytest.mark.long
def test_a_thousand_damaged_files_each_end_in_a_named_outcome(tmp_path):
    expected = damaged(tmp_path / 'bad', 1000, np.random.default_rng(0))
    rows, bad = listen_to(find_sounds(tmp_path / 'bad'), EAR, FeatureCache(tmp_path / 'cache'), progress=False)
    assert len(rows) + len(bad) == 1000 and not rows.keys() & bad.keys()
    outcome = {name: None for name in rows} | {name: error.reason for name, error in bad.items()}
    counts = Counter(outcome.values())
    print(counts)
    assert counts.keys() - {None} <= REASONS
    assert {k: (outcome[k], v) for k, v in expected.items() if outcome[k] not in (v if isinstance(v, set) else {v})} == {}
    assert all(str(tmp_path / 'bad' / name) in str(error) for name, error in bad.items())
    assert all(torch.isfinite(x).all() for x in rows.values())
    with pytest.raises(InputError, match=f'{len(bad)} files of generated cannot be measured .*not finite.*--skip-bad'): quiet(tmp_path / 'bad', embedder=EAR, metrics=['fad'], reference=tmp_path / 'bad')
    result = quiet(tmp_path / 'bad', tmp_path / 'bad', embedder=EAR, metrics=['fad', 'nearest'], skip_bad=True)
    assert {b['file']: b['reason'] for b in result['files']['bad'] if b['file'].startswith('generated/')} == {f'generated/{s.file}': bad[s.name].reason for s in find_sounds(tmp_path / 'bad') if s.name in bad}
    assert str(tmp_path) not in json.dumps(result)  # a result tells nothing of the machine that it was made on
    assert result['fad']['n'] == len(rows) and result['files']['generated'] == 1000
    assert result['fad']['value'] <= slack(2 * spread(torch.cat([*rows.values()])))  # turned bytes make a few sounds very loud

@pytest.mark.long
def test_every_metric_is_the_same_to_the_bit_whatever_the_order_the_workers_and_the_cache(made, real, prompts, tmp_path):
    metrics = [m for m in METRICS if m != 'fad_infinity']
    first = quiet(made, real, prompts, metrics=metrics)
    assert {'fad', 'kl_pocket', 'fid_pocket', 'clap', 'clap_max', 'clap_mean', 'clap_min', 'accuracy_pocket', 'is_pocket', 'nearest', 'diversity'} == {k for k, v in first.items() if 'value' in v}
    assert all(v['n'] == 12 and v['by'] for v in first.values() if 'value' in v)
    for name in ('made', 'real'):  # the same files, made in another order and found in another folder
        (tmp_path / name).mkdir()
        for file in sorted((made.parent / name).iterdir(), reverse=True): shutil.copy(file, tmp_path / name)
    cache = tmp_path / 'cache.sqlite'
    assert quiet(tmp_path / 'made', tmp_path / 'real', prompts, metrics=metrics[::-1], workers=0, cache_file=cache) == quiet(made, real, prompts, metrics=metrics, workers=2, cache_file=':memory:') == first
    with patch('clipsonic.evaluate.heard', side_effect=AssertionError('it listened')): assert quiet(tmp_path / 'made', tmp_path / 'real', prompts, metrics=metrics, workers=2, cache_file=cache) == first
    half = [made / f'{i:03d}.wav' for i in range(6)]
    one, two = (listen_to(find_sounds(part), load_embedder(device='cpu'), FeatureCache(':memory:'), progress=False)[0] for part in (half, made))
    assert all(torch.equal(one[k], two[k]) for k in one) and len(one) == 6

def test_figures_are_those_of_the_measures(made, real, prompts):
    ear = load_embedder(device='cpu')
    sets = [torch.cat([ear(read_audio(f, None)) for f in sorted(folder.iterdir())]) for folder in (made, real)]
    result = quiet(made, real, prompts, metrics=['fad', 'clap', 'nearest'], resamples=0)
    assert result['fad']['value'] == frechet_distance(*sets) and result['fad']['low'] is None
    texts = torch.cat([ear.text([a['prompt']]) for _, a in sorted(read_prompts(prompts, find_sounds(made)).items())])
    assert result['clap']['value'] == pytest.approx((sets[0] * texts).sum(1).double().mean().item(), abs=1e-7)
    assert result['nearest']['value'] == pytest.approx((sets[0] @ sets[1].T).amax(1).double().mean().item(), abs=1e-6)

def test_the_pockets_networks_say_the_same_on_any_number_of_threads(real):
    "On a machine of any size, whoever asks"
    before, sounds, heard_on = torch.get_num_threads(), [read_audio(f, None) for f in sorted(real.iterdir())], {}
    try:
        for threads in 1, 2, 3:
            torch.set_num_threads(threads)
            ears = load_embedder(device='cpu'), classifier_embedder(device='cpu')
            texts = ears[0].text(['a dog barking'])
            heard_on[threads] = torch.cat([ear(s) for s in sounds for ear in ears] + [texts], 1)
            assert torch.get_num_threads() == threads
    finally: torch.set_num_threads(before)
    assert torch.equal(heard_on[1], heard_on[2]) and torch.equal(heard_on[1], heard_on[3])

def test_a_file_that_changed_is_heard_again_and_a_row_that_lies_is_not_believed(made, tmp_path):
    folder, cache = shutil.copytree(made, tmp_path / 'made'), tmp_path / 'cache.sqlite'
    def count():
        with patch('clipsonic.evaluate.heard', side_effect=heard) as listened: result = quiet(folder, metrics=['is'], cache_file=cache)
        return listened.call_count, result['is_pocket']
    assert (first := count())[0] == 12 and count() == (0, first[1])
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
    with pytest.warns(UserWarning, match='is damaged'): assert count() == (12, first[1])

def test_a_cache_that_somebody_writes_to_is_left_alone(made, tmp_path):
    cache = tmp_path / 'cache.sqlite'
    FeatureCache(cache).db.close()
    db, connect = sqlite3.connect(cache, isolation_level=None), sqlite3.connect
    db.execute('BEGIN EXCLUSIVE')
    with patch('sqlite3.connect', lambda path, timeout: connect(path, timeout=0.1)), pytest.raises(InputError, match='cannot be opened .*locked'): FeatureCache(cache)
    assert cache.is_file() and not (tmp_path / 'cache.sqlite.broken').exists()
    with pytest.raises(InputError, match='cannot be opened'): FeatureCache(tmp_path / 'none' / 'cache.sqlite')

def test_several_rows_a_clip_are_drawn_together(made, real):
    "VGGish's way: an embedder with several rows a clip, whose neighbours are alike"
    many = Embedder('many', '0', 16000, lambda w: w.unfold(1, 800, 800)[0].square().mean(1, keepdim=True).log().expand(-1, 2) * torch.tensor([1.0, 0.5]))
    result = quiet(made, real, embedder=many, metrics=['fad'])
    rows = [torch.cat([many(read_audio(f, None)) for f in sorted(folder.iterdir())]) for folder in (made, real)]
    assert len(rows[0]) == 120 and result['fad']['n'] == 12 and result['fad']['value'] == frechet_distance(*rows) and result['fad']['low'] < result['fad']['value'] < result['fad']['high']

def test_requests_that_cannot_be_met_are_named(made, real, prompts, tmp_path):
    for options, message in [(dict(metrics=['fad']), r"'fad' needs real sounds \(`--reference`\)"), (dict(metrics=['kl'], reference=made / '000.wav'), 'a reference of the same names'),
                             (dict(metrics=['accuracy']), 'a label in every line'), (dict(metrics=['sharpness']), "metric 'sharpness': expected some of fad"), (dict(metrics=[]), 'no metric was asked for'),
                             (dict(embedder='encodec', reference=real), "embedder 'encodec': expected 'pocket'"), (dict(out=tmp_path / 'no' / 'row.json'), 'make it first'),
                             (dict(prompts=tmp_path / 'none.csv'), 'none.csv cannot be read as a csv'), (dict(metrics=['fad_infinity'], reference=real), 'FAD∞ needs 2048')]:
        with pytest.raises(InputError, match=message): quiet(made, **options)
    (tmp_path / 'empty').mkdir()
    with pytest.raises(InputError, match='holds no sounds'): quiet(tmp_path / 'empty')
    twins = shutil.copytree(made, tmp_path / 'twins')
    soundfile.write(twins / '000.flac', burst(3), 16000)
    with pytest.raises(InputError, match="several files named '000'"): quiet(twins)

@pytest.mark.parametrize('text, message', [('a,b\n1,2\n', 'columns file and prompt'), ('file,prompt\n000.wav,\n', 'line 2: .000.wav. has no prompt'), ('file,prompt\nx.wav,a dog\n', "no sound 'x.wav'"),
                                           ('file,prompt\n000.wav,a dog\n000,a cat\n', "line 3: '000' comes a second time"), ('file,prompt\n000.wav,a dog\n', 'no line for 11 of 12 sounds: 001.wav')])
def test_prompts_and_sounds_must_belong_together(made, tmp_path, text, message):
    (tmp_path / 'prompts.csv').write_text(text)
    with pytest.raises(InputError, match=message): quiet(made, prompts=tmp_path / 'prompts.csv')

def test_in_the_terminal(made, real, prompts, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv('CLIPSONIC_CACHE', str(tmp_path / 'kept'))
    assert main(['evaluate', str(made), '--reference', str(real), '--prompts', str(prompts), '-o', str(tmp_path / 'row.json'), '--device', 'cpu']) == 0
    printed, result = capsys.readouterr().out, json.loads((tmp_path / 'row.json').read_text())
    assert printed.splitlines()[:-1] == figure_lines(result) and 'kl_pocket' in printed and (tmp_path / 'kept' / 'features.sqlite').is_file()
    assert result['protocol']['embedders'].keys() == {'CLAP pocket-clap', 'pocket-listener'} and all(about['hash'] for about in result['protocol']['embedders'].values())
    folder = shutil.copytree(made, tmp_path / 'made')
    (folder / '000.wav').write_bytes(b'')
    Audio(torch.zeros(1, 9000), 16000).save(folder / '001.wav')
    words = ['evaluate', str(folder), '--metrics', 'is', '--device', 'cpu']
    assert main(words) == 2 and '2 files of generated cannot be measured (1 silent, 1 unreadable)' in capsys.readouterr().err
    assert main([*words, '--skip-bad']) == 0
    assert 'left out of generated: 1 silent\nleft out of generated: 1 unreadable' in capsys.readouterr().out

def test_files_beside_the_sounds_are_no_sounds_and_videos_are(tmp_path):
    from films import film
    (folder := tmp_path / 'mixed').mkdir()
    for name in ('notes.txt', 'prompts.csv', 'picture.png', 'about.json', '.hidden.wav'): (folder / name).write_text('x')
    soundfile.write(folder / 'a.wav', burst(0), 16000)
    film(folder / 'b.mp4')
    assert [s.name for s in find_sounds(folder)] == ['a', 'b']
    with pytest.raises(MediaError): heard(folder / 'notes.txt')
    assert heard(folder / 'b.mp4').seconds > 0.5

@pytest.mark.long
def test_published_networks_come_from_their_files(made, real, prompts, tmp_path, monkeypatch):
    "Random weights in the published layouts, under hashes that are made to fit"
    import hashlib

    from clipsonic import published, vggish
    def he(layout):
        g = torch.Generator().manual_seed(0)
        return {k: v.abs() + 0.5 if k.endswith('running_var') else v if v.ndim < 2 or k in ('real', 'imag', 'bands') else torch.randn(v.shape, generator=g) * (2 / v[0].numel())**0.5 for k, v in layout.items()}
    theirs = {ours: name for name, ours in published.NAMES.items()}
    torch.save({'model': {theirs.get(k, k): v for k, v in he(published.Cnn14(16000).state_dict()).items()}}, tmp_path / 'cnn14.pth')
    blank = {k: torch.ones_like(v) if k.endswith(('running_var', 'weight')) else torch.zeros_like(v) for k, v in published.empty_inception().state_dict().items()}
    torch.save(he(blank), tmp_path / 'inception.pth')
    ours = {ours: name for name, ours in vggish.NAMES.items()}
    torch.save({ours[k]: v for k, v in he(vggish.VGGish().state_dict()).items()}, tmp_path / 'vggish.pth')
    digest = {name: hashlib.sha256((tmp_path / f'{name}.pth').read_bytes()).hexdigest() for name in ('cnn14', 'inception', 'vggish')}
    monkeypatch.setattr(published, 'SHA256', {published.CNN14_FILES[16000]: digest['cnn14'], published.INCEPTION_FILE: digest['inception']})
    monkeypatch.setattr(vggish, 'NETWORK_FILE', f"vggish-{digest['vggish'][:8]}.pth")
    for folder in (made, real):  # VGGish wants a second
        (tmp_path / folder.name).mkdir()
        for i, file in enumerate(sorted(folder.iterdir())): soundfile.write(tmp_path / folder.name / file.name, burst(i + 3 * (folder is real), 1.1), 16000)
    result = quiet(tmp_path / 'made', tmp_path / 'real', prompts, embedder='vggish', weights=tmp_path / 'vggish.pth', classifier='cnn14', classifier_weights=tmp_path / 'cnn14.pth', inception=tmp_path / 'inception.pth',
                   metrics=['fad', 'fid', 'kl', 'is', 'clap'])
    assert {name: f['by'] for name, f in result.items() if 'value' in f} == {'fad': 'vggish', 'fid': 'inception-v3', 'kl': 'cnn14-16k', 'is': 'cnn14-16k', 'clap': 'CLAP pocket-clap'}
    assert result['fad']['value'] > 0 and result['fid']['value'] > 0 and result['kl']['value'] > 0 and result['protocol']['embedders']['vggish']['hop'] == 0.96
    with pytest.raises(InputError, match="a classifier of the pocket's classes"): quiet(made, prompts=prompts, classifier='cnn14', metrics=['accuracy'])
    with pytest.raises(InputError, match='needs its published weights: give the file Cnn14_16k'): quiet(made, classifier='cnn14', metrics=['is'])
