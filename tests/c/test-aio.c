/* AioContexts: life, as a GSource, attached and moved, who may drive them, locks, jobs. */
#include "support.h"
#include <errno.h>

static void test_life(void)
{
    GError *error = NULL;
    QContextAio *aio = qcontext_aio_new(&error);

    g_assert_no_error(error);
    g_assert_true(qcontext_aio_ref(aio) == aio);
    qcontext_aio_unref(aio);
    qcontext_aio_unref(NULL);
    g_assert_false(qcontext_aio_poll(aio, FALSE, NULL));
    g_assert_false(qcontext_aio_is_home(aio));
    qcontext_aio_notify(aio);
    g_assert_false(qcontext_aio_poll(aio, TRUE, NULL));
    g_assert_null(qcontext_aio_get_current());
    qcontext_aio_set_current(aio);
    QContextAio *current = qcontext_aio_get_current();
    g_assert_true(current == aio);
    qcontext_aio_unref(current);
    qcontext_aio_set_current(NULL);
    g_assert_true(qcontext_aio_set_poll_params(aio, 1000, 2, 2, NULL));
    g_assert_false(qcontext_aio_set_poll_params(aio, -1, 0, 0, &error));
    g_assert_error(error, QCONTEXT_ERROR, QCONTEXT_ERROR_INVALID_ARGUMENT);
    g_error_free(error);
    qcontext_aio_unref(aio);
}

static void test_g_source(void)
{
    QContextAio *aio = qcontext_aio_new(NULL);
    GMainContext *gmain = g_main_context_new();
    GSource *source = qcontext_aio_get_g_source(aio, NULL);
    Probe probe = { 0 };
    QContextBh *bh = qcontext_bh_new(aio, "in-glib", probe_call, &probe, NULL);

    g_source_attach(source, gmain);
    while (g_main_context_iteration(gmain, FALSE)) {
    }
    qcontext_bh_schedule(bh);
    g_assert_true(g_main_context_iteration(gmain, TRUE));
    g_assert_cmpint(probe.calls, ==, 1);
    g_assert_false(g_main_context_iteration(gmain, FALSE));
    qcontext_bh_schedule(bh);
    qcontext_bh_delete(bh);
    g_assert_false(g_main_context_pending(gmain));
    g_assert_false(g_main_context_iteration(gmain, FALSE));
    g_assert_cmpint(probe.calls, ==, 1);
    g_source_destroy(source);
    g_source_unref(source);
    g_main_context_unref(gmain);
    qcontext_aio_unref(aio);
}

static void test_attach_and_move(void)
{
    QContext *a = new_threaded("move-a"), *b = new_threaded("move-b");
    gpointer home_a = home_of(a), home_b = home_of(b);
    QContextAio *aio = qcontext_aio_new(NULL);
    GError *error = NULL;
    Probe probe = { 0 };
    QContextBh *bh = qcontext_bh_new(aio, "moved", probe_call, &probe, probe_destroy);

    g_assert_true(qcontext_aio_attach(aio, a, "disk0", &error));
    g_assert_no_error(error);
    g_assert_false(qcontext_aio_attach(aio, b, NULL, &error));
    g_assert_nonnull(error);
    g_clear_error(&error);
    QContextAio *found = qcontext_find_aio_by_name(a, "disk0");
    g_assert_true(found == aio);
    qcontext_aio_unref(found);
    g_assert_null(qcontext_find_aio_by_name(b, "disk0"));
    g_assert_false(qcontext_aio_poll(aio, FALSE, &error));
    g_assert_error(error, QCONTEXT_ERROR, QCONTEXT_ERROR_WRONG_THREAD);
    g_clear_error(&error);
    for (int i = 0; i < 100; i++) {
        gboolean at_a = i % 2 == 0;
        gint before = probe.calls;

        qcontext_bh_schedule(bh);
        wait_for(&probe.calls, before + 1);
        g_assert_true(probe.call_thread == (at_a ? home_a : home_b));
        g_assert_true(qcontext_aio_move(aio, at_a ? a : b, at_a ? b : a, "disk0", &error));
        g_assert_no_error(error);
    }
    g_assert_true(qcontext_aio_detach(aio, a));
    while ((found = qcontext_find_aio_by_name(a, "disk0"))) {
        qcontext_aio_unref(found);
    }
    g_assert_false(qcontext_aio_detach_sync(aio, a, &error));
    g_assert_error(error, QCONTEXT_ERROR, QCONTEXT_ERROR_NOT_FOUND);
    g_clear_error(&error);
    gint before = probe.calls;
    qcontext_bh_schedule(bh);
    while (probe.calls == before) {
        qcontext_aio_poll(aio, FALSE, NULL);
    }
    qcontext_bh_delete(bh);
    g_assert_true(qcontext_aio_attach(aio, b, NULL, NULL));
    g_assert_true(qcontext_aio_detach_sync(aio, b, NULL));
    g_assert_true(qcontext_stop(a, NULL) && qcontext_stop(b, NULL));
    qcontext_aio_unref(aio);
    g_assert_cmpint(probe.destroyed, ==, 1);
    qcontext_unref(a);
    qcontext_unref(b);
}

