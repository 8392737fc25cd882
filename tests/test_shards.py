"""Reading shards: order, resuming, sharing among processes, damage."""
import io
import json
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F

from clipsonic.core import ClipsonicError, InputError
from clipsonic.shards import (all_clips, batches, crop, epoch_order, make_sample, read_shard, shard_info, write_info,
                              write_shard)
from conftest import naming

def sample(n, seconds=3.):
    "Clip n: its sound is a ramp that tells the time, its embedding says n."
    flac = io.BytesIO()
    soundfile.write(flac, (np.arange(round(seconds * 16000)) / 4).astype(np.int16), 16000, format='FLAC')
    times = [k + .5 for k in range(int(seconds))]
    embedding = F.normalize(torch.eye(32)[[n] * len(times)] + .1*torch.eye(32)[24:24 + len(times)], dim=-1)
    meta = dict(id=f'clip-{n}', file=f'{n}.mp4', start=0., seconds=seconds, times=times, label=f'label {n}')
    return make_sample(f'{n:09d}', flac.getvalue(), embedding, meta)

def make(folder, sizes, **info):
    "Shards with so many clips."
    folder.mkdir()
    numbers = iter(range(sum(sizes)))
    for k, size in enumerate(sizes): write_shard(folder/f'clipsonic-{k:06d}.tar', map(sample, islice(numbers, size)))
    settings = dict(clip={'name': 'toy', 'hash': '0'}, dim=32, sample_rate=16000, total_seconds=3. * sum(sizes),
                    labeled=sum(sizes)) | info
    write_info(folder, {f'clipsonic-{k:06d}.tar': size for k, size in enumerate(sizes)}, **settings)
    return folder

@pytest.fixture(scope='module')
def shards(tmp_path_factory): return make(tmp_path_factory.mktemp('shards')/'set', [5, 7, 1, 4, 6])

def take(shards, n, *args, **kwargs): return list(islice(batches(shards, *args, **kwargs), n))

def same(a, b):
    def alike(x, y): return x['id'] == y['id'] and all(torch.equal(x[k], y[k]) for k in ('waveform', 'embedding'))
    return len(a) == len(b) and all(map(alike, a, b))

ROOM = {'all in memory': 4e9, 'two shards in memory': 1e6}

@pytest.mark.parametrize('max_bytes', ROOM.values(), ids=ROOM)
def test_a_resumed_stream_goes_on_as_if_nothing_had_happened(shards, max_bytes):
    whole = take(shards, 15, 4, seed=3, max_bytes=max_bytes)  # more than two epochs of 23
    for start in 1, 5, 6, 11:
        assert same(whole[start:], take(shards, 15 - start, 4, seed=3, start_batch=start, max_bytes=max_bytes))
    assert not same(whole, take(shards, 15, 4, seed=4, max_bytes=max_bytes))

@pytest.mark.parametrize('max_bytes', ROOM.values(), ids=ROOM)
def test_every_epoch_has_every_clip_once(shards, max_bytes):
    ids = [id for batch in take(shards, 3 * 23, 1, max_bytes=max_bytes) for id in batch['id']]
    epochs = [ids[at:at + 23] for at in (0, 23, 46)]
    assert all(len(set(epoch)) == 23 for epoch in epochs) and len({tuple(epoch) for epoch in epochs}) == 3

@pytest.mark.parametrize('world_size', [2, 3])
def test_ranks_share_an_epoch(shards, world_size):
    def part(rank): return take(shards, 23 // (2 * world_size), 2, rank=rank, world_size=world_size)
    everyone = [id for rank in range(world_size) for batch in part(rank) for id in batch['id']]
    assert len(set(everyone)) == len(everyone)
    together = take(shards, 23 // (2 * world_size), 2 * world_size)
    # the same clips as one process would see
    assert sorted(everyone) == sorted(id for batch in together for id in batch['id'])

def test_the_order_is_pinned():
    order, draws = epoch_order([2, 3], seed=0, epoch=0, group=2)
    assert sorted(map(tuple, order.tolist())) == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)] and draws.shape == (5, 2)
    again, _ = epoch_order([2, 3], seed=0, epoch=0, group=2)
    assert torch.equal(order, again)

