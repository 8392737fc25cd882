"""The server and the files of a listening test, and, flagged `site`, its page in a browser."""
import csv
import functools
import http.server
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from http.cookiejar import CookieJar
from types import SimpleNamespace
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPCookieProcessor, Request, build_opener

import pytest

pytest.importorskip('starlette', reason='the extra is not installed: pip install "clipsonic[listen]"')
pytest.importorskip('uvicorn', reason='the extra is not installed: pip install "clipsonic[listen]"')

import uvicorn
from selenium.webdriver import Keys

from browsers import SIZES, WIDE, open_browser, own_errors, resize
from clipsonic.cli import main
from clipsonic.core import ClipsonicError, InputError
from clipsonic.listen import (AnswerStore, RateLimit, check_sent, export_webmushra, latest_answers, listening_page,
                              make_app, read_answers, read_webmushra, serve, write_page)
from clipsonic.listening import load_plan
from conftest import naming, root
from listening_tests import tone, write_test

METHODS = 'mos', 'ab', 'mushra'

@pytest.fixture
def mos(tmp_path): return write_test(tmp_path/'test')

@contextmanager
def running(*folders, until=None, pilot=False, port=0, **config):
    "A server of this process, by default on a free port: its address, and the application."
    app = make_app(folders, until, pilot)
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level='error', **config))
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
    {'plan': 'p0'}, {'list': 3}, {'list': -1}, {'list': True}, {'trial': 't0100'}, {'position': 1},
    {'question': 'noise'},
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
    def pragma(name): return store.connection.execute(f'PRAGMA {name}').fetchone()[0]
    assert (pragma('journal_mode'), pragma('synchronous')) == ('wal', 2)   # 2: FULL
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

def test_who_never_answers_holds_a_list_for_an_hour(tmp_path, mos):
    store = AnswerStore(tmp_path/'answers.sqlite', mos)
    listeners = [store.add_listener() for _ in range(4)]
    assert [number for _, number in listeners] == [0, 1, 2, 0]
    token, number = listeners[1]
    store.add_answer(an_answer(mos, dict(listener=token, list=number)))
    store.connection.execute("UPDATE listeners SET time = '2026-01-01T00:00:00.000+00:00'")
    assert [store.add_listener()[1] for _ in range(5)] == [0, 2, 0, 1, 2]   # one listener of list 1 has answered
    assert store.list_of(listeners[3][0]) == 0
    store.close()

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

def test_the_time_of_a_sound_is_not_told(tmp_path, mos):
    path, told = tmp_path/'test'/'page'/'sounds'/'kowabe.wav', set()
    with running(tmp_path/'test') as (address, _):
        for when in 1_600_000_000, 1_700_000_000:
            os.utime(path, (when, when))
            headers = build_opener().open(f'{address}/{mos.id}/sounds/{path.name}').headers
            told.add((headers['last-modified'], headers['etag']))
            assert headers['accept-ranges'] == 'bytes'
    (last_modified, _), = told
    assert '1970' in last_modified

def test_the_page_names_no_system_and_its_texts_end_no_script(tmp_path, mos):
    page = listening_page(mos)
    embedded = re.search(r'<script type="application/json" id="plan">(.*?)</script>', page, re.S)[1]
    assert json.loads(embedded) == mos.public() and '<' not in embedded
    assert not re.search('"(PD|ZS|anchor)"|"system"', page) and not re.search('https?://', page)

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
    zone = timezone(timedelta(hours=5))
    with running(tmp_path/'test', until=datetime.now(zone) + timedelta(days=1)) as (address, app):
        listener = Listener(f'{address}/{mos.id}').begin()
        listener.post(an_answer(mos, listener.session))
        app.state.endpoints[0].until = datetime(2026, 1, 2, 3, tzinfo=zone)
        assert '2026-01-01 at 22:00 UTC' in status(lambda: listener.get('session'))[1]
        assert status(lambda: listener.post(an_answer(mos, listener.session)))[0] == 410
        assert status(lambda: listener.get('session'))[0] == 410
    with pytest.raises(InputError, match='time zone'): make_app([tmp_path/'test'], until=datetime(2026, 1, 1))

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
        assert f'(ab, {ab.id})' in home and f'(mos, {mos.id})' in home   # titles may be the same
    with pytest.raises(InputError, match='twice'): make_app([tmp_path/'ab', tmp_path/'ab'])
    with pytest.raises(InputError, match='no test'): make_app([])

