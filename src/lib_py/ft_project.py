"""Calls the build backend of a project (PEP 517 and 660) in the environment that this Python belongs to.

    ft_project.py layer TREE OUT    an editable install, unpacked: OUT/site, OUT/bin, OUT/tree, OUT/layer.json
    ft_project.py wheel TREE OUT    OUT/*.whl
    ft_project.py sdist FILE OUT    OUT/*.whl of a source archive

Nothing is installed and nothing is fetched: what the backend requires has to be in the environment. Standard library
only, Python 3.7 and later.
"""

import ast
import importlib
import json
import os
import re
import shutil
import stat
import sys
import tarfile
import tempfile
import traceback
import zipfile

sys.path.append(os.path.dirname(os.path.abspath(__file__)))

import ft_wheel  # noqa: E402

LEGACY = "setuptools.build_meta:__legacy__"


class Problem(Exception):
    """Why it can't be done; `kind` is one of the kinds that ft knows."""

    def __init__(self, kind, message):
        super().__init__(message)
        self.kind = kind


def load_toml(path):
    """The tables of pyproject.toml that count here. Python has a reader since 3.11; before, one of the environment."""
    with open(path, "rb") as file:
        content = file.read()
    for name in ("tomllib", "tomli", "setuptools._vendor.tomli", "setuptools.extern.tomli", "pip._vendor.tomli"):
        try:
            reader = importlib.import_module(name)
        except ImportError:
            continue
        try:
            return reader.loads(content.decode("utf-8"))
        except (ValueError, UnicodeDecodeError) as error:
            raise Problem("invalid", "pyproject.toml: %s" % error)
    return load_build_system(content.decode("utf-8"))


def load_build_system(text):
    """`[build-system]` alone, without a TOML reader: its values are strings and lists of strings, which Python reads."""
    tables = {name: {} for name in re.findall(r"(?m)^\[\s*([\w-]+)", text)}
    match = re.search(r"(?ms)^\[\s*build-system\s*\][^\n]*\n(.*?)(?=^\[|\Z)", text)
    lines = match.group(1).splitlines() if match else []
    while lines:
        key, equals, value = lines.pop(0).partition("=")
        if not equals or key.strip().startswith("#"):
            continue
        while True:
            try:
                tables["build-system"][key.strip().strip("\"'")] = ast.literal_eval(value.strip())
                break
            except (SyntaxError, ValueError):
                if not lines:
                    raise Problem("invalid", "pyproject.toml: [build-system] %s can't be read" % key.strip())
                value += "\n" + lines.pop(0)
    return tables


def build_system(root):
    path = os.path.join(root, "pyproject.toml")
    legacy = any(os.path.exists(os.path.join(root, name)) for name in ("setup.py", "setup.cfg"))
    tables = load_toml(path) if os.path.exists(path) else {}
    system = tables.get("build-system")
    if system is None:
        if not legacy and "project" not in tables:
            raise Problem("no-project", "neither [build-system] nor [project] in pyproject.toml, and no setup.py")
        system = {"requires": ["setuptools"]}
    backend = system.get("build-backend", LEGACY)
    requires, search = system.get("requires", []), system.get("backend-path", [])
    if not isinstance(backend, str) or not all(isinstance(item, str) for item in list(requires) + list(search)):
        raise Problem("invalid", "pyproject.toml: [build-system] has a value that is no string")
    return backend, list(requires), list(search)


def packaging_requirements():
    for name in ("packaging", "setuptools._vendor.packaging", "setuptools.extern.packaging", "pip._vendor.packaging"):
        try:
            return importlib.import_module(name + ".requirements")
        except ImportError:
            continue
    return None


def missing(requires):
    """The requirements that the environment does not meet. Without `packaging`, names alone are compared."""
    try:
        from importlib import metadata
    except ImportError:
        return []
    reader, found = packaging_requirements(), []
    for text in requires:
        try:
            if reader is not None:
                requirement = reader.Requirement(text)
                if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
                    continue
                version = metadata.version(requirement.name)
                if not requirement.specifier.contains(version, prereleases=True):
                    found.append("%s (the environment has %s)" % (text, version))
            elif ";" not in text:
                metadata.version(re.match(r"[\w.-]+", text.strip()).group(0))
        except metadata.PackageNotFoundError:
            found.append(text)
        except Exception as error:
            raise Problem("invalid", "build requirement %r: %s" % (text, error))
    return found


def load_backend(root):
    backend, requires, search = build_system(root)
    absent = missing(requires)
    if absent:
        raise Problem("missing", "the environment lacks what the build requires: " + ", ".join(absent))
    os.chdir(root)
    for entry in reversed(search):
        path = os.path.realpath(os.path.join(root, entry))
        if os.path.commonpath([path, os.path.realpath(root)]) != os.path.realpath(root):
            raise Problem("invalid", "backend-path %s leads out of the project" % entry)
        sys.path.insert(0, path)
    module, _, attributes = backend.partition(":")
    try:
        hooks = importlib.import_module(module)
        for name in filter(None, attributes.split(".")):
            hooks = getattr(hooks, name)
    except (ImportError, AttributeError) as error:
        raise Problem("missing", "build backend %s: %s" % (backend, error))
    return backend, hooks


def call(hooks, backend, kind, out):
    """`build_wheel` or `build_editable`; returns the wheel's path."""
    hook = getattr(hooks, "build_" + kind, None)
    if hook is None:
        code = "no-editable" if kind == "editable" else "failed"
        raise Problem(code, "%s has no build_%s" % (backend, kind))
    absent = []
    try:
        # What it asks for beyond [build-system] is often not needed (hatchling names `editables`, older setuptools
        # `wheel`, in any case), so its absence is told only where the build then fails.
        absent = missing(getattr(hooks, "get_requires_for_build_" + kind, lambda settings: [])({}))
        return os.path.join(out, hook(out, {}, None))
    except Problem:
        raise
    except BaseException as error:  # setuptools leaves with SystemExit
        traceback.print_exc()
        if absent:
            raise Problem("missing", "the environment lacks what the build requires: " + ", ".join(absent))
        raise Problem("failed", "%s build_%s: %s: %s" % (backend, kind, type(error).__name__, error))


