/* Compatibility with code written for QEMU's event loop, over libqcontext's native interface.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Existing device code includes this instead of its main-loop, timer, AioContext, notifier, thread pool and iothread headers. The
 * names and their meaning are those of 10.x; define QCONTEXT_COMPAT_API to 2013 for the QContext of that year, whose functions
 * have the names of native ones with other signatures.
 *
 * What differs, on purpose:
 *  - Removals never wait and never assert. Called on another thread than the loop's, they do not end a running call.
 *  - Delete a timer in your own storage before you free the storage, even if it has fired. Otherwise a little memory leaks.
 *  - The virtual clock runs until qemu_clock_enable() stops it.
 *  - A bottom half that was not deleted is freed with its AioContext; the program does not abort.
 *  - A re-entrancy guard is engaged while its bottom half runs. A bottom half that finds it engaged logs a debug message and runs.
 *  - Timer attributes and the batch size of aio_context_set_aio_params() are accepted and have no effect.
 *  - aio_poll() of an attached AioContext also serves the other AioContexts of its context, and aio_compute_timeout() counts them.
 *  - An fd that cannot be watched causes a warning. A function with a result returns -1.
 *  - An Error is a GError.
 */
#ifndef QCONTEXT_COMPAT_H
#define QCONTEXT_COMPAT_H

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include "qcontext.h"

#ifndef QCONTEXT_COMPAT_API
#define QCONTEXT_COMPAT_API 10
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* State that all files of a program share without a library of its own. */
#define QCONTEXT_COMPAT_SHARED __attribute__((weak, visibility("hidden")))

typedef GError Error;

/* ---- Clocks and timers ---- */

typedef enum {
    QEMU_CLOCK_REALTIME = QCONTEXT_CLOCK_REALTIME,
    QEMU_CLOCK_VIRTUAL = QCONTEXT_CLOCK_VIRTUAL,
    QEMU_CLOCK_HOST = QCONTEXT_CLOCK_HOST,
    QEMU_CLOCK_VIRTUAL_RT = QCONTEXT_CLOCK_VIRTUAL_RT,
    QEMU_CLOCK_MAX
} QEMUClockType;

#define SCALE_NS 1
#define SCALE_US 1000
#define SCALE_MS 1000000
#define NANOSECONDS_PER_SECOND 1000000000LL
/* Attributes of timers, without effect here. */
#define QEMU_TIMER_ATTR_EXTERNAL (1 << 0)
#define QEMU_TIMER_ATTR_ALL (-1)

typedef QContextAio AioContext;
typedef struct QEMUTimerListGroup QEMUTimerListGroup;
typedef void QEMUTimerCB(void *opaque);
typedef void QEMUTimerListNotifyCB(void *opaque, QEMUClockType type);

typedef struct QEMUTimer {
    QContextTimer native;
} QEMUTimer;

static inline AioContext *qcontext_compat_main_aio(void)
{
    /* The main context, and with it this, lives for ever. */
    AioContext *aio = qcontext_get_aio(qcontext_get_main(), NULL);

    qcontext_aio_unref(aio);
    return aio;
}

static inline void init_clocks(QEMUTimerListNotifyCB *notify)
{
    (void)notify;
}

static inline int64_t qemu_clock_get_ns(QEMUClockType type)
{
    return qcontext_clock_get_ns((uint32_t)type);
}

static inline int64_t qemu_clock_get_us(QEMUClockType type)
{
    return qemu_clock_get_ns(type) / SCALE_US;
}

static inline int64_t qemu_clock_get_ms(QEMUClockType type)
{
    return qemu_clock_get_ns(type) / SCALE_MS;
}

static inline void qemu_clock_enable(QEMUClockType type, bool enabled)
{
    if (type == QEMU_CLOCK_VIRTUAL) {
        qcontext_clock_enable(QCONTEXT_CLOCK_VIRTUAL, enabled);
    }
}

static inline void aio_timer_init_with_attrs(AioContext *ctx, QEMUTimer *ts, QEMUClockType type, int scale,
                                             int attributes, QEMUTimerCB *cb, void *opaque)
{
    (void)attributes;
    qcontext_timer_init(&ts->native, ctx, (uint32_t)type, scale, cb, opaque);
}

static inline void aio_timer_init(AioContext *ctx, QEMUTimer *ts, QEMUClockType type, int scale, QEMUTimerCB *cb,
                                  void *opaque)
{
    aio_timer_init_with_attrs(ctx, ts, type, scale, 0, cb, opaque);
}

static inline QEMUTimer *aio_timer_new_with_attrs(AioContext *ctx, QEMUClockType type, int scale, int attributes,
                                                  QEMUTimerCB *cb, void *opaque)
{
    QEMUTimer *ts = g_new0(QEMUTimer, 1);

    aio_timer_init_with_attrs(ctx, ts, type, scale, attributes, cb, opaque);
    return ts;
}

static inline QEMUTimer *aio_timer_new(AioContext *ctx, QEMUClockType type, int scale, QEMUTimerCB *cb, void *opaque)
{
    return aio_timer_new_with_attrs(ctx, type, scale, 0, cb, opaque);
}

