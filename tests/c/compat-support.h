/* What the tests of the compatibility header share: an AioContext, and callbacks that count. */
#ifndef COMPAT_SUPPORT_H
#define COMPAT_SUPPORT_H

#include <qcontext-compat.h>
#include <unistd.h>

static AioContext *ctx;

typedef struct {
    QEMUBH *bh;
    int n, max;
} BHTest;

static inline void bh_test(void *opaque)
{
    BHTest *data = opaque;

    if (++data->n < data->max) {
        qemu_bh_schedule(data->bh);
    }
}

static inline void bh_delete(void *opaque)
{
    BHTest *data = opaque;

    data->n++;
    qemu_bh_delete(data->bh);
    data->bh = NULL;
}

typedef struct {
    EventNotifier e;
    int n, active;
    bool auto_set;
} NotifierTest;

static inline void notifier_ready(EventNotifier *e)
{
    NotifierTest *data = (NotifierTest *)e;

    g_assert_cmpint(event_notifier_test_and_clear(e), ==, 1);
    data->n++;
    if (data->active > 0) {
        data->active--;
    }
    if (data->auto_set && data->active) {
        event_notifier_set(e);
    }
}

typedef struct {
    QEMUTimer timer;
    int n, max;
    int64_t ns;
    QEMUClockType clock;
} TimerTest;

static inline void timer_fired(void *opaque)
{
    TimerTest *data = opaque;

    g_assert_false(timer_pending(&data->timer));
    if (++data->n < data->max) {
        timer_mod(&data->timer, qemu_clock_get_ns(data->clock) + data->ns);
    }
}

static inline void count(void *opaque)
{
    ++*(int *)opaque;
}

/* Once, before the tests. */
static inline void compat_init(int *argc, char ***argv)
{
    alarm(120);
    init_clocks(NULL);
    g_assert_null(qemu_get_aio_context());
    g_assert_cmpint(qemu_init_main_loop(NULL), ==, 0);
    ctx = aio_context_new(NULL);
    while (aio_poll(ctx, false)) {
    }
    g_test_init(argc, argv, NULL);
}

/* Runs them; the result of the program. */
static inline int compat_run(void)
{
    int result = g_test_run();

    aio_context_unref(ctx);
    return result;
}

#endif
