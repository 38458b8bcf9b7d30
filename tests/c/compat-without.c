/* Types that the program's own headers define, as QEMU's do, can be left out of the compatibility header, each alone or all. Each
 * is here what it is in QEMU. */
#include <glib.h>
#include <stdarg.h>
#include <stdbool.h>

#ifdef QCONTEXT_COMPAT_WITHOUT_AIO_CONTEXT
typedef struct AioContext AioContext;
#endif

#ifdef QCONTEXT_COMPAT_WITHOUT_ERROR
typedef struct Error Error;
struct Error {
    char message[100];
};

G_GNUC_PRINTF(2, 3)
static void error_setg(Error **errp, const char *format, ...)
{
    va_list list;

    if (errp) {
        *errp = g_new0(Error, 1);
        va_start(list, format);
        g_vsnprintf((*errp)->message, sizeof((*errp)->message), format, list);
        va_end(list);
    }
}
#endif

#ifdef QCONTEXT_COMPAT_WITHOUT_IOTHREAD
typedef struct IOThread {
    int own;
} IOThread;

static IOThread *iothread_by_id(const char *id)
{
    (void)id;
    return g_new0(IOThread, 1);
}
#endif

#ifdef QCONTEXT_COMPAT_WITHOUT_MEM_REENTRANCY_GUARD
typedef struct MemReentrancyGuard {
    bool engaged_in_io;
    int more;
} MemReentrancyGuard;
#endif

#ifdef QCONTEXT_COMPAT_WITHOUT_NOTIFIER
typedef struct Notifier Notifier;
struct Notifier {
    void *list[2];
    void (*notify)(Notifier *notifier, void *data);
};
#endif

#include <qcontext-compat.h>

static AioContext *new_context(void)
{
#if QCONTEXT_COMPAT_API == 2013
    return aio_context_new();
#else
    return aio_context_new(NULL);
#endif
}

static void init(void)
{
#if QCONTEXT_COMPAT_API == 2013
    g_assert_true(qemu_init_main_loop() == 0);
#else
    g_assert_true(qemu_init_main_loop(NULL) == 0);
#endif
}

static void test_error(AioContext *ctx)
{
    Error *err = NULL;

    aio_context_set_poll_params(ctx, -1, 0, 0, &err);
#ifdef QCONTEXT_COMPAT_WITHOUT_ERROR
    g_assert_cmpstr(err->message, ==, "poll-max-ns value must be in range [0, 9223372036854775807]");
    g_free(err);
#else
    g_assert_error(err, QCONTEXT_ERROR, QCONTEXT_ERROR_INVALID_ARGUMENT);
    g_error_free(err);
#endif
    aio_context_set_poll_params(ctx, -1, 0, 0, NULL);
}

static void test_iothread(void)
{
    IOThread *iothread = iothread_by_id("without");

#ifdef QCONTEXT_COMPAT_WITHOUT_IOTHREAD
    g_assert_cmpint(iothread->own, ==, 0);
    g_free(iothread);
#else
    g_assert_null(iothread);
#endif
    g_assert_false(qemu_in_iothread());
}

static void engaged(void *opaque)
{
    g_assert_true(((MemReentrancyGuard *)opaque)->engaged_in_io);
}

static void test_guard(AioContext *ctx)
{
    MemReentrancyGuard guard = { 0 };
    QEMUBH *bh = aio_bh_new_guarded(ctx, engaged, &guard, &guard);

    qemu_bh_schedule(bh);
    g_assert_true(aio_poll(ctx, false));
    g_assert_false(guard.engaged_in_io);
    qemu_bh_delete(bh);
    aio_poll(ctx, false);
}

static int fills;

static void poll_notified(Notifier *notifier, void *data)
{
    (void)notifier;
    fills += ((MainLoopPoll *)data)->state == MAIN_LOOP_POLL_FILL;
}

static void test_notifier(void)
{
    Notifier notifier = { 0 };

    notifier.notify = poll_notified;
    main_loop_poll_add_notifier(&notifier);
    main_loop_wait(true);
    main_loop_poll_remove_notifier(&notifier);
    main_loop_wait(true);
    g_assert_cmpint(fills, ==, 1);
}

int main(void)
{
    AioContext *ctx;

    init();
    ctx = new_context();
    test_error(ctx);
    test_iothread();
    test_guard(ctx);
    test_notifier();
    aio_context_unref(ctx);
    return 0;
}
