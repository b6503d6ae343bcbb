/* A scripted Ollama that costs next to nothing: one process, epoll, no allocation per chunk.
 *
 *   upstream PORT FOLDER       (port 0: any; the port is the first line printed)
 *
 * FOLDER has the whole answers, one file per route, named as in `whole_answers`. A request that asks for a
 * stream says in its prompt what it wants: bench:CHUNKS:BYTES:PACE_US:ID. Its first chunk comes at once, the
 * second after a part of the pace that differs from stream to stream, the others at the pace.
 * GET /bench/closes tells which streams were broken off since it was last asked, and when: "ID NANOSECONDS".
 */
#define _GNU_SOURCE
#include "http.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define BODY_MAX 4096
#define CHUNK_MAX 16384
#define CLOSES_MAX 100000
#define EVENTS 256

enum kind { CHAT, GENERATE, OPENAI };

struct connection {
    int fd;
    struct message in;
    char body[BODY_MAX + 1];
    size_t body_len;
    char *out; /* what the kernel would not take yet */
    size_t out_len, out_room;
    enum kind kind;
    bool streaming, is_first;
    int chunks_left, chunk_bytes, chunks;
    int64_t pace_ns, due, id;
    int place; /* in the heap; -1: not there */
};

static struct { const char *method, *path, *file; char *body; size_t len; } whole_answers[] = {
    {"GET", "/api/tags", "tags", 0, 0},       {"GET", "/api/ps", "ps", 0, 0},
    {"GET", "/api/version", "version", 0, 0}, {"POST", "/api/show", "show", 0, 0},
    {"POST", "/api/embed", "embed", 0, 0},    {"POST", "/api/chat", "chat", 0, 0},
    {"POST", "/api/generate", "generate", 0, 0}, {"POST", "/v1/chat/completions", "completion", 0, 0},
};
enum { WHOLE_ANSWERS = sizeof whole_answers / sizeof *whole_answers };

static const char *const before[] = {
    "{\"model\":\"tiny\",\"created_at\":\"2026-11-20T23:03:39.636526123Z\",\"message\":{\"role\":\"assistant\",\"content\":\"",
    "{\"model\":\"tiny\",\"created_at\":\"2026-11-20T23:03:39.636526123Z\",\"response\":\"",
    "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1795215824,\"model\":\"tiny\","
    "\"system_fingerprint\":\"fp_ollama\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"",
};
static const char *const after[] = {
    "\"},\"done\":false}\n", "\",\"done\":false}\n", "\"},\"finish_reason\":null}]}\n\n"};
#define TIMES "\"done\":true,\"done_reason\":\"stop\",\"total_duration\":15346122,\"load_duration\":1739509," \
              "\"prompt_eval_count\":5,\"prompt_eval_duration\":500075,\"eval_count\":12,\"eval_duration\":8386964}\n"
static const char *const last[] = {"\"}," TIMES, "\"," TIMES, "\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n"};

static int poller, timer;
static struct connection **heap;
static int heap_len, heap_room;
static struct { int64_t id, at; } closes[CLOSES_MAX];
static int closes_len;

/* Streams by when their next chunk is due. */

static void put(int place, struct connection *c) {
    heap[place] = c;
    c->place = place;
}