def test_a_pilot_is_kept_apart(tmp_path, mos):
    with running(tmp_path/'test', pilot=True) as (address, _):
        listener = Listener(f'{address}/{mos.id}').begin()
        listener.post(an_answer(mos, listener.session))
        page = build_opener().open(address).read().decode()
        assert page == listening_page(mos, pilot=True) != listening_page(mos)
        cookie = build_opener().open(f'{address}/{mos.id}/session').headers['set-cookie']
        assert cookie.startswith(f'clipsonic-{mos.id}-pilot=')
    assert (tmp_path/'test'/'pilot.sqlite').is_file() and not (tmp_path/'test'/'answers.sqlite').exists()
    with pytest.raises(InputError, match='no answers'): read_answers(tmp_path/'test')
    with running(tmp_path/'test') as (address, _):
        again = Listener(f'{address}/{mos.id}').begin()
        assert again.session['list'] == 0   # the pilot took none
        assert status(lambda: again.post(an_answer(mos, listener.session, key='key-2')))[0] == 401

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

@pytest.mark.skipif(os.name == 'nt', reason='Windows removes no file that is open')
@pytest.mark.parametrize('endings', [['', '-wal', '-shm'], [''], ['-wal']], ids=str)
def test_answers_are_not_acknowledged_when_their_file_is_gone(tmp_path, mos, capsys, endings):
    paths = [tmp_path/'test'/f'answers.sqlite{ending}' for ending in endings]
    with running(tmp_path/'test') as (address, _):
        listener = Listener(f'{address}/{mos.id}').begin()
        first, second = (an_answer(mos, listener.session, key=key) for key in ('key-1', 'key-2'))
        listener.post(first)
        for path in paths: path.rename(f'{path}.away')
        for ask in lambda: listener.post(second), lambda: listener.post(first), lambda: listener.get('session'):
            code, said = status(ask)
            assert code == 503 and re.search(naming('answers.sqlite'), said)
        paths[0].write_bytes(b'')   # another file with its name
        assert status(lambda: listener.post(second))[0] == 503
        assert capsys.readouterr().err.count('moved or removed') == 1
        for path in paths: path.with_name(f'{path.name}.away').replace(path)   # back again
        listener.post(second)
        assert listener.get('session')['answers'] == [first, second]

@pytest.mark.skipif(os.name == 'nt', reason='Windows removes no file that is open')
def test_a_file_that_goes_during_a_commit_is_noticed(tmp_path, mos):
    store = AnswerStore(tmp_path/'answers.sqlite', mos)
    (tmp_path/'answers.sqlite').unlink()
    answer = an_answer(mos, dict(listener='somebody', list=0))
    with pytest.raises(ClipsonicError, match='answers.sqlite'): store.add_answer(answer)
    store.close()

# ---- killed

def command(*words, **more):
    "clipsonic in a process of its own."
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join([str(root), os.environ.get('PYTHONPATH', '')])}
    return subprocess.Popen([sys.executable, '-m', 'clipsonic', *map(str, words)], env=env, text=True,
                            stdout=subprocess.PIPE, **more)

def served(folder, port=0, *more):
    "A server process, and the address of its test."
    process = command('listen', 'serve', folder, '--port', port, *more)
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

@pytest.mark.skipif(os.name == 'nt', reason='Windows has no SIGTERM')
def test_a_server_for_the_network_prints_an_address_that_others_can_open(tmp_path, mos):
    process, address = served(tmp_path/'test', 0, '--host', '0.0.0.0')
    assert urlsplit(address).hostname == socket.gethostname().lower()
    assert 'without https' in process.stdout.readline()
    Listener(f'http://127.0.0.1:{urlsplit(address).port}/{mos.id}').begin()
    process.send_signal(signal.SIGTERM)
    process.wait(20)

