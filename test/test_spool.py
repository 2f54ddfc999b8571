import os
import random
import re
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import edge_vision
from edge_vision.errors import ConfigurationError, SpoolError
from edge_vision.events import Event, Evidence, event_id
from edge_vision.spool import DATABASE, Dropped, Spool

NOW_NS = 1_795_620_896_000_000_000
ROOT = Path(edge_vision.__file__).parents[1]
PICTURE = random.Random(3).randbytes(5000)


def event(action='stop', **changes):
    values = {'id': event_id(NOW_NS), 'camera': 'camera', 'rule': 'rule', 'phase': 'new', 'stamp_ns': NOW_NS}
    return Event(action=action, evidence=Evidence('crop'), **{**values, **changes})


@pytest.fixture
def directory(tmp_path):
    return tmp_path / 'spool'


def ids(spool):
    return [stored.id for stored in spool.pending(limit=100_000)]


def test_events_come_out_in_the_order_they_went_in(directory):
    events = [event() for _ in range(5)]
    with Spool(directory) as spool:
        assert all(spool.append(e, b'picture') for e in events)
        assert ids(spool) == [e.id for e in events]
        first, second = spool.pending(limit=2)
        assert (first.event, first.picture) == (events[0].to_json(), b'picture')
        assert [s.id for s in spool.pending(after=second.seq)] == [e.id for e in events[2:]]


def test_acknowledged_events_are_gone(directory):
    with Spool(directory) as spool:
        spool.append_many([(event(), b'x' * 100) for _ in range(3)])
        first, second, third = spool.pending()
        spool.acknowledge([first.seq, third.seq, third.seq, 999])
        assert ids(spool) == [second.id]
        spool.acknowledge([second.seq])
        assert (spool.depth, spool.bytes, spool.oldest_age) == (0, 0, 0.0)


def test_place_of_an_acknowledged_event_is_never_used_again(directory):
    with Spool(directory) as spool:
        spool.append(event())
        (before,) = spool.pending()
        spool.acknowledge([before.seq])
        spool.append(event())
        assert spool.pending()[0].seq > before.seq


def test_same_id_is_stored_once(directory):
    one = event()
    with Spool(directory) as spool:
        assert spool.append(one, b'first')
        assert not spool.append(one, b'second')
        assert spool.append_many([(one, None), (event(), None)]) == 1
        assert spool.pending()[0].picture == b'first'
        assert spool.depth == 2


def test_everything_is_there_after_reopening(directory):
    with Spool(directory) as spool:
        spool.append_many([(event(), b'y' * n) for n in range(20)])
        before = (ids(spool), spool.depth, spool.bytes)
    with Spool(directory) as spool:
        assert (ids(spool), spool.depth, spool.bytes) == before


def test_listener_is_called_after_each_append(directory):
    with Spool(directory) as spool:
        seen = []
        spool.listen(lambda: seen.append(spool.depth))
        spool.append(event())
        spool.append_many([(event(), None), (event(), None)])
        assert seen == [1, 3]


def test_full_spool_gives_up_pictures_before_events_and_flags_before_stops(directory):
    with Spool(directory, max_bytes=64 * 1024) as spool:
        flag, stop = event('flag'), event('stop')
        spool.append(stop, b's' * 30_000)
        spool.append(flag, b'f' * 30_000)
        assert spool.dropped == Dropped()

        spool.append(event('stop'), b't' * 20_000)  # the picture of the flag makes room, although the stop is older
        assert {s.id: bool(s.picture) for s in spool.pending()}[flag.id] is False
        assert {s.id: bool(s.picture) for s in spool.pending()}[stop.id] is True
        assert spool.dropped == Dropped(pictures=1)

        spool.append_many([(event('alarm'), None) for _ in range(150)])
        assert not any(s.picture for s in spool.pending(limit=1000))
        assert flag.id not in ids(spool)
        assert spool.bytes <= 64 * 1024