static void poll_own_bhs(gpointer data)
{
    QContextAio *aio = ((Probe *)data)->act_data;
    Probe inner = { 0 };

    g_assert_true(qcontext_bh_oneshot(aio, "inner", probe_call, &inner, probe_destroy));
    g_assert_cmpint(qcontext_aio_compute_timeout(aio), ==, 0);
    g_assert_true(qcontext_aio_bh_poll(aio, NULL));
    g_assert_cmpint(inner.calls + inner.destroyed, ==, 2);
}

static void test_driving_from_the_wrong_thread(void)
{
    QContext *ctx = new_threaded("driven");
    QContextAio *aio = qcontext_get_aio(ctx, NULL);
    Probe outer = { .act = poll_own_bhs, .act_data = aio };
    GError *error = NULL;

    g_assert_false(qcontext_aio_bh_poll(aio, &error));
    g_assert_error(error, QCONTEXT_ERROR, QCONTEXT_ERROR_WRONG_THREAD);
    g_error_free(error);
    assert_misuse("*another thread drives*", g_assert_cmpint(qcontext_aio_compute_timeout(aio), ==, 0));
    /* On its own thread, inside a callback, both are allowed. */
    g_assert_true(qcontext_invoke_sync(ctx, probe_call, &outer, NULL));
    g_assert_cmpint(outer.calls, ==, 1);
    qcontext_aio_unref(aio);
    g_assert_true(qcontext_stop(ctx, NULL));
    qcontext_unref(ctx);
}

static void test_compute_timeout(void)
{
    QContextAio *aio = qcontext_aio_new(NULL);
    Probe probe = { 0 };
    QContextBh *bh = qcontext_bh_new(aio, "bh", probe_call, &probe, NULL);
    QContextTimer timer;

    g_assert_cmpint(qcontext_aio_compute_timeout(aio), ==, -1);
    qcontext_aio_notify(aio);
    g_assert_cmpint(qcontext_aio_compute_timeout(aio), ==, -1);
    qcontext_timer_init(&timer, aio, QCONTEXT_CLOCK_REALTIME, 1, probe_call, &probe);
    gint64 hour = 3600 * G_GINT64_CONSTANT(1000000000);
    qcontext_timer_mod_ns(&timer, qcontext_clock_get_ns(QCONTEXT_CLOCK_REALTIME) + hour);
    g_assert_cmpint(qcontext_aio_compute_timeout(aio), <=, hour);
    g_assert_cmpint(qcontext_aio_compute_timeout(aio), >, hour / 2);
    qcontext_bh_schedule_idle(bh);
    g_assert_cmpint(qcontext_aio_compute_timeout(aio), ==, 10000000);
    qcontext_bh_schedule(bh);
    g_assert_cmpint(qcontext_aio_compute_timeout(aio), ==, 0);
    g_assert_true(qcontext_aio_poll(aio, FALSE, NULL));
    qcontext_timer_mod_ns(&timer, 0);
    g_assert_cmpint(qcontext_aio_compute_timeout(aio), ==, 0);
    qcontext_timer_del(&timer);
    g_assert_cmpint(qcontext_aio_compute_timeout(aio), ==, -1);
    qcontext_bh_delete(bh);
    g_assert_cmpint(qcontext_aio_compute_timeout(aio), ==, -1);
    qcontext_aio_unref(aio);
}

