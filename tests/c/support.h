/* What the C tests share: waiting with a deadline, counting calls and destroy notifies with their threads. */
#ifndef SUPPORT_H
#define SUPPORT_H

#include <qcontext.h>
#include <unistd.h>
#include <string.h>

/* Ends the test program when a test hangs. */
#define TEST_DEADLINE_S 120

/* Counts calls of one registration. */
typedef struct {
    gint calls;
    gint destroyed;
    gint write_calls;
    gpointer call_thread;
    gpointer destroy_thread;
    int fd;
    /* What the callback is to do once, or NULL. */
    void (*act)(gpointer self);
    gpointer act_data;
} Probe;

static inline void probe_call(gpointer data)
{
    Probe *probe = data;

    g_atomic_pointer_set(&probe->call_thread, g_thread_self());
    if (probe->act) {
        void (*act)(gpointer) = probe->act;

        probe->act = NULL;
        act(probe);
    }
    g_atomic_int_inc(&probe->calls);
}

static inline void probe_destroy(gpointer data)
{
    Probe *probe = data;

    g_atomic_pointer_set(&probe->destroy_thread, g_thread_self());
    g_atomic_int_inc(&probe->destroyed);
}

/* Waits until *value is at least wanted. */
static inline void wait_for(gint *value, gint wanted)
{
    gint64 deadline = g_get_monotonic_time() + 30 * G_TIME_SPAN_SECOND;

    while (g_atomic_int_get(value) < wanted) {
        g_assert_cmpint(g_get_monotonic_time(), <, deadline);
        g_usleep(100);
    }
}

static inline void store_self(gpointer place)
{
    *(gpointer *)place = g_thread_self();
}

/* The GThread that runs a threaded context. */
static inline gpointer home_of(QContext *context)
{
    gpointer self = NULL;

    g_assert_true(qcontext_invoke_sync(context, store_self, &self, NULL));
    return self;
}

static inline void nothing(gpointer data)
{
    (void)data;
}

/* Returns when everything queued on the context before has been done, destroy notifies of that included. */
static inline void settle(QContext *context)
{
    g_assert_true(qcontext_invoke_sync(context, nothing, NULL, NULL));
    g_assert_true(qcontext_invoke_sync(context, nothing, NULL, NULL));
}

static inline QContext *new_threaded(const char *id)
{
    g_autoptr(GError) error = NULL;
    QContext *context = qcontext_new(id, TRUE, &error);

    g_assert_no_error(error);
    g_assert_nonnull(context);
    return context;
}

#define expect_critical(pattern) \
    g_test_expect_message("qcontext", G_LOG_LEVEL_CRITICAL, pattern)

/* Runs one misuse, which must say so. */
#define assert_misuse(pattern, call)           \
    do {                                       \
        expect_critical(pattern);              \
        call;                                  \
        g_test_assert_expected_messages();     \
    } while (0)

static inline void make_pipe(int fds[2])
{
    g_assert_cmpint(pipe(fds), ==, 0);
}

static inline void write_byte(int fd)
{
    g_assert_cmpint(write(fd, "x", 1), ==, 1);
}

static inline void read_byte(int fd)
{
    char byte;

    g_assert_cmpint(read(fd, &byte, 1), ==, 1);
}

#endif
