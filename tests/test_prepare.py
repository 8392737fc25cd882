"""A collection as it comes from the world, prepared: what is used, what is not and why, killed and gone on with."""
import csv
import gc
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest
import torch

from clipsonic.clip import Clip, ClipConfig, build_clip, pocket_preprocess
from clipsonic.core import Audio, InputError, MediaError
from clipsonic.prepare import (IndexRow, MediaFile, PrepareConfig, ShardFolder, find_files, match_index, prepare,
                               read_index, robust_map, whole_files)
from clipsonic.shards import all_clips, batches, shard_info
from clipsonic.video import read_audio
from conftest import naming, root
from films import cut, film, heard, pitch, remux, song, steps, tone

def untrained(seed=0):
    "The pocket CLIP's architecture with random weights."
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Clip(build_clip(ClipConfig(), 64), pocket_preprocess(ClipConfig()), None, 'untrained', str(seed), 'cpu')

CLIP = untrained()

def run(videos, out, **options):
    "prepare, quietly."
    return prepare(videos, out, **dict(clip=CLIP, workers=0, progress=False, clips_per_shard=3) | options)

def reasons(report): return {u.file: u.reason for u in report.unused}

def tars(out): return {path.name: path.read_bytes() for path in sorted(out.glob('*.tar'))}

@pytest.fixture(scope='module')
def collection(tmp_path_factory):
    "Seven good films and one of every kind of bad file."
    folder = tmp_path_factory.mktemp('collection')/'videos'
    (folder/'deep er').mkdir(parents=True)
    for n, name in enumerate(['a.mp4', 'b.mkv', '-abc def.mp4', '--x.mp4', 'deep er/a.mp4', 'ünï & {1..3}.mp4']):
        film(folder/name, 2., n)
    film(folder/'long.mp4', 12.5, audio=tone(12.5))
    film(folder/'mute.mp4', 2., audio=None)
    film(folder/'hush.mp4', 2., audio=tone(2., level=5e-4))
    film(folder/'blink.mp4', .5)
    cut(film(folder/'cut.mp4', 2.), .6)
    cut(remux(film(folder/'x.mp4', 4.), folder/'half.mp4', movflags='faststart'), .6)
    (folder/'x.mp4').unlink()
    song(folder/'song.mp3')
    tone(2.).save(folder/'tone.wav')
    (folder/'text.mp4').write_text('not a film at all\n' * 100)
    (folder/'empty.mp4').touch()
    (folder/'.hidden.mp4').write_text('a partial download')
    (folder/'gone.mp4').symlink_to(folder/'nowhere.mp4')
    film(folder/'b.mp4', 2.)  # b again
    return folder

BAD = {'mute.mp4': 'no audio track', 'hush.mp4': 'silent', 'blink.mp4': 'too short', 'cut.mp4': 'truncated',
       'half.mp4': 'truncated',
       'song.mp3': 'no video', 'tone.wav': 'no video', 'text.mp4': 'not a video', 'empty.mp4': 'unreadable',
       'gone.mp4': 'missing',
       'b.mp4': 'duplicate'}

@pytest.fixture(scope='module')
def prepared(collection, tmp_path_factory):
    "The collection's shards and report, made by two workers."
    out = tmp_path_factory.mktemp('prepared')/'shards'
    return out, run(collection, out, workers=2)

def test_every_file_is_used_or_named(collection, prepared):
    out, report = prepared
    assert reasons(report) == BAD
    used = Counter(clip['id'] for clip in all_clips(out))
    assert used == {'a': 1, 'b': 1, '-abc def': 1, '--x': 1, 'deep er/a': 1, 'ünï & {1..3}': 1, 'long': 2}
    assert len(used) + len(BAD) == sum(path.is_file() or path.is_symlink() for path in collection.rglob('[!.]*'))
    with open(out/'report.csv', newline='', encoding='utf-8') as file: rows = list(csv.DictReader(file))
    assert {row['file']: row['reason'] for row in rows} == BAD and all(row['detail'] for row in rows)
    assert all(words in str(report) for words in ['8 clips', '11 not used', '2 truncated', 'report.csv'])

