"""The server and the files of a listening test, and, flagged `site`, its page in a browser."""
import csv
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from http.cookiejar import CookieJar
from urllib.error import HTTPError, URLError
from urllib.request import HTTPCookieProcessor, Request, build_opener

import pytest

pytest.importorskip('starlette', reason='the extra is not installed: pip install "clipsonic[listen]"')
pytest.importorskip('uvicorn', reason='the extra is not installed: pip install "clipsonic[listen]"')

import uvicorn

from clipsonic.core import InputError
from clipsonic.listen import (AnswerStore, RateLimit, check_sent, export_webmushra, latest_answers, listening_page,
                              make_app, read_answers, serve)
from conftest import naming, root
from listening_tests import write_test

METHODS = 'mos', 'ab', 'mushra'

@pytest.fixture
def mos(tmp_path): return write_test(tmp_path/'test')

@contextmanager
def running(*folders, until=None, **config):
    "A server of this process on a free port: its address, and the application."
    app = make_app(folders, until)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level='error', **config))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started: time.sleep(0.01)
    try: yield f'http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}', app
    finally:
        server.should_exit = True
        thread.join(20)

class Listener:
    "A browser without a page."
    def __init__(self, address): self.address, self.opener = address, build_opener(HTTPCookieProcessor(CookieJar()))
    def get(self, path): return json.load(self.opener.open(f'{self.address}/{path}', timeout=20))
    def post(self, answer, **headers):
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        headers = {'content-type': 'application/json'} | headers
        return json.load(self.opener.open(Request(f'{self.address}/answers', body, headers), timeout=20))
    def begin(self):
        self.session = self.get('session')
        return self

def an_answer(plan, session, number=0, key='key-1', value=4):
    "An answer to a trial of a listener's list."
    trial = plan.lists[session['list']][number]
    values = {'mos': [value], 'ab': [0.5], 'mushra': [10, 100, 30, 40]}[plan.method]
    return dict(plan=plan.id, listener=session['listener'], list=session['list'], trial=trial['id'], position=number,
                question=trial['questions'][0], values=values, plays=[1] * len(trial['stimuli']), seconds=3.5,
                time='2026-11-28T12:00:00.000Z', key=key)

def status(ask):
    "Status and sentence of a refusal."
    with pytest.raises(HTTPError) as caught: ask()
    return caught.value.code, json.load(caught.value)['error']

# ---- answers and the database

@pytest.mark.parametrize('method', METHODS)
def test_possible_answers_pass(tmp_path, method):
    plan = write_test(tmp_path/'test', method)
    answer = an_answer(plan, dict(listener='somebody', list=1))
    assert check_sent(plan, answer) == answer

@pytest.mark.parametrize('change', [
    {'plan': 'p0'}, {'list': 3}, {'list': -1}, {'list': True}, {'trial': 't0100'}, {'position': 1}, {'question': 'noise'},
    {'values': [6]}, {'values': [0]}, {'values': [True]}, {'values': ['4']}, {'values': []}, {'values': [4, 4]},
    {'plays': [-1]}, {'plays': [1, 1]}, {'plays': [1.5]}, {'seconds': -1}, {'seconds': float('nan')}, {'time': 'noon'},
    {'key': ''}, {'key': 'a b'}, {'key': 'k' * 101}, {'listener': 3}, {'more': 1}], ids=str)
def test_impossible_answers_are_refused_by_name(mos, change):
    answer = an_answer(mos, dict(listener='somebody', list=0)) | change
    with pytest.raises(InputError, match=next(iter(change)) if 'more' not in change else 'fields'):
        check_sent(mos, answer)

@pytest.mark.parametrize('answer', [None, [], 'text', 4, {}], ids=str)
def test_what_is_no_answer_is_refused(mos, answer):
    with pytest.raises(InputError, match='fields'): check_sent(mos, answer)

def test_the_database_is_durable_and_belongs_to_one_plan(tmp_path, mos):
    store = AnswerStore(tmp_path/'answers.sqlite', mos)
    pragma = {name: store.connection.execute(f'PRAGMA {name}').fetchone()[0] for name in ('journal_mode', 'synchronous')}
    assert pragma == {'journal_mode': 'wal', 'synchronous': 2}   # 2: FULL
    store.close()
    other = write_test(tmp_path/'other', title='Other tones')
    with pytest.raises(InputError, match=naming(mos.id, other.id)): AnswerStore(tmp_path/'answers.sqlite', other)

