/* The virtual clock begins when the program does, and tests set and step it. Other clocks and waits with nanoseconds. */
#include "compat-support.h"

#define MS ((int64_t)SCALE_MS)

static int64_t virtual_now(void)
{
    return qemu_clock_get_ns(QEMU_CLOCK_VIRTUAL);
}

static void set_virtual(int64_t ns)
{
    g_assert_true(qcontext_clock_set_ns(QCONTEXT_CLOCK_VIRTUAL, ns, NULL));
}

/* The clock stands at `ns` until the test moves it. */
static void stand_at(int64_t ns)
{
    qemu_clock_enable(QEMU_CLOCK_VIRTUAL, false);
    set_virtual(ns);
}

static void run_on(void)
{
    qemu_clock_enable(QEMU_CLOCK_VIRTUAL, true);
}

/* The first reading of the program, later than its start. */
static int64_t first, slept_for;

static void clock_begins_with_the_program(void)
{
    g_assert_cmpint(first, >=, slept_for);
    g_assert_cmpint(first, <, 60 * NANOSECONDS_PER_SECOND);
}

static void set_clock_runs_on(void)
{
    set_virtual(5000 * NANOSECONDS_PER_SECOND);
    int64_t read = virtual_now();
    g_assert_cmpint(read, >=, 5000 * NANOSECONDS_PER_SECOND);
    g_assert_cmpint(read, <, 5060 * NANOSECONDS_PER_SECOND);
    while (virtual_now() == read) {
    }
    /* Back as well. */
    set_virtual(0);
    g_assert_cmpint(virtual_now(), <, 60 * NANOSECONDS_PER_SECOND);
    stand_at(17);
    g_assert_cmpint(virtual_now(), ==, 17);
    run_on();
    while (virtual_now() == 17) {
    }
}

static void setting_the_clock_fires_what_is_due(void)
{
    int n = 0;
    QEMUTimer *timer = timer_new_ns(QEMU_CLOCK_VIRTUAL, count, &n);

    timer_mod(timer, virtual_now() + 3600 * NANOSECONDS_PER_SECOND);
    while (main_loop_wait(true)) {
    }
    g_assert_cmpint(n, ==, 0);
    set_virtual((int64_t)timer_expire_time_ns(timer));
    while (!n) {
        main_loop_wait(false);
    }
    timer_free(timer);
}

typedef struct {
    QEMUTimer timer;
    int64_t seen[20];
    int n;
} Periodic;

static void period(void *opaque)
{
    Periodic *periodic = opaque;

    periodic->seen[periodic->n++] = virtual_now();
    timer_mod(&periodic->timer, virtual_now() + 10 * MS);
}

static void step_stops_at_each_deadline(void)
{
    Periodic periodic = { .n = 0 };

    stand_at(1000 * MS);
    timer_init_ns(&periodic.timer, QEMU_CLOCK_VIRTUAL, period, &periodic);
    timer_mod(&periodic.timer, 1010 * MS);
    g_assert_cmpint(qemu_clock_deadline_ns_all(QEMU_CLOCK_VIRTUAL, QEMU_TIMER_ATTR_ALL), ==, 10 * MS);
    g_assert_cmpint(qemu_clock_advance_virtual_time(1009 * MS), ==, 1009 * MS);
    g_assert_cmpint(periodic.n, ==, 0);
    g_assert_cmpint(qemu_clock_advance_virtual_time(1105 * MS), ==, 1105 * MS);
    g_assert_cmpint(periodic.n, ==, 10);
    for (int i = 0; i < 10; i++) {
        g_assert_cmpint(periodic.seen[i], ==, (1010 + i * 10) * MS);
    }
    /* Not back. */
    g_assert_cmpint(qemu_clock_advance_virtual_time(1), ==, 1105 * MS);
    timer_del(&periodic.timer);
    g_assert_cmpint(qemu_clock_deadline_ns_all(QEMU_CLOCK_VIRTUAL, QEMU_TIMER_ATTR_ALL), ==, -1);
    g_assert_cmpint(qemu_clock_advance_virtual_time(2000 * MS), ==, 2000 * MS);
    run_on();
}