def test_what_a_sample_holds(collection, prepared):
    clips = {(clip['id'], clip['start']): clip for clip in all_clips(prepared[0])}
    clip = clips['-abc def', 0.]
    assert clip['file'] == '-abc def.mp4' and clip['times'] == [.5, 1.5] and clip['waveform'].shape == (1, 32000)
    assert (clip['waveform'] - read_audio(collection/'-abc def.mp4', seconds=2.).waveform).abs().max() < 1e-4
    assert torch.allclose(clip['embedding'].norm(dim=-1), torch.ones(2), atol=1e-5)
    assert clips['long', 0.]['seconds'] == 10 and clips['long', 10.]['seconds'] == pytest.approx(2.5, abs=.1)
    info = shard_info(prepared[0])
    assert (info['count'], info['clip'], info['labeled']) == (8, CLIP.fingerprint, 0)
    assert info['dim'] == ClipConfig().embed_dim

def test_the_number_of_workers_changes_nothing(collection, prepared, tmp_path):
    run(collection, tmp_path/'shards')
    assert tars(tmp_path/'shards') == tars(prepared[0])
    assert (tmp_path/'shards'/'report.csv').read_bytes() == (prepared[0]/'report.csv').read_bytes()

KILLED = '''
import os, signal, sys
import clipsonic.prepare, test_prepare
write_shard = clipsonic.prepare.write_shard
def killed_at_the_second(path, samples):
    if path.name == 'clipsonic-000001.tar': os.kill(os.getpid(), signal.SIGKILL)
    write_shard(path, samples)
clipsonic.prepare.write_shard = killed_at_the_second
test_prepare.run(sys.argv[1], sys.argv[2], workers=1)
'''

@pytest.mark.long
def test_a_killed_run_goes_on(collection, prepared, tmp_path):
    out = tmp_path/'shards'
    environment = os.environ | {'PYTHONPATH': os.pathsep.join([str(root/'tests'), str(root)])}
    done = subprocess.run([sys.executable, '-c', KILLED, collection, out], env=environment)
    assert done.returncode == -signal.SIGKILL
    kept = {path: path.stat().st_mtime_ns for path in out.glob('*.tar')}
    (out/'.clipsonic-000001.abcd.partial.tar').write_bytes(b'half of it')
    assert not (out/'shards.json').exists()
    with pytest.raises(InputError, match=naming(out, 'clipsonic prepare')): shard_info(out)
    report = run(collection, out)
    assert [path.name for path in kept] == ['clipsonic-000000.tar']
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())
    assert tars(out) == tars(prepared[0]) and reasons(report) == BAD
    assert not list(out.glob('.*'))

def test_a_folder_of_before_is_gone_on_with(collection, prepared, tmp_path):
    "Before 0.1.0 the number of labels had another name in the notes of the shards."
    out = shutil.copytree(prepared[0], tmp_path/'shards')
    for note in (out/'parts').glob('clipsonic-*.json'):
        note.write_text(note.read_text().replace('"labeled"', '"labelled"'))
    (out/'shards.json').unlink()
    stamps = [path.stat().st_mtime_ns for path in sorted(out.glob('*.tar'))]
    run(collection, out)
    assert [path.stat().st_mtime_ns for path in sorted(out.glob('*.tar'))] == stamps
    assert shard_info(out) == shard_info(prepared[0])

def test_a_collection_may_grow_and_shrink(collection, tmp_path):
    videos = tmp_path/'videos'
    videos.mkdir()
    for name in 'a.mp4', '--x.mp4': os.link(collection/name, videos/name)
    assert run(videos, tmp_path/'shards', clips_per_shard=1).clips == 2
    os.link(collection/'-abc def.mp4', videos/'-abc def.mp4')
    assert run(videos, tmp_path/'shards', clips_per_shard=1).clips == 3
    (videos/'a.mp4').unlink()
    assert run(videos, tmp_path/'shards', clips_per_shard=1).clips == 2
    assert sorted(clip['id'] for clip in all_clips(tmp_path/'shards')) == ['--x', '-abc def']
    assert len(tars(tmp_path/'shards')) == 2

