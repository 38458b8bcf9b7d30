/* AioContexts: bottom halves, timers, notifiers, jobs; by poll, as a GSource, attached and moved. */
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

typedef struct {
    QContextBh *bh;
    Probe probe;
    int again;
} BhTest;

static void bh_again(gpointer data)
{
    BhTest *test = data;

    test->probe.calls++;
    if (test->again-- > 0) {
        qcontext_bh_schedule(test->bh);
    }
}

static void bh_delete_self(gpointer data)
{
    BhTest *test = data;
    GError *error = NULL;

    test->probe.calls++;
    g_assert_false(qcontext_bh_delete_sync(test->bh, &error));
    g_assert_error(error, QCONTEXT_ERROR, QCONTEXT_ERROR_WOULD_DEADLOCK);
    g_error_free(error);
    qcontext_bh_delete(test->bh);
}

static void bh_destroy(gpointer data)
{
    probe_destroy(&((BhTest *)data)->probe);
}

static void test_bh(void)
{
    QContextAio *aio = qcontext_aio_new(NULL);
    BhTest test = { 0 };

    test.bh = qcontext_bh_new(aio, "again", bh_again, &test, bh_destroy);
    qcontext_bh_schedule(test.bh);
    qcontext_bh_schedule(test.bh);
    g_assert_true(qcontext_aio_poll(aio, TRUE, NULL));
    g_assert_false(qcontext_aio_poll(aio, FALSE, NULL));
    g_assert_cmpint(test.probe.calls, ==, 1);
    test.again = 3;
    qcontext_bh_schedule(test.bh);
    for (int i = 1; i <= 4; i++) {
        g_assert_true(qcontext_aio_poll(aio, FALSE, NULL));
        g_assert_cmpint(test.probe.calls, ==, 1 + i);
    }
    qcontext_bh_schedule(test.bh);
    qcontext_bh_cancel(test.bh);
    g_assert_false(qcontext_aio_poll(aio, FALSE, NULL));
    qcontext_bh_schedule_idle(test.bh);
    g_assert_false(qcontext_aio_poll(aio, TRUE, NULL));
    g_assert_cmpint(test.probe.calls, ==, 6);
    qcontext_bh_schedule(test.bh);
    qcontext_bh_delete(test.bh);
    qcontext_aio_poll(aio, FALSE, NULL);
    g_assert_cmpint(test.probe.calls, ==, 6);
    g_assert_cmpint(test.probe.destroyed, ==, 1);
    qcontext_aio_unref(aio);
}

static void test_bh_delete_inside(void)
{
    QContextAio *aio = qcontext_aio_new(NULL);
    BhTest test = { 0 };

    test.bh = qcontext_bh_new(aio, NULL, bh_delete_self, &test, bh_destroy);
    qcontext_bh_schedule(test.bh);
    g_assert_true(qcontext_aio_poll(aio, FALSE, NULL));
    qcontext_aio_poll(aio, FALSE, NULL);
    g_assert_cmpint(test.probe.calls, ==, 1);
    g_assert_cmpint(test.probe.destroyed, ==, 1);
    qcontext_aio_unref(aio);
}

static void test_bh_left_behind(void)
{
    /* A bottom half that is pending when its AioContext goes does not run, and its data is released. */
    QContextAio *aio = qcontext_aio_new(NULL);
    Probe oneshot = { 0 };
    BhTest test = { 0 };

    test.bh = qcontext_bh_new(aio, "left", bh_again, &test, bh_destroy);
    qcontext_bh_schedule(test.bh);
    g_assert_true(qcontext_bh_oneshot(aio, "left", probe_call, &oneshot, probe_destroy));
    qcontext_aio_unref(aio);
    g_assert_cmpint(oneshot.calls, ==, 0);
    g_assert_cmpint(oneshot.destroyed, ==, 1);
    qcontext_bh_schedule(test.bh);
    qcontext_bh_delete(test.bh);
    g_assert_cmpint(test.probe.calls, ==, 0);
    g_assert_cmpint(test.probe.destroyed, ==, 1);
}

static void linger(gpointer data)
{
    (void)data;
    g_usleep(20000);
}

