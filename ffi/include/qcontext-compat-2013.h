/* The QContext of 2013, by its names and signatures. qcontext-compat.h includes this at the level 2013.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * aio_poll(ctx, true) blocks as in 10.x: until something happens, also if no handler is busy. Its io_flush callbacks are not called.
 */
#ifndef QCONTEXT_COMPAT_2013_H
#define QCONTEXT_COMPAT_2013_H

#ifdef __cplusplus
extern "C" {
#endif

#define TYPE_QCONTEXT "qcontext"
#define QEMU_QCONTEXT_MAIN "qcontext-main"
#define SOURCE_TYPE_IOHANDLER "source-type-iohandler"

static inline QContext *qcontext_compat_new(const char *id, bool threaded, Error **errp)
{
    GError *error = NULL;
    QContext *context = qcontext_new(id, threaded, &error);

    qcontext_compat_propagate(errp, error);
    return context;
}

/* Borrowed: as good as the owner's reference. */
static inline QContext *qcontext_compat_find_by_name(const char *name, Error **errp)
{
    GError *error = NULL;
    QContext *context = qcontext_find_by_name(name, &error);

    qcontext_compat_propagate(errp, error);
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
    qcontext_compat_stop(ctx);
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
    AioContext *ctx = (AioContext *)qcontext_compat_open_aio(&error);

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

    qcontext_aio_attach(qcontext_compat_native(aio), ctx, NULL, &error);
    qcontext_compat_must(error);
}

/* ---- Worker threads ---- */

typedef struct BlockDriverAIOCB BlockDriverAIOCB;
typedef BlockCompletionFunc BlockDriverCompletionFunc;

typedef struct AIOCBInfo {
    /* Returns when the callback has run, or will not run. */
    void (*cancel)(BlockDriverAIOCB *acb);
    /* Of the structure that begins with a BlockDriverAIOCB. */
    size_t aiocb_size;
} AIOCBInfo;

struct BlockDriverAIOCB {
    const AIOCBInfo *aiocb_info;
    BlockDriverState *bs;
    BlockDriverCompletionFunc *cb;
    void *opaque;
};

static inline void *qemu_aio_get(const AIOCBInfo *aiocb_info, BlockDriverState *bs, BlockDriverCompletionFunc *cb,
                                 void *opaque)
{
    BlockDriverAIOCB *acb = (BlockDriverAIOCB *)g_malloc0(aiocb_info->aiocb_size);

    acb->aiocb_info = aiocb_info;
    acb->bs = bs;
    acb->cb = cb;
    acb->opaque = opaque;
    return acb;
}

static inline void qemu_aio_release(void *p)
{
    g_free(p);
}

static inline void bdrv_aio_cancel(BlockDriverAIOCB *acb)
{
    acb->aiocb_info->cancel(acb);
}

/* The pool of an AioContext is the AioContext. */
typedef struct ThreadPool ThreadPool;

/* Borrowed from the AioContext. */
static inline ThreadPool *aio_get_thread_pool(AioContext *ctx)
{
    return (ThreadPool *)ctx;
}

static inline ThreadPool *thread_pool_new(AioContext *ctx)
{
    aio_context_ref(ctx);
    return aio_get_thread_pool(ctx);
}

static inline void thread_pool_free(ThreadPool *pool)
{
    aio_context_unref((AioContext *)pool);
}

typedef struct QContextCompatElement {
    BlockDriverAIOCB common;
    QContextJob *job;
    ThreadPoolFunc *func;
    void *arg;
    bool cancelled;
    /* Under the lock: the function has returned. */
    bool returned;
    pthread_mutex_t lock;
    pthread_cond_t has_returned;
} QContextCompatElement;

static inline int qcontext_compat_element_run(gpointer data)
{
    QContextCompatElement *element = (QContextCompatElement *)data;
    int ret = element->func(element->arg);

    pthread_mutex_lock(&element->lock);
    element->returned = true;
    pthread_cond_signal(&element->has_returned);
    pthread_mutex_unlock(&element->lock);
    return ret;
}

static inline void qcontext_compat_element_done(gpointer data, int ret)
{
    QContextCompatElement *element = (QContextCompatElement *)data;

    if (element->common.cb && !element->cancelled) {
        element->common.cb(element->common.opaque, ret);
    }
}

static inline void qcontext_compat_element_end(gpointer data)
{
    QContextCompatElement *element = (QContextCompatElement *)data;

    qcontext_job_free(element->job);
    pthread_cond_destroy(&element->has_returned);
    pthread_mutex_destroy(&element->lock);
    qemu_aio_release(element);
}

/* A request that has not begun is taken back, and its callback does not run. For another one this waits until its function has
 * returned; the callback runs in a later iteration. */
static inline void qcontext_compat_element_cancel(BlockDriverAIOCB *acb)
{
    QContextCompatElement *element = (QContextCompatElement *)acb;

    if (element->cancelled) {
        return;
    }
    element->cancelled = qcontext_job_cancel(element->job);
    if (element->cancelled) {
        return;
    }
    pthread_mutex_lock(&element->lock);
    while (!element->returned) {
        pthread_cond_wait(&element->has_returned, &element->lock);
    }
    pthread_mutex_unlock(&element->lock);
}

static inline BlockDriverAIOCB *thread_pool_submit_aio(ThreadPool *pool, ThreadPoolFunc *func, void *arg,
                                                       BlockDriverCompletionFunc *cb, void *opaque)
{
    static const AIOCBInfo info = { qcontext_compat_element_cancel, sizeof(QContextCompatElement) };
    GError *error = NULL;
    QContextCompatElement *element = (QContextCompatElement *)qemu_aio_get(&info, NULL, cb, opaque);

    element->func = func;
    element->arg = arg;
    pthread_mutex_init(&element->lock, NULL);
    pthread_cond_init(&element->has_returned, NULL);
    element->job = qcontext_pool_submit(qcontext_compat_native((AioContext *)pool), qcontext_compat_element_run, element,
                                        qcontext_compat_element_done, element, qcontext_compat_element_end, &error);
    qcontext_compat_must(error);
    return &element->common;
}

static inline void thread_pool_submit(ThreadPool *pool, ThreadPoolFunc *func, void *arg)
{
    thread_pool_submit_aio(pool, func, arg, NULL, NULL);
}

/* ---- Names of native functions and of later ones ---- */

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

#ifdef __cplusplus
}
#endif

#endif /* QCONTEXT_COMPAT_2013_H */