static inline void timer_init_full(QEMUTimer *ts, QEMUTimerListGroup *group, QEMUClockType type, int scale,
                                   int attributes, QEMUTimerCB *cb, void *opaque)
{
    (void)group;
    aio_timer_init_with_attrs(qcontext_compat_main_aio(), ts, type, scale, attributes, cb, opaque);
}

static inline void timer_init(QEMUTimer *ts, QEMUClockType type, int scale, QEMUTimerCB *cb, void *opaque)
{
    timer_init_full(ts, NULL, type, scale, 0, cb, opaque);
}

static inline void timer_init_ns(QEMUTimer *ts, QEMUClockType type, QEMUTimerCB *cb, void *opaque)
{
    timer_init(ts, type, SCALE_NS, cb, opaque);
}

static inline void timer_init_us(QEMUTimer *ts, QEMUClockType type, QEMUTimerCB *cb, void *opaque)
{
    timer_init(ts, type, SCALE_US, cb, opaque);
}

static inline void timer_init_ms(QEMUTimer *ts, QEMUClockType type, QEMUTimerCB *cb, void *opaque)
{
    timer_init(ts, type, SCALE_MS, cb, opaque);
}

static inline QEMUTimer *timer_new_full(QEMUTimerListGroup *group, QEMUClockType type, int scale, int attributes,
                                        QEMUTimerCB *cb, void *opaque)
{
    (void)group;
    return aio_timer_new_with_attrs(qcontext_compat_main_aio(), type, scale, attributes, cb, opaque);
}

static inline QEMUTimer *timer_new(QEMUClockType type, int scale, QEMUTimerCB *cb, void *opaque)
{
    return timer_new_full(NULL, type, scale, 0, cb, opaque);
}

static inline QEMUTimer *timer_new_ns(QEMUClockType type, QEMUTimerCB *cb, void *opaque)
{
    return timer_new(type, SCALE_NS, cb, opaque);
}

static inline QEMUTimer *timer_new_us(QEMUClockType type, QEMUTimerCB *cb, void *opaque)
{
    return timer_new(type, SCALE_US, cb, opaque);
}

static inline QEMUTimer *timer_new_ms(QEMUClockType type, QEMUTimerCB *cb, void *opaque)
{
    return timer_new(type, SCALE_MS, cb, opaque);
}

static inline void timer_mod(QEMUTimer *ts, int64_t expire_time)
{
    qcontext_timer_mod(&ts->native, expire_time);
}

static inline void timer_mod_ns(QEMUTimer *ts, int64_t expire_time)
{
    qcontext_timer_mod_ns(&ts->native, expire_time);
}

static inline void timer_mod_anticipate(QEMUTimer *ts, int64_t expire_time)
{
    qcontext_timer_anticipate(&ts->native, expire_time);
}

static inline void timer_mod_anticipate_ns(QEMUTimer *ts, int64_t expire_time)
{
    qcontext_timer_anticipate_ns(&ts->native, expire_time);
}

static inline void timer_del(QEMUTimer *ts)
{
    qcontext_timer_del(&ts->native);
}

static inline void timer_deinit(QEMUTimer *ts)
{
    timer_del(ts);
}

static inline void timer_free(QEMUTimer *ts)
{
    if (ts) {
        timer_del(ts);
        g_free(ts);
    }
}

static inline bool timer_pending(QEMUTimer *ts)
{
    return qcontext_timer_pending(&ts->native);
}

static inline uint64_t timer_expire_time_ns(QEMUTimer *ts)
{
    return (uint64_t)qcontext_timer_expire_time_ns(&ts->native);
}

static inline bool timer_expired(QEMUTimer *ts, int64_t current_time)
{
    int64_t expires = qcontext_timer_expire_time_ns(&ts->native);

    return expires >= 0 && expires <= current_time * ts->native.scale;
}

/* ---- Bottom halves ---- */

typedef void QEMUBHFunc(void *opaque);
typedef struct MemReentrancyGuard {
    bool engaged_in_io;
} MemReentrancyGuard;

typedef struct QEMUBH {
    QContextBh *native;
    QEMUBHFunc *cb;
    void *opaque;
    const char *name;
    MemReentrancyGuard *guard;
} QEMUBH;

/* The callback may free the bottom half, and its device with the guard's pointer in it. */
static inline void aio_bh_call(QEMUBH *bh)
{
    MemReentrancyGuard *guard = bh->guard;
    bool engaged = guard && guard->engaged_in_io;

    if (engaged) {
        g_debug("qcontext: bottom half '%s' runs while its device does I/O", bh->name);
    }
    if (guard) {
        guard->engaged_in_io = true;
    }
    bh->cb(bh->opaque);
    if (guard) {
        guard->engaged_in_io = engaged;
    }
}

static inline void qcontext_compat_bh(gpointer data)
{
    aio_bh_call((QEMUBH *)data);
}

/* The destroy notify: after qemu_bh_delete(), or when the AioContext ends before. */
static inline void qcontext_compat_bh_free(gpointer data)
{
    QEMUBH *bh = (QEMUBH *)data;

    qcontext_bh_delete(bh->native);
    g_free(bh);
}

