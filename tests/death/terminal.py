"""A person at a terminal: a pseudo terminal, and a shell with job control in front of it."""

import glob
import json
import os
import pty
import select
import signal
import termios
import time


class Terminal:
    """One job on a terminal of its own. The shell says on a pipe what becomes of the job and is told there what to do."""

    def __init__(self, argv, background=False, tostop=False):
        self.output, self.job, self.open = b"", None, True
        self.told, tell = os.pipe()
        hear, self.say = os.pipe()
        pid, self.master = pty.fork()
        if pid == 0:
            os.close(self.told), os.close(self.say)
            shell(argv, tell, hear, background, tostop)
        os.close(tell), os.close(hear)
        self.shell, self.heard = pid, b""

    def pump(self, seconds):
        """Reads what there is, for so long at most."""
        sources = [self.told] + ([self.master] if self.open else [])
        for ready in select.select(sources, [], [], seconds)[0]:
            try:
                data = os.read(ready, 65536)
            except OSError:
                data = b""
            if ready == self.told:
                self.heard += data
                if not data:
                    raise SystemExit(f"the shell is gone: {self.output!r}")
            elif data:
                self.output += data
            else:
                self.open = False

    def until(self, what, seconds=30):
        """Waits until the shell says something that begins so, or the job has written it; gives the line."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for line in self.heard.decode().splitlines():
                if line.startswith(what):
                    self.heard = self.heard.replace(line.encode() + b"\n", b"", 1)
                    return line
            if what.encode() in self.output:
                return what
            self.pump(0.02)
        raise SystemExit(f"never: {what}; said {self.heard!r}\n{self.output.decode(errors='replace')}")

    def until_ready(self, step, seconds=30):
        """Waits until the command of a step has made its file `ready`: what comes before that is done."""
        end = time.monotonic() + seconds
        while not glob.glob(f".firsttry/runs/*/cells/{step}/changes/ready"):
            if time.monotonic() > end:
                raise SystemExit(f"{step} never was ready: {self.output.decode(errors='replace')}")
            self.pump(0.02)

    def stand(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.pump(0.02)

    def keys(self, keys):
        os.write(self.master, keys)

    def tell(self, what):
        os.write(self.say, what.encode() + b"\n")

    def hang_up(self):
        """The window is closed."""
        os.close(self.master)
        self.open = False

    def status(self, seconds=60):
        return int(self.until("exited ", seconds).split()[1])


def shell(argv, tell, hear, background, tostop):
    """Runs one job as an interactive shell does, in a group of its own. Never returns."""
    for name in (signal.SIGTTOU, signal.SIGTTIN, signal.SIGTSTP, signal.SIGHUP, signal.SIGINT):
        signal.signal(name, signal.SIG_IGN)
    if tostop:
        mode = termios.tcgetattr(0)
        mode[3] |= termios.TOSTOP
        termios.tcsetattr(0, termios.TCSANOW, mode)
    job = os.fork()
    if job == 0:
        os.setpgid(0, 0)
        if not background:
            os.tcsetpgrp(0, os.getpgrp())
        for name in (signal.SIGTTOU, signal.SIGTTIN, signal.SIGTSTP, signal.SIGHUP, signal.SIGINT, signal.SIGPIPE):
            signal.signal(name, signal.SIG_DFL)
        os.close(tell), os.close(hear)
        os.execvp(argv[0], argv)
    # The kernel tells the shell that the window is gone; the shell tells its jobs.
    signal.signal(signal.SIGHUP, lambda *_: os.killpg(job, signal.SIGHUP))
    os.write(tell, f"job {job}\n".encode())
    while True:
        _, status = os.waitpid(job, os.WUNTRACED)
        if os.WIFSTOPPED(status):
            os.write(tell, f"stopped {os.WSTOPSIG(status)}\n".encode())
            what = b""
            while not what.endswith(b"\n"):
                what += os.read(hear, 1)
            if what == b"fg\n":
                os.tcsetpgrp(0, job)
            os.killpg(job, signal.SIGCONT)
            continue
        code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
        os.write(tell, f"exited {code}\n".encode())
        os._exit(0)


FT = os.environ["FT_UNDER_TEST"]
answer = {}
