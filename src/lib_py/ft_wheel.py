"""Unpacks one wheel after comparing every file with its RECORD. Standard library only, Python 3.7 and later."""

import base64
import configparser
import csv
import hashlib
import io
import os
import re
import sys
import zipfile


class BadWheel(Exception):
    """The archive is not a wheel, or not the one that its RECORD describes."""


def unpack(wheel, site, scripts):
    """Puts the importable files of a wheel into `site` and its scripts into `scripts`.

    Returns the name of the `*.dist-info` directory and the names of the scripts. Data files and headers are for a
    prefix, which neither the project layer nor the import gate has; they are left out.
    """
    with zipfile.ZipFile(wheel) as archive:
        files = {info.filename: archive.read(info) for info in archive.infolist() if not info.filename.endswith("/")}
    info = {name.split("/", 1)[0] for name in files if name.split("/", 1)[0].endswith(".dist-info")}
    if len(info) != 1:
        raise BadWheel("%s: it needs exactly one *.dist-info" % os.path.basename(wheel))
    info = info.pop()
    check_record(os.path.basename(wheel), info, files)
    made = []
    for name, content in sorted(files.items()):
        parts = name.split("/")
        if name.startswith("/") or "\\" in name or any(part in ("", ".", "..") for part in parts):
            raise BadWheel("%s: refused path %r" % (os.path.basename(wheel), name))
        if not parts[0].endswith(".data"):
            write(os.path.join(site, *parts), content)
        elif len(parts) > 2 and parts[1] in ("purelib", "platlib"):
            write(os.path.join(site, *parts[2:]), content)
        elif len(parts) == 3 and parts[1] == "scripts":
            if content.startswith(b"#!python"):
                content = shebang().encode() + content.split(b"\n", 1)[-1]
            write(os.path.join(scripts, parts[2]), content, 0o755)
            made.append(parts[2])
    for name, module, attribute in console_scripts(files.get(info + "/entry_points.txt", b"").decode("utf-8")):
        first = attribute.split(".")[0]
        text = "%simport sys\nfrom %s import %s\nif __name__ == '__main__':\n    sys.exit(%s())\n"
        write(os.path.join(scripts, name), (text % (shebang(), module, first, attribute)).encode("utf-8"), 0o755)
        made.append(name)
    return info, sorted(set(made))


def check_record(wheel, info, files):
    record = info + "/RECORD"
    if record not in files:
        raise BadWheel("%s: no RECORD" % wheel)
    unlisted = set(files) - {record, record + ".jws", record + ".p7s"}
    for row in csv.reader(io.StringIO(files[record].decode("utf-8"))):
        if not row or row[0] == record:
            continue
        name, digest = row[0], row[1] if len(row) > 1 else ""
        if name not in files:
            raise BadWheel("%s: RECORD lists %s, which is not there" % (wheel, name))
        algorithm, _, expected = digest.partition("=")
        if algorithm not in ("sha256", "sha384", "sha512"):
            raise BadWheel("%s: RECORD has no hash of %s" % (wheel, name))
        actual = base64.urlsafe_b64encode(hashlib.new(algorithm, files[name]).digest()).decode().rstrip("=")
        if actual != expected.rstrip("="):
            raise BadWheel("%s: %s is not what RECORD says" % (wheel, name))
        unlisted.discard(name)
    if unlisted:
        raise BadWheel("%s: RECORD does not list %s" % (wheel, ", ".join(sorted(unlisted)[:5])))


def console_scripts(text):
    parser = configparser.ConfigParser(delimiters=("=",), interpolation=None, strict=False)
    parser.optionxform = str
    parser.read_string(text)
    dotted = r"\w+(?:\.\w+)*"
    for group in ("console_scripts", "gui_scripts"):
        for name, value in parser.items(group) if parser.has_section(group) else []:
            match = re.match(r"\s*(%s)\s*:\s*(%s)\s*(?:\[.*\])?\s*$" % (dotted, dotted), value)
            if not match or "/" in name or name in (".", ".."):
                raise BadWheel("entry point %s = %s can't be a script" % (name, value))
            yield name, match.group(1), match.group(2)


def shebang():
    """Where the interpreter stands is the same in every cell of a run, so scripts may name it."""
    executable = canonical(sys.executable)
    if " " in executable or len(executable) > 120:
        return "#!/bin/sh\n'''exec' \"%s\" \"$0\" \"$@\"\n' '''\n" % executable
    return "#!%s\n" % executable


def canonical(text):
    """The places of a cell as they are called in all of them: $FT_ROOT is the root of one that can't have `/ft`."""
    root = os.environ.get("FT_ROOT", "/ft")
    if isinstance(text, bytes):
        return re.sub(re.escape(os.fsencode(root)) + br"(?![\w.~-])", b"/ft", text)
    return re.sub(re.escape(root) + r"(?![\w.~-])", "/ft", text)


def make_canonical(site, info):
    """Lets the text files in `site` name places as in every cell, and RECORD know what they are then."""
    record = os.path.join(site, info, "RECORD")
    with open(record, "rb") as file:
        listed = file.read()
    for directory, _, names in os.walk(site):
        for path in (os.path.join(directory, name) for name in names):
            with open(path, "rb") as file:
                old = file.read()
            new = canonical(old)
            if b"\0" in old or new == old or path == record:
                continue
            write(path, new, os.stat(path).st_mode & 0o777)
            was, now = digest(old), digest(new)
            listed = listed.replace(b"%s,%d" % (was, len(old)), b"%s,%d" % (now, len(new))).replace(was, now)
    write(record, listed)


def digest(content):
    return b"sha256=" + base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=")


def write(path, content, mode=0o644):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)
    os.chmod(path, mode)