static inline QEMUBH *aio_bh_new_full(AioContext *ctx, QEMUBHFunc *cb, void *opaque, const char *name,
                                      MemReentrancyGuard *guard)
{
    QEMUBH *bh = g_new0(QEMUBH, 1);

    bh->cb = cb;
    bh->opaque = opaque;
    bh->name = name;
    bh->guard = guard;
    bh->native = qcontext_bh_new(ctx, name, qcontext_compat_bh, bh, qcontext_compat_bh_free);
    return bh;
}

static inline void aio_bh_schedule_oneshot_full(AioContext *ctx, QEMUBHFunc *cb, void *opaque, const char *name)
{
    qcontext_bh_oneshot(ctx, name, cb, opaque, NULL);
}

#define aio_bh_new(ctx, cb, opaque) aio_bh_new_full((ctx), (cb), (opaque), #cb, NULL)
#define aio_bh_new_guarded(ctx, cb, opaque, guard) aio_bh_new_full((ctx), (cb), (opaque), #cb, (guard))
#define aio_bh_schedule_oneshot(ctx, cb, opaque) aio_bh_schedule_oneshot_full((ctx), (cb), (opaque), #cb)
#define qemu_bh_new_full(cb, opaque, name, guard) \
    aio_bh_new_full(qcontext_compat_main_aio(), (cb), (opaque), (name), (guard))
#define qemu_bh_new(cb, opaque) qemu_bh_new_full((cb), (opaque), #cb, NULL)
#define qemu_bh_new_guarded(cb, opaque, guard) qemu_bh_new_full((cb), (opaque), #cb, (guard))

static inline void qemu_bh_schedule(QEMUBH *bh)
{
    qcontext_bh_schedule(bh->native);
}

static inline void qemu_bh_schedule_idle(QEMUBH *bh)
{
    qcontext_bh_schedule_idle(bh->native);
}

static inline void qemu_bh_cancel(QEMUBH *bh)
{
    qcontext_bh_cancel(bh->native);
}

static inline void qemu_bh_delete(QEMUBH *bh)
{
    QContextBh *native = bh->native;

    /* Its destroy notify frees the rest. */
    bh->native = NULL;
    qcontext_bh_delete(native);
}

/* ---- AioContexts ---- */

typedef void IOHandler(void *opaque);
typedef int IOCanReadHandler(void *opaque);
typedef bool AioPollFn(void *opaque);

static inline void qcontext_compat_must(GError *error)
{
    if (error) {
        g_error("qcontext: %s", error->message);
    }
}

static inline AioContext *aio_context_new(Error **errp)
{
    return qcontext_aio_new(errp);
}

static inline void aio_context_ref(AioContext *ctx)
{
    qcontext_aio_ref(ctx);
}

static inline void aio_context_unref(AioContext *ctx)
{
    qcontext_aio_unref(ctx);
}

static inline GSource *aio_get_g_source(AioContext *ctx)
{
    GError *error = NULL;
    GSource *source = qcontext_aio_get_g_source(ctx, &error);

    qcontext_compat_must(error);
    return source;
}

static inline bool aio_poll(AioContext *ctx, bool blocking)
{
    GError *error = NULL;
    bool progress = qcontext_aio_poll(ctx, blocking, &error);

    qcontext_compat_must(error);
    return progress;
}

static inline int aio_bh_poll(AioContext *ctx)
{
    GError *error = NULL;
    int progress = qcontext_aio_bh_poll(ctx, &error);

    qcontext_compat_must(error);
    return progress;
}

/* Nanoseconds, -1 for ever. */
static inline int64_t aio_compute_timeout(AioContext *ctx)
{
    return qcontext_aio_compute_timeout(ctx);
}

static inline void aio_notify(AioContext *ctx)
{
    qcontext_aio_notify(ctx);
}

/* A reference to the context whose own AioContext this is, such as an IOThread; NULL for any other. */
static inline QContext *qcontext_compat_context_of(AioContext *ctx)
{
    char **names = qcontext_list_names();
    QContext *found = NULL;

    for (int i = 0; names[i] && !found; i++) {
        QContext *context = qcontext_find_by_name(names[i], NULL);
        AioContext *own = context ? qcontext_get_aio(context, NULL) : NULL;

        if (own == ctx) {
            found = context;
        } else {
            qcontext_unref(context);
        }
        qcontext_aio_unref(own);
    }
    g_strfreev(names);
    return found;
}

static inline void aio_context_set_poll_params(AioContext *ctx, int64_t max_ns, int64_t grow, int64_t shrink,
                                               Error **errp)
{
    QContext *context;

    if (!qcontext_aio_set_poll_params(ctx, max_ns, grow, shrink, errp)) {
        return;
    }
    context = qcontext_compat_context_of(ctx);
    if (context) {
        qcontext_set_property(context, "poll-max-ns", g_variant_new_int64(max_ns), NULL);
        qcontext_set_property(context, "poll-grow", g_variant_new_int64(grow), NULL);
        qcontext_set_property(context, "poll-shrink", g_variant_new_int64(shrink), NULL);
        qcontext_unref(context);
    }
}

static inline void aio_context_set_aio_params(AioContext *ctx, int64_t max_batch)
{
    (void)ctx;
    (void)max_batch;
}

