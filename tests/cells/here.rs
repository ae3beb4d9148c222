//! Cells without namespaces: what they refuse, and what a step may still do in them.

use super::harness::{Fixture, Ran};
use firsttry::cell::Here;
use firsttry::frame::{Attempt, Frame, Verdict};
use std::fs;
use std::os::unix::fs::PermissionsExt;

/// A cell to be that the step's user can get into, whoever started it.
fn here(script: &str) -> Fixture {
    opened(Fixture::python(&format!(
        "import socket, os, errno, threading
tcp = lambda f=socket.AF_INET: socket.socket(f, socket.SOCK_STREAM)
udp = lambda f=socket.AF_INET: socket.socket(f, socket.SOCK_DGRAM)
unix = lambda k=socket.SOCK_STREAM: socket.socket(socket.AF_UNIX, k)
def attempt(action):
    try: print('done', action())
    except socket.gaierror as e: print('no name', e.errno)
    except OSError as e: print(errno.errorcode[e.errno])
{script}"
    )))
}

fn opened(fixture: Fixture) -> Fixture {
    fs::set_permissions(fixture.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fixture
}

fn run(fixture: &Fixture) -> Ran {
    fixture.run_in(&Here::default())
}

fn told(ran: &Ran) -> Vec<String> {
    let of = |frame: &Frame| match frame {
        Frame::Attempt { attempt: Attempt { verdict: Verdict::Denied, call, protocol, address, port, name, .. } } => {
            Some(format!("{call} {protocol} {address}:{port} {name}"))
        }
        _ => None,
    };
    ran.frames.iter().filter_map(of).collect()
}

#[test]
fn a_command_runs_and_is_told_where_it_is() {
    let ran = run(&here("print(open('README').read(), os.getuid() != 0, os.environ['FT_ROOT'] + '/work' == os.getcwd())"));
    assert_eq!(ran.passed(), "original\n True True\n");
}

#[test]
fn every_way_out_is_refused_and_told() {
    let ran = run(&here(
        "attempt(lambda: tcp().connect(('192.0.2.1', 80)))
attempt(lambda: tcp(socket.AF_INET6).connect(('2001:db8::1', 81)))
attempt(lambda: tcp(socket.AF_INET6).connect(('::ffff:192.0.2.2', 82)))
attempt(lambda: udp().sendto(b'x', ('192.0.2.3', 83)))
attempt(lambda: udp().sendmsg([b'x'], [], 0, ('192.0.2.4', 84)))
attempt(lambda: tcp().sendto(b'x', socket.MSG_FASTOPEN, ('192.0.2.5', 85)))
attempt(lambda: udp().connect(('192.0.2.6', 86)))
attempt(lambda: socket.getaddrinfo('secret.attacker.example', 443))",
    ));
    let expected = ["ENETUNREACH"; 7].join("\n") + "\nno name -3\n";
    assert_eq!(ran.passed(), expected);
    assert_eq!(
        told(&ran),
        [
            "connect tcp 192.0.2.1:80 ",
            "connect tcp 2001:db8::1:81 ",
            "connect tcp 192.0.2.2:82 ",
            "sendto udp 192.0.2.3:83 ",
            "sendmsg udp 192.0.2.4:84 ",
            "sendto tcp 192.0.2.5:85 ",
            "lookup dns :0 secret.attacker.example",
        ]
    );
}