@pytest.fixture(scope='module')
def trimmed(tmp_path_factory):
    "Files of a VGGSound-like collection: trimmed ones with and without the start in the name, and a whole video."
    folder = tmp_path_factory.mktemp('vgg')/'videos'
    folder.mkdir()
    film(folder/'-bcdefghijk_000030.mp4', 2., 0)
    film(folder/'abcdefghijk.mp4', 2., 1)
    wave = torch.cat([tone(15., 300).waveform, tone(15., 600).waveform], 1)
    film(folder/'whole_video.mp4', 30., 2, audio=type(tone(1.))(wave, 16000))
    film(folder/'stray.mp4', 2., 3)
    return folder

INDEX = '''-bcdefghijk,30,"dog, barking",train
abcdefghijk,70,cat meowing,train
whole_video,17,siren,train
lmnopqrstuv,10,rain,train
lmnopqrstuv,10,rain,train
whole_video,3,siren,test
wxyzabcdefg,10,rain,test
'''

def test_vggsound_rows(trimmed, tmp_path):
    (tmp_path/'vgg.csv').write_text(INDEX)
    report = run(trimmed, tmp_path/'train', index=tmp_path/'vgg.csv', split='train')
    clips = {clip['id']: clip for clip in all_clips(tmp_path/'train', labels=True)}
    assert {id: (clip['start'], clip['label']) for id, clip in clips.items()} == {
        '-bcdefghijk': (30., 'dog, barking'), 'abcdefghijk': (70., 'cat meowing'), 'whole_video': (17., 'siren')}
    assert pitch(clips['whole_video']['waveform']) == pytest.approx(600, abs=2)  # 17 s into the file
    assert pitch(clips['abcdefghijk']['waveform']) == pytest.approx(260, abs=2)  # the file is the clip
    assert [(u.file, u.id, u.reason) for u in report.unused] == [
        ('', 'lmnopqrstuv', 'missing'), ('', 'lmnopqrstuv', 'duplicate'), ('stray.mp4', 'stray', 'not in the index')]
    report = run(trimmed, tmp_path/'test', index=tmp_path/'vgg.csv', split='test')
    assert [clip['start'] for clip in all_clips(tmp_path/'test')] == [3.]
    assert [(u.id, u.reason) for u in report.unused] == [('wxyzabcdefg', 'missing'), ('stray', 'not in the index')]

def test_the_published_form(trimmed, tmp_path):
    (tmp_path/'test.csv').write_text(
        '-bcdefghijk_000030.mp4,dog barking\nwhole_video_000003.mp4,siren\nwhole_video_000040.mp4,siren\n')
    report = run(trimmed, tmp_path/'shards', index=tmp_path/'test.csv')
    assert {(clip['id'], clip['start'], clip['label']) for clip in all_clips(tmp_path/'shards', labels=True)} == {
        ('-bcdefghijk', 30., 'dog barking'), ('whole_video', 3., 'siren')}
    assert {(u.id, u.reason) for u in report.unused} == {
        ('whole_video', 'too short'), ('abcdefghijk', 'not in the index'), ('stray', 'not in the index')}
    with pytest.raises(InputError, match=naming(tmp_path/'test.csv', "split 'train'", None)):
        run(trimmed, tmp_path/'x', index=tmp_path/'test.csv', split='train')

def test_music_json(trimmed, tmp_path):
    (tmp_path/'music.json').write_text(json.dumps({'videos': {'flute': ['whole_video', 'abcdefghijk'],
                                                              'tuba violin': ['missing_one']}}))
    report = run(trimmed, tmp_path/'shards', index=tmp_path/'music.json')
    clips = list(all_clips(tmp_path/'shards', labels=True))
    assert sorted((clip['id'], clip['start'], clip['label']) for clip in clips) == [
        ('abcdefghijk', 0., 'flute'), ('whole_video', 0., 'flute'), ('whole_video', 10., 'flute'),
        ('whole_video', 20., 'flute')]
    assert ('missing_one', 'missing') in {(u.id, u.reason) for u in report.unused}

