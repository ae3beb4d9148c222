"""Records what pytest collected and what came of it, for ft. PYTEST_DONT_REWRITE

Loaded with `-p ft_pytest`. Writes $FT_OUT/pytest.json (by default /ft/out/pytest.json): when the session starts, when
collection is over, and at the end; a crash in between leaves the last of these, with "finished" false. Tells ft's
witness of the network which test runs, through the file that $FT_WITNESS names. Changes nothing about what is collected
or run. pytest 6 and later, Python 3.8 and later, with and without xdist.
"""

import json
import os
import sys

import pytest

# The root of the cell's places, where it is not `/ft`.
ROOT = os.environ.get("FT_ROOT", "/ft")
OUT = os.path.join(os.environ.get("FT_OUT", ROOT + "/out"), "pytest.json")
# Where `/ft` can't be had, `/tmp` is everybody's.
TEMPORARY = "/tmp" if ROOT == "/ft" else os.environ.get("TMPDIR") or ROOT
# Paths of the tree are told relative to it.
WORK = ROOT + "/work/" if os.path.isdir(ROOT + "/work") else os.getcwd() + "/"
# What a message may have at most; its end says what went wrong.
TAIL = 4096
WARNING_LINES = 20
REASONS = 50

# The functions of now: tests replace them (pyfakefs, monkeypatch) and may be interrupted while they are replaced.
_open, _replace, _getpid, _dumps = open, os.replace, os.getpid, json.dumps


class Watch:
    """Sees what collection does beside reading the tree. An audit hook can't be removed, so it is switched off."""

    # Opened freely: what the collection's cache key covers, or what is private to the cell.
    roots = tuple(
        root.rstrip("/") + "/"
        for root in {
            ROOT + "/work", ROOT + "/env", ROOT + "/project", ROOT + "/lib", ROOT + "/out", "/usr", "/lib", "/lib64",
            TEMPORARY, "/dev", "/proc/self", os.path.dirname(OUT), os.path.dirname(os.path.abspath(__file__)), os.getcwd(),
            sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix,
        }
        if root.rstrip("/")
    )
    processes = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "pty.spawn"}
    sockets = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"}
    paths = {"open", "os.listdir", "os.scandir", "sqlite3.connect"}

    def __init__(self):
        self.on = True
        self.reasons = {}

    def __call__(self, event, args):
        if not self.on:
            return
        try:
            if event in self.paths:
                self.path(args[0])
            elif event in self.processes:
                self.add("started a process: %s" % (text(args[0]) if args else event))
            elif event in self.sockets:
                self.add("used a socket: %s %s" % (event, text(args[1] if event != "socket.getaddrinfo" else args[0])))
        except Exception:  # an audit hook that raises would change what is watched
            self.add("could not be watched: %s" % event)

    def path(self, path):
        if isinstance(path, bytes):
            path = os.fsdecode(path)
        if not isinstance(path, str) or path.startswith(self.roots) or path == ":memory:":
            return
        path = os.path.abspath(path)
        if not (path + "/").startswith(self.roots):
            self.add("opened %s" % text(path))

    def add(self, reason):
        if len(self.reasons) < REASONS:
            self.reasons[reason[:300]] = None


def text(value):
    """As text that JSON can carry: file names may hold bytes that are no UTF-8."""
    if isinstance(value, bytes):
        value = os.fsdecode(value)
    value = value if isinstance(value, str) else str(value)
    return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode("utf-8")


def tail(value):
    value = text(value)
    return value if len(value) <= TAIL else "..." + value[-TAIL:]


def reason_of_skip(report):
    """`longrepr` of a skip is (path, line, "Skipped: why")."""
    longrepr = report.longrepr
    why = longrepr[2] if isinstance(longrepr, tuple) and len(longrepr) == 3 else longrepr
    why = text(why)
    return tail(why[len("Skipped: "):] if why.startswith("Skipped: ") else why)


def reason_of_xfail(report):
    """pytest before 7 puts "reason: " before it."""
    why = tail(report.wasxfail)
    return why[len("reason: "):] if why.startswith("reason: ") else why


