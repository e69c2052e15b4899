/* The floor under any primary that hands connections over: aiocluster's system calls, in C.
 *
 * dispatcher PORT [PROGRAM ARGUMENT...]: on every wake-up of epoll, accept4 until EAGAIN; the connections are dealt round
 * robin over two children, and each child gets its share in one sendmsg with SCM_RIGHTS over a
 * SOCK_SEQPACKET pair. A child reads one request of each connection, answers, and closes; or it is
 * PROGRAM, whose last argument is the descriptor it gets its connections from.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CHILDREN = 2, MAX_FDS = 253 /* SCM_MAX_FD */, BACKLOG = 2048 };

struct batch {
    int count;
    int fds[MAX_FDS];
};

union control {
    char bytes[CMSG_SPACE(sizeof(int) * MAX_FDS)];
    struct cmsghdr align;
};

static const char RESPONSE[] =
    "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n"
    "Connection: close\r\n\r\nhello";

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void serve(int fd) {
    char request[4096];
    size_t length = 0;
    while (length < sizeof request) {
        ssize_t got = read(fd, request + length, sizeof request - length);
        if (got <= 0) break;
        length += (size_t)got;
        if (memmem(request, length, "\r\n\r\n", 4)) {
            if (write(fd, RESPONSE, sizeof RESPONSE - 1) < 0) perror("write");
            break;
        }
    }
    close(fd);
}

static void run_child(int handoff) {
    union control control;
    char payload[MAX_FDS];
    for (;;) {
        struct iovec iov = {payload, sizeof payload};
        struct msghdr message = {.msg_iov = &iov,
                                 .msg_iovlen = 1,
                                 .msg_control = control.bytes,
                                 .msg_controllen = sizeof control.bytes};
        if (recvmsg(handoff, &message, MSG_CMSG_CLOEXEC) <= 0) exit(0); /* the parent has gone */
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        if (!header) continue;
        size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        int fds[MAX_FDS];
        memcpy(fds, CMSG_DATA(header), count * sizeof(int));
        for (size_t i = 0; i < count; i++) serve(fds[i]);
    }
}

static void hand_over(int handoff, struct batch *batch) {
    union control control;
    char payload[MAX_FDS] = {0}; /* which listener each came from: always the first */
    size_t size = sizeof(int) * (size_t)batch->count;
    struct iovec iov = {payload, (size_t)batch->count};
    struct msghdr message = {.msg_iov = &iov,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = CMSG_SPACE(size)};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(size);
    memcpy(CMSG_DATA(header), batch->fds, size);
    /* Blocking, so a full queue waits: the load here never fills one. */
    if (sendmsg(handoff, &message, MSG_NOSIGNAL) < 0) die("sendmsg");
    for (int i = 0; i < batch->count; i++) close(batch->fds[i]);
    batch->count = 0;
}

static void accept_all(int listener, const int *handoffs, unsigned *next) {
    static struct batch batches[CHILDREN];
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0) {
            if (errno == EAGAIN) break;
            if (errno == ECONNABORTED || errno == EINTR) continue;
            die("accept4");
        }
        unsigned child = (*next)++ % CHILDREN;
        batches[child].fds[batches[child].count++] = fd;
        if (batches[child].count == MAX_FDS) hand_over(handoffs[child], &batches[child]);
    }
    for (int i = 0; i < CHILDREN; i++)
        if (batches[i].count) hand_over(handoffs[i], &batches[i]);
}

static int listen_on(uint16_t port) {
    int yes = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons(port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0) die("bind");
    if (listen(fd, BACKLOG) < 0) die("listen");
    return fd;
}

static void run_program(char **argv, int argc, int handoff) {
    char number[16];
    char **arguments = calloc((size_t)argc + 2, sizeof *arguments);
    int own = dup(handoff); /* without the flag that would close it now */
    snprintf(number, sizeof number, "%d", own);
    memcpy(arguments, argv, (size_t)argc * sizeof *arguments);
    arguments[argc] = number;
    execvp(arguments[0], arguments);
    die("exec");
}

static void start_children(int *handoffs, char **program, int program_argc) {
    for (int i = 0; i < CHILDREN; i++) {
        int pair[2];
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) die("socketpair");
        pid_t pid = fork();
        if (pid < 0) die("fork");
        if (pid == 0) {
            /* Ends of earlier pairs too, or those children would never see the parent go. */
            for (int earlier = 0; earlier < i; earlier++) close(handoffs[earlier]);
            close(pair[0]);
            if (program_argc) run_program(program, program_argc, pair[1]);
            run_child(pair[1]);
        }
        close(pair[1]);
        handoffs[i] = pair[0];
    }
}

int main(int argc, char **argv) {
    if (argc < 2) return 2;
    int handoffs[CHILDREN];
    unsigned next = 0;
    start_children(handoffs, argv + 2, argc - 2);
    /* As aiocluster's primary does: on a busy CPU, whom it has work for runs first. */
    struct sched_param parameters = {0};
    if (sched_setscheduler(0, SCHED_BATCH, &parameters) < 0) die("sched_setscheduler");
    int listener = listen_on((uint16_t)atoi(argv[1]));
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event) < 0) die("epoll_ctl");
    for (;;) {
        if (epoll_wait(epoll, &event, 1, -1) < 0 && errno != EINTR) die("epoll_wait");
        accept_all(listener, handoffs, &next);
    }
}