def test_windows_lie_around_their_frames(shards):
    clip = read_shard(shards, 'clipsonic-000000.tar')[0]
    for frame, start in [(0, 0), (1, 24000 - 8000), (2, 48000 - 16000)]:  # centred, and shifted inside at the ends
        wave, embedding = crop(clip, 16000, (frame / 3 + .01, .5))
        assert wave.shape == (1, 16000) and torch.equal(embedding, clip['clip'][frame])
        assert round(wave[0, 0].item() * 32768 * 4) in range(start, start + 4)
    starts = [crop(clip, 16000, (.34, draw), jitter=.25)[0][0, 0].item() * 32768 * 4 / 16000 for draw in (0., .5, .999)]
    assert starts == pytest.approx([.75, 1., 1.25], abs=.01)

def test_short_clips_are_followed_by_silence_and_counted(shards):
    batch = next(batches(shards, 23, seconds=4.))
    assert batch['padded'] == 23 and batch['waveform'].shape == (23, 1, 64000)
    assert (batch['waveform'][..., 48000:] == 0).all() and (batch['waveform'][..., 47999] > 0).all()
    assert next(batches(shards, 23, seconds=3.))['padded'] == 0

def test_batches_are_float32_and_of_length_one(shards):
    batch = next(batches(shards, 4))
    assert batch['waveform'].dtype == batch['embedding'].dtype == torch.float32
    assert batch['waveform'].shape == (4, 1, 32768)
    assert torch.allclose(batch['embedding'].norm(dim=-1), torch.ones(4), atol=1e-6)

def test_labels_only_on_request(shards, tmp_path):
    assert 'label' not in next(batches(shards, 4)) and 'label' not in next(all_clips(shards))
    batch = next(batches(shards, 4, labels=True))
    assert batch['label'] == [id.replace('clip-', 'label ') for id in batch['id']]
    unlabeled = make(tmp_path/'set', [2], labeled=1)
    info = json.loads((unlabeled/'shards.json').read_text())
    info['labelled'] = info.pop('labeled')  # its name before 0.1.0
    (unlabeled/'shards.json').write_text(json.dumps(info))
    assert shard_info(unlabeled)['labeled'] == 1
    for read in lambda: batches(unlabeled, 2, labels=True), lambda: next(all_clips(unlabeled, labels=True)):
        with pytest.raises(InputError, match=naming(unlabeled, 1, 2, 'label')): read()

def test_the_same_clips_give_the_same_bytes(shards, tmp_path):
    again = make(tmp_path/'again', [5, 7, 1, 4, 6])
    for tar in shards.glob('*.tar'): assert tar.read_bytes() == (again/tar.name).read_bytes()

def test_addresses(shards):
    near = take(shards, 3, 4)
    for address in f'file://{shards}', f'file://{shards}/', f'file://{shards}/{{}}':
        assert shard_info(address) == shard_info(shards) and same(near, take(address, 3, 4))

def test_a_web_server(shards):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args): pass
    server = ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=str(shards)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        here = f'http://127.0.0.1:{server.server_port}'
        for address in here, here + '/{}?token=1': assert same(take(shards, 3, 4), take(address, 3, 4))
        with pytest.raises(InputError, match=naming(f'{here}/nowhere/', 'shards.json', 404)):
            shard_info(f'{here}/nowhere/{{}}')
    finally: server.shutdown(); server.server_close()

ADDRESSES = ['pipe:echo {}', 'pipe:echo', 'ftp://host/shards', 'sftp://host/{}', 'zip://a::https://host', 'data://x',
             '-://']

@pytest.mark.parametrize('address', ADDRESSES)
def test_other_addresses_are_refused(address):
    with pytest.raises(InputError, match=naming(address, 'folder', 'https')): shard_info(address)

def test_odd_folder_names(shards, tmp_path):
    odd = tmp_path/'a {1..3}::b #?'
    odd.symlink_to(shards)
    assert same(take(odd, 2, 4), take(shards, 2, 4))

def test_what_is_not_shards(tmp_path):
    with pytest.raises(InputError, match=naming(tmp_path, 'shards.json', 'clipsonic prepare VIDEOS --out SHARDS')):
        shard_info(tmp_path)
    (tmp_path/'parts').mkdir()
    with pytest.raises(InputError, match=naming(tmp_path, 'clipsonic prepare')) as error: shard_info(tmp_path)
    assert 'VIDEOS' not in str(error.value), 'the same command goes on'
    for text in '{', '[]', '{"kind": "denoiser"}':
        (tmp_path/'shards.json').write_text(text)
        with pytest.raises(InputError, match=naming(tmp_path/'shards.json')): batches(tmp_path, 4)

