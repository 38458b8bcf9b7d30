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
 *  - aio_poll() of an attached AioContext also serves the other AioContexts of its context, but not iohandlers, and
 *    aio_compute_timeout() counts them.
 *  - An fd that cannot be watched causes a warning. A function with a result returns -1.
 *  - An Error is a GError. The native functions do not know error_abort and error_fatal; those here do.
 *
 * Other headers, such as QEMU's own, may define some of these types. Include them before this one and define, before this one,
 *  - QCONTEXT_COMPAT_WITHOUT_AIO_CONTEXT: AioContext is another structure. Only pointers to it are used.
 *  - QCONTEXT_COMPAT_WITHOUT_ERROR: Error is another type. error_setg() sets it.
 *  - QCONTEXT_COMPAT_WITHOUT_IOTHREAD: IOThread and the functions of its own are absent here.
 *  - QCONTEXT_COMPAT_WITHOUT_MEM_REENTRANCY_GUARD: MemReentrancyGuard is another structure. It begins with the bool of this one.
 *  - QCONTEXT_COMPAT_WITHOUT_NOTIFIER: Notifier is another structure. It has the function notify().
 */
#ifndef QCONTEXT_COMPAT_H
#define QCONTEXT_COMPAT_H

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
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

/* ---- Errors ---- */

#ifndef QCONTEXT_COMPAT_WITHOUT_ERROR

typedef GError Error;

/* An error that is stored in one of these ends the program with its message: by abort(), and by exit(1). */
QCONTEXT_COMPAT_SHARED Error *error_abort;
QCONTEXT_COMPAT_SHARED Error *error_fatal;

static inline void qcontext_compat_propagate(Error **errp, GError *error)
{
    if (!error) {
        return;
    }
    if (errp == &error_abort || errp == &error_fatal) {
        const char *program = g_get_prgname();

        g_printerr("%s: %s\n", program ? program : "qcontext", error->message);
        if (errp == &error_abort) {
            abort();
        }
        exit(1);
    }
    g_propagate_error(errp, error);
}

#else

static inline void qcontext_compat_propagate(Error **errp, GError *error)
{
    if (error) {
        error_setg(errp, "%s", error->message);
        g_error_free(error);
    }
}

#endif

/* An error where QEMU's function has no way to report one. */
static inline void qcontext_compat_must(GError *error)
{
    if (error) {
        g_error("qcontext: %s", error->message);
    }
}

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

#ifndef QCONTEXT_COMPAT_WITHOUT_AIO_CONTEXT
typedef QContextAio AioContext;
#endif
typedef struct QEMUTimerListGroup QEMUTimerListGroup;
typedef void QEMUTimerCB(void *opaque);
typedef void QEMUTimerListNotifyCB(void *opaque, QEMUClockType type);

typedef struct QEMUTimer {
    QContextTimer native;
} QEMUTimer;

static inline QContextAio *qcontext_compat_native(AioContext *ctx)
{
    return (QContextAio *)ctx;
}

/* Takes over a reference, for callers that borrow: what they get lives as long as the context or thread that has it. */
static inline AioContext *qcontext_compat_borrowed(QContextAio *aio)
{
    qcontext_aio_unref(aio);
    return (AioContext *)aio;
}

