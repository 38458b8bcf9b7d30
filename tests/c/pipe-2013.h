/* A pipe with handlers by the names and signatures of 2013, and what happened to it. */
#ifndef PIPE_2013_H
#define PIPE_2013_H

#define QCONTEXT_COMPAT_API 2013
#include <qcontext-compat.h>
#include <fcntl.h>
#include <unistd.h>

/* One end of a pipe with what happened to it. */
typedef struct {
    int fds[2];
    gint reads, writes, asked, paused;
    QContext *ctx;
    void (*act)(void *self);
} Pipe;

static inline void pipe_open(Pipe *self, QContext *ctx)
{
    memset(self, 0, sizeof(*self));
    self->ctx = ctx;
    g_assert_cmpint(pipe(self->fds), ==, 0);
}

static inline void pipe_put(Pipe *self)
{
    g_assert_cmpint(write(self->fds[1], "x", 1), ==, 1);
}

static inline void pipe_close(Pipe *self)
{
    close(self->fds[0]);
    close(self->fds[1]);
}

static inline void pipe_read(void *opaque)
{
    Pipe *self = opaque;
    char byte;

    g_assert_cmpint(read(self->fds[0], &byte, 1), ==, 1);
    g_atomic_int_inc(&self->reads);
    if (self->act) {
        self->act(self);
    }
}

static inline void pipe_write(void *opaque)
{
    g_atomic_int_inc(&((Pipe *)opaque)->writes);
}

static inline int pipe_may_read(void *opaque)
{
    Pipe *self = opaque;

    g_atomic_int_inc(&self->asked);
    return !g_atomic_int_get(&self->paused);
}

static inline void wait_for(gint *value, gint wanted)
{
    gint64 deadline = g_get_monotonic_time() + 30 * G_TIME_SPAN_SECOND;

    while (g_atomic_int_get(value) < wanted) {
        g_assert_cmpint(g_get_monotonic_time(), <, deadline);
        g_usleep(100);
    }
}

static inline void drain(QContext *ctx)
{
    while (qcontext_iterate(ctx, false)) {
    }
}

#endif