def test_music_is_split_by_video(tmp_path):
    ids = lambda name: [f'{name}-{n}' for n in range(50)]
    (tmp_path/'music.json').write_text(json.dumps({'videos': {'flute': ids('flute'), 'tuba': ids('tuba')}}))
    rows = read_index(tmp_path/'music.json')
    assert Counter(row.split for row in rows) == {'train': 90, 'test': 10}
    assert rows == read_index(tmp_path/'music.json') != read_index(tmp_path/'music.json', seed=1)

@pytest.mark.parametrize('text', ['', 'abc,xyz\n', 'abc,ten,dog,train\n', 'abc,-1,dog,train\n', 'abc,1,dog\n',
                                  ',1,dog,train\n', 'abc,nan,dog,train\n'])
def test_bad_csv(tmp_path, text):
    (tmp_path/'bad.csv').write_text('good_one_it,0,dog,train\n' * bool(text) + text)
    says = ['line 2', repr(text[:-1])] if text else ['rows']
    with pytest.raises(InputError, match=naming(tmp_path/'bad.csv', *says)): read_index(tmp_path/'bad.csv')

@pytest.mark.parametrize('text', ['{', '[]', '{"version": 1}', '{"videos": ["a"]}', '{"videos": {}}'])
def test_bad_json(tmp_path, text):
    (tmp_path/'bad.json').write_text(text)
    with pytest.raises(InputError, match=naming(tmp_path/'bad.json', 'rows' if '{}' in text else '"videos"')):
        read_index(tmp_path/'bad.json')

def test_a_csv_with_a_header(tmp_path):
    (tmp_path/'real.csv').write_text('id,start,label,source\nxyz_000010,10,dog,somewhere\n')
    assert read_index(tmp_path/'real.csv') == [IndexRow('xyz_000010', 10., 'dog', None)]

    (tmp_path/'real.csv').write_text('id,start_time,label\nxyz,10,dog\n')
    # all of it, and not its first seconds
    assert read_index(tmp_path/'real.csv') == [IndexRow('xyz', None, 'dog', None)]

@pytest.mark.parametrize('text, says', [('id,start,label\nabc,1,birds, many\n', 'line 2 4 fields 3 columns'),
                                        ('abc,1,birds, many,train\n', "line 1 'abc,1,birds,many,train' comma quotes"),
                                        ('abc_000001.mp4,birds, many\n', 'line 1 comma quotes'),
                                        ('id;start;label\nabc;1;dog\n', "line 1 'id;start;label'"),
                                        ('abc,1,"birds,train\nabd,1,dog,train\n', 'line 2 quotes'),
                                        ('id,label,label\nabc,dog,cat\n', "columns once 'id,label,label'")])
def test_a_torn_csv_is_named(tmp_path, text, says):
    (tmp_path/'torn.csv').write_text(text)
    with pytest.raises(InputError, match=naming(tmp_path/'torn.csv', *says.split())): read_index(tmp_path/'torn.csv')

def test_rows_find_files_whose_names_are_written_in_another_unicode_form():
    files = [MediaFile(f'/{name}', name, 1) for name in ('cafe\u0301.mp4', 'the\u0301_000010.mp4')]
    sources, unused = match_index([IndexRow('caf\xe9', None), IndexRow('th\xe9', 10.)], files)
    assert [s.file for s in sources] == files and not unused

def test_a_transport_stream_is_a_video_on_every_machine(tmp_path, monkeypatch):
    # as Debian's list has it
    monkeypatch.setattr('mimetypes.guess_type', lambda *_, **__: ('text/vnd.trolltech.linguist', None))
    for name in ('a.srt', 'a.ts'): (tmp_path/name).write_bytes(b'')
    assert [f.name for f in find_files(tmp_path)] == ['a.ts', 'a.srt']

