"""Drives a program on a terminal of its own: argv[1] is JSON, the rest is the command.

{"talk": [[regex that is waited for, text that is typed then], ...], "size": [rows, columns]}; a text may be
{"size": [rows, columns]} or {"signal": number} instead, for the children of the
command, or theirs ("generation": 2). Prints JSON: what the terminal showed, and the exit status.
"""
import fcntl, json, os, pty, re, select, signal, struct, sys, termios, time

plan, command = json.loads(sys.argv[1]), sys.argv[2:]


def resize(fd, rows, columns):
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


pid, fd = pty.fork()
if pid == 0:
    os.execvp(command[0], command)
resize(fd, *plan.get("size", [24, 80]))
shown, at, deadline = b"", 0, time.monotonic() + 60
missed = None


def read(wait):
    global shown
    if not select.select([fd], [], [], wait)[0]:
        return True
    try:
        piece = os.read(fd, 65536)
    except OSError:
        piece = b""
    shown += piece
    return bool(piece)


for wanted, typed in plan["talk"]:
    alive = True
    while not (found := re.compile(wanted.encode(), re.S).search(shown, at)):
        if not alive or time.monotonic() > deadline:
            missed = wanted
            break
        alive = read(0.2)
    if missed:
        break
    at = found.end()
    if isinstance(typed, dict):
        if "size" in typed:
            resize(fd, *typed["size"])
        if "signal" in typed:
            family = [pid]
            for _ in range(typed.get("generation", 1)):
                family = [int(c) for p in family for c in open(f"/proc/{p}/task/{p}/children").read().split()]
            for child in family:
                os.kill(child, typed["signal"])
    else:
        os.write(fd, typed.encode())
status = None
while status is None and time.monotonic() < deadline and not missed:
    read(0.1)
    done, raw = os.waitpid(pid, os.WNOHANG)
    if done:
        status = os.waitstatus_to_exitcode(raw)
if status is None:
    os.kill(pid, signal.SIGKILL)
while read(0.1) and time.monotonic() < deadline + 1:
    if not select.select([fd], [], [], 0)[0]:
        break
print(json.dumps({"shown": shown.decode(errors="replace"), "status": status, "missed": missed}))