static inline void aio_context_set_thread_pool_params(AioContext *ctx, int64_t min, int64_t max, Error **errp)
{
    qcontext_aio_set_pool_limits(ctx, (uint32_t)min, (uint32_t)max, errp);
}

static inline AioContext *qemu_get_current_aio_context(void)
{
    AioContext *aio = qcontext_aio_get_current();

    /* Borrowed: the thread or its context holds it. */
    qcontext_aio_unref(aio);
    return aio;
}

static inline void qemu_set_current_aio_context(AioContext *ctx)
{
    qcontext_aio_set_current(ctx);
}

static inline bool in_aio_context_home_thread(AioContext *ctx)
{
    return qcontext_aio_is_home(ctx) || qemu_get_current_aio_context() == ctx;
}

/* What a handler needs whose functions have types of their own. */
typedef struct QContextCompatHandler {
    IOHandler *read;
    IOHandler *write;
    IOHandler *ready;
    AioPollFn *poll;
    void *opaque;
} QContextCompatHandler;

static inline void qcontext_compat_read(gpointer data)
{
    QContextCompatHandler *handler = (QContextCompatHandler *)data;

    handler->read(handler->opaque);
}

static inline void qcontext_compat_write(gpointer data)
{
    QContextCompatHandler *handler = (QContextCompatHandler *)data;

    handler->write(handler->opaque);
}

static inline gboolean qcontext_compat_poll(gpointer data)
{
    QContextCompatHandler *handler = (QContextCompatHandler *)data;

    return handler->poll(handler->opaque);
}

static inline void qcontext_compat_ready(gpointer data)
{
    QContextCompatHandler *handler = (QContextCompatHandler *)data;

    handler->ready(handler->opaque);
}

static inline void aio_set_fd_handler(AioContext *ctx, int fd, IOHandler *io_read, IOHandler *io_write,
                                      AioPollFn *io_poll, IOHandler *io_poll_ready, void *opaque)
{
    GError *error = NULL;
    QContextFdOps ops;

    if (!io_read && !io_write) {
        qcontext_aio_remove_fd(ctx, fd);
        return;
    }
    QContextCompatHandler *handler = g_new0(QContextCompatHandler, 1);
    handler->read = io_read;
    handler->write = io_write;
    handler->poll = io_poll;
    handler->ready = io_poll_ready;
    handler->opaque = opaque;
    memset(&ops, 0, sizeof(ops));
    ops.read = io_read ? qcontext_compat_read : NULL;
    ops.write = io_write ? qcontext_compat_write : NULL;
    ops.io_poll = io_poll && io_poll_ready ? qcontext_compat_poll : NULL;
    ops.io_poll_ready = io_poll && io_poll_ready ? qcontext_compat_ready : NULL;
    if (!qcontext_aio_set_fd_handler(ctx, fd, &ops, handler, g_free, &error)) {
        g_free(handler);
    }
    qcontext_compat_must(error);
}

/* ---- Event notifiers ---- */

typedef struct EventNotifier {
    QContextNotifier native;
} EventNotifier;

typedef void EventNotifierHandler(EventNotifier *notifier);

static inline int event_notifier_init(EventNotifier *notifier, int active)
{
    errno = 0;
    return qcontext_notifier_init(&notifier->native, active, NULL) ? 0 : -(errno ? errno : ENFILE);
}

static inline void event_notifier_init_fd(EventNotifier *notifier, int fd)
{
    qcontext_notifier_init_fd(&notifier->native, fd);
}

static inline void event_notifier_cleanup(EventNotifier *notifier)
{
    qcontext_notifier_cleanup(&notifier->native);
}

static inline int event_notifier_set(EventNotifier *notifier)
{
    return qcontext_notifier_set(&notifier->native) ? 0 : -1;
}

static inline int event_notifier_test_and_clear(EventNotifier *notifier)
{
    return qcontext_notifier_test_and_clear(&notifier->native);
}

static inline int event_notifier_get_fd(const EventNotifier *notifier)
{
    return qcontext_notifier_get_fd(&notifier->native);
}

static inline int event_notifier_get_wfd(const EventNotifier *notifier)
{
    return qcontext_notifier_get_wfd(&notifier->native);
}

static inline void aio_set_event_notifier(AioContext *ctx, EventNotifier *notifier, EventNotifierHandler *io_read,
                                          AioPollFn *io_poll, EventNotifierHandler *io_poll_ready)
{
    aio_set_fd_handler(ctx, event_notifier_get_fd(notifier), (IOHandler *)(void (*)(void))io_read, NULL, io_poll,
                       (IOHandler *)(void (*)(void))io_poll_ready, notifier);
}

typedef struct QContextCompatSwitch {
    EventNotifierHandler *begin;
    EventNotifierHandler *end;
    EventNotifier *notifier;
} QContextCompatSwitch;

static inline void qcontext_compat_poll_begin(gpointer data)
{
    QContextCompatSwitch *both = (QContextCompatSwitch *)data;

    both->begin(both->notifier);
}

static inline void qcontext_compat_poll_end(gpointer data)
{
    QContextCompatSwitch *both = (QContextCompatSwitch *)data;

    both->end(both->notifier);
}