def test_event_whose_picture_was_given_up_says_so(directory):
    with Spool(directory, max_bytes=64 * 1024) as spool:
        spool.append(event(), b'a' * 40_000)
        spool.append(event(), b'b' * 40_000)
        first, second = spool.pending()
        assert Event.from_json(first.event).evidence == Evidence(reason='the spool was full')
        assert (first.picture, second.picture) == (None, b'b' * 40_000)


def test_old_flags_go_before_new_ones_and_stops_stay(directory):
    with Spool(directory, max_bytes=64 * 1024) as spool:
        stops = [event('stop') for _ in range(10)]
        flags = [event('flag') for _ in range(200)]
        spool.append_many([(e, None) for e in stops])
        for e in flags:
            spool.append(e)
        left = ids(spool)
        assert left[:10] == [e.id for e in stops]
        assert left[10:] == [e.id for e in flags[-len(left) + 10 :]]
        assert spool.dropped.events == 210 - len(left) > 0


def test_file_stays_near_the_bound(directory):
    bound = 1 << 20
    with Spool(directory, max_bytes=bound) as spool:
        for _ in range(40):
            spool.append_many([(event(), random.randbytes(10_000)) for _ in range(10)])
            assert spool.bytes <= bound
        spool.acknowledge([s.seq for s in spool.pending(limit=10)])
    assert (directory / DATABASE).stat().st_size < 1.5 * bound


def test_counters_agree_with_the_database_whatever_happens(directory):
    chance = random.Random(1)
    with Spool(directory, max_bytes=100_000) as spool:
        for _ in range(300):
            action = chance.choice(['flag', 'stop', 'alarm', 'slowdown'])
            picture = chance.choice([None, bytes(chance.randrange(20_000))])
            spool.append(event(action, rule='größe'), picture)
            if chance.random() < 0.2:
                spool.acknowledge(s.seq for s in chance.sample(spool.pending(limit=5), k=1))
        counted = (spool.depth, spool.bytes)
    with Spool(directory, max_bytes=100_000) as spool:
        assert (spool.depth, spool.bytes) == counted


def test_old_events_expire(directory):
    now_ns = NOW_NS
    with Spool(directory, max_age=60.0, clock=lambda: now_ns) as spool:
        spool.append(event())
        now_ns += 50 * 10**9
        young = event()
        spool.append(young)
        assert spool.oldest_age == 50.0
        now_ns += 20 * 10**9
        newest = event()
        assert spool.append(newest)
        assert ids(spool) == [young.id, newest.id]
        assert spool.dropped == Dropped(expired=1)


def test_old_events_expire_while_nothing_is_appended(directory):
    now_ns = NOW_NS
    with Spool(directory, max_age=60.0, clock=lambda: now_ns) as spool:
        spool.append_many([(event(), b'p') for _ in range(250)])  # more than one transaction gives up
        now_ns += 50 * 10**9
        young = event()
        spool.append(young)
        spool.expire()
        assert spool.depth == 251
        now_ns += 20 * 10**9
        spool.expire()
        assert ids(spool) == [young.id]
        assert spool.dropped == Dropped(expired=250)


def test_nothing_expires_where_no_age_is_set(directory):
    now_ns = NOW_NS
    with Spool(directory, max_age=0.0, clock=lambda: now_ns) as spool:
        spool.append(event())
        now_ns += 10**18
        spool.expire()
        assert spool.depth == 1


def test_urgent_are_the_stops_that_begin_and_the_newest_comes_first(directory):
    stops = [event() for _ in range(4)]
    others = [event('flag'), event('alarm'), event(phase='end'), event('flag', rule='"action":"stop"')]
    with Spool(directory) as spool:
        spool.append_many([(e, b'picture') for pair in zip(stops, others, strict=True) for e in pair])
        assert [s.id for s in spool.pending(urgent=True)] == [e.id for e in reversed(stops)]
        assert [s.id for s in spool.pending(limit=1, urgent=True)] == [stops[-1].id]
        third = next(s for s in spool.pending() if s.id == stops[2].id)
        assert [s.id for s in spool.pending(after=third.seq, urgent=True)] == [stops[3].id]
        assert spool.pending(urgent=True)[0].picture == b'picture'


