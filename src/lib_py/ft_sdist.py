"""Downloads the source archive of one pinned package with pip's own session and index reader.

    ft_sdist.py PIP OUT NAME VERSION HASH...

`pip download` would run the archive's build backend to learn its metadata. This asks pip for the links alone, so that
indexes, proxies, certificates and credentials are the user's, and executes nothing of the archive. PIP is a directory
or archive to import pip from, or empty.
"""

import hashlib
import os
import sys


def main(pip, out, name, version, *hashes):
    if pip:
        sys.path.insert(0, pip)
    from pip._internal.commands import create_command
    from pip._internal.utils.temp_dir import global_tempdir_manager

    command = create_command("download")
    options, _ = command.parse_args(["--no-deps", "--no-binary", name, "--no-input", name])
    with command.main_context(), global_tempdir_manager():
        session = command.get_default_session(options)
        finder = command._build_package_finder(options=options, session=session)
        candidates = [item for item in finder.find_all_candidates(name) if not item.link.is_wheel]
        seen = []
        for candidate in candidates:
            if str(candidate.version) != version:
                continue
            answer = session.get(candidate.link.url.split("#")[0], headers={"Accept-Encoding": "identity"})
            answer.raise_for_status()
            digest = "sha256:" + hashlib.sha256(answer.content).hexdigest()
            if digest in hashes:
                with open(os.path.join(out, candidate.link.filename), "wb") as file:
                    file.write(answer.content)
                return 0
            seen.append("%s has %s" % (candidate.link.filename, digest))
    if seen:
        print("THESE PACKAGES DO NOT MATCH THE HASHES\n%s==%s\n%s" % (name, version, "\n".join(seen)))
    else:
        print("ERROR: No matching distribution found for %s==%s" % (name, version))
    return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
