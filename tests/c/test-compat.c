/* The semantics that code written for QEMU's event loop relies on. */
#include <qcontext-compat.h>
#include <unistd.h>

static AioContext *ctx;

typedef struct {
    QEMUBH *bh;
    int n, max;
} BHTest;

static void bh_test(void *opaque)
{
    BHTest *data = opaque;

    if (++data->n < data->max) {
        qemu_bh_schedule(data->bh);
    }
}

static void bh_delete(void *opaque)
{
    BHTest *data = opaque;

    data->n++;
    qemu_bh_delete(data->bh);
    data->bh = NULL;
}

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

typedef struct {
    EventNotifier e;
    int n, active;
    bool auto_set;
} NotifierTest;

static void notifier_ready(EventNotifier *e)
{
    NotifierTest *data = (NotifierTest *)e;

    g_assert_cmpint(event_notifier_test_and_clear(e), ==, 1);
    data->n++;
    if (data->active > 0) {
        data->active--;
    }
    if (data->auto_set && data->active) {
        event_notifier_set(e);
    }
}

static void test_notifier(void)
{
    NotifierTest data = { .active = 10, .auto_set = true };

    g_assert_cmpint(event_notifier_init(&data.e, false), ==, 0);
    aio_set_event_notifier(ctx, &data.e, notifier_ready, NULL, NULL);
    g_assert_false(aio_poll(ctx, false));
    event_notifier_set(&data.e);
    g_assert_true(aio_poll(ctx, false));
    g_assert_cmpint(data.n, ==, 1);
    g_assert_cmpint(data.active, ==, 9);
    while (data.active) {
        g_assert_true(aio_poll(ctx, true));
    }
    g_assert_cmpint(data.n, ==, 10);
    g_assert_false(aio_poll(ctx, false));
    aio_set_event_notifier(ctx, &data.e, NULL, NULL, NULL);
    event_notifier_set(&data.e);
    g_assert_false(aio_poll(ctx, false));
    g_assert_cmpint(data.n, ==, 10);
    event_notifier_cleanup(&data.e);
    event_notifier_cleanup(&data.e);
    g_assert_cmpint(event_notifier_set(&data.e), ==, -1);
}

typedef struct {
    QEMUTimer timer;
    int n, max;
    int64_t ns;
    QEMUClockType clock;
} TimerTest;

static void timer_fired(void *opaque)
{
    TimerTest *data = opaque;

    g_assert_false(timer_pending(&data->timer));
    if (++data->n < data->max) {
        timer_mod(&data->timer, qemu_clock_get_ns(data->clock) + data->ns);
    }
}

