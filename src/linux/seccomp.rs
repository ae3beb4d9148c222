//! The system calls that a step may not make, as one table, and the filter program made of it.
//!
//! A second layer: namespaces and the loss of all capabilities already refuse most of this. What the filter adds is
//! that a hole in the kernel behind these calls can't be reached, and that no new user namespace brings capabilities
//! back. The witness, which asks about calls instead of refusing them, installs a filter of its own on top of this one
//! (an `ERRNO` here wins over its question, so nothing that it watches may stand in this table).

use super::{CallError, Named, check};
use std::io;

/// What a refused call gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// Not permitted.
    Permission,
    /// No such call: makes C libraries take their older way.
    Unknown,
    /// No such socket family: what a kernel without it says.
    Family,
}

impl Answer {
    fn errno(self) -> u32 {
        (match self {
            Answer::Permission => libc::EPERM,
            Answer::Unknown => libc::ENOSYS,
            Answer::Family => libc::EAFNOSUPPORT,
        })
        .cast_unsigned()
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

use Answer::{Family, Permission, Unknown};
use When::{Always, AnyBit, Is, IsButNot, NoneOf};

/// The table. Call, condition, answer.
const TABLE: &[(libc::c_long, When, Answer)] = &[
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
    (libc::SYS_fsopen, Always, Permission),
    (libc::SYS_fsconfig, Always, Permission),
    (libc::SYS_fsmount, Always, Permission),
    (libc::SYS_fspick, Always, Permission),
    (libc::SYS_open_by_handle_at, Always, Permission),
    // Into other processes: PID 1 shares its kernel uid with the step.
    (libc::SYS_ptrace, Always, Permission),
    (libc::SYS_process_vm_readv, Always, Permission),
    (libc::SYS_process_vm_writev, Always, Permission),
    (libc::SYS_pidfd_getfd, Always, Permission),
    (libc::SYS_kcmp, Always, Permission),
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
    (libc::SYS_init_module, Always, Permission),
    (libc::SYS_finit_module, Always, Permission),
    (libc::SYS_delete_module, Always, Permission),
    (libc::SYS_reboot, Always, Permission),
    (libc::SYS_swapon, Always, Permission),
    (libc::SYS_swapoff, Always, Permission),
    (libc::SYS_acct, Always, Permission),
    (libc::SYS_quotactl, Always, Permission),
    // Typing into a terminal that somebody else reads.
    (libc::SYS_ioctl, Is(1, libc::TIOCSTI as u32), Permission),
    (libc::SYS_ioctl, Is(1, libc::TIOCLINUX as u32), Permission),
    // vsock reaches the hypervisor from any network namespace, packet and alg sockets are attack surface.
    (libc::SYS_socket, NoneOf(0, FAMILIES), Family),
    (
        libc::SYS_socket,
        IsButNot((0, libc::AF_NETLINK.cast_unsigned()), (2, libc::NETLINK_ROUTE.cast_unsigned())),
        Family,
    ),
];

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
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

const fn op(code: u16, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

/// The filter program of the table: every row jumps over itself where it does not apply.
fn program() -> Vec<libc::sock_filter> {
    let mut all = vec![
        op(LOAD, ARCH, 0, 0),
        op(EQUAL, ARCHITECTURE, 1, 0),
        op(RETURN, libc::SECCOMP_RET_KILL_PROCESS, 0, 0),
        op(LOAD, NUMBER, 0, 0),
    ];
    #[cfg(target_arch = "x86_64")]
    all.extend([op(AT_LEAST, X32_BIT, 0, 1), op(RETURN, libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned(), 0, 0)]);
    for (call, when, answer) in TABLE {
        let refuse = op(RETURN, libc::SECCOMP_RET_ERRNO | answer.errno(), 0, 0);
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
    let mut filter = program();
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(io::Error::other).named(|| "seccomp filter length".to_owned())?,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the program and its instructions outlive the call; the kernel copies and verifies them.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    check(result as libc::c_int).named(|| "install the seccomp filter".to_owned())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALLOWED: u32 = libc::SECCOMP_RET_ALLOW;
    const fn errno(n: i32) -> u32 {
        libc::SECCOMP_RET_ERRNO | n.cast_unsigned()
    }

    /// Runs the program as the kernel does.
    fn run(arch: u32, call: u32, arguments: [u64; 6]) -> u32 {
        let mut data = Vec::new();
        data.extend(call.to_le_bytes());
        data.extend(arch.to_le_bytes());
        data.extend(0u64.to_le_bytes());
        arguments.iter().for_each(|a| data.extend(a.to_le_bytes()));
        let (program, mut at, mut loaded) = (program(), 0, 0u32);
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
            assert_eq!(native(*call, &[1, 2, 3, 4, 5, 6]), libc::SECCOMP_RET_ERRNO | answer.errno(), "{call} {when:?}");
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

    proptest! {
        #[test]
        fn only_four_socket_families_exist(family: u32, kind: u32, protocol: u32) {
            let family = family % 64;
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
