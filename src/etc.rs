//! What `/etc` of every cell has of ours, the same on every machine and in every image. Pure; compiled into the agent.

/// Name and text of each file.
pub const WRITTEN: [(&str, &str); 7] = [
    (
        "passwd",
        "root:x:0:0:root:/nonexistent:/usr/sbin/nologin\nft:x:1000:1000:ft:/ft/home:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    ),
    ("group", "root:x:0:\ntty:x:5:\nft:x:1000:\nnogroup:x:65534:\n"),
    ("hosts", "127.0.0.1 localhost ft\n::1 localhost ip6-localhost ip6-loopback\n"),
    ("hostname", "ft\n"),
    (
        "nsswitch.conf",
        "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nservices: files\nprotocols: files\n",
    ),
    // The witness's own name server.
    ("resolv.conf", "nameserver 127.0.0.53\n"),
    (
        "services",
        "ftp 21/tcp\nssh 22/tcp\nsmtp 25/tcp\ndomain 53/tcp\ndomain 53/udp\nhttp 80/tcp\nhttps 443/tcp\nhttps 443/udp\n",
    ),
];
