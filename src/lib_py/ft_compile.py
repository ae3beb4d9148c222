"""Compiles the modules of unpacked wheels to unchecked-hash bytecode.

    ft_compile.py IN OUT SITE_PACKAGES SEEN_AT

IN holds one directory per wheel. For each WHEEL/SITE_PACKAGES/x.py, OUT/WHEEL/SITE_PACKAGES/__pycache__/x.TAG.pyc is
written, with SEEN_AT as the directory that tracebacks name. A module that does not compile (a template, a test of
broken syntax) gets no bytecode, as with pip.

What a bytecode file holds depends on which objects the compiler has shared with earlier modules of the same process.
Each chunk of a wheel is therefore compiled by a process of its own, and the chunks depend on the wheel alone.
"""

import os
import py_compile
import sys

CHUNK = 48


def modules(root):
    found = []
    for directory, names, files in os.walk(root):
        names.sort()
        if "__pycache__" in names:
            names.remove("__pycache__")
        found += [os.path.relpath(os.path.join(directory, name), root) for name in sorted(files) if name.endswith(".py")]
    return found


def compile_chunk(source, target, seen_at, chunk):
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    for name in chunk:
        cached = os.path.join(target, os.path.dirname(name), "__pycache__", os.path.basename(name)[:-3])
        cached += "." + sys.implementation.cache_tag + ".pyc"
        try:
            py_compile.compile(os.path.join(source, name), cached, os.path.join(seen_at, name), True,
                               invalidation_mode=mode)
        except (py_compile.PyCompileError, ValueError, RecursionError, MemoryError):
            continue


def main(unpacked, out, site_packages, seen_at):
    import warnings

    warnings.simplefilter("ignore")
    work = []
    for wheel in sorted(os.listdir(unpacked)):
        source = os.path.join(unpacked, wheel, site_packages)
        names = modules(source) if os.path.isdir(source) else []
        target = os.path.join(out, wheel, site_packages)
        work += [(source, target, seen_at, names[i:i + CHUNK]) for i in range(0, len(names), CHUNK)]
    running, failed = set(), 0
    limit = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2
    while work or running:
        if work and len(running) < limit:
            item = work.pop(0)
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    compile_chunk(*item)
                    status = 0
                finally:
                    os._exit(status)
            running.add(pid)
        else:
            pid, status = os.wait()
            running.discard(pid)
            failed += status != 0
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