class Current:
    """Says in shared memory which test runs, for the witness to read while a call of this process stands still.

    The agent makes the file: 64 slots of 4096 bytes. A process writes the slot of its number modulo 64, little endian:
    u32 sequence (odd while it is written), u32 process, u32 length, and the text in UTF-8. Children of this process have
    no slot of their own; the witness finds this one through their parents.
    """

    SLOT, SLOTS, LONGEST = 4096, 64, 3500

    def __init__(self):
        self.renamed = {}
        self.pid = _getpid()
        self.at = self.pid % self.SLOTS * self.SLOT
        self.sequence = 0
        self.said = ""
        self.shared = None
        path = os.environ.get("FT_WITNESS")
        if path:
            try:
                import mmap
                import struct

                self.pack = struct.Struct("<I").pack_into
                with _open(path, "r+b") as file:
                    self.shared = mmap.mmap(file.fileno(), self.SLOTS * self.SLOT)
            except (ImportError, OSError, ValueError):
                pass  # a run without names of tests is better than none

    def say(self, what):
        """Returns what was said before."""
        before, self.said = self.said, what
        # A child of a test that forked has this memory too, and is not who runs the tests.
        if self.shared is not None and _getpid() == self.pid:
            encoded = text(what).encode("utf-8")[: self.LONGEST].decode("utf-8", "ignore").encode("utf-8")
            begin = self.at + 12
            self.step()
            self.pack(self.shared, self.at + 4, self.pid)
            self.pack(self.shared, self.at + 8, len(encoded))
            self.shared[begin : begin + len(encoded)] = encoded
            self.step()
        return before

    def step(self):
        self.sequence = (self.sequence + 1) & 0xFFFFFFFF
        self.pack(self.shared, self.at, self.sequence)

    # Around everything that runs for a test, in the process that runs it: `pytest_runtest_logstart` is also called in
    # the leader of xdist's workers.
    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item):
        before = self.say(self.renamed.get(text(item.nodeid), item.nodeid))
        yield
        self.say(before)

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_make_collect_report(self, collector):
        file = collector.nodeid.split("::", 1)[0]
        before = self.say(file + " (collecting)" if file else "")
        yield
        self.say(before)


class Test:
    """One test over its phases: set-up, call and tear-down, each perhaps more than once."""

    __slots__ = ("id", "result", "seconds", "message", "reruns", "again", "over")

    def __init__(self, nodeid):
        self.id = nodeid
        self.result = None
        self.seconds = 0.0
        self.message = ""
        self.reruns = 0
        self.again = False
        self.over = False

    def add(self, report):
        self.seconds += getattr(report, "duration", 0.0) or 0.0
        when, outcome = report.when, report.outcome
        if self.again and when == "setup":
            self.again, self.result, self.message = False, None, ""
        if outcome == "rerun":
            self.reruns += 1
            self.again = True
        elif outcome == "failed":
            # "???" is xdist's phase for the test that was running when its worker died.
            self.fail("error" if when in ("setup", "teardown") else "failed", report)
        elif getattr(report, "context", None) is not None and "ubtest" in type(report).__name__.lower():
            pass  # a subtest that did not fail says nothing about its test
        elif outcome == "skipped":
            xfail = hasattr(report, "wasxfail")
            if self.result not in ("failed", "error"):
                self.result = "xfailed" if xfail else "skipped"
                self.message = reason_of_xfail(report) if xfail else reason_of_skip(report)
        elif outcome == "passed" and when == "call" and self.result is None:
            self.result = "xpassed" if hasattr(report, "wasxfail") else "passed"
        if when == "teardown":
            self.over = True

    def fail(self, result, report):
        # A failed call stays "failed" when the tear-down fails too.
        if self.result != "failed":
            self.result = result
        self.message = tail(self.message + "\n" + report.longreprtext if self.message else report.longreprtext)

    def row(self):
        row = {"id": self.id, "result": self.result, "seconds": round(self.seconds, 6)}
        if self.message:
            row["message"] = self.message
        if self.reruns:
            row["reruns"] = self.reruns
        return row


