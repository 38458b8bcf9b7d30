/* Timers and notifiers by the names and signatures of 2013. */
#include "pipe-2013.h"

static void fired(void *opaque)
{
    ++*(int *)opaque;
}

static void test_old_timers(void)
{
    QEMUClock *const clocks[] = { rt_clock, vm_clock, host_clock };
    int n = 0;

    for (size_t i = 0; i < G_N_ELEMENTS(clocks); i++) {
        QEMUTimer *ms = qemu_new_timer_ms(clocks[i], fired, &n), *ns = qemu_new_timer(clocks[i], SCALE_NS, fired, &n);

        n = 0;
        qemu_mod_timer(ms, qemu_get_clock_ms(clocks[i]) + 3600 * 1000);
        qemu_mod_timer(ns, qemu_get_clock_ns(clocks[i]) + 1000);
        g_assert_true(qemu_timer_pending(ms));
        while (!n) {
            main_loop_wait(false);
        }
        g_assert_false(qemu_timer_pending(ns));
        qemu_del_timer(ms);
        g_assert_false(qemu_timer_pending(ms));
        qemu_mod_timer_ns(ms, 0);
        while (n < 2) {
            main_loop_wait(false);
        }
        qemu_free_timer(ms);
        qemu_free_timer(ns);
        ns = qemu_new_timer_ns(clocks[i], fired, &n);
        g_assert_false(qemu_timer_pending(ns));
        qemu_free_timer(ns);
    }
}

static void old_notified(EventNotifier *e)
{
    g_assert_true(event_notifier_test_and_clear(e));
}

static void test_old_notifier(void)
{
    AioContext *aio = aio_context_new();
    EventNotifier e;

    g_assert_cmpint(event_notifier_init(&e, true), ==, 0);
    aio_set_event_notifier(aio, &e, old_notified, NULL);
    g_assert_true(aio_poll(aio, true));
    g_assert_false(aio_poll(aio, false));
    aio_set_event_notifier(aio, &e, NULL, NULL);
    event_notifier_cleanup(&e);
    aio_context_unref(aio);
}

int main(int argc, char **argv)
{
    alarm(120);
    g_test_init(&argc, &argv, NULL);
    g_assert_cmpint(qemu_init_main_loop(), ==, 0);
#define ADD(name) g_test_add_func("/2013/" #name, name)
    ADD(test_old_timers);
    ADD(test_old_notifier);
    return g_test_run();
}
