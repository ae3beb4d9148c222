//! The system calls that a step may not make, as one table, and the filter program made of it.
//!
//! A second layer: namespaces and the loss of all capabilities already refuse most of this. What the filter adds is
//! that a hole in the kernel behind these calls can't be reached, and that no new user namespace brings capabilities
//! back. The witness, which asks about calls instead of refusing them, has a table and a filter of its own on top of
//! this one (an `ERRNO` here wins over its question, so nothing that it watches may stand in the first table).

use super::{CallError, Named, check};
use std::io;
use std::os::fd::RawFd;

/// What a call gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// Not permitted.
    Permission,
    /// No such call: makes C libraries take their older way.
    Unknown,
    /// No such socket family: what a kernel without it says.
    Family,
    /// No such protocol: what a kernel without it says.
    Protocol,
    /// The witness is asked, seccomp_unotify(2).
    Ask,
    /// Success, without doing anything.
    Pretend,
}

impl Answer {
    /// What the filter returns for it.
    fn action(self) -> u32 {
        let errno = |n: i32| libc::SECCOMP_RET_ERRNO | n.cast_unsigned();
        match self {
            Answer::Permission => errno(libc::EPERM),
            Answer::Unknown => errno(libc::ENOSYS),
            Answer::Family => errno(libc::EAFNOSUPPORT),
            Answer::Protocol => errno(libc::EPROTONOSUPPORT),
            Answer::Ask => libc::SECCOMP_RET_USER_NOTIF,
            Answer::Pretend => errno(0),
        }
    }
}

/// When a row of the table applies. Arguments are compared in their low 32 bits, as the kernel reads these ones: with a
/// 64-bit compare, set high bits walk past (CVE-2019-10063).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// Whatever the arguments are.
    Always,
    /// The argument has one of these bits.
    AnyBit(u8, u32),
    /// The argument is this value.
    Is(u8, u32),
    /// The argument is none of these values.
    NoneOf(u8, &'static [u32]),
    /// The first argument is the one value and the second is not the other.
    IsButNot((u8, u32), (u8, u32)),
    /// Two arguments have these values.
    Both((u8, u32), (u8, u32)),
    /// The argument is not zero, in all its 64 bits: a pointer.
    NotZero(u8),
    /// The argument has this value under this mask.
    Masked(u8, u32, u32),
}

/// Every flag that asks for a new namespace.
const NEW_NAMESPACE: u32 = (libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP)
    .cast_unsigned();

/// `CLONE_NEWTIME` shares its bit with clone's exit signal, so it is refused to unshare only.
const NEW_TIME: u32 = 0x80;

const FAMILIES: &[u32] = &[
    libc::AF_UNIX.cast_unsigned(),
    libc::AF_INET.cast_unsigned(),
    libc::AF_INET6.cast_unsigned(),
    libc::AF_NETLINK.cast_unsigned(),
];

/// `SOCK_DCCP` of the kernel's `enum sock_type`, and the bits of a socket's type that are not flags.
const DCCP: (u32, u32) = (6, 0xf);

/// Calls that the C library's crate does not know yet; one number on every architecture (Linux 6.15, 6.8 and 5.14).
const OPEN_TREE_ATTR: libc::c_long = 467;
const LISTMOUNT: libc::c_long = 458;
const STATMOUNT: libc::c_long = 457;
const QUOTACTL_FD: libc::c_long = 443;
const MEMFD_SECRET: libc::c_long = 447;
/// The same, of Linux 6.6, 6.13 and 6.17.
const FCHMODAT2: libc::c_long = 452;
const SETXATTRAT: libc::c_long = 463;
const REMOVEXATTRAT: libc::c_long = 466;
const FILE_SETATTR: libc::c_long = 469;

use Answer::{Ask, Family, Permission, Pretend, Protocol, Unknown};
use When::{Always, AnyBit, Both, Is, IsButNot, Masked, NoneOf, NotZero};

/// Call, condition, answer.
type Row = (libc::c_long, When, Answer);