/* Without a handler of the notifier it does nothing. */
static inline void aio_set_event_notifier_poll(AioContext *ctx, EventNotifier *notifier,
                                               EventNotifierHandler *io_poll_begin, EventNotifierHandler *io_poll_end)
{
    QContextCompatSwitch *both = g_new0(QContextCompatSwitch, 1);

    both->begin = io_poll_begin;
    both->end = io_poll_end;
    both->notifier = notifier;
    if (!qcontext_aio_set_notifier_poll_cbs(ctx, &notifier->native, io_poll_begin ? qcontext_compat_poll_begin : NULL,
                                            io_poll_end ? qcontext_compat_poll_end : NULL, both, g_free, NULL)
        || (!io_poll_begin && !io_poll_end)) {
        g_free(both);
    }
}

/* ---- The main loop and its lock ---- */

QCONTEXT_COMPAT_SHARED int qcontext_compat_initialized;
QCONTEXT_COMPAT_SHARED GMutex qcontext_compat_bql;
QCONTEXT_COMPAT_SHARED __thread int qcontext_compat_bql_held;
QCONTEXT_COMPAT_SHARED GThread *qcontext_compat_main_thread;

/* A program may define these to bring a lock of its own, which is the big lock then. */
extern void qemu_mutex_lock_iothread(void) __attribute__((weak));
extern void qemu_mutex_unlock_iothread(void) __attribute__((weak));

static inline void bql_lock(void)
{
    if (qemu_mutex_lock_iothread) {
        qemu_mutex_lock_iothread();
    } else {
        g_mutex_lock(&qcontext_compat_bql);
    }
    qcontext_compat_bql_held = 1;
}

static inline void bql_unlock(void)
{
    qcontext_compat_bql_held = 0;
    if (qemu_mutex_unlock_iothread) {
        qemu_mutex_unlock_iothread();
    } else {
        g_mutex_unlock(&qcontext_compat_bql);
    }
}

static inline bool bql_locked(void)
{
    return qcontext_compat_bql_held;
}

static inline int *qcontext_compat_bql_guard(void)
{
    if (bql_locked()) {
        return NULL;
    }
    bql_lock();
    return &qcontext_compat_bql_held;
}

static inline void qcontext_compat_bql_guard_end(int **guard)
{
    if (*guard) {
        bql_unlock();
    }
}

#define BQL_LOCK_GUARD() \
    __attribute__((cleanup(qcontext_compat_bql_guard_end), unused)) int *qcontext_compat_guard_ = qcontext_compat_bql_guard()

static inline void qcontext_compat_before_wait(gpointer data)
{
    (void)data;
    if (qemu_mutex_unlock_iothread) {
        qemu_mutex_unlock_iothread();
    } else if (bql_locked()) {
        bql_unlock();
        qcontext_compat_bql_held = -1;
    }
}

static inline void qcontext_compat_after_wait(gpointer data)
{
    (void)data;
    if (qemu_mutex_lock_iothread) {
        qemu_mutex_lock_iothread();
    } else if (qcontext_compat_bql_held < 0) {
        bql_lock();
    }
}

static inline int qemu_init_main_loop(Error **errp)
{
    if (!qcontext_main_init(errp)) {
        return -EMFILE;
    }
    qcontext_main_set_lock_hooks(qcontext_compat_after_wait, qcontext_compat_before_wait, NULL);
    qcontext_compat_main_thread = g_thread_self();
    g_atomic_int_set(&qcontext_compat_initialized, 1);
    qcontext_aio_set_current(qcontext_compat_main_aio());
    return 0;
}

static inline AioContext *qemu_get_aio_context(void)
{
    return g_atomic_int_get(&qcontext_compat_initialized) ? qcontext_compat_main_aio() : NULL;
}

/* The AioContext of qemu_set_fd_handler(), which the main loop drives besides its main one. Lives as long as the program. */
static inline AioContext *iohandler_get_aio_context(void)
{
    AioContext *aio = qcontext_get_iohandler_aio(qcontext_get_main(), NULL);

    qcontext_aio_unref(aio);
    return aio;
}

/* A new reference, to be attached to the default GMainContext; the main loop serves these handlers with or without it. */
static inline GSource *iohandler_get_g_source(void)
{
    return aio_get_g_source(iohandler_get_aio_context());
}

static inline int main_loop_wait(int nonblocking)
{
    return qcontext_main_iterate(nonblocking);
}

static inline void qemu_notify_event(void)
{
    if (g_atomic_int_get(&qcontext_compat_initialized)) {
        qcontext_notify(qcontext_get_main());
    }
}

static inline bool qemu_in_main_thread(void)
{
    return qcontext_compat_main_thread == g_thread_self() || bql_locked();
}

#define GLOBAL_STATE_CODE() do { } while (0)
#define IO_CODE() do { } while (0)
#define IO_OR_GS_CODE() do { } while (0)

static inline int qcontext_compat_set_fd(QContext *context, int fd, IOCanReadHandler *can_read, IOHandler *read,
                                         IOHandler *write, void *opaque)
{
    GError *error = NULL;

    if (qcontext_set_fd_handler(context, fd, can_read, read, write, opaque, NULL, &error)) {
        return 0;
    }
    g_warning("qcontext: %s", error->message);
    g_error_free(error);
    return -1;
}