static void stepped_clock_stands_and_fires_what_is_due(void)
{
    int n = 0, later = 0;
    QEMUTimer *due = aio_timer_new(ctx, QEMU_CLOCK_VIRTUAL, SCALE_NS, count, &n);
    QEMUTimer *not_due = aio_timer_new(ctx, QEMU_CLOCK_VIRTUAL, SCALE_NS, count, &later);

    stand_at(0);
    timer_mod(due, 0);
    timer_mod(not_due, 5 * MS + 1);
    /* Stopped: nothing fires. */
    g_assert_false(aio_poll(ctx, false));
    g_assert_cmpint(qemu_clock_advance_virtual_time(5 * MS), ==, 5 * MS);
    /* An unattached AioContext fires its timers when it is polled. */
    g_assert_cmpint(n, ==, 0);
    g_assert_true(aio_poll(ctx, true));
    g_assert_cmpint(n, ==, 1);
    g_assert_cmpint(aio_compute_timeout(ctx), ==, -1);
    timer_mod(due, 5 * MS);
    g_assert_true(aio_poll(ctx, true));
    g_assert_cmpint(n, ==, 2);
    g_assert_cmpint(later, ==, 0);
    /* Stopped again. */
    qemu_clock_enable(QEMU_CLOCK_VIRTUAL, false);
    timer_mod(due, 0);
    g_assert_false(aio_poll(ctx, false));
    run_on();
    while (n < 3 || !later) {
        aio_poll(ctx, true);
    }
    timer_free(due);
    timer_free(not_due);
}

static void fire_elsewhere(void *opaque)
{
    g_atomic_int_set((int *)opaque, qemu_in_iothread());
}

static void step_wakes_other_threads(void)
{
    int seen = 0;
    IOThread *iothread = iothread_create("stepped", NULL);
    QEMUTimer *timer = aio_timer_new(iothread_get_aio_context(iothread), QEMU_CLOCK_VIRTUAL, SCALE_MS,
                                     fire_elsewhere, &seen);

    stand_at(0);
    timer_mod(timer, 3600 * 1000);
    g_assert_cmpint(qemu_clock_advance_virtual_time(3600 * 1000 * MS), ==, 3600 * 1000 * MS);
    while (!g_atomic_int_get(&seen)) {
        g_thread_yield();
    }
    run_on();
    timer_free(timer);
    iothread_destroy(iothread);
}

static void step_inside_a_callback(void *opaque)
{
    Periodic *periodic = opaque;

    qemu_clock_advance_virtual_time(virtual_now() + 25 * MS);
    g_assert_cmpint(periodic->n, ==, 2);
}

static void callback_of_the_main_loop_may_step(void)
{
    Periodic periodic = { .n = 0 };

    stand_at(0);
    timer_init_ns(&periodic.timer, QEMU_CLOCK_VIRTUAL, period, &periodic);
    timer_mod(&periodic.timer, 10 * MS);
    aio_bh_schedule_oneshot(qemu_get_aio_context(), step_inside_a_callback, &periodic);
    while (periodic.n < 2) {
        main_loop_wait(false);
    }
    g_assert_cmpint(periodic.seen[1], ==, 20 * MS);
    timer_del(&periodic.timer);
    run_on();
}

#define assert_refused(call)                                                     \
    do {                                                                         \
        GError *error_ = NULL;                                                   \
        GError **error = &error_;                                                \
        g_assert_false(call);                                                    \
        g_assert_error(error_, QCONTEXT_ERROR, QCONTEXT_ERROR_INVALID_ARGUMENT); \
        g_error_free(error_);                                                    \
    } while (0)