/// What no process of a cell may do, the agent included.
const TABLE: &[Row] = &[
    // Its connect and its files pass every filter (measured: connect(2) refused, IORING_OP_CONNECT went through).
    (libc::SYS_io_uring_setup, Always, Unknown),
    (libc::SYS_io_uring_enter, Always, Unknown),
    (libc::SYS_io_uring_register, Always, Unknown),
    // Its arguments lie in memory, where no filter sees them; glibc falls back to clone on ENOSYS.
    (libc::SYS_clone3, Always, Unknown),
    (libc::SYS_clone, AnyBit(0, NEW_NAMESPACE), Permission),
    (libc::SYS_unshare, AnyBit(0, NEW_NAMESPACE | NEW_TIME), Permission),
    (libc::SYS_setns, Always, Permission),
    (libc::SYS_mount, Always, Permission),
    (libc::SYS_umount2, Always, Permission),
    (libc::SYS_pivot_root, Always, Permission),
    (libc::SYS_open_tree, Always, Permission),
    (libc::SYS_move_mount, Always, Permission),
    (libc::SYS_mount_setattr, Always, Permission),
    (OPEN_TREE_ATTR, Always, Permission),
    (libc::SYS_chroot, Always, Permission),
    // They show paths of the host, as mountinfo does; ENOSYS makes libmount read that.
    (LISTMOUNT, Always, Unknown),
    (STATMOUNT, Always, Unknown),
    (libc::SYS_fsopen, Always, Permission),
    (libc::SYS_fsconfig, Always, Permission),
    (libc::SYS_fsmount, Always, Permission),
    (libc::SYS_fspick, Always, Permission),
    (libc::SYS_open_by_handle_at, Always, Permission),
    // Into other processes: PID 1 shares its kernel uid with the step.
    (libc::SYS_ptrace, Always, Permission),
    (libc::SYS_process_vm_readv, Always, Permission),
    (libc::SYS_process_vm_writev, Always, Permission),
    (libc::SYS_kcmp, Always, Permission),
    // Memory that the kernel reads and nobody else: an address in it would be connected to, and no watcher could say where.
    (MEMFD_SECRET, Always, Unknown),
    // prlimit(2) asks for equal uids only, not for the right to trace: the limits of PID 1 stay.
    (libc::SYS_prlimit64, Is(0, 1), Permission),
    (libc::SYS_sched_setaffinity, Is(0, 1), Permission),
    (libc::SYS_sched_setscheduler, Is(0, 1), Permission),
    (libc::SYS_sched_setparam, Is(0, 1), Permission),
    (libc::SYS_sched_setattr, Is(0, 1), Permission),
    // Nor its priority: neither by its own number (`who` 1) nor by group or user.
    (libc::SYS_setpriority, Is(1, 1), Permission),
    (libc::SYS_setpriority, Is(0, 1), Permission),
    (libc::SYS_setpriority, Is(0, 2), Permission),
    (libc::SYS_ioprio_set, Is(1, 1), Permission),
    (libc::SYS_ioprio_set, Is(0, 2), Permission),
    (libc::SYS_ioprio_set, Is(0, 3), Permission),
    // Large parts of the kernel that no check needs.
    (libc::SYS_bpf, Always, Permission),
    (libc::SYS_perf_event_open, Always, Permission),
    (libc::SYS_userfaultfd, Always, Permission),
    (libc::SYS_keyctl, Always, Permission),
    (libc::SYS_add_key, Always, Permission),
    (libc::SYS_request_key, Always, Permission),
    (libc::SYS_kexec_load, Always, Permission),
    (libc::SYS_kexec_file_load, Always, Permission),
    (libc::SYS_init_module, Always, Permission),
    (libc::SYS_finit_module, Always, Permission),
    (libc::SYS_delete_module, Always, Permission),
    (libc::SYS_reboot, Always, Permission),
    (libc::SYS_swapon, Always, Permission),
    (libc::SYS_swapoff, Always, Permission),
    (libc::SYS_acct, Always, Permission),
    (libc::SYS_quotactl, Always, Permission),
    (QUOTACTL_FD, Always, Permission),
    // Since Linux 5.13 for everybody; nothing that a check does needs more than inotify.
    (libc::SYS_fanotify_init, Always, Permission),
    // The machine's log, which anybody may read where `kernel.dmesg_restrict` is 0.
    (libc::SYS_syslog, Always, Permission),
    // Typing into a terminal that somebody else reads.
    (libc::SYS_ioctl, Is(1, libc::TIOCSTI as u32), Permission),
    (libc::SYS_ioctl, Is(1, libc::TIOCLINUX as u32), Permission),
    // A line discipline is kernel code that a terminal's owner picks, and loads where `dev.tty.ldisc_autoload` is 1.
    (libc::SYS_ioctl, Is(1, libc::TIOCSETD as u32), Permission),
    // vsock reaches the hypervisor from any network namespace, packet and alg sockets are attack surface.
    (libc::SYS_socket, NoneOf(0, FAMILIES), Family),
    (
        libc::SYS_socket,
        IsButNot((0, libc::AF_NETLINK.cast_unsigned()), (2, libc::NETLINK_ROUTE.cast_unsigned())),
        Family,
    ),
    (libc::SYS_socketpair, NoneOf(0, &[libc::AF_UNIX.cast_unsigned()]), Family),
    // Of the internet's protocols TCP, UDP and ICMP: the others are attack surface that a socket alone loads into the
    // kernel, and neither the witness nor a relay reads their addresses.
    (libc::SYS_socket, Is(2, libc::IPPROTO_SCTP.cast_unsigned()), Protocol),
    (libc::SYS_socket, Is(2, libc::IPPROTO_UDPLITE.cast_unsigned()), Protocol),
    (libc::SYS_socket, Is(2, libc::IPPROTO_MPTCP.cast_unsigned()), Protocol),
    (libc::SYS_socket, Masked(1, DCCP.1, DCCP.0), Protocol),
];

