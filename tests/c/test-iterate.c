/* Contexts that the program iterates by itself: at once, in steps, with many fds, through an AioContext of their own. */
#include "support.h"

static void test_iterate(void)
{
    QContext *ctx = qcontext_new("iterate", FALSE, NULL), *threaded = new_threaded("iterate-t");
    GError *error = NULL;
    Probe probe = { 0 };

    g_assert_false(qcontext_iterate(ctx, FALSE, NULL));
    g_assert_true(qcontext_invoke(ctx, probe_call, &probe, NULL, NULL));
    g_assert_true(qcontext_iterate(ctx, TRUE, NULL));
    g_assert_cmpint(probe.calls, ==, 1);
    qcontext_notify(ctx);
    g_assert_false(qcontext_iterate(ctx, TRUE, NULL));
    g_assert_false(qcontext_iterate(threaded, FALSE, &error));
    g_assert_error(error, QCONTEXT_ERROR, QCONTEXT_ERROR_WRONG_THREAD);
    g_clear_error(&error);
    g_assert_true(qcontext_stop(ctx, NULL));
    g_assert_false(qcontext_iterate(ctx, FALSE, &error));
    g_assert_error(error, QCONTEXT_ERROR, QCONTEXT_ERROR_CLOSED);
    g_error_free(error);
    g_assert_true(qcontext_stop(threaded, NULL));
    qcontext_unref(ctx);
    qcontext_unref(threaded);
}

/* One iteration by the four steps, as a program with its own poll loop makes it. */
static gboolean step(QContext *ctx, gint timeout_max)
{
    g_autoptr(GArray) fds = g_array_new(FALSE, FALSE, sizeof(GPollFD));
    GPollFD foreign = { .fd = -1 };
    gint priority, timeout;

    g_array_append_val(fds, foreign);
    qcontext_prepare(ctx, &priority);
    gint count = qcontext_append_query(ctx, priority, &timeout, fds);
    g_assert_cmpint(count, ==, (gint)fds->len - 1);
    if (timeout < 0 || timeout > timeout_max) {
        timeout = timeout_max;
    }
    g_poll((GPollFD *)fds->data, fds->len, timeout);
    gboolean ready = qcontext_check(ctx, priority, &g_array_index(fds, GPollFD, 1), count);
    if (ready) {
        qcontext_dispatch(ctx);
    }
    return ready;
}

static void test_steps(void)
{
    QContext *ctx = qcontext_new("steps", FALSE, NULL), *threaded = new_threaded("steps-t");
    g_autoptr(GArray) wrong = g_array_new(FALSE, FALSE, sizeof(char));
    gint timeout;
    Probe probe = { 0 };

    g_assert_false(qcontext_acquire(threaded));
    assert_misuse("*not acquired*", qcontext_dispatch(ctx));
    assert_misuse("*not acquired*", qcontext_release(ctx));
    g_assert_true(qcontext_acquire(ctx));
    while (step(ctx, 0)) {
    }
    g_assert_true(qcontext_invoke(ctx, probe_call, &probe, NULL, NULL));
    /* The prototype livelocked here: prepare said TRUE, and it dispatched without check. */
    g_assert_true(step(ctx, 1000));
    g_assert_cmpint(probe.calls, ==, 1);
    g_assert_false(step(ctx, 0));
    assert_misuse("*not one of GPollFD*", qcontext_append_query(ctx, 0, &timeout, wrong));
    qcontext_release(ctx);
    g_assert_true(qcontext_stop(threaded, NULL));
    qcontext_unref(threaded);
    qcontext_unref(ctx);
}

static void test_many_fds_in_query(void)
{
    /* The prototype read past an array of 2048 entries. */
    enum { COUNT = 2500 };
    QContext *ctx = qcontext_new("many", FALSE, NULL);
    g_autoptr(GArray) fds = g_array_new(FALSE, FALSE, sizeof(GPollFD));
    GSource *source = g_source_new(&(GSourceFuncs) { 0 }, sizeof(GSource));
    GPollFD *entries = g_new0(GPollFD, COUNT);
    gint priority, timeout;

    for (int i = 0; i < COUNT; i++) {
        entries[i].fd = 100000 + i;
        entries[i].events = G_IO_IN;
        g_source_add_poll(source, &entries[i]);
    }
    g_assert_cmpuint(qcontext_attach_source(ctx, source, NULL, NULL), !=, 0);
    g_assert_true(qcontext_acquire(ctx));
    qcontext_prepare(ctx, &priority);
    g_assert_cmpint(qcontext_append_query(ctx, priority, &timeout, fds), >=, COUNT);
    qcontext_release(ctx);
    g_assert_true(qcontext_destroy_source(ctx, source));
    g_source_unref(source);
    g_free(entries);
    qcontext_unref(ctx);
}

static void test_iohandler_aio(void)
{
    /* The fds of the context and those of its iohandlers are one table; its other AioContext is another. */
    QContext *ctx = qcontext_new("iohandlers", FALSE, NULL);
    QContextAio *table = qcontext_get_iohandler_aio(ctx, NULL), *aio = qcontext_get_aio(ctx, NULL);
    GError *error = NULL;
    Probe probe = { 0 };
    int fds[2];

    g_assert_true(table != aio);
    make_pipe(fds);
    g_assert_true(qcontext_add_fd(ctx, fds[0], NULL, probe_call, NULL, &probe, probe_destroy, NULL));
    write_byte(fds[1]);
    g_assert_true(qcontext_iterate(ctx, TRUE, NULL));
    g_assert_cmpint(probe.calls, ==, 1);
    g_assert_false(qcontext_aio_remove_fd(aio, fds[0]));
    g_assert_true(qcontext_aio_remove_fd_sync(table, fds[0], NULL));
    g_assert_cmpint(probe.destroyed, ==, 1);
    g_assert_false(qcontext_remove_fd(ctx, fds[0]));
    qcontext_aio_unref(table);
    qcontext_aio_unref(aio);
    g_assert_true(qcontext_stop(ctx, NULL));
    g_assert_null(qcontext_get_iohandler_aio(ctx, &error));
    g_assert_error(error, QCONTEXT_ERROR, QCONTEXT_ERROR_CLOSED);
    g_error_free(error);
    qcontext_unref(ctx);
    close(fds[0]);
    close(fds[1]);
}

int main(int argc, char **argv)
{
    alarm(TEST_DEADLINE_S);
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/context/iterate", test_iterate);
    g_test_add_func("/context/steps", test_steps);
    g_test_add_func("/context/many-fds-in-query", test_many_fds_in_query);
    g_test_add_func("/context/iohandler-aio", test_iohandler_aio);
    return g_test_run();
}