static inline int qemu_set_fd_handler(int fd, IOHandler *fd_read, IOHandler *fd_write, void *opaque)
{
    return qcontext_compat_set_fd(qcontext_get_main(), fd, NULL, fd_read, fd_write, opaque);
}

static inline void event_notifier_set_handler(EventNotifier *notifier, EventNotifierHandler *handler)
{
    qemu_set_fd_handler(event_notifier_get_fd(notifier), (IOHandler *)(void (*)(void))handler, NULL, notifier);
}

/* ---- IOThreads: threaded contexts with the AioContext they have ---- */

typedef QContext IOThread;

static inline IOThread *iothread_create(const char *id, Error **errp)
{
    return qcontext_new(id, TRUE, errp);
}

static inline void iothread_stop(IOThread *iothread)
{
    GError *error = NULL;

    qcontext_stop(iothread, &error);
    qcontext_compat_must(error);
}

static inline void iothread_destroy(IOThread *iothread)
{
    iothread_stop(iothread);
    qcontext_unref(iothread);
}

/* Borrowed: as good as the owner's reference. */
static inline IOThread *iothread_by_id(const char *id)
{
    QContext *context = qcontext_find_by_name(id, NULL);

    qcontext_unref(context);
    return context;
}

static inline char *iothread_get_id(IOThread *iothread)
{
    return g_strdup(qcontext_get_id(iothread));
}

/* Borrowed until the iothread is stopped. */
static inline AioContext *iothread_get_aio_context(IOThread *iothread)
{
    AioContext *aio = qcontext_get_aio(iothread, NULL);

    qcontext_aio_unref(aio);
    return aio;
}

static inline GMainContext *iothread_get_g_main_context(IOThread *iothread)
{
    return qcontext_get_context(iothread);
}

static inline bool qemu_in_iothread(void)
{
    QContext *context = qcontext_get_current();
    bool inside = context && context != qcontext_get_main();

    qcontext_unref(context);
    return inside;
}

/* ---- Waiting ---- */

static inline void aio_wait_kick(void)
{
    qcontext_aio_notify(qcontext_compat_main_aio());
}

/* Iterates the AioContext if this is its thread, else the main one, until the condition no longer holds. */
#define AIO_WAIT_WHILE_INTERNAL(ctx, cond)                                                     \
    __extension__({                                                                            \
        bool waited_ = false;                                                                  \
        AioContext *waiting_on_ = (ctx);                                                       \
        if (!waiting_on_ || !in_aio_context_home_thread(waiting_on_)) {                        \
            waiting_on_ = qcontext_compat_main_aio();                                          \
        }                                                                                      \
        while ((cond)) {                                                                       \
            aio_poll(waiting_on_, true);                                                       \
            waited_ = true;                                                                    \
        }                                                                                      \
        waited_;                                                                               \
    })
#define AIO_WAIT_WHILE(ctx, cond) AIO_WAIT_WHILE_INTERNAL(ctx, cond)
#define AIO_WAIT_WHILE_UNLOCKED(ctx, cond) AIO_WAIT_WHILE_INTERNAL(ctx, cond)

typedef struct QContextCompatWait {
    QEMUBHFunc *cb;
    void *opaque;
    int done;
} QContextCompatWait;

static inline void qcontext_compat_wait_bh(void *opaque)
{
    QContextCompatWait *wait = (QContextCompatWait *)opaque;

    wait->cb(wait->opaque);
    g_atomic_int_set(&wait->done, 1);
    aio_wait_kick();
}

static inline void aio_wait_bh_oneshot(AioContext *ctx, QEMUBHFunc *cb, void *opaque)
{
    QContextCompatWait wait = { cb, opaque, 0 };

    aio_bh_schedule_oneshot(ctx, qcontext_compat_wait_bh, &wait);
    AIO_WAIT_WHILE_UNLOCKED(ctx, !g_atomic_int_get(&wait.done));
}

/* ---- Worker threads ---- */

typedef int ThreadPoolFunc(void *opaque);
typedef void BlockCompletionFunc(void *opaque, int ret);

typedef struct BlockDriverState BlockDriverState;
typedef struct BlockAIOCB BlockAIOCB;

typedef struct AIOCBInfo {
    /* Asks for an early end; NULL where there is none. */
    void (*cancel_async)(BlockAIOCB *acb);
    /* Of the structure that begins with a BlockAIOCB. */
    size_t aiocb_size;
} AIOCBInfo;

struct BlockAIOCB {
    const AIOCBInfo *aiocb_info;
    BlockDriverState *bs;
    BlockCompletionFunc *cb;
    void *opaque;
    int refcnt;
};

static inline void *qemu_aio_get(const AIOCBInfo *aiocb_info, BlockDriverState *bs, BlockCompletionFunc *cb,
                                 void *opaque)
{
    BlockAIOCB *acb = (BlockAIOCB *)g_malloc0(aiocb_info->aiocb_size);

    acb->aiocb_info = aiocb_info;
    acb->bs = bs;
    acb->cb = cb;
    acb->opaque = opaque;
    acb->refcnt = 1;
    return acb;
}

