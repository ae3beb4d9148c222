"""Installs the one wheel of a directory into an empty place and imports names from it, out of sight of the tree.

    ft_import.py DIST NAME...

A name that is importable but does not come from the wheel is a failure too: it would not be there for a user.
Standard library only, Python 3.7 and later.
"""

import os
import subprocess
import sys
import tempfile

sys.path.append(os.path.dirname(os.path.abspath(__file__)))

import ft_wheel  # noqa: E402

IMPORT = """
import importlib, os, site, sys, traceback
target, names = os.path.realpath(sys.argv[1]), sys.argv[2:]
sys.path.insert(0, target)
site.addsitedir(target)
failed = 0
for name in names:
    try:
        module = importlib.import_module(name)
    except BaseException:
        traceback.print_exc()
        print("ft: import %s: failed" % name)
        failed = 1
        continue
    places = [module.__file__] if getattr(module, "__file__", None) else list(getattr(module, "__path__", []))
    inside = [place for place in places if os.path.realpath(place).startswith(target + os.sep)]
    if inside:
        print("ft: import %s: from the wheel" % name)
    else:
        print("ft: import %s: not in the wheel, found at %s" % (name, ", ".join(places) or "no file"))
        failed = 1
sys.exit(failed)
"""


def main(dist, *names):
    wheels = sorted(name for name in os.listdir(dist) if name.endswith(".whl"))
    if len(wheels) != 1:
        print("ft: expected one wheel, found %d: %s" % (len(wheels), ", ".join(wheels)), file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as temporary:
        target, fresh = os.path.join(temporary, "site"), os.path.join(temporary, "fresh")
        os.mkdir(target)
        os.mkdir(fresh)
        try:
            ft_wheel.unpack(os.path.join(dist, wheels[0]), target, os.path.join(temporary, "bin"))
        except ft_wheel.BadWheel as error:
            print("ft: %s" % error, file=sys.stderr)
            return 1
        command = [sys.executable, "-I", "-c", IMPORT, target] + list(names)
        return subprocess.call(command, cwd=fresh)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