def test_a_port_in_use_is_one_line(tmp_path, mos):
    with running(tmp_path/'test') as (address, _):
        port = int(address.rpartition(':')[2])
        with pytest.raises(ClipsonicError, match=naming('127.0.0.1', port)) as caught:
            serve(tmp_path/'test', port=port)
        assert str(caught.value).count('127.0.0.1') == 1

@pytest.mark.parametrize('port', [99_999, -1])
def test_a_port_that_cannot_be_is_refused(tmp_path, mos, port):
    with pytest.raises(InputError, match=naming(port, '0 … 65535')): serve(tmp_path/'test', port=port)

def test_a_closing_time_in_the_past_is_refused(tmp_path, mos, capsys):
    assert main(['listen', 'serve', str(tmp_path/'test'), '--until', '2020-01-02T03:04']) == 2
    assert re.search(naming('2020-01-02T03:04', 'past'), capsys.readouterr().err)
    assert not (tmp_path/'test'/'answers.sqlite').exists()

# ---- read

def rows(path):
    with open(path, newline='', encoding='utf-8') as file: return list(csv.DictReader(file))

def test_answers_of_the_database_and_of_files_become_ratings(tmp_path, mos):
    with running(tmp_path/'test') as (address, _):
        listener = Listener(f'{address}/{mos.id}').begin()
        stored = an_answer(mos, listener.session) | {'time': '2026-11-28T11:30:00Z'}
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

def test_a_file_of_something_else_is_one_line(tmp_path, mos, recwarn):
    table = tmp_path/'ratings.csv'
    table.write_text('listener,value\n' + 'L1,4\n' * 368)
    with pytest.raises(InputError, match=naming('ratings.csv', 'line 1', 'listener,value')):
        read_answers(tmp_path/'test', [table])
    (tmp_path/'empty.jsonl').write_text('\n')
    with pytest.raises(InputError, match=naming('empty.jsonl', 'empty')):
        read_answers(tmp_path/'test', [tmp_path/'empty.jsonl'])
    assert not [each for each in recwarn if each.category is UserWarning]

def test_lines_that_are_no_answers_are_counted(tmp_path, mos):
    answer = json.dumps(an_answer(mos, dict(listener='somebody', list=0)))
    (tmp_path/'a.jsonl').write_text('\n'.join([answer, *'xyz', '{"more": 1}']))
    with pytest.warns(UserWarning) as caught: read_answers(tmp_path/'test', [tmp_path/'a.jsonl'])
    assert len(caught) == 1 and re.search(naming('4 of 5', 'a.jsonl, line 2', "'x'"), str(caught[0].message))

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

# ---- at the terminal

