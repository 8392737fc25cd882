"""Listening tests: what is refused before anything is written, what the files of a test hold, the balance of the
design by counting, answers, and the panel driven as a hand would."""
import json
import re
import shutil
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from clipsonic import listening
from clipsonic.core import Audio, InputError
from clipsonic.listening import (RATING_COLUMNS, ListeningConfig, RatingPanel, align_loudness, answers_to_ratings,
                                 balanced_lists, check_config, design_rows, load_plan, lowpass_anchor, loudness,
                                 plan_markdown, secret_names, trim, true_peak, williams_square)
from clipsonic.video import read_audio
from conftest import naming

WORDS = ['bell', 'flute', 'violin', 'rain', 'guitar', 'dog', 'lute', 'banjo']

def prepare_test(*args, **settings): return listening.prepare_test(*args, **{'seed': 0, **settings})

def wave(i, level=0.1, seconds=0.8, rate=16_000, noise=0.):
    "A tone, with noise of its own."
    t = np.arange(round(seconds * rate)) / rate
    return level * np.sin(2 * np.pi * (200 + 40 * i) * t) + noise * np.random.default_rng(i).standard_normal(len(t))

def folder(path, n=8, prompts=True, name='{:04d}', rate=16_000, words=WORDS, **options):
    path.mkdir()
    for i in range(n): soundfile.write(path/f'{name.format(i)}.wav', wave(i, rate=rate, **options), rate)
    if prompts: describe(path, [(name.format(i), f'a {words[i]}') for i in range(n)])
    return path

def describe(path, rows):
    lines = ['file,prompt', *(','.join(row) for row in rows)]
    (path/'prompts.csv').write_text('\n'.join(lines) + '\n')

@pytest.fixture(scope='module')
def sounds(tmp_path_factory):
    "Three systems of eight sounds. Nobody writes here."
    home = tmp_path_factory.mktemp('sounds')
    return {'real': folder(home/'real'), 'PD': folder(home/'pd', noise=0.01), 'ZS': folder(home/'zs', noise=0.1)}

def pick(systems, *names): return {name: systems[name] for name in names}

@pytest.fixture(scope='module')
def tests(sounds, tmp_path_factory):
    "A small test of each method. Nobody writes here."
    home = tmp_path_factory.mktemp('tests')
    prepare_test(sounds, home/'mos', items=4, repeats=1, reference='real', seed=3)
    prepare_test(sounds, home/'ab', 'ab', items=6, repeats=1, reference='real')
    prepare_test(sounds, home/'mushra', 'mushra', items=4, repeats=1, reference='real', training=1)
    return home

# loudness and peaks

@pytest.mark.parametrize('rate', [16_000, 22_050, 44_100, 48_000])
def test_loudness_follows_the_gain_and_the_standard(rate):
    t = torch.arange(2 * rate, dtype=torch.float64) / rate
    sine = torch.sin(2 * torch.pi * 997 * t)[None].float()
    assert loudness(Audio(sine, rate)) == pytest.approx(-3.01, abs=0.05)   # BS.1770-4, at 48 kHz
    assert loudness(Audio(sine / 10, rate)) == pytest.approx(loudness(Audio(sine, rate)) - 20, abs=1e-3)

def test_an_incomplete_block_at_the_end_does_not_count():
    noise = torch.randn(1, 16_000, generator=torch.Generator().manual_seed(0)) / 10
    whole = loudness(Audio(noise[:, :6400], 16_000))
    for seconds in (0.42, 0.46, 0.499): assert loudness(Audio(noise[:, :int(seconds * 16_000)], 16_000)) == whole
    with pytest.raises(InputError, match=naming(0.399)): loudness(Audio(noise[:, :6384], 16_000))

def test_a_sound_below_a_block_measures_as_less_loud():
    noise = torch.randn(1, 16_000, generator=torch.Generator().manual_seed(0)) / 10
    brief = torch.nn.functional.pad(noise[:, :3200], (0, 12_800))
    assert 3 < loudness(Audio(noise, 16_000)) - loudness(Audio(brief, 16_000)) < 5

def test_the_true_peak_is_above_the_samples():
    t = torch.arange(4800)
    sine = torch.sin(torch.pi / 2 * t + torch.pi / 4)[None] * torch.hann_window(4800)
    assert true_peak(Audio(sine, 48_000)) == pytest.approx(0, abs=0.05)
    assert Audio(sine, 48_000).peak == pytest.approx(0.7071, abs=1e-3)
    one = torch.zeros(1, 1000)
    one[0, 500] = 0.5
    assert true_peak(Audio(one, 16_000)) >= 20 * np.log10(0.5) - 1e-6, 'never below the samples'
    assert true_peak(Audio(torch.zeros(1, 100), 16_000)) == pytest.approx(-200)

