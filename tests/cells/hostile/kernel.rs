//! Parts of the kernel that no check needs, and the numbers of calls.

use super::{CASE, Case, Control};
use std::collections::BTreeMap;

/// Numbers of calls by name, those that the attacks make.
pub fn numbers() -> BTreeMap<&'static str, i64> {
    macro_rules! numbers {
        ($($name:literal $number:ident)*) => { BTreeMap::from([$(($name, libc::$number),)*]) };
    }
    let mut all = numbers! {
        "connect" SYS_connect "sendto" SYS_sendto "sendmmsg" SYS_sendmmsg "socketpair" SYS_socketpair "seccomp" SYS_seccomp
        "ioctl" SYS_ioctl "clone" SYS_clone "clone3" SYS_clone3 "unshare" SYS_unshare "setns" SYS_setns "getppid" SYS_getppid
        "io_uring_setup" SYS_io_uring_setup "io_uring_enter" SYS_io_uring_enter "io_uring_register" SYS_io_uring_register
        "mount" SYS_mount "umount2" SYS_umount2 "pivot_root" SYS_pivot_root "chroot" SYS_chroot "open_tree" SYS_open_tree
        "move_mount" SYS_move_mount "mount_setattr" SYS_mount_setattr "fsopen" SYS_fsopen "fsconfig" SYS_fsconfig
        "fsmount" SYS_fsmount "fspick" SYS_fspick "name_to_handle_at" SYS_name_to_handle_at
        "open_by_handle_at" SYS_open_by_handle_at "fanotify_init" SYS_fanotify_init "bpf" SYS_bpf
        "perf_event_open" SYS_perf_event_open "userfaultfd" SYS_userfaultfd "keyctl" SYS_keyctl "add_key" SYS_add_key
        "request_key" SYS_request_key "kexec_load" SYS_kexec_load "init_module" SYS_init_module
        "finit_module" SYS_finit_module "delete_module" SYS_delete_module "reboot" SYS_reboot "swapon" SYS_swapon
        "swapoff" SYS_swapoff "acct" SYS_acct "quotactl" SYS_quotactl "syslog" SYS_syslog "vhangup" SYS_vhangup
         "sethostname" SYS_sethostname
        "setdomainname" SYS_setdomainname "ptrace" SYS_ptrace "process_vm_readv" SYS_process_vm_readv
        "process_vm_writev" SYS_process_vm_writev "process_madvise" SYS_process_madvise "pidfd_open" SYS_pidfd_open
        "pidfd_getfd" SYS_pidfd_getfd "pidfd_send_signal" SYS_pidfd_send_signal "kcmp" SYS_kcmp "prlimit64" SYS_prlimit64
        "sched_setaffinity" SYS_sched_setaffinity "sched_setscheduler" SYS_sched_setscheduler
        "setpriority" SYS_setpriority "ioprio_set" SYS_ioprio_set "move_pages" SYS_move_pages "personality" SYS_personality
        "setuid" SYS_setuid "setgid" SYS_setgid "setgroups" SYS_setgroups "setresuid" SYS_setresuid "setfsuid" SYS_setfsuid
        "capset" SYS_capset "memfd_create" SYS_memfd_create "shmget" SYS_shmget "msgget" SYS_msgget "semget" SYS_semget
        "mq_open" SYS_mq_open "prctl" SYS_prctl "kexec_file_load" SYS_kexec_file_load
    };
    // The same on every architecture; the C library's crate does not have them all.
    all.extend([
        ("quotactl_fd", 443),
        ("process_mrelease", 448),
        ("statmount", 457),
        ("listmount", 458),
        ("open_tree_attr", 467),
    ]);
    all
}

