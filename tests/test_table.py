"""The table of the systems: its sets, rendered once and gone on with, its rows, and what it refuses."""
import json

import pytest
import soundfile

from clipsonic.cli import main
from clipsonic.core import InputError
from clipsonic.shards import synthetic_shards
from clipsonic.systems import SYSTEMS
from clipsonic.table import REFERENCES, test_queries, render_all, table_markdown
from conftest import naming

@pytest.fixture(scope='module')
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp('tables') / 'shards'
    synthetic_shards(folder, clips=6, dim=192, seconds=3.0, labels=True)
    return folder

@pytest.mark.long
def test_every_system_is_asked_for_the_same_scored_in_one_run_and_rendered_once(shards, tmp_path, capsys):
    out, sets = tmp_path / 'table.json', tmp_path / 'renders'
    assert main(['table', '--data', str(shards), '--trained', str(shards), '--sets', str(sets), '-o', str(out), '--n',
                 '2', '--seconds', '0.5', '--device', 'cpu']) == 0
    result, printed = json.loads(out.read_text()), capsys.readouterr().out
    assert [*result['rows']] == [*REFERENCES, *SYSTEMS, 'training'] and '| reconstruction |' in printed
    assert result['protocol']['renders']['n'] == 2
    # tones are no class of the listener's
    assert 'accuracy_pocket' not in result['rows']['iq'] and 'kl_pocket' in result['rows']['iq']
    assert 'fad' not in result['rows']['real']
    left_out = result['rows']['iq']['left_out']
    assert left_out.keys() == {'diversity'} and 'label' in left_out['diversity']
    assert result['rows']['training']['fad']['value'] < result['rows']['iq']['fad']['value']  # the same shards here
    asked = test_queries(shards, 2, 0.5)
    for name in (*REFERENCES, *SYSTEMS, 'training'):
        rows = (sets / name / 'prompts.csv').read_text().splitlines()
        assert rows[0] == 'file,prompt,label' and [r.split(',')[1] for r in rows[1:]] == asked['label']
        for i in range(2):
            sound, rate = soundfile.read(sets / name / f'{i:04d}.wav')
            assert (len(sound), rate) == (8000, 16000) and abs(sound).max() > 0
    real, _ = soundfile.read(sets / 'real' / '0001.wav')
    assert abs(real - asked['waveform'][1, 0].numpy()).max() < 1e-4
    options = dict(n=2, seconds=0.5, device='cpu', progress=False)
    before = {f: f.read_bytes() for f in sets.glob('*/*.wav')}
    (sets / 'iq' / '0001.wav').unlink()
    render_all(shards, sets, **options)
    assert {f: f.read_bytes() for f in sets.glob('*/*.wav')} == before  # the one that was lost came out the same
    with pytest.raises(InputError, match=naming(sets, 'protocol')): render_all(shards, sets, **options | {'seed': 1})
    with pytest.raises(InputError, match=naming(tmp_path / 'no/renders', 'folder')):
        render_all(shards, tmp_path / 'no' / 'renders', **options)

def test_the_committed_table_says_what_it_was_made_of():
    from conftest import root
    result = json.loads((root / 'nbs' / 'results' / 'table1.json').read_text())
    assert [*result['rows']] == [*REFERENCES, *SYSTEMS, 'training'] and result['protocol']['renders']['n'] == 512
    assert all(row['clap']['n'] + len(row['bad']) == 512 for row in result['rows'].values())
    assert all(line.count('|') == 10 for line in table_markdown(root / 'nbs' / 'results' / 'table1.json').splitlines())