static void wrong_times_are_refused(void)
{
    stand_at(42);
    assert_refused(qcontext_clock_set_ns(QCONTEXT_CLOCK_VIRTUAL, -1, error));
    assert_refused(qcontext_clock_set_ns(QCONTEXT_CLOCK_VIRTUAL, G_MAXINT64, error));
    assert_refused(qcontext_clock_step_ns(QCONTEXT_CLOCK_VIRTUAL, -1, error));
    assert_refused(qcontext_clock_step_ns(QCONTEXT_CLOCK_VIRTUAL, G_MAXINT64, error));
    g_assert_cmpint(virtual_now(), ==, 42);
    g_test_expect_message("qcontext", G_LOG_LEVEL_CRITICAL, "*only the virtual clock*");
    g_assert_false(qcontext_clock_set_ns(QCONTEXT_CLOCK_HOST, 1, NULL));
    g_test_expect_message("qcontext", G_LOG_LEVEL_CRITICAL, "*only the virtual clock*");
    g_assert_false(qcontext_clock_step_ns(QCONTEXT_CLOCK_REALTIME, 1, NULL));
    g_test_assert_expected_messages();
    run_on();
}

static void host_clock_is_the_wall_clock(void)
{
    int64_t before = g_get_real_time() * 1000, read = get_clock_realtime();

    g_assert_cmpint(read, >=, before);
    g_assert_cmpint(read, <, before + 60 * NANOSECONDS_PER_SECOND);
}

static void timeouts_round_up(void)
{
    g_assert_cmpint(qemu_timeout_ns_to_ms(-1), ==, -1);
    g_assert_cmpint(qemu_timeout_ns_to_ms(G_MININT64), ==, -1);
    g_assert_cmpint(qemu_timeout_ns_to_ms(0), ==, 0);
    g_assert_cmpint(qemu_timeout_ns_to_ms(1), ==, 1);
    g_assert_cmpint(qemu_timeout_ns_to_ms(MS), ==, 1);
    g_assert_cmpint(qemu_timeout_ns_to_ms(MS + 1), ==, 2);
    g_assert_cmpint(qemu_timeout_ns_to_ms(G_MAXINT64), ==, G_MAXINT32);
}

static void poll_waits_for_nanoseconds_or_an_fd(void)
{
    int fds[2];

    g_assert_cmpint(pipe(fds), ==, 0);
    GPollFD poll = { .fd = fds[0], .events = G_IO_IN };
    int64_t before = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
    g_assert_cmpint(qemu_poll_ns(&poll, 1, 100 * SCALE_US), ==, 0);
    g_assert_cmpint(qemu_clock_get_ns(QEMU_CLOCK_REALTIME) - before, >=, 100 * SCALE_US);
    g_assert_cmpint(qemu_poll_ns(NULL, 0, 0), ==, 0);
    g_assert_cmpint(write(fds[1], "x", 1), ==, 1);
    g_assert_cmpint(qemu_poll_ns(&poll, 1, -1), ==, 1);
    g_assert_cmpint(poll.revents, ==, G_IO_IN);
    close(fds[0]);
    close(fds[1]);
}

int main(int argc, char **argv)
{
    int64_t begun = g_get_monotonic_time();

    while (g_get_monotonic_time() - begun < 20 * 1000) {
        g_usleep(1000);
    }
    slept_for = 20 * MS;
    first = virtual_now();
    compat_init(&argc, &argv);
#define ADD(name) g_test_add_func("/clock/" #name, name)
    ADD(clock_begins_with_the_program);
    ADD(set_clock_runs_on);
    ADD(setting_the_clock_fires_what_is_due);
    ADD(step_stops_at_each_deadline);
    ADD(stepped_clock_stands_and_fires_what_is_due);
    ADD(step_wakes_other_threads);
    ADD(callback_of_the_main_loop_may_step);
    ADD(wrong_times_are_refused);
    ADD(host_clock_is_the_wall_clock);
    ADD(timeouts_round_up);
    ADD(poll_waits_for_nanoseconds_or_an_fd);
    return compat_run();
}