def test_a_group_is_turned_down_together_and_silence_is_left():
    click = torch.zeros(1, 16_000)
    click[0, ::4000] = 0.9
    group = {'click': Audio(click, 16_000), 'tone': Audio(torch.from_numpy(wave(1, seconds=1.))[None], 16_000),
             'silence': Audio(torch.full((1, 16_000), 1e-5), 16_000)}
    aligned, gains, down = align_loudness(group, -20., -2.)
    assert down < -1 and max(map(true_peak, aligned.values())) == pytest.approx(-2, abs=0.01)
    assert loudness(aligned['click']) == pytest.approx(loudness(aligned['tone']), abs=0.01)
    assert gains['silence'] == pytest.approx(down), 'noise below the threshold is not made loud'
    assert align_loudness(pick(group, 'tone'), -30.)[2] == 0

def test_trim_fades_the_sound_and_not_its_padding():
    one = Audio(torch.ones(1, 4000), 8000)
    padded = trim(one, 1.0, 8000, fade=0.1).waveform[0]
    assert padded[:10].abs().max() < 0.01 and padded[3990:].abs().max() < 0.01 and padded[1000] == 1
    cut = trim(one, 0.4, 8000, fade=0.1).waveform[0]
    assert len(cut) == 3200 and cut[-1] < 0.01 and torch.equal(cut, cut.flip(0))
    assert torch.equal(trim(one, 0.5, 8000, fade=0.).waveform, one.waveform)

def test_the_anchor_passes_what_it_should():
    t = torch.arange(16_000) / 16_000
    levels = []
    for hertz in (1000, 3400, 4000, 4500, 7000):
        sound = Audio(torch.sin(2 * torch.pi * hertz * t)[None], 16_000)
        middle = lowpass_anchor(sound).waveform[0, 2000:-2000]
        levels.append(20 * torch.log10(middle.square().mean().sqrt() * 2**0.5).item())
    assert levels[0] == pytest.approx(0, abs=0.1) and levels[1] == pytest.approx(0, abs=0.1)
    assert levels[2] < -25 and levels[3] < -50 and levels[4] < -50
    with pytest.raises(InputError, match=naming(8000)): lowpass_anchor(Audio(torch.ones(1, 4000), 8000))

# designs

@pytest.mark.parametrize('n', range(2, 10))
def test_williams_squares_are_balanced(n):
    square = williams_square(n)
    each = 2 if n % 2 else 1
    follows = Counter(pair for row in square for pair in zip(row, row[1:]))
    assert set(follows.values()) == {each} and len(follows) == n * (n - 1)
    assert all(sorted(row) == list(range(n)) for row in square) and len(square) == n * each
    assert all(Counter(column) == dict.fromkeys(range(n), each) for column in zip(*square))

@pytest.mark.parametrize('n_systems, n_items, per_list, rounds, parts', [
    (2, 4, 4, 2, 1), (3, 6, 3, 3, 2), (4, 8, 8, 1, 1), (4, 8, 4, 2, 2), (5, 5, 5, 5, 1)])