/// What the witness watches, and what would get around it: for the step alone, since the agent is the one who answers.
const WATCH: &[Row] = &[
    (libc::SYS_connect, Always, Ask),
    // Without an address it is send(2) on a socket that was connected before.
    (libc::SYS_sendto, NotZero(4), Ask),
    (libc::SYS_sendmsg, Always, Ask),
    (libc::SYS_sendmmsg, Always, Ask),
    // A listener of its own would be asked instead of ours once ours is gone.
    (libc::SYS_seccomp, AnyBit(1, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER as u32), Permission),
    // The calls on a listener, should its descriptor ever get out.
    (libc::SYS_ioctl, Masked(1, 0xff00, (b'!' as u32) << 8), Permission),
    // Whose memory is hidden can't be asked where it wants to connect to. Programs that keep keys do this.
    (libc::SYS_prctl, Both((0, libc::PR_SET_DUMPABLE as u32), (1, 0)), Pretend),
    // Descriptors of other processes; the agent looks at sockets with it.
    (libc::SYS_pidfd_getfd, Always, Permission),
];

/// What the broker of a cell without namespaces decides, beside [`WATCH`]: sockets come from it, and processes outside
/// of the cell are in reach of their own user.
const BROKER: &[Row] = &[
    // It makes the sockets, so that it can perform what is asked of them.
    (libc::SYS_socket, Is(0, libc::AF_UNIX as u32), Ask),
    (libc::SYS_socket, Is(0, libc::AF_INET as u32), Ask),
    (libc::SYS_socket, Is(0, libc::AF_INET6 as u32), Ask),
    (libc::SYS_socketpair, Masked(1, 0xf, libc::SOCK_DGRAM as u32), Ask),
    // By path: of a file that this user may write anyway, unless Landlock knows the call.
    (libc::SYS_truncate, Always, Ask),
    (libc::SYS_bind, Always, Ask),
    // Of a relayed connection the kernel knows our door.
    (libc::SYS_getpeername, Always, Ask),
    (libc::SYS_listen, Always, Ask),
    // To processes of the cell alone. Process ids stand in registers, which nobody rewrites.
    (libc::SYS_kill, Always, Ask),
    (libc::SYS_tkill, Always, Ask),
    (libc::SYS_tgkill, Always, Ask),
    (libc::SYS_rt_sigqueueinfo, Always, Ask),
    (libc::SYS_rt_tgsigqueueinfo, Always, Ask),
    (libc::SYS_pidfd_open, Always, Ask),
    // It takes the descriptor of any /proc/PID as well. Without it, C libraries and Python signal by number.
    (libc::SYS_pidfd_send_signal, Always, Unknown),
    (libc::SYS_prlimit64, NotZero(0), Ask),
    (libc::SYS_sched_setaffinity, NotZero(0), Ask),
    (libc::SYS_sched_setscheduler, NotZero(0), Ask),
    (libc::SYS_sched_setparam, NotZero(0), Ask),
    (libc::SYS_sched_setattr, NotZero(0), Ask),
    (libc::SYS_setpriority, Is(0, libc::PRIO_USER), Permission),
    (libc::SYS_setpriority, NotZero(1), Ask),
    (libc::SYS_ioprio_set, Is(0, 3), Permission),
    (libc::SYS_ioprio_set, NotZero(1), Ask),
    (libc::SYS_move_pages, NotZero(0), Permission),
    (libc::SYS_migrate_pages, NotZero(0), Permission),
    (libc::SYS_process_madvise, Always, Permission),
    // A file that becomes ready signals its owner, which can be any process of the user: fcntl(2).
    (libc::SYS_fcntl, Is(1, libc::F_SETOWN as u32), Ask),
    (libc::SYS_fcntl, Is(1, 15), Permission),     // F_SETOWN_EX
    (libc::SYS_ioctl, Is(1, 0x8901), Permission), // FIOSETOWN
    (libc::SYS_ioctl, Is(1, 0x8902), Permission), // SIOCSPGRP
    // Two processes with one descriptor table and no thread between them: nobody needs it, and whoever decides about a
    // descriptor of one must not look after the other.
    (libc::SYS_clone, Masked(0, (libc::CLONE_FILES | libc::CLONE_THREAD) as u32, libc::CLONE_FILES as u32), Permission),
    // Of the files of this user all over the machine: Landlock does not know these calls.
    (libc::SYS_fchmod, Always, Ask),
    (libc::SYS_fchmodat, Always, Ask),
    (FCHMODAT2, Always, Ask),
    (libc::SYS_fchown, Always, Ask),
    (libc::SYS_fchownat, Always, Ask),
    (libc::SYS_utimensat, Always, Ask),
    (libc::SYS_setxattr, Always, Ask),
    (libc::SYS_lsetxattr, Always, Ask),
    (libc::SYS_fsetxattr, Always, Ask),
    (libc::SYS_removexattr, Always, Ask),
    (libc::SYS_lremovexattr, Always, Ask),
    (libc::SYS_fremovexattr, Always, Ask),
    // Too new for anybody to depend on.
    (SETXATTRAT, Always, Unknown),
    (REMOVEXATTRAT, Always, Unknown),
    (FILE_SETATTR, Always, Unknown),
    // A file's owner sets its flags, version, policy and seal through a descriptor that only reads, linux/fs.h.
    (libc::SYS_ioctl, Is(1, 0x4008_6602), Permission), // FS_IOC_SETFLAGS
    (libc::SYS_ioctl, Is(1, 0x4004_6602), Permission), // FS_IOC32_SETFLAGS
    (libc::SYS_ioctl, Is(1, 0x4008_7602), Permission), // FS_IOC_SETVERSION
    (libc::SYS_ioctl, Is(1, 0x401c_5820), Permission), // FS_IOC_FSSETXATTR
    (libc::SYS_ioctl, Is(1, 0x800c_6613), Permission), // FS_IOC_SET_ENCRYPTION_POLICY
    (libc::SYS_ioctl, Is(1, 0x4080_6685), Permission), // FS_IOC_ENABLE_VERITY
    // Without an IPC namespace these reach the machine's.
    (libc::SYS_shmget, Always, Unknown),
    (libc::SYS_shmat, Always, Unknown),
    (libc::SYS_shmctl, Always, Unknown),
    (libc::SYS_msgget, Always, Unknown),
    (libc::SYS_msgsnd, Always, Unknown),
    (libc::SYS_msgrcv, Always, Unknown),
    (libc::SYS_msgctl, Always, Unknown),
    (libc::SYS_semget, Always, Unknown),
    (libc::SYS_semop, Always, Unknown),
    (libc::SYS_semtimedop, Always, Unknown),
    (libc::SYS_semctl, Always, Unknown),
    (libc::SYS_mq_open, Always, Unknown),
    (libc::SYS_mq_unlink, Always, Unknown),
];