def test_damage_is_named(tmp_path):
    folder = make(tmp_path/'set', [3, 3])
    tar = folder/'clipsonic-000001.tar'
    tar.write_bytes(tar.read_bytes()[:5000])
    with pytest.raises(ClipsonicError, match=naming(tar)): list(all_clips(folder))
    with pytest.raises(ClipsonicError, match=naming(tar)): take(folder, 2, 3)
    tar.unlink()
    with pytest.raises(ClipsonicError, match=naming(tar, 'No such file')): take(folder, 2, 3)

NAMES = [
    '../set/clipsonic-000000.tar', '/etc/hosts', 'pipe:echo', 'parts/a.tar', 'https://host/a.tar', '..tar',
    '.hidden.tar', 'a.tar.gz', 'a\\b.tar', '', 'a.tar\n', '-']

@pytest.mark.parametrize('name', NAMES)
def test_a_shard_is_a_plain_name(shards, tmp_path, name):
    about = {k: v for k, v in shard_info(shards).items() if k not in ('kind', 'count', 'shards')}
    write_info(tmp_path, {name: 5}, **about)
    for address in tmp_path, f'file://{tmp_path}':
        with pytest.raises(InputError, match=naming(f'{address}/shards.json', 'tar', repr(name))):
            next(all_clips(address))
    with pytest.raises(InputError, match=naming(shards, repr(name))): read_shard(shards, name)

WRONG = [
    ('count', 22, 'clips 22 23'), ('count', '23', "count '23'"), ('count', True, 'count True'), ('dim', 0, 'dim 0'),
    ('dim', 1e9, 'dim 1e9'), ('sample_rate', -1, 'sample_rate -1'),
    ('total_seconds', float('nan'), 'total_seconds nan'),
    ('total_seconds', None, 'total_seconds null'), ('labeled', 'all', "labeled 'all'"),
    ('clip', {}, 'clip name hash'), ('clip', {'name': 1, 'hash': ''}, 'clip.name 1'),
    ('shards', ['clipsonic-000000.tar'], "shards ['clipsonic-000000.tar']"),
    ('shards', {'clipsonic-000000.tar': 2.0}, 'shards.clipsonic-000000.tar 2.0'), ('shards', {}, 'clips 23 0')]

@pytest.mark.parametrize('key, value, says', WRONG)
def test_what_shards_json_says_is_checked(shards, tmp_path, key, value, says):
    (tmp_path/'shards.json').write_text(json.dumps(shard_info(shards) | {key: value}))
    with pytest.raises(InputError, match=naming(tmp_path/'shards.json', 'prepare', 'again', *says.split())):
        shard_info(tmp_path)

def changed(sample, **members): return sample | {key.replace('_', '.'): value for key, value in members.items()}

def array(value):
    file = io.BytesIO()
    np.save(file, value)
    return file.getvalue()

def flac(samples, rate=16000, channels=1):
    file = io.BytesIO()
    soundfile.write(file, np.zeros((samples, channels)), rate, format='FLAC')
    return file.getvalue()

def meta(**changes): return json.dumps(json.loads(sample(0)['meta.json']) | changes).encode()