class Recorder:
    """The session of this process; with xdist the one that leads the workers."""

    def __init__(self, config, watch):
        self.config = config
        self.watch = watch
        self.pid = _getpid()
        self.xdist = False
        self.collected = []
        self.collect_errors = []
        self.skipped_modules = []
        self.tests = []
        self.current = {}
        self.deselected = 0
        self.warnings = 0
        self.warning_lines = []
        self.shared_warnings = set()
        self.renamed = {}
        self.broken_off = False

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self, session):
        self.write(None)

    def pytest_collectreport(self, report):
        if report.failed:
            self.collect_errors.append({"id": text(report.nodeid) or ".", "message": tail(report.longreprtext)})
        elif report.skipped:
            self.skipped_modules.append([text(report.nodeid), reason_of_skip(report)])

    def pytest_deselected(self, items):
        self.deselected += len(items)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session):
        self.watch.on = False
        self.collected = [text(item.nodeid) for item in session.items]
        if not self.config.option.collectonly:
            self.write(None)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node, ids):
        # Each worker collects everything; one list counts.
        self.xdist = True
        if not self.collected:
            self.collected = [text(nodeid) for nodeid in ids]
            self.write(None)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node, error):
        said = getattr(node, "workeroutput", {}).get("ft")
        if said:
            self.xdist = True
            self.renamed.update(said["renamed"])
            self.deselected = max(self.deselected, said["deselected"])
            for row in said["skipped_modules"]:
                if row not in self.skipped_modules:
                    self.skipped_modules.append(row)

    def pytest_warning_recorded(self, warning_message, when, nodeid, location):
        filename = warning_message.filename
        line = "%s:%s: %s: %s" % (
            filename[len(WORK):] if filename.startswith(WORK) else filename,
            warning_message.lineno,
            warning_message.category.__name__,
            str(warning_message.message).split("\n", 1)[0],
        )
        # With xdist every worker configures and collects, and says the same again.
        if when != "runtest" and self.config.getoption("numprocesses", None):
            if line in self.shared_warnings:
                return
            self.shared_warnings.add(line)
        self.warnings += 1
        if len(self.warning_lines) < WARNING_LINES:
            self.warning_lines.append(text(line)[:500])

    def pytest_runtest_logreport(self, report):
        test = self.current.get(report.nodeid)
        # The same id once more, and not because it is run again: it was collected twice.
        if test is None or (test.over and report.when == "setup" and not test.again):
            test = self.current[report.nodeid] = Test(report.nodeid)
            self.tests.append(test)
        test.add(report)

    def pytest_keyboard_interrupt(self, excinfo):
        # Also called for `pytest.exit`, which can leave with status 0 and tests that never ran.
        self.broken_off = True

    def pytest_internalerror(self, excrepr):
        self.broken_off = True

    # The outermost wrapper: other plugins change the exit status in this hook.
    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session):
        yield
        self.watch.on = False
        self.write(int(session.exitstatus))

    def rows(self):
        rows = [test.row() for test in self.tests if test.result is not None]
        for row in rows:
            row["id"] = self.renamed.get(row["id"], row["id"])
        known = self.collected
        order = {nodeid: at for at, nodeid in enumerate(known)}
        rows.sort(key=lambda row: order.get(row["id"], len(known)))
        for row in rows:
            row["id"] = text(row["id"])
        return rows + [
            {"id": nodeid, "result": "skipped", "seconds": 0.0, "message": why} for nodeid, why in self.skipped_modules
        ]

    def write(self, exit_status):
        """Writes the file, whole or not at all."""
        if _getpid() != self.pid:
            return  # a test forked, and its child came to the end of the session
        if exit_status is not None and self.renamed:
            self.collected = [self.renamed.get(nodeid, nodeid) for nodeid in self.collected]
        # What runs in a worker before it knows this plugin is not seen, and xdist itself uses processes and sockets.
        reasons = ["collected by workers of xdist, which are not watched"] if self.xdist else self.watch.reasons
        said = {
            "pid": self.pid,
            "collected": self.collected,
            "collect_errors": self.collect_errors,
            "tests": self.rows() if exit_status is not None else [],
            "warnings": self.warnings,
            "warning_lines": self.warning_lines,
            "deselected": self.deselected,
            "finished": exit_status is not None and not self.broken_off,
            "exit_status": exit_status,
            "uncacheable": sorted(reasons),
        }
        temporary = "%s.%d" % (OUT, self.pid)
        with _open(temporary, "w", encoding="ascii") as file:
            file.write(_dumps(said))
        _replace(temporary, OUT)


class Worker:
    """In a worker of xdist: says to its leader what only a worker sees."""

    def __init__(self, config):
        self.config = config
        self.deselected = 0
        self.skipped_modules = []
        self.renamed = {}

    def pytest_deselected(self, items):
        self.deselected += len(items)

    def pytest_collectreport(self, report):
        if report.skipped:
            self.skipped_modules.append([text(report.nodeid), reason_of_skip(report)])

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session):
        # `--dist loadgroup` appends "@group" to the ids, which are then not those that are collected elsewhere.
        if self.config.getoption("loadgroup", False) or self.config.getoption("dist", "") == "loadgroup":
            for item in session.items:
                bare, at, _ = item.nodeid.rpartition("@")
                if at and item.get_closest_marker("xdist_group"):
                    self.renamed[text(item.nodeid)] = text(bare)

    def pytest_sessionfinish(self):
        self.config.workeroutput["ft"] = {
            "renamed": self.renamed,
            "deselected": self.deselected,
            "skipped_modules": self.skipped_modules,
        }


def led_by_another():
    """Whether a process that still runs has its session open: then this one was started by a test."""
    try:
        with _open(OUT, encoding="ascii") as file:
            said = json.load(file)
        pid = int(said["pid"])
        if said["exit_status"] is not None or pid == _getpid():
            return False
        os.kill(pid, 0)
        return True
    except (OSError, ValueError, KeyError, TypeError):
        return False


# Before anything is watched.
_current = Current()
_watch = Watch()
sys.addaudithook(_watch)
_claimed = False


def pytest_configure(config):
    # The first session of a process is the one; a test that runs pytest in its own process gets none.
    global _claimed
    if _claimed:
        return
    _claimed = True
    if hasattr(config, "workerinput"):
        _watch.on = False
        plugin = Worker(config)
        config.pluginmanager.register(plugin, "ft-worker")
    elif led_by_another():
        _watch.on = False
        return
    else:
        plugin = Recorder(config, _watch)
        config.pluginmanager.register(plugin, "ft-recorder")
    _current.renamed = plugin.renamed
    config.pluginmanager.register(_current, "ft-current")
