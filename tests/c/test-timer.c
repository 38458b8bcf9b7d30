/* Timers: in storage of the caller and on the heap, from other threads, and on the virtual clock. */
#include "support.h"

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

int main(int argc, char **argv)
{
    alarm(TEST_DEADLINE_S);
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/aio/timer-in-own-storage", test_timer_in_own_storage);
    g_test_add_func("/aio/timer-on-heap", test_timer_on_heap);
    g_test_add_func("/aio/timer-from-threads", test_timer_from_threads);
    g_test_add_func("/aio/virtual-clock", test_virtual_clock);
    return g_test_run();
}
