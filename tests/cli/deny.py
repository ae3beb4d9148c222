"""Runs a command where no namespaces can be made: the calls for it fail with EPERM, as on machines that forbid them."""
import ctypes
import os
import platform
import struct
import sys

NEW = 0x7E020000  # every CLONE_NEW* that unshare and clone share
clone, unshare, clone3 = {"x86_64": (56, 272, 435), "aarch64": (220, 97, 435)}[platform.machine()]
LD, JEQ, JSET, RET = 0x20, 0x15, 0x45, 0x06
ALLOW, EPERM, ENOSYS = 0x7FFF0000, 0x50001, 0x50026
program = [
    (LD, 0, 0, 0), (JEQ, 0, 1, clone3), (RET, 0, 0, ENOSYS), (JEQ, 1, 0, clone), (JEQ, 0, 3, unshare),
    (LD, 0, 0, 16), (JSET, 0, 1, NEW), (RET, 0, 0, EPERM), (RET, 0, 0, ALLOW),
]
code = b"".join(struct.pack("HBBI", *line) for line in program)
code = ctypes.create_string_buffer(code, len(code))
libc = ctypes.CDLL(None, use_errno=True)
filter = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(program), ctypes.addressof(code)))
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, filter, 0, 0):
    sys.exit("no filter: %s" % os.strerror(ctypes.get_errno()))
os.execv(sys.argv[1], sys.argv[1:])
