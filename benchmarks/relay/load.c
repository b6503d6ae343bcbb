/* Clients in a closed loop: K connections, each asks, reads its answer to the end, and asks again.
 *
 *   load port=P connections=K requests=R method=POST path=/api/chat body=FILE [upload=BYTES]
 *        [leave_after=CHUNKS] [ramp_us=0] [hold=1] [deadline_s=60]
 *
 * In the body eight percent signs stand for the number of the request. `upload` sends so many zero bytes instead
 * of a body. `ramp_us` is how much later each connection begins than the one before. `leave_after` closes the
 * connection once so many chunks have come.
 *
 * Prints "begun" when every connection had its first answer, or the first chunk of a stream: what is counted and
 * timed from then on is not about beginning. With `hold` it stays there until its input ends. Then prints one JSON
 * object; times are in microseconds, of the monotonic clock.
 */
#define _GNU_SOURCE
#include "http.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define EVENTS 256
#define NUMBER "%%%%%%%%"
#define NUMBER_DIGITS 8

struct connection {
    int fd, number, chunks;
    bool connected, busy, has_begun;
    struct message in;
    int64_t sent_at, fill_left;
    size_t request_sent;
    int mark_seen; /* characters of a mark, digits included */
    uint64_t mark;
};

struct samples { double *us; size_t len, room; };

static struct {
    int port, connections, requests, leave_after, hold, deadline_s, ramp_us;
    int64_t upload;
    const char *method, *path, *body;
} wish = {.connections = 1, .requests = 1, .method = "GET", .path = "/", .deadline_s = 60};

static int poller, begun, asked, done, errors, connected, answered;
static struct { bool is_past; int requests; size_t chunks; } beginning;
static char *request;
static size_t request_len;
static int64_t received, arrived_at, all_there_at;
static struct samples first_byte, delay, whole;
static struct { int id; int64_t at; } *left;
static int left_len;
static char *number_in_request;

static void add(struct samples *s, int64_t ns) {
    if (s->len == s->room) s->us = realloc(s->us, (s->room = s->room * 2 + 1024) * sizeof *s->us);
    s->us[s->len++] = ns / 1000.0;
}

/* Marks may be cut anywhere by whoever passed the bytes on. */
static void look_for_marks(void *owner, const char *data, size_t n) {
    struct connection *c = owner;
    for (size_t i = 0; i < n; i++) {
        char ch = data[i];
        if (c->mark_seen < 2) {
            c->mark_seen = ch == MARK[0] ? c->mark_seen + 1 : 0;
            c->mark = 0;
            continue;
        }
        c->mark = c->mark * 16 + (ch <= '9' ? ch - '0' : ch - 'a' + 10);
        if (++c->mark_seen == 2 + MARK_DIGITS) {
            add(&delay, arrived_at - (int64_t)c->mark);
            c->chunks++;
            c->mark_seen = 0;
        }
    }
}

static void watch(struct connection *c, int how, uint32_t events) {
    struct epoll_event e = {.events = events, .data.ptr = c};
    epoll_ctl(poller, how, c->fd, &e);
}

static void connect_to(struct connection *c) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(wish.port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    c->connected = c->busy = false;
    if (connect(c->fd, (struct sockaddr *)&at, sizeof at) && errno != EINPROGRESS) die("connect");
    watch(c, EPOLL_CTL_ADD, EPOLLIN | EPOLLOUT);
}

