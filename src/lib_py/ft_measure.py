"""What a machine gives to Python, as one JSON object: the interpreter, its standard library, the shared libraries that it
and its extension modules load. Runs under -I -S -B, on Python 3.7 and later, as any user; reads files and changes none.

The same script measures an image (in a container of it) and a CI job that runs in that image: equal content gives equal
digests, whatever the engine, and wherever no engine can be asked. It is no proof against an interpreter that lies."""

import hashlib
import importlib
import json
import os
import sys
import sysconfig

# Made by whoever runs Python, or not part of the standard library.
LEFT_OUT = {"__pycache__", "site-packages", "dist-packages"}


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 16), b""):
            digest.update(block)
    return digest.hexdigest()


def files(top):
    """Every file and link below a directory: relative path, and what it is."""
    found = []
    for folder, folders, names in os.walk(top):
        folders[:] = sorted(name for name in folders if name not in LEFT_OUT)
        linked = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in sorted(names + linked):
            path = os.path.join(folder, name)
            relative = os.path.relpath(path, top)
            if os.path.islink(path):
                found.append("%s -> %s" % (relative, os.readlink(path)))
                real = os.path.realpath(path)
                if os.path.isfile(real) and not real.startswith(top + os.sep):
                    found.append("%s %s" % (relative, sha256(real)))
            elif os.path.isfile(path):
                found.append("%s %s" % (relative, sha256(path)))
    return sorted(found)


def load_extensions(place):
    """Loads every extension module of the standard library, and with each the libraries it needs."""
    for name in sorted(os.listdir(place)) if os.path.isdir(place) else []:
        module = name.split(".")[0]
        # Modules of CPython's own tests are not in every build of the same interpreter's image, and need nothing more.
        if name.endswith(".so") and "test" not in module:
            try:
                importlib.import_module(module)
            except BaseException:  # a module whose library is not there: what is there is measured
                pass


def mapped():
    """The files that this process has mapped as code, by name."""
    paths = set()
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            fields = line.rstrip("\n").split(None, 5)
            if len(fields) == 6 and "x" in fields[1] and fields[5].startswith("/"):
                paths.add(fields[5])
    return paths


def main():
    stdlib = os.path.realpath(sysconfig.get_path("stdlib"))
    load_extensions(os.path.join(stdlib, "lib-dynload"))
    executable = os.path.realpath(sys.executable)
    libraries = {}
    for path in sorted(mapped()):
        own = path == executable or path.startswith(stdlib + os.sep)
        if not own and os.path.isfile(path):
            name = os.path.basename(path)
            libraries[path if name in libraries else name] = sha256(path)
    listed = files(stdlib)
    # The standard library as one archive comes before it, where there is one.
    listed += ["%s %s" % (os.path.basename(entry), sha256(entry)) for entry in sys.path if os.path.isfile(entry)]
    sys.stdout.write(json.dumps({
        "interpreter": sha256(executable),
        "stdlib": hashlib.sha256("\n".join(listed).encode("utf-8", "surrogateescape")).hexdigest(),
        "libraries": libraries,
    }, sort_keys=True))


main()