static void settle(int at, struct connection *c) {
    while (at > 0 && heap[(at - 1) / 2]->due > c->due) {
        put(at, heap[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    for (int child; (child = 2 * at + 1) < heap_len; at = child) {
        if (child + 1 < heap_len && heap[child + 1]->due < heap[child]->due) child++;
        if (heap[child]->due >= c->due) break;
        put(at, heap[child]);
    }
    put(at, c);
}

static void schedule(struct connection *c) {
    if (c->place < 0) {
        if (heap_len == heap_room) heap = realloc(heap, (heap_room += 1024) * sizeof *heap);
        c->place = heap_len++;
    }
    settle(c->place, c);
}

static void unschedule(struct connection *c) {
    if (c->place < 0) return;
    int place = c->place;
    struct connection *moved = heap[--heap_len];
    c->place = -1;
    if (moved != c) settle(place, moved);
}

static void set_timer(void) {
    int64_t due = heap_len ? heap[0]->due : 0;
    struct itimerspec at = {.it_value = {due / 1000000000, due % 1000000000}};
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL);
}

/* Writing */

static void watch(struct connection *c, bool to_write) {
    struct epoll_event e = {.events = EPOLLIN | (to_write ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &e);
}

static void say(struct connection *c, const char *data, size_t n) {
    ssize_t sent = c->out_len ? 0 : send(c->fd, data, n, MSG_NOSIGNAL);
    if (sent < 0) sent = 0; /* a connection that is gone says so to the next read */
    if ((size_t)sent == n) return;
    if (c->out_len + n > c->out_room) c->out = realloc(c->out, c->out_room = 2 * (c->out_len + n));
    memcpy(c->out + c->out_len, data + sent, n - sent);
    c->out_len += n - sent;
    watch(c, true);
}

static void say_rest(struct connection *c) {
    ssize_t sent = send(c->fd, c->out, c->out_len, MSG_NOSIGNAL);
    if (sent <= 0) return;
    memmove(c->out, c->out + sent, c->out_len -= sent);
    if (!c->out_len) watch(c, false);
}

static void say_whole(struct connection *c, int status, const char *type, const char *body, size_t n) {
    char head[512];
    int len = snprintf(head, sizeof head,
                       "HTTP/1.1 %d %s\r\n%s%s%sDate: Fri, 20 Nov 2026 23:03:39 GMT\r\nContent-Length: %zu\r\n\r\n",
                       status, status == 404 ? "Not Found" : status == 201 ? "Created" : "OK",
                       type ? "Content-Type: " : "", type ? type : "", type ? "\r\n" : "", n);
    char *both = malloc(len + n);
    memcpy(both, head, len);
    memcpy(both + len, body, n);
    say(c, both, len + n);
    free(both);
}

/* Streams */

static int write_chunk(const struct connection *c, char *to) {
    char text[CHUNK_MAX];
    bool is_last = c->chunks_left == 0;
    int len = sprintf(text, "%s", before[c->kind]);
    if (!is_last) {
        len += sprintf(text + len, MARK "%0*llx", MARK_DIGITS, (unsigned long long)now_ns());
        int fill = c->chunk_bytes - len - (int)strlen(after[c->kind]);
        for (; fill > 0; fill--) text[len++] = 'x';
    }
    len += sprintf(text + len, "%s", is_last ? last[c->kind] : after[c->kind]);
    int frame = sprintf(to, "%x\r\n", len);
    memcpy(to + frame, text, len);
    memcpy(to + frame + len, "\r\n", 2);
    return frame + len + 2;
}

static void say_chunk(struct connection *c) {
    static char data[CHUNK_MAX + 512];
    int len = 0;
    if (c->is_first)
        len = sprintf(data, "HTTP/1.1 200 OK\r\nContent-Type: %s\r\nDate: Fri, 20 Nov 2026 23:03:39 GMT\r\n"
                            "Transfer-Encoding: chunked\r\n\r\n",
                      c->kind == OPENAI ? "text/event-stream" : "application/x-ndjson");
    say(c, data, len + write_chunk(c, data + len));
    if (c->chunks_left-- == 0) {
        say(c, "0\r\n\r\n", 5); /* Go's server writes it by itself, once the handler has returned */
        c->streaming = false;
        unschedule(c);
        return;
    }
    double part = c->is_first ? 0.5 + (c->id * 0.6180339887 - (int64_t)(c->id * 0.6180339887)) : 1.0;
    int64_t earliest = now_ns() - 10 * c->pace_ns; /* what is further behind than that is not caught up with */
    c->due = (c->due > earliest ? c->due : earliest) + (int64_t)(part * c->pace_ns);
    c->is_first = false;
    schedule(c);
}

static bool begin_stream(struct connection *c, enum kind kind) {
    const char *wish = strstr(c->body, "bench:");
    long chunks, bytes, pace, id;
    if (!wish || sscanf(wish, "bench:%ld:%ld:%ld:%ld", &chunks, &bytes, &pace, &id) != 4) return false;
    c->kind = kind, c->chunks_left = chunks, c->pace_ns = pace * 1000, c->id = id;
    c->chunk_bytes = bytes < CHUNK_MAX - 512 ? bytes : CHUNK_MAX - 512;
    c->streaming = c->is_first = true;
    c->due = now_ns();
    say_chunk(c);
    return true;
}

/* Requests */

static bool wants_stream(const struct connection *c, enum kind kind) {
    const char *said = strstr(c->body, "\"stream\"");
    if (!said) return kind != OPENAI; /* Ollama's own routes stream unless told otherwise */
    said += 8;
    return strncmp(said + strspn(said, " :"), "true", 4) == 0;
}

static void tell_closes(struct connection *c) {
    char *text = malloc(closes_len * 48 + 1);
    size_t len = 0;
    for (int i = 0; i < closes_len; i++)
        len += sprintf(text + len, "%lld %lld\n", (long long)closes[i].id, (long long)closes[i].at);
    closes_len = 0;
    say_whole(c, 200, "text/plain", text, len);
    free(text);
}

static bool is_request(const struct connection *c, const char *method, const char *path) {
    size_t m = strlen(method), p = strlen(path);
    const char *head = c->in.head;
    return strncmp(head, method, m) == 0 && strncmp(head + m + 1, path, p) == 0 && strchr(" ?", head[m + 1 + p]);
}

static void answer(struct connection *c) {
    static const struct { const char *path; enum kind kind; } streams[] = {
        {"/api/chat", CHAT}, {"/api/generate", GENERATE}, {"/v1/chat/completions", OPENAI}};
    const char json[] = "application/json; charset=utf-8";
    c->body[c->body_len] = 0;
    for (int i = 0; i < 3; i++)
        if (is_request(c, "POST", streams[i].path) && wants_stream(c, streams[i].kind) && begin_stream(c, streams[i].kind))
            return;
    for (int i = 0; i < WHOLE_ANSWERS; i++)
        if (is_request(c, whole_answers[i].method, whole_answers[i].path)) {
            say_whole(c, 200, json, whole_answers[i].body, whole_answers[i].len);
            return;
        }
    if (is_request(c, "GET", "/bench/closes")) tell_closes(c);
    else if (is_request(c, "GET", "/")) say_whole(c, 200, "text/plain; charset=utf-8", "Ollama is running", 17);
    else if (strncmp(c->in.head, "POST /api/blobs/", 16) == 0) say_whole(c, 201, NULL, "", 0);
    else say_whole(c, 404, "text/plain", "404 page not found", 18);
}

static void keep_body(void *owner, const char *data, size_t n) {
    struct connection *c = owner;
    size_t room = BODY_MAX - c->body_len;
    memcpy(c->body + c->body_len, data, n < room ? n : room);
    c->body_len += n < room ? n : room;
}

static void end(struct connection *c) {
    if (c->streaming && closes_len < CLOSES_MAX) {
        closes[closes_len].id = c->id;
        closes[closes_len++].at = now_ns();
    }
    unschedule(c);
    close(c->fd);
    free(c->out);
    free(c);
}

static void read_from(struct connection *c) {
    static char data[1 << 18];
    ssize_t n = recv(c->fd, data, sizeof data, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) {
        end(c);
        return;
    }
    for (ssize_t at = 0; at < n && !c->streaming;) {
        at += message_take(&c->in, data + at, n - at, keep_body, c);
        if (c->in.failed) {
            end(c);
            return;
        }
        if (c->in.part == DONE) {
            answer(c);
            message_reset(&c->in);
            c->body_len = 0;
        }
    }
}

/* The program */

static void admit(int listener) {
    for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
        struct connection *c = calloc(1, sizeof *c);
        c->fd = fd;
        c->place = -1;
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(poller, EPOLL_CTL_ADD, fd, &e);
    }
}

static void run_timer(void) {
    uint64_t expired;
    if (read(timer, &expired, sizeof expired) < 0) return;
    for (int64_t now = now_ns(); heap_len && heap[0]->due <= now;) say_chunk(heap[0]);
}

static int listen_on(int port) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    if (bind(fd, (struct sockaddr *)&at, sizeof at) || listen(fd, 4096)) die("listen");
    getsockname(fd, (struct sockaddr *)&at, &len);
    printf("%d\n", ntohs(at.sin_port));
    fflush(stdout);
    return fd;
}

static void load(const char *folder) {
    for (int i = 0; i < WHOLE_ANSWERS; i++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", folder, whole_answers[i].file);
        FILE *file = fopen(path, "rb");
        if (!file) die(path);
        whole_answers[i].body = malloc(1 << 20);
        whole_answers[i].len = fread(whole_answers[i].body, 1, 1 << 20, file);
        fclose(file);
    }
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: upstream PORT FOLDER\n");
        return 2;
    }
    raise_file_limit();
    load(argv[2]);
    int listener = listen_on(atoi(argv[1]));
    poller = epoll_create1(0);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct epoll_event own[] = {{.events = EPOLLIN, .data.ptr = &listener}, {.events = EPOLLIN, .data.ptr = &timer}};
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &own[0]);
    epoll_ctl(poller, EPOLL_CTL_ADD, timer, &own[1]);
    for (struct epoll_event events[EVENTS];;) {
        int n = epoll_wait(poller, events, EVENTS, -1);
        for (int i = 0; i < n; i++) {
            void *who = events[i].data.ptr;
            if (who == &listener) {
                admit(listener);
            } else if (who == &timer) {
                run_timer();
            } else {
                struct connection *c = who;
                if (events[i].events & EPOLLOUT) say_rest(c);
                if (events[i].events & ~EPOLLOUT) read_from(c);
            }
        }
        set_timer();
    }
}