static void test_timer(void)
{
    TimerTest data = { .ns = SCALE_MS * 200LL, .max = 2, .clock = QEMU_CLOCK_REALTIME };

    timer_del(&data.timer);
    g_assert_false(timer_pending(&data.timer));
    aio_timer_init(ctx, &data.timer, data.clock, SCALE_NS, timer_fired, &data);
    int64_t expires = qemu_clock_get_ns(data.clock) + data.ns;
    timer_mod(&data.timer, expires);
    g_assert_cmpuint(timer_expire_time_ns(&data.timer), ==, (uint64_t)expires);
    g_assert_false(timer_expired(&data.timer, expires - 1));
    g_assert_true(timer_expired(&data.timer, expires));
    g_assert_false(aio_poll(ctx, false));
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

static void count(void *opaque)
{
    ++*(int *)opaque;
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
    while (g_main_context_iteration(gmain, false)) {
    }
    g_assert_cmpint(data.n, ==, 1);
    g_main_context_unref(gmain);
    aio_context_unref(own);
}

static void test_main_loop_wait(void)
{
    while (main_loop_wait(true)) {
    }
    g_assert_cmpint(main_loop_wait(true), ==, 0);
    qemu_notify_event();
    g_assert_cmpint(main_loop_wait(true), ==, 1);
    g_assert_cmpint(main_loop_wait(true), ==, 0);
    g_assert_true(qemu_get_current_aio_context() == qemu_get_aio_context());
    g_assert_true(qemu_in_main_thread());
    g_assert_false(qemu_in_iothread());
}

static void bql_user(void *opaque)
{
    /* Runs while the main loop waits without the lock. */
    bql_lock();
    ++*(int *)opaque;
    bql_unlock();
    qemu_notify_event();
}

static void test_bql(void)
{
    int n = 0;
    IOThread *iothread = iothread_create("bql", NULL);

    bql_lock();
    g_assert_true(bql_locked());
    {
        BQL_LOCK_GUARD();
        g_assert_true(bql_locked());
    }
    g_assert_true(bql_locked());
    aio_bh_schedule_oneshot(iothread_get_aio_context(iothread), bql_user, &n);
    while (!n) {
        main_loop_wait(false);
        g_assert_true(bql_locked());
    }
    bql_unlock();
    {
        BQL_LOCK_GUARD();
        g_assert_true(bql_locked());
    }
    g_assert_false(bql_locked());
    iothread_destroy(iothread);
}

static void seen_in_iothread(void *opaque)
{
    g_assert_true(qemu_in_iothread());
    g_assert_false(qemu_in_main_thread());
    *(AioContext **)opaque = qemu_get_current_aio_context();
}

static gpointer plain_thread(gpointer unused)
{
    (void)unused;
    return qemu_get_current_aio_context();
}

static void test_iothread(void)
{
    AioContext *seen = NULL;
    IOThread *iothread = iothread_create("iothread0", NULL);
    g_autofree char *id = iothread_get_id(iothread);

    g_assert_cmpstr(id, ==, "iothread0");
    g_assert_true(iothread_by_id("iothread0") == iothread);
    g_assert_null(iothread_by_id("nosuch"));
    g_assert_nonnull(iothread_get_g_main_context(iothread));
    aio_wait_bh_oneshot(iothread_get_aio_context(iothread), seen_in_iothread, &seen);
    g_assert_true(seen == iothread_get_aio_context(iothread));
    g_assert_false(in_aio_context_home_thread(seen));
    g_assert_null(g_thread_join(g_thread_new("plain", plain_thread, NULL)));
    iothread_destroy(iothread);
}

static int job(void *opaque)
{
    g_atomic_int_inc((int *)opaque);
    return 42;
}

static void job_done(void *opaque, int ret)
{
    *(int *)opaque = ret;
}

static int slow_job(void *opaque)
{
    while (!g_atomic_int_get((int *)opaque)) {
        g_usleep(100);
    }
    return 0;
}

static void test_thread_pool(void)
{
    int ran = 0, ret = -1, release = 0, slow = -1, cancelled = -1;
    AioContext *own = aio_context_new(NULL), *before = qemu_get_current_aio_context();

    qemu_set_current_aio_context(own);
    thread_pool_submit_aio(job, &ran, job_done, &ret);
    /* Not before the first wait. */
    g_assert_cmpint(ret, ==, -1);
    while (ret != 42) {
        aio_poll(own, true);
    }
    g_assert_cmpint(ran, ==, 1);
    aio_context_set_thread_pool_params(own, 0, 1, NULL);
    thread_pool_submit_aio(slow_job, &release, job_done, &slow);
    BlockAIOCB *queued = thread_pool_submit_aio(job, &ran, job_done, &cancelled);
    bdrv_aio_cancel(queued);
    g_assert_cmpint(cancelled, ==, -ECANCELED);
    g_assert_cmpint(ran, ==, 1);
    g_atomic_int_set(&release, 1);
    while (slow) {
        aio_poll(own, true);
    }
    qemu_set_current_aio_context(before);
    aio_context_unref(own);
}

static void read_pipe(void *opaque)
{
    char byte;

    g_assert_cmpint(read(*(int *)opaque, &byte, 1), ==, 1);
    *(int *)opaque = -1;
}

static void test_fd_handler(void)
{
    int fds[2];

    g_assert_cmpint(pipe(fds), ==, 0);
    int fd = fds[0];
    qemu_set_fd_handler(fds[0], read_pipe, NULL, &fd);
    g_assert_cmpint(write(fds[1], "x", 1), ==, 1);
    while (fd >= 0) {
        main_loop_wait(false);
    }
    qemu_set_fd_handler(fds[0], NULL, NULL, NULL);
    close(fds[0]);
    close(fds[1]);
}

int main(int argc, char **argv)
{
    alarm(120);
    init_clocks(NULL);
    g_assert_null(qemu_get_aio_context());
    g_assert_cmpint(qemu_init_main_loop(NULL), ==, 0);
    ctx = aio_context_new(NULL);
    while (aio_poll(ctx, false)) {
    }
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/compat/bh-runs-once-per-poll", test_bh_runs_once_per_poll);
    g_test_add_func("/compat/bh-idle-is-no-progress", test_bh_idle_is_no_progress);
    g_test_add_func("/compat/many-deletes", test_many_deletes);
    g_test_add_func("/compat/notifier", test_notifier);
    g_test_add_func("/compat/timer", test_timer);
    g_test_add_func("/compat/main-loop-timers", test_main_loop_timers);
    g_test_add_func("/compat/as-g-source", test_as_g_source);
    g_test_add_func("/compat/main-loop-wait", test_main_loop_wait);
    g_test_add_func("/compat/bql", test_bql);
    g_test_add_func("/compat/iothread", test_iothread);
    g_test_add_func("/compat/thread-pool", test_thread_pool);
    g_test_add_func("/compat/fd-handler", test_fd_handler);
    int result = g_test_run();
    aio_context_unref(ctx);
    return result;
}
