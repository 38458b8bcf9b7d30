/* Bottom halves as code written for QEMU uses them. */
#include "compat-support.h"

static void test_bh_runs_once_per_poll(void)
{
    BHTest data = { .max = 10 };

    data.bh = aio_bh_new(ctx, bh_test, &data);
    qemu_bh_schedule(data.bh);
    g_assert_cmpint(data.n, ==, 0);
    for (int i = 1; i <= 10; i++) {
        g_assert_true(aio_poll(ctx, i > 1));
        g_assert_cmpint(data.n, ==, i);
    }
    g_assert_false(aio_poll(ctx, false));
    qemu_bh_schedule(data.bh);
    qemu_bh_cancel(data.bh);
    g_assert_false(aio_poll(ctx, false));
    aio_bh_call(data.bh);
    g_assert_cmpint(data.n, ==, 11);
    qemu_bh_delete(data.bh);
}

static void test_bh_idle_is_no_progress(void)
{
    BHTest data = { .max = 1 };

    data.bh = aio_bh_new(ctx, bh_test, &data);
    qemu_bh_schedule_idle(data.bh);
    g_assert_false(aio_poll(ctx, true));
    g_assert_cmpint(data.n, ==, 1);
    qemu_bh_delete(data.bh);
}

static void test_many_deletes(void)
{
    BHTest data[4] = { { 0 } };

    for (int i = 0; i < 4; i++) {
        data[i].bh = aio_bh_new(ctx, bh_delete, &data[i]);
        qemu_bh_schedule(data[i].bh);
    }
    g_assert_true(aio_poll(ctx, false));
    for (int i = 0; i < 4; i++) {
        g_assert_cmpint(data[i].n, ==, 1);
        g_assert_null(data[i].bh);
    }
    g_assert_false(aio_poll(ctx, false));
}

static void test_as_g_source(void)
{
    BHTest data = { .max = 1 };
    AioContext *own = aio_context_new(NULL);
    GMainContext *gmain = g_main_context_new();
    GSource *source = aio_get_g_source(own);

    g_source_attach(source, gmain);
    g_source_unref(source);
    while (g_main_context_iteration(gmain, false)) {
    }
    data.bh = aio_bh_new(own, bh_test, &data);
    qemu_bh_schedule(data.bh);
    g_assert_true(g_main_context_iteration(gmain, true));
    g_assert_false(g_main_context_iteration(gmain, false));
    g_assert_cmpint(data.n, ==, 1);
    qemu_bh_delete(data.bh);
    data = (BHTest) { 0 };
    data.bh = aio_bh_new(own, bh_delete, &data);
    qemu_bh_schedule(data.bh);
    g_assert_true(g_main_context_iteration(gmain, true));
    g_assert_cmpint(data.n, ==, 1);
    g_assert_null(data.bh);
    /* One iteration more frees it, as QEMU's test of this wants. */
    g_assert_true(g_main_context_iteration(gmain, false));
    g_assert_false(g_main_context_iteration(gmain, false));
    g_assert_cmpint(data.n, ==, 1);
    g_main_context_unref(gmain);
    aio_context_unref(own);
}

typedef struct {
    MemReentrancyGuard guard;
    QEMUBH *bh;
    int runs;
    bool seen, recurse;
} Guarded;

static void guarded(void *opaque)
{
    Guarded *device = opaque;

    device->seen = device->guard.engaged_in_io;
    device->runs++;
    if (device->recurse) {
        device->recurse = false;
        aio_bh_call(device->bh);
        g_assert_true(device->guard.engaged_in_io);
    }
}

static void guarded_delete(void *opaque)
{
    Guarded *device = opaque;

    guarded(opaque);
    qemu_bh_delete(device->bh);
}

static void test_guarded_bh(void)
{
    Guarded device = { { false }, NULL, 0, false, true };

    device.bh = aio_bh_new_guarded(ctx, guarded, &device, &device.guard);
    qemu_bh_schedule(device.bh);
    g_assert_false(device.guard.engaged_in_io);
    g_assert_true(aio_poll(ctx, false));
    g_assert_true(device.seen);
    g_assert_cmpint(device.runs, ==, 2);
    g_assert_false(device.guard.engaged_in_io);
    /* One that is engaged by the device itself stays so. */
    device.guard.engaged_in_io = true;
    qemu_bh_schedule(device.bh);
    g_assert_true(aio_poll(ctx, false));
    g_assert_cmpint(device.runs, ==, 3);
    g_assert_true(device.guard.engaged_in_io);
    device.guard.engaged_in_io = false;
    qemu_bh_delete(device.bh);
    /* Deleted inside its callback. */
    device.bh = qemu_bh_new_guarded(guarded_delete, &device, &device.guard);
    qemu_bh_schedule(device.bh);
    while (device.runs < 4) {
        main_loop_wait(false);
    }
    g_assert_true(device.seen);
    g_assert_false(device.guard.engaged_in_io);
}

static void test_bh_poll(void)
{
    BHTest data = { .max = 2 };
    NotifierTest event = { .active = 1 };

    g_assert_cmpint(event_notifier_init(&event.e, true), ==, 0);
    aio_set_event_notifier(ctx, &event.e, notifier_ready, NULL, NULL);
    data.bh = aio_bh_new(ctx, bh_test, &data);
    g_assert_cmpint(aio_bh_poll(ctx), ==, 0);
    qemu_bh_schedule(data.bh);
    g_assert_cmpint(aio_bh_poll(ctx), ==, 1);
    g_assert_cmpint(data.n, ==, 1);
    g_assert_cmpint(aio_bh_poll(ctx), ==, 1);
    g_assert_cmpint(data.n, ==, 2);
    qemu_bh_schedule_idle(data.bh);
    g_assert_cmpint(aio_bh_poll(ctx), ==, 0);
    g_assert_cmpint(data.n, ==, 3);
    g_assert_cmpint(event.n, ==, 0);
    g_assert_true(aio_poll(ctx, false));
    g_assert_cmpint(event.n, ==, 1);
    aio_set_event_notifier(ctx, &event.e, NULL, NULL, NULL);
    event_notifier_cleanup(&event.e);
    qemu_bh_delete(data.bh);
    aio_poll(ctx, false);
}

static void test_bottom_halves_by_name(void)
{
    BHTest data = { .max = 1 };

    data.bh = aio_bh_new_full(ctx, bh_test, &data, "by name", NULL);
    qemu_bh_schedule(data.bh);
    aio_bh_schedule_oneshot_full(ctx, bh_test, &data, "once");
    g_assert_true(aio_poll(ctx, false));
    g_assert_cmpint(data.n, ==, 2);
    qemu_bh_delete(data.bh);
    data.bh = qemu_bh_new_full(bh_test, &data, "main", NULL);
    qemu_bh_schedule(data.bh);
    while (data.n < 3) {
        main_loop_wait(false);
    }
    qemu_bh_delete(data.bh);
    aio_poll(ctx, false);
}

int main(int argc, char **argv)
{
    compat_init(&argc, &argv);
    g_test_add_func("/compat/bh-runs-once-per-poll", test_bh_runs_once_per_poll);
    g_test_add_func("/compat/bh-idle-is-no-progress", test_bh_idle_is_no_progress);
    g_test_add_func("/compat/many-deletes", test_many_deletes);
    g_test_add_func("/compat/as-g-source", test_as_g_source);
    g_test_add_func("/compat/bottom-halves-by-name", test_bottom_halves_by_name);
    g_test_add_func("/compat/guarded-bh", test_guarded_bh);
    g_test_add_func("/compat/bh-poll", test_bh_poll);
    return compat_run();
}
