/* Fd handlers of a context: callbacks, pausing, the three removals, and locks around all of it. */
#include "support.h"

static void on_read(gpointer data)
{
    Probe *probe = data;

    read_byte(probe->fd);
    probe_call(data);
}

static void on_write(gpointer data)
{
    g_atomic_int_inc(&((Probe *)data)->write_calls);
}

static void test_read(void)
{
    QContext *ctx = new_threaded("fd-read");
    GError *error = NULL;
    int fds[2];
    make_pipe(fds);
    Probe probe = { .fd = fds[0] };
    gpointer home = home_of(ctx);

    g_assert_true(qcontext_add_fd(ctx, fds[0], NULL, on_read, NULL, &probe, probe_destroy, &error));
    g_assert_no_error(error);
    write_byte(fds[1]);
    wait_for(&probe.calls, 1);
    g_assert_true(probe.call_thread == home);
    g_assert_false(qcontext_add_fd(ctx, fds[0], NULL, on_read, NULL, &probe, probe_destroy, &error));
    g_assert_error(error, QCONTEXT_ERROR, QCONTEXT_ERROR_EXISTS);
    g_clear_error(&error);
    g_assert_cmpint(probe.destroyed, ==, 0);
    g_assert_true(qcontext_remove_fd(ctx, fds[0]));
    g_assert_false(qcontext_remove_fd(ctx, fds[0]));
    close(fds[0]);
    close(fds[1]);
    wait_for(&probe.destroyed, 1);
    g_assert_true(probe.destroy_thread == home);
    g_assert_true(qcontext_stop(ctx, NULL));
    g_assert_cmpint(probe.destroyed, ==, 1);
    qcontext_unref(ctx);
}

static void test_read_callback_only_for_reads(void)
{
    /* The prototype called the read callback on any event. */
    QContext *ctx = qcontext_new("fd-masked", FALSE, NULL);
    int fds[2];
    make_pipe(fds);
    Probe probe = { .fd = fds[1] };

    g_assert_true(qcontext_set_fd_handler(ctx, fds[1], NULL, on_read, on_write, &probe, NULL, NULL));
    g_assert_true(qcontext_iterate(ctx, TRUE, NULL));
    g_assert_cmpint(probe.write_calls, >, 0);
    g_assert_cmpint(probe.calls, ==, 0);
    g_assert_true(qcontext_remove_fd(ctx, fds[1]));
    close(fds[0]);
    close(fds[1]);
    qcontext_unref(ctx);
}

static void test_failure_takes_nothing(void)
{
    QContext *ctx = qcontext_new("fd-fail", FALSE, NULL);
    GError *error = NULL;
    Probe probe = { 0 };
    int fds[2];

    make_pipe(fds);
    close(fds[0]);
    close(fds[1]);
    g_assert_false(qcontext_set_fd_handler(ctx, fds[0], NULL, on_read, NULL, &probe, probe_destroy, &error));
    g_assert_error(error, QCONTEXT_ERROR, QCONTEXT_ERROR_OS);
    g_clear_error(&error);
    g_assert_false(qcontext_add_fd(ctx, -1, NULL, on_read, NULL, &probe, probe_destroy, &error));
    g_assert_error(error, QCONTEXT_ERROR, QCONTEXT_ERROR_INVALID_ARGUMENT);
    g_clear_error(&error);
    g_assert_false(qcontext_add_fd(ctx, 0, NULL, NULL, NULL, &probe, probe_destroy, &error));
    g_assert_error(error, QCONTEXT_ERROR, QCONTEXT_ERROR_INVALID_ARGUMENT);
    g_clear_error(&error);
    g_assert_true(qcontext_stop(ctx, NULL));
    g_assert_false(qcontext_set_fd_handler(ctx, 0, NULL, on_read, NULL, &probe, probe_destroy, &error));
    g_assert_error(error, QCONTEXT_ERROR, QCONTEXT_ERROR_CLOSED);
    g_error_free(error);
    qcontext_unref(ctx);
    g_assert_cmpint(probe.destroyed, ==, 0);
}

static gboolean may_read(gpointer data)
{
    return g_atomic_int_get((gint *)((Probe *)data)->act_data);
}

static void test_can_read_pauses(void)
{
    QContext *ctx = qcontext_new("fd-pause", FALSE, NULL);
    gint allowed = FALSE;
    int fds[2];
    make_pipe(fds);
    Probe probe = { .fd = fds[0], .act_data = &allowed };

    g_assert_true(qcontext_set_fd_handler(ctx, fds[0], may_read, on_read, NULL, &probe, NULL, NULL));
    write_byte(fds[1]);
    for (int i = 0; i < 5; i++) {
        qcontext_iterate(ctx, FALSE, NULL);
    }
    g_assert_cmpint(probe.calls, ==, 0);
    allowed = TRUE;
    qcontext_notify(ctx);
    while (!probe.calls) {
        qcontext_iterate(ctx, TRUE, NULL);
    }
    g_assert_cmpint(probe.calls, ==, 1);
    g_assert_true(qcontext_remove_fd_sync(ctx, fds[0], NULL));
    close(fds[0]);
    close(fds[1]);
    qcontext_unref(ctx);
}

