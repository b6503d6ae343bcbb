/* What both programs need of HTTP/1.1 and of time: one message at a time, taken apart as it arrives. */
#ifndef RELAY_HTTP_H
#define RELAY_HTTP_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <time.h>

#define HEAD_MAX 8192

/* A chunk says when it was sent: MARK, then CLOCK_MONOTONIC in nanoseconds as MARK_DIGITS hex digits. */
#define MARK "@@"
#define MARK_DIGITS 16

static inline int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static inline void die(const char *what) {
    perror(what);
    exit(1);
}

static inline void raise_file_limit(void) {
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
}

enum part { HEAD, LENGTH, UNTIL_CLOSE, SIZE, SIZE_END, DATA, DATA_END, TRAILER, DONE };

struct message {
    enum part part;
    char head[HEAD_MAX];
    size_t head_len;
    int64_t left;    /* bytes of the body or of the current chunk */
    size_t line_len; /* of the current line of the trailer */
    bool failed;
};

/* The value of a header, or NULL; it ends at a carriage return, not at a NUL. */
static inline const char *header(const struct message *m, const char *name) {
    size_t n = strlen(name);
    for (const char *line = strstr(m->head, "\r\n"); line; line = strstr(line, "\r\n")) {
        line += 2;
        if (strncasecmp(line, name, n) == 0 && line[n] == ':') {
            line += n + 1;
            return line + strspn(line, " ");
        }
    }
    return NULL;
}

static inline bool has_no_body(const struct message *m) {
    bool is_answer = strncmp(m->head, "HTTP/", 5) == 0;
    int status = is_answer ? atoi(m->head + 9) : 0;
    return is_answer ? status == 204 || status == 304 : header(m, "Content-Length") == NULL;
}

static inline enum part framing(struct message *m) {
    const char *coding = header(m, "Transfer-Encoding"), *length = header(m, "Content-Length");
    m->left = 0;
    if (coding && strncasecmp(coding, "chunked", 7) == 0) return SIZE;
    if (has_no_body(m)) return DONE;
    if (!length) return UNTIL_CLOSE;
    m->left = atoll(length);
    return m->left ? LENGTH : DONE;
}

static inline size_t take_head(struct message *m, const char *data, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (m->head_len == HEAD_MAX - 1) {
            m->failed = true;
            return i;
        }
        m->head[m->head_len++] = data[i];
        if (data[i] == '\n' && m->head_len >= 4 && memcmp(m->head + m->head_len - 4, "\r\n\r\n", 4) == 0) {
            m->head[m->head_len] = 0;
            m->part = framing(m);
            return i + 1;
        }
    }
    return n;
}

/* One byte of what frames a chunk. */
static inline void take_frame(struct message *m, char c) {
    int digit = c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
    switch (m->part) {
    case SIZE:
        if (digit >= 0) m->left = m->left * 16 + digit;
        else if (c == '\n') m->part = m->left ? DATA : TRAILER;
        else m->part = SIZE_END;
        m->line_len = 0;
        break;
    case SIZE_END:
        if (c == '\n') m->part = m->left ? DATA : TRAILER;
        break;
    case DATA_END:
        if (c == '\n') m->part = SIZE;
        break;
    default: /* TRAILER: ends with an empty line */
        if (c == '\n' && m->line_len == 0) m->part = DONE;
        else if (c == '\n') m->line_len = 0;
        else if (c != '\r') m->line_len++;
    }
}

typedef void (*on_body)(void *owner, const char *data, size_t n);

/* Take bytes until the message is over; returns how many were its own. */
static inline size_t message_take(struct message *m, const char *data, size_t n, on_body tell, void *owner) {
    size_t at = 0;
    while (at < n && m->part != DONE && !m->failed) {
        if (m->part == HEAD) {
            at += take_head(m, data + at, n - at);
        } else if (m->part == LENGTH || m->part == DATA || m->part == UNTIL_CLOSE) {
            size_t span = n - at;
            if (m->part != UNTIL_CLOSE && (int64_t)span > m->left) span = m->left;
            tell(owner, data + at, span);
            at += span;
            if (m->part != UNTIL_CLOSE && (m->left -= span) == 0) m->part = m->part == DATA ? DATA_END : DONE;
        } else {
            take_frame(m, data[at++]);
        }
    }
    return at;
}

static inline void message_reset(struct message *m) {
    m->part = HEAD;
    m->head_len = 0;
    m->failed = false;
}

#endif
