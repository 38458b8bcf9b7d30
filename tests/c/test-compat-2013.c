/* The QContext of 2013 by its names and signatures, with a lock of the program's own. */
#define QCONTEXT_COMPAT_API 2013
#include <qcontext-compat.h>
#include <unistd.h>

static GMutex iothread_lock;
static int drops;

void qemu_mutex_lock_iothread(void)
{
    g_mutex_lock(&iothread_lock);
}

void qemu_mutex_unlock_iothread(void)
{
    drops++;
    g_mutex_unlock(&iothread_lock);
}

static int fds[2], readable, reads;

static int read_poll(void *opaque)
{
    (void)opaque;
    return g_atomic_int_get(&readable);
}

static void on_read(void *opaque)
{
    char byte;

    g_assert_cmpint(read(fds[0], &byte, 1), ==, 1);
    g_atomic_int_inc((int *)opaque);
}

static void test_new_and_find(void)
{
    QContext *ctx = qcontext_new("test-ctx1", false, NULL);
    Error *err = NULL;

    g_assert_nonnull(ctx);
    g_assert_true(qcontext_find_by_name("test-ctx1", NULL) == ctx);
    g_assert_null(qcontext_find_by_name("nosuch", &err));
    g_assert_nonnull(err);
    g_error_free(err);
    g_assert_true(qcontext_find_by_name(QEMU_QCONTEXT_MAIN, NULL) == qemu_get_qcontext());
    /* Neither absent nor unnamed sources are a NULL dereference. */
    GSource *unnamed = g_idle_source_new();
    qcontext_attach_source(ctx, unnamed, NULL);
    g_assert_null(qcontext_find_source_by_name(ctx, "nosuch"));
    qcontext_destroy_source(ctx, unnamed);
    g_source_unref(unnamed);
    while (qcontext_iterate(ctx, false)) {
    }
    qcontext_notify(ctx);
    g_assert_false(qcontext_iterate(ctx, true));
    qcontext_unref(ctx);
}

static void test_read_poll(void)
{
    QContext *ctx = qcontext_new("poll-ctx", false, NULL);

    g_assert_cmpint(pipe(fds), ==, 0);
    iohandler_attach(ctx);
    g_assert_cmpint(set_fd_handler2(ctx, fds[0], read_poll, on_read, NULL, &reads), ==, 0);
    g_assert_cmpint(write(fds[1], "ab", 2), ==, 2);
    for (int i = 0; i < 5; i++) {
        qcontext_iterate(ctx, false);
    }
    g_assert_cmpint(reads, ==, 0);
    readable = 1;
    while (reads < 2) {
        qcontext_iterate(ctx, true);
    }
    g_assert_cmpint(set_fd_handler(ctx, fds[0], NULL, NULL, NULL), ==, 0);
    g_assert_cmpint(write(fds[1], "c", 1), ==, 1);
    qcontext_iterate(ctx, false);
    g_assert_cmpint(reads, ==, 2);
    close(fds[0]);
    close(fds[1]);
    qcontext_unref(ctx);
}

static void test_closed_fd(void)
{
    /* Closed without being removed: the loop neither ends nor spins. */
    QContext *ctx = qcontext_new("closed-ctx", false, NULL);
    int n = 0;

    g_assert_cmpint(pipe(fds), ==, 0);
    set_fd_handler(ctx, fds[0], on_read, NULL, &n);
    close(fds[0]);
    close(fds[1]);
    while (qcontext_iterate(ctx, false)) {
    }
    g_assert_cmpint(n, ==, 0);
    set_fd_handler(ctx, fds[0], NULL, NULL, NULL);
    qcontext_unref(ctx);
}

static gpointer write_later(gpointer unused)
{
    (void)unused;
    /* Possible only while the loop waits without the lock. */
    qemu_mutex_lock_iothread();
    g_assert_cmpint(write(fds[1], "x", 1), ==, 1);
    g_mutex_unlock(&iothread_lock);
    return NULL;
}

static void test_main_loop_drops_the_lock(void)
{
    int n = 0;

    g_assert_cmpint(pipe(fds), ==, 0);
    while (main_loop_wait(true)) {
    }
    qemu_mutex_lock_iothread();
    qemu_set_fd_handler2(fds[0], NULL, on_read, NULL, &n);
    GThread *thread = g_thread_new("writer", write_later, NULL);
    drops = 0;
    while (!n) {
        main_loop_wait(false);
    }
    g_assert_cmpint(drops, >, 0);
    qemu_set_fd_handler2(fds[0], NULL, NULL, NULL, NULL);
    qemu_notify_event();
    while (main_loop_wait(true)) {
    }
    qemu_notify_event();
    g_assert_cmpint(main_loop_wait(true), ==, 1);
    g_assert_cmpint(main_loop_wait(true), ==, 0);
    g_mutex_unlock(&iothread_lock);
    g_thread_join(thread);
    close(fds[0]);
    close(fds[1]);
}

static void test_threaded(void)
{
    QContext *ctx = qcontext_new("thread-ctx", true, NULL);
    AioContext *aio = aio_context_new();

    aio_context_attach(aio, ctx);
    qcontext_create_thread(ctx);
    qcontext_stop_thread(ctx);
    qcontext_stop_thread(ctx);
    aio_context_unref(aio);
    qcontext_unref(ctx);
}

int main(int argc, char **argv)
{
    alarm(120);
    g_test_init(&argc, &argv, NULL);
    g_assert_cmpint(qemu_init_main_loop(), ==, 0);
    g_test_add_func("/2013/new-and-find", test_new_and_find);
    g_test_add_func("/2013/read-poll", test_read_poll);
    g_test_add_func("/2013/closed-fd", test_closed_fd);
    g_test_add_func("/2013/main-loop-drops-the-lock", test_main_loop_drops_the_lock);
    g_test_add_func("/2013/threaded", test_threaded);
    return g_test_run();
}
