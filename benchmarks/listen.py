"""The server of listening tests under stress: `python benchmarks/listen.py kill`, `listeners` or `disk FOLDER`.

`kill` ends the server with SIGKILL while answers arrive, and counts lost and doubled ones. `listeners` prints the time
of an answer when many listeners answer at once. `disk` fills a small file system, whose folder is given, and frees it
again; on Linux `mount -t tmpfs -o size=2m tmpfs FOLDER` makes one. All use this machine's loopback.
"""
import argparse
import atexit
import http.client
import json
import re
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import wave
from pathlib import Path

from clipsonic.listening import load_plan, prepare_test


def make_test(folder, items):
    "A MOS test of two systems and very short, equal tones."
    systems = {}
    for number, name in enumerate(("one", "two")):
        systems[name] = folder/name
        systems[name].mkdir(parents=True)
        for item in range(items):
            with wave.open(str(systems[name]/f"{item:03d}.wav"), "wb") as file:
                file.setparams((1, 2, 8000, 0, "NONE", ""))
                file.writeframes(bytes([0, 16 + number, 0, 240 - item]) * 2000)
    prepare_test(systems, folder/"test", questions=("fidelity",), training=0, gold=0, repeats=0)
    return load_plan(folder/"test")


def start(test, port=0):
    "A server process, its port, and the seconds until it answers."
    begin = time.perf_counter()
    words = [sys.executable, "-m", "clipsonic", "listen", "serve", str(test), "--port", str(port)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    atexit.register(process.kill)
    port = int(re.search(r":(\d+)/", process.stdout.readline())[1])
    return process, port, time.perf_counter() - begin


class Listener:
    "A listener who answers as the page does: again and again, until an answer is acknowledged."
    def __init__(self, plan, port):
        self.plan, self.port, self.connection, self.retries = plan, port, None, 0
        self.session = {}
        self.session = self.ask("GET", "session")[1]

    def ask(self, method, path, answer=None):
        if self.connection is None: self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            body = json.dumps(answer) if answer else None
            headers = {"content-type": "application/json"}
            if self.session: headers["cookie"] = f"clipsonic-{self.plan.id}={self.session['listener']}"
            self.connection.request(method, f"/{self.plan.id}/{path}", body, headers)
            reply = self.connection.getresponse()
            return reply.status, json.loads(reply.read())
        except (OSError, http.client.HTTPException):
            self.connection = None
            return 0, None

    def answers(self):
        for position, trial in enumerate(self.plan.lists[self.session["list"]]):
            yield {"plan": self.plan.id, "listener": self.session["listener"], "list": self.session["list"],
                   "trial": trial["id"], "position": position, "question": "fidelity", "values": [position % 5 + 1],
                   "plays": [1], "seconds": 1.0, "time": "2026-11-28T12:00:00Z",
                   "key": f"{self.session['listener']}-{position}"}

    def send(self, answer, stopped=lambda: False):
        "Seconds until the answer is acknowledged."
        begin = time.perf_counter()
        while self.ask("POST", "answers", answer)[0] != 200 and not stopped():
            self.retries += 1
            time.sleep(0.02)
        return time.perf_counter() - begin


def stored(test):
    with sqlite3.connect(test/"answers.sqlite") as connection:
        return [json.loads(row[0]) for row in connection.execute("SELECT answer FROM answers")]


def kill(args, folder):
    plan = make_test(folder, items=100)
    process, port, _ = start(folder/"test")
    listeners, acknowledged, done = [Listener(plan, port) for _ in range(4)], [], threading.Event()
    def answer_all(listener):
        for answer in listener.answers():
            listener.send(answer, done.is_set)
            if done.is_set(): return
            acknowledged.append(answer)
            time.sleep(0.05)
    threads = [threading.Thread(target=answer_all, args=[listener]) for listener in listeners]
    for thread in threads: thread.start()
    lost = 0
    for number in range(args.times):
        target = len(acknowledged) + 15 + number
        while len(acknowledged) < target and any(thread.is_alive() for thread in threads): time.sleep(0.0005)
        arriving = any(thread.is_alive() for thread in threads)
        process.kill()
        process.wait()
        before = list(acknowledged)
        there = {answer["key"]: answer for answer in stored(folder/"test")}
        lost += sum(there.get(answer["key"]) != answer for answer in before)
        process, _, seconds = start(folder/"test", port)
        print(f"kill {number + 1}: {len(before)} acknowledged, {len(there)} stored, {lost} lost, answers still "
              f"arriving: {arriving}, back after {seconds:.1f} s", flush=True)
    for thread in threads: thread.join(120)
    done.set()
    process.send_signal(signal.SIGTERM)
    process.wait(20)
    keys = [answer["key"] for answer in stored(folder/"test")]
    print(f"{args.times} kills: {len(acknowledged)} answers acknowledged, {len(keys)} stored, "
          f"{len(acknowledged) - len(set(keys))} lost, {len(keys) - len(set(keys))} doubled, "
          f"{sum(listener.retries for listener in listeners)} retries")


def listeners(args, folder):
    plan = make_test(folder, items=20)
    process, port, _ = start(folder/"test")
    begin, seconds, sessions = threading.Barrier(args.n + 1), [], []
    def answer_all():
        listener = Listener(plan, port)
        sessions.append(listener)
        begin.wait()
        for answer in listener.answers():
            seconds.append(listener.send(answer))
            time.sleep(args.pause)
    threads = [threading.Thread(target=answer_all) for _ in range(args.n)]
    for thread in threads: thread.start()
    begin.wait()
    started = time.perf_counter()
    for thread in threads: thread.join()
    wall = time.perf_counter() - started
    process.send_signal(signal.SIGTERM)
    process.wait(20)
    cuts = statistics.quantiles(seconds, n=100)
    found = stored(folder/"test")
    print(f"{args.n} listeners, {len(seconds)} answers in {wall:.1f} s ({len(seconds) / wall:.0f} a second, each waits "
          f"{args.pause} s between answers): median {1000 * cuts[49]:.1f} ms, "
          f"99th percentile {1000 * cuts[98]:.1f} ms, slowest {1000 * max(seconds):.1f} ms; {len(found)} stored, "
          f"{sum(listener.retries for listener in sessions)} retries")


def disk(args, folder):
    plan = make_test(folder, items=20)
    small = Path(args.folder)/"test"
    subprocess.run(["cp", "-r", str(folder/"test"), str(small)], check=True)
    process, port, _ = start(small)
    listener, acknowledged, filler = Listener(plan, port), [], Path(args.folder)/"filler"
    answers = list(listener.answers())
    for answer in answers[:5]:
        listener.send(answer)
        acknowledged.append(answer)
    with open(filler, "wb", buffering=0) as file:
        try:
            while True: file.write(bytes(512))
        except OSError as error: print(f"the file system is full: {error.strerror}")
    for answer in answers[5:]:
        status, reply = listener.ask("POST", "answers", answer)
        if status != 200: break
        acknowledged.append(answer)
    print(f"after {len(acknowledged)} answers: {status} {reply}")
    assert listener.ask("GET", "session")[1]["answers"] == acknowledged, "the acknowledged answers are there"
    filler.unlink()
    for answer in answers[len(acknowledged):]: listener.send(answer)
    process.send_signal(signal.SIGTERM)
    process.wait(20)
    found = stored(small)
    print(f"with room again: {len(found)} of {len(answers)} answers stored, "
          f"{'all as sent' if found == answers else 'NOT as sent'}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("kill")
    command.set_defaults(run=kill)
    command.add_argument("--times", type=int, default=20, help="kills (default: 20)")
    command = commands.add_parser("listeners")
    command.set_defaults(run=listeners)
    command.add_argument("--n", type=int, default=50, help="listeners (default: 50)")
    command.add_argument("--pause", type=float, default=1.0, help="seconds between a listener's answers (default: 1)")
    command = commands.add_parser("disk")
    command.set_defaults(run=disk)
    command.add_argument("folder", help="on a small file system")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder: args.run(args, Path(folder))


if __name__ == "__main__": main()
