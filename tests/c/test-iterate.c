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

static gboolean pending(QContext *ctx)
{
    GError *error = NULL;
    gboolean ready = qcontext_pending(ctx, &error);

    g_assert_no_error(error);
    return ready;
}

static gboolean may_not_read(gpointer unused)
{
    (void)unused;
    return FALSE;
}

static void assert_pending_is_what_iterate_does(QContext *ctx)
{
    Probe probe = { 0 };
    int fds[2];
    QContextAio *aio = qcontext_get_aio(ctx, NULL);
    QContextBh *bh = qcontext_bh_new(aio, "pending", probe_call, &probe, NULL);
    QContextTimer *timer = qcontext_timer_new(aio, QCONTEXT_CLOCK_REALTIME, 1, probe_call, &probe, NULL);
    GSource *idle = g_idle_source_new();

    while (qcontext_iterate(ctx, FALSE, NULL)) {
    }
    g_assert_false(pending(ctx));
    qcontext_notify(ctx);
    g_assert_false(pending(ctx));
    /* Nothing is dispatched, and nothing is lost. */
    qcontext_bh_schedule(bh);
    g_assert_true(pending(ctx) && pending(ctx));
    g_assert_cmpint(probe.calls, ==, 0);
    g_assert_true(qcontext_iterate(ctx, TRUE, NULL));
    g_assert_cmpint(probe.calls, ==, 1);
    g_assert_false(pending(ctx));
    qcontext_timer_mod(timer, 0);
    g_assert_true(pending(ctx));
    g_assert_true(qcontext_iterate(ctx, TRUE, NULL));
    g_assert_cmpint(probe.calls, ==, 2);
    make_pipe(fds);
    g_assert_true(qcontext_add_fd(ctx, fds[0], NULL, probe_call, NULL, &probe, NULL, NULL));
    g_assert_false(pending(ctx));
    write_byte(fds[1]);
    g_assert_true(pending(ctx));
    if (ctx != qcontext_get_main()) {
        /* Read elsewhere: the callback is not called for nothing. GLib, which has found it ready on the main context, would. */
        read_byte(fds[0]);
        g_assert_false(pending(ctx));
        g_assert_false(qcontext_iterate(ctx, FALSE, NULL));
        g_assert_cmpint(probe.calls, ==, 2);
        write_byte(fds[1]);
    }
    g_assert_true(qcontext_iterate(ctx, FALSE, NULL));
    g_assert_cmpint(probe.calls, ==, 3);
    read_byte(fds[0]);
    while (qcontext_iterate(ctx, FALSE, NULL)) {
    }
    g_assert_true(qcontext_set_fd_handler(ctx, fds[0], may_not_read, probe_call, NULL, &probe, NULL, NULL));
    write_byte(fds[1]);
    g_assert_true(!pending(ctx) || ctx == qcontext_get_main());
    g_assert_true(qcontext_remove_fd(ctx, fds[0]));
    while (qcontext_iterate(ctx, FALSE, NULL)) {
    }
    g_source_set_callback(idle, G_SOURCE_FUNC(may_not_read), NULL, NULL);
    g_assert_cmpuint(qcontext_attach_source(ctx, idle, NULL, NULL), !=, 0);
    g_assert_true(pending(ctx));
    g_assert_true(qcontext_iterate(ctx, FALSE, NULL));
    g_assert_false(pending(ctx));
    g_source_unref(idle);
    qcontext_timer_free(timer);
    qcontext_bh_delete(bh);
    qcontext_aio_unref(aio);
    while (qcontext_iterate(ctx, FALSE, NULL)) {
    }
    close(fds[0]);
    close(fds[1]);
}

static void test_pending(void)
{
    GMainContext *gmain = g_main_context_new();
    QContext *own = qcontext_new("pending", FALSE, NULL), *around = qcontext_new_for_main_context(NULL, gmain, NULL);
    QContext *threaded = new_threaded("pending-t");
    GError *error = NULL;

    assert_pending_is_what_iterate_does(own);
    assert_pending_is_what_iterate_does(around);
    assert_pending_is_what_iterate_does(qcontext_get_main());
    g_assert_false(qcontext_pending(threaded, &error));
    g_assert_error(error, QCONTEXT_ERROR, QCONTEXT_ERROR_WRONG_THREAD);
    g_clear_error(&error);
    g_assert_true(qcontext_stop(own, NULL));
    g_assert_false(qcontext_pending(own, &error));
    g_assert_error(error, QCONTEXT_ERROR, QCONTEXT_ERROR_CLOSED);
    g_error_free(error);
    qcontext_stop(threaded, NULL);
    qcontext_unref(threaded);
    qcontext_unref(around);
    qcontext_unref(own);
    g_main_context_unref(gmain);
}

static void assert_found(GMainContext *gmain, QContext *ctx)
{
    QContext *found = qcontext_find_by_main_context(gmain);

    g_assert_true(found == ctx);
    qcontext_unref(found);
}

static void store_current(gpointer place)
{
    QContext *current = qcontext_get_current();

    *(QContext **)place = current;
    qcontext_unref(current);
}