def test_from_sounds_to_an_analysis_at_the_terminal(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(['one', 'two']):
        (tmp_path/name).mkdir()
        for item in range(3): (tmp_path/name/f'{item}.wav').write_bytes(tone(3 * number + item, 0.5))
    def run(*words):
        status = main(['listen', *words])
        out, err = capsys.readouterr()
        return status, out + err
    prepare = ['prepare', '--systems', 'A=one', 'B=two', '--out', 'TEST', '--questions', 'fidelity', '--gold', '0',
               '--repeats', '0', '--training', '1']
    status, said = run(*prepare)
    assert status == 0 and 'clipsonic listen serve TEST' in said
    plan = load_plan('TEST')
    assert (tmp_path/'TEST'/'page'/'index.html').read_text(encoding='utf-8') == listening_page(plan)
    assert run(*prepare)[0] == 2, 'answers may belong to a test that is there'
    status, said = run('read', 'TEST')
    assert status == 2 and re.search(naming('TEST'), said)
    answers = []
    for number in range(8):
        session = dict(listener=f'listener-{number}', list=number % len(plan.lists))
        for position in range(len(plan.lists[session['list']])):
            key = f'key-{number}-{position}'
            answers.append(an_answer(plan, session, position, key, value=1 + (number + position) % 5))
    (tmp_path/'sent.jsonl').write_text('\n'.join(map(json.dumps, answers)))
    status, said = run('read', 'TEST', 'sent.jsonl')
    assert status == 0 and f'{len(answers)} ratings' in said
    status, said = run('analyze', 'TEST/ratings.csv', '--out', 'analysis.json', '--figure', 'figure.png')
    assert status == 0 and '| A |' in said
    assert (tmp_path/'analysis.json').is_file() and (tmp_path/'figure.png').is_file()
    status, said = run('export', 'TEST', '--webmushra', 'webMUSHRA')
    assert status == 0 and f'?config=clipsonic-{plan.id}/list-00.yaml' in said
    status, said = run('size', '--half-width', '0.25', '--items', '20')
    assert status == 0 and '| 20 |' in said
    for words, value in ((['serve', 'nowhere'], 'nowhere'), (['serve', 'TEST', '--until', 'soon'], 'soon'),
                         (['prepare', '--systems', 'A', '--out', 'X'], 'A')):
        status, said = run(*words)
        assert status == 2 and re.search(naming(value), said)

@pytest.mark.parametrize('module, package, ask', [
    ('starlette.applications', 'serve needs starlette:', lambda folder: make_app([folder])),
    ('uvicorn', 'serve needs uvicorn:', serve),
    ('yaml', 'export needs PyYAML:', lambda folder: export_webmushra(folder, folder.parent/'webmushra'))])
def test_a_missing_extra_is_one_line(tmp_path, mos, monkeypatch, module, package, ask):
    monkeypatch.setitem(sys.modules, module, None)   # as if it were not installed
    with pytest.raises(InputError, match=rf'{package} pip install "clipsonic\[listen\]"'): ask(tmp_path/'test')

# ---- in a browser

@pytest.fixture(scope='module')
def browser():
    with open_browser() as opened: yield opened

def wait(browser, script, *values, seconds=20):
    "What a piece of JavaScript returns, as soon as it is true."
    end = time.monotonic() + seconds
    while not (found := browser.execute_script(f'return {script}', *values)):
        text = browser.execute_script('return document.body.innerText')
        assert time.monotonic() < end, f'{script} does not become true; the page says:\n{text}'
        time.sleep(0.02)
    return found

def press(browser, *keys):
    from selenium.webdriver import ActionChains
    for key in keys: ActionChains(browser).send_keys(key).perform()

def heading(browser): return wait(browser, 'document.querySelector("h2")?.textContent')
def problems(browser): return browser.execute_script('return document.getElementById("problems").innerText')

def visit(browser, address):
    "Open a test as a listener who was never here."
    origin = '{0.scheme}://{0.netloc}'.format(urlsplit(address))
    browser.execute_cdp_cmd('Storage.clearDataForOrigin', dict(origin=origin, storageTypes='all'))
    browser.get(address)
    wait(browser, 'document.querySelector("h2")?.textContent === "Welcome"')

def play_all(browser):
    "Play all sounds of a trial, each to its end, with the space bar."
    for number in range(1, browser.execute_script('return players.length') + 1):
        press(browser, Keys.SPACE)
        wait(browser, f'players.filter(each => state.heard[each.index]).length >= {number}')

def rate(browser, plan, trial, choice):
    "Answer a trial with the keyboard: the option of this number, or for MUSHRA that many steps above 50 and more."
    place = heading(browser)
    if plan.method == 'mushra':
        for number in range(len(trial['stimuli'])): press(browser, Keys.ENTER, *[Keys.RIGHT] * (choice + number + 1))
        press(browser, Keys.ENTER)
    else:
        for _ in trial['questions']: press(browser, *[Keys.RIGHT] * (choice + 1), Keys.ENTER)
    wait(browser, 'document.querySelector("h2").textContent !== arguments[0]', place)

def expected(plan, trial, choice):
    "The values of that answer."
    if plan.method == 'mushra': return [50 + choice + number + 1 for number in range(len(trial['stimuli']))]
    return [choice + 1] if plan.method == 'mos' else [[1, 0.5, 0][choice]]

def take(browser, plan, list_number, choice=lambda position: position % 3, n=None):
    "Take a test from the welcome, or its first `n` trials; the values of each answer by trial and question."
    found = {}
    if heading(browser) == 'Welcome': press(browser, Keys.ENTER)
    for position, trial in enumerate([*plan.training, *plan.lists[list_number]][:n]):
        play_all(browser)
        rate(browser, plan, trial, choice(position))
        for question in trial['questions']: found[trial['id'], question] = expected(plan, trial, choice(position))
    return found

def values_of(answers): return {(answer['trial'], answer['question']): answer['values'] for answer in answers}

def stored_values(store): return {token: values_of(store.answers(token)) for token in tokens(store)}

def tokens(store): return [row[0] for row in store.connection.execute('SELECT token FROM listeners ORDER BY number')]

@pytest.mark.site
@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('size', SIZES, ids=lambda size: f'{size[0]} pixels')
def test_a_whole_test_with_the_keyboard(tmp_path, browser, method, size):
    plan = write_test(tmp_path/'test', method)
    resize(browser, *size)
    list(own_errors(browser))
    with running(tmp_path/'test') as (address, app):
        visit(browser, f'{address}/')
        store = app.state.stores[0]
        token = tokens(store)[-1]
        answers = take(browser, plan, store.list_of(token))
        wait(browser, 'document.getElementById("end")?.textContent.startsWith("All ")')
        assert values_of(store.answers(token)) == answers and not problems(browser)
        assert all(min(answer['plays']) >= 1 and answer['seconds'] > 0 for answer in store.answers(token))
        assert browser.execute_script(WIDE) == [] and list(own_errors(browser)) == []
        assert browser.execute_script('return performance.getEntriesByType("resource").map(each => new URL(each.name))'
                                      '.every(url => url.origin === location.origin)')
    ratings = rows(read_answers(tmp_path/'test'))
    assert len(ratings) == len(answers) * (4 if method == 'mushra' else 1)

@pytest.mark.site
def test_nothing_is_rated_before_it_was_heard(tmp_path, browser, mos):
    with running(tmp_path/'test') as (address, _):
        visit(browser, f'{address}/')
        press(browser, Keys.ENTER)
        assert heading(browser) == 'Practice 1 of 1'
        press(browser, Keys.RIGHT, Keys.ENTER)
        assert browser.execute_script('return document.querySelectorAll(":checked").length') == 0
        assert heading(browser) == 'Practice 1 of 1'
        assert 'Play first' in browser.execute_script('return document.getElementById("status").textContent')
        browser.execute_script('document.querySelector("input").click()')   # a disabled fieldset
        assert browser.execute_script('return document.querySelectorAll(":checked").length') == 0
        press(browser, Keys.SPACE)   # Enter has put the focus on the button that plays
        wait(browser, '!document.querySelector("fieldset").disabled')
        press(browser, Keys.RIGHT, Keys.ENTER)   # one question of two
        assert heading(browser) == 'Practice 1 of 1'
        assert 'correspond' in browser.execute_script('return document.getElementById("status").textContent')

@pytest.mark.site
def test_what_a_screen_reader_gets(tmp_path, browser, mos):
    with running(tmp_path/'test') as (address, _):
        visit(browser, f'{address}/')
        press(browser, Keys.ENTER)
        play_all(browser)
        tree = browser.execute_cdp_cmd('Accessibility.getFullAXTree', {})['nodes']
    names = [(node['role']['value'], node.get('name', {}).get('value', '')) for node in tree if not node['ignored']]
    assert ('group', 'How well does the sound correspond to the prompt?') in names
    assert [name for role, name in names if role == 'radio'] == 2 * mos.questions[0]['labels']
    assert {('button', 'Next'), ('heading', 'Practice 1 of 1'), ('progressbar', 'Progress of the test')} <= set(names)
    assert {'status', 'alert'} <= {role for role, _ in names}
    assert all(name for role, name in names if role in ('button', 'radio', 'slider', 'progressbar', 'group'))

@pytest.mark.site
def test_a_reload_and_a_server_that_is_away_lose_nothing(tmp_path, browser, mos):
    with running(tmp_path/'test') as (address, app):
        visit(browser, f'{address}/')
        port, token = int(address.rpartition(':')[2]), tokens(app.state.stores[0])[0]
        found = take(browser, mos, 0, n=1)
        play_all(browser)
        press(browser, Keys.RIGHT)   # the first of two questions
        browser.refresh()
        assert heading(browser) == '1 of 2'
        assert browser.execute_script('return document.querySelector(":checked").value') == '1'
        assert not browser.execute_script('return document.querySelector("fieldset").disabled')
        wait(browser, '!waiting().length')
    press(browser, Keys.RIGHT, Keys.ENTER)   # the second question; the server is gone
    assert heading(browser) == '2 of 2'
    wait(browser, 'document.getElementById("problems").innerText.includes("Nothing is lost")')
    with running(tmp_path/'test', port=port) as (address, app):
        play_all(browser)
        rate(browser, mos, mos.lists[0][1], 2)
        wait(browser, 'document.getElementById("end")?.textContent.startsWith("All 6")', seconds=40)
        assert not problems(browser)
        first, second = mos.lists[0]
        found |= {(first['id'], 'fidelity'): [1], (first['id'], 'relevance'): [1]}
        found |= {(second['id'], question): [3] for question in second['questions']}
        assert values_of(app.state.stores[0].answers(token)) == found
        browser.execute_script('localStorage.clear()')   # the cookie is left
        browser.refresh()
        wait(browser, 'document.getElementById("end")?.textContent.startsWith("All 6")')
        assert len(tokens(app.state.stores[0])) == 1

@pytest.mark.site
def test_two_listeners_at_once(tmp_path, browser, mos):
    with running(tmp_path/'test') as (address, app), open_browser() as other:
        for each in browser, other: visit(each, f'{address}/')
        for each in browser, other: press(each, Keys.ENTER)
        answers = [{}, {}]
        for position in range(3):
            for number, each in enumerate((browser, other)):
                trial = [*mos.training, *mos.lists[number]][position]
                play_all(each)
                rate(each, mos, trial, choice=number + 1)
                answers[number] |= {(trial['id'], question): [number + 2] for question in trial['questions']}
        for each in browser, other: wait(each, 'document.getElementById("end")?.textContent.startsWith("All 6")')
        assert list(stored_values(app.state.stores[0]).values()) == answers

@pytest.mark.site
def test_a_full_disk_is_said_on_the_page(tmp_path, browser):
    plan = write_test(tmp_path/'test', n_trials=1)
    with running(tmp_path/'test') as (address, app):
        visit(browser, f'{address}/')
        store, filler = app.state.stores[0], Listener(f'{address}/{plan.id}').begin()
        fill(app)
        with pytest.raises(HTTPError):
            for number in range(100): filler.post(an_answer(plan, filler.session, key=f'key-{number}'))
        answers = take(browser, plan, 0)
        wait(browser, 'document.getElementById("problems").innerText.includes("disk is full")')
        assert 'Not yet stored: 4 of 4' in browser.execute_script('return document.getElementById("end").textContent')
        store.connection.execute('PRAGMA max_page_count = 1000000')
        wait(browser, 'document.getElementById("end")?.textContent.startsWith("All 4")', seconds=60)
        assert not problems(browser) and values_of(store.answers(tokens(store)[0])) == answers

@pytest.mark.site
def test_a_pilot_says_so_and_the_same_browser_takes_the_real_test_later(tmp_path, browser, mos):
    with running(tmp_path/'test', pilot=True) as (address, _):
        visit(browser, address)
        assert 'pilot' in browser.title
        take(browser, mos, 0, n=1)
        wait(browser, '!waiting().length')
    with running(tmp_path/'test', port=int(address.rpartition(':')[2])) as (address, app):
        browser.get(address)
        wait(browser, 'document.querySelector("h2")?.textContent === "Welcome"')
        assert 'pilot' not in browser.title
        answers = take(browser, mos, 0, n=1)
        wait(browser, '!waiting().length')
        assert list(stored_values(app.state.stores[0]).values()) == [answers] and not problems(browser)

@pytest.mark.site
@pytest.mark.skipif(os.name == 'nt', reason='Windows removes no file that is open')
def test_a_file_of_answers_that_is_gone_is_said_on_the_page(tmp_path, browser, mos):
    with running(tmp_path/'test') as (address, app):
        visit(browser, f'{address}/')
        store, path = app.state.stores[0], tmp_path/'test'/'answers.sqlite'
        path.rename(tmp_path/'away')
        answers = take(browser, mos, 0)
        wait(browser, 'document.getElementById("problems").innerText.includes("was moved or removed")')
        (tmp_path/'away').rename(path)
        wait(browser, 'document.getElementById("end")?.textContent.startsWith("All 6")', seconds=60)
        assert not problems(browser) and values_of(store.answers(tokens(store)[0])) == answers

@pytest.mark.site
def test_a_test_that_closes_says_so_and_gives_a_file(tmp_path, browser, mos):
    with running(tmp_path/'test') as (address, app):
        visit(browser, f'{address}/')
        press(browser, Keys.ENTER)
        play_all(browser)
        app.state.endpoints[0].until = datetime.now(timezone.utc)
        rate(browser, mos, mos.training[0], 1)
        wait(browser, 'document.getElementById("problems").innerText.includes("was closed on")')
        browser.refresh()
        wait(browser, 'document.getElementById("problems").innerText.includes("was closed on")')

def downloaded(browser, folder):
    "Press the button that saves; the file."
    browser.execute_cdp_cmd('Browser.setDownloadBehavior', dict(behavior='allow', downloadPath=str(folder)))
    press(browser, Keys.TAB, Keys.ENTER)
    end = time.monotonic() + 20
    while not (found := list(folder.glob('answers-*.jsonl'))):
        assert time.monotonic() < end, 'no file was saved'
        time.sleep(0.05)
    return found[0]

@pytest.mark.site
@pytest.mark.parametrize('place', ['file', 'static host'])
def test_without_a_server_the_answers_are_a_file(tmp_path, browser, mos, place):
    page = write_page(tmp_path/'test')
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(page.parent))
    host = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
    threading.Thread(target=host.serve_forever, daemon=True).start()
    address = page.as_uri() if place == 'file' else f'http://127.0.0.1:{host.server_port}/index.html'
    try:
        visit(browser, f'{address}?list=1')
        answers = take(browser, mos, 1, n=2)
        browser.refresh()
        answers |= take(browser, SimpleNamespace(method='mos', training=[], lists=[mos.lists[1][1:]]), 0)
        assert 'Save your answers' in wait(browser, 'document.getElementById("end")?.textContent')
        path = downloaded(browser, tmp_path)
    finally: host.shutdown()
    assert values_of(map(json.loads, path.read_text(encoding='utf-8').splitlines())) == answers
    assert len(rows(read_answers(tmp_path/'test', [path]))) == len(answers)

