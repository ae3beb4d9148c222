"""What an interpreter says about itself, as one JSON object. Runs under -I -S, on Python 3.7 and later."""

import json
import os
import platform
import sys
import sysconfig


def libc():
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or "".join(platform.libc_ver())
    except (AttributeError, OSError, ValueError):
        return "".join(platform.libc_ver())


def full_version(info):
    text = "%d.%d.%d" % (info.major, info.minor, info.micro)
    return text if info.releaselevel == "final" else text + info.releaselevel[0] + str(info.serial)


def main():
    root = {"base": "", "platbase": "", "installed_base": "", "installed_platbase": ""}
    print(json.dumps({
        "prefix": sys.base_prefix,
        "version": platform.python_version(),
        "cache_tag": sys.implementation.cache_tag or "",
        "abi": sysconfig.get_config_var("SOABI") or "",
        "free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
        "platform": sysconfig.get_platform(),
        "libc": libc(),
        "stdlib": sysconfig.get_path("stdlib"),
        "host_purelib": sysconfig.get_path("purelib"),
        "purelib": sysconfig.get_path("purelib", "posix_prefix", root).lstrip("/"),
        "platlib": sysconfig.get_path("platlib", "posix_prefix", root).lstrip("/"),
        "markers": {
            "implementation_name": sys.implementation.name,
            "implementation_version": full_version(sys.implementation.version),
            "os_name": os.name,
            "platform_machine": platform.machine(),
            "platform_python_implementation": platform.python_implementation(),
            "platform_release": platform.release(),
            "platform_system": platform.system(),
            "platform_version": platform.version(),
            "python_full_version": platform.python_version(),
            "python_version": ".".join(platform.python_version_tuple()[:2]),
            "sys_platform": sys.platform,
        },
    }))


main()