static void remove_self(gpointer data)
{
    Probe *probe = data;
    QContext *ctx = probe->act_data;
    GError *error = NULL;

    g_assert_false(qcontext_remove_fd_sync(ctx, probe->fd, &error));
    g_assert_error(error, QCONTEXT_ERROR, QCONTEXT_ERROR_WOULD_DEADLOCK);
    g_error_free(error);
    g_assert_true(qcontext_remove_fd(ctx, probe->fd));
    /* Not while its callback runs. */
    g_assert_cmpint(probe->destroyed, ==, 0);
}

static void test_remove_inside_callback(void)
{
    QContext *ctx = new_threaded("fd-self");
    int fds[2];
    make_pipe(fds);
    Probe probe = { .fd = fds[0], .act = remove_self, .act_data = ctx };

    g_assert_true(qcontext_add_fd(ctx, fds[0], NULL, on_read, NULL, &probe, probe_destroy, NULL));
    write_byte(fds[1]);
    wait_for(&probe.destroyed, 1);
    write_byte(fds[1]);
    settle(ctx);
    g_assert_cmpint(probe.calls, ==, 1);
    g_assert_true(probe.destroy_thread == probe.call_thread);
    g_assert_true(qcontext_stop(ctx, NULL));
    g_assert_cmpint(probe.destroyed, ==, 1);
    close(fds[0]);
    close(fds[1]);
    qcontext_unref(ctx);
}

static void linger(gpointer data)
{
    (void)data;
    g_usleep(20000);
}

static void test_remove_sync_waits(void)
{
    QContext *ctx = new_threaded("fd-sync");
    GError *error = NULL;
    int fds[2];

    make_pipe(fds);
    for (int i = 0; i < 10; i++) {
        Probe *probe = g_new0(Probe, 1);

        probe->fd = fds[0];
        probe->act = linger;
        g_assert_true(qcontext_add_fd(ctx, fds[0], NULL, on_read, NULL, probe, probe_destroy, NULL));
        write_byte(fds[1]);
        while (!g_atomic_pointer_get(&probe->call_thread)) {
            g_usleep(10);
        }
        /* The callback is running; afterwards the data may go. */
        g_assert_true(qcontext_remove_fd_sync(ctx, fds[0], NULL));
        g_assert_cmpint(probe->calls, ==, 1);
        g_assert_cmpint(probe->destroyed, ==, 1);
        memset(probe, 0xff, sizeof(*probe));
        g_free(probe);
    }
    g_assert_false(qcontext_remove_fd_sync(ctx, fds[0], &error));
    g_assert_error(error, QCONTEXT_ERROR, QCONTEXT_ERROR_NOT_FOUND);
    g_error_free(error);
    g_assert_true(qcontext_stop(ctx, NULL));
    close(fds[0]);
    close(fds[1]);
    qcontext_unref(ctx);
}

static void test_remove_sync_while_nobody_runs(void)
{
    QContext *ctx = qcontext_new("fd-undriven", FALSE, NULL);
    int fds[2];
    make_pipe(fds);
    Probe probe = { .fd = fds[0] };

    g_assert_true(qcontext_add_fd(ctx, fds[0], NULL, on_read, NULL, &probe, probe_destroy, NULL));
    g_assert_true(qcontext_remove_fd_sync(ctx, fds[0], NULL));
    g_assert_cmpint(probe.destroyed, ==, 1);
    close(fds[0]);
    close(fds[1]);
    qcontext_unref(ctx);
}

static void test_remove_async(void)
{
    QContext *ctx = new_threaded("fd-async"), *other = new_threaded("fd-async-done");
    int fds[2];
    make_pipe(fds);
    Probe probe = { .fd = fds[0] }, done = { 0 };
    gpointer home = home_of(other);

    g_assert_true(qcontext_add_fd(ctx, fds[0], NULL, on_read, NULL, &probe, probe_destroy, NULL));
    g_assert_true(qcontext_remove_fd_async(ctx, fds[0], probe_call, &done, other));
    g_assert_false(qcontext_remove_fd_async(ctx, fds[0], probe_call, &done, NULL));
    wait_for(&done.calls, 1);
    g_assert_cmpint(probe.destroyed, ==, 1);
    g_assert_true(done.call_thread == home);
    g_assert_true(qcontext_stop(ctx, NULL) && qcontext_stop(other, NULL));
    g_assert_cmpint(done.calls, ==, 1);
    close(fds[0]);
    close(fds[1]);
    qcontext_unref(ctx);
    qcontext_unref(other);
}