@pytest.mark.site
def test_a_browser_whose_storage_is_full_says_so(tmp_path, browser, mos):
    with running(tmp_path/'test') as (address, app):
        visit(browser, f'{address}/')
        browser.execute_script("""
            for (let size = 1 << 22; size >= 1; size >>= 1)
                for (let i = 0; i < 4; i++) try { localStorage['filler' + size + i] = 'x'.repeat(size); } catch {}""")
        answers = take(browser, mos, 0)
        wait(browser, 'document.getElementById("end")?.textContent.startsWith("All 6")')
        assert 'cannot store' in problems(browser)
        assert values_of(app.state.stores[0].answers(tokens(app.state.stores[0])[0])) == answers
        browser.execute_script('localStorage.clear()')

# ---- webMUSHRA, in pymushra

@pytest.fixture
def webmushra(tmp_path):
    "A copy of webMUSHRA without its configurations, and a function that starts pymushra on it: its address."
    source = os.environ.get('CLIPSONIC_WEBMUSHRA')
    if not source: pytest.skip('set CLIPSONIC_WEBMUSHRA to a checkout of github.com/audiolabs/webMUSHRA')
    service = pytest.importorskip('pymushra.service', reason='pip install pymushra')
    from tinydb import TinyDB
    from werkzeug.serving import make_server
    shutil.copytree(source, tmp_path/'webmushra', ignore=shutil.ignore_patterns('.git', 'configs', 'doc'))
    with TinyDB(tmp_path/'db.json') as db:
        service.app.config.update(webmushra_dir=str(tmp_path/'webmushra'), admin_allowlist=['127.0.0.1'], db=db)
        server = make_server('127.0.0.1', 0, service.app, threaded=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield tmp_path/'webmushra', f'http://127.0.0.1:{server.server_port}'
        server.shutdown()

SLIDE = """
const scales = [...document.querySelectorAll('.scales')];
scales.forEach((scale, number) => $(scale).val(arguments[0][number]).slider('refresh'));
return scales.map(scale => scale.name);
"""

def answer_in_webmushra(browser, choice):
    "Play and answer a page: the option of this number; for MUSHRA the names of the sounds, with 10, 20, 30 and 40."
    browser.execute_script('document.activeElement.blur()')
    if browser.execute_script('return document.querySelectorAll(".scales").length'):
        for button in browser.find_elements('css selector', '[id^=buttonConditions]'): button.click()
        return browser.execute_script(SLIDE, [10, 20, 30, 40])
    wait(browser, 'document.getElementById("playCondition0")').click()
    wait(browser, 'document.querySelector("input[type=radio]:enabled")')
    wait(browser, f'document.querySelectorAll("input[type=radio]")[{choice}].parentNode.querySelector("label")').click()

@pytest.mark.site
@pytest.mark.parametrize('method', METHODS)
def test_webmushra_takes_the_test_and_its_results_come_back(tmp_path, browser, webmushra, method):
    plan = write_test(tmp_path/'test', method, n_trials=2, n_lists=2, seconds=0.5)
    folder, address = webmushra
    config = export_webmushra(tmp_path/'test', folder)[1].relative_to(folder/'configs').as_posix()
    resize(browser, *SIZES[0])
    browser.get(f'{address}/?config={config}')
    def go_on():
        wait(browser, 'document.querySelector("#__button_next:enabled")').click()
    wait(browser, 'document.getElementById("__button_next")')
    go_on()
    expected_values = {}
    for number, trial in enumerate([*plan.training, *plan.lists[1]]):
        for question in trial['questions']:
            wait(browser, 'document.querySelector("[id=playCondition0], [id=buttonReference]")')
            names = answer_in_webmushra(browser, number)
            scores = dict(zip(names or [], [10, 20, 30, 40]))
            own = [scores.get('reference' if plan.stimuli[name]['system'] == 'reference' else name)
                   for name in trial['stimuli']]
            expected_values[trial['id'], question] = own if method == 'mushra' else expected(plan, trial, number)
            go_on()
    wait(browser, 'document.getElementById("send_results")').click()
    wait(browser, 'document.body.innerText.includes("Thank you for your participation")')
    csv_text = build_opener().open(f'{address}/admin/download/clipsonic-{plan.id}.csv').read()
    (tmp_path/'results.csv').write_bytes(csv_text)
    for results in tmp_path/'db.json', tmp_path/'results.csv':
        found = [answer for _, answer in read_webmushra(tmp_path/'test', results)]
        assert values_of(found) == expected_values and {answer['list'] for answer in found} == {1}
        assert all(0.1 < answer['seconds'] < 120 for answer in found)
    ratings = rows(read_answers(tmp_path/'test', webmushra=[tmp_path/'db.json']))
    assert len(ratings) == len(expected_values) * (4 if method == 'mushra' else 1)
    assert {row['plays'] for row in ratings} == {''}
