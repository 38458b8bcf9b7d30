/* What atexit() handlers see: exit() has ended the thread-local storage of Rust, and none of it may be missed. */
#include "compat-support.h"

static AioContext *main_aio, *worker_aio;
static IOThread *iothread;

static void fail(const char *what)
{
    g_printerr("atexit: %s\n", what);
    _exit(9);
}

#define CHECK(condition) ((condition) ? (void)0 : fail(#condition))

/* exit() runs on the main thread. */
static void main_context_is_there(void)
{
    CHECK(qemu_get_current_aio_context() == main_aio);
    CHECK(qemu_get_aio_context() == main_aio);
    CHECK(in_aio_context_home_thread(main_aio));
}

static void everything_works(void)
{
    int n = 0;
    AioContext *aio = aio_context_new(NULL);
    QEMUBH *bh = aio_bh_new(aio, count, &n);
    QEMUTimer *timer = aio_timer_new(aio, QEMU_CLOCK_REALTIME, SCALE_NS, count, &n);
    EventNotifier e;

    qemu_bh_schedule(bh);
    timer_mod(timer, 0);
    CHECK(aio_poll(aio, true));
    CHECK(n == 2);
    CHECK(event_notifier_init(&e, 0) == 0);
    event_notifier_cleanup(&e);
    qemu_bh_delete(bh);
    timer_free(timer);
    aio_context_unref(aio);
    aio_bh_schedule_oneshot(iothread_get_aio_context(iothread), count, &n);
    aio_wait_bh_oneshot(iothread_get_aio_context(iothread), count, &n);
    CHECK(n == 4);
    iothread_destroy(iothread);
    while (main_loop_wait(true)) {
    }
    qemu_set_current_aio_context(main_aio);
    CHECK(qemu_get_current_aio_context() == main_aio);
}

static void exit_of_the_main_thread(void)
{
    if (g_test_subprocess()) {
        iothread = iothread_create("exit", NULL);
        main_aio = qemu_get_current_aio_context();
        /* Thread-local state that has a destructor is in use. */
        g_assert_nonnull(main_aio);
        atexit(everything_works);
        atexit(main_context_is_there);
        exit(0);
    }
    g_test_trap_subprocess(NULL, 0, G_TEST_SUBPROCESS_INHERIT_STDERR);
    g_test_trap_assert_passed();
}

static void worker_context_is_there(void)
{
    CHECK(qemu_get_current_aio_context() == worker_aio);
}

static gpointer end_program(gpointer unused)
{
    (void)unused;
    worker_aio = aio_context_new(NULL);
    qemu_set_current_aio_context(worker_aio);
    exit(0);
}

static void exit_of_a_thread(void)
{
    if (g_test_subprocess()) {
        atexit(worker_context_is_there);
        g_thread_join(g_thread_new("worker", end_program, NULL));
    }
    g_test_trap_subprocess(NULL, 0, G_TEST_SUBPROCESS_INHERIT_STDERR);
    g_test_trap_assert_passed();
}

static QContext *own;

static void context_is_there(void)
{
    QContext *current = qcontext_get_current();

    CHECK(current == own);
    qcontext_unref(current);
    CHECK(qcontext_is_current(own));
}

static void end_there(gpointer unused)
{
    (void)unused;
    exit(0);
}

static void exit_of_a_contexts_thread(void)
{
    if (g_test_subprocess()) {
        own = qcontext_new("own", TRUE, NULL);
        atexit(context_is_there);
        qcontext_invoke_sync(own, end_there, NULL, NULL);
    }
    g_test_trap_subprocess(NULL, 0, G_TEST_SUBPROCESS_INHERIT_STDERR);
    g_test_trap_assert_passed();
}

static void ended(gpointer counter)
{
    g_atomic_int_inc((int *)counter);
}

static gpointer set_and_return(gpointer counter)
{
    static const QContextFdOps ops = { .read = count };
    AioContext *aio = aio_context_new(NULL);

    /* An fd that lives; its handler goes with the AioContext. */
    g_assert_true(qcontext_aio_set_fd_handler(aio, STDOUT_FILENO, &ops, counter, ended, NULL));
    qemu_set_current_aio_context(aio);
    aio_context_unref(aio);
    return NULL;
}

static void thread_gives_its_context_back(void)
{
    int n = 0;

    g_thread_join(g_thread_new("giver", set_and_return, &n));
    g_assert_cmpint(n, ==, 1);
}

int main(int argc, char **argv)
{
    compat_init(&argc, &argv);
    g_test_add_func("/exit/main-thread", exit_of_the_main_thread);
    g_test_add_func("/exit/thread", exit_of_a_thread);
    g_test_add_func("/exit/context-thread", exit_of_a_contexts_thread);
    g_test_add_func("/exit/thread-gives-its-context-back", thread_gives_its_context_back);
    return compat_run();
}
