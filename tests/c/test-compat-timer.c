/* Timers as code written for QEMU uses them. */
#include "compat-support.h"

static void test_timer(void)
{
    TimerTest data = { .ns = SCALE_MS * 200LL, .max = 2, .clock = QEMU_CLOCK_REALTIME };

    timer_del(&data.timer);
    g_assert_false(timer_pending(&data.timer));
    aio_timer_init(ctx, &data.timer, data.clock, SCALE_NS, timer_fired, &data);
    timer_mod(&data.timer, qemu_clock_get_ns(data.clock) + 3600 * NANOSECONDS_PER_SECOND);
    g_assert_false(aio_poll(ctx, false));
    int64_t expires = qemu_clock_get_ns(data.clock) + data.ns;
    timer_mod(&data.timer, expires);
    g_assert_cmpuint(timer_expire_time_ns(&data.timer), ==, (uint64_t)expires);
    g_assert_false(timer_expired(&data.timer, expires - 1));
    g_assert_true(timer_expired(&data.timer, expires));
    /* One call sleeps the whole time and makes progress. */
    g_assert_true(aio_poll(ctx, true));
    g_assert_cmpint(data.n, ==, 1);
    g_assert_cmpint(qemu_clock_get_ns(data.clock), >=, expires);
    g_assert_true(aio_poll(ctx, true));
    g_assert_cmpint(data.n, ==, 2);
    timer_mod(&data.timer, -1);
    timer_mod_anticipate(&data.timer, expires);
    timer_del(&data.timer);
    g_assert_false(aio_poll(ctx, false));
    g_assert_cmpint(data.n, ==, 2);
    timer_deinit(&data.timer);
}

static void test_main_loop_timers(void)
{
    int n = 0;
    QEMUTimer embedded;
    QEMUTimer *heap = timer_new_ms(QEMU_CLOCK_VIRTUAL, count, &n);

    timer_init_us(&embedded, QEMU_CLOCK_HOST, count, &n);
    timer_mod(heap, qemu_clock_get_ms(QEMU_CLOCK_VIRTUAL) + 1);
    timer_mod(&embedded, qemu_clock_get_us(QEMU_CLOCK_HOST) + 100);
    while (n < 2) {
        main_loop_wait(false);
    }
    timer_free(heap);
    timer_free(NULL);
    timer_del(&embedded);
}

static void test_compute_timeout(void)
{
    BHTest data = { .max = 1 };
    TimerTest timer = { .max = 1, .clock = QEMU_CLOCK_REALTIME };

    g_assert_cmpint(aio_compute_timeout(ctx), ==, -1);
    data.bh = aio_bh_new(ctx, bh_test, &data);
    aio_timer_init(ctx, &timer.timer, timer.clock, SCALE_MS, timer_fired, &timer);
    timer_mod(&timer.timer, qemu_clock_get_ms(timer.clock) + 3600 * 1000);
    g_assert_cmpint(aio_compute_timeout(ctx), >, 3000 * NANOSECONDS_PER_SECOND);
    g_assert_cmpint(aio_compute_timeout(ctx), <=, 3600 * NANOSECONDS_PER_SECOND);
    qemu_bh_schedule_idle(data.bh);
    g_assert_cmpint(aio_compute_timeout(ctx), ==, 10 * SCALE_MS);
    qemu_bh_schedule(data.bh);
    g_assert_cmpint(aio_compute_timeout(ctx), ==, 0);
    qemu_bh_delete(data.bh);
    timer_del(&timer.timer);
    g_assert_cmpint(aio_compute_timeout(ctx), ==, -1);
    aio_poll(ctx, false);
}

static void test_every_way_to_make_a_timer(void)
{
    /* Each is due at once, in its own unit; the far ones are not. */
    QEMUTimer own[4];
    QEMUTimer *heap[6];
    int n = 0, wanted = 0;
    const int attributes = QEMU_TIMER_ATTR_EXTERNAL;

    timer_init(&own[0], QEMU_CLOCK_REALTIME, SCALE_NS, count, &n);
    timer_init_ns(&own[1], QEMU_CLOCK_VIRTUAL, count, &n);
    timer_init_ms(&own[2], QEMU_CLOCK_HOST, count, &n);
    timer_init_full(&own[3], NULL, QEMU_CLOCK_VIRTUAL_RT, SCALE_US, attributes, count, &n);
    heap[0] = timer_new(QEMU_CLOCK_REALTIME, SCALE_US, count, &n);
    heap[1] = timer_new_ns(QEMU_CLOCK_VIRTUAL, count, &n);
    heap[2] = timer_new_us(QEMU_CLOCK_HOST, count, &n);
    heap[3] = timer_new_full(NULL, QEMU_CLOCK_REALTIME, SCALE_MS, QEMU_TIMER_ATTR_ALL, count, &n);
    heap[4] = aio_timer_new(qemu_get_aio_context(), QEMU_CLOCK_REALTIME, SCALE_NS, count, &n);
    heap[5] = aio_timer_new_with_attrs(qemu_get_aio_context(), QEMU_CLOCK_REALTIME, SCALE_NS, attributes, count, &n);
    for (size_t i = 0; i < G_N_ELEMENTS(own); i++, wanted++) {
        timer_mod_ns(&own[i], 1);
        g_assert_cmpuint(timer_expire_time_ns(&own[i]), ==, 1);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(heap); i++, wanted++) {
        timer_mod_ns(heap[i], G_MAXINT64);
        timer_mod_anticipate_ns(heap[i], 1);
        g_assert_cmpuint(timer_expire_time_ns(heap[i]), ==, 1);
    }
    while (n < wanted) {
        main_loop_wait(false);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(own); i++) {
        timer_del(&own[i]);
    }
    aio_timer_init_with_attrs(ctx, &own[0], QEMU_CLOCK_VIRTUAL, SCALE_NS, attributes, count, &n);
    qemu_clock_enable(QEMU_CLOCK_VIRTUAL, false);
    timer_mod(&own[0], 0);
    g_assert_false(aio_poll(ctx, false));
    g_assert_cmpint(n, ==, wanted);
    qemu_clock_enable(QEMU_CLOCK_VIRTUAL, true);
    while (n == wanted) {
        aio_poll(ctx, true);
    }
    g_assert_cmpint(n, ==, wanted + 1);
    timer_del(&own[0]);
    for (size_t i = 0; i < G_N_ELEMENTS(heap); i++) {
        timer_free(heap[i]);
    }
}

int main(int argc, char **argv)
{
    compat_init(&argc, &argv);
    g_test_add_func("/compat/timer", test_timer);
    g_test_add_func("/compat/main-loop-timers", test_main_loop_timers);
    g_test_add_func("/compat/every-way-to-make-a-timer", test_every_way_to_make_a_timer);
    g_test_add_func("/compat/compute-timeout", test_compute_timeout);
    return compat_run();
}