def test_a_database_of_something_else_is_refused(tmp_path, mos):
    (tmp_path/'answers.sqlite').write_text('no database, but a longer text of somebody' * 9)
    with pytest.raises(Exception, match='answers.sqlite'): AnswerStore(tmp_path/'answers.sqlite', mos)

def test_rate_limits_forget_those_who_are_gone():
    now = [0.0]
    limit = RateLimit(rate=1, burst=1, clock=lambda: now[0])
    assert [limit.wait('a'), limit.wait('b')] == [0, 0] and limit.wait('a') == 1
    for number in range(10_000): limit.wait(str(number))
    now[0] = 60.
    limit.wait('a')
    assert len(limit.buckets) < 10

# ---- the server

def test_listeners_get_lists_in_turn_and_come_back_to_theirs(tmp_path, mos):
    with running(tmp_path/'test') as (address, _):
        listeners = [Listener(f'{address}/{mos.id}').begin() for _ in range(4)]
        assert [each.session['list'] for each in listeners] == [0, 1, 2, 0]
        assert len({each.session['listener'] for each in listeners}) == 4
        first = listeners[0]
        answer = an_answer(mos, first.session)
        assert first.post(answer) == first.post(answer) == {'key': 'key-1'}
        assert first.get('session') == first.session | {'answers': [answer]}
        assert first.get('session?new=1')['listener'] != first.session['listener']
    with running(tmp_path/'test') as (address, _):   # another server, the same folder
        assert Listener(f'{address}/{mos.id}').begin().session['list'] == 2

def test_the_page_and_its_sounds_are_served_and_nothing_else(tmp_path, mos):
    with running(tmp_path/'test') as (address, _):
        opener = build_opener()
        page = opener.open(f'{address}/')   # with one test, its page
        assert page.url == f'{address}/{mos.id}/' and page.read().decode() == listening_page(mos)
        sound = opener.open(f'{address}/{mos.id}/sounds/kowabe.wav').read()
        assert sound == (tmp_path/'test'/'page'/'sounds'/'kowabe.wav').read_bytes()
        for path in 'plan.json', '../plan.json', '%2e%2e/plan.json', 'sounds/../../plan.json', 'answers.sqlite':
            with pytest.raises(HTTPError) as caught: opener.open(f'{address}/{mos.id}/{path}')
            assert caught.value.code == 404, path

def test_the_page_names_no_system_and_its_texts_end_no_script(tmp_path, mos):
    page = listening_page(mos)
    embedded = re.search(r'<script type="application/json" id="plan">(.*?)</script>', page, re.S)[1]
    assert json.loads(embedded) == mos.public() and '<' not in embedded
    assert not re.search('"(PD|ZS|reference|anchor)"', page) and not re.search('https?://', page)

def test_refusals_have_their_status_and_a_sentence(tmp_path, mos):
    with running(tmp_path/'test') as (address, app):
        listener = Listener(f'{address}/{mos.id}').begin()
        answer = an_answer(mos, listener.session)
        listener.post(answer)
        assert status(lambda: listener.post(answer | {'values': [1]}))[0] == 409
        assert status(lambda: listener.post(answer | {'values': [9], 'key': 'key-2'}))[0] == 400
        assert status(lambda: listener.post(b'{'))[0] == 400
        assert status(lambda: listener.post(answer | {'listener': 'a' * 32, 'key': 'key-2'}))[0] == 401
        other = an_answer(mos, listener.session | {'list': 1}, key='key-2')
        assert 'list' in status(lambda: listener.post(other))[1]
        assert status(lambda: listener.post(b' ' * 20_000))[0] == 413
        assert status(lambda: listener.post(answer, **{'content-type': 'text/plain'}))[0] == 415
        with pytest.raises(HTTPError) as caught: Listener(f'{address}/p0').get('session')
        assert caught.value.code == 404
        assert app.state.stores[0].answers(listener.session['listener']) == [answer]

def test_a_listener_who_asks_too_often_is_told_when_to_come_back(tmp_path, mos):
    with running(tmp_path/'test') as (address, _):
        listener = Listener(f'{address}/{mos.id}').begin()
        answer = an_answer(mos, listener.session)
        with pytest.raises(HTTPError) as caught:
            for _ in range(1000): listener.post(answer)
        assert caught.value.code == 429 and int(caught.value.headers['retry-after']) >= 1