static GMutex big_lock;

static void under_lock(gpointer data)
{
    g_mutex_lock(&big_lock);
    g_atomic_int_inc((gint *)data);
    g_mutex_unlock(&big_lock);
}

static void drop_under_lock(gpointer data)
{
    under_lock(data);
}

static void test_abba(void)
{
    /* Registered, changed and removed with a lock held that callbacks and destroy notifies take. */
    QContext *ctx = new_threaded("aio-abba");
    QContextAio *aio = qcontext_get_aio(ctx, NULL);
    QContextFdOps ops = { .read = under_lock };
    gint count = 0;
    int fds[2];

    make_pipe(fds);
    write_byte(fds[1]);
    for (int i = 0; i < 300; i++) {
        g_mutex_lock(&big_lock);
        QContextBh *bh = qcontext_bh_new(aio, "abba", under_lock, &count, drop_under_lock);
        QContextTimer *timer =
            qcontext_timer_new(aio, QCONTEXT_CLOCK_REALTIME, 1, under_lock, &count, drop_under_lock);
        g_assert_true(qcontext_aio_set_fd_handler(aio, fds[0], &ops, &count, drop_under_lock, NULL));
        qcontext_bh_schedule(bh);
        qcontext_timer_mod_ns(timer, 0);
        g_assert_true(qcontext_bh_oneshot(aio, "abba", under_lock, &count, drop_under_lock));
        g_assert_true(qcontext_invoke(ctx, under_lock, &count, drop_under_lock, NULL));
        g_thread_yield();
        g_assert_true(qcontext_aio_remove_fd(aio, fds[0]));
        qcontext_timer_free(timer);
        qcontext_bh_delete(bh);
        QContext *found = qcontext_find_by_name("aio-abba", NULL);
        g_assert_true(found == ctx);
        qcontext_unref(found);
        g_mutex_unlock(&big_lock);
    }
    settle(ctx);
    /* Each of the five destroy notifies once, the two that nothing takes back also called. */
    g_assert_cmpint(g_atomic_int_get(&count), >=, 7 * 300);
    qcontext_aio_unref(aio);
    g_assert_true(qcontext_stop(ctx, NULL));
    qcontext_unref(ctx);
    close(fds[0]);
    close(fds[1]);
}

static gint gate;

static int job(gpointer arg)
{
    while (g_atomic_int_get(&gate)) {
        g_usleep(100);
    }
    g_atomic_int_inc((gint *)arg);
    return 7;
}

static void job_done(gpointer data, int result)
{
    Probe *probe = data;

    probe->fd = result;
    probe_call(data);
}

static void test_pool(void)
{
    QContextAio *aio = qcontext_aio_new(NULL);
    GError *error = NULL;
    gint ran = 0;
    Probe first = { 0 }, second = { 0 }, third = { 0 };

    g_assert_false(qcontext_aio_set_pool_limits(aio, 2, 1, &error));
    g_assert_error(error, QCONTEXT_ERROR, QCONTEXT_ERROR_INVALID_ARGUMENT);
    g_clear_error(&error);
    g_assert_true(qcontext_aio_set_pool_limits(aio, 0, 1, NULL));
    QContextJob *a = qcontext_pool_submit(aio, job, &ran, job_done, &first, probe_destroy, NULL);
    while (!first.calls) {
        qcontext_aio_poll(aio, TRUE, NULL);
    }
    g_assert_cmpint(first.fd, ==, 7);
    g_assert_true(qcontext_job_is_complete(a));
    g_assert_cmpint(first.destroyed, ==, 1);
    g_atomic_int_set(&gate, 1);
    QContextJob *b = qcontext_pool_submit(aio, job, &ran, job_done, &second, probe_destroy, NULL);
    QContextJob *c = qcontext_pool_submit(aio, job, &ran, job_done, &third, probe_destroy, NULL);
    qcontext_job_cancel(c);
    g_assert_cmpint(third.calls, ==, 0);
    g_assert_true(qcontext_job_cancel_sync(c, NULL));
    g_assert_cmpint(third.fd, ==, -ECANCELED);
    g_atomic_int_set(&gate, 0);
    while (!second.calls) {
        qcontext_aio_poll(aio, TRUE, NULL);
    }
    g_assert_cmpint(ran + second.destroyed + third.destroyed, ==, 4);
    qcontext_job_free(a);
    qcontext_job_free(b);
    qcontext_job_free(c);
    qcontext_job_free(NULL);
    qcontext_aio_unref(aio);
}