static void test_find_by_main_context(void)
{
    GMainContext *wrapped = g_main_context_new(), *other = g_main_context_new();
    QContext *threaded = new_threaded("by-gmain"), *seen = NULL;
    QContext *unnamed = qcontext_new(NULL, FALSE, NULL), *around = qcontext_new_for_main_context("around", wrapped, NULL);

    assert_found(NULL, qcontext_get_main());
    assert_found(g_main_context_default(), qcontext_get_main());
    assert_found(qcontext_get_context(threaded), threaded);
    assert_found(qcontext_get_context(unnamed), unnamed);
    assert_found(wrapped, around);
    assert_found(other, NULL);
    /* An unnamed one still has no name, and is known to whoever iterates it with GLib. */
    g_assert_null(qcontext_find_by_name(qcontext_get_id(unnamed), NULL));
    g_assert_true(qcontext_invoke(unnamed, store_current, &seen, NULL, NULL));
    while (!seen) {
        g_main_context_iteration(qcontext_get_context(unnamed), FALSE);
    }
    g_assert_true(seen == unnamed);
    qcontext_unref(around);
    assert_found(wrapped, NULL);
    qcontext_stop(threaded, NULL);
    qcontext_unref(threaded);
    qcontext_unref(unnamed);
    g_main_context_unref(wrapped);
    g_main_context_unref(other);
}

static gpointer poll_main(gpointer place)
{
    return GINT_TO_POINTER(qcontext_main_poll(FALSE, (GError **)place));
}

static void test_main_poll(void)
{
    GError *error = NULL;
    Probe probe = { 0 };

    while (qcontext_main_poll(FALSE, NULL)) {
    }
    g_assert_true(qcontext_invoke(qcontext_get_main(), probe_call, &probe, NULL, NULL));
    g_assert_true(qcontext_main_poll(TRUE, &error));
    g_assert_no_error(error);
    g_assert_cmpint(probe.calls, ==, 1);
    g_assert_true(qcontext_acquire(qcontext_get_main()));
    g_assert_false(GPOINTER_TO_INT(g_thread_join(g_thread_new("poll", poll_main, &error))));
    g_assert_error(error, QCONTEXT_ERROR, QCONTEXT_ERROR_WRONG_THREAD);
    g_error_free(error);
    qcontext_release(qcontext_get_main());
G_GNUC_BEGIN_IGNORE_DEPRECATIONS
    g_assert_cmpint(qcontext_main_iterate(TRUE), ==, 0);
    g_assert_true(qcontext_invoke(qcontext_get_main(), probe_call, &probe, NULL, NULL));
    g_assert_cmpint(qcontext_main_iterate(FALSE), ==, 1);
G_GNUC_END_IGNORE_DEPRECATIONS
    g_assert_cmpint(probe.calls, ==, 2);
}

static void test_notify_accept(void)
{
    QContextAio *aio = qcontext_aio_new(NULL);
    QContext *threaded = new_threaded("accept-t");
    QContextAio *driven = qcontext_get_aio(threaded, NULL);
    GError *error = NULL;
    Probe probe = { 0 };
    QContextTimer *timer = qcontext_timer_new(aio, QCONTEXT_CLOCK_REALTIME, 1, probe_call, &probe, NULL);

    qcontext_aio_notify(aio);
    g_assert_false(qcontext_aio_poll(aio, TRUE, NULL));
    /* Accepted, it does not end the wait, which lasts until the timer is due. */
    qcontext_aio_notify(aio);
    qcontext_timer_mod(timer, qcontext_clock_get_ns(QCONTEXT_CLOCK_REALTIME) + 20 * 1000 * 1000);
    g_assert_true(qcontext_aio_notify_accept(aio, NULL));
    g_assert_true(qcontext_aio_poll(aio, TRUE, NULL));
    g_assert_cmpint(probe.calls, ==, 1);
    /* Nothing of what was announced is lost. */
    g_assert_true(qcontext_bh_oneshot(aio, "announced", probe_call, &probe, NULL));
    g_assert_true(qcontext_aio_notify_accept(aio, NULL));
    g_assert_true(qcontext_aio_poll(aio, TRUE, NULL));
    g_assert_cmpint(probe.calls, ==, 2);
    g_assert_false(qcontext_aio_notify_accept(driven, &error));
    g_assert_error(error, QCONTEXT_ERROR, QCONTEXT_ERROR_WRONG_THREAD);
    g_error_free(error);
    qcontext_timer_free(timer);
    qcontext_aio_unref(aio);
    qcontext_aio_unref(driven);
    qcontext_stop(threaded, NULL);
    qcontext_unref(threaded);
}

int main(int argc, char **argv)
{
    alarm(TEST_DEADLINE_S);
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/context/iterate", test_iterate);
    g_test_add_func("/context/steps", test_steps);
    g_test_add_func("/context/many-fds-in-query", test_many_fds_in_query);
    g_test_add_func("/context/iohandler-aio", test_iohandler_aio);
    g_test_add_func("/context/pending", test_pending);
    g_test_add_func("/context/find-by-main-context", test_find_by_main_context);
    g_test_add_func("/context/main-poll", test_main_poll);
    g_test_add_func("/context/notify-accept", test_notify_accept);
    return g_test_run();
}