static void test_bh_delete_sync_waits(void)
{
    QContext *ctx = new_threaded("bh-sync");
    QContextAio *aio = qcontext_get_aio(ctx, NULL);

    for (int i = 0; i < 10; i++) {
        Probe probe = { .act = linger };
        QContextBh *bh = qcontext_bh_new(aio, "slow", probe_call, &probe, probe_destroy);

        qcontext_bh_schedule(bh);
        while (!g_atomic_pointer_get(&probe.call_thread)) {
            g_usleep(10);
        }
        g_assert_true(qcontext_bh_delete_sync(bh, NULL));
        g_assert_cmpint(g_atomic_int_get(&probe.calls), ==, 1);
        wait_for(&probe.destroyed, 1);
        g_assert_true(probe.destroy_thread == probe.call_thread);
    }
    qcontext_aio_unref(aio);
    g_assert_true(qcontext_stop(ctx, NULL));
    qcontext_unref(ctx);
}

static gpointer schedule_many(gpointer bh)
{
    for (int i = 0; i < 10000; i++) {
        qcontext_bh_schedule(bh);
    }
    return NULL;
}

static void test_bh_from_threads(void)
{
    QContext *ctx = new_threaded("bh-threads");
    QContextAio *aio = qcontext_get_aio(ctx, NULL);
    Probe probe = { 0 };
    QContextBh *bh = qcontext_bh_new(aio, "many", probe_call, &probe, probe_destroy);
    GThread *threads[4];
    gint before;

    for (int i = 0; i < 4; i++) {
        threads[i] = g_thread_new("scheduler", schedule_many, bh);
    }
    for (int i = 0; i < 4; i++) {
        g_thread_join(threads[i]);
    }
    settle(ctx);
    before = probe.calls;
    g_assert_cmpint(before, >, 0);
    qcontext_bh_schedule(bh);
    wait_for(&probe.calls, before + 1);
    qcontext_bh_delete(bh);
    wait_for(&probe.destroyed, 1);
    qcontext_aio_unref(aio);
    g_assert_true(qcontext_stop(ctx, NULL));
    qcontext_unref(ctx);
}

static void test_timer_in_own_storage(void)
{
    QContextAio *aio = qcontext_aio_new(NULL);
    Probe probe = { 0 };
    QContextTimer timer = { 0 };
    GError *error = NULL;

    qcontext_timer_del(&timer);
    g_assert_false(qcontext_timer_pending(&timer));
    qcontext_timer_init(&timer, aio, QCONTEXT_CLOCK_REALTIME, 1000000, probe_call, &probe);
    g_assert_cmpint(qcontext_timer_expire_time_ns(&timer), ==, -1);
    gint64 begin = qcontext_clock_get_ns(QCONTEXT_CLOCK_REALTIME);
    qcontext_timer_mod(&timer, begin / 1000000 + 20);
    g_assert_true(qcontext_timer_pending(&timer));
    gint64 due = qcontext_timer_expire_time_ns(&timer);
    g_assert_cmpint(due, ==, (begin / 1000000 + 20) * 1000000);
    qcontext_timer_anticipate_ns(&timer, due + 5);
    g_assert_cmpint(qcontext_timer_expire_time_ns(&timer), ==, due);
    qcontext_timer_anticipate(&timer, begin / 1000000 + 10);
    g_assert_cmpint(qcontext_timer_expire_time_ns(&timer), <, due);
    g_assert_true(qcontext_aio_poll(aio, TRUE, NULL));
    g_assert_cmpint(probe.calls, ==, 1);
    g_assert_cmpint(qcontext_clock_get_ns(QCONTEXT_CLOCK_REALTIME), >=, due - 10000000);
    g_assert_false(qcontext_timer_pending(&timer));
    qcontext_timer_mod_ns(&timer, -5);
    g_assert_true(qcontext_aio_poll(aio, FALSE, NULL));
    g_assert_cmpint(probe.calls, ==, 2);
    qcontext_timer_mod_ns(&timer, 0);
    g_assert_true(qcontext_timer_del_sync(&timer, &error));
    g_assert_no_error(error);
    g_assert_false(qcontext_aio_poll(aio, FALSE, NULL));
    assert_misuse("*not one of*", qcontext_timer_free(&timer));
    qcontext_aio_unref(aio);
}