static gpointer poll_and_schedule(gpointer data)
{
    QContextAio *aio = qcontext_get_aio(qcontext_get_main(), NULL);
    GError *error = NULL;

    qcontext_aio_poll(aio, FALSE, &error);
    g_assert_no_error(error);
    g_assert_true(qcontext_bh_oneshot(aio, "late", probe_call, data, NULL));
    qcontext_aio_unref(aio);
    return NULL;
}

/* Between the prepare and the wait of the main loop, once it is going to sleep. */
static void poll_elsewhere(GArray *fds, int32_t *timeout_ms, gpointer data)
{
    Probe **probe = data;

    (void)fds;
    if (*probe && *timeout_ms != 0) {
        g_thread_join(g_thread_new("poller", poll_and_schedule, *probe));
        *probe = NULL;
    }
}

static void test_poll_elsewhere_hides_nothing_from_the_main_loop(void)
{
    Probe probe = { 0 }, *once = &probe;

    while (qcontext_main_poll(FALSE, NULL)) {
    }
    guint32 hook = qcontext_main_add_poll_hook(poll_elsewhere, NULL, &once, NULL);
    while (probe.calls == 0) {
        qcontext_main_poll(TRUE, NULL);
    }
    g_assert_true(probe.call_thread == g_thread_self());
    g_assert_true(qcontext_main_remove_poll_hook(hook, NULL));
}