static inline void qemu_aio_ref(void *p)
{
    g_atomic_int_inc(&((BlockAIOCB *)p)->refcnt);
}

static inline void qemu_aio_unref(void *p)
{
    if (g_atomic_int_dec_and_test(&((BlockAIOCB *)p)->refcnt)) {
        g_free(p);
    }
}

static inline void bdrv_aio_cancel_async(BlockAIOCB *acb)
{
    if (acb->aiocb_info->cancel_async) {
        acb->aiocb_info->cancel_async(acb);
    }
}

/* Iterates the thread's AioContext, else the main one, until the completion has run and let go of the request. */
static inline void bdrv_aio_cancel(BlockAIOCB *acb)
{
    AioContext *aio = qemu_get_current_aio_context();

    if (!aio) {
        aio = qcontext_compat_main_aio();
    }
    qemu_aio_ref(acb);
    bdrv_aio_cancel_async(acb);
    while (g_atomic_int_get(&acb->refcnt) > 1) {
        aio_poll(aio, true);
    }
    qemu_aio_unref(acb);
}

typedef struct QContextCompatJob {
    BlockAIOCB common;
    QContextJob *job;
} QContextCompatJob;

static inline void qcontext_compat_job_done(gpointer data, int ret)
{
    BlockAIOCB *acb = (BlockAIOCB *)data;

    if (acb->cb) {
        acb->cb(acb->opaque, ret);
    }
}

static inline void qcontext_compat_job_cancel(BlockAIOCB *acb)
{
    qcontext_job_cancel(((QContextCompatJob *)acb)->job);
}

static inline void qcontext_compat_job_end(gpointer data)
{
    qcontext_job_free(((QContextCompatJob *)data)->job);
    qemu_aio_unref(data);
}

static inline BlockAIOCB *thread_pool_submit_aio(ThreadPoolFunc *func, void *arg, BlockCompletionFunc *cb,
                                                 void *opaque)
{
    static const AIOCBInfo info = { qcontext_compat_job_cancel, sizeof(QContextCompatJob) };
    GError *error = NULL;
    QContextCompatJob *request = (QContextCompatJob *)qemu_aio_get(&info, NULL, cb, opaque);

    request->job = qcontext_pool_submit(qemu_get_current_aio_context(), func, arg, qcontext_compat_job_done, request,
                                        qcontext_compat_job_end, &error);
    qcontext_compat_must(error);
    return &request->common;
}

/* ---- The QContext of 2013 ---- */

#if QCONTEXT_COMPAT_API == 2013

#define TYPE_QCONTEXT "qcontext"
#define QEMU_QCONTEXT_MAIN "qcontext-main"
#define SOURCE_TYPE_IOHANDLER "source-type-iohandler"

static inline QContext *qcontext_compat_new(const char *id, bool threaded, Error **errp)
{
    return qcontext_new(id, threaded, errp);
}

/* Borrowed: as good as the owner's reference. */
static inline QContext *qcontext_compat_find_by_name(const char *name, Error **errp)
{
    QContext *context = qcontext_find_by_name(name, errp);

    qcontext_unref(context);
    return context;
}

static inline void qcontext_compat_attach_source(QContext *ctx, GSource *source, const char *name)
{
    GError *error = NULL;

    qcontext_attach_source(ctx, source, name, &error);
    qcontext_compat_must(error);
}

/* Borrowed from the context. */
static inline GSource *qcontext_compat_find_source_by_name(QContext *ctx, const char *name)
{
    GSource *source = qcontext_find_source_by_name(ctx, name);

    if (source) {
        g_source_unref(source);
    }
    return source;
}

static inline void qcontext_compat_destroy_source(QContext *ctx, GSource *source)
{
    qcontext_destroy_source(ctx, source);
}

static inline gboolean qcontext_compat_iterate(QContext *ctx, gboolean blocking)
{
    GError *error = NULL;
    gboolean progress = qcontext_iterate(ctx, blocking, &error);

    qcontext_compat_must(error);
    return progress;
}

/* A threaded context runs from the beginning. */
static inline void qcontext_create_thread(QContext *ctx)
{
    (void)ctx;
}

static inline void qcontext_stop_thread(QContext *ctx)
{
    iothread_stop(ctx);
}

static inline QContext *qemu_get_qcontext(void)
{
    return qcontext_get_main();
}

/* Every context has its iohandlers from the beginning. */
static inline void iohandler_attach(QContext *ctx)
{
    (void)ctx;
}

static inline int set_fd_handler2(QContext *ctx, int fd, IOCanReadHandler *fd_read_poll, IOHandler *fd_read,
                                  IOHandler *fd_write, void *opaque)
{
    return qcontext_compat_set_fd(ctx, fd, fd_read_poll, fd_read, fd_write, opaque);
}

static inline int set_fd_handler(QContext *ctx, int fd, IOHandler *fd_read, IOHandler *fd_write, void *opaque)
{
    return set_fd_handler2(ctx, fd, NULL, fd_read, fd_write, opaque);
}