static void send_on(struct connection *c) {
    static const char zeros[1 << 17];
    while (c->request_sent < request_len || c->fill_left) {
        bool is_fill = c->request_sent == request_len;
        size_t n = is_fill ? (size_t)(c->fill_left < (int64_t)sizeof zeros ? c->fill_left : (int64_t)sizeof zeros)
                           : request_len - c->request_sent;
        ssize_t sent = send(c->fd, is_fill ? zeros : request + c->request_sent, n, MSG_NOSIGNAL);
        if (sent <= 0) {
            watch(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
            return;
        }
        if (is_fill) c->fill_left -= sent;
        else c->request_sent += sent;
    }
    watch(c, EPOLL_CTL_MOD, EPOLLIN);
}

static void ask(struct connection *c) {
    if (asked == wish.requests) return;
    c->number = asked++;
    if (number_in_request) {
        char digits[NUMBER_DIGITS + 1];
        snprintf(digits, sizeof digits, "%0*d", NUMBER_DIGITS, c->number);
        memcpy(number_in_request, digits, NUMBER_DIGITS);
    }
    message_reset(&c->in);
    c->busy = true;
    c->has_begun = false;
    c->chunks = c->mark_seen = 0;
    c->request_sent = 0;
    c->fill_left = wish.upload;
    c->sent_at = now_ns();
    send_on(c);
}

static void finish(struct connection *c, bool well) {
    done++;
    errors += !well;
    c->busy = false;
    if (well) add(&whole, arrived_at - c->sent_at);
}

static void reconnect(struct connection *c) {
    close(c->fd);
    if (asked < wish.requests) connect_to(c);
    else c->fd = -1;
}

static void note_answer(void) {
    if (++answered < wish.connections || beginning.is_past) return;
    beginning.is_past = true;
    beginning.requests = done;
    beginning.chunks = delay.len;
    printf("begun\n");
    fflush(stdout);
}

static void leave(struct connection *c) {
    left[left_len].id = c->number;
    left[left_len++].at = now_ns();
    finish(c, true);
    reconnect(c);
}

static void read_from(struct connection *c) {
    static char data[1 << 18];
    ssize_t n = recv(c->fd, data, sizeof data, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    arrived_at = now_ns();
    if (n <= 0) {
        if (c->busy) finish(c, c->in.part == UNTIL_CLOSE);
        reconnect(c);
        return;
    }
    received += n;
    if (!c->busy) return;
    if (!c->has_begun) add(&first_byte, arrived_at - c->sent_at);
    bool had_chunk = c->chunks > 0;
    c->has_begun = true;
    message_take(&c->in, data, n, look_for_marks, c);
    if (!had_chunk && (c->chunks || c->in.part == DONE)) note_answer();
    if (c->in.failed || c->in.part == DONE) {
        bool is_good = !c->in.failed && c->in.head[9] == '2';
        if (!is_good && errors < 3) fprintf(stderr, "%.300s\n", c->in.head);
        finish(c, is_good);
        ask(c);
    } else if (wish.leave_after && c->chunks >= wish.leave_after) {
        leave(c);
    }
}

/* Once all are connected they begin, one after the other. */
static void begin_more(struct connection *all) {
    if (!all_there_at) return;
    int64_t since_us = (now_ns() - all_there_at) / 1000;
    while (begun < wish.connections && since_us >= (int64_t)begun * wish.ramp_us) ask(&all[begun++]);
}

static void handle(struct connection *c, uint32_t events) {
    if (!c->connected && events & (EPOLLERR | EPOLLHUP)) {
        fprintf(stderr, "nobody takes connections on port %d\n", wish.port);
        exit(1);
    }
    if (!c->connected && events & EPOLLOUT) {
        c->connected = true;
        watch(c, EPOLL_CTL_MOD, EPOLLIN);
        if (++connected > wish.connections) ask(c);
        else if (connected == wish.connections) all_there_at = now_ns();
        return;
    }
    if (events & EPOLLOUT) send_on(c);
    if (events & (EPOLLIN | EPOLLERR | EPOLLHUP)) read_from(c);
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_samples(const char *name, struct samples all, size_t from) {
    struct samples later = {all.us + from, all.len - from, 0}, *s = &later;
    qsort(s->us, s->len, sizeof *s->us, by_value);
    printf("\"%s\": {\"count\": %zu", name, s->len);
    if (s->len)
        printf(", \"p50\": %.1f, \"p99\": %.1f, \"max\": %.1f", s->us[s->len / 2], s->us[(size_t)(s->len * 0.99)],
               s->us[s->len - 1]);
    printf("}, ");
}

static void print_result(double seconds) {
    printf("{\"requests\": %d, \"errors\": %d, \"bytes\": %lld, \"seconds\": %.6f, ", done, errors, (long long)received, seconds);
    printf("\"requests_since_begun\": %d, ", done - beginning.requests);
    print_samples("first_byte", first_byte, 0);
    print_samples("chunk_delay", delay, beginning.chunks);
    print_samples("whole", whole, 0);
    printf("\"left\": [");
    for (int i = 0; i < left_len; i++) printf("%s[%d, %lld]", i ? ", " : "", left[i].id, (long long)left[i].at);
    printf("]}\n");
}

static void make_request(void) {
    static char body[1 << 20];
    size_t body_len = 0;
    if (wish.body) {
        FILE *file = fopen(wish.body, "rb");
        if (!file) die(wish.body);
        body_len = fread(body, 1, sizeof body, file);
        fclose(file);
    }
    request = malloc(1024 + body_len);
    request_len = sprintf(request, "%s %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAccept: */*\r\n", wish.method, wish.path, wish.port);
    if (strcmp(wish.method, "GET"))
        request_len += sprintf(request + request_len, "Content-Type: application/json\r\nContent-Length: %lld\r\n",
                               (long long)(wish.upload ? wish.upload : (int64_t)body_len));
    request_len += sprintf(request + request_len, "\r\n");
    memcpy(request + request_len, body, body_len);
    number_in_request = memmem(request, request_len + body_len, NUMBER, NUMBER_DIGITS);
    request_len += body_len;
}

static const char *value_of(char **argv, const char *name) {
    size_t n = strlen(name);
    for (argv++; *argv; argv++)
        if (strncmp(*argv, name, n) == 0 && (*argv)[n] == '=') return *argv + n + 1;
    return NULL;
}

static void read_wishes(char **argv) {
    const char *said;
    struct { const char *name; int *to; } numbers[] = {
        {"port", &wish.port},         {"connections", &wish.connections}, {"requests", &wish.requests},
        {"hold", &wish.hold}, {"ramp_us", &wish.ramp_us}, {"leave_after", &wish.leave_after}, {"deadline_s", &wish.deadline_s}};
    struct { const char *name, **to; } texts[] = {{"method", &wish.method}, {"path", &wish.path}, {"body", &wish.body}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if ((said = value_of(argv, numbers[i].name))) *numbers[i].to = atoi(said);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if ((said = value_of(argv, texts[i].name))) *texts[i].to = said;
    if ((said = value_of(argv, "upload"))) wish.upload = atoll(said);
}

int main(int argc, char **argv) {
    (void)argc;
    read_wishes(argv);
    raise_file_limit();
    make_request();
    poller = epoll_create1(0);
    left = calloc(wish.requests + 1, sizeof *left);
    struct connection *all = calloc(wish.connections, sizeof *all);
    int64_t started = now_ns(), deadline = started + wish.deadline_s * 1000000000LL;
    for (int i = 0; i < wish.connections; i++) connect_to(&all[i]);
    while (done < wish.requests && !(wish.hold && beginning.is_past)) {
        struct epoll_event events[EVENTS];
        int n = epoll_wait(poller, events, EVENTS, begun < wish.connections ? 1 : 1000);
        for (int i = 0; i < n; i++) handle(events[i].data.ptr, events[i].events);
        begin_more(all);
        if (now_ns() > deadline) {
            fprintf(stderr, "not done in time: %d of %d requests\n", done, wish.requests);
            errors += wish.requests - done;
            break;
        }
    }
    double seconds = (now_ns() - started) / 1e9;
    while (wish.hold && beginning.is_past && getchar() != EOF) {}
    print_result(seconds);
    return 0;
}