def test_urgent_are_found_in_a_file_of_an_earlier_version(directory):
    path = filled(directory)
    with sqlite3.connect(path) as connection:
        connection.execute('DROP INDEX new_stops')
    with Spool(directory) as spool:
        assert [s.id for s in spool.pending(urgent=True)] == ids(spool)[::-1]
        assert spool.depth == 20


@pytest.mark.parametrize('wrong_ns', [0, NOW_NS + 10**18], ids=['before the clock was set', 'in the future'])
def test_event_stored_under_a_wrong_clock_does_not_expire(directory, wrong_ns):
    with Spool(directory, max_age=60.0, clock=lambda: wrong_ns) as spool:
        spool.append(event())
    with Spool(directory, max_age=60.0, clock=lambda: NOW_NS) as spool:
        spool.append(event())
        assert spool.depth == 2
        assert spool.oldest_age == 0.0


def test_directory_is_closed_to_others(directory):
    with Spool(directory):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    directory.chmod(0o755)
    with Spool(directory):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_open_directory_of_others_is_left_alone(tmp_path):
    (tmp_path / 'letter.txt').touch()
    tmp_path.chmod(0o755)
    with pytest.raises(SpoolError, match=r"'letter\.txt'; give the spool a directory of its own"):
        Spool(tmp_path).open()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


def test_second_process_is_kept_out(directory):
    with Spool(directory), pytest.raises(SpoolError, match='which another process uses'):
        Spool(directory).open()
    with Spool(directory):
        pass


def test_directory_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(SpoolError, match=r"cannot open the spool in '.*/file/spool': .*Not a directory"):
        Spool(tmp_path / 'file' / 'spool').open()


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write everywhere')
def test_directory_that_is_not_writable_is_an_error(directory):
    directory.mkdir(mode=0o500)
    with pytest.raises(SpoolError, match='Permission denied'):
        Spool(directory).open()


def test_closed_spool_says_so(directory):
    with pytest.raises(SpoolError, match='the spool is closed'):
        Spool(directory).append(event())
    with pytest.raises(SpoolError, match='the spool is closed'):
        Spool(directory).pending()


@pytest.mark.parametrize(
    ('bounds', 'reason'),
    [
        ({'max_bytes': 10}, 'max_bytes is 10, expected at least'),
        ({'max_age': -1.0}, r'max_age is -1\.0'),
    ],
)
def test_impossible_bound_is_refused(directory, bounds, reason):
    with pytest.raises(ConfigurationError, match=reason):
        Spool(directory, **bounds)


def filled(directory):
    with Spool(directory) as spool:
        spool.append_many([(proven(PICTURE), PICTURE) for _ in range(20)])
    return directory / DATABASE


def proven(picture):
    """Make an event that knows the checksum of its picture, as the bridge's do."""
    return event().with_picture(picture, 'topic')