typedef struct {
    QContextTimer *timer;
    Probe probe;
} TimerTest;

static void timer_free_self(gpointer data)
{
    TimerTest *test = data;
    GError *error = NULL;

    test->probe.calls++;
    g_assert_false(qcontext_timer_del_sync(test->timer, &error));
    g_assert_error(error, QCONTEXT_ERROR, QCONTEXT_ERROR_WOULD_DEADLOCK);
    g_error_free(error);
    qcontext_timer_free(test->timer);
    g_assert_cmpint(test->probe.destroyed, ==, 0);
}

static void timer_destroy(gpointer data)
{
    probe_destroy(&((TimerTest *)data)->probe);
}

static void test_timer_on_heap(void)
{
    QContextAio *aio = qcontext_aio_new(NULL);
    TimerTest test = { 0 };

    test.timer = qcontext_timer_new(aio, QCONTEXT_CLOCK_HOST, 1, timer_free_self, &test, timer_destroy);
    qcontext_timer_mod(test.timer, 0);
    qcontext_timer_del(test.timer);
    g_assert_false(qcontext_aio_poll(aio, FALSE, NULL));
    qcontext_timer_mod(test.timer, 0);
    g_assert_true(qcontext_aio_poll(aio, TRUE, NULL));
    g_assert_cmpint(test.probe.calls, ==, 1);
    qcontext_aio_poll(aio, FALSE, NULL);
    g_assert_cmpint(test.probe.destroyed, ==, 1);
    qcontext_timer_free(NULL);
    qcontext_aio_unref(aio);
}

static void test_virtual_clock(void)
{
    QContextAio *aio = qcontext_aio_new(NULL);
    Probe probe = { 0 };
    QContextTimer timer;

    qcontext_timer_init(&timer, aio, QCONTEXT_CLOCK_VIRTUAL, 1, probe_call, &probe);
    qcontext_clock_enable(QCONTEXT_CLOCK_VIRTUAL, FALSE);
    gint64 now = qcontext_clock_get_ns(QCONTEXT_CLOCK_VIRTUAL);
    qcontext_timer_mod(&timer, now);
    g_assert_false(qcontext_aio_poll(aio, FALSE, NULL));
    g_assert_cmpint(qcontext_clock_get_ns(QCONTEXT_CLOCK_VIRTUAL), ==, now);
    qcontext_clock_enable(QCONTEXT_CLOCK_VIRTUAL, TRUE);
    while (!probe.calls) {
        qcontext_aio_poll(aio, TRUE, NULL);
    }
    qcontext_timer_del(&timer);
    qcontext_aio_unref(aio);
    assert_misuse("*no such clock", g_assert_cmpint(qcontext_clock_get_ns(7), ==, 0));
    assert_misuse("*only the virtual*", qcontext_clock_enable(QCONTEXT_CLOCK_HOST, FALSE));
}

static gpointer rearm(gpointer data)
{
    for (int i = 0; i < 5000; i++) {
        qcontext_timer_mod_ns(data, qcontext_clock_get_ns(QCONTEXT_CLOCK_REALTIME) + i % 3 * 1000);
        if (i % 5 == 0) {
            qcontext_timer_del(data);
        }
    }
    return NULL;
}

static void test_timer_from_threads(void)
{
    QContext *ctx = new_threaded("timer-threads");
    QContextAio *aio = qcontext_get_aio(ctx, NULL);
    Probe probe = { 0 };
    QContextTimer timer;
    GThread *threads[3];

    qcontext_timer_init(&timer, aio, QCONTEXT_CLOCK_REALTIME, 1, probe_call, &probe);
    for (int i = 0; i < 3; i++) {
        threads[i] = g_thread_new("armer", rearm, &timer);
    }
    for (int i = 0; i < 3; i++) {
        g_thread_join(threads[i]);
    }
    g_assert_true(qcontext_timer_del_sync(&timer, NULL));
    gint before = probe.calls;
    qcontext_timer_mod_ns(&timer, 0);
    wait_for(&probe.calls, before + 1);
    g_assert_true(qcontext_timer_del_sync(&timer, NULL));
    qcontext_aio_unref(aio);
    g_assert_true(qcontext_stop(ctx, NULL));
    qcontext_unref(ctx);
}