def test_a_closed_test_takes_no_answers(tmp_path, mos):
    soon = datetime.now(timezone.utc) + timedelta(seconds=0.5)
    with running(tmp_path/'test', until=soon) as (address, _):
        listener = Listener(f'{address}/{mos.id}').begin()
        time.sleep(0.6)
        assert status(lambda: listener.post(an_answer(mos, listener.session)))[0] == 410
        assert status(lambda: listener.get('session'))[0] == 410

def test_several_tests_are_kept_apart(tmp_path, mos):
    ab = write_test(tmp_path/'ab', 'ab', title='Pairs & more')
    with running(tmp_path/'test', tmp_path/'ab') as (address, _):
        home = build_opener().open(address).read().decode()
        assert f'href="{ab.id}/"' in home and 'Pairs &amp; more' in home
        listener = Listener(f'{address}/{ab.id}').begin()
        listener.post(an_answer(ab, listener.session))
        wrong = an_answer(mos, listener.session, key='key-2')
        assert status(lambda: listener.post(wrong))[0] == 400
        assert status(lambda: Listener(f'{address}/{mos.id}').post(wrong))[0] == 401
    with pytest.raises(InputError, match='twice'): make_app([tmp_path/'ab', tmp_path/'ab'])
    with pytest.raises(InputError, match='no test'): make_app([])

def test_behind_a_proxy(tmp_path, mos):
    "The proxy's path is in the cookie, https makes it secure, and addresses count only from a trusted proxy."
    headers = {'X-Forwarded-Proto': 'https', 'X-Forwarded-For': '192.0.2.7'}
    with running(tmp_path/'test', root_path='/listening', forwarded_allow_ips='127.0.0.1') as (address, _):
        reply = build_opener().open(Request(f'{address}/{mos.id}/session', headers=headers))
        cookie = reply.headers['set-cookie']
        assert f'Path=/listening/{mos.id}' in cookie and 'Secure' in cookie and 'HttpOnly' in cookie
    with running(tmp_path/'test', forwarded_allow_ips='192.0.2.1') as (address, _):
        reply = build_opener().open(Request(f'{address}/{mos.id}/session', headers=headers))
        assert 'Secure' not in reply.headers['set-cookie']

def fill(app):
    "From now on the database has no room for a further page: SQLite's own limit stands in for the disk."
    connection = app.state.stores[0].connection
    pages = connection.execute('PRAGMA page_count').fetchone()[0]
    connection.execute(f'PRAGMA max_page_count = {pages}')

def test_a_full_disk_is_said_and_loses_nothing(tmp_path, mos):
    with running(tmp_path/'test') as (address, app):
        listener = Listener(f'{address}/{mos.id}').begin()
        fill(app)
        stored = []
        with pytest.raises(HTTPError) as caught:
            for number in range(100):
                answer = an_answer(mos, listener.session, key=f'key-{number}')
                listener.post(answer)
                stored.append(answer)
        assert caught.value.code == 507 and 'full' in json.load(caught.value)['error']
        assert stored and listener.get('session')['answers'] == stored
        app.state.stores[0].connection.execute('PRAGMA max_page_count = 1000000')
        listener.post(answer)   # the one that was refused
        assert listener.get('session')['answers'] == [*stored, answer]

# ---- killed

def command(*words, **more):
    "clipsonic in a process of its own."
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join([str(root), os.environ.get('PYTHONPATH', '')])}
    return subprocess.Popen([sys.executable, '-m', 'clipsonic', *map(str, words)], env=env, text=True,
                            stdout=subprocess.PIPE, **more)

def served(folder, port=0):
    "A server process, and the address of its test."
    process = command('listen', 'serve', folder, '--port', port)
    line = process.stdout.readline()
    return process, re.search(r'http://\S+(?=/,)', line)[0]

@pytest.mark.long
def test_kill_9_loses_no_acknowledged_answer_and_doubles_none(tmp_path):
    plan = write_test(tmp_path/'test', n_trials=60, n_lists=2)
    process, address = served(tmp_path/'test')
    port, listener, acknowledged, stop = address.split(':')[2].split('/')[0], Listener(address).begin(), [], []
    def answer_all():
        for number in range(60):
            answer = an_answer(plan, listener.session, number, key=f'key-{number}')
            while not stop:
                try: listener.post(answer)
                except (URLError, OSError): time.sleep(0.02)   # the server is away: again, as the page does
                else:
                    acknowledged.append(answer)
                    break
            time.sleep(0.01)
    thread = threading.Thread(target=answer_all, daemon=True)
    thread.start()
    try:
        for kill in range(1, 4):
            while len(acknowledged) < 15 * kill and thread.is_alive(): time.sleep(0.001)
            process.kill()
            process.wait()
            before = len(acknowledged)
            process, _ = served(tmp_path/'test', port)
            assert listener.get('session')['answers'][:before] == acknowledged[:before]
        thread.join(60)
    finally:
        stop.append(True)
        process.send_signal(signal.SIGTERM)
        process.wait(20)
    assert len(acknowledged) == 60
    with sqlite3.connect(tmp_path/'test'/'answers.sqlite') as connection:
        keys = [row[0] for row in connection.execute('SELECT key FROM answers ORDER BY number')]
    assert keys == [f'key-{number}' for number in range(60)]