MEMBERS = {
    'no flac': (dict(audio_flac=b'RIFF'), ['recognised']),
    'another rate': (dict(audio_flac=flac(9, 8000)), ['audio.flac', 8000, 16000]),
    'stereo': (dict(audio_flac=flac(9, channels=2)), ['audio.flac', '2 channels']),
    'longer than it says': (dict(audio_flac=flac(99_000)), ['audio.flac', 99000, 3]),
    'no sound': (dict(audio_flac=flac(0)), []),
    'another width': (dict(clip_npy=array(np.ones((3, 31)))), ['clip.npy', '(3, 31)', '(3, 32)']),
    'fewer frames': (dict(clip_npy=array(np.ones((2, 32)))), ['clip.npy', '(2, 32)', '(3, 32)']),
    'whole numbers': (dict(clip_npy=array(np.ones((3, 32), int))), ['clip.npy', 'int64']),
    'not finite': (dict(clip_npy=array(np.full((3, 32), np.inf))), ['clip.npy', 'finite']),
    'no length': (dict(clip_npy=array(np.zeros((3, 32)))), ['clip.npy', 'finite']),
    'objects': (dict(clip_npy=b'none'), ['pickle']), 'no object': (dict(meta_json=b'[1]'), ['meta.json', 'object']),
    'no JSON': (dict(meta_json=b'{'), ['line 1 column 2']), 'no id': (dict(meta_json=meta(id=None)), ['id', 'null']),
    'no times': (dict(meta_json=meta(times=[])), ['frames', '[]', 3]),
    'times beyond': (dict(meta_json=meta(times=[.5, 1.5, 9.])), ['frames', '[0.5, 1.5, 9.0]', 3]),
    'a time that is none': (dict(meta_json=meta(times=[.5, 'x', 2.])), ['times[1]', "'x'"]),
    'times not finite': (dict(meta_json=meta(times=[.5, float('nan'), 2.])), ['times[1]', 'nan']),
    'a label that is none': (dict(meta_json=meta(label=7)), ['label', 7])}

@pytest.mark.parametrize('change, says', MEMBERS.values(), ids=MEMBERS)
def test_what_a_clip_holds_is_checked(tmp_path, change, says):
    folder = make(tmp_path/'set', [1])
    write_shard(folder/'clipsonic-000000.tar', [changed(sample(0), **change)])
    with pytest.raises(ClipsonicError, match=naming(folder/'clipsonic-000000.tar', "clip '000000000'", 'again', *says)):
        list(all_clips(folder))

def member(kind):
    "A member that is no plain file."
    info = tarfile.TarInfo('000000000.audio.flac')
    info.type, info.linkname = kind, 'elsewhere'
    return info

def packed(folder, *members, mode='w'):
    with tarfile.open(folder/'clipsonic-000000.tar', mode) as tar:
        for info in members: tar.addfile(info)

def test_what_a_tar_holds_is_checked(tmp_path):
    folder = make(tmp_path/'set', [1])
    def refused(*words):
        with pytest.raises(ClipsonicError, match=naming(folder/'clipsonic-000000.tar', *words)):
            read_shard(folder, 'clipsonic-000000.tar')
    for kind in tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE:
        packed(folder, member(kind))
        refused("'000000000.audio.flac'", 'plain file')
    packed(folder, member(tarfile.REGTYPE), mode='w:gz')
    refused('header')
    packed(folder, member(tarfile.REGTYPE))
    refused("clip '000000000'", 'clip.npy', 'meta.json')
    large = member(tarfile.REGTYPE)
    large.size = 2**40
    (folder/'clipsonic-000000.tar').write_bytes(large.tobuf() + bytes(1024))
    refused("'000000000.audio.flac'", 2**40, 'bytes')

def test_a_label_that_lacks_is_named(tmp_path):
    folder = make(tmp_path/'set', [1])
    write_shard(folder/'clipsonic-000000.tar', [changed(sample(0), meta_json=meta(label=None))])
    for read in lambda: next(batches(folder, 1, labels=True)), lambda: next(all_clips(folder, labels=True)):
        with pytest.raises(ClipsonicError, match=naming("'clip-0'", 'label', 'shards.json')): read()

def test_a_shard_with_fewer_clips_than_it_should_have_is_named(tmp_path):
    folder = make(tmp_path/'set', [3])
    info = json.loads((folder/'shards.json').read_text())
    (folder/'shards.json').write_text(json.dumps(info | dict(count=4, shards={'clipsonic-000000.tar': 4})))
    with pytest.raises(ClipsonicError, match=naming(folder/'clipsonic-000000.tar', 3, 4)): take(folder, 2, 4)

@pytest.mark.parametrize('wrong', [dict(batch_size=0), dict(batch_size=2, seconds=0), dict(batch_size=2, rank=1),
                                   dict(batch_size=2, world_size=0)])
def test_wrong_parameters(shards, wrong):
    name = list(wrong)[-1]
    with pytest.raises(InputError, match=naming('rank' if name == 'world_size' else name)): batches(shards, **wrong)

def test_the_global_generator_is_left_alone(shards):
    state = torch.get_rng_state()
    take(shards, 2, 4)
    assert torch.equal(state, torch.get_rng_state())