/// What [`BROKER`] has too where the architecture kept the older calls.
#[cfg(target_arch = "x86_64")]
const BROKER_OLD: &[Row] = &[
    (libc::SYS_chmod, Always, Ask),
    (libc::SYS_chown, Always, Ask),
    (libc::SYS_lchown, Always, Ask),
    (libc::SYS_utime, Always, Ask),
    (libc::SYS_utimes, Always, Ask),
    (libc::SYS_futimesat, Always, Ask),
];
#[cfg(not(target_arch = "x86_64"))]
const BROKER_OLD: &[Row] = &[];

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e; // AUDIT_ARCH_X86_64
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7; // AUDIT_ARCH_AARCH64
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("the seccomp filter knows x86_64 and aarch64; add the AUDIT_ARCH value of this architecture");

/// x32 calls carry this bit and would pass every comparison below.
#[cfg(target_arch = "x86_64")]
const X32_BIT: u32 = 0x4000_0000;

/// Offsets in `struct seccomp_data`; both architectures are little-endian, so the low half of an argument comes first.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const fn argument(index: u8) -> u32 {
    16 + 8 * index as u32
}

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const BITS: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
#[cfg(target_arch = "x86_64")]
const AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

const fn op(code: u16, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

/// The filter program of a table: every row jumps over itself where it does not apply.
fn program(table: &[Row]) -> Vec<libc::sock_filter> {
    let mut all = vec![
        op(LOAD, ARCH, 0, 0),
        op(EQUAL, ARCHITECTURE, 1, 0),
        op(RETURN, libc::SECCOMP_RET_KILL_PROCESS, 0, 0),
        op(LOAD, NUMBER, 0, 0),
    ];
    #[cfg(target_arch = "x86_64")]
    all.extend([op(AT_LEAST, X32_BIT, 0, 1), op(RETURN, libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned(), 0, 0)]);
    for (call, when, answer) in table {
        let refuse = op(RETURN, answer.action(), 0, 0);
        let mut row = match *when {
            Always => vec![refuse],
            AnyBit(index, bits) => vec![op(LOAD, argument(index), 0, 0), op(BITS, bits, 0, 1), refuse],
            Is(index, value) => vec![op(LOAD, argument(index), 0, 0), op(EQUAL, value, 0, 1), refuse],
            NoneOf(index, values) => {
                let mut row = vec![op(LOAD, argument(index), 0, 0)];
                let n = values.len() as u8;
                row.extend(values.iter().zip(0..).map(|(value, i)| op(EQUAL, *value, n - i, 0)));
                row.push(refuse);
                row
            }
            IsButNot((first, is), (second, not)) => vec![
                op(LOAD, argument(first), 0, 0),
                op(EQUAL, is, 0, 3),
                op(LOAD, argument(second), 0, 0),
                op(EQUAL, not, 1, 0),
                refuse,
            ],
            Both((first, is), (second, also)) => vec![
                op(LOAD, argument(first), 0, 0),
                op(EQUAL, is, 0, 3),
                op(LOAD, argument(second), 0, 0),
                op(EQUAL, also, 0, 1),
                refuse,
            ],
            NotZero(index) => vec![
                op(LOAD, argument(index), 0, 0),
                op(EQUAL, 0, 0, 2),
                op(LOAD, argument(index) + 4, 0, 0),
                op(EQUAL, 0, 1, 0),
                refuse,
            ],
            Masked(index, mask, value) => {
                vec![op(LOAD, argument(index), 0, 0), op(AND, mask, 0, 0), op(EQUAL, value, 0, 1), refuse]
            }
        };
        if *when != Always {
            row.push(op(LOAD, NUMBER, 0, 0));
        }
        all.push(op(EQUAL, *call as u32, 0, row.len() as u8));
        all.extend(row);
    }
    all.push(op(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0));
    all
}

/// Puts the filter over this process and all its children, for good. `no_new_privs` must be set.
///
/// # Errors
/// EINVAL on a kernel without seccomp filters, EACCES without `no_new_privs`.
pub fn install() -> Result<(), CallError> {
    set(TABLE, 0).named(|| "install the seccomp filter".to_owned())?;
    Ok(())
}

/// Puts the witness's filter over this process and all its children, for good, and gives the number of its listener,
/// which stands close-on-exec in this process's descriptor table. `no_new_privs` must be set. Between this and exec
/// nothing may be called that is watched: nobody answers yet. With `broker` the calls that a cell without namespaces
/// decides about are watched too.
///
/// # Errors
/// EBUSY inside another program that watches, EACCES without `no_new_privs`, EINVAL before Linux 5.0.
pub fn watch(broker: bool) -> Result<RawFd, CallError> {
    let listener = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    let table = if broker { [WATCH, BROKER, BROKER_OLD].concat() } else { WATCH.to_vec() };
    // Without it (before Linux 5.19) a signal interrupts a call that was answered already, and it is made again.
    set(&table, listener | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)
        .or_else(|e| if e.raw_os_error() == Some(libc::EINVAL) { set(&table, listener) } else { Err(e) })
        .named(|| "install the witness's seccomp filter".to_owned())
}

fn set(table: &[Row], flags: libc::c_ulong) -> io::Result<libc::c_int> {
    let mut filter = program(table);
    let program =
        libc::sock_fprog { len: u16::try_from(filter.len()).map_err(io::Error::other)?, filter: filter.as_mut_ptr() };
    // SAFETY: the program and its instructions outlive the call; the kernel copies and verifies them.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    check(result as libc::c_int)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALLOWED: u32 = libc::SECCOMP_RET_ALLOW;
    const fn errno(n: i32) -> u32 {
        libc::SECCOMP_RET_ERRNO | n.cast_unsigned()
    }

    /// Runs the first table's program.
    fn run(arch: u32, call: u32, arguments: [u64; 6]) -> u32 {
        interpret(&program(TABLE), arch, call, arguments)
    }

    /// Runs a program as the kernel does.
    fn interpret(program: &[libc::sock_filter], arch: u32, call: u32, arguments: [u64; 6]) -> u32 {
        let mut data = Vec::new();
        data.extend(call.to_le_bytes());
        data.extend(arch.to_le_bytes());
        data.extend(0u64.to_le_bytes());
        arguments.iter().for_each(|a| data.extend(a.to_le_bytes()));
        let (mut at, mut loaded) = (0, 0u32);
        loop {
            let i = program[at];
            at += 1;
            let jump = |yes: bool| usize::from(if yes { i.jt } else { i.jf });
            match i.code {
                LOAD => loaded = u32::from_le_bytes(data[i.k as usize..][..4].try_into().unwrap()),
                EQUAL => at += jump(loaded == i.k),
                BITS => at += jump(loaded & i.k != 0),
                #[cfg(target_arch = "x86_64")]
                AT_LEAST => at += jump(loaded >= i.k),
                AND => loaded &= i.k,
                RETURN => return i.k,
                other => panic!("unknown instruction {other}"),
            }
        }
    }

    fn native(call: libc::c_long, arguments: &[u64]) -> u32 {
        let mut all = [0; 6];
        all[..arguments.len()].copy_from_slice(arguments);
        run(ARCHITECTURE, call as u32, all)
    }

    #[test]
    fn ordinary_calls_pass() {
        for call in [libc::SYS_read, libc::SYS_openat, libc::SYS_connect, libc::SYS_execve, libc::SYS_exit_group] {
            assert_eq!(native(call, &[]), ALLOWED);
        }
        assert_eq!(native(libc::SYS_clone, &[libc::SIGCHLD as u64]), ALLOWED);
        assert_eq!(
            native(libc::SYS_clone, &[(libc::CLONE_VM | libc::CLONE_FILES | libc::CLONE_THREAD) as u64]),
            ALLOWED
        );
        assert_eq!(native(libc::SYS_unshare, &[libc::CLONE_FILES as u64]), ALLOWED);
        assert_eq!(native(libc::SYS_prlimit64, &[0, 7]), ALLOWED);
        assert_eq!(native(libc::SYS_ioctl, &[0, libc::TCGETS]), ALLOWED);
    }

    #[test]
    fn every_row_without_a_condition_refuses_whatever_the_arguments() {
        for (call, when, answer) in TABLE.iter().filter(|row| row.1 == Always) {
            assert_eq!(native(*call, &[1, 2, 3, 4, 5, 6]), answer.action(), "{call} {when:?}");
        }
    }

    #[test]
    fn another_architecture_is_ended_and_x32_does_not_exist() {
        assert_eq!(run(0x4000_0003, 0, [0; 6]), libc::SECCOMP_RET_KILL_PROCESS);
        #[cfg(target_arch = "x86_64")]
        assert_eq!(native(libc::SYS_mount | i64::from(X32_BIT), &[]), errno(libc::ENOSYS));
    }

    #[test]
    fn a_new_namespace_is_refused_in_every_combination_and_with_high_bits() {
        for flag in [libc::CLONE_NEWUSER, libc::CLONE_NEWNS, libc::CLONE_NEWNET, libc::CLONE_NEWPID] {
            for extra in [0, libc::SIGCHLD as u64, 1 << 40] {
                assert_eq!(native(libc::SYS_clone, &[flag as u64 | extra]), errno(libc::EPERM));
                assert_eq!(native(libc::SYS_unshare, &[flag as u64 | extra]), errno(libc::EPERM));
            }
        }
    }

    #[test]
    fn terminals_are_not_typed_into_even_with_high_bits() {
        assert_eq!(native(libc::SYS_ioctl, &[0, libc::TIOCSTI]), errno(libc::EPERM));
        assert_eq!(native(libc::SYS_ioctl, &[0, libc::TIOCSTI | 1 << 32]), errno(libc::EPERM));
    }

    #[test]
    fn unusual_protocols_and_pairs_of_other_families_do_not_exist() {
        let inet = libc::AF_INET as u64;
        for protocol in [libc::IPPROTO_SCTP, libc::IPPROTO_UDPLITE, libc::IPPROTO_MPTCP] {
            for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC] {
                let arguments = [inet, kind as u64, protocol as u64 | 1 << 40];
                assert_eq!(native(libc::SYS_socket, &arguments), errno(libc::EPROTONOSUPPORT), "{kind} {protocol}");
            }
        }
        assert_eq!(native(libc::SYS_socket, &[inet, 6, 0]), errno(libc::EPROTONOSUPPORT));
        assert_eq!(native(libc::SYS_socket, &[inet, 6 | libc::SOCK_NONBLOCK as u64, 33]), errno(libc::EPROTONOSUPPORT));
        for (kind, protocol) in [(libc::SOCK_STREAM, libc::IPPROTO_TCP), (libc::SOCK_DGRAM, libc::IPPROTO_UDP)] {
            assert_eq!(native(libc::SYS_socket, &[inet, kind as u64, protocol as u64]), ALLOWED);
        }
        assert_eq!(native(libc::SYS_socketpair, &[libc::AF_UNIX as u64 | 1 << 32, 1, 0]), ALLOWED);
        for family in [libc::AF_INET, libc::AF_VSOCK, libc::AF_TIPC, libc::AF_NETLINK] {
            assert_eq!(native(libc::SYS_socketpair, &[family as u64, 1, 0]), errno(libc::EAFNOSUPPORT), "{family}");
        }
    }

    fn watched(call: libc::c_long, arguments: &[u64]) -> u32 {
        let mut all = [0; 6];
        all[..arguments.len()].copy_from_slice(arguments);
        interpret(&program(WATCH), ARCHITECTURE, call as u32, all)
    }

    #[test]
    fn the_witness_is_asked_about_every_call_that_can_carry_an_address() {
        const ASK: u32 = libc::SECCOMP_RET_USER_NOTIF;
        for call in [libc::SYS_connect, libc::SYS_sendmsg, libc::SYS_sendmmsg] {
            assert_eq!(watched(call, &[3, 0, 0]), ASK);
        }
        assert_eq!(watched(libc::SYS_sendto, &[3, 1, 1, 0, 0, 0]), ALLOWED);
        for address in [1u64, 1 << 31, 1 << 32, u64::MAX] {
            assert_eq!(watched(libc::SYS_sendto, &[3, 1, 1, 0, address, 16]), ASK, "{address:x}");
        }
        for call in [libc::SYS_read, libc::SYS_write, libc::SYS_sendfile, libc::SYS_recvmsg, libc::SYS_socket] {
            assert_eq!(watched(call, &[1, 2, 3, 4, 5, 6]), ALLOWED);
        }
    }

    #[test]
    fn nobody_but_the_agent_answers_for_a_watched_process() {
        let listener = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
        assert_eq!(watched(libc::SYS_seccomp, &[1, listener]), errno(libc::EPERM));
        assert_eq!(watched(libc::SYS_seccomp, &[1, listener | 1 << 40 | 1]), errno(libc::EPERM));
        assert_eq!(watched(libc::SYS_seccomp, &[1, 0]), ALLOWED);
        for request in [libc::SECCOMP_IOCTL_NOTIF_RECV, libc::SECCOMP_IOCTL_NOTIF_SEND, libc::SECCOMP_IOCTL_NOTIF_ADDFD]
        {
            assert_eq!(watched(libc::SYS_ioctl, &[3, request]), errno(libc::EPERM));
            assert_eq!(watched(libc::SYS_ioctl, &[3, request | 1 << 50]), errno(libc::EPERM));
        }
        assert_eq!(watched(libc::SYS_ioctl, &[0, libc::TCGETS]), ALLOWED);
        assert_eq!(watched(libc::SYS_pidfd_getfd, &[]), errno(libc::EPERM));
    }

    #[test]
    fn no_watched_call_stands_in_the_first_table_where_its_refusal_would_win() {
        for (call, ..) in WATCH.iter().filter(|row| row.2 == Ask) {
            assert!(TABLE.iter().all(|row| row.0 != *call), "{call}");
        }
    }

    fn brokered(call: libc::c_long, arguments: &[u64]) -> u32 {
        let mut all = [0; 6];
        all[..arguments.len()].copy_from_slice(arguments);
        interpret(&program(&[WATCH, BROKER, BROKER_OLD].concat()), ARCHITECTURE, call as u32, all)
    }

    const ASK: u32 = libc::SECCOMP_RET_USER_NOTIF;

    #[test]
    fn the_broker_is_asked_about_every_call_that_changes_a_file_by_path_or_number() {
        let new = [
            libc::SYS_fchmod,
            libc::SYS_fchmodat,
            452,
            libc::SYS_fchown,
            libc::SYS_fchownat,
            libc::SYS_utimensat,
            libc::SYS_setxattr,
            libc::SYS_lsetxattr,
            libc::SYS_fsetxattr,
            libc::SYS_removexattr,
            libc::SYS_lremovexattr,
            libc::SYS_fremovexattr,
            libc::SYS_truncate,
        ];
        // chmod, chown, lchown, utime, utimes, futimesat.
        let old = if cfg!(target_arch = "x86_64") { &[90, 92, 94, 132, 235, 261][..] } else { &[] };
        for call in new.iter().chain(old) {
            for argument in [0, 1, u64::MAX] {
                assert_eq!(brokered(*call, &[argument; 6]), ASK, "{call}");
            }
        }
        for call in [463, 466, 469] {
            assert_eq!(brokered(call, &[1, 2]), errno(libc::ENOSYS), "{call}");
        }
        for call in [libc::SYS_getxattr, libc::SYS_fstat, libc::SYS_umask, libc::SYS_ftruncate, libc::SYS_openat] {
            assert_eq!(brokered(call, &[1, 2, 3, 4, 5, 6]), ALLOWED, "{call}");
        }
    }

    #[test]
    fn flags_of_files_are_not_set_through_a_descriptor_even_with_high_bits() {
        for request in [0x4008_6602, 0x4004_6602, 0x4008_7602, 0x401c_5820, 0x800c_6613, 0x4080_6685, 0x8901, 0x8902] {
            for high in [0, 1 << 32, 1 << 63] {
                assert_eq!(brokered(libc::SYS_ioctl, &[3, request | high]), errno(libc::EPERM), "{request:x}");
            }
        }
        // FS_IOC_GETFLAGS and FICLONE, which needs a descriptor that writes.
        for request in [0x8008_6601, 0x4004_9409] {
            assert_eq!(brokered(libc::SYS_ioctl, &[3, request]), ALLOWED, "{request:x}");
        }
    }

    #[test]
    fn interprocess_objects_of_the_machine_do_not_exist() {
        let calls = [
            libc::SYS_shmget,
            libc::SYS_shmat,
            libc::SYS_shmctl,
            libc::SYS_msgget,
            libc::SYS_msgsnd,
            libc::SYS_msgrcv,
            libc::SYS_msgctl,
            libc::SYS_semget,
            libc::SYS_semop,
            libc::SYS_semtimedop,
            libc::SYS_semctl,
            libc::SYS_mq_open,
            libc::SYS_mq_unlink,
        ];
        for call in calls {
            assert_eq!(brokered(call, &[1, 2, 3, 4, 5, 6]), errno(libc::ENOSYS), "{call}");
            assert_eq!(watched(call, &[]), ALLOWED, "an IPC namespace is the step's own: {call}");
        }
    }

    #[test]
    fn the_broker_makes_the_sockets_and_pairs_of_streams_are_nobodys_business() {
        for family in [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6] {
            assert_eq!(brokered(libc::SYS_socket, &[family as u64 | 1 << 40, 1, 0]), ASK);
        }
        for kind in [libc::SOCK_DGRAM, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK] {
            assert_eq!(brokered(libc::SYS_socketpair, &[1, kind as u64 | 1 << 33, 0]), ASK);
        }
        assert_eq!(brokered(libc::SYS_socketpair, &[1, (libc::SOCK_STREAM | libc::SOCK_CLOEXEC) as u64, 0]), ALLOWED);
        for call in [libc::SYS_bind, libc::SYS_listen] {
            assert_eq!(brokered(call, &[3, 0, 0]), ASK);
        }
    }

    #[test]
    fn the_broker_is_asked_about_other_processes_and_not_about_the_caller() {
        let always = [
            libc::SYS_kill,
            libc::SYS_tkill,
            libc::SYS_tgkill,
            libc::SYS_rt_sigqueueinfo,
            libc::SYS_rt_tgsigqueueinfo,
            libc::SYS_pidfd_open,
        ];
        for call in always {
            assert_eq!(brokered(call, &[0, 0]), ASK, "{call}");
        }
        assert_eq!(brokered(libc::SYS_pidfd_send_signal, &[0, 0]), errno(libc::ENOSYS));
        let by_first = [
            libc::SYS_prlimit64,
            libc::SYS_sched_setaffinity,
            libc::SYS_sched_setscheduler,
            libc::SYS_sched_setparam,
            libc::SYS_sched_setattr,
        ];
        for call in by_first {
            assert_eq!(brokered(call, &[0, 1]), ALLOWED, "{call}");
            for other in [1, 77, 1 << 31, u64::MAX] {
                assert_eq!(brokered(call, &[other, 1]), ASK, "{call} {other}");
            }
        }
        for (call, user) in [(libc::SYS_setpriority, 2), (libc::SYS_ioprio_set, 3)] {
            assert_eq!(brokered(call, &[user, 0]), errno(libc::EPERM));
            assert_eq!(brokered(call, &[user | 1 << 32, 7]), errno(libc::EPERM));
            assert_eq!(brokered(call, &[0, 7]), ASK);
            assert_eq!(brokered(call, &[1, 0]), ALLOWED);
        }
        for call in [libc::SYS_move_pages, libc::SYS_migrate_pages] {
            assert_eq!(brokered(call, &[0]), ALLOWED);
            assert_eq!(brokered(call, &[77]), errno(libc::EPERM));
        }
        assert_eq!(brokered(libc::SYS_process_madvise, &[]), errno(libc::EPERM));
        assert_eq!(brokered(libc::SYS_fcntl, &[3, libc::F_SETOWN as u64 | 1 << 32, 1]), ASK);
        assert_eq!(brokered(libc::SYS_fcntl, &[3, 15, 1]), errno(libc::EPERM));
        assert_eq!(brokered(libc::SYS_fcntl, &[3, libc::F_SETFL as u64, 1]), ALLOWED);
    }

    #[test]
    fn a_descriptor_table_is_shared_by_threads_alone() {
        let (files, thread) = (libc::CLONE_FILES as u64, libc::CLONE_THREAD as u64);
        assert_eq!(brokered(libc::SYS_clone, &[files | libc::CLONE_VM as u64]), errno(libc::EPERM));
        assert_eq!(brokered(libc::SYS_clone, &[files | thread]), ALLOWED);
        assert_eq!(brokered(libc::SYS_clone, &[libc::SIGCHLD as u64]), ALLOWED);
    }

    /// What the table says, read row by row: the first that applies.
    fn meant(table: &[Row], call: u32, arguments: [u64; 6]) -> u32 {
        if cfg!(target_arch = "x86_64") && call >= 0x4000_0000 {
            return errno(libc::ENOSYS);
        }
        let low = |index: u8| arguments[usize::from(index)] as u32;
        let applies = |when: &When| match *when {
            Always => true,
            AnyBit(index, bits) => low(index) & bits != 0,
            Is(index, value) => low(index) == value,
            NoneOf(index, values) => !values.contains(&low(index)),
            IsButNot((first, is), (second, not)) => low(first) == is && low(second) != not,
            Both((first, is), (second, also)) => low(first) == is && low(second) == also,
            NotZero(index) => arguments[usize::from(index)] != 0,
            Masked(index, mask, value) => low(index) & mask == value,
        };
        let row = table.iter().find(|(number, when, _)| *number as u32 == call && applies(when));
        row.map_or(ALLOWED, |row| row.2.action())
    }

    /// Values that the rows compare with, and what is next to them, with and without high bits.
    fn argument_near_a_row() -> impl Strategy<Value = u64> {
        let mut values = vec![0u64, 1, 2, 6, 7, 16, 0x80, 132, 136, 262, u64::MAX];
        values.extend([libc::TIOCSTI, libc::TIOCLINUX, libc::TIOCSETD, libc::SECCOMP_IOCTL_NOTIF_RECV]);
        values.extend([NEW_NAMESPACE, libc::CLONE_NEWUSER.cast_unsigned(), 0x100].map(u64::from));
        (
            prop::sample::select(values),
            -1i64..2,
            prop_oneof![Just(0u64), any::<u32>().prop_map(|high| u64::from(high) << 32)],
        )
            .prop_map(|(value, near, high)| value.wrapping_add_signed(near) & 0xffff_ffff | high)
    }

    proptest! {
        #[test]
        fn the_program_does_what_the_table_says(
            which in 0..3,
            row in any::<prop::sample::Index>(),
            near in -1i64..2,
            arguments in prop::array::uniform6(prop_oneof![argument_near_a_row(), any::<u64>()]),
        ) {
            let here = [WATCH, BROKER, BROKER_OLD].concat();
            let table = [TABLE, WATCH, &here][which as usize];
            let call = (table[row.index(table.len())].0 + near) as u32;
            let given = interpret(&program(table), ARCHITECTURE, call, arguments);
            prop_assert_eq!(given, meant(table, call, arguments), "call {} {:?}", call, arguments);
        }

        #[test]
        fn only_four_socket_families_exist(family: u32, kind: u32, protocol: u32) {
            let family = family % 64;
            // Types and protocols that do not exist have a test of their own.
            prop_assume!(kind & 0xf != 6 && ![132, 136, 262].contains(&protocol));
            let expected = match i32::try_from(family).unwrap() {
                libc::AF_UNIX | libc::AF_INET | libc::AF_INET6 => ALLOWED,
                libc::AF_NETLINK if protocol == 0 => ALLOWED,
                _ => errno(libc::EAFNOSUPPORT),
            };
            let arguments = [u64::from(family) | 7 << 32, kind.into(), protocol.into()];
            prop_assert_eq!(native(libc::SYS_socket, &arguments), expected);
        }

        #[test]
        fn every_call_gets_an_answer(call: u32, arguments: [u64; 6]) {
            run(ARCHITECTURE, call, arguments);
        }
    }
}
