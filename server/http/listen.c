/* Listening sockets: TCP over IPv4 and IPv6, unix sockets, and those systemd passes on. */
#include "http/internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static int fail(struct imf_error *err, int fd, const char *address, const char *reason)
{
    if (fd >= 0)
        close(fd);
    if (err) {
        err->status = IMF_EINVAL;
        snprintf(err->message, sizeof(err->message), "listen %.200s: %s%s", address, reason,
                 strcmp(reason, strerror(EADDRINUSE)) == 0
                     ? ": another program has it; --listen takes another address, such as "
                       "127.0.0.1:8081"
                     : "");
    }
    return -1;
}

/* A socket file left behind by a killed server is removed; one that answers is somebody's. */
static bool stale_socket(const struct sockaddr_un *a)
{
    struct stat st;
    if (lstat(a->sun_path, &st) != 0 || !S_ISSOCK(st.st_mode))
        return false;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return false;
    bool refused =
        connect(fd, (const struct sockaddr *)a, sizeof(*a)) != 0 && errno == ECONNREFUSED;
    close(fd);
    return refused;
}

static int listen_unix(const char *address, char *unix_path, struct imf_error *err)
{
    const char *path = address + 5;
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    if (path[0] == '\0' || strlen(path) >= sizeof(a.sun_path))
        return fail(err, -1, address, "the path is empty or too long");
    memcpy(a.sun_path, path, strlen(path) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return fail(err, fd, address, strerror(errno));
    if (stale_socket(&a))
        unlink(a.sun_path);
    if (bind(fd, (const struct sockaddr *)&a, sizeof(a)) != 0 || listen(fd, SOMAXCONN) != 0)
        return fail(err, fd, address, strerror(errno));
    memcpy(unix_path, a.sun_path, sizeof(a.sun_path));
    return fd;
}

/* Splits "host:port" or "[host]:port". */
static bool parse_address(const char *address, struct sockaddr_storage *out, socklen_t *length)
{
    char host[64];
    const char *colon = strrchr(address, ':');
    if (!colon)
        return false;
    const char *begin = address, *end = colon;
    bool bracket = begin[0] == '[' && end > begin + 1 && end[-1] == ']';
    if (bracket)
        begin++, end--;
    if (end < begin || (size_t)(end - begin) >= sizeof(host))
        return false;
    memcpy(host, begin, (size_t)(end - begin));
    host[end - begin] = '\0';
    char *rest;
    unsigned long port = strtoul(colon + 1, &rest, 10);
    if (colon[1] < '0' || colon[1] > '9' || *rest != '\0' || port > 65535)
        return false;
    memset(out, 0, sizeof(*out));
    struct sockaddr_in *v4 = (struct sockaddr_in *)out;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)out;
    if (!bracket && (host[0] == '\0' || strcmp(host, "*") == 0)) {
        strcpy(host, "::"); /* ":8080": every address, both families */
        bracket = true;
    }
    if (!bracket && strcmp(host, "localhost") == 0)
        strcpy(host, "127.0.0.1");
    if (bracket && inet_pton(AF_INET6, host, &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons((uint16_t)port);
        *length = sizeof(*v6);
        return true;
    }
    if (!bracket && inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons((uint16_t)port);
        *length = sizeof(*v4);
        return true;
    }
    return false;
}

static void describe(int fd, char *bound, size_t size)
{
    struct sockaddr_storage a;
    socklen_t length = sizeof(a);
    char host[INET6_ADDRSTRLEN] = "";
    if (getsockname(fd, (struct sockaddr *)&a, &length) != 0)
        return;
    if (a.ss_family == AF_UNIX) {
        snprintf(bound, size, "unix:%s", ((const struct sockaddr_un *)&a)->sun_path);
    } else if (a.ss_family == AF_INET6) {
        const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)&a;
        inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof(host));
        snprintf(bound, size, "[%s]:%u", host, ntohs(v6->sin6_port));
    } else {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)&a;
        inet_ntop(AF_INET, &v4->sin_addr, host, sizeof(host));
        snprintf(bound, size, "%s:%u", host, ntohs(v4->sin_port));
    }
}

/* ---- Socket activation: sd_listen_fds(3) without libsystemd ---- */

enum { FIRST_PASSED = 3 };

int http_listen_passed(void)
{
    const char *pid = getenv("LISTEN_PID"), *count = getenv("LISTEN_FDS");
    if (!pid || !count || strtol(pid, NULL, 10) != (long)getpid())
        return 0;
    long n = strtol(count, NULL, 10);
    return n > 0 && n <= HTTP_MAX_LISTENERS ? (int)n : 0;
}

/* "systemd:N". The socket file, where it is one, belongs to systemd and is left alone. */
static int take_passed(const char *address, char *bound, size_t bound_size, struct imf_error *err)
{
    char *end;
    long index = strtol(address + 8, &end, 10);
    int fd = FIRST_PASSED + (int)index, listens = 0;
    socklen_t length = sizeof(listens);
    if (end == address + 8 || *end != '\0' || index < 0 || index >= http_listen_passed())
        return fail(err, -1, address, "systemd passed no such socket");
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &length) != 0 || !listens)
        return fail(err, -1, address, "what systemd passed is no listening stream socket");
    if (fcntl(fd, F_SETFD, FD_CLOEXEC) != 0 || fcntl(fd, F_SETFL, O_NONBLOCK) != 0)
        return fail(err, -1, address, strerror(errno));
    if (bound)
        describe(fd, bound, bound_size);
    return fd;
}

int http_listen_socket(const char *address, char *unix_path, char *bound, size_t bound_size,
                       struct imf_error *err)
{
    unix_path[0] = '\0';
    if (bound)
        snprintf(bound, bound_size, "%s", address);
    if (strncmp(address, "unix:", 5) == 0)
        return listen_unix(address, unix_path, err);
    if (strncmp(address, "systemd:", 8) == 0)
        return take_passed(address, bound, bound_size, err);

    struct sockaddr_storage a;
    socklen_t length = 0;
    if (!parse_address(address, &a, &length))
        return fail(
            err, -1, address,
            "expected an address and a port such as 127.0.0.1:8080, [::]:8080 or unix:/path");
    int fd = socket(a.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return fail(err, fd, address, strerror(errno));
    int on = 1, off = 0, user_timeout_ms = 30000;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (a.ss_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
    /* Accepted sockets inherit these: peers that vanish without a FIN are found out. */
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &user_timeout_ms, sizeof(user_timeout_ms));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    if (bind(fd, (const struct sockaddr *)&a, length) != 0 || listen(fd, SOMAXCONN) != 0)
        return fail(err, fd, address, strerror(errno));
    if (bound)
        describe(fd, bound, bound_size);
    return fd;
}