static inline AioContext *qcontext_compat_main_aio(void)
{
    return qcontext_compat_borrowed(qcontext_get_aio(qcontext_get_main(), NULL));
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

/* Nanoseconds until the first timer of any AioContext is due; -1 without one. */
static inline int64_t qemu_clock_deadline_ns_all(QEMUClockType type, int attr_mask)
{
    (void)attr_mask;
    return qcontext_clock_deadline_ns((uint32_t)type);
}

/* Moves the virtual clock forwards and fires timers on the way, as qcontext_clock_step_ns() says. The answer is the new time. */
static inline int64_t qemu_clock_advance_virtual_time(int64_t dest)
{
    int64_t now = qemu_clock_get_ns(QEMU_CLOCK_VIRTUAL);

    if (dest > now) {
        qcontext_clock_step_ns(QCONTEXT_CLOCK_VIRTUAL, dest - now, NULL);
    }
    return qemu_clock_get_ns(QEMU_CLOCK_VIRTUAL);
}

/* The wall clock, in nanoseconds. */
static inline int64_t get_clock_realtime(void)
{
    return qcontext_clock_get_ns(QCONTEXT_CLOCK_HOST);
}

/* A timeout for poll(2). Rounds up; -1 is for ever. */
static inline int qemu_timeout_ns_to_ms(int64_t ns)
{
    int64_t ms = ns / SCALE_MS + (ns % SCALE_MS > 0);

    return ns < 0 ? -1 : (int)MIN(ms, INT32_MAX);
}

static inline int qemu_poll_ns(GPollFD *fds, guint nfds, int64_t timeout)
{
    return qcontext_poll_ns(fds, nfds, timeout);
}

static inline void aio_timer_init_with_attrs(AioContext *ctx, QEMUTimer *ts, QEMUClockType type, int scale,
                                             int attributes, QEMUTimerCB *cb, void *opaque)
{
    (void)attributes;
    qcontext_timer_init(&ts->native, qcontext_compat_native(ctx), (uint32_t)type, scale, cb, opaque);
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
#ifndef QCONTEXT_COMPAT_WITHOUT_MEM_REENTRANCY_GUARD
typedef struct MemReentrancyGuard {
    bool engaged_in_io;
} MemReentrancyGuard;
#endif

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
    bool *engaged_in_io = (bool *)bh->guard;
    bool engaged = engaged_in_io && *engaged_in_io;

    if (engaged) {
        g_debug("qcontext: bottom half '%s' runs while its device does I/O", bh->name);
    }
    if (engaged_in_io) {
        *engaged_in_io = true;
    }
    bh->cb(bh->opaque);
    if (engaged_in_io) {
        *engaged_in_io = engaged;
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
    bh->native = qcontext_bh_new(qcontext_compat_native(ctx), name, qcontext_compat_bh, bh, qcontext_compat_bh_free);
    return bh;
}

static inline void aio_bh_schedule_oneshot_full(AioContext *ctx, QEMUBHFunc *cb, void *opaque, const char *name)
{
    qcontext_bh_oneshot(qcontext_compat_native(ctx), name, cb, opaque, NULL);
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

typedef void IOReadHandler(void *opaque, const uint8_t *buf, int size);
typedef void IOHandler(void *opaque);
typedef int IOCanReadHandler(void *opaque);
typedef bool AioPollFn(void *opaque);

/* An AioContext that has taken its fds, because aio_poll() cannot report that there are none left. */
static inline QContextAio *qcontext_compat_open_aio(GError **error)
{
    QContextAio *aio = qcontext_aio_new(error);
    GError *refused = NULL;

    if (aio) {
        qcontext_aio_poll(aio, FALSE, &refused);
    }
    if (refused) {
        qcontext_aio_unref(aio);
        g_propagate_error(error, refused);
        return NULL;
    }
    return aio;
}

static inline AioContext *aio_context_new(Error **errp)
{
    GError *error = NULL;
    AioContext *ctx = (AioContext *)qcontext_compat_open_aio(&error);

    qcontext_compat_propagate(errp, error);
    return ctx;
}

static inline void aio_context_ref(AioContext *ctx)
{
    qcontext_aio_ref(qcontext_compat_native(ctx));
}

static inline void aio_context_unref(AioContext *ctx)
{
    qcontext_aio_unref(qcontext_compat_native(ctx));
}

static inline GSource *aio_get_g_source(AioContext *ctx)
{
    GError *error = NULL;
    GSource *source = qcontext_aio_get_g_source(qcontext_compat_native(ctx), &error);

    qcontext_compat_must(error);
    return source;
}

static inline bool aio_poll(AioContext *ctx, bool blocking)
{
    GError *error = NULL;
    bool progress = qcontext_aio_poll(qcontext_compat_native(ctx), blocking, &error);

    qcontext_compat_must(error);
    return progress;
}

static inline int aio_bh_poll(AioContext *ctx)
{
    GError *error = NULL;
    int progress = qcontext_aio_bh_poll(qcontext_compat_native(ctx), &error);

    qcontext_compat_must(error);
    return progress;
}

/* Nanoseconds, -1 for ever. */
static inline int64_t aio_compute_timeout(AioContext *ctx)
{
    return qcontext_aio_compute_timeout(qcontext_compat_native(ctx));
}

static inline void aio_notify(AioContext *ctx)
{
    qcontext_aio_notify(qcontext_compat_native(ctx));
}

static inline void aio_notify_accept(AioContext *ctx)
{
    GError *error = NULL;

    qcontext_aio_notify_accept(qcontext_compat_native(ctx), &error);
    qcontext_compat_must(error);
}

/* A reference to the context whose own AioContext this is, such as an IOThread; NULL for any other. */
static inline QContext *qcontext_compat_context_of(AioContext *ctx)
{
    char **names = qcontext_list_names();
    QContext *found = NULL;

    for (int i = 0; names[i] && !found; i++) {
        QContext *context = qcontext_find_by_name(names[i], NULL);
        QContextAio *own = context ? qcontext_get_aio(context, NULL) : NULL;

        if (own == qcontext_compat_native(ctx)) {
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
    GError *error = NULL;
    QContext *context;

    if (!qcontext_aio_set_poll_params(qcontext_compat_native(ctx), max_ns, grow, shrink, &error)) {
        qcontext_compat_propagate(errp, error);
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
    GError *error = NULL;

    qcontext_aio_set_pool_limits(qcontext_compat_native(ctx), (uint32_t)min, (uint32_t)max, &error);
    qcontext_compat_propagate(errp, error);
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
        qcontext_aio_remove_fd(qcontext_compat_native(ctx), fd);
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
    if (!qcontext_aio_set_fd_handler(qcontext_compat_native(ctx), fd, &ops, handler, g_free, &error)) {
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
    if (!qcontext_aio_set_notifier_poll_cbs(qcontext_compat_native(ctx), &notifier->native,
                                            io_poll_begin ? qcontext_compat_poll_begin : NULL,
                                            io_poll_end ? qcontext_compat_poll_end : NULL, both, g_free, NULL)
        || (!io_poll_begin && !io_poll_end)) {
        g_free(both);
    }
}

/* ---- The main loop and its lock ---- */

QCONTEXT_COMPAT_SHARED int qcontext_compat_initialized;
QCONTEXT_COMPAT_SHARED pthread_mutex_t qcontext_compat_bql = PTHREAD_MUTEX_INITIALIZER;
QCONTEXT_COMPAT_SHARED __thread int qcontext_compat_bql_held;
QCONTEXT_COMPAT_SHARED GThread *qcontext_compat_main_thread;

struct QemuCond;

/* A program may define the first two to bring a lock of its own, which is the big lock then. Without the third, only what
 * bql_lock() has taken counts as held; without the fourth, qemu_cond_wait_bql() ends the program. */
extern void qemu_mutex_lock_iothread(void) __attribute__((weak));
extern void qemu_mutex_unlock_iothread(void) __attribute__((weak));
extern bool qemu_mutex_iothread_locked(void) __attribute__((weak));
extern void qemu_cond_wait_iothread(struct QemuCond *cond) __attribute__((weak));

static inline void bql_lock(void)
{
    if (qemu_mutex_lock_iothread) {
        qemu_mutex_lock_iothread();
    } else {
        pthread_mutex_lock(&qcontext_compat_bql);
    }
    qcontext_compat_bql_held = 1;
}

static inline void bql_unlock(void)
{
    qcontext_compat_bql_held = 0;
    if (qemu_mutex_unlock_iothread) {
        qemu_mutex_unlock_iothread();
    } else {
        pthread_mutex_unlock(&qcontext_compat_bql);
    }
}

static inline bool bql_locked(void)
{
    return qemu_mutex_iothread_locked ? qemu_mutex_iothread_locked() : qcontext_compat_bql_held;
}

/* Waits for a QemuCond, which begins with a pthread_cond_t, without the big lock. */
static inline void qemu_cond_wait_bql(void *cond)
{
    qcontext_compat_bql_held = 0;
    if (qemu_cond_wait_iothread) {
        qemu_cond_wait_iothread((struct QemuCond *)cond);
    } else if (qemu_mutex_lock_iothread) {
        g_error("qcontext: a program with a big lock of its own has to define qemu_cond_wait_iothread()");
    } else {
        pthread_cond_wait((pthread_cond_t *)cond, &qcontext_compat_bql);
    }
    qcontext_compat_bql_held = 1;
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
    GError *error = NULL;

    if (!qcontext_main_init(&error)) {
        qcontext_compat_propagate(errp, error);
        return -EMFILE;
    }
    qcontext_main_set_lock_hooks(qcontext_compat_after_wait, qcontext_compat_before_wait, NULL);
    qcontext_compat_main_thread = g_thread_self();
    g_atomic_int_set(&qcontext_compat_initialized, 1);
    qcontext_aio_set_current(qcontext_compat_native(qcontext_compat_main_aio()));
    return 0;
}

static inline AioContext *qemu_get_aio_context(void)
{
    return g_atomic_int_get(&qcontext_compat_initialized) ? qcontext_compat_main_aio() : NULL;
}

/* The main one for a thread that holds the big lock and has none of its own. */
static inline AioContext *qemu_get_current_aio_context(void)
{
    AioContext *ctx = qcontext_compat_borrowed(qcontext_aio_get_current());

    return ctx || !bql_locked() ? ctx : qemu_get_aio_context();
}

static inline void qemu_set_current_aio_context(AioContext *ctx)
{
    qcontext_aio_set_current(qcontext_compat_native(ctx));
}

static inline bool in_aio_context_home_thread(AioContext *ctx)
{
    return qcontext_aio_is_home(qcontext_compat_native(ctx)) || qemu_get_current_aio_context() == ctx;
}

/* The AioContext of qemu_set_fd_handler(), which the main loop drives besides its main one. aio_poll() of the main one does not
 * serve it. Lives as long as the program. */
static inline AioContext *iohandler_get_aio_context(void)
{
    return qcontext_compat_borrowed(qcontext_get_iohandler_aio(qcontext_get_main(), NULL));
}

/* A new reference, to be attached to the default GMainContext; the main loop serves these handlers with or without it. */
static inline GSource *iohandler_get_g_source(void)
{
    return aio_get_g_source(iohandler_get_aio_context());
}

static inline int main_loop_wait(int nonblocking)
{
    GError *error = NULL;
    int dispatched = qcontext_main_poll(!nonblocking, &error);

    qcontext_compat_must(error);
    return dispatched;
}

#ifndef QCONTEXT_COMPAT_WITHOUT_NOTIFIER
typedef struct Notifier Notifier;
struct Notifier {
    void (*notify)(Notifier *notifier, void *data);
};
#endif

/* The states of a MainLoopPoll. The main loop does not use the second. */
enum { MAIN_LOOP_POLL_FILL, MAIN_LOOP_POLL_ERR, MAIN_LOOP_POLL_OK };

/* What main_loop_wait() tells its notifiers before and after the wait: GPollFDs, and milliseconds, where UINT32_MAX is for ever. */
typedef struct MainLoopPoll {
    int state;
    uint32_t timeout;
    GArray *pollfds;
} MainLoopPoll;

typedef struct QContextCompatPollNotifier QContextCompatPollNotifier;
struct QContextCompatPollNotifier {
    Notifier *notifier;
    uint32_t hook;
    QContextCompatPollNotifier *next;
};

QCONTEXT_COMPAT_SHARED pthread_mutex_t qcontext_compat_notifiers_lock = PTHREAD_MUTEX_INITIALIZER;
QCONTEXT_COMPAT_SHARED QContextCompatPollNotifier *qcontext_compat_notifiers;

static inline void qcontext_compat_poll_fill(GArray *pollfds, int *timeout_ms, gpointer data)
{
    Notifier *notifier = (Notifier *)data;
    MainLoopPoll poll = { MAIN_LOOP_POLL_FILL, *timeout_ms < 0 ? UINT32_MAX : (uint32_t)*timeout_ms, pollfds };

    notifier->notify(notifier, &poll);
    *timeout_ms = poll.timeout == UINT32_MAX ? -1 : (int)MIN(poll.timeout, (uint32_t)INT32_MAX);
}

static inline void qcontext_compat_poll_polled(GArray *pollfds, gpointer data)
{
    Notifier *notifier = (Notifier *)data;
    MainLoopPoll poll = { MAIN_LOOP_POLL_OK, 0, pollfds };

    notifier->notify(notifier, &poll);
}

static inline void main_loop_poll_add_notifier(Notifier *notify)
{
    QContextCompatPollNotifier *added = g_new0(QContextCompatPollNotifier, 1);

    added->notifier = notify;
    added->hook = qcontext_main_add_poll_hook(qcontext_compat_poll_fill, qcontext_compat_poll_polled, notify, NULL);
    pthread_mutex_lock(&qcontext_compat_notifiers_lock);
    added->next = qcontext_compat_notifiers;
    qcontext_compat_notifiers = added;
    pthread_mutex_unlock(&qcontext_compat_notifiers_lock);
}

static inline void main_loop_poll_remove_notifier(Notifier *notify)
{
    QContextCompatPollNotifier *found, **place = &qcontext_compat_notifiers;

    pthread_mutex_lock(&qcontext_compat_notifiers_lock);
    while (*place && (*place)->notifier != notify) {
        place = &(*place)->next;
    }
    found = *place;
    if (found) {
        *place = found->next;
    }
    pthread_mutex_unlock(&qcontext_compat_notifiers_lock);
    if (found) {
        qcontext_main_remove_poll_hook(found->hook, NULL);
        g_free(found);
    }
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

static inline void qcontext_compat_stop(QContext *context)
{
    GError *error = NULL;

    qcontext_stop(context, &error);
    qcontext_compat_must(error);
}

#ifndef QCONTEXT_COMPAT_WITHOUT_IOTHREAD

typedef QContext IOThread;

static inline IOThread *iothread_create(const char *id, Error **errp)
{
    GError *error = NULL;
    IOThread *iothread = qcontext_new(id, TRUE, &error);

    qcontext_compat_propagate(errp, error);
    return iothread;
}

static inline void iothread_stop(IOThread *iothread)
{
    qcontext_compat_stop(iothread);
}

static inline void iothread_destroy(IOThread *iothread)
{
    qcontext_compat_stop(iothread);
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
    return qcontext_compat_borrowed(qcontext_get_aio(iothread, NULL));
}

static inline GMainContext *iothread_get_g_main_context(IOThread *iothread)
{
    return qcontext_get_context(iothread);
}

#endif

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
    aio_notify(qcontext_compat_main_aio());
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

/* Those of 2013 are in that year's header. */
#if QCONTEXT_COMPAT_API != 2013

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

    request->job = qcontext_pool_submit(qcontext_compat_native(qemu_get_current_aio_context()), func, arg,
                                        qcontext_compat_job_done, request, qcontext_compat_job_end, &error);
    qcontext_compat_must(error);
    return &request->common;
}

#endif /* QCONTEXT_COMPAT_API != 2013 */

#ifdef __cplusplus
}
#endif

#if QCONTEXT_COMPAT_API == 2013
#include "qcontext-compat-2013.h"
#endif

#endif /* QCONTEXT_COMPAT_H */