pub const CASES: &[Case] = &[
    Case {
        name: "bpf-perf-and-page-faults",
        attack: "
call('bpf', NR['bpf'], 0, ctypes.create_string_buffer(128), 128)
attributes = ctypes.create_string_buffer(struct.pack('=IIQ', 1, 112, 0), 112)
call('perf', NR['perf_event_open'], attributes, 0, -1, -1, 0)
call('userfaultfd', NR['userfaultfd'], 1)
call('userfaultfd-kernel', NR['userfaultfd'], 0)",
        walls: "bpf EPERM\nperf EPERM\nuserfaultfd EPERM\nuserfaultfd-kernel EPERM",
        control: Control::Root("bpf !EPERM\nperf !EPERM\nuserfaultfd !EPERM\nuserfaultfd-kernel !EPERM"),
        ..CASE
    },
    Case {
        name: "keyrings",
        attack: "
call('session', NR['keyctl'], 1, 0)
call('add', NR['add_key'], b'user', b'ft', b'x', 1, -3)
call('request', NR['request_key'], b'user', b'ft', 0, 0)
call('keyctl', NR['keyctl'], 0, -3, 1)",
        walls: "session EPERM\nadd EPERM\nrequest EPERM\nkeyctl EPERM",
        // In a session of its own: the caller's keyring stays as it is.
        control: Control::Rights("session ok\nadd ok\nrequest *\nkeyctl ok"),
        ..CASE
    },
    Case {
        name: "another-kernel",
        attack: "
call('kexec', NR['kexec_load'], 0, 1, 0, 0)
call('kexec-file', NR['kexec_file_load'], -1, -1, 0, 0, 0)
call('module', NR['init_module'], b'', 0, b'')
call('module-file', NR['finit_module'], -1, b'', 0)
call('remove-module', NR['delete_module'], b'ft-no-such-module', 0x800)
call('reboot', NR['reboot'], 0, 0, 0, 0)",
        walls: "kexec EPERM\nkexec-file EPERM\nmodule EPERM\nmodule-file EPERM\nremove-module EPERM\nreboot EPERM",
        // With arguments that make nothing happen: what counts is who says no.
        control: Control::Root("kexec !EPERM\nkexec-file !EPERM\nmodule !EPERM\nmodule-file !EPERM\nremove-module !EPERM\nreboot EINVAL"),
        ..CASE
    },
    Case {
        name: "the-machines-administration",
        attack: "
call('swapon', NR['swapon'], b'/no-such', 0)
call('swapoff', NR['swapoff'], b'/no-such')
call('accounting', NR['acct'], b'/no-such')
call('quota', NR['quotactl'], 0, 0, 0, 0)
call('quota-fd', NR['quotactl_fd'], -1, 0, 0, 0)
call('log', NR['syslog'], 10, 0, 0)
call('log-read', NR['syslog'], 3, ctypes.create_string_buffer(64), 64)
call('host-name', NR['sethostname'], b'x', 1)
call('domain-name', NR['setdomainname'], b'x', 1)",
        walls: "swapon EPERM\nswapoff EPERM\naccounting EPERM\nquota EPERM\nquota-fd EPERM\nlog EPERM\nlog-read EPERM\nhost-name EPERM\ndomain-name EPERM",
        control: Control::Root("swapon !EPERM\nswapoff !EPERM\naccounting !EPERM\nquota !EPERM\nquota-fd !EPERM\nlog ok\nlog-read ok\nhost-name ok\ndomain-name ok"),
        ..CASE
    },
    Case {
        name: "the-kernels-log-and-memory",
        attack: "
reads = False
for path in ['/proc/kcore', '/proc/kmsg', '/proc/keys', '/proc/timer_list', '/proc/slabinfo', '/proc/vmallocinfo', '/proc/kpageflags', '/proc/1/stack', '/sys/kernel/debug']:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        # Of file systems that are not mounted there is an empty directory.
        if os.listdir(fd) if stat.S_ISDIR(os.fstat(fd).st_mode) else path == '/proc/kmsg' or os.read(fd, 16): reads = True
    except OSError: pass
symbols = any(int(line.split()[0], 16) for line in open('/proc/kallsyms')) if os.path.exists('/proc/kallsyms') else False
print('reads', reads)
print('addresses', symbols)",
        walls: "reads False\naddresses False",
        here: "reads False\naddresses *",
        control: Control::Root("reads True\naddresses *"),
        ..CASE
    },
    Case {
        name: "typing-into-a-terminal",
        attack: "
ours, theirs = os.openpty()
import fcntl
def type():
    os.setsid()
    fcntl.ioctl(theirs, 0x540e, 0)
    call('type', NR['ioctl'], theirs, 0x5412, b'x')
    call('type-high-bits', NR['ioctl'], theirs, 0x5412 | 1 << 32, b'x')
    call('console', NR['ioctl'], theirs, 0x541c, b'\\2')
    call('discipline', NR['ioctl'], theirs, 0x5423, ctypes.create_string_buffer(struct.pack('=i', 15), 4))
child(type)
attempt('the-callers', lambda: os.open('/dev/tty0', os.O_WRONLY))",
        walls: "type EPERM\ntype-high-bits EPERM\nconsole EPERM\ndiscipline EPERM\nthe-callers ENOENT|EACCES",
        control: Control::Root("type ok\ntype-high-bits ok\nconsole !EPERM\ndiscipline !EPERM\nthe-callers *"),
        ..CASE
    },
    Case {
        name: "becoming-somebody-else",
        attack: "
for name, number in [('uid', 'setuid'), ('gid', 'setgid')]: call(name, NR[number], 0)
call('groups', NR['setgroups'], 1, struct.pack('=I', 0))
call('saved', NR['setresuid'], -1, 0, -1)
print('file-system', raw(NR['setfsuid'], 0) == 0, raw(NR['setfsuid'], 0) == 0)
header, data = struct.pack('=Ii', 0x20080522, 0), struct.pack('=IIIIII', *[0xffffffff] * 6)
call('capabilities', NR['capset'], header, data)
call('ambient', NR['prctl'], 47, 2, 21, 0, 0)
call('keep', NR['prctl'], 8, 1, 0, 0, 0)
print('is-root', os.geteuid() == 0)",
        walls: "uid EPERM|EINVAL\ngid EPERM|EINVAL\ngroups EPERM\nsaved EPERM|EINVAL\nfile-system False False\ncapabilities EPERM\nambient EPERM\nkeep *\nis-root False",
        control: Control::Root("uid ok\ngid ok\ngroups ok\nsaved ok\nfile-system True True\ncapabilities *\nambient *\nkeep *\nis-root True"),
        ..CASE
    },
];