def test_mos_lists_are_balanced(n_systems, n_items, per_list, rounds, parts):
    rows = design_rows('mos', n_systems)
    lists = balanced_lists(rows, n_items, items_per_list=per_list, rounds=rounds, n_parts=parts, seed=5)
    rated, places, first = Counter(), Counter(), Counter()
    for one in lists:
        first[one[0][0]] += 1
        for part, trials in one:
            assert len(trials) == per_list * rounds == len(set(trials)), 'a prompt once at most with a system'
            assert all(a[0] != b[0] for a, b in zip(trials, trials[1:])), 'no prompt twice in a row'
            for place, (item, (system,)) in enumerate(trials):
                rated[part, item, system] += 1
                places[system, place // per_list] += 1
    assert len(set(rated.values())) == 1 and len(rated) == parts * n_items * n_systems
    assert len(set(places.values())) == 1, 'each system equally often in each round'
    assert len(set(first.values())) == 1 and len(first) == parts

def test_pairs_come_in_both_orders_and_once_a_prompt():
    lists = balanced_lists(design_rows('ab', 4), 12, items_per_list=12, rounds=1)
    pairs = Counter()
    for one in lists:
        trials = one[0][1]
        assert len({item for item, _ in trials}) == 12
        assert set(Counter(pair for _, pair in trials).values()) == {1}, 'each ordered pair once in each list'
        pairs.update(trials)
    assert set(pairs.values()) == {1} and len(pairs) == 12 * 12

def test_names_are_no_numbers_and_no_words_of_a_server():
    names = secret_names(3000, 1)
    assert len(set(names)) == 3000
    assert all(len(name) == 6 and re.fullmatch('([bdfghjklmnprstvwz][aeiou]){3}', name) for name in names)
    assert secret_names(3, 1) == names[:3] and secret_names(3, 2) != names[:3]

# what a prepared test holds

@pytest.mark.parametrize('method', ['mos', 'ab', 'mushra'])
def test_files_are_equal_in_format_length_loudness_and_peak(tests, method):
    plan = load_plan(tests/method)
    found = sorted((tests/method/'page'/'sounds').iterdir())
    assert {f'sounds/{path.name}' for path in found} == {stimulus['file'] for stimulus in plan.stimuli.values()}
    assert len({path.stat().st_size for path in found}) == 1
    for path in found:
        info, sound = soundfile.info(path), read_audio(path, None)
        assert (info.subtype, info.samplerate, info.channels, info.frames) == ('PCM_16', 16_000, 1, 12_800)
        assert loudness(sound) == pytest.approx(-23, abs=0.05) and true_peak(sound) < -0.99
    assert plan.protocol['turned_down'] == {} and plan.protocol['loudness'] == -23
    assert plan.protocol['versions']['pyloudnorm']

@pytest.mark.parametrize('method', ['mos', 'ab', 'mushra'])
def test_what_a_listener_gets_names_no_system(tests, method):
    plan = load_plan(tests/method)
    public = plan.public()
    text = json.dumps(public)
    for secret in ('real', 'PD', 'ZS', '"anchor"', 'gold', 'repeat', 'expect', 'rules', 'sha256', 'key', '"0001'):
        assert secret not in text, secret
    assert list(public['stimuli']) == sorted(public['stimuli']), 'an order would give systems away'
    assert [item['id'] for item in public['items']] == sorted(item['id'] for item in public['items'])
    assert public['id'] == plan.id and set(public['stimuli'][next(iter(public['stimuli']))]) == {'file'}
    assert {f'{trial["id"]}' for trials in public['lists'] for trial in trials} \
        == {trial['id'] for trials in plan.lists for trial in trials}

def test_mos_checks(tests):
    plan = load_plan(tests/'mos')
    assert len(plan.lists) == 6 * 2 and [q['id'] for q in plan.questions] == ['fidelity', 'relevance']
    prompts = {item['id']: item['prompt'] for item in plan.items}
    keys = {item['id']: item['key'] for item in plan.items}
    for trials in plan.lists:
        assert Counter(trial['check'] for trial in trials) == {'': 24, 'gold': 4, 'repeat': 2}
        for part in ('fidelity', 'relevance'):
            own = [trial for trial in trials if trial['questions'] == [part]]
            assert own == trials[:15] or own == trials[15:], 'a part for each question'
            plain = [trial['stimuli'][0] for trial in own if not trial['check']]
            assert len(set(plain)) == 12
            repeat, = [n for n, trial in enumerate(own) if trial['check'] == 'repeat']
            first = next(n for n, trial in enumerate(own) if trial['stimuli'] == own[repeat]['stimuli'])
            assert repeat - first > 2 and not own[first]['check'] and not own[0]['check']
        for trial in trials:
            if trial['check'] != 'gold': continue
            assert trial['expect'] == {trial['questions'][0]: [1, 2]}
            stimulus = plan.stimuli[trial['stimuli'][0]]
            if trial['questions'] == ['fidelity']: assert stimulus['system'] == 'noise'
            else: assert stimulus['system'] == 'real' and stimulus['item'] != trial['item']
    assert len(plan.training) == 3 and {trial['item'] for trial in plan.training}.isdisjoint(
        trial['item'] for trials in plan.lists for trial in trials), 'training uses items that the test does not'
    assert all(prompts.values()) and len(set(keys.values())) == len(keys)
    assert plan.rules['gold_failures'] == 1 and plan.rules['min_seconds'] == plan.seconds == 0.8

def test_a_wrong_prompt_shares_no_word(sounds, tmp_path):
    words = ['dog barking', 'dog howling', 'dog', 'bell', 'the dog', 'A Dog.', 'dog!', '(dog)']
    systems = {name: folder(tmp_path/name, noise=noise, words=words) for name, noise in (('A', 0), ('B', .1))}
    plan = prepare_test(systems, tmp_path/'test', questions=('relevance',), gold=1, repeats=0)
    bell = next(item['id'] for item in plan.items if item['prompt'] == 'a bell')
    for trials in plan.lists:
        trial, = [trial for trial in trials if trial['check'] == 'gold']
        assert bell in (trial['item'], plan.stimuli[trial['stimuli'][0]]['item'])
    for system in systems.values(): describe(system, [(f'{i:04d}', f'dog number {i}') for i in range(8)])
    with pytest.raises(InputError, match=naming('gold=0')): prepare_test(systems, tmp_path/'other')

def test_ab_gold_prefers_the_real_sound(tests):
    plan = load_plan(tests/'ab')
    gold = [trial for trial in plan.lists[0] if trial['check'] == 'gold']
    assert len(gold) == 2 and len({trial['stimuli'][0] for trial in gold}) == 2
    for trial in gold:
        systems = [plan.stimuli[name]['system'] for name in trial['stimuli']]
        wins = systems.index('noise')   # 1 where A is real
        assert sorted(systems) == ['noise', 'real']
        assert trial['expect'] == {'quality': [wins] * 2, 'relevance': [wins] * 2, 'noise': [1 - wins] * 2}

def test_mushra_has_hidden_reference_and_anchor(tests):
    plan = load_plan(tests/'mushra')
    for trial in plan.lists[0] + plan.training:
        systems = [plan.stimuli[name]['system'] for name in trial['stimuli']]
        assert sorted(systems) == ['PD', 'ZS', 'anchor', 'reference'] and trial['reference'] not in trial['stimuli']
        hidden = trial['stimuli'][systems.index('reference')]
        assert plan.stimuli[hidden]['sha256'] == plan.stimuli[trial['reference']]['sha256']
    assert plan.rules['reference_below'] == 90 and not any(trial['check'] == 'gold' for trial in plan.lists[0])

def test_the_seed_decides_all(sounds, tmp_path, tests):
    again = prepare_test(sounds, tmp_path/'again', items=4, repeats=1, reference='real', seed=3)
    assert again == load_plan(tests/'mos') and again.id == load_plan(tests/'mos').id
    for path in (tmp_path/'again'/'page'/'sounds').iterdir():
        assert path.read_bytes() == (tests/'mos'/'page'/'sounds'/path.name).read_bytes()
    other = prepare_test(sounds, tmp_path/'other', items=4, repeats=1, reference='real', seed=4)
    assert other.id != again.id and set(other.stimuli).isdisjoint(again.stimuli)

def test_lists_can_be_short(sounds, tmp_path):
    plan = prepare_test(pick(sounds, 'PD', 'ZS'), tmp_path/'test', items=6, items_per_list=2, systems_per_item=1,
                        gold=0, repeats=0, questions=('fidelity',))
    assert len(plan.lists) == 6 and {len(trials) for trials in plan.lists} == {2}
    used = Counter(trial['stimuli'][0] for trials in plan.lists for trial in trials)
    assert len(used) == 12 and set(used.values()) == {1}

def test_lengths_rates_and_short_sounds_are_named(tmp_path):
    a, b = folder(tmp_path/'a', 4), folder(tmp_path/'b', 4, noise=.01, rate=22_050)
    soundfile.write(b/'0002.wav', wave(2, seconds=0.3, rate=22_050, noise=.01), 22_050)
    with pytest.raises(InputError, match=naming('B/0002', 0.3, 'seconds')):
        prepare_test({'A': a, 'B': b}, tmp_path/'test', repeats=0, gold=0)
    plan = prepare_test({'A': a, 'B': b}, tmp_path/'test', seconds=0.5, repeats=0, gold=0, training=0)
    protocol = plan.protocol
    assert protocol['shorter than a block'] == protocol['padded'] == ['B/0002'] and len(protocol['cut']) == 7
    assert sorted(protocol['resampled']) == [f'A/{i:04d}' for i in range(4)] and protocol['sample_rate'] == 22_050
    assert set(protocol['gains']['i00']) == {'A', 'B'}

def test_loud_peaks_turn_an_item_down(tmp_path):
    a, b = folder(tmp_path/'a', 3), folder(tmp_path/'b', 3, noise=.01)
    click = np.zeros(12_800)
    click[::4000] = 0.9
    soundfile.write(b/'0001.wav', click, 16_000)
    plan = prepare_test({'A': a, 'B': b}, tmp_path/'test', repeats=0, gold=0, training=0)
    (item, down), = plan.protocol['turned_down'].items()
    levels = [loudness(read_audio(tmp_path/'test'/'page'/stimulus['file'], None))
              for stimulus in plan.stimuli.values() if stimulus['item'] == item]
    assert down < -1 and levels == pytest.approx([-23 + down] * 2, abs=0.05)
    assert next(entry['key'] for entry in plan.items if entry['id'] == item) == '0001'

def test_silent_sounds(tmp_path):
    a, b = folder(tmp_path/'a', 4), folder(tmp_path/'b', 4, noise=.01)
    soundfile.write(b/'0001.wav', np.zeros(12_800), 16_000)
    options = dict(repeats=0, gold=0, training=0)
    with pytest.raises(InputError, match=naming('0001.wav', 'silent')):
        prepare_test({'A': a, 'B': b}, tmp_path/'test', **options)
    skipped = prepare_test({'A': a, 'B': b}, tmp_path/'skipped', silent='skip', **options)
    assert skipped.protocol['skipped'] == ['0001'] and len(skipped.items) == 3
    kept = prepare_test({'A': a, 'B': b}, tmp_path/'kept', silent='keep', **options)
    assert kept.protocol['silent'] == ['B/0001'] and len(kept.items) == 4
    peaks = [read_audio(tmp_path/'kept'/'page'/each['file'], None).peak for each in kept.stimuli.values()]
    assert sorted(peaks)[0] == 0 < sorted(peaks)[1]

@pytest.mark.parametrize('options', [{'seconds': 0.5}, {}])
def test_a_sound_that_begins_with_silence_is_silent_where_it_is_cut(tmp_path, options):
    a, b = folder(tmp_path/'a', 4, seconds=0.5), folder(tmp_path/'b', 4, noise=.01)
    soundfile.write(b/'0001.wav', np.concatenate([np.zeros(9000), wave(1)]), 16_000)
    options = options | dict(repeats=0, gold=0, training=0)
    with pytest.raises(InputError, match=naming('0001', 'silent', 0.5)):
        prepare_test({'A': a, 'B': b}, tmp_path/'test', **options)
    plan = prepare_test({'A': a, 'B': b}, tmp_path/'test', silent='keep', **options)
    assert plan.protocol['silent'] == ['B/0001']

def test_images_take_the_place_of_prompts(sounds, tmp_path):
    images = tmp_path/'images'
    images.mkdir()
    for i in range(8): Image.new('RGB', (900, 20), (20 * i, 90, 90)).save(images/f'{i:04d}.png')
    plan = prepare_test(pick(sounds, 'PD', 'ZS'), tmp_path/'test', queries=images, items=4, repeats=1)
    for item in plan.items:
        with Image.open(tmp_path/'test'/'page'/item['query']) as image: assert image.width == 640
        assert item['prompt'] == '' and item['key'] not in item['query']
    assert {item['id'] for item in plan.public()['items'] if item['query']} == {item['id'] for item in plan.items}
    (images/'0003.png').unlink()
    with pytest.raises(InputError, match=naming('0003')):
        prepare_test(pick(sounds, 'PD', 'ZS'), tmp_path/'other', queries=images)

def test_matching_by_prompt(tmp_path):
    a = folder(tmp_path/'a', 4)
    b = folder(tmp_path/'b', 4, noise=.01, name='sound{}', words=WORDS[3::-1])
    with pytest.raises(InputError, match=naming('0000', 'sound0')):
        prepare_test({'A': a, 'B': b}, tmp_path/'test')
    plan = prepare_test({'A': a, 'B': b}, tmp_path/'test', match='prompt', repeats=0, gold=0, training=0)
    assert sorted(item['key'] for item in plan.items) == sorted(f'a {word}' for word in WORDS[:4])

def test_plain_folders_have_names_only(tmp_path):
    systems = {name: folder(tmp_path/name, 4, prompts=False, noise=noise) for name, noise in (('A', 0), ('B', .1))}
    with pytest.raises(InputError, match=naming('relevance', 'prompts')): prepare_test(systems, tmp_path/'test')
    plan = prepare_test(systems, tmp_path/'test', questions=('fidelity',), repeats=1)
    assert {item['prompt'] for item in plan.items} == {''}
    table = tmp_path/'prompts.csv'
    table.write_text('file,prompt\n' + ''.join(f'{i:04d}.wav,a {WORDS[i]}\n' for i in range(4)))
    both = prepare_test(systems, tmp_path/'both', prompts=table, repeats=1)
    assert {item['prompt'] for item in both.items} == {f'a {word}' for word in WORDS[:4]}

# bad plans

BAD = {
    'one system': (lambda home: {'A': home/'a'}, {}, ('two', 'A')),
    'a missing sound': (lambda home: {'A': home/'a', 'B': home/'b', 'C': home/'fewer'}, {}, ('C', '0003')),
    'the same sounds': (lambda home: {'A': home/'a', 'B': home/'again'}, {}, ('A', 'B', 'same')),
    'the same folder': (lambda home: {'A': home/'a', 'B': home/'a'}, {}, ('A', 'B', 'same')),
    'an unreadable file': (lambda home: {'A': home/'a', 'B': home/'broken'}, {}, ('0002.wav',)),
    'a sound of 0.1 s': (lambda home: {'A': home/'a', 'B': home/'brief'}, {'seconds': 0.5}, ('0001.wav', 0.1)),
    'too few items': (lambda home: {'A': home/'a', 'B': home/'b'}, {'items': 5}, (5, 4)),
    'one item': (lambda home: {'A': home/'one', 'B': home/'two'}, {}, ('items', 2)),
    'no folder': (lambda home: {'A': home/'a', 'B': home/'none'}, {}, ('none',)),
    'an empty folder': (lambda home: {'A': home/'a', 'B': home/'empty'}, {}, ('empty',)),
    'other prompts': (lambda home: {'A': home/'a', 'B': home/'renamed'}, {}, ('0000', 'dog')),
    'a reserved name': (lambda home: {'A': home/'a', 'anchor': home/'b'}, {}, ('anchor',)),
    'a reference that is none': (lambda home: {'A': home/'a', 'B': home/'b'}, {'reference': 'C'}, ('C', 'A', 'B')),
    'mushra without a reference': (lambda home: {'A': home/'a', 'B': home/'b'}, {'method': 'mushra'}, ('reference',)),
    'gold without real sounds': (lambda home: {'A': home/'a', 'B': home/'b'}, {'method': 'ab', 'gold': 1},
                                 ('gold', 1, 'reference')),
    'many repeats': (lambda home: {'A': home/'a', 'B': home/'b'}, {'repeats': 9}, ('repeats', 9)),
    'lists that do not divide': (lambda home: {'A': home/'a', 'B': home/'b'}, {'items_per_list': 3},
                                 ('items_per_list', 3, 4)),
    'rounds beyond the systems': (lambda home: {'A': home/'a', 'B': home/'b'}, {'systems_per_item': 3},
                                  ('systems_per_item', 3)),
}

@pytest.fixture(scope='module')
def bad(tmp_path_factory):
    "Folders with which no test can be made. Nobody writes here."
    home = tmp_path_factory.mktemp('bad')
    folder(home/'a', 4)
    folder(home/'again', 4)
    for name, n in (('b', 4), ('broken', 4), ('fewer', 3), ('one', 1)): folder(home/name, n, noise=.01)
    folder(home/'two', 1, noise=.02)
    (home/'broken'/'0002.wav').write_bytes(b'RIFF' + bytes(2000))
    (home/'empty').mkdir()
    folder(home/'brief', 4, noise=.01)
    soundfile.write(home/'brief'/'0001.wav', wave(1, seconds=0.1), 16_000)
    folder(home/'renamed', 4, noise=.01, words=['dog', *WORDS])
    return home

@pytest.mark.parametrize('case', BAD)
def test_a_bad_plan_is_refused_before_anything_is_written(bad, tmp_path, case):
    systems, options, named = BAD[case]
    with pytest.raises(InputError, match=naming(*named)): prepare_test(systems(bad), tmp_path/'test', **options)
    assert list(tmp_path.iterdir()) == []

def test_an_existing_folder_is_left(bad, tmp_path):
    (tmp_path/'test').mkdir()
    (tmp_path/'test'/'answers.sqlite').write_text('answers')
    with pytest.raises(InputError, match=naming('test', 'answers')):
        prepare_test({'A': bad/'a', 'B': bad/'b'}, tmp_path/'test')
    assert (tmp_path/'test'/'answers.sqlite').read_text() == 'answers'
    with pytest.raises(InputError, match=naming('nowhere')): prepare_test({}, tmp_path/'nowhere'/'test')

def test_a_page_that_fails_leaves_nothing(bad, tmp_path):
    def page(plan): raise RuntimeError('no page')
    systems = {'A': bad/'a', 'B': bad/'b'}
    with pytest.raises(RuntimeError, match='no page'): prepare_test(systems, tmp_path/'test', repeats=1, page=page)
    assert list(tmp_path.iterdir()) == []
    plan = prepare_test(systems, tmp_path/'test', repeats=1, page=lambda plan: f'plan {plan.id}')
    assert (tmp_path/'test'/'page'/'index.html').read_text() == f'plan {plan.id}'

@pytest.mark.parametrize('setting, value', [
    ('method', 'mus'), ('items', 1), ('items', 2.0), ('items', True), ('seconds', 0.3), ('loudness', 0),
    ('true_peak', 1), ('fade', -0.1), ('sample_rate', 4000), ('silent', 'drop'), ('match', 'order'),
    ('seed', -1), ('repeats', -1), ('questions', ('noise',)), ('questions', ()), ('loudness', 'loud')])
def test_settings_are_checked(setting, value):
    named = value[0] if isinstance(value, tuple) and value else setting
    with pytest.raises(InputError, match=naming(named)): check_config(ListeningConfig(**{setting: value}))

def test_a_changed_test_is_not_loaded(bad, tmp_path):
    plan = prepare_test({'A': bad/'a', 'B': bad/'b'}, tmp_path/'test', repeats=1)
    path, sound = tmp_path/'test'/'plan.json', next((tmp_path/'test'/'page'/'sounds').iterdir())
    text = path.read_text()
    path.write_text(text.replace('"gold_failures": 1', '"gold_failures": 9'))
    with pytest.raises(InputError, match=naming(plan.id, 'changed')): load_plan(tmp_path/'test')
    path.write_text(text)
    data = sound.read_bytes()
    sound.write_bytes(data[:-2] + b'\x01\x02')
    with pytest.raises(InputError, match=naming(sound.name, 'changed')): load_plan(tmp_path/'test')
    sound.unlink()
    with pytest.raises(InputError, match=naming(sound.name)): load_plan(tmp_path/'test')
    path.write_text('{"kind": "table"}')
    with pytest.raises(InputError, match=naming('plan.json')): load_plan(tmp_path/'test')

# answers and the panel

def answer(plan, list, trial, values, question=None, **more):
    plays = [1] * len(trial['stimuli'])
    return {'plan': plan.id, 'listener': 'l', 'list': list, 'trial': trial['id'], 'position': 0, 'values': values,
            'question': question or trial['questions'][0], 'plays': plays, 'seconds': 5., 'key': 'k',
            'time': '2026-01-01T00:00:00Z'} | more

def test_ratings_of_each_method(tests):
    plan = load_plan(tests/'mos')
    gold = next(trial for trial in plan.lists[2] if trial['check'] == 'gold')
    row, = answers_to_ratings(plan, [answer(plan, 2, gold, [1])])
    assert list(row) == RATING_COLUMNS and (row['expect'], row['check'], row['part']) == ('1..2', 'gold', 'test')
    row, = answers_to_ratings(plan, [answer(plan, 0, plan.training[0], [3], 'relevance')])
    assert (row['part'], row['question'], row['value'], row['expect']) == ('training', 'relevance', 3, None)
    plan = load_plan(tests/'ab')
    trial = next(trial for trial in plan.lists[0] if not trial['check'])
    row, = answers_to_ratings(plan, [answer(plan, 0, trial, [0.5], 'noise')])
    assert [row['system'], row['other']] == [plan.stimuli[name]['system'] for name in trial['stimuli']]
    assert (row['value'], row['plays']) == (0.5, 2)
    plan = load_plan(tests/'mushra')
    trial = plan.lists[1][0]
    rows = answers_to_ratings(plan, [answer(plan, 1, trial, [10, 20, 30, 100])])
    assert [(row['system'], row['value'], row['plays']) for row in rows] == [
        (plan.stimuli[name]['system'], value, 1) for name, value in zip(trial['stimuli'], (10, 20, 30, 100))]
    rows = answers_to_ratings(plan, [answer(plan, 1, trial, [10, 20, 30, 100], plays=[])])
    assert [row['plays'] for row in rows] == [None] * 4, 'webMUSHRA counts no plays'

def test_the_last_answer_counts(tests):
    plan = load_plan(tests/'mos')
    trial = plan.lists[0][0]
    late = answer(plan, 0, trial, [5], time='2026-01-01T00:02:00Z')
    early = answer(plan, 0, trial, [1], time='2026-01-01T00:01:00Z')
    assert [row['value'] for row in answers_to_ratings(plan, [late, early])] == [5]
    other = answer(plan, 0, trial, [2], listener='m')
    assert [row['value'] for row in answers_to_ratings(plan, [early, other, late])] == [5, 2]

@pytest.mark.parametrize('wrong', [{'plan': 'p0'}, {'list': 99}, {'trial': 't9999'}, {'question': 'noise'},
                                   {'values': [6]}, {'values': [True]}, {'values': []}, {'values': [1, 2]},
                                   {'values': ['5']}, {'plays': [1, 1]}, {'list': None}])
def test_answers_that_do_not_fit_are_refused(tests, wrong):
    plan = load_plan(tests/'mos')
    with pytest.raises(InputError, match=naming('listener', 'l')):
        answers_to_ratings(plan, [answer(plan, 0, plan.lists[0][0], [3]) | wrong])

def test_an_answer_to_another_list_is_refused(tests):
    plan = load_plan(tests/'mos')
    with pytest.raises(InputError, match=naming(plan.lists[1][0]['id'])):
        answers_to_ratings(plan, [answer(plan, 0, plan.lists[1][0], [3])])

@pytest.fixture
def small(bad, tmp_path):
    prepare_test({'A': bad/'a', 'B': bad/'b'}, tmp_path/'test', items=2, repeats=0, gold=0, training=1)
    return tmp_path/'test'

def rate(panel, value):
    for button in panel.buttons: button.click()
    for controls in panel.controls.values():
        for control in controls: control.value = value
    panel.next.click()

def test_the_panel_rates_a_whole_list(small):
    panel = RatingPanel(small, 'ann-1', list=1)
    while panel.position < len(panel.trials): rate(panel, 3)
    assert 'Finished' in panel.status.value and len(panel.box.children) == 1
    stored = [json.loads(line) for line in (small/'answers-ann-1.jsonl').read_text().splitlines()]
    rows = answers_to_ratings(load_plan(small), stored)
    assert Counter(row['part'] for row in rows) == {'training': 2, 'test': 8} and {row['value'] for row in rows} == {3}
    assert {(row['listener'], row['list'], row['plays']) for row in rows} == {('ann-1', 1, 1)}
    assert [row['position'] for row in rows if row['part'] == 'test'] == list(range(8))
    assert len({each['key'] for each in stored}) == 10
    panel.on_next()
    assert RatingPanel(small, 'ann-1', list=1).position == len(panel.trials)

def test_nothing_is_rated_before_it_was_played(small):
    panel = RatingPanel(small)
    control, = panel.controls['fidelity']
    assert control.disabled and control.value is None and panel.player.value == ''
    panel.next.click()
    assert panel.position == 0 and panel.message.value and not panel.path.exists()
    panel.buttons[0].click()
    assert not control.disabled and '<audio' in panel.player.value
    panel.next.click()
    assert panel.position == 0, 'played and not rated'
    control.value = 2
    panel.next.click()
    assert panel.position == 0, 'the training asks two questions'
    panel.controls['relevance'][0].value = 5
    panel.next.click()
    assert panel.position == 1 and panel.message.value == '' == panel.player.value
    again = RatingPanel(small)
    assert again.position == 1 and [each['values'] for each in again.answers] == [[2], [5]]

def test_the_panel_shows_a_prompt_where_the_question_needs_it(small):
    panel = RatingPanel(small)
    for _ in range(9):
        if panel.position == len(panel.trials): break
        trial = panel.trials[panel.position]
        assert bool(panel.query.value) == ('relevance' in trial['questions'])
        rate(panel, 4)

@pytest.mark.parametrize('method, values', [('ab', 0.5), ('mushra', 70)])
def test_the_panel_of_other_methods(tests, tmp_path, method, values):
    shutil.copytree(tests/method, tmp_path/'test')
    panel = RatingPanel(tmp_path/'test')
    first = [control for controls in panel.controls.values() for control in controls]
    panel.buttons[0].click()
    assert [control.disabled for control in first] == ([True] * 3 if method == 'ab' else [False, True, True, True])
    rate(panel, values)
    rows = answers_to_ratings(panel.plan, panel.answers)
    assert {row['value'] for row in rows} == {values} and len(rows) == (3 if method == 'ab' else 4)
    assert rows[0]['plays'] == (3 if method == 'ab' else 2)

def test_what_the_panel_refuses(small, tests):
    for name in ('', '../x', 'a b'):
        with pytest.raises(InputError, match='listener'): RatingPanel(small, name)
    with pytest.raises(InputError, match=naming('list', 99)): RatingPanel(small, list=99)
    (small/'answers-me.jsonl').write_text('no json\n')
    with pytest.raises(InputError, match=naming('answers-me.jsonl')): RatingPanel(small)
    other = load_plan(tests/'mos')
    (small/'answers-me.jsonl').write_text(json.dumps(answer(other, 0, other.lists[0][0], [3])) + '\n')
    with pytest.raises(InputError, match=naming(other.id)): RatingPanel(small)

def test_the_panel_is_shown_by_its_widget(small):
    assert 'application/vnd.jupyter.widget-view+json' in RatingPanel(small)._repr_mimebundle_()

def test_tables_for_the_experimenter(tests):
    plan = load_plan(tests/'mos')
    assert plan.id in plan_markdown(plan) and '4 gold, 2 repeats' in plan_markdown(plan)
    table = plan_markdown(plan, list=0)
    assert len(table.splitlines()) == 2 + len(plan.lists[0]) and 'fidelity 1 to 2' in table

def test_the_import_is_light():
    "A server reads plans and answers, and needs none of these."
    heavy = 'torch', 'av', 'pyloudnorm', 'ipywidgets', 'scipy', 'PIL', 'numpy'
    code = f'import sys, clipsonic.listening; print([m for m in {heavy} if m in sys.modules])'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.stdout.strip() == '[]', done.stdout + done.stderr

def test_without_pyloudnorm_one_line_says_what_to_install(bad, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pyloudnorm', None)
    with pytest.raises(InputError, match=re.escape('clipsonic[listen]')):
        prepare_test({'A': bad/'a', 'B': bad/'b'}, tmp_path/'test', repeats=1)
    assert list(tmp_path.iterdir()) == []

def test_without_a_seed_a_test_draws_one_that_nobody_guesses(sounds, tmp_path):
    plans = [listening.prepare_test(sounds, tmp_path/name, items=4, repeats=1) for name in ('one', 'two')]
    assert plans[0].seed != plans[1].seed and min(plan.seed for plan in plans) > 2**40
    assert not set(plans[0].stimuli) == set(plans[1].stimuli)
    assert load_plan(tmp_path/'one').id == plans[0].id
    assert 'seed' not in plans[0].public()

def test_a_test_inside_a_system_s_folder_is_refused(sounds):
    with pytest.raises(InputError, match=naming('pd', 'outside')):
        prepare_test(pick(sounds, 'PD', 'ZS'), sounds['PD']/'test', repeats=1)
    assert not (sounds['PD']/'test').exists()
