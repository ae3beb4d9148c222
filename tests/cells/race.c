// Tries to get a call past whoever looks at it first: a sibling thread swaps the address, or the descriptor, between
// what is allowed and what is not. Prints how many tries were made; whether one came through is judged from outside.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

static volatile struct sockaddr_in at;
static volatile int stop, victim, stream, other;
static in_port_t good, bad;

static int make(int kind) { return socket(AF_INET, kind | SOCK_CLOEXEC, 0); }

static in_port_t name(int fd) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    if (bind(fd, (struct sockaddr *)&a, n) || getsockname(fd, (struct sockaddr *)&a, &n)) exit(3);
    return a.sin_port;
}

static void abandon(int fd) {
    struct linger now = {1, 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    close(fd);
}

static void *swap_address(void *unused) {
    while (!stop) { at.sin_port = bad; at.sin_port = good; }
    return unused;
}

// Puts a datagram socket where a stream was, and back. It holds none in between.
static void *swap_descriptor(void *unused) {
    while (!stop) {
        int fd = make(SOCK_DGRAM);
        if (fd < 0) continue;
        dup2(fd, victim);
        close(fd);
        dup2(stream, victim);
    }
    return unused;
}

static void *swap_kinds(void *unused) {
    while (!stop) { dup2(other, victim); dup2(stream, victim); }
    return unused;
}

static void *drain(void *listener) {
    for (int fd; (fd = accept(*(int *)listener, 0, 0)) >= 0;) abandon(fd);
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 5) return 2;
    int tries = atoi(argv[4]);
    in_port_t tcp = htons(atoi(argv[2])), udp = htons(atoi(argv[3]));
    pthread_t sibling, drainer;
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (!strcmp(argv[1], "address")) {
        static int listener;
        listener = make(SOCK_STREAM);
        good = name(listener), bad = tcp;
        listen(listener, 1000);
        pthread_create(&drainer, 0, drain, &listener);
        pthread_create(&sibling, 0, swap_address, 0);
        for (int i = 0; i < tries / 2; i++) {
            int fd = make(SOCK_STREAM);
            if (fd < 0) return 4;
            connect(fd, (struct sockaddr *)&at, sizeof at);
            abandon(fd);
        }
        int receiver = make(SOCK_DGRAM), sender = make(SOCK_DGRAM);
        stop = 1;
        pthread_join(sibling, 0);
        stop = 0, good = name(receiver), bad = udp;
        pthread_create(&sibling, 0, swap_address, 0);
        char byte = 'x', buffer[64];
        struct iovec part = {&byte, 1};
        struct msghdr message = {.msg_name = (void *)&at, .msg_namelen = sizeof at, .msg_iov = &part, .msg_iovlen = 1};
        for (int i = 0; i < tries / 2; i++) {
            if (i % 2) sendto(sender, &byte, 1, 0, (struct sockaddr *)&at, sizeof at);
            else sendmsg(sender, &message, 0);
            recv(receiver, buffer, sizeof buffer, MSG_DONTWAIT);
        }
    } else {
        at.sin_port = udp;
        int pair[2];
        if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair)) return 4;
        char byte = 'x', buffer[4096];
        struct iovec part = {&byte, 1};
        struct msghdr message = {.msg_name = (void *)&at, .msg_namelen = sizeof at, .msg_iov = &part, .msg_iovlen = 1};
        stream = pair[0], victim = dup(stream);
        pthread_create(&sibling, 0, swap_descriptor, 0);
        for (int i = 0; i < tries / 2; i++) {
            if (i % 2) sendto(victim, &byte, 1, MSG_DONTWAIT, (struct sockaddr *)&at, sizeof at);
            else sendmsg(victim, &message, MSG_DONTWAIT);
            recv(pair[1], buffer, sizeof buffer, MSG_DONTWAIT);
        }
        stop = 1;
        pthread_join(sibling, 0);
        // A datagram socket and a stream under one number, and a place where only a listener of the machine is.
        stop = 0, other = make(SOCK_DGRAM), stream = make(SOCK_STREAM), at.sin_port = tcp;
        pthread_create(&sibling, 0, swap_kinds, 0);
        for (int i = 0; i < tries / 2; i++) connect(victim, (struct sockaddr *)&at, sizeof at);
    }
    printf("%d\n", tries);
    fflush(stdout);
    _exit(0);
}