static void notifier_read(gpointer data)
{
    Probe *probe = data;

    g_assert_true(qcontext_notifier_test_and_clear(probe->act_data));
    probe_call(data);
}

static void test_notifier(void)
{
    QContextAio *aio = qcontext_aio_new(NULL);
    QContextNotifier notifier = { 0 }, copy;
    Probe probe = { 0 };
    QContextFdOps ops = { .read = notifier_read };

    g_assert_false(qcontext_notifier_set(&notifier));
    g_assert_cmpint(qcontext_notifier_get_fd(&notifier), ==, -1);
    qcontext_notifier_cleanup(&notifier);
    g_assert_true(qcontext_notifier_init(&notifier, TRUE, NULL));
    copy = notifier;
    g_assert_true(qcontext_notifier_test_and_clear(&copy));
    g_assert_false(qcontext_notifier_test_and_clear(&notifier));
    probe.act_data = &notifier;
    int fd = qcontext_notifier_get_fd(&notifier);
    g_assert_cmpint(qcontext_notifier_get_wfd(&notifier), >=, 0);
    g_assert_true(qcontext_aio_set_fd_handler(aio, fd, &ops, &probe, probe_destroy, NULL));
    g_assert_false(qcontext_aio_poll(aio, FALSE, NULL));
    g_assert_true(qcontext_notifier_set(&notifier));
    g_assert_true(qcontext_notifier_set(&copy));
    g_assert_true(qcontext_aio_poll(aio, TRUE, NULL));
    g_assert_false(qcontext_aio_poll(aio, FALSE, NULL));
    g_assert_cmpint(probe.calls, ==, 1);
    ops.flags = 64;
    assert_misuse("*flags*", qcontext_aio_set_fd_handler(aio, fd, &ops, &probe, NULL, NULL));
    g_assert_true(qcontext_aio_remove_fd(aio, fd));
    g_assert_false(qcontext_aio_remove_fd(aio, fd));
    qcontext_aio_poll(aio, FALSE, NULL);
    g_assert_cmpint(probe.destroyed, ==, 1);
    ops.flags = QCONTEXT_FD_EDGE_TRIGGERED;
    g_assert_true(qcontext_aio_set_fd_handler(aio, fd, &ops, &probe, probe_destroy, NULL));
    g_assert_true(qcontext_aio_remove_fd_sync(aio, fd, NULL));
    g_assert_cmpint(probe.destroyed, ==, 2);
    g_assert_true(qcontext_aio_set_fd_handler(aio, fd, NULL, NULL, NULL, NULL));
    qcontext_notifier_cleanup(&notifier);
    qcontext_notifier_cleanup(&notifier);
    qcontext_notifier_init_fd(&notifier, dup(1));
    qcontext_notifier_cleanup(&notifier);
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
    g_assert_true(g_main_context_iteration(gmain, FALSE));
    g_assert_false(g_main_context_iteration(gmain, FALSE));
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

static void test_null(void)
{
    QContextFdOps ops = { .read = nothing };
    QContext *main_context = qcontext_get_main();

    qcontext_bh_delete(NULL);
    assert_misuse("*NULL", g_assert_null(qcontext_aio_ref(NULL)));
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
    g_test_add_func("/aio/bh", test_bh);
    g_test_add_func("/aio/bh-delete-inside", test_bh_delete_inside);
    g_test_add_func("/aio/bh-left-behind", test_bh_left_behind);
    g_test_add_func("/aio/bh-delete-sync-waits", test_bh_delete_sync_waits);
    g_test_add_func("/aio/bh-from-threads", test_bh_from_threads);
    g_test_add_func("/aio/timer-in-own-storage", test_timer_in_own_storage);
    g_test_add_func("/aio/timer-on-heap", test_timer_on_heap);
    g_test_add_func("/aio/timer-from-threads", test_timer_from_threads);
    g_test_add_func("/aio/virtual-clock", test_virtual_clock);
    g_test_add_func("/aio/notifier", test_notifier);
    g_test_add_func("/aio/g-source", test_g_source);
    g_test_add_func("/aio/attach-and-move", test_attach_and_move);
    g_test_add_func("/aio/pool", test_pool);
    g_test_add_func("/aio/null", test_null);
    return g_test_run();
}