def files(root):
    """Every regular file below a tree with what tells whether it was written since."""
    found = {}
    for directory, names, entries in os.walk(root):
        names[:] = [name for name in names if not (name == ".git" and directory == root)]
        for name in entries:
            path = os.path.join(directory, name)
            state = os.lstat(path)
            if stat.S_ISREG(state.st_mode):
                found[os.path.relpath(path, root)] = (state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino)
    return found


def left_behind(path, backend):
    """Whether a file that the build made in the tree is a by-product: nothing that is imported needs it."""
    parts = path.split(os.sep)
    if "__pycache__" in parts or path.endswith((".pyc", ".pyo")):
        return True
    return backend.startswith("setuptools") and (
        parts[0] in ("build", ".eggs") or any(part.endswith(".egg-info") for part in parts[:-1]))


class Watch:
    """Which files of the tree a build opens, and whether it does what can't be seen from here: then nobody may take the
    layer for that of another tree. An audit hook can't be removed, so it is switched off."""

    hidden = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty",
              "pty.spawn", "socket.connect", "ctypes.dlopen", "sqlite3.connect")

    def __init__(self, root):
        self.root = root.rstrip("/") + "/"
        self.read = set()
        self.seen = hasattr(sys, "addaudithook")
        self.on = self.seen
        if self.on:
            sys.addaudithook(self)

    def __call__(self, event, args):
        if not self.on:
            return
        try:
            if event == "open" and not isinstance(args[0], int):
                # Not realpath: what a link of the tree points to counts under the name that was opened.
                path = os.path.abspath(os.fsdecode(args[0]))
                if path.startswith(self.root):
                    self.read.add(path[len(self.root):])
            elif event in self.hidden:
                self.seen = False
        except Exception:  # an audit hook that raises would change what is watched
            self.seen = False

    def reads(self):
        """Sorted, or None where they are not all that the build depends on."""
        self.on = False
        plain = all(path.isprintable() and not path.startswith(".git/") for path in self.read)
        return sorted(self.read) if self.seen and plain else None


def layer(root, out):
    result = {"backend": "", "hook": "", "problem": None, "scripts": [], "tree": [], "reads": None}
    os.makedirs(out, exist_ok=True)
    for name in ("site", "bin", "tree"):
        os.makedirs(os.path.join(out, name), exist_ok=True)
    watch = Watch(root)
    try:
        backend, hooks = load_backend(root)
        result.update(backend=backend, hook="build_editable")
        before = files(root)
        with tempfile.TemporaryDirectory() as temporary:
            wheel = call(hooks, backend, "editable", temporary)
            result["reads"] = watch.reads()
            site = os.path.join(out, "site")
            info, result["scripts"] = ft_wheel.unpack(wheel, site, os.path.join(out, "bin"))
        # One form, whichever kind of cell makes the layer or uses it.
        ft_wheel.make_canonical(site, info)
        url = {"url": "file://" + ft_wheel.canonical(root), "dir_info": {"editable": True}}
        ft_wheel.write(os.path.join(site, info, "direct_url.json"), json.dumps(url).encode())
        ft_wheel.write(os.path.join(site, info, "INSTALLER"), b"ft\n")
        for path, state in sorted(files(root).items()):
            if before.get(path) != state and not left_behind(path, backend):
                target = os.path.join(out, "tree", path)
                os.makedirs(os.path.dirname(target), exist_ok=True)
                shutil.copy2(os.path.join(root, path), target)
                result["tree"].append(path)
    except Problem as problem:
        result["problem"] = {"kind": problem.kind, "message": str(problem)}
    except (ft_wheel.BadWheel, zipfile.BadZipFile) as error:
        result["problem"] = {"kind": "bad-wheel", "message": str(error)}
    with open(os.path.join(out, "layer.json"), "w", encoding="utf-8") as file:
        json.dump(result, file, indent=1, sort_keys=True)
    if result["problem"]:
        print("ft: %(kind)s: %(message)s" % result["problem"], file=sys.stderr)
        return 1
    return 0


def wheel(root, out):
    os.makedirs(out, exist_ok=True)
    try:
        backend, hooks = load_backend(root)
        print("ft: built %s" % os.path.basename(call(hooks, backend, "wheel", out)))
    except Problem as problem:
        print("ft: %s: %s" % (problem.kind, problem), file=sys.stderr)
        return 1
    return 0


def sdist(archive, out):
    with tempfile.TemporaryDirectory() as temporary:
        if archive.endswith(".zip"):
            with zipfile.ZipFile(archive) as source:
                source.extractall(temporary)
        else:
            with tarfile.open(archive) as source:
                # The cell is the wall; the filter is what Python asks for where it knows it.
                options = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
                source.extractall(temporary, **options)
        roots = [name for name in os.listdir(temporary) if os.path.isdir(os.path.join(temporary, name))]
        if len(roots) != 1:
            print("ft: bad-sdist: %s: it needs exactly one directory" % os.path.basename(archive), file=sys.stderr)
            return 1
        return wheel(os.path.join(temporary, roots[0]), os.path.abspath(out))


if __name__ == "__main__":
    sys.exit({"layer": layer, "wheel": wheel, "sdist": sdist}[sys.argv[1]](*sys.argv[2:]))