def test_folders_are_told_apart(tmp_path):
    for folder in 'one', 'two': (tmp_path/folder).mkdir(); film(tmp_path/folder/'a.mp4', 1.)
    assert [f.id for f in find_files([tmp_path/'one', tmp_path/'two'])] == ['one/a', 'two/a']
    assert [f.id for f in find_files([tmp_path/'one'/'a.mp4', tmp_path/'one'/'a.mp4'])] == ['a']
    (tmp_path/'one'/'loop').symlink_to(tmp_path/'one')
    (tmp_path/'one'/'other').symlink_to(tmp_path/'two')
    assert [f.id for f in find_files(tmp_path/'one')] == ['a', 'other/a']

def test_a_name_that_is_no_text(tmp_path):
    try: os.mkdir(tmp_path/'v'); open(os.fsencode(tmp_path/'v') + b'/\xff.mp4', 'w').write('no film')
    except OSError: pytest.skip('this file system takes text only')
    film(tmp_path/'v'/'good.mp4', 1.)
    assert reasons(run(tmp_path/'v', tmp_path/'shards')) == {'\\xff.mp4': 'not a video'}

def crash(item, settings):
    "A decoder that runs into bad files."
    if item == 2: os.kill(os.getpid(), signal.SIGKILL)
    if item == 4: time.sleep(600)
    if item == 6: raise MemoryError('too much')
    return item

def test_a_worker_that_crashes_or_hangs_costs_one_file():
    results = list(robust_map(crash, range(9), PrepareConfig(), workers=2, timeout=5))
    assert [r for r in results if isinstance(r, int)] == [0, 1, 3, 5, 7, 8]
    assert [results[n].reason for n in (2, 4, 6)] == ['unreadable'] * 3 and isinstance(results[4], MediaError)

class Inherited:
    "A part of a cycle, which only the garbage collector frees; it says in which process."
    def __init__(self, note): self.note, self.itself = note, self
    def __del__(self, pid=os.getpid):
        with open(self.note, 'a') as file: print(pid(), file=file)

def collecting(item, settings): return gc.collect() * 0 + os.getpid()

def test_a_worker_frees_nothing_that_it_inherited(tmp_path):
    "PyAV's filter graphs have threads, which a forked process lacks: freed there, they wait for ever."
    note = tmp_path/'freed'
    gc.collect()
    gc.disable()
    try:
        Inherited(note)
        workers = set(robust_map(collecting, list(range(4)), PrepareConfig(), workers=1, timeout=60))
    finally: gc.enable()
    gc.collect()
    assert note.read_text().split() == [str(os.getpid())] and os.getpid() not in workers

def test_other_settings_are_refused(collection, prepared, tmp_path):
    out, _ = prepared
    before = tars(out)
    with pytest.raises(InputError, match=naming(out, 'clip', "'untrained'", "'0'", "'1'")):
        run(collection, out, clip=untrained(1))
    with pytest.raises(InputError, match=naming(out, 'seconds', 10, 4)): run(collection, out, seconds=4.)
    assert tars(out) == before