@pytest.mark.skipif(os.name == 'nt', reason='Windows has no SIGTERM')
def test_sigterm_stops_the_server_whole(tmp_path, mos):
    process, address = served(tmp_path/'test')
    Listener(address).begin()
    process.send_signal(signal.SIGTERM)
    process.wait(20)
    assert not (tmp_path/'test'/'answers.sqlite-wal').exists(), 'the log is in the database'

def test_a_port_in_use_is_one_line(tmp_path, mos):
    with running(tmp_path/'test') as (address, _):
        port = int(address.rpartition(':')[2])
        with pytest.raises(Exception, match=naming('127.0.0.1', port)): serve(tmp_path/'test', port=port)

# ---- read

def rows(path):
    with open(path, newline='', encoding='utf-8') as file: return list(csv.DictReader(file))

def test_answers_of_the_database_and_of_files_become_ratings(tmp_path, mos):
    with running(tmp_path/'test') as (address, _):
        listener = Listener(f'{address}/{mos.id}').begin()
        stored = an_answer(mos, listener.session)
        listener.post(stored)
        sent = an_answer(mos, dict(listener='another', list=1), key='key-2', value=2)
        later = sent | {'values': [5], 'key': 'key-3', 'time': '2026-11-28T14:00:00+02:00', 'seconds': 4.0}
        (tmp_path/'a.jsonl').write_text('\n'.join(map(json.dumps, [stored, later])) + '\n{broken\n')
        (tmp_path/'b.json').write_text(json.dumps([sent | {'time': '2026-11-28T11:59:00Z'}, sent | {'plan': 'p0'}]))
        with pytest.warns(UserWarning) as caught:   # while the server runs
            found = rows(read_answers(tmp_path/'test', [tmp_path/'a.jsonl', tmp_path/'b.json']))
    assert [(row['value'], row['list']) for row in found] == [('4', '0'), ('5', '1')]
    assert {row['listener'] for row in found}.isdisjoint({listener.session['listener'], 'another'})
    said = '\n'.join(str(each.message) for each in caught)
    assert re.search(naming('a.jsonl, line 3'), said) and re.search(naming('b.json, answer 2', 'p0'), said)
    assert re.search(naming('b.json, answer 1', 'later'), said)

def test_a_key_with_two_answers_is_named(mos):
    one = an_answer(mos, dict(listener='somebody', list=0))
    kept, left_out = latest_answers(mos, [('x', one), ('y', one), ('z', one | {'values': [1]})])
    assert kept == [one] and list(left_out.values()) == [['z']] and 'key' in next(iter(left_out)) + 'x'

def test_a_test_without_answers_is_refused(tmp_path, mos):
    with pytest.raises(InputError, match='no answers'): read_answers(tmp_path/'test')
    with pytest.raises(InputError, match='nowhere.jsonl'): read_answers(tmp_path/'test', [tmp_path/'nowhere.jsonl'])
    assert not (tmp_path/'test'/'ratings.csv').exists()

@pytest.mark.parametrize('method', METHODS)
def test_webmushra_configurations_hold_names_that_stay_names(tmp_path, method):
    import yaml
    plan = write_test(tmp_path/'test', method)
    for path in export_webmushra(tmp_path/'test', tmp_path/'webmushra'):
        config = yaml.safe_load(path.read_text(encoding='utf-8'))
        names = [config['testId'], *(page['id'] for page in config['pages'] if 'id' in page)]
        for page in config['pages']:
            names += page.get('stimuli', {})
            files = [*page.get('stimuli', {}).values(), *([page['reference']] if 'reference' in page else [])]
            assert all((tmp_path/'webmushra'/file).is_file() for file in files)
        assert all(re.fullmatch(r'[a-z][\w-]+', name) for name in names)
        assert len(config['pages']) == 2 + sum(len(each['questions']) for each in plan.training + plan.lists[0])
