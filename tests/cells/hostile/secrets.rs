//! What the caller has and a step is not to know.

use super::{CASE, Case, Control};

pub const CASES: &[Case] = &[
    Case {
        name: "the-callers-environment",
        attack: "
print('own', any(CANARY in value for value in os.environ.values()))
# VICTIM: a process of the caller's with a secret in its environment.
found = False
for pid in filter(str.isdigit, os.listdir('/proc')):
    try: found |= CANARY.encode() in read(f'/proc/{pid}/environ')
    except OSError: pass
print('others', found)",
        walls: "own False\nothers False",
        control: Control::Plain("own True\nothers True"),
        ..CASE
    },
    Case {
        name: "variables-that-change-what-runs",
        attack: "
names = ['LD_PRELOAD', 'LD_LIBRARY_PATH', 'PYTHONPATH', 'PYTHONHOME', 'PYTHONSTARTUP', 'NODE_OPTIONS', 'GIT_DIR', 'GIT_CONFIG_GLOBAL', 'SSH_AUTH_SOCK',
    'PIP_INDEX_URL', 'NETRC', 'HTTP_PROXY', 'https_proxy', 'AWS_SECRET_ACCESS_KEY', 'GITHUB_TOKEN', 'DOCKER_HOST', 'KUBECONFIG', 'CARGO']
print('inherited', any(name in os.environ for name in names))",
        walls: "inherited False",
        control: Control::Plain("inherited True"),
        ..CASE
    },
    Case {
        name: "files-with-secrets",
        attack: "
for name in ['.netrc', '.ssh/id_ed25519', '.aws/credentials', '.docker/config.json']:
    attempt(name, lambda: read(USERS_HOME + '/' + name))
attempt('by-descriptor', lambda: os.open('secret', os.O_RDONLY, dir_fd=os.open(OUTSIDE, os.O_PATH)))
attempt('through-proc', lambda: read('/proc/self/root' + SECRET))
attempt('through-the-first', lambda: read('/proc/1/root' + SECRET))",
        walls: ".netrc ENOENT|EACCES\n.ssh/id_ed25519 ENOENT|EACCES\n.aws/credentials ENOENT|EACCES\n.docker/config.json ENOENT|EACCES\nby-descriptor ENOENT|EACCES\nthrough-proc ENOENT|EACCES\nthrough-the-first EACCES|ENOENT",
        control: Control::Plain(".netrc ok\n.ssh/id_ed25519 ok\n.aws/credentials ok\n.docker/config.json ok\nby-descriptor ok\nthrough-proc ok\nthrough-the-first *"),
        ..CASE
    },
    Case {
        name: "the-machines-accounts",
        attack: "
import pwd
attempt('shadow', lambda: read('/etc/shadow'))
attempt('sudoers', lambda: read('/etc/sudoers'))
attempt('machine-id', lambda: read('/etc/machine-id'))
attempt('keys', lambda: os.listdir('/etc/ssh'))
print('names', sorted(p.pw_name for p in pwd.getpwall()) == ['ft', 'nobody', 'root'])
def filled(place):
    try: return os.listdir(place) != []
    except OSError: return False
print('homes', not any(map(filled, ['/root', '/home'])))",
        walls: "shadow ENOENT|EACCES\nsudoers ENOENT|EACCES\nmachine-id ENOENT|EACCES\nkeys ENOENT|EACCES\nnames True\nhomes True",
        here: "shadow ENOENT|EACCES\nsudoers ENOENT|EACCES\nmachine-id ENOENT|EACCES\nkeys ENOENT|EACCES\nnames *\nhomes True",
        control: Control::Root("shadow ok\nsudoers *\nmachine-id *\nkeys *\nnames False\nhomes False"),
        ..CASE
    },
    Case {
        name: "who-else-is-there",
        attack: "
attempt('victim', lambda: os.stat(f'/proc/{VICTIM}'))
print('seen', any(CANARY in read(f'/proc/{pid}/cmdline').decode(errors='replace') for pid in filter(str.isdigit, os.listdir('/proc')) if int(pid) != os.getpid()))
print('many', sum(map(str.isdigit, os.listdir('/proc'))) > 4)
print('load', os.getloadavg() is None)",
        walls: "victim ENOENT\nseen False\nmany False\nload False",
        // Processes can be seen by name; what is in them can't be had.
        here: "victim *\nseen *\nmany *\nload False",
        control: Control::Machine("victim ok\nseen True\nmany True\nload False"),
        ..CASE
    },
    Case {
        name: "whom-the-machine-talks-to",
        attack: "
ports = {int(line.split()[1].split(':')[1], 16) for name in ['tcp', 'tcp6'] for line in list(open('/proc/net/' + name))[1:]}
print('listener', PORT in ports)
print('interfaces', [name for _, name in socket.if_nameindex()] == ['lo'])
print('name', socket.gethostname() == 'ft')
print('neighbours', len(list(open('/proc/net/route'))) <= 1)",
        walls: "listener False\ninterfaces True\nname True\nneighbours True",
        here: "listener *\ninterfaces *\nname *\nneighbours *",
        control: Control::Plain("listener True\ninterfaces *\nname *\nneighbours *"),
        ..CASE
    },
    Case {
        name: "shared-memory-and-queues-of-the-host",
        attack: "
call('shm', NR['shmget'], IPC, 4096, 0)
call('queue', NR['msgget'], IPC, 0)
call('semaphore', NR['semget'], IPC, 1, 0)
attempt('posix-shm', lambda: os.open(f'/dev/shm/ft-{IPC}', os.O_RDWR))
call('posix-queue', NR['mq_open'], b'ft-%d' % IPC, 2, 0, 0)
print('listed', str(IPC) in open('/proc/sysvipc/shm').read())",
        walls: "shm ENOENT\nqueue ENOENT\nsemaphore ENOENT\nposix-shm ENOENT\nposix-queue ENOENT\nlisted False",
        // Not the machine's own namespace, and no calls for it. What everybody may open in the machine's `/dev/shm` the
        // step may open too.
        here: "shm ENOSYS\nqueue ENOSYS\nsemaphore ENOSYS\nposix-shm ok\nposix-queue ENOSYS\nlisted *",
        control: Control::Plain("shm ok\nqueue ok\nsemaphore ok\nposix-shm ok\nposix-queue ok\nlisted True"),
        ..CASE
    },
    Case {
        name: "what-another-step-left",
        attack: "
print('left', [name for place in ['/tmp', '/var/tmp', '/dev/shm'] for name in os.listdir(place) if name.startswith('ft-outside')] != [])
print('scratch', OUTSIDE.split('/')[1] if os.path.exists(OUTSIDE) else 'none')",
        walls: "left False\nscratch none",
        here: "left *\nscratch *",
        control: Control::Plain("left *\nscratch *"),
        ..CASE
    },
];
