"""Measures what the test steps covered: `ft_coverage.py [REPOSITORY [DIRECTORY...]]`, started in the tree.

Looks for coverage data in the tree and in the given directories (the working directories of the test steps), combines
it without touching it, and writes to $FT_OUT (by default /ft/out):

  coverage.dat     the combined data
  coverage.json    `coverage json` of it
  coverage.mapped  with a REPOSITORY: the same data with paths below it, so that `coverage html` works there

Exit status 3: there is no data. 1: coverage.py can't report it. coverage.py 5 and later.
"""

import os
import shutil
import sqlite3
import sys
import tempfile

import coverage
from coverage.misc import CoverageException

OUT = os.environ.get("FT_OUT", os.environ.get("FT_ROOT", "/ft") + "/out")


def data_files(directories, configured):
    """Every data file in these directories, and those of the configured name."""
    names = {os.path.join(directory, ".coverage") for directory in directories}
    names.add(os.path.abspath(configured))
    found = set()
    for name in names:
        folder, base = os.path.split(name)
        if not os.path.isdir(folder):
            continue
        for entry in os.scandir(folder):
            # A file of the snapshot has a time made from its content, before 2019: it was not measured in this run.
            if entry.stat().st_mtime < 1546300800:
                continue
            if entry.is_file() and (entry.name == base or entry.name.startswith(base + ".")) and is_data(entry.path):
                found.add(os.path.realpath(entry.path))
    return sorted(found)


def is_data(path):
    """Whether it is a database: `.coverage.py` or `.coverage.toml` may lie there too."""
    with open(path, "rb") as file:
        return file.read(16) == b"SQLite format 3\0"


def map_paths(data, mapped, work, repository):
    """Copies the data and moves the paths below `work` to `repository`."""
    shutil.copyfile(data, mapped)
    database = sqlite3.connect(mapped)
    with database:
        database.execute(
            "update file set path = ? || substr(path, ?) where substr(path, 1, ?) = ?",
            (repository, len(work) + 1, len(work) + 1, work + "/"),
        )
    database.close()


def main(repository, directories):
    work = os.getcwd()
    target = os.path.join(OUT, "coverage.dat")
    cov = coverage.Coverage(data_file=target)
    # The configured name, which `data_file` above has replaced.
    configured = coverage.Coverage().get_option("run:data_file") or ".coverage"
    files = data_files([work] + [os.path.abspath(d) for d in directories], configured)
    if not files:
        print("ft_coverage: no test step left coverage data (.coverage, .coverage.* or %s)" % configured, file=sys.stderr)
        return 3
    # Combining deletes its sources, in versions before 5.5 always. Not a context manager: pathlib knows no more.
    with tempfile.TemporaryDirectory(prefix="ft-coverage-") as folder:
        copies = []
        for number, path in enumerate(files):
            copies.append(os.path.join(folder, ".coverage.%d" % number))
            shutil.copyfile(path, copies[-1])
        cov.combine(copies, strict=True)
    cov.save()
    temporary = os.path.join(OUT, "coverage.json.part")
    try:
        cov.json_report(outfile=temporary)
    except CoverageException as error:
        if "No data to report" not in str(error):
            raise
        print("ft_coverage: %s hold no measured file of this tree" % ", ".join(files), file=sys.stderr)
        return 3
    os.replace(temporary, os.path.join(OUT, "coverage.json"))
    cov.get_data().close()
    if repository:
        map_paths(target, os.path.join(OUT, "coverage.mapped"), work, repository.rstrip("/"))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else None, sys.argv[2:]))
    except CoverageException as error:
        sys.exit("ft_coverage: %s" % error)