static GMutex big_lock;

static void take_lock(gpointer data)
{
    Probe *probe = data;

    read_byte(probe->fd);
    g_mutex_lock(&big_lock);
    probe_call(data);
    g_mutex_unlock(&big_lock);
}

static gboolean ask_under_lock(gpointer data)
{
    (void)data;
    g_mutex_lock(&big_lock);
    g_mutex_unlock(&big_lock);
    return TRUE;
}

static void test_abba(void)
{
    /* The prototype held its list's lock around callbacks and read_poll. */
    QContext *ctx = new_threaded("fd-abba");
    int fds[2];

    make_pipe(fds);
    for (int i = 0; i < 500; i++) {
        Probe *probe = g_new0(Probe, 1);

        probe->fd = fds[0];
        g_mutex_lock(&big_lock);
        g_assert_true(qcontext_set_fd_handler(ctx, fds[0], ask_under_lock, take_lock, NULL, probe, g_free, NULL));
        write_byte(fds[1]);
        g_thread_yield();
        g_assert_true(qcontext_remove_fd(ctx, fds[0]));
        g_mutex_unlock(&big_lock);
    }
    g_assert_true(qcontext_stop(ctx, NULL));
    close(fds[0]);
    close(fds[1]);
    qcontext_unref(ctx);
}

static void test_reused_number(void)
{
    /* A closed fd whose file lives on, and whose number is reused: no spin, no callback of the old handler. */
    QContext *ctx = new_threaded("fd-reuse");
    int fds[2], fresh[2], twin;
    make_pipe(fds);
    make_pipe(fresh);
    Probe old = { .fd = fds[0] }, new = { .fd = fds[0] };

    twin = dup(fds[0]);
    g_assert_true(qcontext_add_fd(ctx, fds[0], NULL, on_read, NULL, &old, probe_destroy, NULL));
    g_assert_true(qcontext_remove_fd(ctx, fds[0]));
    write_byte(fds[1]);
    /* Closes it and opens it again, in one step. */
    g_assert_cmpint(dup2(fresh[0], fds[0]), ==, fds[0]);
    g_assert_true(qcontext_add_fd(ctx, fds[0], NULL, on_read, NULL, &new, probe_destroy, NULL));
    write_byte(fresh[1]);
    wait_for(&new.calls, 1);
    settle(ctx);
    g_assert_cmpint(old.calls, ==, 0);
    g_assert_cmpint(new.calls, ==, 1);
    g_assert_true(qcontext_stop(ctx, NULL));
    g_assert_cmpint(old.destroyed + new.destroyed, ==, 2);
    close(twin);
    close(fds[0]);
    close(fds[1]);
    close(fresh[0]);
    close(fresh[1]);
    qcontext_unref(ctx);
}

static void test_null(void)
{
    QContext *main_context = qcontext_get_main();

    assert_misuse("*NULL", g_assert_false(qcontext_add_fd(NULL, 0, NULL, nothing, NULL, NULL, NULL, NULL)));
    assert_misuse("*NULL", g_assert_false(qcontext_set_fd_handler(NULL, 0, NULL, nothing, NULL, NULL, NULL, NULL)));
    assert_misuse("*NULL", g_assert_false(qcontext_remove_fd(NULL, 0)));
    assert_misuse("*NULL", g_assert_false(qcontext_remove_fd_sync(NULL, 0, NULL)));
    assert_misuse("*NULL", g_assert_false(qcontext_remove_fd_async(NULL, 0, NULL, NULL, NULL)));
    g_assert_true(qcontext_set_fd_handler(main_context, 1000, NULL, NULL, NULL, NULL, NULL, NULL));
    g_assert_false(qcontext_remove_fd(main_context, 1000));
}

int main(int argc, char **argv)
{
    alarm(TEST_DEADLINE_S);
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/fd/read", test_read);
    g_test_add_func("/fd/read-callback-only-for-reads", test_read_callback_only_for_reads);
    g_test_add_func("/fd/failure-takes-nothing", test_failure_takes_nothing);
    g_test_add_func("/fd/can-read-pauses", test_can_read_pauses);
    g_test_add_func("/fd/remove-inside-callback", test_remove_inside_callback);
    g_test_add_func("/fd/remove-sync-waits", test_remove_sync_waits);
    g_test_add_func("/fd/remove-sync-while-nobody-runs", test_remove_sync_while_nobody_runs);
    g_test_add_func("/fd/remove-async", test_remove_async);
    g_test_add_func("/fd/abba", test_abba);
    g_test_add_func("/fd/reused-number", test_reused_number);
    g_test_add_func("/fd/null", test_null);
    return g_test_run();
}