static inline int qemu_set_fd_handler2(int fd, IOCanReadHandler *fd_read_poll, IOHandler *fd_read, IOHandler *fd_write,
                                       void *opaque)
{
    return set_fd_handler2(qemu_get_qcontext(), fd, fd_read_poll, fd_read, fd_write, opaque);
}

/* Whether a handler waited for something; the loop does not ask. */
typedef int AioFlushHandler(void *opaque);
typedef int AioFlushEventNotifierHandler(EventNotifier *notifier);

static inline AioContext *qcontext_compat_aio_context_new(void)
{
    GError *error = NULL;
    AioContext *ctx = qcontext_aio_new(&error);

    qcontext_compat_must(error);
    return ctx;
}

static inline void qcontext_compat_aio_set_fd_handler(AioContext *ctx, int fd, IOHandler *io_read, IOHandler *io_write,
                                                      AioFlushHandler *io_flush, void *opaque)
{
    (void)io_flush;
    aio_set_fd_handler(ctx, fd, io_read, io_write, NULL, NULL, opaque);
}

static inline void qcontext_compat_aio_set_event_notifier(AioContext *ctx, EventNotifier *notifier,
                                                          EventNotifierHandler *io_read,
                                                          AioFlushEventNotifierHandler *io_flush)
{
    (void)io_flush;
    aio_set_event_notifier(ctx, notifier, io_read, NULL, NULL);
}

static inline QEMUBH *qcontext_compat_aio_bh_new(AioContext *ctx, QEMUBHFunc *cb, void *opaque)
{
    return aio_bh_new_full(ctx, cb, opaque, "bh", NULL);
}

static inline int qcontext_compat_qemu_init_main_loop(void)
{
    return qemu_init_main_loop(NULL);
}

/* There is no lock around an AioContext. */
static inline void aio_context_acquire(AioContext *ctx)
{
    (void)ctx;
}

static inline void aio_context_release(AioContext *ctx)
{
    (void)ctx;
}

/* Clocks were objects. */
typedef struct QEMUClock {
    QEMUClockType type;
} QEMUClock;

QCONTEXT_COMPAT_SHARED QEMUClock qcontext_compat_rt_clock = { QEMU_CLOCK_REALTIME };
QCONTEXT_COMPAT_SHARED QEMUClock qcontext_compat_vm_clock = { QEMU_CLOCK_VIRTUAL };
QCONTEXT_COMPAT_SHARED QEMUClock qcontext_compat_host_clock = { QEMU_CLOCK_HOST };
#define rt_clock (&qcontext_compat_rt_clock)
#define vm_clock (&qcontext_compat_vm_clock)
#define host_clock (&qcontext_compat_host_clock)

static inline QEMUTimer *qemu_new_timer(QEMUClock *clock, int scale, QEMUTimerCB *cb, void *opaque)
{
    return timer_new(clock->type, scale, cb, opaque);
}

static inline QEMUTimer *qemu_new_timer_ns(QEMUClock *clock, QEMUTimerCB *cb, void *opaque)
{
    return qemu_new_timer(clock, SCALE_NS, cb, opaque);
}

static inline QEMUTimer *qemu_new_timer_ms(QEMUClock *clock, QEMUTimerCB *cb, void *opaque)
{
    return qemu_new_timer(clock, SCALE_MS, cb, opaque);
}

static inline void qemu_mod_timer(QEMUTimer *ts, int64_t expire_time)
{
    timer_mod(ts, expire_time);
}

static inline void qemu_mod_timer_ns(QEMUTimer *ts, int64_t expire_time)
{
    timer_mod_ns(ts, expire_time);
}

static inline void qemu_del_timer(QEMUTimer *ts)
{
    timer_del(ts);
}

static inline void qemu_free_timer(QEMUTimer *ts)
{
    timer_free(ts);
}

static inline bool qemu_timer_pending(QEMUTimer *ts)
{
    return timer_pending(ts);
}

static inline int64_t qemu_get_clock_ns(QEMUClock *clock)
{
    return qemu_clock_get_ns(clock->type);
}

static inline int64_t qemu_get_clock_ms(QEMUClock *clock)
{
    return qemu_clock_get_ms(clock->type);
}

static inline void aio_context_attach(AioContext *aio, QContext *ctx)
{
    GError *error = NULL;

    qcontext_aio_attach(aio, ctx, NULL, &error);
    qcontext_compat_must(error);
}

#define qcontext_new qcontext_compat_new
#define qcontext_find_by_name qcontext_compat_find_by_name
#define qcontext_attach_source qcontext_compat_attach_source
#define qcontext_find_source_by_name qcontext_compat_find_source_by_name
#define qcontext_destroy_source qcontext_compat_destroy_source
#define qcontext_iterate qcontext_compat_iterate
#define aio_context_new qcontext_compat_aio_context_new
#define aio_set_fd_handler qcontext_compat_aio_set_fd_handler
#define aio_set_event_notifier qcontext_compat_aio_set_event_notifier
#undef aio_bh_new
#define aio_bh_new qcontext_compat_aio_bh_new
#define qemu_init_main_loop qcontext_compat_qemu_init_main_loop

#endif /* QCONTEXT_COMPAT_API == 2013 */

#ifdef __cplusplus
}
#endif

#endif /* QCONTEXT_COMPAT_H */
