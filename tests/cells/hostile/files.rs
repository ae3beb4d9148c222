//! Writing, renaming and linking where a step may not, and changing what is mounted.

use super::{CASE, Case, Control};

pub const CASES: &[Case] = &[
    Case {
        name: "writing-a-file-of-the-users",
        attack: "
os.symlink(PRECIOUS, 'link')
attempt('path', lambda: write(PRECIOUS))
attempt('dots', lambda: write(os.getcwd() + '/..' * 20 + PRECIOUS))
attempt('link', lambda: write('link'))
attempt('proc-self-root', lambda: write('/proc/self/root' + PRECIOUS))
attempt('proc-self-cwd', lambda: write('/proc/self/cwd' + '/..' * 20 + PRECIOUS))
root = os.open('/', os.O_PATH)
attempt('descriptor', lambda: write(f'/proc/self/fd/{root}' + PRECIOUS))
attempt('proc-1-cwd', lambda: write('/proc/1/cwd' + '/..' * 20 + PRECIOUS))",
        walls: "path ENOENT|EACCES\ndots ENOENT|EACCES\nlink ENOENT|EACCES\nproc-self-root ENOENT|EACCES\nproc-self-cwd ENOENT|EACCES\ndescriptor ENOENT|EACCES\nproc-1-cwd ENOENT|EACCES",
        control: Control::Plain("path ok\ndots ok\nlink ok\nproc-self-root ok\nproc-self-cwd ok\ndescriptor ok\nproc-1-cwd *"),
        harm: Some(|w, _| w.broken()),
        ..CASE
    },
    Case {
        name: "writing-what-is-handed-in-to-be-read",
        attack: "
there = GIVEN + '/precious'
attempt('write', lambda: write(there))
attempt('append', lambda: open(there, 'a').write('x'))
attempt('truncate', lambda: os.truncate(there, 0))
attempt('mode', lambda: os.chmod(there, 0o777))
attempt('times', lambda: os.utime(there, (0, 0)))
attempt('attribute', lambda: os.setxattr(there, 'user.x', b'x'))
fd = os.open(there, os.O_RDONLY)
attempt('reopened', lambda: write(f'/proc/self/fd/{fd}'))
attempt('mapped', lambda: mmap.mmap(os.open(there, os.O_RDWR), 6).write(b'attack'))",
        walls: "write EROFS|EACCES\nappend EROFS|EACCES\ntruncate EROFS|EACCES\nmode EROFS|EACCES|EPERM\ntimes EROFS|EACCES|EPERM\nattribute EROFS|EACCES|EPERM\nreopened EROFS|EACCES\nmapped EROFS|EACCES",
        control: Control::Plain("write ok\nappend ok\ntruncate ok\nmode ok\ntimes ok\nattribute *\nreopened ok\nmapped *"),
        harm: Some(|w, _| w.broken()),
        ..CASE
    },
    Case {
        name: "renaming-linking-and-removing-what-is-handed-in",
        attack: "
there = GIVEN + '/precious'
attempt('hard-link', lambda: os.link(there, 'mine'))
attempt('link-at', lambda: os.link(f'/proc/self/fd/{os.open(there, os.O_RDONLY)}', 'mine', follow_symlinks=True))
attempt('create', lambda: os.close(os.open(GIVEN + '/new', os.O_CREAT | os.O_WRONLY)))
attempt('tmpfile', lambda: os.open(GIVEN, os.O_TMPFILE | os.O_RDWR))
attempt('exchange', lambda: os.rename(GIVEN + '/sub', GIVEN + '/gone'))
attempt('replace-directory', lambda: os.rename(GIVEN, GIVEN + '-old'))
attempt('remove', lambda: os.unlink(there))",
        walls: "hard-link EXDEV|EROFS|EACCES|EPERM\nlink-at EXDEV|EROFS|EACCES|EPERM\ncreate EROFS|EACCES\ntmpfile EROFS|EACCES\nexchange EROFS|EACCES\nreplace-directory EROFS|EBUSY|EACCES\nremove EROFS|EACCES",
        // Its place in the cell is a link here, and the step's own where an ordinary user started it: what it leads to stays.
        here: "hard-link EXDEV|EROFS|EACCES|EPERM\nlink-at EXDEV|EROFS|EACCES|EPERM\ncreate EROFS|EACCES\ntmpfile EROFS|EACCES\nexchange EROFS|EACCES\nreplace-directory ok|EACCES\nremove EACCES|ENOENT",
        control: Control::Plain("hard-link ok\nlink-at *\ncreate ok\ntmpfile *\nexchange ok\nreplace-directory ok\nremove ENOENT"),
        harm: Some(|w, _| w.broken()),
        ..CASE
    },
    Case {
        name: "writing-where-the-system-is",
        attack: "
for place in ['/', '/usr', '/usr/bin', '/usr/local', '/etc', '/dev', '/proc', '/sys', '/run', '/var/lib', '/ft', '/lib', '/bin', '/root', '/home']:
    # Without namespaces the cell's own root is nobody else's.
    if place == os.environ.get('FT_ROOT'): continue
    try: os.close(os.open(place + '/ft-attack', os.O_CREAT | os.O_WRONLY))
    except OSError: continue
    print('wrote', place)
    os.unlink(place + '/ft-attack')
attempt('outside', lambda: os.close(os.open(OUTSIDE + '/new', os.O_CREAT | os.O_WRONLY)))
attempt('outside', lambda: write(PRECIOUS))",
        walls: "outside ENOENT|EACCES\noutside ENOENT|EACCES",
        // As an ordinary user no control gets further than to the caller's own files.
        control: Control::Root("wrote /\nwrote /usr\nwrote /usr/bin\nwrote /usr/local\nwrote /etc\nwrote /dev\nwrote /run\nwrote /var/lib\nwrote /lib\nwrote /bin\nwrote /root\nwrote /home\noutside ok\noutside ok"),
        harm: Some(|w, _| w.broken()),
        ..CASE
    },
    Case {
        name: "changing-what-every-cell-is-given",
        // In containers the agent and `/etc` stand in volumes that other steps and runs have as well, and engines write
        // some files of `/etc` themselves. Opened and left as they are: the control's are the machine's.
        attack: "
import glob
opened, there = [], 0
for path in ['/etc/hosts', '/etc/hostname', '/etc/resolv.conf', '/etc/passwd', '/etc/nsswitch.conf', '/etc/mtab', *glob.glob('/ft/lib/*'), *glob.glob('/ft/lib/.*')]:
    there += os.path.exists(path)
    try: os.close(os.open(path, os.O_WRONLY)); opened.append(path)
    except OSError: pass
for path in ['/ft/lib', '/ft/goods', '/ft/env', '/ft/project']:
    for action in [lambda: os.mkdir(path + '/ft-attack'), lambda: os.rename(path, path + '-old'), lambda: os.chmod(path, 0o777)]:
        try: action(); opened.append(path)
        except OSError: pass
print('there', there > 0, os.path.exists('/ft/lib/ft-agent'))
print('opened', opened != [])",
        walls: "there True False\nopened False",
        engine: "there True True\nopened False",
        control: Control::Root("there True False\nopened True"),
        ..CASE
    },
    Case {
        name: "planting-what-the-next-command-runs",
        attack: "
for place in ['.git/hooks/pre-commit', 'sitecustomize.py', 'conftest.py', 'evil.pth']:
    os.makedirs(os.path.dirname(place) or '.', exist_ok=True)
    attempt(place, lambda: os.close(os.open(place, os.O_CREAT | os.O_WRONLY, 0o755)))
attempt('environment', lambda: os.close(os.open(GIVEN + '/evil.pth', os.O_CREAT | os.O_WRONLY)))
import sysconfig
attempt('library', lambda: os.close(os.open(sysconfig.get_path('stdlib') + '/sitecustomize.py', os.O_WRONLY)))",
        // In its own view of the tree it may; that view is dropped.
        walls: ".git/hooks/pre-commit ok\nsitecustomize.py ok\nconftest.py ok\nevil.pth ok\nenvironment EROFS|EACCES\nlibrary EROFS|EACCES|ENOENT",
        control: Control::Plain(".git/hooks/pre-commit ok\nsitecustomize.py ok\nconftest.py ok\nevil.pth ok\nenvironment ok\nlibrary *"),
        harm: Some(|w, _| w.planted()),
        ..CASE
    },
    Case {
        name: "mounting-and-unmounting",
        attack: "
call('tmpfs', NR['mount'], b'x', b'/tmp', b'tmpfs', 0, 0)
call('bind', NR['mount'], b'/', b'/tmp', 0, 0x5000, 0)
call('writable', NR['mount'], 0, GIVEN.encode(), 0, 0x1020, 0)
call('detach', NR['umount2'], b'/tmp', 2)
call('no-follow', NR['umount2'], b'/tmp', 8)
call('pivot', NR['pivot_root'], b'.', b'.')
call('propagation', NR['mount'], 0, b'/', 0, 0x44000, 0)
call('chroot', NR['chroot'], b'/tmp')",
        walls: "tmpfs EPERM\nbind EPERM\nwritable EPERM\ndetach EPERM\nno-follow EPERM\npivot EPERM\npropagation EPERM\nchroot EPERM",
        control: Control::Rights("tmpfs ok\nbind ok\nwritable *\ndetach ok\nno-follow ok\npivot !EPERM\npropagation ok\nchroot ok"),
        ..CASE
    },
    Case {
        name: "the-newer-mount-calls",
        attack: "
fd = call('open-tree', NR['open_tree'], -100, b'/', 0x8001)
call('open-tree-attr', NR['open_tree_attr'], -100, b'/', 0x8001, ctypes.create_string_buffer(32), 32)
call('move-mount', NR['move_mount'], fd, b'', -100, b'/tmp', 4)
call('setattr', NR['mount_setattr'], -100, b'/', 0, ctypes.create_string_buffer(32), 32)
fs = call('fsopen', NR['fsopen'], b'tmpfs', 0)
call('fsconfig', NR['fsconfig'], fs, 6, 0, 0, 0)
call('fsmount', NR['fsmount'], fs, 0, 0)
call('fspick', NR['fspick'], -100, b'/', 0)
request = ctypes.create_string_buffer(struct.pack('=IIQQQ', 24, 0, 0xffffffffffffffff, 0, 0))
call('listmount', NR['listmount'], request, ctypes.create_string_buffer(4096), 8, 0)
call('statmount', NR['statmount'], request, ctypes.create_string_buffer(4096), 4096, 0)",
        walls: "open-tree EPERM\nopen-tree-attr EPERM\nmove-mount EPERM\nsetattr EPERM\nfsopen EPERM\nfsconfig EPERM\nfsmount EPERM\nfspick EPERM\nlistmount ENOSYS\nstatmount ENOSYS",
        // Some of these are younger than many a kernel.
        control: Control::Rights("open-tree ok\nopen-tree-attr !EPERM\nmove-mount !EPERM\nsetattr ok\nfsopen ok\nfsconfig !EPERM\nfsmount !EPERM\nfspick !EPERM\nlistmount *\nstatmount *"),
        ..CASE
    },
    Case {
        name: "new-namespaces-in-every-way",
        attack: "
def made(label, *a):
    result = raw(*a)
    if result == 0: os._exit(0)
    print(label, said(ctypes.get_errno()) if result == -1 else 'ok', flush=True)
for name, flags in [('user', 0x10000000), ('mount', 0x20000), ('pid', 0x20000000), ('net', 0x40000000), ('ipc', 0x8000000), ('uts', 0x4000000), ('cgroup', 0x2000000)]:
    call('unshare-' + name, NR['unshare'], flags | 1 << 40)
    made('clone-' + name, NR['clone'], flags | 17 | 1 << 40, 0, 0, 0, 0)
call('unshare-time', NR['unshare'], 0x80)
arguments = ctypes.create_string_buffer(struct.pack('=QQQQQQQQQQQ', 0x10000000, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0))
made('clone3', NR['clone3'], arguments, 88)",
        walls: "unshare-user EPERM\nclone-user EPERM\nunshare-mount EPERM\nclone-mount EPERM\nunshare-pid EPERM\nclone-pid EPERM\nunshare-net EPERM\nclone-net EPERM\nunshare-ipc EPERM\nclone-ipc EPERM\nunshare-uts EPERM\nclone-uts EPERM\nunshare-cgroup EPERM\nclone-cgroup EPERM\nunshare-time EPERM\nclone3 ENOSYS",
        // High bits are refused by some of these calls and ignored by others; the rest is what a new namespace brings about.
        control: Control::Rights("unshare-user *\nclone-user ok\nunshare-mount *\nclone-mount ok\nunshare-pid *\nclone-pid ok\nunshare-net *\nclone-net ok\nunshare-ipc *\nclone-ipc ok\nunshare-uts *\nclone-uts ok\nunshare-cgroup *\nclone-cgroup ok\nunshare-time ok\nclone3 ok"),
        ..CASE
    },
    Case {
        name: "a-chain-through-a-user-namespace",
        // The descriptor comes first; what is mounted later does not hide what it leads to.
        attack: "
fd = os.open(GIVEN, os.O_PATH | os.O_DIRECTORY)
call('unshare', NR['unshare'], 0x10020000)
call('tmpfs', NR['mount'], b'x', GIVEN.encode(), b'tmpfs', 0, 0)
attempt('write', lambda: os.write(os.open('precious', os.O_WRONLY | os.O_TRUNC, dir_fd=fd), b'attacked'))",
        walls: "unshare EPERM\ntmpfs EPERM\nwrite EROFS|EACCES",
        control: Control::Rights("unshare ok\ntmpfs ok\nwrite ok"),
        harm: Some(|w, _| w.broken()),
        ..CASE
    },
    Case {
        name: "devices",
        attack: "
attempt('block', lambda: os.mknod('block', 0o600 | stat.S_IFBLK, os.makedev(8, 0)))
attempt('kmsg', lambda: os.mknod('kmsg', 0o600 | stat.S_IFCHR, os.makedev(1, 11)))
attempt('mem', lambda: os.mknod('mem', 0o600 | stat.S_IFCHR, os.makedev(1, 1)))
for path in ['/dev/mem', '/dev/kmsg', '/dev/loop-control', '/dev/loop0', '/dev/fuse', '/dev/kvm', '/dev/sda', '/dev/vda', '/dev/nvme0n1', '/dev/mapper/control', '/dev/uinput', '/dev/hpet']:
    try: os.open(path, os.O_RDWR); print('opened', 'something'); break
    except OSError: pass",
        walls: "block EPERM\nkmsg EPERM\nmem EPERM",
        control: Control::Root("block ok\nkmsg ok\nmem ok\nopened something"),
        ..CASE
    },
    Case {
        name: "a-file-by-its-handle",
        attack: "
handle = ctypes.create_string_buffer(struct.pack('=Ii', 128, 0), 136)
mount = ctypes.c_int()
call('name', NR['name_to_handle_at'], -100, b'/etc', handle, ctypes.cast(ctypes.pointer(mount), ctypes.c_void_p).value, 0)
call('open', NR['open_by_handle_at'], os.open('.', os.O_RDONLY), handle, 0)",
        walls: "name *\nopen EPERM",
        // Not every file system has handles.
        control: Control::Root("name *\nopen !EPERM"),
        ..CASE
    },
    Case {
        name: "kernel-switches",
        attack: "
opened = False
for path in ['/proc/sys/kernel/core_pattern', '/proc/sys/kernel/modprobe', '/proc/sys/kernel/hostname', '/proc/sys/vm/drop_caches', '/proc/sys/net/ipv4/ip_forward',
    '/proc/sysrq-trigger', '/proc/sys/fs/suid_dumpable', '/proc/self/oom_score_adj', '/sys/kernel/uevent_helper', '/sys/power/state']:
    if path.endswith('adj'): attempt(path.split('/')[-1], lambda: write(path, b'-900'))
    else:
        try: os.open(path, os.O_WRONLY); opened = True
        except OSError: pass
print('opened', opened)",
        walls: "oom_score_adj EACCES|EROFS|EPERM\nopened False",
        control: Control::Root("oom_score_adj *\nopened True"),
        ..CASE
    },
    Case {
        name: "control-groups",
        attack: "
import glob
found = False
for place in ['/sys/fs/cgroup', *glob.glob('/sys/fs/cgroup/*')]:
    try: fd = os.open(place + '/cgroup.procs', os.O_WRONLY); found = True
    except OSError: pass
print('leaves', found)
attempt('makes', lambda: os.mkdir('/sys/fs/cgroup/ft-attack'))
if not WALLS and os.path.exists('/sys/fs/cgroup/ft-attack'): os.rmdir('/sys/fs/cgroup/ft-attack')
machine = False
for place in ['block', 'bus', 'class', 'dev', 'devices', 'kernel', 'module']:
    try: machine = machine or len(os.listdir('/sys/' + place)) > 0
    except OSError: pass
print('machine', machine)",
        walls: "leaves False\nmakes ENOENT|EROFS|EACCES|EPERM\nmachine False",
        control: Control::Root("leaves True\nmakes *\nmachine True"),
        ..CASE
    },
    Case {
        name: "a-program-with-the-setuid-bit",
        attack: "
import shutil, subprocess
shutil.copy(shutil.which('id'), 'mine'); os.chmod('mine', 0o6755)
print('runs', subprocess.run(['./mine', '-u'], stdout=-3).returncode)
status = dict(line.split(':', 1) for line in open('/proc/self/status'))
print('no-new-privileges', status['NoNewPrivs'].strip())
print('capabilities', any(int(status[name], 16) for name in ['CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb']))
print('nosuid', bool(os.statvfs('.').f_flag & os.ST_NOSUID), bool(os.statvfs('/usr').f_flag & os.ST_NOSUID), bool(os.statvfs('/tmp').f_flag & os.ST_NOSUID))",
        walls: "runs 0\nno-new-privileges 1\ncapabilities False\nnosuid True True True",
        // An ordinary user may not empty the bounding set; without new privileges it comes to nobody.
        here: "runs 0\nno-new-privileges 1\ncapabilities True|False\nnosuid * * *",
        // How an engine mounts images and volumes is its own; that there are no new privileges takes the bit its effect.
        engine: "runs 0\nno-new-privileges 1\ncapabilities False\nnosuid * * True",
        control: Control::Rights("runs 0\nno-new-privileges 0\ncapabilities True\nnosuid * * *"),
        ..CASE
    },
    Case {
        name: "watching-what-happens-on-the-host",
        attack: "
fd = libc.inotify_init()
def watch(path):
    if libc.inotify_add_watch(fd, path.encode(), 0xfff) < 0: raise OSError(ctypes.get_errno(), '')
attempt('inotify', lambda: watch(OUTSIDE))
call('fanotify', NR['fanotify_init'], 0x200, 0)",
        walls: "inotify ENOENT|EACCES\nfanotify EPERM",
        here: "inotify *\nfanotify EPERM",
        control: Control::Root("inotify ok\nfanotify ok"),
        ..CASE
    },
    Case {
        name: "a-core-dump-elsewhere",
        attack: "
attempt('limit', lambda: resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)))
print('dumped', child(lambda: os.abort()))
print('limit', resource.getrlimit(resource.RLIMIT_CORE)[0])
print('here', [name for name in os.listdir('.') if name.startswith('core')])",
        walls: "limit ValueError|EPERM\ndumped -6\nlimit 0\nhere []",
        control: Control::Root("limit ok\ndumped -6\nlimit -1\nhere *"),
        ..CASE
    },
    Case {
        name: "marks-of-the-overlay",
        // What overlayfs reads out of a layer: a step must not be able to turn another directory into its tree.
        attack: "
os.mkdir('d')
attempt('opaque', lambda: os.setxattr('d', 'user.overlay.opaque', b'y'))
attempt('redirect', lambda: os.setxattr('d', 'user.overlay.redirect', b'/' + b'../' * 9 + b'etc'))
attempt('metacopy', lambda: os.setxattr('README', 'user.overlay.metacopy', b''))
attempt('trusted', lambda: os.setxattr('d', 'trusted.overlay.redirect', b'/etc'))
attempt('secret', lambda: read(SECRET))",
        walls: "opaque *\nredirect *\nmetacopy *\ntrusted EPERM|ENOTSUP|EOPNOTSUPP\nsecret ENOENT|EACCES",
        control: Control::Root("opaque *\nredirect *\nmetacopy *\ntrusted *\nsecret ok"),
        ..CASE
    },
];