static void test_null(void)
{
    QContextFdOps ops = { .read = nothing };
    QContext *main_context = qcontext_get_main();

    qcontext_bh_delete(NULL);
    assert_misuse("*NULL", g_assert_null(qcontext_aio_ref(NULL)));
    assert_misuse("*NULL", g_assert_false(qcontext_aio_bh_poll(NULL, NULL)));
    assert_misuse("*NULL", g_assert_cmpint(qcontext_aio_compute_timeout(NULL), ==, 0));
    assert_misuse("*AioContext is NULL",
                  g_assert_false(qcontext_aio_set_notifier_poll_cbs(NULL, NULL, nothing, NULL, NULL, NULL, NULL)));
    QContextAio *any = qcontext_get_aio(main_context, NULL);
    assert_misuse("*notifier is NULL",
                  g_assert_false(qcontext_aio_set_notifier_poll_cbs(any, NULL, nothing, NULL, NULL, NULL, NULL)));
    qcontext_aio_unref(any);
    assert_misuse("*NULL", g_assert_false(qcontext_aio_poll(NULL, FALSE, NULL)));
    assert_misuse("*NULL", qcontext_aio_notify(NULL));
    assert_misuse("*NULL", g_assert_false(qcontext_aio_is_home(NULL)));
    assert_misuse("*NULL", g_assert_null(qcontext_aio_get_g_source(NULL, NULL)));
    assert_misuse("*NULL", g_assert_false(qcontext_aio_attach(NULL, main_context, NULL, NULL)));
    assert_misuse("*NULL", g_assert_false(qcontext_aio_detach(NULL, main_context)));
    assert_misuse("*NULL", g_assert_false(qcontext_aio_detach_sync(NULL, main_context, NULL)));
    assert_misuse("*NULL", g_assert_false(qcontext_aio_move(NULL, main_context, main_context, NULL, NULL)));
    assert_misuse("*NULL", g_assert_null(qcontext_find_aio_by_name(NULL, "x")));
    assert_misuse("*NULL", g_assert_false(qcontext_aio_set_poll_params(NULL, 0, 0, 0, NULL)));
    assert_misuse("*NULL", g_assert_false(qcontext_aio_set_fd_handler(NULL, 0, &ops, NULL, NULL, NULL)));
    assert_misuse("*NULL", g_assert_false(qcontext_aio_remove_fd(NULL, 0)));
    assert_misuse("*NULL", g_assert_false(qcontext_aio_remove_fd_sync(NULL, 0, NULL)));
    assert_misuse("*NULL", g_assert_null(qcontext_bh_new(NULL, "x", nothing, NULL, NULL)));
    assert_misuse("*NULL", qcontext_bh_schedule(NULL));
    assert_misuse("*NULL", qcontext_bh_schedule_idle(NULL));
    assert_misuse("*NULL", qcontext_bh_cancel(NULL));
    assert_misuse("*NULL", g_assert_false(qcontext_bh_delete_sync(NULL, NULL)));
    assert_misuse("*NULL", g_assert_false(qcontext_bh_oneshot(NULL, "x", nothing, NULL, NULL)));
    assert_misuse("*NULL", qcontext_timer_init(NULL, NULL, 0, 1, nothing, NULL));
    assert_misuse("*NULL", g_assert_null(qcontext_timer_new(NULL, 0, 1, nothing, NULL, NULL)));
    assert_misuse("*NULL", qcontext_timer_mod(NULL, 0));
    assert_misuse("*NULL", qcontext_timer_mod_ns(NULL, 0));
    assert_misuse("*NULL", qcontext_timer_anticipate(NULL, 0));
    assert_misuse("*NULL", qcontext_timer_anticipate_ns(NULL, 0));
    assert_misuse("*NULL", qcontext_timer_del(NULL));
    assert_misuse("*NULL", g_assert_false(qcontext_timer_del_sync(NULL, NULL)));
    assert_misuse("*NULL", g_assert_false(qcontext_timer_pending(NULL)));
    assert_misuse("*NULL", g_assert_cmpint(qcontext_timer_expire_time_ns(NULL), ==, -1));
    QContextTimer zero = { 0 };
    assert_misuse("*not initialised", qcontext_timer_mod(&zero, 0));
    assert_misuse("*NULL", g_assert_false(qcontext_notifier_init(NULL, FALSE, NULL)));
    assert_misuse("*NULL*", qcontext_notifier_init_fd(NULL, 0));
    assert_misuse("*NULL", qcontext_notifier_cleanup(NULL));
    assert_misuse("*NULL", g_assert_false(qcontext_notifier_set(NULL)));
    assert_misuse("*NULL", g_assert_false(qcontext_notifier_test_and_clear(NULL)));
    assert_misuse("*NULL", g_assert_cmpint(qcontext_notifier_get_fd(NULL), ==, -1));
    assert_misuse("*NULL", g_assert_cmpint(qcontext_notifier_get_wfd(NULL), ==, -1));
    assert_misuse("*NULL", g_assert_null(qcontext_pool_submit(NULL, job, NULL, NULL, NULL, NULL, NULL)));
    assert_misuse("*NULL", qcontext_job_cancel(NULL));
    assert_misuse("*NULL", g_assert_false(qcontext_job_cancel_sync(NULL, NULL)));
    assert_misuse("*NULL", g_assert_false(qcontext_job_is_complete(NULL)));
    assert_misuse("*NULL", g_assert_false(qcontext_aio_set_pool_limits(NULL, 0, 1, NULL)));
}

int main(int argc, char **argv)
{
    alarm(TEST_DEADLINE_S);
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/aio/life", test_life);
    g_test_add_func("/aio/g-source", test_g_source);
    g_test_add_func("/aio/attach-and-move", test_attach_and_move);
    g_test_add_func("/aio/driving-from-the-wrong-thread", test_driving_from_the_wrong_thread);
    g_test_add_func("/aio/compute-timeout", test_compute_timeout);
    g_test_add_func("/aio/abba", test_abba);
    g_test_add_func("/aio/pool", test_pool);
    g_test_add_func("/aio/poll-elsewhere-hides-nothing", test_poll_elsewhere_hides_nothing_from_the_main_loop);
    g_test_add_func("/aio/null", test_null);
    return g_test_run();
}