def test_wrong_input(collection, tmp_path):
    (tmp_path/'empty').mkdir()
    (tmp_path/'mine').mkdir()
    (tmp_path/'mine'/'thesis.txt').write_text('important')
    for says, videos, out, options in [
        (f'{tmp_path}/nowhere', tmp_path/'nowhere', 'out', {}),
        (f'{tmp_path}/empty files', tmp_path/'empty', 'out', {}),
        (f'{tmp_path}/a/b folder', collection, 'a/b', {}), (f'{tmp_path}/mine empty folder', collection, 'mine', {}),
        (f'{tmp_path}/mine/thesis.txt file', collection, 'mine/thesis.txt', {}),
        ("split 'train' index", collection, 'out', dict(split='train')),
        (f'{tmp_path}/x.csv index', collection, 'out', dict(index=tmp_path/'x.csv')),
        ('seconds 0', collection, 'out', dict(seconds=0)), ('workers -1', collection, 'out', dict(workers=-1)),
        ("CLIP 'nonesuch'", collection, 'out', dict(clip='nonesuch'))]:
        with pytest.raises(InputError, match=naming(*says.split())): run(videos, tmp_path/out, **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['empty', 'mine']

def test_nothing_usable(tmp_path):
    (tmp_path/'videos').mkdir()
    (tmp_path/'videos'/'a.mp4').write_text('no film')
    with pytest.raises(InputError, match=naming('1 not a video', tmp_path/'shards/report.csv')):
        run(tmp_path/'videos', tmp_path/'shards')
    assert 'not a video' in (tmp_path/'shards'/'report.csv').read_text()
    assert not (tmp_path/'shards'/'shards.json').exists()

def test_shards_inside_the_videos(tmp_path):
    film(tmp_path/'a.mp4', 1.)
    for _ in range(2): assert run(tmp_path, tmp_path/'shards').unused == []

def test_training_can_read_it(prepared):
    batch = next(batches(prepared[0], 8))
    assert batch['waveform'].shape == (8, 1, 32768) and 0 < batch['padded'] < 8  # films of two seconds and a long one

@pytest.mark.data
def test_natural_videos(pocketav, tmp_path):
    report = run(pocketav/'real', tmp_path/'shards', index=pocketav/'real'/'real.csv', workers=2)
    assert report.clips == 22 and not report.unused
    assert all(6 <= clip['seconds'] <= 10 and len(clip['times']) == int(clip['seconds'])
               for clip in all_clips(tmp_path/'shards', labels=True))

@pytest.mark.data
def test_real_indexes(pocketav):
    rows = read_index(pocketav/'pocketav.csv')
    assert Counter(row.split for row in rows) == {'train': 1435, 'test': 290}
    rows = read_index(pocketav/'metadata'/'vggsound_test.csv')
    assert all(len(row.id) == 11 and row.label for row in rows) and len({(row.id, row.start) for row in rows}) > 15000
    for path in (pocketav/'metadata'/'music_dataset').glob('*.json'):
        splits = Counter(row.split for row in read_index(path))
        assert splits['test'] == round(sum(splits.values()) / 10)

def test_what_was_put_right_is_noted(tmp_path):
    videos, out = tmp_path/'videos', tmp_path/'shards'
    videos.mkdir()
    whole = steps(tmp_path/'whole.mp4', 6.)
    steps(videos/'good.ts', 6.)
    remux(whole, videos/'hole.mkv', keep=lambda kind, now: kind == 'video' or not 2.1 < now < 5.)
    remux(whole, videos/'clock.mkv', audio_delay=1000., video_delay=1000.)
    remux(whole, videos/'pictures.mp4', video_delay=2.)
    remux(whole, videos/'ends.mp4', keep=lambda kind, now: kind == 'video' or now < 4.)
    (videos/'blind.mp4').write_bytes(whole.read_bytes().replace(b'avc1', b'zzzz').replace(b'avcC', b'xvcC'))
    report = run(videos, out, seconds=10.)
    assert reasons(report) == {'blind.mp4': 'no decoder'} and report.clips == 5
    assert sorted((note.file, note.reason) for note in report.notes) == [
        ('ends.mp4', 'sound ends early'), ('hole.mkv', 'holes filled'), ('pictures.mp4', 'sound ends early'),
        ('pictures.mp4', 'video begins late')]
    with open(out/'report.csv', newline='', encoding='utf-8') as file: rows = list(csv.DictReader(file))
    assert [(row['file'], row['used'], row['reason']) for row in rows] == [
        ('blind.mp4', 'no', 'no decoder'), ('ends.mp4', 'yes', 'sound ends early'),
        ('hole.mkv', 'yes', 'holes filled'), ('pictures.mp4', 'yes', 'sound ends early'),
        ('pictures.mp4', 'yes', 'video begins late')]
    assert re.search(naming('5 clips', '1 no decoder', '1 holes filled'), str(report))
    for note in (out/'parts').glob('clipsonic-*.json'):  # as before 0.1.0
        note.write_text(note.read_text().replace('video begins late', 'pictures begin late'))
    assert run(videos, out, seconds=10.).notes == report.notes
    clips = {clip['file']: clip for clip in all_clips(out)}
    for name, clip in clips.items():
        assert clip['seconds'] == clip['waveform'].shape[1] / 16000, name
        assert clip['seconds'] == pytest.approx(4 if name == 'ends.mp4' else 6, abs=.15), name
    assert heard(Audio(clips['hole.mkv']['waveform'], 16000)) == [0, 1, None, None, None, 5]
    assert clips['pictures.mp4']['times'] == [2.5, 3.5, 4.5, 5.5]
    assert clips['clock.mkv']['times'] == [.5, 1.5, 2.5, 3.5, 4.5, 5.5]
    total = sum(clip['seconds'] for clip in clips.values())
    assert json.loads((out/'shards.json').read_text())['total_seconds'] == pytest.approx(total)
    run(videos, out, seconds=10.)  # gone on with
    with open(out/'report.csv', newline='', encoding='utf-8') as file: assert list(csv.DictReader(file)) == rows

def test_clips_of_an_mpeg_stream(tmp_path):
    "With one key frame, at the beginning: its clips are those of the same film with an index."
    (tmp_path/'videos').mkdir()
    steps(tmp_path/'videos'/'a.ts', 6.)
    report = run(tmp_path/'videos', tmp_path/'shards', seconds=2.)
    clips = {clip['start']: clip for clip in all_clips(tmp_path/'shards')}
    assert not report.unused and not report.notes and sorted(clips) == [0, 2, 4]
    for start, clip in clips.items():
        assert heard(Audio(clip['waveform'], 16000)) == [start, start + 1] and len(clip['times']) == 2

def test_what_lies_beside_a_video_does_not_stand_in_for_it(tmp_path):
    for name in ('clip1.jpg', 'clip1.json', 'clip1.mp4', 'clip1.srt', 'clip1.wav'): (tmp_path/name).write_bytes(b'')
    sources, unused = whole_files(find_files(tmp_path))
    assert [s.file.name for s in sources] == ['clip1.mp4'] and len(unused) == 4
    sources, _ = match_index([IndexRow('clip1', None, None, None)], find_files(tmp_path))
    assert [s.file.name for s in sources] == ['clip1.mp4']

def test_folders_of_one_name_keep_their_videos_apart(tmp_path):
    for folder in ('a/videos', 'b/videos'):
        (tmp_path/folder).mkdir(parents=True)
        (tmp_path/folder/'1.mp4').write_bytes(b'')
    folders = [tmp_path/'a'/'videos', tmp_path/'b'/'videos']
    for paths in folders, [folder/'1.mp4' for folder in folders]:
        assert [f.name for f in find_files(paths)] == ['a/videos/1.mp4', 'b/videos/1.mp4']

def itself(item, settings): return os.getpid()

def test_an_idle_worker_may_be_killed():
    "As the system does that runs out of memory: no file is lost."
    results = robust_map(itself, list(range(12)), PrepareConfig(), workers=1, timeout=60)
    first = next(results)
    time.sleep(.3)
    os.kill(first, signal.SIGKILL)
    time.sleep(.3)
    rest = list(results)
    assert len(rest) == 11 and all(isinstance(pid, int) for pid in rest) and rest[-1] != first

def test_the_layout_of_a_folder(tmp_path):
    "What a note says decides whether its shard is finished; shards beyond the count are removed."
    folder = ShardFolder(tmp_path/'shards')
    folder.check({'seconds': 10.})
    for number in range(3): folder.write(number, [], [], seconds=float(number))
    assert folder.finished(0, []) and not folder.finished(3, [])
    folder.tar(2).write_bytes(b'a shard of a video that is gone')
    assert [note['seconds'] for note in folder.notes(2)] == [0., 1.]
    assert not folder.tar(2).exists() and not folder.note(2).exists()
    (tmp_path/'shards'/'shards.json').write_text('{}')
    folder.reopen()
    assert sorted(path.name for path in (tmp_path/'shards').rglob('*')) == [
        'clipsonic-000000.json', 'clipsonic-000001.json', 'parts', 'settings.json']
    with pytest.raises(InputError, match=naming(tmp_path/'shards', 'seconds', 10., 4.)): folder.check({'seconds': 4.})
