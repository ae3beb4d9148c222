"""Runs bandit with the user's arguments, and once more for ft with its own report.

Used only where the arguments choose an output that ft can't read. The exit status is that of the first run. The second
writes $FT_OUT/bandit.json (by default /ft/out/bandit.json) without filters of severity and confidence.
"""

import os
import subprocess
import sys

OUT = os.path.join(os.environ.get("FT_OUT", os.environ.get("FT_ROOT", "/ft") + "/out"), "bandit.json")

# bandit's options as of 1.6 to 1.9. True: takes a value.
SHORT = {
    "r": False, "a": True, "n": True, "c": True, "p": True, "t": True, "s": True, "l": False, "i": False, "f": True,
    "o": True, "v": False, "d": False, "q": False, "x": True, "b": True, "h": False,
}
LONG = {
    "recursive": False, "aggregate": True, "number": True, "configfile": True, "profile": True, "tests": True,
    "skip": True, "level": False, "severity-level": True, "confidence": False, "confidence-level": True, "format": True,
    "msg-template": True, "output": True, "verbose": False, "debug": False, "quiet": False, "silent": False,
    "ignore-nosec": False, "exclude": True, "baseline": True, "ini": True, "exit-zero": False, "help": False,
    "version": False,
}
DROPPED = {
    "l", "i", "f", "o", "level", "severity-level", "confidence", "confidence-level", "format", "msg-template", "output",
}


def long_name(word):
    """The option that argparse takes this for: the exact one, or the only one that starts so."""
    if word in LONG:
        return word
    matches = [name for name in LONG if name.startswith(word)]
    return matches[0] if len(matches) == 1 else None


def without_output_options(args):
    """The arguments without format, output and filters of severity and confidence."""
    kept = []
    rest = list(args)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return kept + [word] + rest
        if word.startswith("--"):
            name, equals, _ = word[2:].partition("=")
            name = long_name(name)
            value = [rest.pop(0)] if name and LONG[name] and not equals and rest else []
            if name not in DROPPED:
                kept += [word] + value
        elif word.startswith("-") and len(word) > 1:
            kept += short_options(word, rest)
        else:
            kept.append(word)
    return kept


def short_options(word, rest):
    """One word of short options, perhaps several in one: `-rll`, `-fjson`, `-rf json`."""
    flags = "-"
    for at, letter in enumerate(word[1:], 1):
        if SHORT.get(letter):
            value = [word[at + 1:]] if word[at + 1:] else [rest.pop(0)] if rest else []
            kept = [flags] if flags != "-" else []
            return kept if letter in DROPPED else kept + ["-" + letter] + value
        if letter not in DROPPED:
            flags += letter
    return [flags] if flags != "-" else []


def main(args):
    bandit = [sys.executable, "-m", "bandit"]
    status = subprocess.call(bandit + args)
    ours = subprocess.run(
        bandit + ["-f", "json", "-o", OUT] + without_output_options(args),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if ours.returncode not in (0, 1):
        sys.stderr.write("ft_bandit: the run for ft's own report exited with %d:\n" % ours.returncode)
        sys.stderr.flush()
        sys.stderr.buffer.write(ours.stdout[-4096:])
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