def damage(path, kind):
    content = path.read_bytes()
    if kind == 'text':
        path.write_bytes(b'this is no database' * 1000)
    elif kind == 'cut':
        path.write_bytes(content[: len(content) * 3 // 4])
    elif kind == 'holes':
        path.write_bytes(content[:-16384] + bytes(8192) + content[-8192:])
    else:
        with sqlite3.connect(path) as connection:
            connection.execute('PRAGMA user_version = 99')


@pytest.mark.parametrize('kind', ['text', 'cut', 'holes', 'newer'])
def test_damaged_database_is_set_aside_and_what_is_sound_goes_on(directory, caplog, kind):
    path = filled(directory)
    with Spool(directory) as spool:
        before = ids(spool)
    damage(path, kind)
    with Spool(directory) as spool:
        left = spool.pending(limit=100)
        assert [s.id for s in left] == [e for e in before if e in {s.id for s in left}]  # in order
        assert len(left) == {'text': 0, 'newer': 20}.get(kind, len(left))
        assert {s.picture for s in left} <= {PICTURE, None}
        assert all((s.picture is None) == (Event.from_json(s.event).evidence.kind == 'none') for s in left)
        assert any(s.picture for s in left) == (kind != 'text')
        assert spool.append(event())
    aside = [p.name for p in directory.iterdir() if p.name.startswith('spool.damaged-')]
    assert re.fullmatch(r'spool\.damaged-\d{8}T\d{6}\.\d{6}Z\.db', spool.set_aside)
    assert spool.set_aside in aside
    assert 'is damaged' in caplog.text
    assert f'took over {len(left)} events' in caplog.text


@pytest.mark.parametrize('kind', ['text', 'cut', 'holes'])
def test_database_that_is_damaged_in_use_is_an_error_and_then_mended(directory, kind):
    with Spool(directory) as spool:
        spool.append_many([(proven(os.urandom(20_000)), None) for _ in range(20)])
        stored = [event() for _ in range(10)]
        spool.append_many([(e.with_picture(PICTURE * 60, 'topic'), PICTURE * 60) for e in stored])
        last = spool.pending(limit=100)[-1].seq
        spool._writer.execute('PRAGMA wal_checkpoint(TRUNCATE)')
        damage(directory / DATABASE, kind)
        for connection in (spool._writer, spool._reader):
            connection.execute('PRAGMA shrink_memory')  # what it remembers hides the damage, until it forgets
        with pytest.raises(SpoolError, match=r'(malformed|not a database)'):
            use(spool)
        new = event()
        assert spool.append(new)
        assert spool.pending(after=last)[-1].id == new.id  # no place of the queue is used twice
        assert spool.depth == len(ids(spool))


def use(spool):
    for _ in range(100):
        spool.pending(limit=1000)
        spool.append(event())


def test_sound_event_with_a_damaged_picture_says_so(directory):
    path = filled(directory)
    content = path.read_bytes()
    place = content.index(PICTURE[:500])
    path.write_bytes(content[:place] + b'another picture' + content[place + 15 :])
    damage(path, 'newer')
    with Spool(directory) as spool:
        left = spool.pending(limit=100)
    (changed,) = [s for s in left if not s.picture]
    assert Event.from_json(changed.event).evidence == Evidence(reason='the spool was damaged')
    assert len(left) == 20


def test_only_the_newest_damaged_databases_are_kept(directory):
    for _ in range(5):
        damage(filled(directory), 'text')
    with Spool(directory):
        assert len(list(directory.glob('spool.damaged-*.db'))) == 3


def test_no_damage_keeps_the_spool_from_opening(directory):
    chance = random.Random(7)
    content = filled(directory).read_bytes()
    for _ in range(40):
        broken = bytearray(content[: chance.randrange(len(content))] if chance.random() < 0.5 else content)
        for _ in range(chance.randrange(5)):
            start = chance.randrange(len(broken) + 1)
            broken[start : start + 200] = chance.randbytes(len(broken[start : start + 200]))
        (directory / DATABASE).write_bytes(broken)
        with Spool(directory) as spool:
            assert isinstance(ids(spool), list)


def test_writer_and_sender_threads_do_not_lose_anything(directory):
    with Spool(directory) as spool:
        sent, done = [], threading.Event()

        def send():
            while not done.is_set() or spool.depth:
                page = spool.pending()
                sent.extend(s.id for s in page)
                spool.acknowledge(s.seq for s in page)

        sender = threading.Thread(target=send)
        sender.start()
        events = [event() for _ in range(300)]
        for e in events:
            spool.append(e, b'p' * 1000)
        done.set()
        sender.join()
        assert sent == [e.id for e in events]
        assert (spool.depth, spool.bytes) == (0, 0)


CHILD = """
import sys
from edge_vision.events import Event, event_id
from edge_vision.spool import Spool
with Spool(sys.argv[1]) as spool:
    while True:
        events = [Event(event_id(n), 'camera', 'rule', 'stop', 'new', n) for n in range(3)]
        spool.append(events[0], b'p' * 20_000)
        print(events[0].id, flush=True)
        spool.append_many([(e, b'q' * 500) for e in events[1:]])
        print(events[1].id, events[2].id, flush=True)
"""


def test_killed_process_leaves_every_event_it_had_stored(directory):
    stored = []
    for round_ in range(4):
        child = subprocess.Popen(
            [sys.executable, '-c', CHILD, str(directory)], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        for _ in range(10 + 7 * round_):
            stored += child.stdout.readline().split()
        child.send_signal(signal.SIGKILL)
        stored += child.communicate()[0].split()
    with Spool(directory) as spool:
        left = spool.pending(limit=100_000)
    assert set(stored) <= {s.id for s in left}
    assert len(stored) >= 60
    assert all(len(s.picture) in (20_000, 500) for s in left)


FULL_DISK = """
import resource, sys
from edge_vision.errors import SpoolError
from edge_vision.events import Event, event_id
from edge_vision.spool import Spool
def append(spool):
    event = Event(event_id(1), 'camera', 'rule', 'stop', 'new', 1)
    spool.append(event, b'p' * 20_000)
    return event.id
with Spool(sys.argv[1]) as spool:
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    stored = []
    try:
        while True:
            stored.append(append(spool))
    except SpoolError as error:
        print(error)
    depth = spool.depth
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    stored.append(append(spool))
    assert depth == len(stored) - 1
    assert [s.id for s in spool.pending(limit=1000)] == stored
"""


def test_full_disk_is_an_error_and_loses_nothing_that_was_stored(directory):
    child = subprocess.run(
        [sys.executable, '-c', FULL_DISK, str(directory)], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert child.returncode == 0, child.stderr
    assert re.match(r'cannot write to the spool in .*; check the disk and the permissions', child.stdout)


SMALL_DISK = """
import resource, sys
from edge_vision.errors import SpoolError
from edge_vision.events import Event, event_id
from edge_vision.spool import Spool
def append(spool):
    spool.append(Event(event_id(1), 'camera', 'rule', 'stop', 'new', 1), b'p' * 20_000)
with Spool(sys.argv[1]) as spool:
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    for _ in range(3):
        try:
            while True:
                append(spool)
        except SpoolError:
            print(spool.depth)
        for attempt in range(3):
            try:
                spool.acknowledge([s.seq for s in spool.pending(limit=10_000)])
                break
            except SpoolError:
                pass
        assert spool.depth == 0
"""


def test_spool_that_fills_its_disk_by_itself_goes_on_when_events_are_delivered(directory):
    child = subprocess.run(
        [sys.executable, '-c', SMALL_DISK, str(directory)], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert child.returncode == 0, child.stderr
    assert all(int(depth) >= 5 for depth in child.stdout.split())


def test_spool_needs_neither_ros_nor_a_broker():
    code = "import sys, edge_vision.spool; print({'rclpy', 'paho', 'paho.mqtt'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, '-c', code], text=True, cwd=ROOT) == 'set()\n'


def test_every_append_waits_for_the_disk(directory):
    with Spool(directory) as spool:
        assert spool._writer.execute('PRAGMA journal_mode').fetchone() == ('wal',)
        assert spool._writer.execute('PRAGMA synchronous').fetchone() == (2,)  # FULL


def test_an_event_announced_again_after_its_delivery_is_not_sent_again(tmp_path):
    with Spool(tmp_path) as spool:
        spool.append(event(id='a'))
        spool.acknowledge([stored.seq for stored in spool.pending()])
    with Spool(tmp_path) as spool:
        assert spool.append_many([(event(id='a'), None), (event(id='b'), None)]) == 1
        assert [stored.id for stored in spool.pending()] == ['b']
